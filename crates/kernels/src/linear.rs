//! The dense layer of the classifier and of the contrastive head, over the leading input columns of
//! a shared weight.

use crate::product::{Matrix, product};
use crate::tile::{FLUSH, TILE, Tiling, flush, vectorised};
use slimtau_parallel::{chunks, chunks_mut, for_each_chunk};

/// `y = x W^T + b` with `W` `[outputs, full_inputs]` as PyTorch stores it, of which the leading
/// `inputs` columns are active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinearShape {
    /// Rows of `x` and `y`: the batch.
    pub rows: usize,
    /// Active inputs, at most `full_inputs`.
    pub inputs: usize,
    /// Outputs.
    pub outputs: usize,
    /// Columns that the stored weight has.
    pub full_inputs: usize,
}

/// Rows of `x` that one task multiplies.
const ROWS: usize = 32;

/// Rows of the weight whose gradient one task computes.
const OUTPUTS: usize = 64;

impl LinearShape {
    /// Panics unless the sizes are consistent and the three slices have the lengths they call for.
    pub(crate) fn check(&self, x: usize, weight: usize, y: usize) {
        assert!(
            0 < self.inputs && self.inputs <= self.full_inputs && self.outputs > 0,
            "a linear layer of {} of {} inputs and {} outputs",
            self.inputs,
            self.full_inputs,
            self.outputs
        );
        assert_eq!(x, self.rows * self.inputs, "length of x");
        assert_eq!(weight, self.outputs * self.full_inputs, "length of the weight");
        assert_eq!(y, self.rows * self.outputs, "length of y");
    }
}

/// `y[rows, outputs] = x[rows, inputs] W[:, ..inputs]^T + bias[outputs]`.
///
/// # Panics
/// When a length is wrong, a dimension zero, or `inputs > full_inputs`.
pub fn linear_forward(shape: &LinearShape, x: &[f32], weight: &[f32], bias: &[f32], y: &mut [f32]) {
    let _span = tracing::trace_span!("linear").entered();
    shape.check(x.len(), weight.len(), y.len());
    let LinearShape { inputs, outputs, full_inputs, .. } = *shape;
    assert_eq!(bias.len(), outputs, "length of the bias");
    let rows = (chunks_mut(y, ROWS * outputs), chunks(x, ROWS * inputs));
    for_each_chunk(rows, |_, (y, x)| {
        for row in y.chunks_mut(outputs) {
            row.copy_from_slice(bias);
        }
        let x = Matrix::new(x, x.len() / inputs, inputs, inputs);
        let weight = Matrix::new(weight, outputs, inputs, full_inputs);
        product(1.0, x, weight.transposed(), true, y, outputs);
    });
}

/// The gradients of [`linear_forward`]. `grad_x` is overwritten; the leading `inputs` columns of
/// `grad_weight` `[outputs, full_inputs]` and `grad_bias` `[outputs]` are added to.
///
/// # Panics
/// When a length is wrong, a dimension zero, or `inputs > full_inputs`.
pub fn linear_backward(
    shape: &LinearShape,
    x: &[f32],
    weight: &[f32],
    grad_y: &[f32],
    grad_x: Option<&mut [f32]>,
    grad_weight: &mut [f32],
    grad_bias: &mut [f32],
) {
    let _span = tracing::trace_span!("linear").entered();
    shape.check(x.len(), weight.len(), grad_y.len());
    let LinearShape { rows, inputs, outputs, full_inputs } = *shape;
    assert_eq!(grad_weight.len(), weight.len(), "length of grad_weight");
    assert_eq!(grad_bias.len(), outputs, "length of grad_bias");
    if let Some(grad_x) = grad_x {
        assert_eq!(grad_x.len(), x.len(), "length of grad_x");
        let rows = (chunks_mut(grad_x, ROWS * inputs), chunks(grad_y, ROWS * outputs));
        for_each_chunk(rows, |_, (grad_x, grad_y)| {
            let grad_y = Matrix::new(grad_y, grad_y.len() / outputs, outputs, outputs);
            let weight = Matrix::new(weight, outputs, inputs, full_inputs);
            product(1.0, grad_y, weight, false, grad_x, inputs);
        });
    }
    if rows == 0 {
        return;
    }
    for_each_chunk(chunks_mut(grad_weight, OUTPUTS * full_inputs), |i, grad_weight| {
        let n = grad_weight.len() / full_inputs;
        let grad_y = Matrix::new(&grad_y[i * OUTPUTS..], rows, n, outputs);
        let x = Matrix::new(x, rows, inputs, inputs);
        product(1.0, grad_y.transposed(), x, true, grad_weight, full_inputs);
    });
    add_column_sums(outputs, grad_y, grad_bias);
}

/// `sums[c] += sum of column c` of `x` `[rows, channels]`.
fn add_column_sums(channels: usize, x: &[f32], sums: &mut [f32]) {
    let tiling = Tiling::new(channels);
    for block in tiling.blocks() {
        let (mut sum, mut totals) = ([0.0; TILE], [0.0; TILE]);
        vectorised(
            #[inline(always)]
            || {
                for row in 0..tiling.rows(x.len()) {
                    let x = &x[tiling.strip(x.len(), row, &block)];
                    for (s, v) in sum.iter_mut().zip(x) {
                        *s += v;
                    }
                    if row % FLUSH == FLUSH - 1 {
                        flush(&mut sum, &mut totals);
                    }
                }
                flush(&mut sum, &mut totals);
            },
        );
        let own = block.start..block.end.min(channels);
        for (j, s) in sums[own].iter_mut().enumerate() {
            *s += totals[j..block.len()].iter().step_by(channels).sum::<f64>() as f32;
        }
    }
}
