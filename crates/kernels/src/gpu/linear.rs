//! The dense layer on a GPU: correlations of 1x1 maps, and the sums of columns that are the bias's gradient.
//!
//! The weight `[outputs, full_inputs]` is that of a 1x1 convolution from `outputs` to `inputs` channels, so that the
//! convolution's data gradient is the layer's forward pass, and its forward pass the layer's data gradient.

use super::GpuError;
use super::arguments::{arguments, int};
use super::conv::{BACKWARD_INPUT, End, FORWARD, conv_backward_weight, correlate};
use super::driver::{Gpu, Launch};
use super::memory::{Buffer, View, ViewMut};
use crate::conv::ConvShape;
use crate::linear::LinearShape;

arguments! {
    /// `ColumnSumsArguments`.
    struct ColumnSums {
        x: u64,
        sums: u64,
        rows: i32,
        columns: i32,
    }
}

/// The convolution whose passes those of the layer are, the other way around.
fn convolution(shape: &LinearShape) -> ConvShape {
    let LinearShape { rows, inputs, outputs, full_inputs } = *shape;
    ConvShape {
        batch: rows,
        height: 1,
        width: 1,
        in_channels: outputs,
        out_channels: inputs,
        full_in: outputs,
        full_out: full_inputs,
        kernel: 1,
        stride: 1,
    }
}

/// As [`crate::linear::linear_forward`].
///
/// # Errors
/// When the GPU fails.
///
/// # Panics
/// When a length is wrong, a dimension zero, or `inputs > full_inputs`.
pub fn linear_forward(
    gpu: &Gpu,
    shape: &LinearShape,
    x: View<'_, f32>,
    weight: View<'_, f32>,
    bias: View<'_, f32>,
    y: ViewMut<'_, f32>,
) -> Result<(), GpuError> {
    assert_eq!(bias.len(), shape.outputs, "length of the bias");
    products(gpu, shape, x, weight, Some(bias), y)
}

/// `y[rows, outputs] = x[rows, inputs] W[:, ..inputs]^T + bias`, the products of rows with rows.
pub(super) fn products(
    gpu: &Gpu,
    shape: &LinearShape,
    x: View<'_, f32>,
    weight: View<'_, f32>,
    bias: Option<View<'_, f32>>,
    y: ViewMut<'_, f32>,
) -> Result<(), GpuError> {
    shape.check(x.len(), weight.len(), y.len());
    let end = End { shift: bias.map_or(0, |v| v.on(gpu)), ..End::default() };
    correlate(gpu, &convolution(shape), BACKWARD_INPUT, x, weight, y, end)
}

/// `sums[outputs, inputs] += grad_y[rows, outputs]^T x[rows, inputs]`, in rows of `full_inputs`.
pub(super) fn add_products_over_rows(
    gpu: &Gpu,
    shape: &LinearShape,
    x: View<'_, f32>,
    grad_y: View<'_, f32>,
    sums: ViewMut<'_, f32>,
    scratch: &mut Buffer<f32>,
) -> Result<(), GpuError> {
    conv_backward_weight(gpu, &convolution(shape), grad_y, x, sums, scratch)
}

/// As [`crate::linear::linear_backward`]: overwrites `grad_x`, adds to the leading columns of `grad_weight` and to
/// `grad_bias`. `scratch` holds the parts of sums over many rows.
///
/// # Errors
/// When the GPU fails.
///
/// # Panics
/// When a length is wrong, a dimension zero, or `inputs > full_inputs`.
#[expect(clippy::too_many_arguments, reason = "three operands, three gradients")]
pub fn linear_backward(
    gpu: &Gpu,
    shape: &LinearShape,
    x: View<'_, f32>,
    weight: View<'_, f32>,
    grad_y: View<'_, f32>,
    grad_x: Option<ViewMut<'_, f32>>,
    grad_weight: ViewMut<'_, f32>,
    grad_bias: ViewMut<'_, f32>,
    scratch: &mut Buffer<f32>,
) -> Result<(), GpuError> {
    shape.check(x.len(), weight.len(), grad_y.len());
    assert_eq!(grad_weight.len(), weight.len(), "length of grad_weight");
    assert_eq!(grad_bias.len(), shape.outputs, "length of grad_bias");
    if let Some(grad_x) = grad_x {
        assert_eq!(grad_x.len(), x.len(), "length of grad_x");
        correlate(gpu, &convolution(shape), FORWARD, grad_y, weight, grad_x, End::default())?;
    }
    if shape.rows == 0 {
        return Ok(());
    }
    add_products_over_rows(gpu, shape, x, grad_y, grad_weight, scratch)?;
    let arguments = ColumnSums {
        x: grad_y.on(gpu),
        sums: grad_bias.on(gpu),
        rows: int(shape.rows),
        columns: int(shape.outputs),
    };
    let (threads, columns) = (256, 32);
    let grid = [int(shape.outputs.div_ceil(columns)) as u32, 1, 1];
    let shared = threads as usize * size_of::<f64>();
    gpu.launch(Launch { kernel: "column_sums", grid, threads, shared }, &arguments)
}
