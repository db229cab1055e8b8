//! What can go wrong between a code, a checkpoint and a network.

use slimtau_base::FileError;

/// A subnet that has no place in the network, or weights that do not fit it.
#[derive(Debug, thiserror::Error)]
pub enum SupernetError {
    /// The code is not one of the space, or breaks its residual ties.
    #[error(transparent)]
    Space(#[from] slimtau_space::SpaceError),
    /// A checkpoint could not be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The subnet needs a layer that the weights do not have, or a wider one.
    #[error("stage {stage}, block {block}: the subnet needs {needed}, the network has {available}")]
    NoPlace {
        /// Stage, counted from 1 (0 = stem or classifier).
        stage: usize,
        /// Block in the stage, counted from 1.
        block: usize,
        /// What the subnet asked for.
        needed: String,
        /// What there is.
        available: String,
    },
    /// The images do not have the shape that the network takes.
    #[error("images: expected [N, {size}, {size}, {channels}], got {got} values in all")]
    Images {
        /// Height and width.
        size: usize,
        /// Channels.
        channels: usize,
        /// Number of values given.
        got: usize,
    },
    /// The GPU failed.
    #[cfg(feature = "gpu")]
    #[error(transparent)]
    Gpu(#[from] slimtau_kernels::gpu::GpuError),
    /// A network that ONNX's one file cannot hold.
    #[error("an ONNX file of this network would have {bytes} bytes; the format ends at 2 GiB")]
    OnnxTooLarge {
        /// Its size.
        bytes: usize,
    },
}
