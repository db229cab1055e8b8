//! The kernels as candle operations with gradients, for models that use candle's autograd.
//!
//! Activations are NHWC, and a weight may be wider than the activation: its leading channels are used, and its gradient,
//! of the full shape, is zero elsewhere. Bad shapes are errors ([`crate::Error`], wrapped in candle's), never panics.
//!
//! An operation and its gradients run where its tensors are, which is one device for all of them:
//!
//! - In main memory: every element is f32. The operations run on the calling thread's rayon pool and give the same bits
//!   whatever its size.
//! - With the feature `cuda`, on an NVIDIA GPU: the kernels of module `gpu`, queued in candle's stream; only what says so
//!   waits for them. Activations, and the weights of convolutions with them, are f32 or bf16, with gradients of the same
//!   type. Everything else is f32: the norm's parameters and statistics, pooled features, the dense layer, losses.
//!
//! Gradients are constants: there are none of second order.

mod conv;
#[cfg(feature = "cuda")]
mod device;
mod linear;
mod loss;
mod norm;
mod operation;
mod pool;
mod values;

pub use conv::slim_conv2d;
pub use linear::slim_linear;
pub use loss::{InfoNce, cross_entropy, info_nce, soft_cross_entropy};
pub use norm::{BatchNorm, slim_batch_norm};
pub use pool::{global_average_pool, max_pool};
