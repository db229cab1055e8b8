//! What the candle operations refuse.

/// Why an operation was not run. Candle code sees it wrapped in [`candle_core::Error`], into which it
/// converts.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor's shape does not fit the operation or the other tensors.
    #[error("{op}: expected {expected}, got a tensor of shape {got:?}")]
    ShapeMismatch {
        /// The operation.
        op: &'static str,
        /// The argument and the shape that it should have.
        expected: String,
        /// The shape that it has.
        got: Vec<usize>,
    },
    /// A tensor's element type is not one that the operation computes in: f32, and for activations on a GPU also bf16.
    #[error("{op}: expected elements of type {expected:?}, got {got:?}")]
    ElementType {
        /// The operation.
        op: &'static str,
        /// The type that it takes.
        expected: candle_core::DType,
        /// The type given.
        got: candle_core::DType,
    },
    /// The tensor is neither in main memory nor, with the feature `cuda`, on an NVIDIA GPU.
    #[error("{op}: does not run where the tensor is, on {got:?}")]
    Device {
        /// The operation.
        op: &'static str,
        /// Where the tensor is.
        got: candle_core::DeviceLocation,
    },
    /// A number is out of its range.
    #[error("{op}: {name} must be {expected}, got {got}")]
    OutOfRange {
        /// The operation.
        op: &'static str,
        /// The parameter.
        name: &'static str,
        /// Its range.
        expected: String,
        /// The value given.
        got: f64,
    },
}

impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        Self::wrap(error)
    }
}
