//! What can go wrong around a training loop.

use slimtau_base::FileError;
use std::error::Error;
use std::path::PathBuf;

/// Why a stage could not go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A checkpoint or log could not be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// A checkpoint is of another run.
    #[error(
        "{}: made by {found} but this run is {expected}; use another output folder, or remove this one to start anew",
        path.display()
    )]
    OtherRun {
        /// The checkpoint.
        path: PathBuf,
        /// Stage and configuration that made it.
        found: String,
        /// Stage and configuration of this run.
        expected: String,
    },
    /// A checkpoint has made more steps than the stage has.
    #[error(
        "{}: it stands at step {found} of a stage of {total}; use another output folder, or remove this one to start anew",
        path.display()
    )]
    TooFar {
        /// The checkpoint.
        path: PathBuf,
        /// Steps that the checkpoint has made.
        found: u64,
        /// Steps of the stage.
        total: u64,
    },
    /// A loss became NaN or infinite.
    #[error(
        "stage {stage}, step {step}: the loss is {loss}; start the stage anew with a lower learning rate, a longer warm-up or clipped gradients (the checkpoint before it is kept)"
    )]
    NotFinite {
        /// The stage.
        stage: String,
        /// The step, from 0.
        step: u64,
        /// The loss.
        loss: f64,
    },
    /// The step itself failed, or reading the state after it.
    #[error(transparent)]
    Step(Box<dyn Error + Send + Sync>),
}
