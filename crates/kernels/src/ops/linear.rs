//! The dense layer as a candle operation.

use super::values::{Values, dense, floats, mismatch};
use crate::linear::{LinearShape, linear_backward, linear_forward};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

const OP: &str = "slim_linear";

/// `x W^T + b` for `x` `[N, I]`, the leading `I` columns of `weight` `[O, >= I]`, and `bias` `[O]`:
/// `[N, O]`. The weight's gradient has its full shape and is zero in the other columns.
///
/// # Errors
/// When a shape does not fit or a tensor is not f32 in main memory.
pub fn slim_linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let (rows, inputs) = match *x.dims() {
        [n, i] if n * i > 0 => (n, i),
        _ => return Err(mismatch(OP, "x as [N, I] with no dimension zero", x)),
    };
    let (outputs, full_inputs) = match *weight.dims() {
        [o, f] if o > 0 && f >= inputs => (o, f),
        _ => return Err(mismatch(OP, format!("the weight as [O, >= {inputs}]"), weight)),
    };
    if bias.dims() != [outputs] {
        return Err(mismatch(OP, format!("the bias as [{outputs}]"), bias));
    }
    let shape = LinearShape { rows, inputs, outputs, full_inputs };
    dense(OP, x)?.apply_op3(&dense(OP, weight)?, &dense(OP, bias)?, Linear(shape))
}

struct Linear(LinearShape);

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let shape = &self.0;
        let mut y = vec![0.0; shape.rows * shape.outputs];
        linear_forward(
            shape,
            floats(OP, x, x_layout)?,
            floats(OP, weight, weight_layout)?,
            floats(OP, bias, bias_layout)?,
            &mut y,
        );
        Ok((CpuStorage::F32(y), (shape.rows, shape.outputs).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _y: &Tensor,
        grad_y: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad_y = dense(OP, grad_y)?;
        let mut grad_x = x.track_op().then(|| vec![0.0; x.elem_count()]);
        let mut grad_weight = vec![0.0; weight.elem_count()];
        let mut grad_bias = vec![0.0; bias.elem_count()];
        linear_backward(
            &self.0,
            &Values::of(OP, x)?,
            &Values::of(OP, weight)?,
            &Values::of(OP, &grad_y)?,
            grad_x.as_deref_mut(),
            &mut grad_weight,
            &mut grad_bias,
        );
        Ok((
            grad_x.map(|g| Tensor::from_vec(g, x.shape(), x.device())).transpose()?,
            Some(Tensor::from_vec(grad_weight, weight.shape(), weight.device())?),
            Some(Tensor::from_vec(grad_bias, bias.shape(), bias.device())?),
        ))
    }
}
