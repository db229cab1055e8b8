//! What can go wrong with data, with the values that were wrong.

use crate::dataset::DecodeError;
use slimtau_base::FileError;
use std::path::PathBuf;

/// A dataset, transform or loader that could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file is missing, unreadable, or does not hold what it should.
    #[error(transparent)]
    File(#[from] FileError),
    /// An image file could not be decoded.
    #[error("cannot decode image {}: {source}", path.display())]
    Decode {
        /// The image.
        path: PathBuf,
        /// What is wrong with its contents.
        source: DecodeError,
    },
    /// A folder does not hold what it should.
    #[error("{}: {problem}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A setting is outside its range.
    #[error("{setting} is {value}, expected {expected}")]
    Setting {
        /// Its name.
        setting: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        expected: String,
    },
    /// A text names no source of data.
    #[error(
        "data source `{text}`: no such folder or file, nor one of `embedded`, `auto`, `fashion-mnist[:FOLDER]`, \
         `idx:FOLDER`, `images:FOLDER`, `packed:FILE`"
    )]
    UnknownSource {
        /// The text.
        text: String,
    },
    /// A step so large that its position in the data does not fit 64 bits.
    #[error("step {step} of batches of {batch} lies beyond the 64-bit range of positions")]
    StepOutOfRange {
        /// The step.
        step: u64,
        /// The batch size.
        batch: usize,
    },
    /// A step for which no images were drawn.
    #[error(
        "step {step} has no images: they were drawn for steps {first} to {end}, the last excluded"
    )]
    StepNotDrawn {
        /// The step.
        step: u64,
        /// The first step with images.
        first: u64,
        /// The first step after them.
        end: u64,
    },
    /// A loader thread ended without a result: the dataset's code panicked.
    #[error("a loader thread panicked at step {step}")]
    WorkerPanicked {
        /// The step whose batch is missing.
        step: u64,
    },
}

impl DataError {
    /// `setting` has a `value` that is not what was `expected`.
    pub(crate) fn setting(
        setting: &'static str,
        value: impl std::fmt::Debug,
        expected: impl Into<String>,
    ) -> Self {
        Self::Setting { setting, value: format!("{value:?}"), expected: expected.into() }
    }
}
