//! One operation on whatever device its arguments are: what candle's custom operations of one, two and three
//! arguments have in common.

use super::values::floats;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

/// An operation of `N` tensors. Gradients are operations, too, so that they run where their arguments are.
pub(super) trait Operation<const N: usize>: Send + Sync {
    /// What messages call it.
    const NAME: &'static str;

    /// The result's shape.
    fn dims(&self) -> Shape;

    /// Fills `result`, which is zero, from f32 in main memory.
    fn cpu(&self, arguments: [&[f32]; N], result: &mut [f32]);

    /// The same on a GPU.
    #[cfg(feature = "cuda")]
    fn gpu(&self, on: &super::device::OnGpu<'_, N>) -> Result<candle_core::CudaStorage>;

    /// The arguments' gradients, given the result's; `None` for constants.
    fn backward(&self, arguments: [&Tensor; N], grad: &Tensor) -> Result<[Option<Tensor>; N]> {
        let _ = (arguments, grad);
        candle_core::bail!("{} has no gradient of second order", Self::NAME)
    }
}

/// An [`Operation`] as candle sees it.
pub(super) struct Op<O>(pub O);

/// The body of `cpu_fwd`.
fn on_cpu<const N: usize, O: Operation<N>>(
    operation: &O,
    arguments: [(&CpuStorage, &Layout); N],
) -> Result<(CpuStorage, Shape)> {
    let dims = operation.dims();
    let mut slices = [&[] as &[f32]; N];
    for (slice, (storage, layout)) in slices.iter_mut().zip(arguments) {
        *slice = floats(O::NAME, storage, layout)?;
    }
    let mut result = vec![0.0; dims.elem_count()];
    operation.cpu(slices, &mut result);
    Ok((CpuStorage::F32(result), dims))
}

macro_rules! custom_op {
    ($trait:ident, $n:literal, $(($storage:ident, $layout:ident, $tensor:ident, $grad:ident)),*) => {
        impl<O: Operation<$n>> $trait for Op<O> {
            fn name(&self) -> &'static str {
                O::NAME
            }

            fn cpu_fwd(&self, $($storage: &CpuStorage, $layout: &Layout),*) -> Result<(CpuStorage, Shape)> {
                on_cpu(&self.0, [$(($storage, $layout)),*])
            }

            #[cfg(feature = "cuda")]
            fn cuda_fwd(
                &self,
                $($storage: &candle_core::CudaStorage, $layout: &Layout),*
            ) -> Result<(candle_core::CudaStorage, Shape)> {
                let on = super::device::OnGpu::new(O::NAME, [$(($storage, $layout)),*])?;
                Ok((self.0.gpu(&on)?, self.0.dims()))
            }

            #[allow(unused_parens)] // one gradient is no tuple
            fn bwd(
                &self,
                $($tensor: &Tensor,)*
                _result: &Tensor,
                grad: &Tensor,
            ) -> Result<($(custom_op!(@ $grad)),*)> {
                let [$($grad),*] = self.0.backward([$($tensor),*], &super::values::dense(O::NAME, grad)?)?;
                Ok(($($grad),*))
            }
        }
    };
    (@ $grad:ident) => { Option<Tensor> };
}

custom_op!(CustomOp1, 1, (a, a_layout, a_tensor, a_grad));
custom_op!(CustomOp2, 2, (a, a_layout, a_tensor, a_grad), (b, b_layout, b_tensor, b_grad));
custom_op!(
    CustomOp3,
    3,
    (a, a_layout, a_tensor, a_grad),
    (b, b_layout, b_tensor, b_grad),
    (c, c_layout, c_tensor, c_grad)
);
