//! `U = G g G^T`: filters to the points of the Winograd domain, straight from the shared weight.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::ahead;
use super::layout::{Distance, Far, Layout, Near};
use super::points::{by_points, filter};
use crate::conv::product::{CHUNK, Stream};
use crate::conv::simd::{Access, First, Job, LANES, Simd, Vector, Whole};

/// Where a product's filters come from.
#[derive(Clone, Copy)]
pub(in crate::conv) struct Filters {
    /// `[3][3][full_in][full_out]`.
    pub weight: *const f32,
    pub full_in: usize,
    pub full_out: usize,
    /// Depth of the product: input channels, or for the data gradient output channels.
    pub depth: usize,
    /// Columns of the product: output channels, or for the data gradient input channels.
    pub columns: usize,
    /// For the data gradient: taps in reverse, and input and output channels exchanged.
    pub transposed: bool,
}

// SAFETY: the pointer comes from a shared slice that outlives the call, and is only read.
unsafe impl Send for Filters {}
// SAFETY: as above.
unsafe impl Sync for Filters {}

/// Filters that are made next, to be fetched ahead.
pub(super) struct Next {
    pub filters: Filters,
    pub depths: Range<usize>,
    pub columns: Range<usize>,
}

impl Next {
    /// The weights of one tap.
    pub(super) fn tap(&self, tap: usize) -> Stream {
        let Self { filters: f, depths, columns } = self;
        let depths = depths.start..depths.end.min(f.depth);
        let columns = columns.start..columns.end.min(f.columns);
        let (rows, row) = if f.transposed { (columns, depths) } else { (depths, columns) };
        let at = tap * f.full_in * f.full_out + rows.start * f.full_out + row.start;
        Stream::stretches(f.weight.wrapping_add(at), rows.len(), row.len(), f.full_out)
    }
}

/// Transforms the filters of some depths (a multiple of [`LANES`] at the start, padded to one at the
/// end) and one panel.
///
/// `U[point][k][column]` goes where the layout has channel `column` of tile `k - depths.start`; zeros
/// where `k` or the column is padding.
#[derive(Clone)]
pub(super) struct FilterPanel {
    pub filters: Filters,
    pub depths: Range<usize>,
    pub first_column: usize,
    pub units: usize,
    pub to: *mut f32,
    pub layout: Layout,
}

/// Where `U` keeps a panel.
#[derive(Clone, Copy)]
pub(super) enum FilterLayout {
    /// `[point][panel][depth][column]`: the products read it in order, block after block.
    Dense { side: usize, point: usize, depth: usize },
    /// One panel, as [`Layout::by_tile`] with depths for tiles, and so many points in one dimension: for
    /// filters that are used once. The points of a vector go to neighbouring lines; in as many places
    /// they would be as many misses, which stores do not overlap as loads do.
    ByDepth { side: usize },
}

impl FilterLayout {
    /// Where the panel starts, and its layout.
    #[inline(always)]
    pub(super) fn panel(self, first_column: usize, units: usize) -> (usize, Layout) {
        let width = units * LANES;
        match self {
            Self::Dense { side, point, depth } => {
                (first_column * depth, Layout { side, point, row: width, chunk: CHUNK })
            }
            Self::ByDepth { side } => (0, Layout::by_tile(side, width)),
        }
    }
}

/// Rows of the weight from a row that is read to the one that is fetched meanwhile: its nine stretches of a few lines
/// are too short, and too far apart, for a processor to foresee.
const AHEAD: usize = 6;

impl Job for FilterPanel {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: passed on from the caller.
        unsafe {
            if self.layout.point == CHUNK {
                by_points!(self.layout.side, self.points::<S, Near>(self.layout.near()));
            } else {
                by_points!(self.layout.side, self.points::<S, Far>(self.layout.far()));
            }
        }
    }
}

impl FilterPanel {
    #[inline(always)]
    unsafe fn points<S: Simd, D: Distance, const P: usize>(&self, distance: D) {
        // SAFETY: passed on from the caller.
        unsafe {
            if self.filters.transposed {
                self.transposed::<S, D, P>(distance);
            } else {
                self.straight::<S, D, P>(distance);
            }
        }
    }

    #[inline(always)]
    unsafe fn straight<S: Simd, D: Distance, const P: usize>(&self, distance: D) {
        let f = self.filters;
        let width = self.units * LANES;
        let layout = self.layout;
        let tap = f.full_in * f.full_out;
        for k in self.depths.clone() {
            let to = self.to.wrapping_add((k - self.depths.start) * layout.row);
            let left = if k < f.depth { width.min(f.columns - self.first_column) } else { 0 };
            let from = f.weight.wrapping_add(k * f.full_out + self.first_column);
            ahead::taps(from.wrapping_add(AHEAD * f.full_out), tap, width, S::prefetch_near);
            let mut c = 0;
            // SAFETY: columns up to `left` are active in the weight; past it nothing is read, and
            // zeros are written up to the panel's width.
            unsafe {
                while c + S::Wide::LANES <= left {
                    let taps = load_taps::<S::Wide>(from.wrapping_add(c), tap, Whole);
                    filter_points::<_, _, P>(taps, to.wrapping_add(layout.channel(c)), distance);
                    c += S::Wide::LANES;
                }
                while c < width {
                    let n = LANES.min(left.saturating_sub(c));
                    let taps = load_taps::<S::Narrow>(from.wrapping_add(c), tap, First(n));
                    filter_points::<_, _, P>(taps, to.wrapping_add(layout.channel(c)), distance);
                    c += LANES;
                }
            }
        }
    }

    /// In blocks of 8 output channels (contiguous in memory, the depth here) by a vector of input
    /// channels (the columns here).
    #[inline(always)]
    unsafe fn transposed<S: Simd, D: Distance, const P: usize>(&self, distance: D) {
        let width = self.units * LANES;
        for k in self.depths.clone().step_by(LANES) {
            let mut c = 0;
            // SAFETY: a whole vector of columns is left, or 8.
            unsafe {
                while c + S::Wide::LANES <= width {
                    self.block::<S, S::Wide, D, P>(k, c, distance);
                    c += S::Wide::LANES;
                }
                while c < width {
                    self.block::<S, S::Narrow, D, P>(k, c, distance);
                    c += LANES;
                }
            }
        }
    }

    /// Depths `k..k + 8` of columns `c..c + V::LANES` of the panel. Squares of 8 x 8 are transposed in
    /// registers and put side by side on the stack, where nine taps of them would be anyway.
    #[inline(always)]
    unsafe fn block<S: Simd, V: Vector, D: Distance, const P: usize>(
        &self,
        k: usize,
        c: usize,
        distance: D,
    ) {
        let f = self.filters;
        let tap = f.full_in * f.full_out;
        let n = LANES.min(f.depth.saturating_sub(k));
        let mut block = MaybeUninit::<TransposedTaps>::uninit();
        let start = block.as_mut_ptr().cast::<f32>();
        let place = |t: usize, i: usize| start.wrapping_add((t * LANES + i) * V::LANES);
        for square in (0..V::LANES).step_by(LANES) {
            let first = self.first_column + c + square;
            let rows = LANES.min(f.columns.saturating_sub(first));
            for t in 0..9 {
                let from = f.weight.wrapping_add((8 - t) * tap + first * f.full_out + k);
                // The line of the depths after the next.
                if k.is_multiple_of(CHUNK) {
                    for i in 0..LANES {
                        S::prefetch(from.wrapping_add(i * f.full_out + CHUNK));
                    }
                }
                // SAFETY: rows past the active input channels are not read, nor columns past the
                // active output channels; the block has room for 9 x 8 of the widest vectors.
                unsafe {
                    let mut lines = [S::Narrow::splat(0.0); LANES];
                    if n == LANES && rows == LANES {
                        for (i, line) in lines.iter_mut().enumerate() {
                            *line = S::Narrow::load(from.wrapping_add(i * f.full_out));
                        }
                    } else {
                        for (i, line) in lines.iter_mut().enumerate().take(rows) {
                            *line = S::Narrow::load_partial(from.wrapping_add(i * f.full_out), n);
                        }
                    }
                    for (i, line) in S::transpose(lines).into_iter().enumerate() {
                        line.store(place(t, i).wrapping_add(square));
                    }
                }
            }
        }
        for i in 0..LANES {
            // SAFETY: all of the block up to the vector's width was written above.
            unsafe {
                let mut taps = [V::splat(0.0); 9];
                for (t, tap) in taps.iter_mut().enumerate() {
                    *tap = V::load(place(t, i));
                }
                let row = (k - self.depths.start + i) * self.layout.row;
                filter_points::<_, _, P>(
                    taps,
                    self.to.wrapping_add(row + self.layout.channel(c)),
                    distance,
                );
            }
        }
    }
}

/// Nine taps of 8 depths by a vector of columns, on whole lines.
#[repr(align(64))]
struct TransposedTaps {
    _floats: [f32; 9 * LANES * CHUNK],
}

/// The nine taps of a vector of columns.
#[inline(always)]
unsafe fn load_taps<V: Vector>(from: *const f32, tap: usize, access: impl Access) -> [V; 9] {
    // SAFETY: passed on to the caller.
    unsafe {
        let mut taps = [V::splat(0.0); 9];
        for (t, value) in taps.iter_mut().enumerate() {
            *value = access.load(from.wrapping_add(t * tap));
        }
        taps
    }
}

#[inline(always)]
unsafe fn filter_points<V: Vector, D: Distance, const P: usize>(
    taps: [V; 9],
    to: *mut f32,
    distance: D,
) {
    let columns = [
        filter::<V, P>([taps[0], taps[3], taps[6]]),
        filter::<V, P>([taps[1], taps[4], taps[7]]),
        filter::<V, P>([taps[2], taps[5], taps[8]]),
    ];
    for i in 0..P {
        let points = filter::<V, P>([columns[0][i], columns[1][i], columns[2][i]]);
        for (j, point) in points.into_iter().enumerate().take(P) {
            // SAFETY: passed on to the caller.
            unsafe { point.store(to.wrapping_add(distance.point(i, j))) };
        }
    }
}
