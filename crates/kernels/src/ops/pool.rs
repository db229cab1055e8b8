//! The poolings as candle operations.

#[cfg(feature = "cuda")]
use super::device::{OnGpu, Operand, for_activation};
use super::operation::{Op, Operation};
use super::values::{dense, nhwc};
#[cfg(feature = "cuda")]
use crate::gpu::{self, Buffer};
use crate::pool::{
    PoolShape, average_pool_backward, average_pool_forward, max_pool_backward, max_pool_forward,
};
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{Result, Shape, Tensor};

const MAX: &str = "max_pool";
const AVERAGE: &str = "global_average_pool";

/// The 3x3 max pool with stride 2 and padding 1 of `x` `[N, H, W, C]`:
/// `[N, ceil(H / 2), ceil(W / 2), C]`. Of equal values the first in row order gets the gradient.
///
/// # Errors
/// When `x` is not a non-empty `[N, H, W, C]`, or neither f32 in main memory nor f32 or bf16 on a GPU.
pub fn max_pool(x: &Tensor) -> Result<Tensor> {
    let (batch, height, width, channels) = nhwc(MAX, x)?;
    dense(MAX, x)?.apply_op1(Op(MaxPool(PoolShape { batch, height, width, channels })))
}

/// x -> y.
struct MaxPool(PoolShape);

impl Operation<1> for MaxPool {
    const NAME: &'static str = MAX;

    fn dims(&self) -> Shape {
        let Self(shape) = self;
        (shape.batch, shape.out_height(), shape.out_width(), shape.channels).into()
    }

    fn cpu(&self, [x]: [&[f32]; 1], y: &mut [f32]) {
        max_pool_forward(&self.0, x, y, None);
    }

    #[cfg(feature = "cuda")]
    fn gpu(&self, on: &OnGpu<'_, 1>) -> Result<CudaStorage> {
        for_activation!(on, self.on_gpu)
    }

    fn backward(&self, [x]: [&Tensor; 1], grad_y: &Tensor) -> Result<[Option<Tensor>; 1]> {
        Ok([Some(x.apply_op2_no_bwd(grad_y, &Op(MaxPoolGradient(self.0)))?)])
    }
}

#[cfg(feature = "cuda")]
impl MaxPool {
    fn on_gpu<T: Operand>(&self, on: &OnGpu<'_, 1>) -> Result<CudaStorage> {
        let x = on.argument::<T>(0)?;
        on.write(self.0.output_len(), |y| gpu::max_pool_forward(&on.gpu, &self.0, x.view, y, None))
    }
}

/// (x, gradient of y) -> gradient of x. Where the maxima are is computed again rather than kept: cheap, and a forward pass
/// without a backward pays nothing.
struct MaxPoolGradient(PoolShape);

impl Operation<2> for MaxPoolGradient {
    const NAME: &'static str = MAX;

    fn dims(&self) -> Shape {
        let PoolShape { batch, height, width, channels } = self.0;
        (batch, height, width, channels).into()
    }

    fn cpu(&self, [x, grad_y]: [&[f32]; 2], grad_x: &mut [f32]) {
        let Self(shape) = self;
        let (mut y, mut argmax) = (vec![0.0; shape.output_len()], vec![0; shape.output_len()]);
        max_pool_forward(shape, x, &mut y, Some(&mut argmax));
        max_pool_backward(shape, &argmax, grad_y, grad_x);
    }

    #[cfg(feature = "cuda")]
    fn gpu(&self, on: &OnGpu<'_, 2>) -> Result<CudaStorage> {
        for_activation!(on, self.on_gpu)
    }
}

#[cfg(feature = "cuda")]
impl MaxPoolGradient {
    fn on_gpu<T: Operand>(&self, on: &OnGpu<'_, 2>) -> Result<CudaStorage> {
        let Self(shape) = self;
        let (x, grad_y) = (on.argument::<T>(0)?, on.argument::<T>(1)?);
        let (mut y, mut argmax) = (Buffer::<T>::new(&on.gpu), Buffer::new(&on.gpu));
        on.write(shape.input_len(), |grad_x| {
            let (y, mut argmax) =
                (y.reserve(shape.output_len())?, argmax.reserve(shape.output_len())?);
            gpu::max_pool_forward(&on.gpu, shape, x.view, y, Some(argmax.reborrow()))?;
            gpu::max_pool_backward(&on.gpu, shape, argmax.view(), grad_y.view, grad_x)
        })
    }
}

/// The mean of `x` `[N, H, W, C]` over its pixels: `[N, C]`, f32 also where `x` is bf16.
///
/// # Errors
/// When `x` is not a non-empty `[N, H, W, C]`, or neither f32 in main memory nor f32 or bf16 on a GPU.
pub fn global_average_pool(x: &Tensor) -> Result<Tensor> {
    let (batch, height, width, channels) = nhwc(AVERAGE, x)?;
    let averaged = Averaged { batch, height, width, channels };
    dense(AVERAGE, x)?.apply_op1(Op(AveragePool(averaged)))
}

/// The shape of x.
#[derive(Clone, Copy)]
struct Averaged {
    batch: usize,
    height: usize,
    width: usize,
    channels: usize,
}

impl Averaged {
    fn pixels(&self) -> usize {
        self.height * self.width
    }
}

/// x -> y.
struct AveragePool(Averaged);

impl Operation<1> for AveragePool {
    const NAME: &'static str = AVERAGE;

    fn dims(&self) -> Shape {
        (self.0.batch, self.0.channels).into()
    }

    fn cpu(&self, [x]: [&[f32]; 1], y: &mut [f32]) {
        average_pool_forward(self.0.batch, self.0.pixels(), self.0.channels, x, y);
    }

    #[cfg(feature = "cuda")]
    fn gpu(&self, on: &OnGpu<'_, 1>) -> Result<CudaStorage> {
        for_activation!(on, self.on_gpu)
    }

    fn backward(&self, [x]: [&Tensor; 1], grad_y: &Tensor) -> Result<[Option<Tensor>; 1]> {
        Ok([Some(x.apply_op2_no_bwd(grad_y, &Op(AveragePoolGradient(self.0)))?)])
    }
}

#[cfg(feature = "cuda")]
impl AveragePool {
    fn on_gpu<T: Operand>(&self, on: &OnGpu<'_, 1>) -> Result<CudaStorage> {
        let Averaged { batch, channels, .. } = self.0;
        let x = on.argument::<T>(0)?;
        on.write(batch * channels, |y| {
            gpu::average_pool_forward(&on.gpu, batch, self.0.pixels(), channels, x.view, y)
        })
    }
}

/// (x, gradient of y) -> gradient of x, whose type is all that is asked of x.
struct AveragePoolGradient(Averaged);

impl Operation<2> for AveragePoolGradient {
    const NAME: &'static str = AVERAGE;

    fn dims(&self) -> Shape {
        let Averaged { batch, height, width, channels } = self.0;
        (batch, height, width, channels).into()
    }

    fn cpu(&self, [_, grad_y]: [&[f32]; 2], grad_x: &mut [f32]) {
        average_pool_backward(self.0.batch, self.0.pixels(), self.0.channels, grad_y, grad_x);
    }

    #[cfg(feature = "cuda")]
    fn gpu(&self, on: &OnGpu<'_, 2>) -> Result<CudaStorage> {
        for_activation!(on, self.on_gpu)
    }
}

#[cfg(feature = "cuda")]
impl AveragePoolGradient {
    fn on_gpu<T: Operand>(&self, on: &OnGpu<'_, 2>) -> Result<CudaStorage> {
        let Averaged { batch, channels, .. } = self.0;
        let (pixels, grad_y) = (self.0.pixels(), on.argument::<f32>(1)?);
        on.write::<T>(batch * pixels * channels, |grad_x| {
            gpu::average_pool_backward(&on.gpu, batch, pixels, channels, grad_y.view, grad_x)
        })
    }
}
