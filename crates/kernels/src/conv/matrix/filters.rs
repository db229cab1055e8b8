//! The right operand of a correlation.

use std::arch::x86_64::*;

use super::layout::View;
use super::minimal::{self, POINTS};
use super::split::{lanes, load, split, split_pair, store, store_transposed};
use super::unit::{BLOCK, DEPTH, ROW, SIDE};
use crate::conv::winograd::Filters;

/// 16 columns of filters.
pub(super) struct Columns<'a> {
    pub filters: &'a Filters,
    pub kernel: usize,
    pub view: &'a View,
    /// The first is 16 times this.
    pub column: usize,
}

impl Columns<'_> {
    /// The operand of a plane: of every line of taps for `N` of 1, or of all [`POINTS`].
    ///
    /// # Safety
    /// The machine has AVX-512 with bf16, and there is room for all planes' steps at `to`.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub(super) unsafe fn lay_out<const N: usize>(&self, plane: usize, to: *mut u8) {
        let terms = self.view.terms;
        for line in (0..terms.down).step_by(N) {
            for (i, first) in terms.firsts(plane).enumerate() {
                let taps = terms.taps(plane, first);
                let to: [*mut u8; N] = std::array::from_fn(|point| {
                    to.wrapping_add((terms.place(line + point, plane) + i) * BLOCK)
                });
                // SAFETY: passed on to the caller; taps and plane are the view's.
                unsafe {
                    if self.filters.transposed {
                        self.transposed(line, taps, plane, to);
                    } else {
                        self.straight(line, taps, plane, to);
                    }
                }
            }
        }
    }

    /// `n` neighbours of the weight, of channels from `input` and `output` on, at a tap of a line; at [`POINTS`] those of
    /// all lines weighed.
    ///
    /// # Safety
    /// They are there.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn read<const N: usize>(
        &self,
        line: usize,
        tap: usize,
        (input, output): (usize, usize),
        n: usize,
    ) -> [__m512; N] {
        let View { y, x, .. } = self.view;
        let Filters { weight, full_in, full_out, .. } = *self.filters;
        let row = x.taps.tap(tap) * full_in + input;
        let at = |line: usize| {
            let row = y.taps.tap(line) * self.kernel * full_in + row;
            weight.wrapping_add(row * full_out + output)
        };
        // SAFETY: passed on to the caller.
        unsafe {
            if N == POINTS {
                let points = minimal::taps([0, 1, 2].map(|line| load(at(line), n)));
                std::array::from_fn(|i| points[i])
            } else {
                [load(at(line), n); N]
            }
        }
    }

    /// Blocks of taps that share a step, where rows of the operand are neighbours in the weight.
    ///
    /// # Safety
    /// As in `lay_out`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn straight<const N: usize>(
        &self,
        line: usize,
        taps: std::ops::Range<usize>,
        plane: usize,
        to: [*mut u8; N],
    ) {
        let channels = self.view.terms.channels(plane);
        let n = channels.len();
        let output = self.column * SIDE;
        let width = SIDE.min(self.filters.columns - output);
        let term = |k: usize| {
            // Divisions are dear, and mostly there is but one tap.
            let (tap, channel) =
                if taps.len() == 1 { (taps.start, k) } else { (taps.start + k / n, k % n) };
            if tap >= taps.end || channel >= n {
                return [_mm512_setzero_ps(); N];
            }
            // SAFETY: the channels are the weight's.
            unsafe { self.read(line, tap, (channels.start + channel, output), width) }
        };
        for row in 0..SIDE {
            let (even, odd) = (term(2 * row), term(2 * row + 1));
            for ((even, odd), to) in even.into_iter().zip(odd).zip(to) {
                // SAFETY: the blocks are the caller's.
                unsafe { store(split_pair(even, odd), to.wrapping_add(row * ROW)) };
            }
        }
    }

    /// The same where columns of the operand are.
    ///
    /// # Safety
    /// As in `lay_out`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn transposed<const N: usize>(
        &self,
        line: usize,
        taps: std::ops::Range<usize>,
        plane: usize,
        to: [*mut u8; N],
    ) {
        let channels = self.view.terms.channels(plane);
        let (output, n) = (channels.start, channels.len());
        let first = self.column * SIDE;
        let width = SIDE.min(self.filters.columns - first);
        let mut upper = [[_mm512_setzero_si512(); SIDE]; N];
        let mut lower = upper;
        // SAFETY: the channels are the weight's, and the blocks are the caller's.
        unsafe {
            for column in 0..width {
                let input = first + column;
                let (low, high): ([__m512; N], [__m512; N]) = if taps.len() == 1 {
                    let read = |output, n| self.read(line, taps.start, (input, output), n);
                    (read(output, n.min(SIDE)), read(output + SIDE, n.saturating_sub(SIDE)))
                } else {
                    // Each of several taps has no more than a vector.
                    let mut terms = [[0.0f32; DEPTH]; N];
                    for (i, tap) in taps.clone().enumerate() {
                        let values = self.read::<N>(line, tap, (input, output), n);
                        for (terms, value) in terms.iter_mut().zip(values) {
                            let to = terms[i * n..].as_mut_ptr();
                            _mm512_mask_storeu_ps(to, lanes(n), value);
                        }
                    }
                    let half =
                        |first: usize| terms.map(|terms| load(terms[first..].as_ptr(), SIDE));
                    (half(0), half(SIDE))
                };
                for (point, (low, high)) in low.into_iter().zip(high).enumerate() {
                    (upper[point][column], lower[point][column]) = split(low, high);
                }
            }
            for (point, to) in to.into_iter().enumerate() {
                store_transposed(upper[point], lower[point], to);
            }
        }
    }
}
