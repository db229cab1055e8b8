//! SGD with momentum, schedules, EMA, exact checkpoints and the run log.
//!
//! A network's parameters are one flat f32 buffer, so the optimiser, EMA and checkpoints are single
//! passes over slices. The crate knows nothing about networks or datasets: a [`TrainState`] makes
//! steps, [`run_stage`] decides when to log, save, stop and resume.
//!
//! ```
//! use slimtau_train::{Schedule, ScheduleKind, Sgd};
//!
//! let sgd = Sgd { momentum: 0.9, weight_decay: 1e-4, nesterov: false };
//! let schedule = Schedule {
//!     base_lr: 0.1, warmup_steps: 5, total_steps: 100, kind: ScheduleKind::Cosine, final_lr: 0.0,
//! };
//! let (mut params, mut velocity) = (vec![1.0, 2.0], vec![0.0; 2]);
//! for step in 0..100 {
//!     let mut grads = params.clone(); // of |x|^2 / 2
//!     sgd.step(schedule.lr(step), &mut params, &mut grads, &mut velocity, &[0..2]);
//! }
//! assert!(params[0].abs() < 0.1);
//! ```
#![deny(missing_docs)]

mod checkpoint;
mod ema;
mod error;
mod gradients;
mod log;
mod schedule;
mod sgd;
mod stage;

/// The README's example, run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use checkpoint::{Checkpoint, clean_temporaries};
pub use ema::ema_update;
pub use error::TrainError;
pub use gradients::{clip_global_norm, drain_into, reduce_mean, zeros};
pub use log::{LogLine, RunLog, read_log};
pub use schedule::{Schedule, ScheduleKind};
pub use sgd::Sgd;
pub use stage::{Outcome, Progress, StageSettings, StepReport, TrainState, run_stage};
