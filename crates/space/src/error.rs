//! What can be wrong with a space, a code or an architecture.

use slimtau_base::FileError;

/// One clear sentence about a space file, a code or an architecture, with the offending value.
#[derive(Debug, thiserror::Error)]
pub enum SpaceError {
    /// The space file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// Neither a preset nor a file.
    #[error("no search space `{name}`: neither a preset (cvpr2022, mini, tiny) nor a file")]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// The space file is not as it should be.
    #[error("{source_name}: {problem}")]
    Invalid {
        /// The file or the name of the space.
        source_name: String,
        /// What is wrong, with line and value where there are such.
        problem: String,
    },
    /// A code has another number of digits.
    #[error(
        "code `{code}` has {found} digits; this space's codes have {short}, or {long} with the image size first"
    )]
    Length {
        /// The code.
        code: String,
        /// Its number of digits.
        found: usize,
        /// Digits of the short form.
        short: usize,
        /// Digits of the long form.
        long: usize,
    },
    /// A digit is not allowed where it stands.
    #[error("code `{code}`, digit {position} ({what}): found `{found}`, allowed is {allowed}")]
    Digit {
        /// The code.
        code: String,
        /// 1-based position in the code as written.
        position: usize,
        /// What the digit means.
        what: String,
        /// What stands there.
        found: char,
        /// What may stand there.
        allowed: String,
    },
    /// A code breaks the residual ties: valid alone, no place in the weight-sharing supernet.
    #[error(
        "code `{code}` breaks a residual tie in stage {stage}, block {block}: digit {position} is {found} where {expected} is needed ({with}); \
         such a network can be trained alone but has no place in the weight-sharing supernet"
    )]
    Untied {
        /// The code (short form).
        code: String,
        /// 1-based stage.
        stage: usize,
        /// 1-based block in the stage.
        block: usize,
        /// 1-based position in the short form.
        position: usize,
        /// The output code found.
        found: u8,
        /// The output code needed.
        expected: u8,
        /// What it is tied with.
        with: String,
    },
    /// An architecture built by hand does not fit the space.
    #[error("architecture does not fit the space {space}: {problem}")]
    Arch {
        /// The space.
        space: String,
        /// What does not fit.
        problem: String,
    },
    /// Scores need one weight for the stem and one for each stage.
    #[error("{found} alphas for a stem and {stages} stages; expected {}", stages + 1)]
    Alphas {
        /// Number given.
        found: usize,
        /// Stages of the network.
        stages: usize,
    },
    /// A stage weight that cannot rank anything.
    #[error("alpha {value} is not a finite number")]
    Alpha {
        /// The weight.
        value: f64,
    },
}
