//! Slimmable convolution, batch norm, pooling and losses, forward and backward, as functions over
//! slices and as candle custom ops.
//!
//! A slimmed layer uses the leading channels of a wider, shared weight. Activations are dense f32
//! buffers `[N, H, W, C]`; the results have the same bits on any number of threads.
//!
//! - module [`conv`]: convolution.
//! - module [`norm`]: batch norm with residual and ReLU.
//! - module [`pool`]: max pool and average pool.
//! - module [`linear`]: the dense layer.
//! - module [`loss`]: cross-entropy, InfoNCE and what the contrastive head needs.
//! - module [`ops`]: all of these as candle operations with gradients.
//! - module `gpu` (with the feature of that name): the same on NVIDIA GPUs.
//! - module [`leading`]: the leading channels of a wider map, over slices only.
//!
//! ```
//! use slimtau_kernels::Scratch;
//! use slimtau_kernels::norm::{Norm, batch_statistics, norm_forward};
//!
//! // Three rows of two channels; gamma and beta are shared vectors of four.
//! let x = [1.0, 10.0, 2.0, 20.0, 3.0, 30.0];
//! let (gamma, beta) = ([1.0; 4], [0.0; 4]);
//! let (mut mean, mut var) = ([0.0; 2], [0.0; 2]);
//! batch_statistics(2, &x, &mut mean, &mut var, &mut Scratch::new());
//! assert_eq!(mean, [2.0, 20.0]);
//!
//! let (gamma, beta) = (&gamma[..2], &beta[..2]);
//! let norm = Norm { channels: 2, mean: &mean, var: &var, gamma, beta, relu: true };
//! let mut y = [0.0; 6];
//! norm_forward(&norm, &x, None, &mut y);
//! assert!(y[0] == 0.0 && y[2] == 0.0 && (y[4] - 1.2247).abs() < 1e-3);
//! ```
#![deny(missing_docs)]

mod error;
mod product;
mod scratch;
mod tile;

pub mod conv;
#[cfg(feature = "gpu")]
pub mod gpu;
pub mod leading;
pub mod linear;
pub mod loss;
pub mod norm;
pub mod ops;
pub mod pool;

pub use error::Error;
pub use scratch::Scratch;

/// The README's examples, so that they are tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
