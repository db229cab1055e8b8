//! Out of the Winograd domain: `Y = A^T M A` for output tiles, `dg = G^T dU G` for the weight gradient.

use std::ops::Range;

use super::correlation::Map;
use super::grid::{Block, Tile};
use super::layout::{Distance, Far, Layout, Near, by_height};
use super::points::{POINTS, filter_gradient, output, uses};
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
        for (t, tile) in self.block.tiles(0..self.block.len()) {
            let from = self.from.wrapping_add(t * self.layout.row);
            // SAFETY: passed on from the caller.
            unsafe { by_height!(tile.height, self.tile::<S>(from, tile)) };
        }
    }
}

impl OutputTiles<'_> {
    #[inline(always)]
    unsafe fn tile<S: Simd, const H: usize>(&self, from: *const f32, tile: Tile) {
        let pixel = (tile.image * self.map.height + tile.y) * self.map.width + tile.x;
        let at = pixel * self.pixel;
        let mut c = 0;
        // SAFETY: a whole vector of channels is left, or `channels - c`; the products are padded to
        // whole vectors.
        unsafe {
            while c + S::Wide::LANES <= self.channels {
                let from = from.wrapping_add(self.layout.channel(c));
                let channel = self.first + c;
                self.lines::<S::Wide, H, 0, 2>(from, at, tile.width, channel, Whole);
                self.lines::<S::Wide, H, 1, 3>(from, at, tile.width, channel, Whole);
                c += S::Wide::LANES;
            }
            while c < self.channels {
                let from = from.wrapping_add(self.layout.channel(c));
                let (channel, access) = (self.first + c, First(LANES.min(self.channels - c)));
                self.lines::<S::Narrow, H, 0, 2>(from, at, tile.width, channel, access);
                self.lines::<S::Narrow, H, 1, 3>(from, at, tile.width, channel, access);
                c += LANES;
            }
        }
    }

    /// Lines `P` and `Q` of a tile: few enough values to stay in registers, and those that share
    /// subexpressions.
    #[inline(always)]
    unsafe fn lines<V: Vector, const H: usize, const P: usize, const Q: usize>(
        &self,
        from: *const f32,
        at: usize,
        outputs: usize,
        channel: usize,
        access: impl Access,
    ) {
        if P >= H {
            return;
        }
        // SAFETY: passed on to the caller.
        unsafe {
            let c = [
                self.column::<V, H, P, Q>(from, outputs, 0),
                self.column::<V, H, P, Q>(from, outputs, 1),
                self.column::<V, H, P, Q>(from, outputs, 2),
                self.column::<V, H, P, Q>(from, outputs, 3),
                self.column::<V, H, P, Q>(from, outputs, 4),
                self.column::<V, H, P, Q>(from, outputs, 5),
            ];
            self.line(
                [c[0].0, c[1].0, c[2].0, c[3].0, c[4].0, c[5].0],
                at,
                outputs,
                P,
                channel,
                access,
            );
            if Q < H {
                self.line(
                    [c[0].1, c[1].1, c[2].1, c[3].1, c[4].1, c[5].1],
                    at,
                    outputs,
                    Q,
                    channel,
                    access,
                );
            }
        }
    }

    #[inline(always)]
    unsafe fn column<V: Vector, const H: usize, const P: usize, const Q: usize>(
        &self,
        from: *const f32,
        outputs: usize,
        j: usize,
    ) -> (V, V) {
        // SAFETY: passed on to the caller.
        unsafe {
            let mut m = [V::splat(0.0); POINTS];
            if uses(outputs, j) {
                for (i, m) in m.iter_mut().enumerate() {
                    if uses(H, i) {
                        *m = V::load(from.wrapping_add(Near.point(i * POINTS + j)));
                    }
                }
            }
            let y = output::<V, H>(m);
            (y[P], y[Q])
        }
    }

    /// The other dimension, for line `i` of the tile.
    #[inline(always)]
    unsafe fn line<V: Vector>(
        &self,
        m: [V; POINTS],
        at: usize,
        outputs: usize,
        i: usize,
        channel: usize,
        access: impl Access,
    ) {
        let at = at + i * self.map.width * self.pixel;
        let (to, pixel) = (self.to, self.pixel);
        let y = match outputs {
            4 => output::<V, 4>(m),
            3 => output::<V, 3>(m),
            2 => output::<V, 2>(m),
            _ => output::<V, 1>(m),
        };
        // SAFETY: passed on to the caller.
        unsafe { self.finish.pixels(y, outputs, to, at, pixel, channel, access) };
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
        // SAFETY: passed on from the caller.
        unsafe {
            if self.layout.point == CHUNK {
                self.rows::<S, _>(Near);
            } else {
                self.rows::<S, _>(Far(self.layout.point));
            }
        }
    }
}

impl FilterGradient {
    #[inline(always)]
    unsafe fn rows<S: Simd, D: Distance>(&self, distance: D) {
        for row in self.rows.clone() {
            let from = self.from.wrapping_add((row - self.rows.start) * self.layout.row);
            let to = self.to.wrapping_add(row * self.full_out + self.first_column);
            let mut c = 0;
            // SAFETY: a whole vector of columns is left, or `columns - c`; `dU` is padded to whole
            // vectors.
            unsafe {
                while c + S::Wide::LANES <= self.columns {
                    let from = from.wrapping_add(self.layout.channel(c));
                    self.vector::<S::Wide, D>(from, to.wrapping_add(c), Whole, distance);
                    c += S::Wide::LANES;
                }
                while c < self.columns {
                    let from = from.wrapping_add(self.layout.channel(c));
                    let access = First(LANES.min(self.columns - c));
                    self.vector::<S::Narrow, D>(from, to.wrapping_add(c), access, distance);
                    c += LANES;
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn vector<V: Vector, D: Distance>(
        &self,
        from: *const f32,
        to: *mut f32,
        access: impl Access,
        distance: D,
    ) {
        // SAFETY: passed on to the caller.
        unsafe {
            let c = [
                self.column::<V, D>(from, 0, distance),
                self.column::<V, D>(from, 1, distance),
                self.column::<V, D>(from, 2, distance),
                self.column::<V, D>(from, 3, distance),
                self.column::<V, D>(from, 4, distance),
                self.column::<V, D>(from, 5, distance),
            ];
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

    #[inline(always)]
    unsafe fn column<V: Vector, D: Distance>(
        &self,
        from: *const f32,
        j: usize,
        distance: D,
    ) -> [V; 3] {
        // SAFETY: passed on to the caller.
        unsafe {
            let mut u = [V::splat(0.0); POINTS];
            for (i, sum) in u.iter_mut().enumerate() {
                let at = from.wrapping_add(distance.point(i * POINTS + j));
                *sum = V::load(at);
                for copy in 1..self.copies {
                    *sum = sum.add(V::load(at.wrapping_add(copy * self.copy_stride)));
                }
            }
            filter_gradient::<V>(u)
        }
    }
}
