//! Access to the floats of candle tensors, with every assumption checked.

use crate::Error;
use candle_core::{CpuStorage, DType, Layout, Result, Storage, StorageRef, Tensor};
use std::ops::{Deref, Range};

/// The floats of a contiguous f32 tensor in main memory, borrowed.
pub(super) struct Values<'a> {
    storage: StorageRef<'a>,
    range: Range<usize>,
}

impl<'a> Values<'a> {
    /// Borrows `tensor`, which [`dense`] has been applied to.
    pub(super) fn of(op: &'static str, tensor: &'a Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        let range = match &*storage {
            Storage::Cpu(cpu) => {
                let start = layout.start_offset();
                floats(op, cpu, layout)?;
                start..start + layout.shape().elem_count()
            }
            _ => return Err(Error::Device { op, got: tensor.device().location() }.into()),
        };
        Ok(Self { storage, range })
    }
}

impl Deref for Values<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(v)) => &v[self.range.clone()],
            _ => unreachable!("`of` accepted f32 storage in main memory only"),
        }
    }
}

/// A tensor with its elements in row-major order, differentiable: f32, or on a GPU also bf16.
pub(super) fn dense(op: &'static str, tensor: &Tensor) -> Result<Tensor> {
    let on_gpu = cfg!(feature = "cuda") && tensor.device().is_cuda();
    if tensor.dtype() != DType::F32 && !(on_gpu && tensor.dtype() == DType::BF16) {
        return Err(Error::ElementType { op, expected: DType::F32, got: tensor.dtype() }.into());
    }
    if !tensor.device().is_cpu() && !on_gpu {
        return Err(Error::Device { op, got: tensor.device().location() }.into());
    }
    tensor.contiguous()
}

/// The floats of an argument of a forward pass.
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
