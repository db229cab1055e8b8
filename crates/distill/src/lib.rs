//! Training steps with labels: K subnets and one teacher, and stand-alone networks.
//!
//! Stage 2 of the method: every batch, each of K subnets learns from the labels and from the
//! teacher's soft labels; gradients accumulate over the K, then one update (section "CCFS +
//! distillation" of the paper). The same [`Learner`] without a teacher trains the largest network
//! (stage 0) and stand-alone subnets.
//!
//! The crate knows nothing about datasets, samplers, schedules or files.
#![deny(missing_docs)]

mod learner;
mod teacher;

pub use learner::{Learner, LearnerConfig, StepReport};
pub use teacher::Teacher;
