//! The matrix product behind the dense layer and InfoNCE, on one thread. It packs pieces of its
//! operands in arrays on the stack, so that it allocates nothing.
//!
//! (The convolutions have a product of their own, `conv::product`, which reads operands that they
//! lay out for it.)

use crate::tile::instruction_set;
use pulp::{Simd, WithSimd};

/// Depth, rows and columns of the pieces: 36 KiB of `a` and at most 16 KiB of `b`, on the stack. The rows
/// cover the 64 of a task in one go, as each go packs `b` anew.
const DEPTH: usize = 128;
const ROWS: usize = 12 * TILE_ROWS;
/// Rows of a register tile; its columns are two vectors, of up to 16 lanes.
const TILE_ROWS: usize = 6;
const MAX_TILE_COLUMNS: usize = 32;

/// A view of `rows x columns` numbers in a slice.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    /// One of the two strides is 1.
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A row-major matrix whose rows start `stride` apart.
    ///
    /// # Panics
    /// When it does not fit in `data`, or its rows overlap.
    pub(crate) fn new(data: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        assert!(columns <= stride, "rows of {columns} floats overlap at a stride of {stride}");
        let end = if rows == 0 { 0 } else { (rows - 1) * stride + columns };
        assert!(end <= data.len(), "a matrix of {end} floats in a slice of {}", data.len());
        Self { data, rows, columns, row_stride: stride, column_stride: 1 }
    }

    /// The same numbers with rows and columns exchanged.
    pub(crate) fn transposed(self) -> Self {
        Self {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }
}

/// `out = factor * a b`, or `out += factor * a b` to `accumulate`, on the calling thread. `out` is
/// row-major with rows `stride` apart; what lies between its rows is not touched.
///
/// # Panics
/// When the matrices do not fit together, or `out` is too short.
pub(crate) fn product(
    factor: f32,
    a: Matrix<'_>,
    b: Matrix<'_>,
    accumulate: bool,
    out: &mut [f32],
    stride: usize,
) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    assert_eq!(k, b.rows, "inner dimensions");
    assert!(n <= stride, "rows of {n} floats overlap at a stride of {stride}");
    if m == 0 || n == 0 {
        return;
    }
    assert!((m - 1) * stride + n <= out.len(), "the product is longer than its destination");
    if k == 0 {
        if !accumulate {
            out.chunks_mut(stride).take(m).for_each(|row| row[..n].fill(0.0));
        }
        return;
    }
    instruction_set().dispatch(Blocked { factor, a, b, accumulate, out, stride });
}

/// A packed operand: for every step of the depth, the numbers of one tile side by side.
#[repr(C, align(64))]
struct Packed<const LEN: usize>([f32; LEN]);

struct Blocked<'a> {
    factor: f32,
    a: Matrix<'a>,
    b: Matrix<'a>,
    accumulate: bool,
    out: &'a mut [f32],
    stride: usize,
}

impl WithSimd for Blocked<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { factor, a, b, accumulate, out, stride } = self;
        let width = 2 * S::F32_LANES;
        let mut rows = Packed([0.0; ROWS * DEPTH]);
        let mut panel = Packed([0.0; MAX_TILE_COLUMNS * DEPTH]);
        for k in (0..a.columns).step_by(DEPTH) {
            let depth = DEPTH.min(a.columns - k);
            let accumulate = accumulate || k > 0;
            for i in (0..a.rows).step_by(ROWS) {
                let tiles = rows.0.chunks_exact_mut(TILE_ROWS * depth);
                for (tile, i) in tiles.zip((i..a.rows.min(i + ROWS)).step_by(TILE_ROWS)) {
                    let n = TILE_ROWS.min(a.rows - i);
                    let source = &a.data[i * a.row_stride + k * a.column_stride..];
                    pack(TILE_ROWS, source, n, a.row_stride, depth, a.column_stride, tile);
                }
                for j in (0..b.columns).step_by(width) {
                    let n = width.min(b.columns - j);
                    let panel = &mut panel.0[..width * depth];
                    let source = &b.data[j * b.column_stride + k * b.row_stride..];
                    pack(width, source, n, b.column_stride, depth, b.row_stride, panel);
                    let tiles = rows.0.chunks_exact(TILE_ROWS * depth);
                    for (tile, i) in tiles.zip((i..a.rows.min(i + ROWS)).step_by(TILE_ROWS)) {
                        let sums = multiply(simd, tile, panel);
                        for (i, sums) in (i..a.rows.min(i + TILE_ROWS)).zip(sums) {
                            let out = &mut out[i * stride + j..][..n];
                            finish(simd, factor, sums, accumulate, out);
                        }
                    }
                }
            }
        }
    }
}

/// `packed[k][line] = source[line * stride + k * step]` for `lines <= width` lines, zero in the others.
/// One of `stride` and `step` is 1.
#[inline(always)]
fn pack(
    width: usize,
    source: &[f32],
    lines: usize,
    stride: usize,
    depth: usize,
    step: usize,
    packed: &mut [f32],
) {
    if stride == 1 {
        for (k, packed) in packed.chunks_exact_mut(width).enumerate().take(depth) {
            let (used, rest) = packed.split_at_mut(lines);
            used.copy_from_slice(&source[k * step..][..lines]);
            rest.fill(0.0);
        }
    } else {
        if lines < width {
            packed.fill(0.0);
        }
        for line in 0..lines {
            let source = &source[line * stride..][..depth];
            for (packed, value) in packed[line..].iter_mut().step_by(width).zip(source) {
                *packed = *value;
            }
        }
    }
}

/// The register tile: `sums[i][j] = sum over k of tile[k][i] * panel[k][j]`, two vectors a row.
#[inline(always)]
fn multiply<S: Simd>(simd: S, tile: &[f32], panel: &[f32]) -> [[S::f32s; 2]; TILE_ROWS] {
    let mut sums = [[simd.splat_f32s(0.0); 2]; TILE_ROWS];
    let (panel, _) = S::as_simd_f32s(panel);
    let (panel, _) = panel.as_chunks::<2>();
    let (tile, _) = tile.as_chunks::<TILE_ROWS>();
    for (tile, panel) in tile.iter().zip(panel) {
        for (sums, value) in sums.iter_mut().zip(tile) {
            let value = simd.splat_f32s(*value);
            sums[0] = simd.mul_add_e_f32s(value, panel[0], sums[0]);
            sums[1] = simd.mul_add_e_f32s(value, panel[1], sums[1]);
        }
    }
    sums
}

/// One row of a tile on its way to memory; `out` may be shorter than two vectors.
#[inline(always)]
fn finish<S: Simd>(simd: S, factor: f32, sums: [S::f32s; 2], accumulate: bool, out: &mut [f32]) {
    let factor = simd.splat_f32s(factor);
    let (first, second) = out.split_at_mut(out.len().min(S::F32_LANES));
    for (out, sum) in [first, second].into_iter().zip(sums) {
        let value = if accumulate {
            simd.mul_add_e_f32s(factor, sum, simd.partial_load_f32s(out))
        } else {
            simd.mul_f32s(factor, sum)
        };
        simd.partial_store_f32s(out, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole numbers, so that sums are exact in any order; stored with gaps between the rows.
    struct Operand {
        data: Vec<f32>,
        rows: usize,
        columns: usize,
        transposed: bool,
    }

    const GAP: usize = 3;

    impl Operand {
        fn new(seed: usize, rows: usize, columns: usize, transposed: bool) -> Self {
            let len = (rows + GAP) * (columns + GAP);
            let data = (0..len).map(|i| ((i * 37 + seed * 11) % 23) as f32 - 11.0).collect();
            Self { data, rows, columns, transposed }
        }

        fn matrix(&self) -> Matrix<'_> {
            let Self { rows, columns, .. } = *self;
            if self.transposed {
                Matrix::new(&self.data, columns, rows, rows + GAP).transposed()
            } else {
                Matrix::new(&self.data, rows, columns, columns + GAP)
            }
        }

        fn at(&self, i: usize, j: usize) -> f32 {
            let (rows, columns) = (self.rows + GAP, self.columns + GAP);
            self.data[if self.transposed { j * rows + i } else { i * columns + j }]
        }
    }

    fn check([m, n, k]: [usize; 3], transposed: [bool; 2], accumulate: bool) {
        let a = Operand::new(1, m, k, transposed[0]);
        let b = Operand::new(2, k, n, transposed[1]);
        let before = Operand::new(3, m, n, false);
        let stride = n + GAP;
        let mut out = before.data.clone();
        if !accumulate {
            // What has to be overwritten is poisoned.
            out.chunks_mut(stride).take(m).for_each(|row| row[..n].fill(f32::NAN));
        }
        product(0.5, a.matrix(), b.matrix(), accumulate, &mut out, stride);
        for (at, (got, before)) in out.iter().zip(&before.data).enumerate() {
            let (i, j) = (at / stride, at % stride);
            let want = if i < m && j < n {
                let sum: f32 = (0..k).map(|l| a.at(i, l) * b.at(l, j)).sum();
                0.5 * sum + if accumulate { *before } else { 0.0 }
            } else {
                *before
            };
            assert_eq!(*got, want, "{m} x {n} x {k}, transposed {transposed:?}, at {i}, {j}");
        }
    }

    #[test]
    fn every_rest_of_a_tile_and_every_order_of_the_operands() {
        let sizes: &[[usize; 3]] = if cfg!(miri) {
            &[[1, 1, 1], [7, 17, 3], [2, 3, 130]]
        } else {
            &[
                [1, 1, 1],
                [5, 7, 1],
                [6, 16, 4],
                [7, 17, 127],
                [13, 31, 128],
                [49, 33, 129],
                [97, 70, 300],
            ]
        };
        for &size in sizes {
            for transposed in [[false, false], [false, true], [true, false], [true, true]] {
                for accumulate in [false, true] {
                    check(size, transposed, accumulate);
                }
            }
        }
    }

    #[test]
    fn a_sum_of_nothing_is_zero() {
        let mut out = [f32::NAN, f32::NAN, 7.0];
        product(1.0, Matrix::new(&[], 1, 0, 1), Matrix::new(&[], 0, 2, 2), false, &mut out, 3);
        assert_eq!(out, [0.0, 0.0, 7.0]);
    }

    #[test]
    #[should_panic(expected = "a matrix of 7 floats in a slice of 6")]
    fn a_matrix_beyond_its_slice_is_refused() {
        Matrix::new(&[0.0; 6], 2, 3, 4);
    }
}
