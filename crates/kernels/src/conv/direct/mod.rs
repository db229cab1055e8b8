//! Any kernel and any stride, by implicit matrix product: blocks of pixels are gathered into rows
//! `[taps * channels]` that stay in cache, and multiplied with the weight as a
//! `[taps * channels, columns]` matrix.
//!
//! The data gradient is the same on each class of input positions that agree modulo the stride:
//! those of one class read the output gradient at consecutive positions, through the taps that hit
//! an output at all. (For stride 2 and a 3 x 3 kernel: 1, 2, 2 and 4 taps.)

mod gather;
mod pixels;
mod weight_gradient;

pub(super) use pixels::{backward_input, forward};
pub(super) use weight_gradient::weight_gradient;

/// In one dimension, the taps that a row gathers: for `i < count` the weight's tap `first_tap + i *
/// tap_step` at source position `step * row + offset + i`.
#[derive(Clone, Copy)]
struct Taps {
    step: usize,
    offset: isize,
    count: usize,
    first_tap: usize,
    tap_step: isize,
}

impl Taps {
    /// Those of an output position.
    fn forward(kernel: usize, stride: usize) -> Self {
        Self {
            step: stride,
            offset: -((kernel / 2) as isize),
            count: kernel,
            first_tap: 0,
            tap_step: 1,
        }
    }

    /// Those of the input positions `stride * row + class`. Output `y` reads input
    /// `y * stride + tap - padding`, so that position is read by output
    /// `row + (class + padding - tap) / stride` through every tap for which that is whole.
    fn backward(kernel: usize, stride: usize, class: usize) -> Self {
        let shifted = class + kernel / 2;
        let least = shifted % stride;
        let count = if least < kernel { (kernel - 1 - least) / stride + 1 } else { 0 };
        // The last of them reads the first position.
        let last = least + count.saturating_sub(1) * stride;
        Self {
            step: 1,
            offset: (shifted as isize - last as isize) / stride as isize,
            count,
            first_tap: last,
            tap_step: -(stride as isize),
        }
    }

    fn tap(&self, i: usize) -> usize {
        self.first_tap.wrapping_add_signed(i as isize * self.tap_step)
    }
}

/// A dense map `[batch][height][width][channels]`.
#[derive(Clone, Copy)]
struct Map {
    batch: usize,
    height: usize,
    width: usize,
    channels: usize,
}
