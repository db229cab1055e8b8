//! The losses of both training stages on a GPU, and the small operations of the contrastive head. See `cuda/loss.cu`.
//!
//! Scalars stay on the GPU: a function writes one number into a slot, `[1]`, that the caller reads when it wants to.

use super::GpuError;
use super::arguments::{THREADS, arguments, int};
use super::driver::{Gpu, Launch};
use super::linear::{add_products_over_rows, products};
use super::memory::{Buffer, View, ViewMut};
use crate::linear::LinearShape;

arguments! {
    /// `SoftmaxArguments`.
    struct Softmax {
        logits: u64,
        probabilities: u64,
        rows: i32,
        classes: i32,
        temperature: f32,
        unused: u32,
    }
}

arguments! {
    /// `CrossEntropyArguments`.
    struct CrossEntropy {
        logits: u64,
        labels: u64,
        target: u64,
        grad: u64,
        losses: u64,
        rows: i32,
        classes: i32,
        scale: f32,
        unused: u32,
    }
}

arguments! {
    /// `HitsArguments`.
    struct Hits {
        logits: u64,
        labels: u64,
        hits: u64,
        rows: i32,
        classes: i32,
    }
}

arguments! {
    /// `SumArguments`.
    struct Sum {
        values: u64,
        sum: u64,
        length: i64,
        factor: f64,
    }
}

arguments! {
    /// `ElementsArguments`.
    struct Elements {
        a: u64,
        b: u64,
        result: u64,
        length: i64,
    }
}

arguments! {
    /// `NormalizeArguments`.
    struct Normalize {
        x: u64,
        y: u64,
        norms: u64,
        grad_x: u64,
        rows: i32,
        dim: i32,
    }
}

arguments! {
    /// `PartsArguments`.
    struct Parts {
        logits: u64,
        parts: u64,
        keys: i32,
        queries: i32,
        factor: f32,
        unused: u32,
    }
}

arguments! {
    /// `QueriesArguments`.
    struct Queries {
        q: u64,
        k: u64,
        parts: u64,
        losses: u64,
        hits: u64,
        shifts: u64,
        weights: u64,
        grad_q: u64,
        queries: i32,
        dim: i32,
        parts_count: i32,
        temperature: f32,
    }
}

arguments! {
    /// `KeyWeightsArguments`.
    struct KeyWeights {
        logits: u64,
        shifts: u64,
        weights: u64,
        keys: i32,
        queries: i32,
        factor: f32,
        unused: u32,
    }
}

/// Threads that share a row or a key.
const WARP: usize = 32;

/// Keys of one part of the queue.
const PART: usize = 256;

/// A kernel with a warp for each row.
fn by_rows(kernel: &'static str, rows: usize) -> Launch {
    plain(kernel, rows.div_ceil(THREADS / WARP))
}

fn plain(kernel: &'static str, blocks: usize) -> Launch {
    Launch { kernel, grid: [int(blocks) as u32, 1, 1], threads: THREADS as u32, shared: 0 }
}

/// Class labels on a GPU, each known to be in range.
pub struct Labels {
    labels: Buffer<u32>,
    classes: usize,
}

impl Labels {
    /// None.
    pub fn new(gpu: &Gpu) -> Self {
        Self { labels: Buffer::new(gpu), classes: 0 }
    }

    /// Becomes a copy of `labels`.
    ///
    /// # Errors
    /// When they do not fit.
    ///
    /// # Panics
    /// When a label is not below `classes`.
    pub fn upload(&mut self, classes: usize, labels: &[u32]) -> Result<(), GpuError> {
        for &label in labels {
            assert!((label as usize) < classes, "label {label} with {classes} classes");
        }
        self.classes = classes;
        self.labels.upload(labels)
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.labels.view().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The address of one label per row, all below `classes`.
    fn on(&self, gpu: &Gpu, rows: usize, classes: usize) -> u64 {
        assert_eq!(self.len(), rows, "number of labels");
        assert!(self.classes <= classes, "labels of {} classes with {classes}", self.classes);
        self.labels.view().on(gpu)
    }
}

/// What a row of logits should predict.
#[derive(Clone, Copy)]
pub enum Target<'a> {
    /// One label per row.
    Hard(&'a Labels),
    /// A distribution per row, `[rows, classes]`. Rows need not sum to one: the loss is linear in them.
    Soft(View<'a, f32>),
}

/// As [`crate::loss::softmax`].
///
/// # Errors
/// When the GPU fails.
///
/// # Panics
/// When the lengths differ or are not whole rows.
pub fn softmax(
    gpu: &Gpu,
    classes: usize,
    temperature: f32,
    logits: View<'_, f32>,
    probabilities: ViewMut<'_, f32>,
) -> Result<(), GpuError> {
    assert!(classes > 0 && logits.len().is_multiple_of(classes), "length of the logits");
    assert_eq!(probabilities.len(), logits.len(), "length of the probabilities");
    let rows = logits.len() / classes;
    if rows == 0 {
        return Ok(());
    }
    let arguments = Softmax {
        logits: logits.on(gpu),
        probabilities: probabilities.on(gpu),
        rows: int(rows),
        classes: int(classes),
        temperature,
        unused: 0,
    };
    gpu.launch(by_rows("softmax", rows), &arguments)
}

/// As [`crate::loss::cross_entropy`], whose value is the [`mean`] of the rows' `losses` `[rows]`, not scaled: `scale`
/// times the gradient of that mean is added to `grad_logits`.
///
/// # Errors
/// When the GPU fails.
///
/// # Panics
/// When a length is wrong, there are no rows, or the labels are of more classes.
pub fn cross_entropy(
    gpu: &Gpu,
    classes: usize,
    logits: View<'_, f32>,
    target: Target<'_>,
    scale: f32,
    grad_logits: ViewMut<'_, f32>,
    losses: ViewMut<'_, f32>,
) -> Result<(), GpuError> {
    let rows = rows_of(classes, logits);
    assert_eq!(grad_logits.len(), logits.len(), "length of the logits' gradient");
    assert_eq!(losses.len(), rows, "length of the losses");
    let (labels, target) = match target {
        Target::Hard(labels) => (labels.on(gpu, rows, classes), 0),
        Target::Soft(p) => {
            assert_eq!(p.len(), logits.len(), "length of the target");
            (0, p.on(gpu))
        }
    };
    let arguments = CrossEntropy {
        logits: logits.on(gpu),
        labels,
        target,
        grad: grad_logits.on(gpu),
        losses: losses.on(gpu),
        rows: int(rows),
        classes: int(classes),
        scale: (f64::from(scale) / rows as f64) as f32,
        unused: 0,
    };
    gpu.launch(by_rows("cross_entropy", rows), &arguments)
}

fn rows_of(classes: usize, logits: View<'_, f32>) -> usize {
    assert!(classes > 0, "a loss over no classes");
    let rows = logits.len() / classes;
    assert!(rows > 0 && logits.len() == rows * classes, "length of the logits: {}", logits.len());
    rows
}

/// The mean of `values`, summed in f64, into one number.
///
/// # Errors
/// When the GPU fails.
///
/// # Panics
/// When there are no values, or `to` is not one number.
pub fn mean(gpu: &Gpu, values: View<'_, f32>, to: ViewMut<'_, f32>) -> Result<(), GpuError> {
    assert!(!values.is_empty(), "the mean of nothing");
    sum(gpu, values, 1.0 / values.len() as f64, to)
}

/// `factor` times the sum of `values`, added up in f64, into one number.
fn sum(
    gpu: &Gpu,
    values: View<'_, f32>,
    factor: f64,
    to: ViewMut<'_, f32>,
) -> Result<(), GpuError> {
    assert_eq!(to.len(), 1, "numbers for a scalar");
    let arguments =
        Sum { values: values.on(gpu), sum: to.on(gpu), length: values.len() as i64, factor };
    let threads = 512;
    let shared = threads as usize / WARP * size_of::<f64>();
    gpu.launch(Launch { kernel: "sum_values", grid: [1, 1, 1], threads, shared }, &arguments)
}

/// How many rows of `logits` `[rows, classes]` have their largest value at their label, into one number. Of equal values
/// the first counts, and NaN never does beside a number. `scratch` holds each row's 0 or 1.
///
/// # Errors
/// When the GPU fails.
///
/// # Panics
/// When a length is wrong, there are no rows, more than 2^24 (beyond which f32 cannot count), or the labels are of more
/// classes.
pub fn top1(
    gpu: &Gpu,
    classes: usize,
    logits: View<'_, f32>,
    labels: &Labels,
    hits: ViewMut<'_, f32>,
    scratch: &mut Buffer<f32>,
) -> Result<(), GpuError> {
    let rows = rows_of(classes, logits);
    assert!(rows <= 1 << 24, "counting {rows} rows");
    let each = scratch.reserve(rows)?;
    let arguments = Hits {
        logits: logits.on(gpu),
        labels: labels.on(gpu, rows, classes),
        hits: each.on(gpu),
        rows: int(rows),
        classes: int(classes),
    };
    gpu.launch(by_rows("top1_hits", rows), &arguments)?;
    sum(gpu, each.view(), 1.0, hits)
}

/// What [`info_nce`] works in. Grows to `[queue, rows]` and keeps that.
pub struct InfoNceMemory {
    /// `[keys, queries]`.
    logits: Buffer<f32>,
    /// `[parts][2][queries]`, then four numbers for each query.
    queries: Buffer<f32>,
    /// Parts of the sum over keys.
    sums: Buffer<f32>,
}

impl InfoNceMemory {
    /// Nothing yet.
    pub fn new(gpu: &Gpu) -> Self {
        Self { logits: Buffer::new(gpu), queries: Buffer::new(gpu), sums: Buffer::new(gpu) }
    }
}

/// As [`crate::loss::info_nce`], which says what the arguments are: overwrites `grad_q`, and writes the mean loss and the
/// share of rows whose positive scores highest into one number each.
///
/// # Errors
/// When the GPU fails.
///
/// # Panics
/// When a length is wrong, or there are no rows.
#[expect(clippy::too_many_arguments, reason = "three operands, three results")]
pub fn info_nce(
    gpu: &Gpu,
    dim: usize,
    temperature: f32,
    q: View<'_, f32>,
    k: View<'_, f32>,
    queue: View<'_, f32>,
    grad_q: ViewMut<'_, f32>,
    loss: ViewMut<'_, f32>,
    top1: ViewMut<'_, f32>,
    memory: &mut InfoNceMemory,
) -> Result<(), GpuError> {
    assert!(dim > 0, "embeddings of no numbers");
    let rows = q.len() / dim;
    assert!(rows > 0 && q.len() == rows * dim, "length of the queries: {}", q.len());
    assert_eq!(k.len(), q.len(), "length of the keys");
    assert_eq!(grad_q.len(), q.len(), "length of the queries' gradient");
    assert!(queue.len().is_multiple_of(dim), "length of the queue: {}", queue.len());
    let keys = queue.len() / dim;
    let parts = keys.div_ceil(PART);

    // Transposed: the keys are the rows, the queries the weight.
    let shape = LinearShape { rows: keys, inputs: dim, outputs: rows, full_inputs: dim };
    let mut logits = memory.logits.reserve(keys * rows)?;
    products(gpu, &shape, queue, q, None, logits.reborrow())?;

    let (of_parts, rest) =
        memory.queries.reserve((2 * parts + 4) * rows)?.split_at(2 * parts * rows);
    let (losses, rest) = rest.split_at(rows);
    let (hits, rest) = rest.split_at(rows);
    let (shifts, weights) = rest.split_at(rows);
    let factor = 1.0 / temperature;
    let [queries, keys] = [int(rows), int(keys)];
    let over_logits = |kernel, shared: usize| Launch {
        kernel,
        grid: [rows.div_ceil(WARP) as u32, int(parts) as u32, 1],
        threads: THREADS as u32,
        shared: shared * size_of::<f32>(),
    };
    if parts > 0 {
        let (logits, parts) = (logits.on(gpu), of_parts.on(gpu));
        let arguments = Parts { logits, parts, keys, queries, factor, unused: 0 };
        gpu.launch(over_logits("info_nce_parts", 2 * THREADS), &arguments)?;
    }
    let arguments = Queries {
        q: q.on(gpu),
        k: k.on(gpu),
        parts: of_parts.on(gpu),
        losses: losses.on(gpu),
        hits: hits.on(gpu),
        shifts: shifts.on(gpu),
        weights: weights.on(gpu),
        grad_q: grad_q.on(gpu),
        queries,
        dim: int(dim),
        parts_count: int(parts),
        temperature,
    };
    gpu.launch(by_rows("info_nce_queries", rows), &arguments)?;
    if parts > 0 {
        let (shifts, weights) = (shifts.on(gpu), weights.on(gpu));
        let logits = logits.on(gpu);
        let arguments = KeyWeights { logits, shifts, weights, keys, queries, factor, unused: 0 };
        gpu.launch(over_logits("info_nce_weights", 0), &arguments)?;
    }
    add_products_over_rows(gpu, &shape, queue, logits.view(), grad_q, &mut memory.sums)?;
    mean(gpu, losses.view(), loss)?;
    mean(gpu, hits.view(), top1)
}

/// As [`crate::loss::relu_forward`].
///
/// # Errors
/// When the GPU fails.
///
/// # Panics
/// When the lengths differ.
pub fn relu_forward(gpu: &Gpu, x: View<'_, f32>, y: ViewMut<'_, f32>) -> Result<(), GpuError> {
    assert_eq!(x.len(), y.len(), "lengths of x and y");
    elements(gpu, "relu_forward", x, 0, y)
}

/// As [`crate::loss::relu_backward`].
///
/// # Errors
/// When the GPU fails.
///
/// # Panics
/// When the lengths differ.
pub fn relu_backward(
    gpu: &Gpu,
    y: View<'_, f32>,
    grad_y: View<'_, f32>,
    grad_x: ViewMut<'_, f32>,
) -> Result<(), GpuError> {
    assert_eq!(y.len(), grad_y.len(), "lengths of y and grad_y");
    assert_eq!(y.len(), grad_x.len(), "lengths of y and grad_x");
    elements(gpu, "relu_backward", y, grad_y.on(gpu), grad_x)
}

fn elements(
    gpu: &Gpu,
    kernel: &'static str,
    a: View<'_, f32>,
    b: u64,
    result: ViewMut<'_, f32>,
) -> Result<(), GpuError> {
    if a.is_empty() {
        return Ok(());
    }
    let (a, length) = (a.on(gpu), a.len());
    let arguments = Elements { a, b, result: result.on(gpu), length: length as i64 };
    gpu.launch(plain(kernel, length.div_ceil(THREADS)), &arguments)
}

/// As [`crate::loss::l2_normalize`].
///
/// # Errors
/// When the GPU fails.
///
/// # Panics
/// When a length is wrong.
pub fn l2_normalize(
    gpu: &Gpu,
    dim: usize,
    x: View<'_, f32>,
    y: ViewMut<'_, f32>,
    norms: ViewMut<'_, f32>,
) -> Result<(), GpuError> {
    let rows = norms.len();
    assert!(dim > 0, "rows of no numbers");
    assert_eq!(x.len(), rows * dim, "length of x");
    assert_eq!(x.len(), y.len(), "lengths of x and y");
    if rows == 0 {
        return Ok(());
    }
    let arguments = Normalize {
        x: x.on(gpu),
        y: y.on(gpu),
        norms: norms.on(gpu),
        grad_x: 0,
        rows: int(rows),
        dim: int(dim),
    };
    gpu.launch(by_rows("l2_normalize", rows), &arguments)
}

/// As [`crate::loss::l2_normalize_backward`].
///
/// # Errors
/// When the GPU fails.
///
/// # Panics
/// When a length is wrong.
pub fn l2_normalize_backward(
    gpu: &Gpu,
    dim: usize,
    y: View<'_, f32>,
    norms: View<'_, f32>,
    grad_y: View<'_, f32>,
    grad_x: ViewMut<'_, f32>,
) -> Result<(), GpuError> {
    let rows = norms.len();
    assert!(dim > 0, "rows of no numbers");
    assert_eq!(y.len(), rows * dim, "length of y");
    assert_eq!(y.len(), grad_y.len(), "lengths of y and grad_y");
    assert_eq!(y.len(), grad_x.len(), "lengths of y and grad_x");
    if rows == 0 {
        return Ok(());
    }
    let arguments = Normalize {
        x: grad_y.on(gpu),
        y: y.on(gpu),
        norms: norms.on(gpu),
        grad_x: grad_x.on(gpu),
        rows: int(rows),
        dim: int(dim),
    };
    gpu.launch(by_rows("l2_normalize_backward", rows), &arguments)
}
