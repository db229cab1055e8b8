//! Batch norm's backward pass within that of the convolution before it: a block of pixels that the
//! weight gradient reads is in a core's cache anyhow, where a pass of batch norm's own would wait for
//! memory.

use super::columns::InputGradient;
use super::{
    ConvShape, Input, Isa, by_winograd, conv_backward_weight_on, span, sums_normalise,
    weight_gradient, winograd,
};
#[cfg(target_arch = "x86_64")]
use super::{matrix, sums_by_matrix};
use crate::Scratch;
use crate::norm::{Norm, norm_backward, sums};

/// The operands of [`norm_backward`].
pub struct NormGradient<'a> {
    /// The norm as it was in the forward pass.
    pub norm: Norm<'a>,
    /// Whether mean and variance are those of `x`, and not constants.
    pub batch_statistics: bool,
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

/// [`norm_backward`] and then [`conv_backward_weight`](super::conv_backward_weight) of the convolution
/// before it, whose `input` is given: the same results to the bit. With batch statistics, and where
/// channels are few enough and images many enough for the pool's threads, it is one pass over memory less.
/// That pass then counts as the weight gradient's in `tracing` spans.
///
/// # Panics
/// When a slice's length is not the one that `shape` gives, or this norm or the input's has other channels.
pub fn norm_conv_backward_weight<'a>(
    of: NormGradient<'_>,
    shape: &ConvShape,
    input: impl Into<Input<'a>>,
    grad_weight: &mut [f32],
    scratch: &mut Scratch,
) {
    norm_conv_backward_weight_on(Isa::best(), of, shape, input, grad_weight, scratch);
}

/// [`norm_conv_backward_weight`] with a given instruction set.
///
/// # Panics
/// As there.
pub fn norm_conv_backward_weight_on<'a>(
    isa: Isa,
    of: NormGradient<'_>,
    shape: &ConvShape,
    input: impl Into<Input<'a>>,
    grad_weight: &mut [f32],
    scratch: &mut Scratch,
) {
    let NormGradient { norm, batch_statistics, x, output, grad, grad_gamma, grad_beta } = of;
    let input = input.into();
    input.check(shape);
    shape.check(input.values.len(), grad_weight.len(), x.len());
    assert_eq!(norm.channels, shape.out_channels, "channels of the norm after {shape:?}");
    let empty = x.is_empty() || input.values.is_empty();
    if empty || !batch_statistics || !takes_norm(isa, shape) {
        norm_backward(&norm, batch_statistics, x, output, grad, grad_gamma, grad_beta, scratch);
        conv_backward_weight_on(isa, shape, input, x, grad_weight, scratch);
        return;
    }
    let channels = norm.channels;
    input.with(sums_normalise(isa, shape), 3 * channels, scratch, |input, scratch, kept| {
        let output = output.filter(|_| norm.relu);
        let span_of_sums = tracing::trace_span!("norm_backward").entered();
        let means = sums(&norm, false, x, output, grad, grad_gamma, grad_beta, scratch);
        drop(span_of_sums);
        let (scale, rest) = kept.split_at_mut(channels);
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
            mean: norm.mean.as_ptr(),
            scale: scale.as_ptr(),
            beta: norm.beta.as_ptr(),
            sum: sum.as_ptr(),
            product: product.as_ptr(),
            masked: norm.relu && output.is_none(),
        };
        let (dy, norm) = (gradient.x.cast_const(), Some(gradient));
        weight_gradient(isa, shape, input, dy, norm, grad_weight, scratch);
    });
}

/// Whether the shape allows one pass less, on as many threads as the ambient pool has.
fn takes_norm(isa: Isa, shape: &ConvShape) -> bool {
    #[cfg(target_arch = "x86_64")]
    if sums_by_matrix(isa, shape) {
        return matrix::takes_norm(shape);
    }
    let _ = isa;
    by_winograd(shape) && winograd::takes_norm(shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without this, `tests/fused.rs` would compare the same two passes with each other.
    #[test]
    fn few_channels_and_many_images_are_one_pass_less() {
        let shape = |batch, size, channels, kernel| ConvShape {
            batch,
            height: size,
            width: size,
            in_channels: channels,
            out_channels: channels,
            full_in: channels,
            full_out: channels,
            kernel,
            stride: 1,
        };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("a pool");
        pool.install(|| {
            for isa in Isa::available() {
                let takes = |batch, size, channels, kernel| {
                    takes_norm(isa, &shape(batch, size, channels, kernel))
                };
                let name = isa.name();
                for (batch, size, channels) in [(17, 28, 8), (64, 28, 32), (64, 14, 64)] {
                    assert!(takes(batch, size, channels, 3), "{size}, {channels}, {name}");
                }
                for (batch, size, channels, kernel) in [(1, 28, 32, 3), (64, 28, 32, 1)] {
                    assert!(!takes(batch, size, channels, kernel), "{size}, {channels}, {name}");
                }
                assert_eq!(takes(64, 7, 128, 3), name == "amx", "{name}");
                let strided = ConvShape { stride: 2, ..shape(17, 28, 40, 3) };
                assert_eq!(takes_norm(isa, &strided), name == "amx", "{name}");
                assert!(!takes(64, 4, 256, 3), "{name}");
            }
        });
    }
}
