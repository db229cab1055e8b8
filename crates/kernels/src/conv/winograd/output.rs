//! `Y = A^T M A`: products in the Winograd domain back to output tiles, and the weight gradient's
//! `dg = G^T dU G`.

use std::ops::Range;

use super::grid::{Block, Tile};
use super::points::{POINTS, TILE, filter_gradient, output, uses};
use crate::conv::epilogue::{Finish, for_each_vector};
use crate::conv::simd::{Job, LANES, Simd, Vector};

/// Transforms some tiles of a block back, `channels` of them from `first` on.
///
/// `M[point][tile][channel]` is read at `from + point * point_stride + t * row + channel - first`.
#[derive(Clone)]
pub(super) struct OutputTiles<'a> {
    pub block: &'a Block,
    pub tiles: Range<usize>,
    pub from: *const f32,
    pub point_stride: usize,
    pub row: usize,
    /// The map, `[image][height][width][pixel]`.
    pub to: *mut f32,
    pub height: usize,
    pub width: usize,
    pub pixel: usize,
    pub first: usize,
    pub channels: usize,
    pub finish: Finish,
}

impl Job for OutputTiles<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        self.block.for_each(self.tiles.clone(), |t, tile| {
            let from = self.from.wrapping_add(t * self.row);
            macro_rules! sizes {
                ($(($h:literal, $w:literal))*) => {
                    match (tile.height, tile.width) {
                        // SAFETY: the caller lends the products and the map.
                        $(($h, $w) => unsafe { self.tile::<S, $h, $w>(from, tile) },)*
                        _ => unreachable!("a tile has 1 to 4 outputs a side"),
                    }
                };
            }
            sizes!((4, 4)(4, 3)(4, 2)(4, 1)(3, 4)(3, 3)(3, 2)(3, 1)(2, 4)(2, 3)(2, 2)(2, 1)(1, 4)(
                1, 3
            )(1, 2)(1, 1));
        });
    }
}

impl OutputTiles<'_> {
    #[inline(always)]
    unsafe fn tile<S: Simd, const H: usize, const W: usize>(&self, from: *const f32, tile: Tile) {
        let pixel = (tile.image * self.height + tile.y) * self.width + tile.x;
        let at = pixel * self.pixel;
        for_each_vector::<S>(
            self.channels,
            |c| {
                // SAFETY: a whole vector of channels is left.
                let load = |p| unsafe { S::Wide::load(p) };
                let store = |v: S::Wide, p| unsafe { v.store(p) };
                unsafe {
                    self.vector::<S::Wide, H, W>(
                        from.wrapping_add(c),
                        at,
                        self.first + c,
                        load,
                        store,
                    )
                }
            },
            |c, n| {
                // SAFETY: `n` channels are left; the products are padded to whole vectors.
                let load = |p| unsafe { S::Narrow::load_partial(p, n) };
                let store = |v: S::Narrow, p| unsafe { v.store_partial(p, n) };
                unsafe {
                    self.vector::<S::Narrow, H, W>(
                        from.wrapping_add(c),
                        at,
                        self.first + c,
                        load,
                        store,
                    )
                }
            },
        );
    }

    #[inline(always)]
    unsafe fn vector<V: Vector, const H: usize, const W: usize>(
        &self,
        from: *const f32,
        at: usize,
        channel: usize,
        load: impl Fn(*const f32) -> V + Copy,
        store: impl Fn(V, *mut f32) + Copy,
    ) {
        // SAFETY: passed on to the caller.
        unsafe {
            let zero = V::splat(0.0);
            let mut vertical = [[zero; POINTS]; TILE];
            for j in 0..POINTS {
                if uses(W, j) {
                    let mut m = [zero; POINTS];
                    for (i, m) in m.iter_mut().enumerate() {
                        if uses(H, i) {
                            *m = V::load(from.wrapping_add((i * POINTS + j) * self.point_stride));
                        }
                    }
                    let outputs = output::<V, H>(m);
                    for i in 0..H {
                        vertical[i][j] = outputs[i];
                    }
                }
            }
            for (i, line) in vertical.iter().enumerate().take(H) {
                let y = output::<V, W>(*line);
                let row: [V; W] = std::array::from_fn(|j| y[j]);
                let at = at + i * self.width * self.pixel;
                self.finish.pixels(row, self.to, at, self.pixel, channel, load, store);
            }
        }
    }
}

/// Adds `G^T dU G` to rows `rows` of the weight gradient, `columns` of them from `first_column` on.
///
/// `dU[copy][point][row][column]` is read at `from + copy * copy_stride + point * point_stride +
/// (row - rows.start) * row_stride + column - first_column`; copies are summed in order.
#[derive(Clone)]
pub(super) struct FilterGradient {
    pub from: *const f32,
    pub copies: usize,
    pub copy_stride: usize,
    pub point_stride: usize,
    pub row_stride: usize,
    /// Input channels.
    pub rows: Range<usize>,
    /// Output channels.
    pub first_column: usize,
    pub columns: usize,
    /// `[3][3][full_in][full_out]`.
    pub to: *mut f32,
    pub tap_stride: usize,
    pub full_out: usize,
}

impl Job for FilterGradient {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for row in self.rows.clone() {
            let from = self.from.wrapping_add((row - self.rows.start) * self.row_stride);
            let to = self.to.wrapping_add(row * self.full_out + self.first_column);
            for_each_vector::<S>(
                self.columns,
                |c| {
                    // SAFETY: a whole vector of columns is left.
                    let load = |p| unsafe { S::Wide::load(p) };
                    let store = |v: S::Wide, p| unsafe { v.store(p) };
                    unsafe {
                        self.vector::<S::Wide>(
                            from.wrapping_add(c),
                            to.wrapping_add(c),
                            load,
                            store,
                        )
                    }
                },
                |c, n| {
                    // SAFETY: `n` columns are left; `dU` is padded to whole vectors.
                    let load = |p| unsafe { S::Narrow::load_partial(p, n) };
                    let store = |v: S::Narrow, p| unsafe { v.store_partial(p, n) };
                    unsafe {
                        self.vector::<S::Narrow>(
                            from.wrapping_add(c),
                            to.wrapping_add(c),
                            load,
                            store,
                        )
                    }
                },
            );
        }
        debug_assert!(self.row_stride.is_multiple_of(LANES));
    }
}

impl FilterGradient {
    #[inline(always)]
    unsafe fn vector<V: Vector>(
        &self,
        from: *const f32,
        to: *mut f32,
        load: impl Fn(*const f32) -> V,
        store: impl Fn(V, *mut f32),
    ) {
        // SAFETY: passed on to the caller.
        unsafe {
            let mut vertical = [[V::splat(0.0); POINTS]; 3];
            for j in 0..POINTS {
                let u = std::array::from_fn(|i| {
                    let at = from.wrapping_add((i * POINTS + j) * self.point_stride);
                    let mut sum = V::load(at);
                    for copy in 1..self.copies {
                        sum = sum.add(V::load(at.wrapping_add(copy * self.copy_stride)));
                    }
                    sum
                });
                let taps = filter_gradient::<V>(u);
                for i in 0..3 {
                    vertical[i][j] = taps[i];
                }
            }
            for (i, line) in vertical.iter().enumerate() {
                for (j, tap) in filter_gradient::<V>(*line).into_iter().enumerate() {
                    let to = to.wrapping_add((i * 3 + j) * self.tap_stride);
                    store(tap.add(load(to)), to);
                }
            }
        }
    }
}
