//! The right operand of a correlation.

use std::arch::x86_64::*;
use std::ops::Range;

use super::ahead::Rows;
use super::layout::View;
use super::minimal;
use super::split::{load, split_pair, store, transpose};
use super::unit::{BLOCK, DEPTH, ROW, SIDE};
use crate::conv::winograd::Filters;

/// Columns of filters, in units of 16.
pub(super) struct Columns<'a> {
    pub filters: &'a Filters,
    pub kernel: usize,
    pub view: &'a View,
    pub columns: Range<usize>,
    /// Bytes from the operand of one unit to that of the next.
    pub apart: usize,
}

impl Columns<'_> {
    /// The weights of some planes as rows of their neighbours in memory, of which there are no more than
    /// [`FETCHED`](super::unit::FETCHED): outputs of these columns, or, where weights are transposed, of these planes.
    pub(super) fn weights(&self, planes: Range<usize>) -> impl Iterator<Item = Rows> {
        let terms = &self.view.terms;
        let Filters { weight, full_in, full_out, columns, transposed, .. } = *self.filters;
        let start = |plane: usize| terms.channels(plane).start;
        let depth = start(planes.start)
            ..planes.clone().last().map_or(start(planes.start), |last| terms.channels(last).end);
        let columns = self.columns.start * SIDE..(self.columns.end * SIDE).min(columns);
        let (inputs, outputs) = if transposed { (columns, depth) } else { (depth, columns) };
        let count = if planes.is_empty() { 0 } else { inputs.len() };
        (0..self.kernel * self.kernel).map(move |tap| {
            let row = tap * full_in + inputs.start;
            Rows {
                from: weight.wrapping_add(row * full_out + outputs.start),
                count,
                apart: full_out,
            }
        })
    }

    /// The operand of a plane, of all lines of taps or points. `place` is where the steps of a line begin.
    ///
    /// # Safety
    /// The machine has AVX-512 with bf16, and there is room for these steps at `to`, and for those of each further unit of columns
    /// `apart` bytes behind the one before.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub(super) unsafe fn lay_out(&self, plane: usize, place: impl Fn(usize) -> usize, to: *mut u8) {
        // SAFETY: passed on to the caller.
        unsafe {
            if self.view.terms.minimal {
                self.lines(0, plane, place, to, |lines| minimal::taps(lines));
            } else {
                for line in 0..self.view.terms.down {
                    self.lines(line, plane, &place, to, |line: [_; 1]| line);
                }
            }
        }
    }

    /// `L` lines of taps from `line` on as `N` that they are transformed to.
    ///
    /// # Safety
    /// As in `lay_out`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn lines<const L: usize, const N: usize>(
        &self,
        line: usize,
        plane: usize,
        place: impl Fn(usize) -> usize,
        to: *mut u8,
        transform: impl Fn([__m512; L]) -> [__m512; N],
    ) {
        let terms = self.view.terms;
        let channels = terms.channels(plane);
        let whole = !self.filters.transposed && channels.len() == DEPTH;
        let mut gathered = [[[0.0; SIDE]; DEPTH]; L];
        for (i, first) in terms.firsts(plane).enumerate() {
            let taps = terms.taps(plane, first);
            let to: [_; N] =
                std::array::from_fn(|n| to.wrapping_add((place(line + n) + i) * BLOCK));
            // SAFETY: the channels are the weight's, and what is gathered has a row for each term.
            unsafe {
                if whole {
                    // Neighbours in memory in a row: those of all columns.
                    let full = self.filters.full_out;
                    let from: [_; L] =
                        std::array::from_fn(|l| self.at(line + l, taps.start, channels.start, 0));
                    for row in 0..SIDE {
                        for (k, column) in self.columns.clone().enumerate() {
                            let from =
                                from.map(|from| from.wrapping_add(2 * row * full + column * SIDE));
                            let to = to.map(|to| to.wrapping_add(k * self.apart + row * ROW));
                            rows(from, full, self.width(column), to, &transform);
                        }
                    }
                    continue;
                }
                for (k, column) in self.columns.clone().enumerate() {
                    for (l, rows) in gathered.iter_mut().enumerate() {
                        if taps.len() * channels.len() < DEPTH {
                            *rows = [[0.0; SIDE]; DEPTH];
                        }
                        for (tap, rows) in taps.clone().zip(rows.chunks_mut(channels.len())) {
                            self.gather(line + l, tap, channels.clone(), column, rows);
                        }
                    }
                    for row in 0..SIDE {
                        let from = std::array::from_fn(|l| gathered[l][2 * row].as_ptr());
                        let to = to.map(|to| to.wrapping_add(k * self.apart + row * ROW));
                        rows(from, SIDE, SIDE, to, &transform);
                    }
                }
            }
        }
    }

    /// Channels of a unit of columns.
    #[inline]
    fn width(&self, column: usize) -> usize {
        SIDE.min(self.filters.columns - column * SIDE)
    }

    /// A row for each of a tap's channels.
    ///
    /// # Safety
    /// As in `lay_out`; the channels are the weight's.
    #[target_feature(enable = "avx512f")]
    unsafe fn gather(
        &self,
        line: usize,
        tap: usize,
        channels: Range<usize>,
        column: usize,
        rows: &mut [[f32; SIDE]],
    ) {
        let (first, width) = (column * SIDE, self.width(column));
        if !self.filters.transposed {
            for (row, channel) in rows.iter_mut().zip(channels) {
                // SAFETY: passed on to the caller; a row has 16 floats.
                unsafe {
                    let values = load(self.at(line, tap, channel, first), width);
                    _mm512_storeu_ps(row.as_mut_ptr(), values);
                }
            }
            return;
        }
        for (rows, channel) in rows.chunks_mut(SIDE).zip(channels.step_by(SIDE)) {
            let mut block = [_mm512_setzero_si512(); SIDE];
            for (column, values) in block[..width].iter_mut().enumerate() {
                // SAFETY: passed on to the caller.
                let row = unsafe { load(self.at(line, tap, first + column, channel), rows.len()) };
                *values = _mm512_castps_si512(row);
            }
            transpose(&mut block);
            for (row, values) in rows.iter_mut().zip(block) {
                // SAFETY: a row has 16 floats.
                unsafe { _mm512_storeu_si512(row.as_mut_ptr().cast(), values) };
            }
        }
    }

    /// Where a weight is.
    #[inline]
    fn at(&self, line: usize, tap: usize, input: usize, output: usize) -> *const f32 {
        let View { y, x, .. } = self.view;
        let Filters { weight, full_in, full_out, .. } = *self.filters;
        let tap = y.taps.tap(line) * self.kernel + x.taps.tap(tap);
        weight.wrapping_add((tap * full_in + input) * full_out + output)
    }
}

/// Two neighbouring rows of blocks of an operand from rows of `width` columns, `stride` floats apart.
///
/// # Safety
/// The former can be written, the latter read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn rows<const L: usize, const N: usize>(
    from: [*const f32; L],
    stride: usize,
    width: usize,
    to: [*mut u8; N],
    transform: impl Fn([__m512; L]) -> [__m512; N],
) {
    let mut pair = [[_mm512_setzero_ps(); L]; 2];
    for (i, lines) in pair.iter_mut().enumerate() {
        for (line, from) in lines.iter_mut().zip(from) {
            // SAFETY: passed on to the caller.
            *line = unsafe { load(from.wrapping_add(i * stride), width) };
        }
    }
    let [even, odd] = pair;
    let (even, odd) = (transform(even), transform(odd));
    for n in 0..N {
        // SAFETY: passed on to the caller.
        unsafe { store(split_pair(even[n], odd[n]), to[n]) };
    }
}
