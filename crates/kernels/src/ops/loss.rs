//! The losses as candle operations. Each computes its gradient along with its value, so that the
//! backward pass is one multiplication.

use super::values::{Values, dense, mismatch};
use crate::loss::{self, Target};
use crate::{Error, Scratch};
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor};

const HARD: &str = "cross_entropy";
const SOFT: &str = "soft_cross_entropy";
const INFO_NCE: &str = "info_nce";

/// A scalar whose gradient is known already.
struct Loss {
    op: &'static str,
    value: f64,
    gradient: Tensor,
}

impl CustomOp1 for Loss {
    fn name(&self) -> &'static str {
        self.op
    }

    fn cpu_fwd(&self, _x: &CpuStorage, _layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![self.value as f32]), Shape::from(())))
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.gradient.broadcast_mul(grad)?))
    }
}

/// Rows and columns of a non-empty matrix.
fn matrix(op: &'static str, expected: &str, x: &Tensor) -> Result<(usize, usize)> {
    match *x.dims() {
        [rows, columns] if rows * columns > 0 => Ok((rows, columns)),
        _ => Err(mismatch(op, expected, x)),
    }
}

fn with_target(
    op: &'static str,
    logits: &Tensor,
    classes: usize,
    target: Target<'_>,
) -> Result<Tensor> {
    let logits = dense(op, logits)?;
    let mut gradient = vec![0.0; logits.elem_count()];
    let values = Values::of(op, &logits)?;
    let value = loss::cross_entropy(classes, &values, target, 1.0, &mut gradient);
    drop(values);
    let gradient = Tensor::from_vec(gradient, logits.shape(), logits.device())?;
    logits.apply_op1(Loss { op, value, gradient })
}

/// The mean cross-entropy of `logits` `[N, classes]` against `labels` `[N]` (u32): a scalar.
///
/// # Errors
/// When a shape does not fit, a label is not below the number of classes, the labels are not u32, or
/// the logits are not f32 in main memory.
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
    with_target(HARD, logits, classes, Target::Hard(&labels))
}

/// The mean cross-entropy of `logits` `[N, classes]` against `probabilities` of the same shape, which
/// are taken as constants: a scalar.
///
/// # Errors
/// When the shapes differ or are not matrices, or a tensor is not f32 in main memory.
pub fn soft_cross_entropy(logits: &Tensor, probabilities: &Tensor) -> Result<Tensor> {
    let (_, classes) = matrix(SOFT, "the logits as [N >= 1, classes >= 1]", logits)?;
    if probabilities.dims() != logits.dims() {
        let expected = format!("the probabilities as {:?}", logits.dims());
        return Err(mismatch(SOFT, expected, probabilities));
    }
    let target = dense(SOFT, probabilities)?;
    with_target(SOFT, logits, classes, Target::Soft(&Values::of(SOFT, &target)?))
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
/// a gradient.
///
/// # Errors
/// When a shape does not fit, the temperature is not positive, or a tensor is not f32 in main memory.
pub fn info_nce(q: &Tensor, k: &Tensor, queue: &Tensor, temperature: f32) -> Result<InfoNce> {
    let (_, dim) = matrix(INFO_NCE, "the queries as [N >= 1, dim >= 1]", q)?;
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
    let (q, k, queue) = (dense(INFO_NCE, q)?, dense(INFO_NCE, k)?, dense(INFO_NCE, queue)?);
    let mut gradient = vec![0.0; q.elem_count()];
    let values = Values::of(INFO_NCE, &q)?;
    let (value, top1) = loss::info_nce(
        dim,
        temperature,
        &values,
        &Values::of(INFO_NCE, &k)?,
        &Values::of(INFO_NCE, &queue)?,
        &mut gradient,
        &mut Scratch::new(),
    );
    drop(values);
    let gradient = Tensor::from_vec(gradient, q.shape(), q.device())?;
    Ok(InfoNce { loss: q.apply_op1(Loss { op: INFO_NCE, value, gradient })?, top1 })
}
