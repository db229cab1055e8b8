//! Slimmable convolution as a candle operation.

use super::values::{Values, dense, floats, mismatch, nhwc};
use crate::conv::{ConvShape, Epilogue, conv_backward_input, conv_backward_weight, conv_forward};
use crate::{Error, Scratch};
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

const OP: &str = "slim_conv2d";

/// Convolves `x` `[N, H, W, C_in]` with the leading `[C_in, out_channels]` block of every tap of
/// `weight` `[k, k, I, O]`: `k` odd, padding `k / 2`, no bias. Returns
/// `[N, ceil(H / stride), ceil(W / stride), out_channels]`.
///
/// The weight's gradient has its full shape and is zero outside the leading block.
///
/// # Errors
/// When a shape does not fit, `out_channels` is not in `1..=O`, `stride` is zero, or a tensor is not
/// f32 in main memory.
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
    dense(OP, x)?.apply_op2(&dense(OP, weight)?, Conv(shape))
}

struct Conv(ConvShape);

impl CustomOp2 for Conv {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let shape = &self.0;
        let (x, weight) = (floats(OP, x, x_layout)?, floats(OP, weight, weight_layout)?);
        let mut y = vec![0.0; shape.output_len()];
        conv_forward(shape, x, weight, &mut y, Epilogue::None, &mut Scratch::new());
        let dims = (shape.batch, shape.out_height(), shape.out_width(), shape.out_channels);
        Ok((CpuStorage::F32(y), dims.into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _y: &Tensor,
        grad_y: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (shape, mut scratch) = (&self.0, Scratch::new());
        let dense_grad = dense(OP, grad_y)?;
        let grad = Values::of(OP, &dense_grad)?;
        let mut grad_x = None;
        if x.track_op() {
            let mut g = vec![0.0; shape.input_len()];
            let w = Values::of(OP, weight)?;
            conv_backward_input(shape, &grad, &w, &mut g, false, &mut scratch);
            grad_x = Some(Tensor::from_vec(g, x.shape(), x.device())?);
        }
        let mut grad_weight = None;
        if weight.track_op() {
            let mut g = vec![0.0; shape.weight_len()];
            conv_backward_weight(shape, &Values::of(OP, x)?, &grad, &mut g, &mut scratch);
            grad_weight = Some(Tensor::from_vec(g, weight.shape(), weight.device())?);
        }
        Ok((grad_x, grad_weight))
    }
}
