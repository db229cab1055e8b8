//! The contrastive head's element-wise operations: ReLU and L2 normalisation.

use super::exponential::sum_of_pairs;
use crate::tile::vectorised;
use slimtau_parallel::{chunks, chunks_mut, for_each_chunk};

/// The least norm that a row is divided by, as in PyTorch's `F.normalize`.
const SMALLEST_NORM: f32 = 1e-12;

/// `y = max(x, 0)`; NaN passes through.
///
/// # Panics
/// When the lengths differ.
pub fn relu_forward(x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "lengths of x and y");
    vectorised(
        #[inline(always)]
        || {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = if x < 0.0 { 0.0 } else { x };
            }
        },
    );
}

/// `grad_x = grad_y` where `y > 0`, else 0, `y` being the ReLU's output.
///
/// # Panics
/// When the lengths differ.
pub fn relu_backward(y: &[f32], grad_y: &[f32], grad_x: &mut [f32]) {
    assert_eq!(y.len(), grad_y.len(), "lengths of y and grad_y");
    assert_eq!(y.len(), grad_x.len(), "lengths of y and grad_x");
    vectorised(
        #[inline(always)]
        || {
            for ((gx, &gy), &y) in grad_x.iter_mut().zip(grad_y).zip(y) {
                *gx = if y <= 0.0 { 0.0 } else { gy };
            }
        },
    );
}

/// `y = x / max(|x|, 1e-12)` for every row of `dim` numbers; `norms` receives the divisors.
/// `x` and `y` are `[rows, dim]`, `norms` `[rows]`.
///
/// # Panics
/// When a length is wrong.
pub fn l2_normalize(dim: usize, x: &[f32], y: &mut [f32], norms: &mut [f32]) {
    assert!(dim > 0, "rows of no numbers");
    assert_eq!(x.len(), norms.len() * dim, "length of x");
    assert_eq!(x.len(), y.len(), "lengths of x and y");
    let rows = (chunks_mut(y, dim), chunks(x, dim), chunks_mut(norms, 1));
    for_each_chunk(rows, |_, (y, x, norms)| {
        let [norm] = norms else { unreachable!("one norm a row") };
        // In f64: the squares of tiny or huge numbers leave the range of f32.
        let squares: f64 = x.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
        let length = squares.sqrt() as f32;
        *norm = if length < SMALLEST_NORM { SMALLEST_NORM } else { length };
        for (y, x) in y.iter_mut().zip(x) {
            *y = x / *norm;
        }
    });
}

/// `grad_x = (grad_y - y (y . grad_y)) / norm` for every row, given the `y` and `norms` of
/// [`l2_normalize`]. A row at the least norm was divided by a constant: `grad_y / norm`.
///
/// # Panics
/// When a length is wrong.
pub fn l2_normalize_backward(
    dim: usize,
    y: &[f32],
    norms: &[f32],
    grad_y: &[f32],
    grad_x: &mut [f32],
) {
    assert!(dim > 0, "rows of no numbers");
    assert_eq!(y.len(), norms.len() * dim, "length of y");
    assert_eq!(y.len(), grad_y.len(), "lengths of y and grad_y");
    assert_eq!(y.len(), grad_x.len(), "lengths of y and grad_x");
    let rows = (chunks_mut(grad_x, dim), chunks(y, dim), chunks(grad_y, dim));
    for_each_chunk(rows, |row, (grad_x, y, grad_y)| {
        let norm = norms[row];
        vectorised(
            #[inline(always)]
            || {
                let along = sum_of_pairs(y, grad_y, |y, g| y * g) as f32;
                let along = if norm <= SMALLEST_NORM { 0.0 } else { along };
                for ((gx, gy), y) in grad_x.iter_mut().zip(grad_y).zip(y) {
                    *gx = (gy - y * along) / norm;
                }
            },
        );
    });
}
