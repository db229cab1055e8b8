//! Batch norm's backward pass within that of the convolution before it: a block of pixels that the weight gradient
//! reads is in a core's cache anyhow, where a pass of batch norm's own would wait for memory.

use super::columns::{Affine, InputGradient};
use super::{ConvShape, Isa, by_winograd, conv_backward_weight_on, span, winograd};
use crate::Scratch;
use crate::norm::{Norm, norm_backward, sums};

/// The operands of [`norm_backward`], with batch statistics.
pub struct NormGradient<'a> {
    /// The norm as it was in the forward pass.
    pub norm: Norm<'a>,
    /// Its input, which becomes its gradient.
    pub x: &'a mut [f32],
    /// Its output, where there were both a ReLU and a residual.
    pub output: Option<&'a [f32]>,
    /// The gradient of its output; with a residual it becomes that of the residual.
    pub grad: &'a mut [f32],
    /// `[channels]`, added to.
    pub grad_gamma: &'a mut [f32],
    /// `[channels]`, added to.
    pub grad_beta: &'a mut [f32],
}

/// [`norm_backward`] with batch statistics and then
/// [`conv_backward_weight`](super::conv_backward_weight) of the convolution before it, whose `input` is
/// given: the same results to the bit, with one pass over memory less where channels are few and images many enough for
/// the pool's threads. That pass then counts as the weight gradient's in `tracing` spans.
///
/// # Panics
/// When a slice's length is not the one that `shape` gives, or the norm has other channels.
pub fn norm_conv_backward_weight(
    of: NormGradient<'_>,
    shape: &ConvShape,
    input: &[f32],
    grad_weight: &mut [f32],
    scratch: &mut Scratch,
) {
    norm_conv_backward_weight_on(Isa::best(), of, shape, input, grad_weight, scratch);
}

/// [`norm_conv_backward_weight`] with a given instruction set.
///
/// # Panics
/// As there.
pub fn norm_conv_backward_weight_on(
    isa: Isa,
    of: NormGradient<'_>,
    shape: &ConvShape,
    input: &[f32],
    grad_weight: &mut [f32],
    scratch: &mut Scratch,
) {
    let NormGradient { norm, x, output, grad, grad_gamma, grad_beta } = of;
    shape.check(input.len(), grad_weight.len(), x.len());
    assert_eq!(norm.channels, shape.out_channels, "channels of the norm after {shape:?}");
    let empty = x.is_empty() || input.is_empty();
    if empty || !by_winograd(shape) || !winograd::takes_norm(shape) {
        norm_backward(&norm, true, x, output, grad, grad_gamma, grad_beta, scratch);
        conv_backward_weight_on(isa, shape, input, x, grad_weight, scratch);
        return;
    }
    scratch.with_kept(|scratch, kept| {
        let channels = norm.channels;
        let output = output.filter(|_| norm.relu);
        let span_of_sums = tracing::trace_span!("norm_backward").entered();
        let means = sums(&norm, false, x, output, grad, grad_gamma, grad_beta, scratch);
        drop(span_of_sums);
        let (scale, rest) = kept.floats(3 * channels).split_at_mut(channels);
        let (sum, product) = rest.split_at_mut(channels);
        for c in 0..channels {
            scale[c] = norm.scale(c);
            sum[c] = means[c] as f32;
            product[c] = means[channels + c] as f32;
        }
        let _span = span("conv_backward_weight", shape);
        let gradient = InputGradient {
            x: x.as_mut_ptr(),
            grad: grad.as_ptr(),
            rows: x.len() / channels,
            channels,
            norm: Affine {
                mean: norm.mean.as_ptr(),
                scale: scale.as_ptr(),
                beta: norm.beta.as_ptr(),
            },
            sum: sum.as_ptr(),
            product: product.as_ptr(),
            masked: norm.relu && output.is_none(),
        };
        winograd::weight_gradient_after_norm(isa, shape, input, gradient, grad_weight, scratch);
    });
}
