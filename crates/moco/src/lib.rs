//! MoCo on the supernet: key queue, momentum encoder, InfoNCE step (He et al., CVPR 2020).
//!
//! Stage 1 of the method: query and key encoders start from the same weights; the query learns to
//! find its own image's key among a queue of others; the key encoder follows by momentum.
//!
//! The crate knows nothing about datasets, schedules or files: a caller hands two views and a
//! learning rate to [`Moco::step`] and takes the tensors out with [`Moco::to_file`].
//!
//! ```
//! use slimtau_moco::{Moco, MocoConfig};
//! use slimtau_space::SearchSpace;
//! use slimtau_supernet::{BnMode, Layout, Plan, Weights};
//! use slimtau_train::Sgd;
//!
//! let space = SearchSpace::preset("tiny")?;
//! let layout = Layout::supernet(&space)?;
//! let plan = Plan::subnet(&space, &layout, &space.smallest())?;
//! let config = MocoConfig {
//!     queue: 64, dim: 16, key_momentum: 0.999, key_updates: 1, key_groups: 1,
//!     bn: BnMode::Tracked, bn_momentum: 0.1,
//!     sgd: Sgd { momentum: 0.9, weight_decay: 1e-4, nesterov: false },
//!     seed: 0,
//! };
//! let mut moco = Moco::new(config, layout.clone(), Weights::init(&layout, 0));
//! let views = [vec![0.1; 2 * plan.image_len()], vec![0.2; 2 * plan.image_len()]];
//! let report = moco.step(0, 8e-4, 0.2, &plan, [&views[0], &views[1]])?;
//! assert!(report.loss.is_finite());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![deny(missing_docs)]

#[cfg(feature = "gpu")]
mod device;
mod neck;
mod queue;
mod step;

/// The README's example, run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(feature = "gpu")]
pub use device::DeviceMoco;
pub use neck::{Neck, NeckMemory};
pub use queue::KeyQueue;
pub use step::{Moco, MocoConfig, MocoReport};
