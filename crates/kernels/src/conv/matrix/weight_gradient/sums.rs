//! What a task sums, and adds to the gradient.

use std::arch::x86_64::*;
use std::ops::Range;

use super::visit::Visit;
use super::{Plan, STEPS};
use crate::conv::ConvShape;
use crate::conv::matrix::ahead::Prefetch;
use crate::conv::matrix::minimal::{self, POINTS};
use crate::conv::matrix::split::{lanes, load};
use crate::conv::matrix::unit::{BLOCK, SIDE, SUMS, Step, Unit};
use crate::conv::simd::{Job, Simd};

/// Where sums lie: `[pair][column][tap]` pairs of tiles.
#[derive(Clone, Copy)]
pub(super) struct SumsPlace {
    /// Pair and column.
    pub first: (usize, usize),
    pub columns: usize,
    pub taps: usize,
}

impl SumsPlace {
    fn at(self, pair: usize, column: usize, tap: usize) -> usize {
        let (pair, column) = (pair - self.first.0, column - self.first.1);
        ((pair * self.columns + column) * self.taps + tap) * 2 * SUMS
    }
}

/// What a visit adds to some of the sums.
pub(super) struct Products<'a, N> {
    pub visit: &'a Visit<'a>,
    pub pairs: Range<usize>,
    pub columns: Range<usize>,
    pub steps: &'a mut [Step],
    pub sums: *mut f32,
    pub place: SumsPlace,
    pub accumulate: bool,
    /// What is fetched meanwhile.
    pub next: N,
}

impl<N: Prefetch> Job for Products<'_, N> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: passed on to the caller; only an instruction set with the unit comes here.
        unsafe { self.compute() }
    }
}

impl<N: Prefetch> Products<'_, N> {
    /// # Safety
    /// The machine has the unit, the fields are as they say, and all that is read is laid out.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
    unsafe fn compute(mut self) {
        let Self { visit, sums, place, .. } = self;
        let all = self.steps;
        let Plan { steps, in_channels, .. } = visit.plan;
        let list = visit.plan.longest * steps;
        let taps = visit.plan.taps();
        let mut counts = [0; 3 * POINTS];
        for (tap, count) in counts.iter_mut().enumerate().take(taps) {
            *count = visit.list(tap, &mut all[tap * list..]);
        }
        // SAFETY: passed on to the caller.
        unsafe {
            let unit = Unit::new();
            let plane = steps * BLOCK;
            for pair in self.pairs {
                let a = visit.left.wrapping_add((pair - visit.pairs.start) * 2 * plane);
                let tall = in_channels > (2 * pair + 1) * SIDE;
                // A few steps' pixels stay in the first cache for all columns, which costs their sums a way to the second and back.
                let starts = (0..list).step_by(STEPS);
                let lines = (0..taps).step_by(3).map(|first| first..first + 3);
                for (taps, start) in
                    lines.flat_map(|taps| starts.clone().map(move |i| (taps.clone(), i)))
                {
                    let accumulate = self.accumulate || start > 0;
                    for column in self.columns.clone() {
                        let b = visit.right.wrapping_add(column * visit.plan.right_plane());
                        for tap in taps.clone() {
                            let end = counts[tap].min(start + STEPS);
                            let steps = &all[tap * list..][start.min(end)..end];
                            let c = sums.wrapping_add(place.at(pair, column, tap));
                            if tall {
                                let next = self.next.next(steps.len());
                                unit.pair(steps, a, plane, b, c, accumulate, next);
                            } else {
                                unit.single(steps, a, b, c, accumulate);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The copies' sums of 32 input channels and a tap, or all of a column of taps, added to the gradient.
pub(super) struct Merge<'a> {
    pub plan: Plan,
    pub shape: &'a ConvShape,
    pub sums: *const f32,
    pub place: SumsPlace,
    pub copy_len: usize,
    pub pair: usize,
    pub columns: Range<usize>,
    pub tap: usize,
    pub to: *mut f32,
}

impl Job for Merge<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: passed on to the caller; only an instruction set with the unit comes here.
        unsafe { self.compute() }
    }
}

impl Merge<'_> {
    /// # Safety
    /// The machine has AVX-512, and the fields' buffers are there.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
    unsafe fn compute(&self) {
        let Plan { in_channels, out_channels, .. } = self.plan;
        let first = 2 * self.pair * SIDE;
        for row in 0..(2 * SIDE).min(in_channels - first) {
            for column in self.columns.clone() {
                let width = SIDE.min(out_channels - column * SIDE);
                // SAFETY: the sums are there, and only active channels' gradients are touched.
                unsafe {
                    let sum = |tap| self.sum((column, tap), row);
                    if self.plan.minimal {
                        let sums = std::array::from_fn(|point| sum(3 * point + self.tap));
                        let taps = minimal::taps_gradient(sums);
                        for (line, gradient) in taps.into_iter().enumerate() {
                            self.add(3 * line + self.tap, first + row, (column, width), gradient);
                        }
                    } else {
                        self.add(self.tap, first + row, (column, width), sum(self.tap));
                    }
                }
            }
        }
    }

    /// All copies' sums of a row.
    ///
    /// # Safety
    /// As in `compute`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
    unsafe fn sum(&self, (column, tap): (usize, usize), row: usize) -> __m512 {
        let Plan { copies, .. } = self.plan;
        let at = self.place.at(self.pair, column, tap);
        let from = self.sums.wrapping_add(at + row * SIDE);
        // SAFETY: passed on to the caller.
        unsafe {
            let mut sum = load(from, SIDE);
            for copy in 1..copies {
                sum = _mm512_add_ps(sum, load(from.wrapping_add(copy * self.copy_len), SIDE));
            }
            sum
        }
    }

    /// Adds 16 output channels' gradient of a tap and an input channel.
    ///
    /// # Safety
    /// As in `compute`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
    unsafe fn add(
        &self,
        tap: usize,
        input: usize,
        (column, width): (usize, usize),
        gradient: __m512,
    ) {
        let channel = tap * self.shape.full_in + input;
        let to = self.to.wrapping_add(channel * self.shape.full_out + column * SIDE);
        // SAFETY: passed on to the caller.
        unsafe {
            let sum = _mm512_add_ps(gradient, load(to, width));
            _mm512_mask_storeu_ps(to, lanes(width), sum);
        }
    }
}
