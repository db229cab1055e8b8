//! Out of the Winograd domain: `Y = A^T M A` for output tiles, `dg = G^T dU G` for the weight gradient.

use std::ops::Range;

use super::ahead;
use super::correlation::Map;
use super::grid::{Block, Tile};
use super::layout::{Distance, Far, Layout, Near};
use super::points::{MOST_POINTS, by_points, filter_gradient, points};
use super::separable::{Column, Output, Sink, transform};
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
            // SAFETY: passed on from the caller.
            unsafe { self.tile::<S>(t, tile) };
        }
    }
}

impl OutputTiles<'_> {
    #[inline(always)]
    unsafe fn tile<S: Simd>(&self, t: usize, tile: Tile) {
        let mut c = 0;
        // SAFETY: a whole vector of channels is left, or `channels - c`.
        unsafe {
            while c + S::Wide::LANES <= self.channels {
                self.vector::<S::Wide>(t, tile, c, Whole);
                c += S::Wide::LANES;
            }
            while c < self.channels {
                self.vector::<S::Narrow>(t, tile, c, First(LANES.min(self.channels - c)));
                c += LANES;
            }
        }
    }

    /// Channels `c..` of tile `t`.
    #[inline(always)]
    unsafe fn vector<V: Vector>(&self, t: usize, tile: Tile, c: usize, access: impl Access) {
        let near = self.layout.near();
        let from = self.from.wrapping_add(t * self.layout.row + self.layout.channel(c));
        let column = |j: usize| {
            let start = from.wrapping_add(near.point(0, j));
            Column::new(start, near.point(1, 0), points(tile.height))
        };
        let pixel = (tile.image * self.map.height + tile.y) * self.map.width + tile.x;
        let sink = Pixels { tiles: self, at: pixel * self.pixel, channel: self.first + c, access };
        // SAFETY: passed on to the caller; the products are padded to whole vectors.
        unsafe { transform::<V, Output>([tile.height, tile.width], Whole, column, sink) };
    }
}

/// The pixels of a tile from offset `at` on.
#[derive(Clone, Copy)]
struct Pixels<'a, A> {
    tiles: &'a OutputTiles<'a>,
    at: usize,
    channel: usize,
    access: A,
}

impl<V: Vector, A: Access> Sink<V> for Pixels<'_, A> {
    #[inline(always)]
    unsafe fn line(self, i: usize, n: usize, values: [V; MOST_POINTS]) {
        let OutputTiles { to, map, pixel, finish, .. } = *self.tiles;
        let at = self.at + i * map.width * pixel;
        // SAFETY: passed on to the caller.
        unsafe { finish.pixels(values, n, to, at, pixel, self.channel, self.access) };
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

/// Rows of the gradient from one that is added to to the one that is fetched meanwhile.
const AHEAD: usize = 4;

impl Job for FilterGradient {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: passed on from the caller.
        unsafe {
            if self.layout.point == CHUNK {
                by_points!(self.layout.side, self.rows::<S, Near>(self.layout.near()));
            } else {
                by_points!(self.layout.side, self.rows::<S, Far>(self.layout.far()));
            }
        }
    }
}

impl FilterGradient {
    #[inline(always)]
    unsafe fn rows<S: Simd, D: Distance, const P: usize>(&self, distance: D) {
        for row in self.rows.clone() {
            let from = self.from.wrapping_add((row - self.rows.start) * self.layout.row);
            let to = self.to.wrapping_add(row * self.full_out + self.first_column);
            let ahead = to.wrapping_add(AHEAD * self.full_out);
            ahead::taps(ahead, self.tap_stride, self.columns, S::prefetch);
            let mut c = 0;
            // SAFETY: a whole vector of columns is left, or `columns - c`; `dU` is padded to whole
            // vectors.
            unsafe {
                while c + S::Wide::LANES <= self.columns {
                    let from = from.wrapping_add(self.layout.channel(c));
                    self.vector::<S::Wide, D, P>(from, to.wrapping_add(c), Whole, distance);
                    c += S::Wide::LANES;
                }
                while c < self.columns {
                    let from = from.wrapping_add(self.layout.channel(c));
                    let access = First(LANES.min(self.columns - c));
                    self.vector::<S::Narrow, D, P>(from, to.wrapping_add(c), access, distance);
                    c += LANES;
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn vector<V: Vector, D: Distance, const P: usize>(
        &self,
        from: *const f32,
        to: *mut f32,
        access: impl Access,
        distance: D,
    ) {
        // SAFETY: passed on to the caller.
        unsafe {
            let mut halves = [[V::splat(0.0); MOST_POINTS]; 3];
            for j in 0..P {
                let column = self.column::<V, D, P>(from, j, distance);
                for (half, value) in halves.iter_mut().zip(column) {
                    half[j] = value;
                }
            }
            for (i, half) in halves.into_iter().enumerate() {
                let taps = filter_gradient::<V, P>(half);
                for (j, tap) in taps.into_iter().enumerate() {
                    let to = to.wrapping_add((i * 3 + j) * self.tap_stride);
                    access.store(tap.add(access.load(to)), to);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn column<V: Vector, D: Distance, const P: usize>(
        &self,
        from: *const f32,
        j: usize,
        distance: D,
    ) -> [V; 3] {
        // SAFETY: passed on to the caller.
        unsafe {
            let mut u = [V::splat(0.0); MOST_POINTS];
            for (i, sum) in u.iter_mut().enumerate().take(P) {
                let at = from.wrapping_add(distance.point(i, j));
                *sum = V::load(at);
                for copy in 1..self.copies {
                    *sum = sum.add(V::load(at.wrapping_add(copy * self.copy_stride)));
                }
            }
            filter_gradient::<V, P>(u)
        }
    }
}
