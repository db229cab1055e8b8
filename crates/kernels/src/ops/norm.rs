//! Slimmable batch norm (+ ReLU) as a candle operation, with the statistics of the batch.

#[cfg(feature = "cuda")]
use super::device::{OnGpu, Operand, for_activation};
use super::operation::{Op, Operation};
use super::values::{dense, dense_f32, mismatch};
use crate::Scratch;
#[cfg(feature = "cuda")]
use crate::gpu::{self, Buffer, View};
use crate::norm::{Norm, batch_statistics, norm_backward, norm_forward};
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::op::BackpropOp;
use candle_core::{CpuStorage, Result, Shape, Storage, Tensor};
use std::sync::OnceLock;

const OP: &str = "slim_batch_norm";

/// What [`slim_batch_norm`] returns.
#[derive(Clone, Debug)]
pub struct BatchNorm {
    /// The normalised activation, of the input's shape and type.
    pub y: Tensor,
    /// The batch's mean, `[C]`, f32, for running statistics; carries no gradient.
    pub mean: Tensor,
    /// The batch's biased variance, `[C]`, f32; carries no gradient.
    pub var: Tensor,
}

/// Normalises `x` `[.., C]` with the mean and variance of the batch, then scales and shifts it with
/// the leading `C` values of `gamma` and `beta` (`[>= C]` each), then, with `relu`, applies a ReLU.
///
/// # Errors
/// When a shape does not fit, `x` is empty or neither f32 in main memory nor f32 or bf16 on a GPU, or `gamma` or `beta` is
/// not f32 on the same device.
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
    let x = dense(OP, x)?;
    let leading = |v: &Tensor| dense_f32(OP, v)?.narrow(0, 0, channels)?.unsqueeze(0);
    let (gamma, beta) = (leading(gamma)?, leading(beta)?);
    let statistics = x.apply_op1_no_bwd(&Op(Statistics { channels }))?;
    let parameters = Tensor::cat(&[&statistics, &gamma, &beta], 0)?;
    let shape = x.shape().clone();
    Ok(BatchNorm {
        y: x.apply_op2(&parameters, Op(Normalise { shape, channels, relu }))?,
        mean: statistics.get(0)?,
        var: statistics.get(1)?,
    })
}

/// x -> mean and variance, `[2, C]`.
struct Statistics {
    channels: usize,
}

impl Operation<1> for Statistics {
    const NAME: &'static str = OP;

    fn dims(&self) -> Shape {
        (2, self.channels).into()
    }

    fn cpu(&self, [x]: [&[f32]; 1], statistics: &mut [f32]) {
        let (mean, var) = statistics.split_at_mut(self.channels);
        batch_statistics(self.channels, x, mean, var, &mut Scratch::new());
    }

    #[cfg(feature = "cuda")]
    fn gpu(&self, on: &OnGpu<'_, 1>) -> Result<CudaStorage> {
        for_activation!(on, self.on_gpu)
    }
}

#[cfg(feature = "cuda")]
impl Statistics {
    fn on_gpu<T: Operand>(&self, on: &OnGpu<'_, 1>) -> Result<CudaStorage> {
        let x = on.argument::<T>(0)?;
        let mut scratch = Buffer::new(&on.gpu);
        on.write(2 * self.channels, |statistics| {
            let (mean, var) = statistics.split_at(self.channels);
            gpu::batch_statistics(&on.gpu, self.channels, x.view, mean, var, None, &mut scratch)
        })
    }
}

/// (x, parameters) -> y. Candle's operations have three arguments at most, so the vectors of a norm are the rows of one,
/// `[4, C]`: mean, variance, gamma and beta.
#[derive(Clone)]
struct Normalise {
    /// Of x and y.
    shape: Shape,
    channels: usize,
    relu: bool,
}

impl Normalise {
    fn norm<'a>(&self, parameters: &'a [f32]) -> Norm<'a> {
        let channels = self.channels;
        let (statistics, affine) = parameters.split_at(2 * channels);
        let ((mean, var), (gamma, beta)) =
            (statistics.split_at(channels), affine.split_at(channels));
        Norm { channels, mean, var, gamma, beta, relu: self.relu }
    }
}

impl Operation<2> for Normalise {
    const NAME: &'static str = OP;

    fn dims(&self) -> Shape {
        self.shape.clone()
    }

    fn cpu(&self, [x, parameters]: [&[f32]; 2], y: &mut [f32]) {
        norm_forward(&self.norm(parameters), x, None, y);
    }

    #[cfg(feature = "cuda")]
    fn gpu(&self, on: &OnGpu<'_, 2>) -> Result<CudaStorage> {
        for_activation!(on, self.on_gpu)
    }

    fn backward(
        &self,
        [x, parameters]: [&Tensor; 2],
        grad_y: &Tensor,
    ) -> Result<[Option<Tensor>; 2]> {
        let gradients = Op(Gradients { of: self.clone(), parameters: OnceLock::new() });
        let of_x = x.apply_op3_no_bwd(parameters, grad_y, &gradients)?;
        let of_parameters = gradients.0.parameters.into_inner().map(|storage| {
            Tensor::from_storage(storage, parameters.shape(), BackpropOp::none(), false)
        });
        Ok([Some(of_x), of_parameters])
    }
}

#[cfg(feature = "cuda")]
impl Normalise {
    fn gpu_norm<'a>(&self, parameters: View<'a, f32>) -> gpu::Norm<'a> {
        let channels = self.channels;
        let row = |i: usize| parameters.range(i * channels..(i + 1) * channels);
        let [mean, var, gamma, beta] = [row(0), row(1), row(2), row(3)];
        gpu::Norm { channels, mean, var, gamma, beta, relu: self.relu }
    }

    fn on_gpu<T: Operand>(&self, on: &OnGpu<'_, 2>) -> Result<CudaStorage> {
        let (x, parameters) = (on.argument::<T>(0)?, on.argument(1)?);
        on.write(x.view.len(), |y| {
            gpu::norm_forward(&on.gpu, &self.gpu_norm(parameters.view), x.view, None, y)
        })
    }
}

/// (x, parameters, gradient of y) -> gradient of x, through the statistics. The same passes over x and the gradient give
/// that of the parameters, which may be of another type and so has a place of its own.
struct Gradients {
    of: Normalise,
    /// `[4, C]`, once the operation has run: zero for the statistics, then gamma's and beta's.
    parameters: OnceLock<Storage>,
}

impl Operation<3> for Gradients {
    const NAME: &'static str = OP;

    fn dims(&self) -> Shape {
        self.of.dims()
    }

    fn cpu(&self, [x, parameters, grad_y]: [&[f32]; 3], grad_x: &mut [f32]) {
        let channels = self.of.channels;
        let mut grad_parameters = vec![0.0; 4 * channels];
        let (grad_gamma, grad_beta) = grad_parameters[2 * channels..].split_at_mut(channels);
        grad_x.copy_from_slice(x);
        norm_backward(
            &self.of.norm(parameters),
            true,
            grad_x,
            None,
            &mut grad_y.to_vec(),
            grad_gamma,
            grad_beta,
            &mut Scratch::new(),
        );
        let _ = self.parameters.set(Storage::Cpu(CpuStorage::F32(grad_parameters)));
    }

    #[cfg(feature = "cuda")]
    fn gpu(&self, on: &OnGpu<'_, 3>) -> Result<CudaStorage> {
        for_activation!(on, self.on_gpu)
    }
}

#[cfg(feature = "cuda")]
impl Gradients {
    fn on_gpu<T: Operand>(&self, on: &OnGpu<'_, 3>) -> Result<CudaStorage> {
        let channels = self.of.channels;
        let (x, parameters, grad_y) = (on.argument::<T>(0)?, on.argument(1)?, on.argument::<T>(2)?);
        let (len, norm) = (x.view.len(), self.of.gpu_norm(parameters.view));
        let (mut grad, mut scratch) = (Buffer::new(&on.gpu), Buffer::new(&on.gpu));
        let mut sums = Buffer::zeros(&on.gpu, 4 * channels).map_err(candle_core::Error::wrap)?;
        let of_x = on.write(len, |mut grad_x| {
            grad_x.copy_from(x.view)?;
            let mut grad = grad.reserve(len)?;
            grad.copy_from(grad_y.view)?;
            let (_, of_affine) = sums.view_mut().split_at(2 * channels);
            let (grad_gamma, grad_beta) = of_affine.split_at(channels);
            gpu::norm_backward(
                &on.gpu,
                &norm,
                true,
                grad_x,
                None,
                grad,
                grad_gamma,
                grad_beta,
                &mut scratch,
            )
        })?;
        let of_parameters = on.write(4 * channels, |mut to| to.copy_from(sums.view()))?;
        let _ = self.parameters.set(Storage::Cuda(of_parameters));
        Ok(of_x)
    }
}
