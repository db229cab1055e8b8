//! Training steps with labels: K subnets and one teacher, and stand-alone networks.
//!
//! Stage 2 of the method: every batch, each of K subnets learns from the labels and from the
//! teacher's soft labels; gradients accumulate over the K, then one update (section "CCFS +
//! distillation" of the paper). The same [`Learner`] without a teacher trains the largest network
//! (stage 0) and stand-alone subnets. [`Learner::step_grouped`] is the step of methods that treat
//! subnets or images unequally: a learning rate and a momentum buffer per subnet, a weight per image,
//! and the gradient norms of both.
//!
//! The crate knows nothing about datasets, samplers, schedules or files.
//!
//! ```
//! use slimtau_distill::{Learner, LearnerConfig};
//! use slimtau_space::SearchSpace;
//! use slimtau_supernet::{BnMode, Layout, Plan, Weights};
//! use slimtau_train::Sgd;
//!
//! let space = SearchSpace::preset("tiny")?;
//! let layout = Layout::supernet(&space)?;
//! let subnet = Plan::subnet(&space, &layout, &space.smallest())?;
//! let config = LearnerConfig {
//!     sgd: Sgd { momentum: 0.9, weight_decay: 1e-4, nesterov: false },
//!     bn: BnMode::Tracked, bn_momentum: 0.1, label_weight: 1.0, teacher_weight: 1.0,
//! };
//! let mut learner = Learner::new(config, layout.clone(), Weights::init(&layout, 0));
//! let images: Vec<f32> = (0..2 * subnet.image_len()).map(|i| (i as f32).sin()).collect();
//! let first = learner.step(0.01, [&subnet], &images, &[3, 7], None)?;
//! let second = learner.step(0.01, [&subnet], &images, &[3, 7], None)?;
//! assert!(second.loss < first.loss);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![deny(missing_docs)]

#[cfg(feature = "gpu")]
mod device;
mod learner;
mod teacher;

/// The README's example, run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(feature = "gpu")]
pub use device::{DeviceBatch, DeviceLearner, DeviceTeacher};
pub use learner::{GradientNorms, LabelledBatch, Learner, LearnerConfig, StepReport, SubnetTask};
pub use teacher::Teacher;
