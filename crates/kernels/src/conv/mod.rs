//! Slimmable 2-D convolution: forward, data gradient and weight gradient on the leading channels
//! of a shared weight.
//!
//! Activations are NHWC with the active channels only, weights HWIO with all of them, so that a
//! slimmed convolution reads its block of the shared weight in place and its gradient lands there.
//!
//! 3 x 3 convolutions of stride 1 go through Winograd's F(4 x 4, 3 x 3) to F(6 x 6, 3 x 3) (`winograd`), unless they
//! have fewer than 8 input channels; these and all others go through matrix products that read
//! pixels where they are (`direct`). The micro-kernels (`product`, `indirect`) are written once for
//! every instruction set (`simd`). Where a processor has a matrix unit, 3 x 3 convolutions of stride 1 and 2, many
//! channels and 6 images or more go there (`matrix`). Relative to the definition in f64, the root-mean-square error is
//! about 1e-6 to 5e-6 by Winograd and 1e-7 to 1e-6 by plain products, for noise. On the matrix unit it is 4e-6 to 5e-6 at
//! stride 2, where a map has fewer than 3 lines, and where a batch has fewer than 1,200 pixels (forward and in the data gradient if
//! it also has fewer than 40 filters, which are input times output channels, for each of them), and up to 1.1e-5 else; of tensors
//! of equal values single pixels may err by 5e-5.
//! Wherever tiles are transformed (Winograd, and the latter), a pixel errs relative to the largest that its tile reads.
//!
//! The functions run on the ambient rayon pool, allocate nothing once the [`Scratch`] has grown, and
//! give the same bits on any number of threads.

mod class;
mod columns;
mod direct;
mod epilogue;
mod fused;
mod indirect;
mod input;
#[cfg(target_arch = "x86_64")]
mod matrix;
mod moments;
mod parallel;
mod product;
pub mod reference;
mod shape;
mod simd;
#[cfg(test)]
mod tests;
mod winograd;

pub use epilogue::Epilogue;
pub use fused::{NormGradient, norm_conv_backward_weight, norm_conv_backward_weight_on};
pub use input::Input;
pub use shape::ConvShape;
pub use simd::Isa;

use crate::Scratch;
use crate::norm::batch_statistics;
use columns::InputGradient;
use epilogue::Finish;
use input::Reading;

/// `output = epilogue(input * weight)`; every element of `output` is written. The input is a slice, or an [`Input`] with a
/// norm that it goes through where it is read.
///
/// # Panics
/// When a slice's length is not the one that `shape` gives, or the input's norm has other channels.
pub fn conv_forward<'a>(
    shape: &ConvShape,
    input: impl Into<Input<'a>>,
    weight: &[f32],
    output: &mut [f32],
    epilogue: Epilogue<'_>,
    scratch: &mut Scratch,
) {
    conv_forward_on(Isa::best(), shape, input, weight, output, epilogue, scratch);
}

/// [`conv_forward`] with a given instruction set.
///
/// # Panics
/// When a slice's length is not the one that `shape` gives.
pub fn conv_forward_on<'a>(
    isa: Isa,
    shape: &ConvShape,
    input: impl Into<Input<'a>>,
    weight: &[f32],
    output: &mut [f32],
    epilogue: Epilogue<'_>,
    scratch: &mut Scratch,
) {
    let input = input.into();
    input.check(shape);
    shape.check(input.values.len(), weight.len(), output.len());
    if let Epilogue::Affine { scale, shift, residual, .. } = epilogue {
        assert_eq!(scale.len(), shape.out_channels, "length of the scale of {shape:?}");
        assert_eq!(shift.len(), shape.out_channels, "length of the shift of {shape:?}");
        if let Some(residual) = residual {
            assert_eq!(residual.len(), output.len(), "length of the residual of {shape:?}");
        }
    }
    if output.is_empty() {
        return;
    }
    let finish = Finish::from(epilogue);
    input.with(normalises(isa, shape), 0, scratch, |input, scratch, _| {
        let _span = span("conv_forward", shape);
        let filters = filters(shape, weight, false);
        #[cfg(target_arch = "x86_64")]
        if correlates_by_matrix(isa, shape) {
            matrix::forward(isa, shape, input, filters, output, finish, None, scratch);
            return;
        }
        if by_winograd(shape) {
            winograd::correlate(isa, map(shape), input, filters, output, finish, None, scratch);
        } else {
            direct::forward(isa, shape, input.plain(), weight, output, finish, scratch);
        }
    });
}

/// [`conv_forward`] without an epilogue, and the [`batch_statistics`] of its output: mean and biased
/// variance of every channel. Faster than one after the other where the output outgrows the caches.
///
/// # Panics
/// When a slice's length is not the one that `shape` gives, the input's norm has other channels, or the output is empty.
pub fn conv_forward_statistics<'a>(
    shape: &ConvShape,
    input: impl Into<Input<'a>>,
    weight: &[f32],
    output: &mut [f32],
    mean: &mut [f32],
    var: &mut [f32],
    scratch: &mut Scratch,
) {
    let isa = Isa::best();
    conv_forward_statistics_on(isa, shape, input, weight, output, mean, var, scratch);
}

/// [`conv_forward_statistics`] with a given instruction set.
///
/// # Panics
/// As there.
pub fn conv_forward_statistics_on<'a>(
    isa: Isa,
    shape: &ConvShape,
    input: impl Into<Input<'a>>,
    weight: &[f32],
    output: &mut [f32],
    mean: &mut [f32],
    var: &mut [f32],
    scratch: &mut Scratch,
) {
    let input = input.into();
    let by_matrix = correlates_by_matrix(isa, shape);
    if !(by_matrix || by_winograd(shape)) || output.is_empty() {
        conv_forward_on(isa, shape, input, weight, output, Epilogue::None, scratch);
        batch_statistics(shape.out_channels, output, mean, var, scratch);
        return;
    }
    input.check(shape);
    shape.check(input.values.len(), weight.len(), output.len());
    assert_eq!(mean.len(), shape.out_channels, "length of mean");
    assert_eq!(var.len(), shape.out_channels, "length of var");
    input.with(normalises(isa, shape), 0, scratch, |input, scratch, _| {
        let _span = span("conv_forward", shape);
        let filters = filters(shape, weight, false);
        let statistics = Some(winograd::Statistics { mean, var });
        let finish = Finish::Store;
        #[cfg(target_arch = "x86_64")]
        if by_matrix {
            matrix::forward(isa, shape, input, filters, output, finish, statistics, scratch);
            return;
        }
        winograd::correlate(isa, map(shape), input, filters, output, finish, statistics, scratch);
    });
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
    let isa = Isa::best();
    conv_backward_input_on(isa, shape, grad_output, weight, grad_input, accumulate, scratch);
}

/// [`conv_backward_input`] with a given instruction set.
///
/// # Panics
/// When a slice's length is not the one that `shape` gives.
pub fn conv_backward_input_on(
    isa: Isa,
    shape: &ConvShape,
    grad_output: &[f32],
    weight: &[f32],
    grad_input: &mut [f32],
    accumulate: bool,
    scratch: &mut Scratch,
) {
    let _span = span("conv_backward_input", shape);
    shape.check(grad_input.len(), weight.len(), grad_output.len());
    if grad_input.is_empty() {
        return;
    }
    let finish = if accumulate { Finish::Add } else { Finish::Store };
    let filters = filters(shape, weight, true);
    #[cfg(target_arch = "x86_64")]
    if correlates_by_matrix(isa, shape) {
        matrix::backward_input(isa, shape, grad_output, filters, grad_input, finish, scratch);
        return;
    }
    // Nobody differentiates a stem's input: not worth another way.
    if fits_winograd(shape) {
        let map = map(shape);
        let source = Reading { values: grad_output, norm: None };
        winograd::correlate(isa, map, source, filters, grad_input, finish, None, scratch);
    } else {
        direct::backward_input(isa, shape, grad_output, weight, grad_input, finish, scratch);
    }
}

/// Adds the gradient of the weight to the leading block of `grad_weight`; the rest is not touched. The input is what
/// [`conv_forward`] read.
///
/// # Panics
/// When a slice's length is not the one that `shape` gives, or the input's norm has other channels.
pub fn conv_backward_weight<'a>(
    shape: &ConvShape,
    input: impl Into<Input<'a>>,
    grad_output: &[f32],
    grad_weight: &mut [f32],
    scratch: &mut Scratch,
) {
    conv_backward_weight_on(Isa::best(), shape, input, grad_output, grad_weight, scratch);
}

/// [`conv_backward_weight`] with a given instruction set.
///
/// # Panics
/// When a slice's length is not the one that `shape` gives.
pub fn conv_backward_weight_on<'a>(
    isa: Isa,
    shape: &ConvShape,
    input: impl Into<Input<'a>>,
    grad_output: &[f32],
    grad_weight: &mut [f32],
    scratch: &mut Scratch,
) {
    let input = input.into();
    input.check(shape);
    shape.check(input.values.len(), grad_weight.len(), grad_output.len());
    if input.values.is_empty() || grad_output.is_empty() {
        return;
    }
    input.with(sums_normalise(isa, shape), 0, scratch, |input, scratch, _| {
        let _span = span("conv_backward_weight", shape);
        if sums_by_matrix(isa, shape) || by_winograd(shape) {
            weight_gradient(isa, shape, input, grad_output.as_ptr(), None, grad_weight, scratch);
        } else {
            direct::weight_gradient(isa, shape, input.plain(), grad_output, grad_weight, scratch);
        }
    });
}

/// What a listener learns of a call: its operation, its shape and its arithmetic.
fn span(operation: &'static str, shape: &ConvShape) -> tracing::span::EnteredSpan {
    let (kernel, stride) = (shape.kernel, shape.stride);
    let macs = shape.macs();
    tracing::trace_span!("conv", operation, kernel, stride, macs, %shape).entered()
}

/// Channels below which transforming the input's tiles costs more than the products that it saves.
const LEAST_CHANNELS: usize = 8;

fn fits_winograd(shape: &ConvShape) -> bool {
    shape.kernel == 3 && shape.stride == 1
}

fn by_winograd(shape: &ConvShape) -> bool {
    fits_winograd(shape) && shape.in_channels >= LEAST_CHANNELS
}

/// Whether a convolution's output and the gradient of its input are made on the matrix unit.
#[cfg(target_arch = "x86_64")]
fn correlates_by_matrix(isa: Isa, shape: &ConvShape) -> bool {
    isa.has_matrix_unit() && matrix::correlates(shape)
}

/// Whether the gradient of its weight is.
#[cfg(target_arch = "x86_64")]
fn sums_by_matrix(isa: Isa, shape: &ConvShape) -> bool {
    isa.has_matrix_unit() && matrix::sums(shape)
}

#[cfg(not(target_arch = "x86_64"))]
fn correlates_by_matrix(_: Isa, _: &ConvShape) -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn sums_by_matrix(_: Isa, _: &ConvShape) -> bool {
    false
}

/// Whether a convolution normalises what it reads forward.
fn normalises(isa: Isa, shape: &ConvShape) -> bool {
    let channels = [shape.in_channels, shape.out_channels];
    correlates_by_matrix(isa, shape)
        || by_winograd(shape) && winograd::normalises(map(shape), channels)
}

/// Whether the gradient of its weight does.
fn sums_normalise(isa: Isa, shape: &ConvShape) -> bool {
    sums_by_matrix(isa, shape) || by_winograd(shape) && winograd::sums_normalise(shape)
}

/// The gradient of a 3 x 3 convolution's weight, the better way for the machine; with `norm` for the gradient
/// that it makes of its `x`.
fn weight_gradient(
    isa: Isa,
    shape: &ConvShape,
    input: Reading<'_>,
    grad_output: *const f32,
    norm: Option<InputGradient>,
    grad_weight: &mut [f32],
    scratch: &mut Scratch,
) {
    #[cfg(target_arch = "x86_64")]
    if sums_by_matrix(isa, shape) {
        matrix::weight_gradient(isa, shape, input, grad_output, norm, grad_weight, scratch);
        return;
    }
    winograd::weight_gradient(isa, shape, input, grad_output, norm, grad_weight, scratch);
}

/// Of the input.
fn map(shape: &ConvShape) -> winograd::Map {
    winograd::Map { batch: shape.batch, height: shape.height, width: shape.width }
}

#[cfg(target_arch = "x86_64")]
fn output_map(shape: &ConvShape) -> winograd::Map {
    let (height, width) = (shape.out_height(), shape.out_width());
    winograd::Map { batch: shape.batch, height, width }
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
