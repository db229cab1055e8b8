//! The losses as candle operations. Each computes its gradient along with its value, so that the
//! backward pass is one multiplication.

#[cfg(feature = "cuda")]
use super::device::OnGpu;
use super::operation::{Op, Operation};
use super::values::{dense_f32, mismatch};
#[cfg(feature = "cuda")]
use crate::gpu::{self, Buffer};
use crate::loss::{self, Target};
use crate::{Error, Scratch};
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{DType, Result, Shape, Tensor};

const HARD: &str = "cross_entropy";
const SOFT: &str = "soft_cross_entropy";
const INFO_NCE: &str = "info_nce";

/// The loss of `x` as a function of `x`, from what one of the operations below gave: the gradient, then the value.
fn loss_of(x: &Tensor, gradient_and_value: &Tensor) -> Result<Tensor> {
    let len = x.elem_count();
    let gradient = gradient_and_value.narrow(0, 0, len)?.reshape(x.shape())?;
    x.apply_op2(&gradient_and_value.get(len)?, Op(Loss { gradient }))
}

/// (x, the loss of x) -> the loss.
struct Loss {
    gradient: Tensor,
}

impl Operation<2> for Loss {
    const NAME: &'static str = "loss";

    fn dims(&self) -> Shape {
        ().into()
    }

    fn cpu(&self, [_, value]: [&[f32]; 2], loss: &mut [f32]) {
        loss.copy_from_slice(value);
    }

    #[cfg(feature = "cuda")]
    fn gpu(&self, on: &OnGpu<'_, 2>) -> Result<CudaStorage> {
        let value = on.argument::<f32>(1)?;
        on.write(1, |mut loss| loss.copy_from(value.view))
    }

    fn backward(&self, _: [&Tensor; 2], grad: &Tensor) -> Result<[Option<Tensor>; 2]> {
        Ok([Some(self.gradient.broadcast_mul(grad)?), None])
    }
}

/// Rows and columns of a non-empty matrix.
fn matrix(op: &'static str, expected: &str, x: &Tensor) -> Result<(usize, usize)> {
    match *x.dims() {
        [rows, columns] if rows * columns > 0 => Ok((rows, columns)),
        _ => Err(mismatch(op, expected, x)),
    }
}

/// Logits -> gradient and value of their cross-entropy against one label per row.
struct Hard {
    labels: Vec<u32>,
    classes: usize,
}

impl Operation<1> for Hard {
    const NAME: &'static str = HARD;

    fn dims(&self) -> Shape {
        (self.labels.len() * self.classes + 1).into()
    }

    fn cpu(&self, [logits]: [&[f32]; 1], result: &mut [f32]) {
        let (gradient, value) = result.split_at_mut(logits.len());
        let target = Target::Hard(&self.labels);
        value[0] = loss::cross_entropy(self.classes, logits, target, 1.0, gradient) as f32;
    }

    #[cfg(feature = "cuda")]
    fn gpu(&self, on: &OnGpu<'_, 1>) -> Result<CudaStorage> {
        let mut labels = gpu::Labels::new(&on.gpu);
        labels.upload(self.classes, &self.labels).map_err(candle_core::Error::wrap)?;
        cross_entropy_on_gpu(on, self.classes, gpu::Target::Hard(&labels))
    }
}

/// (logits, probabilities) -> gradient and value of the logits' cross-entropy against them.
struct Soft {
    rows: usize,
    classes: usize,
}

impl Operation<2> for Soft {
    const NAME: &'static str = SOFT;

    fn dims(&self) -> Shape {
        (self.rows * self.classes + 1).into()
    }

    fn cpu(&self, [logits, probabilities]: [&[f32]; 2], result: &mut [f32]) {
        let (gradient, value) = result.split_at_mut(logits.len());
        let target = Target::Soft(probabilities);
        value[0] = loss::cross_entropy(self.classes, logits, target, 1.0, gradient) as f32;
    }

    #[cfg(feature = "cuda")]
    fn gpu(&self, on: &OnGpu<'_, 2>) -> Result<CudaStorage> {
        let probabilities = on.argument(1)?;
        cross_entropy_on_gpu(on, self.classes, gpu::Target::Soft(probabilities.view))
    }
}

#[cfg(feature = "cuda")]
fn cross_entropy_on_gpu<const N: usize>(
    on: &OnGpu<'_, N>,
    classes: usize,
    target: gpu::Target<'_>,
) -> Result<CudaStorage> {
    let logits = on.argument(0)?;
    let len = logits.view.len();
    let mut losses = Buffer::new(&on.gpu);
    on.write(len + 1, |result| {
        let (mut gradient, value) = result.split_at(len);
        gradient.clear()?; // is added to
        let mut losses = losses.reserve(len / classes)?;
        gpu::cross_entropy(
            &on.gpu,
            classes,
            logits.view,
            target,
            1.0,
            gradient,
            losses.reborrow(),
        )?;
        gpu::mean(&on.gpu, losses.view(), value)
    })
}

/// The mean cross-entropy of `logits` `[N, classes]` against `labels` `[N]` (u32): a scalar.
///
/// Labels are checked in main memory and belong there: those on a GPU are copied, after all work before.
///
/// # Errors
/// When a shape does not fit, a label is not below the number of classes, the labels are not u32, or
/// the logits are not f32 in main memory or on a GPU.
pub fn cross_entropy(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    let (rows, classes) = matrix(HARD, "the logits as [N >= 1, classes >= 1]", logits)?;
    if labels.dims() != [rows] {
        return Err(mismatch(HARD, format!("the labels as [{rows}]"), labels));
    }
    if labels.dtype() != DType::U32 {
        let (expected, got) = (DType::U32, labels.dtype());
        return Err(Error::ElementType { op: HARD, expected, got }.into());
    }
    let labels = labels.to_vec1::<u32>()?;
    if let Some(&label) = labels.iter().find(|&&label| label as usize >= classes) {
        let (expected, got) = (format!("below {classes}, the number of classes"), label.into());
        return Err(Error::OutOfRange { op: HARD, name: "label", expected, got }.into());
    }
    let logits = dense_f32(HARD, logits)?;
    loss_of(&logits, &logits.apply_op1_no_bwd(&Op(Hard { labels, classes }))?)
}

/// The mean cross-entropy of `logits` `[N, classes]` against `probabilities` of the same shape, which
/// are taken as constants: a scalar.
///
/// # Errors
/// When the shapes differ or are not matrices, or a tensor is not f32 in main memory or on a GPU.
pub fn soft_cross_entropy(logits: &Tensor, probabilities: &Tensor) -> Result<Tensor> {
    let (rows, classes) = matrix(SOFT, "the logits as [N >= 1, classes >= 1]", logits)?;
    if probabilities.dims() != logits.dims() {
        let expected = format!("the probabilities as {:?}", logits.dims());
        return Err(mismatch(SOFT, expected, probabilities));
    }
    let (logits, probabilities) = (dense_f32(SOFT, logits)?, dense_f32(SOFT, probabilities)?);
    loss_of(&logits, &logits.apply_op2_no_bwd(&probabilities, &Op(Soft { rows, classes }))?)
}

/// What [`info_nce`] returns.
#[derive(Clone, Debug)]
pub struct InfoNce {
    /// The mean loss, a scalar.
    pub loss: Tensor,
    /// The share of queries whose own key scores highest.
    pub top1: f64,
}

/// MoCo's contrastive loss (He et al. 2020, equation 1) of the queries `q` `[N, dim]` against their
/// keys `k` `[N, dim]` and the negatives `queue` `[length, dim]`, all L2-normalised. Only `q` receives
/// a gradient. On a GPU this waits for [`InfoNce::top1`], and with it for all work before.
///
/// # Errors
/// When a shape does not fit, the temperature is not positive, or a tensor is not f32 in main memory or on a GPU.
pub fn info_nce(q: &Tensor, k: &Tensor, queue: &Tensor, temperature: f32) -> Result<InfoNce> {
    let (rows, dim) = matrix(INFO_NCE, "the queries as [N >= 1, dim >= 1]", q)?;
    if k.dims() != q.dims() {
        return Err(mismatch(INFO_NCE, format!("the keys as {:?}", q.dims()), k));
    }
    if queue.rank() != 2 || queue.dims()[1] != dim {
        return Err(mismatch(INFO_NCE, format!("the queue as [length, {dim}]"), queue));
    }
    if temperature.is_nan() || temperature <= 0.0 {
        let (name, expected, got) = ("temperature", "positive".into(), temperature.into());
        return Err(Error::OutOfRange { op: INFO_NCE, name, expected, got }.into());
    }
    let [q, k, queue] =
        [dense_f32(INFO_NCE, q)?, dense_f32(INFO_NCE, k)?, dense_f32(INFO_NCE, queue)?];
    let result = q.apply_op3_no_bwd(&k, &queue, &Op(Contrast { rows, dim, temperature }))?;
    // A copy of the one number, as `to_scalar` brings all of a GPU's storage.
    let top1 = result.get(q.elem_count() + 1)?.force_contiguous()?.to_scalar::<f32>()?;
    // The share is of whole rows: rounding gives back what f32 lost, up to 2^23 of them.
    let hits = (f64::from(top1) * rows as f64).round();
    Ok(InfoNce { loss: loss_of(&q, &result)?, top1: hits / rows as f64 })
}

/// (q, k, queue) -> gradient of q, the loss, and the share of rows whose own key scores highest.
struct Contrast {
    rows: usize,
    dim: usize,
    temperature: f32,
}

impl Operation<3> for Contrast {
    const NAME: &'static str = INFO_NCE;

    fn dims(&self) -> Shape {
        (self.rows * self.dim + 2).into()
    }

    fn cpu(&self, [q, k, queue]: [&[f32]; 3], result: &mut [f32]) {
        let Self { dim, temperature, .. } = *self;
        let (gradient, rest) = result.split_at_mut(q.len());
        let (loss, top1) =
            loss::info_nce(dim, temperature, q, k, queue, gradient, &mut Scratch::new());
        rest.copy_from_slice(&[loss as f32, top1 as f32]);
    }

    #[cfg(feature = "cuda")]
    fn gpu(&self, on: &OnGpu<'_, 3>) -> Result<CudaStorage> {
        let (q, k, queue) = (on.argument(0)?, on.argument(1)?, on.argument(2)?);
        let mut memory = gpu::InfoNceMemory::new(&on.gpu);
        on.write(q.view.len() + 2, |result| {
            let (gradient, rest) = result.split_at(q.view.len());
            let (loss, top1) = rest.split_at(1);
            gpu::info_nce(
                &on.gpu,
                self.dim,
                self.temperature,
                q.view,
                k.view,
                queue.view,
                gradient,
                loss,
                top1,
                &mut memory,
            )
        })
    }
}
