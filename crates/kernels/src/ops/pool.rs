//! The poolings as candle operations.

use super::values::{Values, dense, floats, nhwc};
use crate::pool::{
    PoolShape, average_pool_backward, average_pool_forward, max_pool_backward, max_pool_forward,
};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

const MAX: &str = "max_pool";
const AVERAGE: &str = "global_average_pool";

/// The 3x3 max pool with stride 2 and padding 1 of `x` `[N, H, W, C]`:
/// `[N, ceil(H / 2), ceil(W / 2), C]`. Of equal values the first in row order gets the gradient.
///
/// # Errors
/// When `x` is not a non-empty `[N, H, W, C]` of f32 in main memory.
pub fn max_pool(x: &Tensor) -> Result<Tensor> {
    let (batch, height, width, channels) = nhwc(MAX, x)?;
    dense(MAX, x)?.apply_op1(MaxPool(PoolShape { batch, height, width, channels }))
}

struct MaxPool(PoolShape);

impl CustomOp1 for MaxPool {
    fn name(&self) -> &'static str {
        MAX
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let shape = &self.0;
        let mut y = vec![0.0; shape.output_len()];
        max_pool_forward(shape, floats(MAX, x, layout)?, &mut y, None);
        let dims = (shape.batch, shape.out_height(), shape.out_width(), shape.channels);
        Ok((CpuStorage::F32(y), dims.into()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad_y: &Tensor) -> Result<Option<Tensor>> {
        let shape = &self.0;
        // Recomputed rather than kept: cheap, and a forward pass without a backward pays nothing.
        let (mut y, mut argmax) = (vec![0.0; shape.output_len()], vec![0; shape.output_len()]);
        max_pool_forward(shape, &Values::of(MAX, x)?, &mut y, Some(&mut argmax));
        let grad_y = dense(MAX, grad_y)?;
        let mut grad_x = vec![0.0; shape.input_len()];
        max_pool_backward(shape, &argmax, &Values::of(MAX, &grad_y)?, &mut grad_x);
        Ok(Some(Tensor::from_vec(grad_x, x.shape(), x.device())?))
    }
}

/// The mean of `x` `[N, H, W, C]` over its pixels: `[N, C]`.
///
/// # Errors
/// When `x` is not a non-empty `[N, H, W, C]` of f32 in main memory.
pub fn global_average_pool(x: &Tensor) -> Result<Tensor> {
    let (batch, height, width, channels) = nhwc(AVERAGE, x)?;
    dense(AVERAGE, x)?.apply_op1(AveragePool { batch, pixels: height * width, channels })
}

struct AveragePool {
    batch: usize,
    pixels: usize,
    channels: usize,
}

impl CustomOp1 for AveragePool {
    fn name(&self) -> &'static str {
        AVERAGE
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let Self { batch, pixels, channels } = *self;
        let mut y = vec![0.0; batch * channels];
        average_pool_forward(batch, pixels, channels, floats(AVERAGE, x, layout)?, &mut y);
        Ok((CpuStorage::F32(y), (batch, channels).into()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad_y: &Tensor) -> Result<Option<Tensor>> {
        let Self { batch, pixels, channels } = *self;
        let grad_y = dense(AVERAGE, grad_y)?;
        let mut grad_x = vec![0.0; batch * pixels * channels];
        let values = Values::of(AVERAGE, &grad_y)?;
        average_pool_backward(batch, pixels, channels, &values, &mut grad_x);
        Ok(Some(Tensor::from_vec(grad_x, x.shape(), x.device())?))
    }
}
