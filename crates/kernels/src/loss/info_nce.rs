//! InfoNCE, the contrastive loss of MoCo (He et al. 2020, equation 1), without ever holding the
//! `[rows, queue]` logits: they are made, used and dropped in pieces, under a running maximum.

use super::exponential::{exp, max_of, sum_of};
use crate::Scratch;
use crate::product::{Matrix, product};
use crate::tile::vectorised;
use slimtau_parallel::{chunks_mut, for_each_chunk};

/// Queries that one task handles.
const ROWS: usize = 64;
/// Keys whose logits exist at a time in a task.
const PIECE: usize = 512;
/// Most parts that the queue is split into to occupy threads.
const SEGMENTS: usize = 8;

/// With `logits = [q . k, q . queue_0, q . queue_1, ...] / temperature`, the cross-entropy against
/// label 0, averaged over the rows. `q` and `k` are `[rows, dim]`, `queue` is `[length, dim]` (it may
/// be empty), all L2-normalised by the caller. `grad_q` `[rows, dim]` is overwritten; keys receive
/// no gradient.
///
/// Returns the mean loss and the share of rows whose positive scores highest (a tie counts).
///
/// # Panics
/// When a length is wrong, or there are no rows.
pub fn info_nce(
    dim: usize,
    temperature: f32,
    q: &[f32],
    k: &[f32],
    queue: &[f32],
    grad_q: &mut [f32],
    scratch: &mut Scratch,
) -> (f64, f64) {
    let _span = tracing::trace_span!("loss").entered();
    assert!(dim > 0, "embeddings of no numbers");
    let rows = q.len() / dim;
    assert!(rows > 0 && q.len() == rows * dim, "length of the queries: {}", q.len());
    assert_eq!(k.len(), q.len(), "length of the keys");
    assert_eq!(grad_q.len(), q.len(), "length of the queries' gradient");
    assert!(queue.len().is_multiple_of(dim), "length of the queue: {}", queue.len());

    // One task per block of queries and segment of the queue.
    let keys = queue.len() / dim;
    let pieces = keys.div_ceil(PIECE);
    let segment = PIECE * pieces.div_ceil(SEGMENTS).max(1);
    let segments = keys.div_ceil(segment);
    let layout = Layout { dim };
    let blocks = rows.div_ceil(ROWS);
    let tasks = scratch.floats(blocks * segments * layout.len());
    for_each_chunk(chunks_mut(tasks, layout.len()), |i, task| {
        let (block, part) = (i / segments, i % segments);
        let q = &q[block * ROWS * dim..((block + 1) * ROWS * dim).min(q.len())];
        let queue = &queue[part * segment * dim..((part + 1) * segment * dim).min(queue.len())];
        attend(dim, temperature, q, queue, layout.split(task));
    });

    let (mut loss, mut hits) = (0.0, 0usize);
    let step = 1.0 / (f64::from(temperature) * rows as f64);
    for (row, grad) in grad_q.chunks_mut(dim).enumerate() {
        let (q, k) = (&q[row * dim..(row + 1) * dim], &k[row * dim..(row + 1) * dim]);
        let dot: f64 = q.iter().zip(k).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum();
        let positive = dot / f64::from(temperature);
        let parts = || {
            let first = (row / ROWS) * segments * layout.len();
            let row = row % ROWS;
            tasks[first..].chunks(layout.len()).take(segments).map(move |t| layout.row(t, row))
        };
        let negative = parts().map(|p| f64::from(p.max)).fold(f64::NEG_INFINITY, f64::max);
        let max = positive.max(negative);
        let weight = |part: &Part<'_>| (f64::from(part.max) - max).exp();
        let total =
            parts().map(|p| f64::from(p.sum) * weight(&p)).sum::<f64>() + (positive - max).exp();
        loss += total.ln() + (max - positive);
        hits += usize::from(positive >= negative);
        let pull = (step * ((positive - max).exp() / total - 1.0)) as f32;
        for (g, k) in grad.iter_mut().zip(k) {
            *g = pull * k;
        }
        for part in parts() {
            let push = (step * weight(&part) / total) as f32;
            for (g, key) in grad.iter_mut().zip(part.keys) {
                *g += push * key;
            }
        }
    }
    (loss / rows as f64, hits as f64 / rows as f64)
}

/// What one task knows of one query and its segment of the queue.
struct Part<'a> {
    /// The largest logit.
    max: f32,
    /// The sum of `exp(logit - max)`.
    sum: f32,
    /// The sum of `exp(logit - max)` times the key.
    keys: &'a [f32],
}

/// Where a task's numbers lie in its part of the scratch buffer.
#[derive(Clone, Copy)]
struct Layout {
    dim: usize,
}

/// The parts of a task's scratch: `[ROWS]`, `[ROWS]`, `[ROWS, dim]` and `[ROWS, PIECE]`.
struct Task<'a> {
    max: &'a mut [f32],
    sum: &'a mut [f32],
    keys: &'a mut [f32],
    logits: &'a mut [f32],
}

impl Layout {
    fn len(self) -> usize {
        ROWS * (2 + self.dim + PIECE)
    }

    fn split(self, task: &mut [f32]) -> Task<'_> {
        let (max, rest) = task.split_at_mut(ROWS);
        let (sum, rest) = rest.split_at_mut(ROWS);
        let (keys, logits) = rest.split_at_mut(ROWS * self.dim);
        Task { max, sum, keys, logits }
    }

    fn row(self, task: &[f32], row: usize) -> Part<'_> {
        let keys = 2 * ROWS + row * self.dim;
        Part { max: task[row], sum: task[ROWS + row], keys: &task[keys..keys + self.dim] }
    }
}

/// Fills the `Part` of every query of one block for one segment of the queue.
fn attend(dim: usize, temperature: f32, q: &[f32], queue: &[f32], task: Task<'_>) {
    let rows = q.len() / dim;
    let mut sums = [0.0f64; ROWS];
    task.max.fill(f32::NEG_INFINITY);
    for (i, keys) in queue.chunks(PIECE * dim).enumerate() {
        let n = keys.len() / dim;
        let keys = Matrix::new(keys, n, dim, dim);
        let queries = Matrix::new(q, rows, dim, dim);
        product(1.0 / temperature, queries, keys.transposed(), false, task.logits, n);
        for (row, logits) in task.logits.chunks_mut(n).take(rows).enumerate() {
            let old = task.max[row];
            let (new, sum) = vectorised(
                #[inline(always)]
                || {
                    let largest = max_of(logits);
                    let new = if largest > old { largest } else { old };
                    for v in logits.iter_mut() {
                        *v = exp(*v - new);
                    }
                    (new, sum_of(logits, |v| v))
                },
            );
            if i > 0 && new > old {
                let shrink = (old - new).exp();
                sums[row] *= f64::from(shrink);
                for v in &mut task.keys[row * dim..(row + 1) * dim] {
                    *v *= shrink;
                }
            }
            task.max[row] = new;
            sums[row] += sum;
        }
        let weights = Matrix::new(task.logits, rows, n, n);
        product(1.0, weights, keys, i > 0, task.keys, dim);
    }
    for (sum, total) in task.sum.iter_mut().zip(sums) {
        *sum = total as f32;
    }
}
