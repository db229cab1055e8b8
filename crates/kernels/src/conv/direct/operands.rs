//! Laying out both operands of the products.

use std::ops::Range;

use super::geometry::{Block, Map, Strip};
use crate::conv::ConvShape;
use crate::conv::class::Taps;
use crate::conv::simd::{Access, First, Isa, Job, LANES, Simd, Vector, Whole};

/// Lays out lines of a strip: a block's part of the map with its border of zeros.
pub(super) struct PadLines<'a> {
    pub from: *const f32,
    pub strip: &'a Strip,
    pub block: &'a Block,
    /// Numbered through the block's images.
    pub lines: Range<usize>,
    /// Where the block's first line goes.
    pub to: *mut f32,
}

impl Job for PadLines<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Map { height, width, channels, .. } = self.strip.map;
        let lines = self.strip.lines(self.block.lines.len());
        let first = self.strip.first_line(self.block);
        let left = self.strip.left * channels;
        let inside = width.min(self.strip.width - self.strip.left) * channels;
        let right = self.strip.line() - left - inside;
        for at in self.lines {
            let (image, line) =
                (self.block.images.start + at / lines, first + (at % lines) as isize);
            let to = self.to.wrapping_add(at * self.strip.line());
            // SAFETY: the caller lends the map and room for the lines.
            unsafe {
                if line < 0 || line >= height as isize {
                    std::ptr::write_bytes(to, 0, self.strip.line());
                    continue;
                }
                let from = (image * height + line as usize) * width * channels;
                std::ptr::write_bytes(to, 0, left);
                copy::<S>(self.from.wrapping_add(from), to.wrapping_add(left), inside);
                std::ptr::write_bytes(to.wrapping_add(left + inside), 0, right);
            }
        }
    }
}

#[inline(always)]
unsafe fn copy<S: Simd>(from: *const f32, to: *mut f32, n: usize) {
    let mut i = 0;
    // SAFETY: `n` floats can be read and written.
    unsafe {
        while i + S::Wide::LANES <= n {
            S::Wide::load(from.wrapping_add(i)).store(to.wrapping_add(i));
            i += S::Wide::LANES;
        }
        if i < n {
            let access = First(n - i);
            let value: S::Wide = access.load(from.wrapping_add(i));
            access.store(value, to.wrapping_add(i));
        }
    }
}

impl Strip {
    /// Lays out all lines of a block at the start of `padded`, unless the map itself serves. Gives
    /// what [`Strip::start`] does.
    ///
    /// # Safety
    /// `padded` has room for the block.
    pub(super) unsafe fn lay_out<'p>(
        &self,
        isa: Isa,
        map: &'p [f32],
        block: &Block,
        padded: &'p mut [f32],
    ) -> &'p [f32] {
        if !self.in_place {
            let lines = 0..block.images.len() * self.lines(block.lines.len());
            let job =
                PadLines { from: map.as_ptr(), strip: self, block, lines, to: padded.as_mut_ptr() };
            // SAFETY: passed on to the caller.
            unsafe { isa.run(job) };
        }
        self.start(map, block, padded)
    }

    /// From where a block's strip begins: `padded`, where it is laid out, or its part of the map.
    pub(super) fn start<'p>(&self, map: &'p [f32], block: &Block, padded: &'p [f32]) -> &'p [f32] {
        if self.in_place { &map[self.source(block).start..] } else { padded }
    }
}

/// One panel of the rows' partner in a weight gradient: rows `rows` of a dense matrix, `columns` of
/// them, to `to + (r - rows.start) * width`, zeros where the column is padding.
#[derive(Clone)]
pub(super) struct PanelRows {
    /// The panel's first column of row 0.
    pub from: *const f32,
    pub stride: usize,
    pub columns: usize,
    pub width: usize,
    pub rows: Range<usize>,
    pub to: *mut f32,
}

impl Job for PanelRows {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for r in self.rows.clone() {
            let from = self.from.wrapping_add(r * self.stride);
            let to = self.to.wrapping_add((r - self.rows.start) * self.width);
            // SAFETY: the caller lends the rows, and room for them.
            unsafe { panel_row::<S>(from, self.columns, to, self.width) };
        }
    }
}

#[inline(always)]
unsafe fn panel_row<S: Simd>(from: *const f32, active: usize, to: *mut f32, width: usize) {
    let mut c = 0;
    // SAFETY: `active` floats can be read and `width` written.
    unsafe {
        while c + S::Wide::LANES <= active {
            S::Wide::load(from.wrapping_add(c)).store(to.wrapping_add(c));
            c += S::Wide::LANES;
        }
        while c < width {
            let n = LANES.min(active.saturating_sub(c));
            S::Narrow::load_partial(from.wrapping_add(c), n).store(to.wrapping_add(c));
            c += LANES;
        }
    }
}

/// One panel of the weight as a matrix `[taps * channels][columns]`, one vertical tap of it.
///
/// For the data gradient the channels are the output's and the columns the input's.
#[derive(Clone)]
pub(super) struct WeightPanel<'a> {
    pub shape: &'a ConvShape,
    pub weight: *const f32,
    pub vertical_tap: usize,
    pub horizontal: Taps,
    pub transposed: bool,
    pub first_column: usize,
    pub units: usize,
    /// Where the vertical tap's rows start in the panel.
    pub to: *mut f32,
}

impl Job for WeightPanel<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let shape = self.shape;
        let width = self.units * LANES;
        for i in 0..self.horizontal.count {
            let tap = self.vertical_tap * shape.kernel + self.horizontal.tap(i);
            let weight = self.weight.wrapping_add(tap * shape.full_in * shape.full_out);
            // SAFETY: the caller lends the weight, and room for the panel.
            unsafe {
                if self.transposed {
                    let to = self.to.wrapping_add(i * shape.out_channels * width);
                    self.transposed::<S>(weight, to);
                } else {
                    let active = width.min(shape.out_channels - self.first_column);
                    for c in 0..shape.in_channels {
                        let row = i * shape.in_channels + c;
                        panel_row::<S>(
                            weight.wrapping_add(c * shape.full_out + self.first_column),
                            active,
                            self.to.wrapping_add(row * width),
                            width,
                        );
                    }
                }
            }
        }
    }
}

impl WeightPanel<'_> {
    #[inline(always)]
    unsafe fn transposed<S: Simd>(&self, weight: *const f32, to: *mut f32) {
        let shape = self.shape;
        let width = self.units * LANES;
        for k in (0..shape.out_channels).step_by(LANES) {
            let n = LANES.min(shape.out_channels - k);
            for c in (0..width).step_by(LANES) {
                let first = self.first_column + c;
                let rows = LANES.min(shape.in_channels.saturating_sub(first));
                // SAFETY: only active channels are read, and `n` rows of the panel are written.
                unsafe {
                    let from = weight.wrapping_add(first * shape.full_out + k);
                    let mut lines = [S::Narrow::splat(0.0); LANES];
                    for (i, line) in lines.iter_mut().enumerate().take(rows) {
                        *line = S::Narrow::load_partial(from.wrapping_add(i * shape.full_out), n);
                    }
                    for (i, line) in S::transpose(lines).into_iter().enumerate().take(n) {
                        Whole.store(line, to.wrapping_add((k + i) * width + c));
                    }
                }
            }
        }
    }
}
