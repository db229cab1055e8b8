//! Why a file from elsewhere cannot become a network's weights.

use super::pickle::PickleError;
use slimtau_base::FileError;
use std::path::PathBuf;

/// A file that cannot be imported, and why.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// It could not be read, or is one of ours and damaged.
    #[error(transparent)]
    File(#[from] FileError),
    /// What it holds are not the network's weights.
    #[error("{}: {problem}", path.display())]
    Contents {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: ImportProblem,
    },
}

/// What is wrong with a file that was to be imported. Names are the file's own.
#[derive(Debug, thiserror::Error)]
pub enum ImportProblem {
    /// It begins like none of the formats.
    #[error(
        "neither a safetensors file nor a PyTorch archive nor a pickle (its first bytes are {first:02x?}); .pdparams, \
         .pth, .pt and .safetensors are read"
    )]
    Format {
        /// At most eight bytes.
        first: Vec<u8>,
    },
    /// PyTorch's format before 1.6.
    #[error(
        "this is PyTorch's format of before 1.6, which is not read; load it with PyTorch and save it again: \
         torch.save(torch.load(\"old.pth\"), \"new.pth\")"
    )]
    OldTorch,
    /// The pickle in it was refused.
    #[error("{0}")]
    Pickle(#[from] PickleError),
    /// The archive is not PyTorch's, or damaged.
    #[error("{problem}")]
    Archive {
        /// What is wrong.
        problem: String,
    },
    /// The safetensors file is damaged.
    #[error("not a complete safetensors file ({problem}); it is damaged or truncated")]
    Safetensors {
        /// What its reader says.
        problem: String,
    },
    /// There is no dictionary of tensors in it.
    #[error("no dictionary of tensors in it, neither at the top nor under {}", super::state_dict::WRAPPERS.join(", "))]
    NoStateDict,
    /// A tensor that cannot be read.
    #[error("tensor `{name}` {problem}")]
    Tensor {
        /// The tensor.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Statistics under the names of both frameworks.
    #[error(
        "`{paddle}` is named as by Paddle, `{torch}` as by PyTorch; it is unclear whose classifier this is"
    )]
    Mixed {
        /// The first in Paddle's manner.
        paddle: String,
        /// The first in PyTorch's manner.
        torch: String,
    },
    /// Names that mean nothing in the network.
    #[error("the network has no place for `{first}`{}: {why}", others(*more))]
    Unknown {
        /// The first of them.
        first: String,
        /// How many more there are.
        more: usize,
        /// What the network would have.
        why: String,
    },
    /// Tensors of the network that the file lacks.
    #[error("tensor `{first}` is missing, and {missing} of {total} in all")]
    Missing {
        /// The first of them, by the network's name.
        first: String,
        /// How many are missing.
        missing: usize,
        /// How many the network has.
        total: usize,
    },
    /// Two names that mean the same tensor.
    #[error("`{first}` and `{second}` both mean `{target}`")]
    Twice {
        /// One of them.
        first: String,
        /// The other.
        second: String,
        /// The network's name.
        target: String,
    },
    /// A tensor of another shape, in the file's order of dimensions.
    #[error("tensor `{name}` has shape {got:?}, expected {expected:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// The network's.
        expected: Vec<usize>,
        /// The file's.
        got: Vec<usize>,
    },
}

fn others(more: usize) -> String {
    if more == 0 { String::new() } else { format!(" and {more} more") }
}
