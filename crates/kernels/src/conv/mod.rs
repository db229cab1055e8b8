//! Slimmable 2-D convolution: forward, data gradient and weight gradient on the leading channels
//! of a shared weight.

mod plain;
pub mod reference;
mod shape;

pub use shape::ConvShape;

mod epilogue;
mod parallel;
mod product;
mod simd;
mod winograd;

pub use epilogue::Epilogue;
pub use simd::Isa;

use crate::Scratch;

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
    if output.is_empty() {
        return;
    }
    let isa = Isa::best();
    if shape.kernel == 3 && shape.stride == 1 {
        let filters = filters(shape, weight, false);
        winograd::correlate(isa, map(shape), input, filters, output, epilogue.into(), scratch);
    } else {
        plain::forward(shape, input, weight, output, epilogue);
    }
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
    if grad_input.is_empty() {
        return;
    }
    let isa = Isa::best();
    if shape.kernel == 3 && shape.stride == 1 {
        let finish = if accumulate { epilogue::Finish::Add } else { epilogue::Finish::Store };
        let filters = filters(shape, weight, true);
        winograd::correlate(isa, map(shape), grad_output, filters, grad_input, finish, scratch);
        return;
    }
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
    if input.is_empty() || grad_output.is_empty() {
        return;
    }
    let isa = Isa::best();
    if shape.kernel == 3 && shape.stride == 1 {
        winograd::weight_gradient(isa, shape, input, grad_output, grad_weight, scratch);
        return;
    }
    plain::backward_weight(shape, input, grad_output, grad_weight);
}

fn map(shape: &ConvShape) -> winograd::Map {
    winograd::Map { batch: shape.batch, height: shape.height, width: shape.width }
}

fn filters(shape: &ConvShape, weight: &[f32], transposed: bool) -> winograd::Filters {
    let (depth, columns) = if transposed {
        (shape.out_channels, shape.in_channels)
    } else {
        (shape.in_channels, shape.out_channels)
    };
    winograd::Filters {
        weight: weight.as_ptr(),
        full_in: shape.full_in,
        full_out: shape.full_out,
        depth,
        columns,
        transposed,
    }
}
