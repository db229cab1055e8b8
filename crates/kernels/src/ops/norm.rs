//! Slimmable batch norm (+ ReLU) as a candle operation, with the statistics of the batch.

use super::values::{Values, dense, floats, mismatch};
use crate::Scratch;
use crate::norm::{Norm, batch_statistics, norm_backward, norm_forward};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

const OP: &str = "slim_batch_norm";

/// What [`slim_batch_norm`] returns.
#[derive(Clone, Debug)]
pub struct BatchNorm {
    /// The normalised activation, of the input's shape.
    pub y: Tensor,
    /// The batch's mean, `[C]`, for running statistics; carries no gradient.
    pub mean: Tensor,
    /// The batch's biased variance, `[C]`; carries no gradient.
    pub var: Tensor,
}

/// Normalises `x` `[.., C]` with the mean and variance of the batch, then scales and shifts it with
/// the leading `C` values of `gamma` and `beta` (`[>= C]` each), then, with `relu`, applies a ReLU.
///
/// # Errors
/// When a shape does not fit, `x` is empty, or a tensor is not f32 in main memory.
pub fn slim_batch_norm(x: &Tensor, gamma: &Tensor, beta: &Tensor, relu: bool) -> Result<BatchNorm> {
    let channels = match x.dims().last() {
        Some(&channels) if x.elem_count() > 0 => channels,
        _ => return Err(mismatch(OP, "x as [.., C] with no dimension zero", x)),
    };
    for (name, v) in [("gamma", gamma), ("beta", beta)] {
        if v.rank() != 1 || v.elem_count() < channels {
            return Err(mismatch(OP, format!("{name} as [>= {channels}]"), v));
        }
    }
    let (x, gamma, beta) = (dense(OP, x)?, dense(OP, gamma)?, dense(OP, beta)?);
    let (mut mean, mut var) = (vec![0.0; channels], vec![0.0; channels]);
    let values = Values::of(OP, &x)?;
    batch_statistics(channels, &values, &mut mean, &mut var, &mut Scratch::new());
    drop(values);
    Ok(BatchNorm {
        mean: Tensor::new(mean.as_slice(), x.device())?,
        var: Tensor::new(var.as_slice(), x.device())?,
        y: x.apply_op3(&gamma, &beta, Normalise { mean, var, relu })?,
    })
}

struct Normalise {
    mean: Vec<f32>,
    var: Vec<f32>,
    relu: bool,
}

impl Normalise {
    fn norm<'a>(&'a self, gamma: &'a [f32], beta: &'a [f32]) -> Norm<'a> {
        let channels = self.mean.len();
        Norm {
            channels,
            mean: &self.mean,
            var: &self.var,
            gamma: &gamma[..channels],
            beta: &beta[..channels],
            relu: self.relu,
        }
    }
}

impl CustomOp3 for Normalise {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        gamma: &CpuStorage,
        gamma_layout: &Layout,
        beta: &CpuStorage,
        beta_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gamma, beta) = (floats(OP, gamma, gamma_layout)?, floats(OP, beta, beta_layout)?);
        let x = floats(OP, x, x_layout)?;
        let mut y = vec![0.0; x.len()];
        norm_forward(&self.norm(gamma, beta), x, None, &mut y);
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        gamma: &Tensor,
        beta: &Tensor,
        _y: &Tensor,
        grad_y: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dense_grad = dense(OP, grad_y)?;
        let mut grad_x = Values::of(OP, x)?.to_vec();
        let mut grad = Values::of(OP, &dense_grad)?.to_vec();
        let (mut grad_gamma, mut grad_beta) =
            (vec![0.0; gamma.elem_count()], vec![0.0; beta.elem_count()]);
        let channels = self.mean.len();
        norm_backward(
            &self.norm(&Values::of(OP, gamma)?, &Values::of(OP, beta)?),
            true,
            &mut grad_x,
            None,
            &mut grad,
            &mut grad_gamma[..channels],
            &mut grad_beta[..channels],
            &mut Scratch::new(),
        );
        Ok((
            Some(Tensor::from_vec(grad_x, x.shape(), x.device())?),
            Some(Tensor::from_vec(grad_gamma, gamma.shape(), gamma.device())?),
            Some(Tensor::from_vec(grad_beta, beta.shape(), beta.device())?),
        ))
    }
}
