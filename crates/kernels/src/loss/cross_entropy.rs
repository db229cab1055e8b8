//! Softmax, and the cross-entropy against labels or against a teacher's probabilities.

use super::exponential::{exp, max_of, sum_of, sum_of_pairs};
use crate::tile::vectorised;
use rayon::prelude::*;

/// What a row of logits should predict.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// One label per row, below the number of classes.
    Hard(&'a [u32]),
    /// A distribution per row, `[rows, classes]`. Rows need not sum to one: the loss is linear in them.
    Soft(&'a [f32]),
}

impl<'a> Target<'a> {
    fn split_at(self, rows: usize, classes: usize) -> (Self, Self) {
        match self {
            Self::Hard(labels) => {
                let (a, b): (&'a [u32], &'a [u32]) = labels.split_at(rows);
                (Self::Hard(a), Self::Hard(b))
            }
            Self::Soft(probabilities) => {
                let (a, b) = probabilities.split_at(rows * classes);
                (Self::Soft(a), Self::Soft(b))
            }
        }
    }
}

/// Logits that one task handles.
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
    sum_over_rows(classes, logits, target, scale as f32, grad_logits) / rows as f64
}

/// The sum of the rows' losses, along a tree of halves that depends on the shape alone.
fn sum_over_rows(
    classes: usize,
    logits: &[f32],
    target: Target<'_>,
    scale: f32,
    grad: &mut [f32],
) -> f64 {
    let rows = logits.len() / classes;
    if rows > 1 && logits.len() > LEAF {
        let half = rows / 2;
        let (a, b) = logits.split_at(half * classes);
        let (target_a, target_b) = target.split_at(half, classes);
        let (grad_a, grad_b) = grad.split_at_mut(half * classes);
        let (a, b) = rayon::join(
            || sum_over_rows(classes, a, target_a, scale, grad_a),
            || sum_over_rows(classes, b, target_b, scale, grad_b),
        );
        return a + b;
    }
    let rows = logits.chunks(classes).zip(grad.chunks_mut(classes));
    match target {
        Target::Hard(labels) => {
            rows.zip(labels).map(|((x, grad), &label)| hard_row(x, label, scale, grad)).sum()
        }
        Target::Soft(targets) => rows
            .zip(targets.chunks(classes))
            .map(|((x, grad), target)| soft_row(x, target, scale, grad))
            .sum(),
    }
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
    probabilities.par_chunks_mut(chunk).zip(logits.par_chunks(chunk)).for_each(|(p, x)| {
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
