//! The dense layer as a candle operation.

#[cfg(feature = "cuda")]
use super::device::OnGpu;
use super::operation::{Op, Operation};
use super::values::{dense_f32, mismatch};
#[cfg(feature = "cuda")]
use crate::gpu::{self, Buffer};
use crate::linear::{LinearShape, linear_backward, linear_forward};
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{Result, Shape, Tensor};

const OP: &str = "slim_linear";

/// `x W^T + b` for `x` `[N, I]`, the leading `I` columns of `weight` `[O, >= I]`, and `bias` `[O]`:
/// `[N, O]`. The weight's gradient has its full shape and is zero in the other columns.
///
/// # Errors
/// When a shape does not fit, or a tensor is not f32 in main memory or on a GPU.
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
    let (x, weight, bias) = (dense_f32(OP, x)?, dense_f32(OP, weight)?, dense_f32(OP, bias)?);
    x.apply_op3(&weight, &bias, Op(Linear(shape)))
}

/// (x, weight, bias) -> y.
struct Linear(LinearShape);

impl Operation<3> for Linear {
    const NAME: &'static str = OP;

    fn dims(&self) -> Shape {
        (self.0.rows, self.0.outputs).into()
    }

    fn cpu(&self, [x, weight, bias]: [&[f32]; 3], y: &mut [f32]) {
        linear_forward(&self.0, x, weight, bias, y);
    }

    #[cfg(feature = "cuda")]
    fn gpu(&self, on: &OnGpu<'_, 3>) -> Result<CudaStorage> {
        let (x, weight, bias) = (on.argument(0)?, on.argument(1)?, on.argument(2)?);
        on.write(self.0.rows * self.0.outputs, |y| {
            gpu::linear_forward(&on.gpu, &self.0, x.view, weight.view, bias.view, y)
        })
    }

    fn backward(
        &self,
        [x, weight, bias]: [&Tensor; 3],
        grad_y: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let gradients = Gradients { shape: self.0, of_x: x.track_op() };
        let [of_x, of_weight, of_bias] = gradients.lengths();
        let all = x.apply_op3_no_bwd(weight, grad_y, &Op(gradients))?;
        let part = |start: usize, len: usize, like: &Tensor| {
            (len > 0).then(|| all.narrow(0, start, len)?.reshape(like.shape())).transpose()
        };
        Ok([
            part(0, of_x, x)?,
            part(of_x, of_weight, weight)?,
            part(of_x + of_weight, of_bias, bias)?,
        ])
    }
}

/// (x, weight, gradient of y) -> gradients of x, of the weight and of the bias, one after the other.
struct Gradients {
    shape: LinearShape,
    /// Whether x is no constant; else its gradient is left out.
    of_x: bool,
}

impl Gradients {
    fn lengths(&self) -> [usize; 3] {
        let LinearShape { rows, inputs, outputs, full_inputs } = self.shape;
        [if self.of_x { rows * inputs } else { 0 }, outputs * full_inputs, outputs]
    }
}

impl Operation<3> for Gradients {
    const NAME: &'static str = OP;

    fn dims(&self) -> Shape {
        self.lengths().iter().sum::<usize>().into()
    }

    fn cpu(&self, [x, weight, grad_y]: [&[f32]; 3], gradients: &mut [f32]) {
        let [of_x, of_weight, _] = self.lengths();
        let (grad_x, parameters) = gradients.split_at_mut(of_x);
        let (grad_weight, grad_bias) = parameters.split_at_mut(of_weight);
        let grad_x = self.of_x.then_some(grad_x);
        linear_backward(&self.shape, x, weight, grad_y, grad_x, grad_weight, grad_bias);
    }

    #[cfg(feature = "cuda")]
    fn gpu(&self, on: &OnGpu<'_, 3>) -> Result<CudaStorage> {
        let [of_x, of_weight, of_bias] = self.lengths();
        let (x, weight, grad_y) = (on.argument(0)?, on.argument(1)?, on.argument(2)?);
        let mut scratch = Buffer::new(&on.gpu);
        on.write(of_x + of_weight + of_bias, |gradients| {
            let (grad_x, mut parameters) = gradients.split_at(of_x);
            parameters.clear()?; // is added to
            let (grad_weight, grad_bias) = parameters.split_at(of_weight);
            gpu::linear_backward(
                &on.gpu,
                &self.shape,
                x.view,
                weight.view,
                grad_y.view,
                self.of_x.then_some(grad_x),
                grad_weight,
                grad_bias,
                &mut scratch,
            )
        })
    }
}
