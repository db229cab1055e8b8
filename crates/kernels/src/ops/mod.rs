//! The kernels as candle operations with gradients, for models that use candle's autograd.
//!
//! Activations are NHWC, every element is f32 in main memory, and a weight may be wider than the
//! activation: its leading channels are used, and its gradient, of the full shape, is zero elsewhere.
//! Bad shapes are errors ([`crate::Error`], wrapped in candle's), never panics. The operations run on
//! the calling thread's rayon pool and give the same bits whatever its size.

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
