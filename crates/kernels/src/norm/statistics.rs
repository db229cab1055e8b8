//! Mean and variance of every channel over a batch, and their running averages.

use super::whole_rows;
use crate::Scratch;
use crate::tile::{FLUSH, TILE, Tiling, doubles, flush, vectorised};
use slimtau_parallel::{chunks, chunks_mut, for_each_chunk};

/// Wide rows whose mean becomes the shift of a chunk.
const SHIFT_ROWS: usize = 4;

/// Mean and biased variance of every channel of `x` `[rows, channels]`, in one pass over memory.
///
/// Each chunk of rows sums `x - s` and its square, `s` being the mean of the chunk's first rows.
/// As these are a share f of the chunk, `(mean - s)^2 <= variance / f`: what the formula subtracts
/// is within a small factor of what remains, however far from zero the mean is. The chunks' results
/// are merged in order by Chan, Golub & LeVeque's formula in f64.
///
/// # Panics
/// When `x` is empty or not whole rows, or `mean` or `var` is not of length `channels`.
pub fn batch_statistics(
    channels: usize,
    x: &[f32],
    mean: &mut [f32],
    var: &mut [f32],
    scratch: &mut Scratch,
) {
    let _span = tracing::trace_span!("batch_statistics").entered();
    let rows = whole_rows(channels, x.len());
    assert!(rows > 0, "statistics of an empty batch");
    assert_eq!(mean.len(), channels, "length of mean");
    assert_eq!(var.len(), channels, "length of var");
    let len = Tiling::new(channels).chunk_len();
    let partials = doubles(scratch, 2 * channels * x.len().div_ceil(len));
    for_each_chunk((chunks_mut(partials, 2 * channels), chunks(x, len)), |_, (moments, x)| {
        chunk_moments(channels, x, moments);
    });

    merge_moments(partials, x.chunks(len).map(|x| x.len() / channels), mean, var);
}

/// Mean and biased variance of a batch from its chunks, which have `rows` rows each: `partials` holds
/// each one's means and sums of squared deviations.
pub(crate) fn merge_moments(
    partials: &mut [f64],
    mut rows: impl Iterator<Item = usize>,
    mean: &mut [f32],
    var: &mut [f32],
) {
    let channels = mean.len();
    let (total, others) = partials.split_at_mut(2 * channels);
    let (total_mean, total_squares) = total.split_at_mut(channels);
    let mut n = rows.next().unwrap_or(0) as f64;
    for (moments, m) in others.chunks(2 * channels).zip(rows) {
        let m = m as f64;
        let (chunk_mean, chunk_squares) = moments.split_at(channels);
        for c in 0..channels {
            let delta = chunk_mean[c] - total_mean[c];
            total_mean[c] += delta * (m / (n + m));
            total_squares[c] += chunk_squares[c] + delta * delta * (n * m / (n + m));
        }
        n += m;
    }
    for c in 0..channels {
        mean[c] = total_mean[c] as f32;
        var[c] = (total_squares[c] / n) as f32;
    }
}

/// The mean and the sum of squared deviations of every channel of one chunk: `moments[..channels]`
/// and `moments[channels..]`.
fn chunk_moments(channels: usize, x: &[f32], moments: &mut [f64]) {
    let tiling = Tiling::new(channels);
    let n = (x.len() / channels) as f64;
    let (means, squares) = moments.split_at_mut(channels);
    means.fill(0.0);
    squares.fill(0.0);
    let head = &x[..tiling.head(x.len(), SHIFT_ROWS)];
    for row in head.chunks(channels) {
        for (sum, &v) in means.iter_mut().zip(row) {
            *sum += f64::from(v);
        }
    }
    let head_rows = (head.len() / channels) as f64;
    for block in tiling.blocks() {
        let shift = tiling.spread(&block, |c| (means[c] / head_rows) as f32);
        let (mut sum, mut square) = ([0.0; TILE], [0.0; TILE]);
        let (mut sums, mut sums_of_squares) = ([0.0; TILE], [0.0; TILE]);
        vectorised(
            #[inline(always)]
            || {
                for row in 0..tiling.rows(x.len()) {
                    let x = &x[tiling.strip(x.len(), row, &block)];
                    let n = x.len();
                    let (shift, s, q) = (&shift[..n], &mut sum[..n], &mut square[..n]);
                    for i in 0..n {
                        let d = x[i] - shift[i];
                        s[i] += d;
                        q[i] += d * d;
                    }
                    if row % FLUSH == FLUSH - 1 {
                        flush(&mut sum, &mut sums);
                        flush(&mut square, &mut sums_of_squares);
                    }
                }
                flush(&mut sum, &mut sums);
                flush(&mut square, &mut sums_of_squares);
            },
        );
        // The block's channels: each channel belongs to one block only.
        let own = block.start..block.end.min(channels);
        means[own.clone()].fill(0.0);
        tiling.fold(&block, &sums, means);
        tiling.fold(&block, &sums_of_squares, squares);
        for (c, shift) in own.zip(shift) {
            let sum = means[c];
            means[c] = f64::from(shift) + sum / n;
            let rest = squares[c] - sum * sum / n;
            // Rounding may leave a constant channel a hair below zero. NaN stays NaN.
            squares[c] = if rest < 0.0 { 0.0 } else { rest };
        }
    }
}

/// Moves the running statistics towards those of a batch of `rows` rows, as PyTorch does:
/// `running = (1 - momentum) * running + momentum * batch`, with the unbiased variance
/// `var * rows / (rows - 1)` (of a single row, which has none: the biased one).
///
/// # Panics
/// When the lengths differ.
pub fn update_running(
    momentum: f32,
    rows: usize,
    mean: &[f32],
    var: &[f32],
    running_mean: &mut [f32],
    running_var: &mut [f32],
) {
    let channels = mean.len();
    assert_eq!(var.len(), channels, "length of var");
    assert_eq!(running_mean.len(), channels, "length of running_mean");
    assert_eq!(running_var.len(), channels, "length of running_var");
    let unbiased = (rows as f64 / rows.saturating_sub(1).max(1) as f64) as f32;
    // Not `running += momentum * (batch - running)`: at a momentum of 1 nothing may be left of the
    // old value, and that form leaves its rounding error.
    let kept = 1.0 - momentum;
    for c in 0..channels {
        running_mean[c] = kept * running_mean[c] + momentum * mean[c];
        running_var[c] = kept * running_var[c] + momentum * (var[c] * unbiased);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_momentum_of_one_leaves_nothing_of_the_old_statistics() {
        let (mean, var) = ([-0.00484033_f32, 1e-6], [0.0115_f32, 3e-7]);
        for old in [0.0, 7.0, -1e6] {
            let (mut running_mean, mut running_var) = ([old; 2], [old; 2]);
            update_running(1.0, 1, &mean, &var, &mut running_mean, &mut running_var);
            assert_eq!((running_mean, running_var), (mean, var), "from {old}");
        }
    }
}
