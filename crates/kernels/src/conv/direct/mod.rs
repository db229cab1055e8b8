//! Any kernel and any stride, by matrix products that read pixels where they are.
//!
//! A block of the source map is copied once into a strip with a border of zeros (or read in place
//! where no tap leaves the map). Pixel `p` of the destination then reads tap and channel `k` at
//! `p`'s place in the strip plus `k`'s offset, which is what the product's left operand is: forward,
//! its rows are pixels and its sum runs over taps and channels, with the weight as a
//! `[taps * channels, columns]` matrix on the right; in the weight gradient, rows are taps and channels,
//! and the sum runs over pixels, with the output's gradient on the right.
//!
//! The data gradient is the forward pass on each class of input positions that agree modulo the
//! stride: those of one class read the output gradient at consecutive positions, through the taps
//! that hit an output at all. (For stride 2 and a 3 x 3 kernel: 1, 2, 2 and 4 taps.)

mod geometry;
mod operands;
mod pixels;
mod weight_gradient;

pub(super) use pixels::{backward_input, forward};
pub(super) use weight_gradient::weight_gradient;
