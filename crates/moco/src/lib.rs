//! MoCo on the supernet: key queue, momentum encoder, InfoNCE step (He et al., CVPR 2020).
//!
//! Stage 1 of the method: query and key encoders start from the same weights; the query learns to
//! find its own image's key among a queue of others; the key encoder follows by momentum.
//!
//! The crate knows nothing about datasets, schedules or files: a caller hands two views and a
//! learning rate to [`Moco::step`] and takes the tensors out with [`Moco::to_file`].
#![deny(missing_docs)]

mod neck;
mod queue;
mod step;

pub use neck::{Neck, NeckMemory};
pub use queue::KeyQueue;
pub use step::{Moco, MocoConfig, MocoReport};
