//! `U = G g G^T`: filters to the points of the Winograd domain, straight from the shared weight.

use std::ops::Range;

use super::layout::{Distance, Far, Layout, Near};
use super::points::{POINTS, filter};
use crate::conv::product::CHUNK;
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
    Dense { point: usize, depth: usize },
    /// One panel, as [`Layout::by_tile`] with depths for tiles: for filters that are used once. The
    /// 36 points of a vector go to neighbouring lines; in 36 places they would be 36 misses, which
    /// stores do not overlap as loads do.
    ByDepth,
}

impl FilterLayout {
    /// Where the panel starts, and its layout.
    #[inline(always)]
    pub(super) fn panel(self, first_column: usize, units: usize) -> (usize, Layout) {
        let width = units * LANES;
        match self {
            Self::Dense { point, depth } => {
                (first_column * depth, Layout { point, row: width, chunk: CHUNK })
            }
            Self::ByDepth => (0, Layout::by_tile(width)),
        }
    }
}

impl Job for FilterPanel {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: passed on from the caller.
        unsafe {
            if self.layout.point == CHUNK {
                self.points::<S, _>(Near);
            } else {
                self.points::<S, _>(Far(self.layout.point));
            }
        }
    }
}

impl FilterPanel {
    #[inline(always)]
    unsafe fn points<S: Simd, D: Distance>(&self, distance: D) {
        // SAFETY: passed on from the caller.
        unsafe {
            if self.filters.transposed {
                self.transposed::<S, D>(distance);
            } else {
                self.straight::<S, D>(distance);
            }
        }
    }

    #[inline(always)]
    unsafe fn straight<S: Simd, D: Distance>(&self, distance: D) {
        let f = self.filters;
        let width = self.units * LANES;
        let layout = self.layout;
        let tap = f.full_in * f.full_out;
        for k in self.depths.clone() {
            let to = self.to.wrapping_add((k - self.depths.start) * layout.row);
            let left = if k < f.depth { width.min(f.columns - self.first_column) } else { 0 };
            let from = f.weight.wrapping_add(k * f.full_out + self.first_column);
            let mut c = 0;
            // SAFETY: columns up to `left` are active in the weight; past it nothing is read, and
            // zeros are written up to the panel's width.
            unsafe {
                while c + S::Wide::LANES <= left {
                    let taps = load_taps::<S::Wide>(from.wrapping_add(c), tap, Whole);
                    filter_points(taps, to.wrapping_add(layout.channel(c)), distance);
                    c += S::Wide::LANES;
                }
                while c < width {
                    let n = LANES.min(left.saturating_sub(c));
                    let taps = load_taps::<S::Narrow>(from.wrapping_add(c), tap, First(n));
                    filter_points(taps, to.wrapping_add(layout.channel(c)), distance);
                    c += LANES;
                }
            }
        }
    }

    /// In blocks of 8 output channels (contiguous in memory, the depth here) by 8 input channels
    /// (the columns here), which are transposed in registers.
    #[inline(always)]
    unsafe fn transposed<S: Simd, D: Distance>(&self, distance: D) {
        let f = self.filters;
        let width = self.units * LANES;
        let layout = self.layout;
        let tap = f.full_in * f.full_out;
        for k in self.depths.clone().step_by(LANES) {
            let n = LANES.min(f.depth.saturating_sub(k));
            for c in (0..width).step_by(LANES) {
                let first = self.first_column + c;
                let rows = LANES.min(f.columns.saturating_sub(first));
                // SAFETY: rows past the active input channels are not read, nor columns past the
                // active output channels.
                unsafe {
                    let zero = S::Narrow::splat(0.0);
                    let mut block = [[zero; LANES]; 9];
                    for (t, block) in block.iter_mut().enumerate() {
                        let from = f.weight.wrapping_add((8 - t) * tap + first * f.full_out + k);
                        let mut lines = [zero; LANES];
                        if n == LANES && rows == LANES {
                            for (i, line) in lines.iter_mut().enumerate() {
                                *line = S::Narrow::load(from.wrapping_add(i * f.full_out));
                            }
                        } else {
                            for (i, line) in lines.iter_mut().enumerate().take(rows) {
                                *line =
                                    S::Narrow::load_partial(from.wrapping_add(i * f.full_out), n);
                            }
                        }
                        *block = S::transpose(lines);
                    }
                    for i in 0..LANES {
                        let mut taps = [zero; 9];
                        for (tap, block) in taps.iter_mut().zip(&block) {
                            *tap = block[i];
                        }
                        let row = (k - self.depths.start + i) * layout.row;
                        let to = self.to.wrapping_add(row + layout.channel(c));
                        filter_points(taps, to, distance);
                    }
                }
            }
        }
    }
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
unsafe fn filter_points<V: Vector, D: Distance>(taps: [V; 9], to: *mut f32, distance: D) {
    let columns = [
        filter([taps[0], taps[3], taps[6]]),
        filter([taps[1], taps[4], taps[7]]),
        filter([taps[2], taps[5], taps[8]]),
    ];
    for i in 0..POINTS {
        let points = filter([columns[0][i], columns[1][i], columns[2][i]]);
        for (j, point) in points.into_iter().enumerate() {
            // SAFETY: passed on to the caller.
            unsafe { point.store(to.wrapping_add(distance.point(i * POINTS + j))) };
        }
    }
}
