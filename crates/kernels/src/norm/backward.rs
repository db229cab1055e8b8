//! The backward pass of batch norm + residual + ReLU.

use super::{Norm, affine, whole_rows};
use crate::Scratch;
use crate::tile::{FLUSH, TILE, Tiling, doubles, flush, vectorised};
use slimtau_parallel::{chunks, chunks_mut, for_each_chunk};

/// Where the ReLU's mask comes from.
const NO_RELU: u8 = 0;
/// Recomputed from the input: cheaper than reading the output, but blind to a residual.
const FROM_INPUT: u8 = 1;
/// Read from the output; the masked gradient is written back, being that of the residual.
const FROM_OUTPUT: u8 = 2;

/// Backward, in place. On entry `x` is the forward input and `grad` the gradient of `y`. On return
/// `x` holds the gradient of the forward input and, if the norm had a residual, `grad` that of the
/// residual (`grad` masked by the ReLU); without a residual `grad` is left as it was.
///
/// `output` is `y`. It is needed where there were both a ReLU and a residual; a ReLU alone
/// recomputes its mask from `x`, so pass `None` there.
///
/// `batch_statistics` says that mean and variance are those of `x` and differentiates through
/// them; otherwise they are constants (frozen statistics). With `g` the masked gradient and
/// `h = (x - mean) / sqrt(var + eps)`:
/// `grad_x = gamma / sqrt(var + eps) * (g - mean(g) - h * mean(g h))`, the two means being absent
/// for frozen statistics; `grad_gamma += sum(g h)`, `grad_beta += sum(g)`.
///
/// # Panics
/// When a length is wrong.
pub fn norm_backward(
    norm: &Norm<'_>,
    batch_statistics: bool,
    x: &mut [f32],
    output: Option<&[f32]>,
    grad: &mut [f32],
    grad_gamma: &mut [f32],
    grad_beta: &mut [f32],
    scratch: &mut Scratch,
) {
    let _span = tracing::trace_span!("norm_backward").entered();
    let output = output.filter(|_| norm.relu);
    let frozen = !batch_statistics;
    let means = sums(norm, frozen, x, output, grad, grad_gamma, grad_beta, scratch);
    if batch_statistics && !x.is_empty() {
        input_gradient(norm, output.is_some(), means, x, grad);
    }
}

/// The first pass: what a batch norm's gradients sum up over all rows. Adds to `grad_gamma` and
/// `grad_beta`, masks `grad` where the mask comes from the output, and returns for every channel the
/// mean of `g`, and then for every channel the mean of `g (x - mean)` over the variance. With `frozen`
/// statistics `x` becomes its gradient at once.
///
/// # Panics
/// When a length is wrong.
pub(crate) fn sums<'s>(
    norm: &Norm<'_>,
    frozen: bool,
    x: &mut [f32],
    output: Option<&[f32]>,
    grad: &mut [f32],
    grad_gamma: &mut [f32],
    grad_beta: &mut [f32],
    scratch: &'s mut Scratch,
) -> &'s [f64] {
    norm.check();
    let channels = norm.channels;
    let rows = whole_rows(channels, x.len());
    assert_eq!(x.len(), grad.len(), "lengths of x and grad");
    assert_eq!(grad_gamma.len(), channels, "length of grad_gamma");
    assert_eq!(grad_beta.len(), channels, "length of grad_beta");
    if let Some(output) = output {
        assert_eq!(x.len(), output.len(), "lengths of x and the output");
    }
    let reduce = match (norm.relu, output, frozen) {
        (false, _, false) => chunk_sums::<NO_RELU, false>,
        (false, _, true) => chunk_sums::<NO_RELU, true>,
        (true, None, false) => chunk_sums::<FROM_INPUT, false>,
        (true, None, true) => chunk_sums::<FROM_INPUT, true>,
        (true, Some(_), false) => chunk_sums::<FROM_OUTPUT, false>,
        (true, Some(_), true) => chunk_sums::<FROM_OUTPUT, true>,
    };
    if rows == 0 {
        return &[];
    }

    let len = Tiling::new(channels).chunk_len();
    let partials = doubles(scratch, 2 * channels * x.len().div_ceil(len));
    let parts = (chunks_mut(partials, 2 * channels), chunks_mut(x, len), chunks_mut(grad, len));
    for_each_chunk(parts, |i, (partial, x, grad)| {
        let output = output.map_or(&[][..], |o| &o[i * len..i * len + x.len()]);
        reduce(norm, x, output, grad, partial);
    });
    let (total, others) = partials.split_at_mut(2 * channels);
    for partial in others.chunks(2 * channels) {
        for (t, p) in total.iter_mut().zip(partial) {
            *t += p;
        }
    }
    let (sum, product) = total.split_at_mut(channels);
    for c in 0..channels {
        let inverse = f64::from(norm.inverse_deviation(c));
        grad_beta[c] += sum[c] as f32;
        grad_gamma[c] += (product[c] * inverse) as f32;
        sum[c] /= rows as f64;
        product[c] *= inverse * inverse / rows as f64;
    }
    total
}

/// The second pass, given what the first returned: `x` becomes its gradient. `masked` says that `grad` is
/// masked already.
fn input_gradient(norm: &Norm<'_>, masked: bool, means: &[f64], x: &mut [f32], grad: &[f32]) {
    let apply = if norm.relu && !masked {
        chunk_input_gradient::<true>
    } else {
        chunk_input_gradient::<false>
    };
    let (sum, product) = means.split_at(norm.channels);
    let len = Tiling::new(norm.channels).chunk_len();
    for_each_chunk((chunks_mut(x, len), chunks(grad, len)), |_, (x, grad)| {
        apply(norm, sum, product, x, grad);
    });
}

/// Sums of `g` and of `g (x - mean)` over one chunk, into `partial[..channels]` and
/// `partial[channels..]`. With frozen statistics `x` becomes its gradient in the same pass.
fn chunk_sums<const MASK: u8, const FROZEN: bool>(
    norm: &Norm<'_>,
    x: &mut [f32],
    output: &[f32],
    grad: &mut [f32],
    partial: &mut [f64],
) {
    let tiling = Tiling::new(norm.channels);
    partial.fill(0.0);
    let (partial_sum, partial_product) = partial.split_at_mut(norm.channels);
    for block in tiling.blocks() {
        let mean = tiling.spread(&block, |c| norm.mean[c]);
        let scale = tiling.spread(&block, |c| norm.scale(c));
        let beta = tiling.spread(&block, |c| norm.beta[c]);
        let (mut sum, mut product) = ([0.0; TILE], [0.0; TILE]);
        let (mut sums, mut products) = ([0.0; TILE], [0.0; TILE]);
        vectorised(
            #[inline(always)]
            || {
                for row in 0..tiling.rows(x.len()) {
                    let at = tiling.strip(x.len(), row, &block);
                    let n = at.len();
                    let (mean, scale, beta) = (&mean[..n], &scale[..n], &beta[..n]);
                    let (s, p) = (&mut sum[..n], &mut product[..n]);
                    let output = if MASK == FROM_OUTPUT { &output[at.clone()][..n] } else { mean };
                    let (x, grad) = (&mut x[at.clone()][..n], &mut grad[at][..n]);
                    for i in 0..n {
                        let value = match MASK {
                            NO_RELU => 1.0,
                            FROM_INPUT => affine(x[i], mean[i], scale[i], beta[i]),
                            _ => output[i],
                        };
                        let g = if value <= 0.0 { 0.0 } else { grad[i] };
                        s[i] += g;
                        p[i] += g * (x[i] - mean[i]);
                        if MASK == FROM_OUTPUT {
                            grad[i] = g;
                        }
                        if FROZEN {
                            x[i] = scale[i] * g;
                        }
                    }
                    if row % FLUSH == FLUSH - 1 {
                        flush(&mut sum, &mut sums);
                        flush(&mut product, &mut products);
                    }
                }
                flush(&mut sum, &mut sums);
                flush(&mut product, &mut products);
            },
        );
        tiling.fold(&block, &sums, partial_sum);
        tiling.fold(&block, &products, partial_product);
    }
}

/// `x = scale * (g - sum - (x - mean) * product)` on one chunk, where `sum` is the mean of `g` and
/// `product` that of `g (x - mean)` over the variance. `MASK`: take the ReLU's mask from `x`.
fn chunk_input_gradient<const MASK: bool>(
    norm: &Norm<'_>,
    sum: &[f64],
    product: &[f64],
    x: &mut [f32],
    grad: &[f32],
) {
    let tiling = Tiling::new(norm.channels);
    for block in tiling.blocks() {
        let mean = tiling.spread(&block, |c| norm.mean[c]);
        let scale = tiling.spread(&block, |c| norm.scale(c));
        let beta = tiling.spread(&block, |c| norm.beta[c]);
        let sum = tiling.spread(&block, |c| sum[c] as f32);
        let product = tiling.spread(&block, |c| product[c] as f32);
        vectorised(
            #[inline(always)]
            || {
                for row in 0..tiling.rows(x.len()) {
                    let at = tiling.strip(x.len(), row, &block);
                    let n = at.len();
                    let (mean, scale, beta) = (&mean[..n], &scale[..n], &beta[..n]);
                    let (sum, product) = (&sum[..n], &product[..n]);
                    let (x, grad) = (&mut x[at.clone()][..n], &grad[at][..n]);
                    for i in 0..n {
                        let masked = MASK && affine(x[i], mean[i], scale[i], beta[i]) <= 0.0;
                        let g = if masked { 0.0 } else { grad[i] };
                        x[i] = scale[i] * (g - sum[i] - (x[i] - mean[i]) * product[i]);
                    }
                }
            },
        );
    }
}
