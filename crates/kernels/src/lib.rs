//! Slimmable convolution, batch norm, pooling and losses, forward and backward, as candle custom ops.
#![deny(missing_docs)]

mod error;
mod scratch;
mod tile;

pub mod conv;
pub mod linear;
pub mod loss;
pub mod norm;
pub mod ops;
pub mod pool;

pub use error::Error;
pub use scratch::Scratch;
