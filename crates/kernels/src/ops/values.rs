//! Checks of arguments: what they are made of, where they are, and what shape they have.

use crate::Error;
use candle_core::{CpuStorage, DType, Layout, Result, Tensor};

/// A tensor with its elements in row-major order, differentiable: f32, or on a GPU also bf16.
pub(super) fn dense(op: &'static str, tensor: &Tensor) -> Result<Tensor> {
    match tensor.dtype() {
        DType::BF16 if runs_on_gpu(tensor) => tensor.contiguous(),
        _ => dense_f32(op, tensor),
    }
}

/// As [`dense`], for what is f32 everywhere.
pub(super) fn dense_f32(op: &'static str, tensor: &Tensor) -> Result<Tensor> {
    if tensor.dtype() != DType::F32 {
        return Err(Error::ElementType { op, expected: DType::F32, got: tensor.dtype() }.into());
    }
    if !tensor.device().is_cpu() && !runs_on_gpu(tensor) {
        return Err(Error::Device { op, got: tensor.device().location() }.into());
    }
    tensor.contiguous()
}

/// Whether a tensor is on a GPU that this build has operations for.
fn runs_on_gpu(tensor: &Tensor) -> bool {
    cfg!(feature = "cuda") && tensor.device().is_cuda()
}

/// The floats of an argument in main memory.
pub(super) fn floats<'a>(
    op: &'static str,
    storage: &'a CpuStorage,
    layout: &Layout,
) -> Result<&'a [f32]> {
    let all = storage.as_slice::<f32>()?;
    let (start, end) = layout.contiguous_offsets().ok_or_else(|| Error::ShapeMismatch {
        op,
        expected: "elements in row-major order".into(),
        got: layout.dims().to_vec(),
    })?;
    Ok(&all[start..end])
}

/// The error for an argument of the wrong shape.
pub(super) fn mismatch(
    op: &'static str,
    expected: impl Into<String>,
    tensor: &Tensor,
) -> candle_core::Error {
    Error::ShapeMismatch { op, expected: expected.into(), got: tensor.dims().to_vec() }.into()
}

/// The four dimensions of an NHWC activation, none of them zero.
pub(super) fn nhwc(op: &'static str, x: &Tensor) -> Result<(usize, usize, usize, usize)> {
    match *x.dims() {
        [n, h, w, c] if n * h * w * c > 0 => Ok((n, h, w, c)),
        _ => Err(mismatch(op, "x as [N, H, W, C] with no dimension zero", x)),
    }
}
