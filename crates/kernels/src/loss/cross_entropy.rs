//! Softmax, and the cross-entropy against labels or against a teacher's probabilities.

use super::exponential::{exp, max_of, sum_of, sum_of_pairs};
use crate::tile::vectorised;
use slimtau_parallel::{chunks, chunks_mut, for_each_chunk, sum_over_chunks};

/// What a row of logits should predict.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// One label per row, below the number of classes.
    Hard(&'a [u32]),
    /// A distribution per row, `[rows, classes]`. Rows need not sum to one: the loss is linear in them.
    Soft(&'a [f32]),
}

/// Most tasks of a loss; each has a sum of its own, which depends on the shape alone.
const TASKS: usize = 64;

/// Logits that one task handles, where that does not make too many tasks.
const LEAF: usize = 1 << 13;

/// The mean over the rows of `-sum_c t_c log softmax(logits)_c`, where `t` is the target (one-hot for
/// [`Target::Hard`]). `scale` times the gradient of that mean is *added* to `grad_logits`; the
/// returned loss is not scaled. `logits` and `grad_logits` are `[rows, classes]`, at least one row.
///
/// # Panics
/// When a length is wrong, there are no rows, or a label is not below `classes`.
pub fn cross_entropy(
    classes: usize,
    logits: &[f32],
    target: Target<'_>,
    scale: f32,
    grad_logits: &mut [f32],
) -> f64 {
    let _span = tracing::trace_span!("loss").entered();
    assert!(classes > 0, "a loss over no classes");
    let rows = logits.len() / classes;
    assert!(rows > 0 && logits.len() == rows * classes, "length of the logits: {}", logits.len());
    assert_eq!(grad_logits.len(), logits.len(), "length of the logits' gradient");
    match target {
        Target::Hard(labels) => assert_eq!(labels.len(), rows, "number of labels"),
        Target::Soft(p) => assert_eq!(p.len(), logits.len(), "length of the target"),
    }
    let scale = f64::from(scale) / rows as f64;
    let scale = scale as f32;
    let task = rows.div_ceil(TASKS).max(LEAF / classes).max(1);
    let parts = (chunks(logits, task * classes), chunks_mut(grad_logits, task * classes));
    let loss = sum_over_chunks(parts, |i, (x, grad)| {
        let rows = x.chunks(classes).zip(grad.chunks_mut(classes)).zip(i * task..);
        match target {
            Target::Hard(labels) => {
                rows.map(|((x, grad), row)| hard_row(x, labels[row], scale, grad)).sum()
            }
            Target::Soft(targets) => rows
                .map(|((x, grad), row)| {
                    soft_row(x, &targets[row * classes..(row + 1) * classes], scale, grad)
                })
                .sum(),
        }
    });
    loss / rows as f64
}

fn hard_row(x: &[f32], label: u32, scale: f32, grad: &mut [f32]) -> f64 {
    let label = label as usize;
    assert!(label < x.len(), "label {label} with {} classes", x.len());
    let (max, total) = vectorised(
        #[inline(always)]
        || {
            let max = max_of(x);
            let total = sum_of(x, |v| exp(v - max));
            let factor = (f64::from(scale) / total) as f32;
            for (g, v) in grad.iter_mut().zip(x) {
                *g += exp(v - max) * factor;
            }
            (max, total)
        },
    );
    grad[label] -= scale;
    total.ln() - (f64::from(x[label]) - f64::from(max))
}

fn soft_row(x: &[f32], target: &[f32], scale: f32, grad: &mut [f32]) -> f64 {
    vectorised(
        #[inline(always)]
        || {
            let max = max_of(x);
            let total = sum_of(x, |v| exp(v - max));
            let mass = sum_of(target, |t| t);
            let factor = (f64::from(scale) * mass / total) as f32;
            for ((g, v), t) in grad.iter_mut().zip(x).zip(target) {
                *g += exp(v - max) * factor - scale * t;
            }
            // Both terms are sums of numbers of one sign: nothing cancels.
            mass * total.ln() + sum_of_pairs(x, target, |v, t| t * (max - v))
        },
    )
}

/// `softmax(logits / temperature)` of every row: a teacher's soft labels. `[rows, classes]` both.
///
/// # Panics
/// When the lengths differ or are not whole rows.
pub fn softmax(classes: usize, temperature: f32, logits: &[f32], probabilities: &mut [f32]) {
    let _span = tracing::trace_span!("loss").entered();
    assert!(classes > 0 && logits.len().is_multiple_of(classes), "length of the logits");
    assert_eq!(probabilities.len(), logits.len(), "length of the probabilities");
    let chunk = classes * (LEAF / classes).max(1);
    for_each_chunk((chunks_mut(probabilities, chunk), chunks(logits, chunk)), |_, (p, x)| {
        for (p, x) in p.chunks_mut(classes).zip(x.chunks(classes)) {
            vectorised(
                #[inline(always)]
                || {
                    let max = max_of(x);
                    for (p, v) in p.iter_mut().zip(x) {
                        *p = exp((v - max) / temperature);
                    }
                    let factor = (1.0 / sum_of(p, |v| v)) as f32;
                    for p in p.iter_mut() {
                        *p *= factor;
                    }
                },
            );
        }
    });
}
