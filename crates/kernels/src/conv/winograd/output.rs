//! Out of the Winograd domain: `Y = A^T M A` for output tiles, `dg = G^T dU G` for the weight gradient.

use std::ops::Range;

use super::correlation::Map;
use super::grid::{Block, Tile};
use super::layout::{Distance, Far, Layout, Near, by_tile_size};
use super::points::{POINTS, TILE, filter_gradient, output, uses};
use crate::conv::epilogue::Finish;
use crate::conv::product::CHUNK;
use crate::conv::simd::{Access, First, Job, LANES, Simd, Vector, Whole};

/// Transforms some tiles of a block back, `channels` of them from `first` on, which is the layout's
/// channel 0.
#[derive(Clone)]
pub(super) struct OutputTiles<'a> {
    pub block: &'a Block,
    pub from: *const f32,
    pub layout: Layout,
    /// The map, `[image][height][width][pixel]`.
    pub to: *mut f32,
    pub map: Map,
    pub pixel: usize,
    pub first: usize,
    pub channels: usize,
    pub finish: Finish,
}

impl Job for OutputTiles<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: passed on from the caller.
        unsafe {
            if self.layout.point == CHUNK {
                self.tiles::<S, _>(Near);
            } else {
                self.tiles::<S, _>(Far(self.layout.point));
            }
        }
    }
}

impl OutputTiles<'_> {
    #[inline(always)]
    unsafe fn tiles<S: Simd, D: Distance>(&self, distance: D) {
        for (t, tile) in self.block.tiles(0..self.block.len()) {
            let from = self.from.wrapping_add(t * self.layout.row);
            // SAFETY: passed on from the caller.
            unsafe { by_tile_size!(tile, self.tile::<S, D>(from, tile, distance)) };
        }
    }

    #[inline(always)]
    unsafe fn tile<S: Simd, D: Distance, const H: usize, const W: usize>(
        &self,
        from: *const f32,
        tile: Tile,
        distance: D,
    ) {
        let pixel = (tile.image * self.map.height + tile.y) * self.map.width + tile.x;
        let at = pixel * self.pixel;
        let mut c = 0;
        // SAFETY: a whole vector of channels is left, or `channels - c`; the products are padded to
        // whole vectors.
        unsafe {
            while c + S::Wide::LANES <= self.channels {
                let from = from.wrapping_add(self.layout.channel(c));
                let channel = self.first + c;
                self.lines::<S::Wide, D, H, W, 0, 2>(from, at, channel, Whole, distance);
                self.lines::<S::Wide, D, H, W, 1, 3>(from, at, channel, Whole, distance);
                c += S::Wide::LANES;
            }
            while c < self.channels {
                let from = from.wrapping_add(self.layout.channel(c));
                let (channel, access) = (self.first + c, First(LANES.min(self.channels - c)));
                self.lines::<S::Narrow, D, H, W, 0, 2>(from, at, channel, access, distance);
                self.lines::<S::Narrow, D, H, W, 1, 3>(from, at, channel, access, distance);
                c += LANES;
            }
        }
    }

    /// Lines `P` and `Q` of a tile: few enough values to stay in registers, and those that share
    /// subexpressions.
    #[inline(always)]
    unsafe fn lines<
        V: Vector,
        D: Distance,
        const H: usize,
        const W: usize,
        const P: usize,
        const Q: usize,
    >(
        &self,
        from: *const f32,
        at: usize,
        channel: usize,
        access: impl Access,
        distance: D,
    ) {
        if P >= H {
            return;
        }
        // SAFETY: passed on to the caller.
        unsafe {
            let column = |j: usize| {
                let mut m = [V::splat(0.0); POINTS];
                if uses(W, j) {
                    for (i, m) in m.iter_mut().enumerate() {
                        if uses(H, i) {
                            *m = V::load(from.wrapping_add(distance.point(i * POINTS + j)));
                        }
                    }
                }
                let y = output::<V, H>(m);
                (y[P], y[Q])
            };
            let c = [column(0), column(1), column(2), column(3), column(4), column(5)];
            let y = output::<V, W>([c[0].0, c[1].0, c[2].0, c[3].0, c[4].0, c[5].0]);
            self.finish_line::<V, W>(y, at, P, channel, access);
            if Q < H {
                let y = output::<V, W>([c[0].1, c[1].1, c[2].1, c[3].1, c[4].1, c[5].1]);
                self.finish_line::<V, W>(y, at, Q, channel, access);
            }
        }
    }

    #[inline(always)]
    unsafe fn finish_line<V: Vector, const W: usize>(
        &self,
        y: [V; TILE],
        at: usize,
        i: usize,
        channel: usize,
        access: impl Access,
    ) {
        let at = at + i * self.map.width * self.pixel;
        // SAFETY: passed on to the caller.
        unsafe { self.finish.pixels::<V, W>(y, self.to, at, self.pixel, channel, access) };
    }
}

/// Adds `G^T dU G` to rows `rows` of the weight gradient, `columns` of them from `first_column` on.
///
/// `dU` has one or more copies, summed in order; their row 0 is `rows.start`, their column 0
/// `first_column`.
#[derive(Clone)]
pub(super) struct FilterGradient {
    pub from: *const f32,
    pub copies: usize,
    pub copy_stride: usize,
    /// With the input channels for tiles, and the output channels for channels.
    pub layout: Layout,
    pub rows: Range<usize>,
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
            let from = self.from.wrapping_add((row - self.rows.start) * self.layout.row);
            let to = self.to.wrapping_add(row * self.full_out + self.first_column);
            let mut c = 0;
            // SAFETY: a whole vector of columns is left, or `columns - c`; `dU` is padded to whole
            // vectors.
            unsafe {
                while c + S::Wide::LANES <= self.columns {
                    let from = from.wrapping_add(self.layout.channel(c));
                    self.vector::<S::Wide>(from, to.wrapping_add(c), Whole);
                    c += S::Wide::LANES;
                }
                while c < self.columns {
                    let from = from.wrapping_add(self.layout.channel(c));
                    let access = First(LANES.min(self.columns - c));
                    self.vector::<S::Narrow>(from, to.wrapping_add(c), access);
                    c += LANES;
                }
            }
        }
    }
}

impl FilterGradient {
    #[inline(always)]
    unsafe fn vector<V: Vector>(&self, from: *const f32, to: *mut f32, access: impl Access) {
        // SAFETY: passed on to the caller.
        unsafe {
            let column = |j: usize| {
                let mut u = [V::splat(0.0); POINTS];
                for (i, sum) in u.iter_mut().enumerate() {
                    let at = from.wrapping_add((i * POINTS + j) * self.layout.point);
                    *sum = V::load(at);
                    for copy in 1..self.copies {
                        *sum = sum.add(V::load(at.wrapping_add(copy * self.copy_stride)));
                    }
                }
                filter_gradient::<V>(u)
            };
            let c = [column(0), column(1), column(2), column(3), column(4), column(5)];
            for i in 0..3 {
                let taps =
                    filter_gradient::<V>([c[0][i], c[1][i], c[2][i], c[3][i], c[4][i], c[5][i]]);
                for (j, tap) in taps.into_iter().enumerate() {
                    let to = to.wrapping_add((i * 3 + j) * self.tap_stride);
                    access.store(tap.add(access.load(to)), to);
                }
            }
        }
    }
}
