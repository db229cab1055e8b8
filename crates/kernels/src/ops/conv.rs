//! Slimmable convolution as a candle operation.

#[cfg(feature = "cuda")]
use super::device::{OnGpu, Operand, for_activation};
use super::operation::{Op, Operation};
use super::values::{dense, mismatch, nhwc};
use crate::conv::{ConvShape, Epilogue, conv_backward_input, conv_backward_weight, conv_forward};
#[cfg(feature = "cuda")]
use crate::gpu;
use crate::{Error, Scratch};
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{Result, Shape, Tensor};

const OP: &str = "slim_conv2d";

/// Convolves `x` `[N, H, W, C_in]` with the leading `[C_in, out_channels]` block of every tap of
/// `weight` `[k, k, I, O]`: `k` odd, padding `k / 2`, no bias. Returns
/// `[N, ceil(H / stride), ceil(W / stride), out_channels]`.
///
/// The weight's gradient has its full shape and is zero outside the leading block.
///
/// # Errors
/// When a shape does not fit, `out_channels` is not in `1..=O`, `stride` is zero, or the tensors are
/// neither f32 in main memory nor f32 or bf16, both the same, on one GPU.
pub fn slim_conv2d(
    x: &Tensor,
    weight: &Tensor,
    out_channels: usize,
    stride: usize,
) -> Result<Tensor> {
    let (batch, height, width, in_channels) = nhwc(OP, x)?;
    let (kernel, full_in, full_out) = match *weight.dims() {
        [k, l, i, o] if k == l && k % 2 == 1 && i >= in_channels => (k, i, o),
        _ => {
            let expected = format!("the weight as [k, k, >= {in_channels}, O] with k odd");
            return Err(mismatch(OP, expected, weight));
        }
    };
    if !(1..=full_out).contains(&out_channels) {
        let (expected, got) = (format!("in 1..={full_out}"), out_channels as f64);
        return Err(Error::OutOfRange { op: OP, name: "out_channels", expected, got }.into());
    }
    if stride == 0 {
        let expected = "at least 1".into();
        return Err(Error::OutOfRange { op: OP, name: "stride", expected, got: 0.0 }.into());
    }
    let shape = ConvShape {
        batch,
        height,
        width,
        in_channels,
        out_channels,
        full_in,
        full_out,
        kernel,
        stride,
    };
    dense(OP, x)?.apply_op2(&dense(OP, weight)?, Op(Conv(shape)))
}

/// (x, weight) -> y.
struct Conv(ConvShape);

impl Operation<2> for Conv {
    const NAME: &'static str = OP;

    fn dims(&self) -> Shape {
        let Self(shape) = self;
        (shape.batch, shape.out_height(), shape.out_width(), shape.out_channels).into()
    }

    fn cpu(&self, [x, weight]: [&[f32]; 2], y: &mut [f32]) {
        conv_forward(&self.0, x, weight, y, Epilogue::None, &mut Scratch::new());
    }

    #[cfg(feature = "cuda")]
    fn gpu(&self, on: &OnGpu<'_, 2>) -> Result<CudaStorage> {
        for_activation!(on, self.on_gpu)
    }

    fn backward(&self, [x, weight]: [&Tensor; 2], grad_y: &Tensor) -> Result<[Option<Tensor>; 2]> {
        let of_input = || grad_y.apply_op2_no_bwd(weight, &Op(InputGradient(self.0)));
        let of_weight = || x.apply_op2_no_bwd(grad_y, &Op(WeightGradient(self.0)));
        Ok([
            x.track_op().then(of_input).transpose()?,
            weight.track_op().then(of_weight).transpose()?,
        ])
    }
}

#[cfg(feature = "cuda")]
impl Conv {
    fn on_gpu<T: Operand>(&self, on: &OnGpu<'_, 2>) -> Result<CudaStorage> {
        let (x, weight) = (on.argument::<T>(0)?, on.argument::<T>(1)?);
        on.write(self.0.output_len(), |y| {
            gpu::conv_forward(&on.gpu, &self.0, x.view, weight.view, y, gpu::Epilogue::None)
        })
    }
}

/// (gradient of y, weight) -> gradient of x.
struct InputGradient(ConvShape);

impl Operation<2> for InputGradient {
    const NAME: &'static str = OP;

    fn dims(&self) -> Shape {
        let ConvShape { batch, height, width, in_channels, .. } = self.0;
        (batch, height, width, in_channels).into()
    }

    fn cpu(&self, [grad_y, weight]: [&[f32]; 2], grad_x: &mut [f32]) {
        conv_backward_input(&self.0, grad_y, weight, grad_x, false, &mut Scratch::new());
    }

    #[cfg(feature = "cuda")]
    fn gpu(&self, on: &OnGpu<'_, 2>) -> Result<CudaStorage> {
        for_activation!(on, self.on_gpu)
    }
}

#[cfg(feature = "cuda")]
impl InputGradient {
    fn on_gpu<T: Operand>(&self, on: &OnGpu<'_, 2>) -> Result<CudaStorage> {
        let (grad_y, weight) = (on.argument::<T>(0)?, on.argument::<T>(1)?);
        on.write(self.0.input_len(), |grad_x| {
            gpu::conv_backward_input(&on.gpu, &self.0, grad_y.view, weight.view, grad_x, false)
        })
    }
}

/// (x, gradient of y) -> gradient of the weight.
struct WeightGradient(ConvShape);

impl Operation<2> for WeightGradient {
    const NAME: &'static str = OP;

    fn dims(&self) -> Shape {
        let ConvShape { kernel, full_in, full_out, .. } = self.0;
        (kernel, kernel, full_in, full_out).into()
    }

    fn cpu(&self, [x, grad_y]: [&[f32]; 2], grad_weight: &mut [f32]) {
        conv_backward_weight(&self.0, x, grad_y, grad_weight, &mut Scratch::new());
    }

    #[cfg(feature = "cuda")]
    fn gpu(&self, on: &OnGpu<'_, 2>) -> Result<CudaStorage> {
        for_activation!(on, self.on_gpu)
    }
}

#[cfg(feature = "cuda")]
impl WeightGradient {
    fn on_gpu<T: Operand>(&self, on: &OnGpu<'_, 2>) -> Result<CudaStorage> {
        let (x, grad_y) = (on.argument::<T>(0)?, on.argument::<T>(1)?);
        let mut scratch = gpu::Buffer::new(&on.gpu);
        on.write_gradient::<T>(self.0.weight_len(), |grad_weight| {
            gpu::conv_backward_weight(
                &on.gpu,
                &self.0,
                x.view,
                grad_y.view,
                grad_weight,
                &mut scratch,
            )
        })
    }
}
