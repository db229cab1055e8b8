//! Slimmable 2-D convolution: forward, data gradient and weight gradient on the leading channels
//! of a shared weight.

mod plain;
mod shape;

pub use shape::ConvShape;

use crate::Scratch;

/// What happens to each output value before it is stored.
#[derive(Clone, Copy, Debug)]
pub enum Epilogue<'a> {
    /// The convolution as it is.
    None,
    /// `y = conv * scale[c] + shift[c] + residual`, then `max(y, 0)` with `relu`: a folded batch norm.
    Affine {
        /// `[out_channels]` factors.
        scale: &'a [f32],
        /// `[out_channels]` terms.
        shift: &'a [f32],
        /// An activation of the output's shape.
        residual: Option<&'a [f32]>,
        /// Whether negative results become zero.
        relu: bool,
    },
}

/// `output = epilogue(input * weight)`; every element of `output` is written.
///
/// # Panics
/// When a slice's length is not the one that `shape` gives.
pub fn conv_forward(
    shape: &ConvShape,
    input: &[f32],
    weight: &[f32],
    output: &mut [f32],
    epilogue: Epilogue<'_>,
    scratch: &mut Scratch,
) {
    shape.check(input.len(), weight.len(), output.len());
    if let Epilogue::Affine { scale, shift, residual, .. } = epilogue {
        assert_eq!(scale.len(), shape.out_channels, "length of scale");
        assert_eq!(shift.len(), shape.out_channels, "length of shift");
        if let Some(residual) = residual {
            assert_eq!(residual.len(), output.len(), "length of the residual");
        }
    }
    let _ = scratch;
    plain::forward(shape, input, weight, output, epilogue);
}

/// The gradient of the input; it overwrites `grad_input`, or adds to it with `accumulate`.
///
/// # Panics
/// When a slice's length is not the one that `shape` gives.
pub fn conv_backward_input(
    shape: &ConvShape,
    grad_output: &[f32],
    weight: &[f32],
    grad_input: &mut [f32],
    accumulate: bool,
    scratch: &mut Scratch,
) {
    shape.check(grad_input.len(), weight.len(), grad_output.len());
    let _ = scratch;
    plain::backward_input(shape, grad_output, weight, grad_input, accumulate);
}

/// Adds the gradient of the weight to the leading block of `grad_weight`; the rest is not touched.
///
/// # Panics
/// When a slice's length is not the one that `shape` gives.
pub fn conv_backward_weight(
    shape: &ConvShape,
    input: &[f32],
    grad_output: &[f32],
    grad_weight: &mut [f32],
    scratch: &mut Scratch,
) {
    shape.check(input.len(), grad_weight.len(), grad_output.len());
    let _ = scratch;
    plain::backward_weight(shape, input, grad_output, grad_weight);
}
