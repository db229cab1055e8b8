//! Laying out both operands of the products.

use std::ops::Range;

use super::{Map, Taps};
use crate::conv::ConvShape;
use crate::conv::simd::{Access, First, Job, LANES, Simd, Vector, Whole};

/// Gathers rows `rows` (numbered through images, lines and positions) of the left operand.
///
/// Row `r` is `[vertical tap][horizontal tap][channel]`, cut into pieces of `piece` floats; piece `p`
/// of it goes to `to + p * piece_stride + (r - rows.start) * piece`.
#[derive(Clone)]
pub(super) struct GatherRows {
    pub from: *const f32,
    pub map: Map,
    pub vertical: Taps,
    pub horizontal: Taps,
    /// Lines and positions of an image that rows stand for.
    pub lines: usize,
    pub positions: usize,
    pub rows: Range<usize>,
    pub to: *mut f32,
    pub piece: usize,
    pub piece_stride: usize,
}

impl Job for GatherRows {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Map { height, width, channels, .. } = self.map;
        for r in self.rows.clone() {
            let (x, line) = (r % self.positions, r / self.positions);
            let (y, image) = (line % self.lines, line / self.lines);
            let top = (y * self.vertical.step) as isize + self.vertical.offset;
            let left = (x * self.horizontal.step) as isize + self.horizontal.offset;
            let count = self.horizontal.count;
            // Taps `inside` of a line are on the map.
            let first = (-left).clamp(0, count as isize) as usize;
            let last = (width as isize - left).clamp(first as isize, count as isize) as usize;
            let mut writer = Writer {
                to: self.to.wrapping_add((r - self.rows.start) * self.piece),
                at: 0,
                piece: self.piece,
                piece_stride: self.piece_stride,
            };
            for i in 0..self.vertical.count {
                let line = top + i as isize;
                // SAFETY: the caller lends room for the rows; taps `first..last` of a line on the
                // map are within it.
                unsafe {
                    if line < 0 || line >= height as isize || first == last {
                        writer.zeros::<S>(count * channels);
                        continue;
                    }
                    let pixel = (image * height + line as usize) * width;
                    let from = (pixel as isize + left + first as isize) as usize * channels;
                    writer.zeros::<S>(first * channels);
                    writer.copy::<S>(self.from.wrapping_add(from), (last - first) * channels);
                    writer.zeros::<S>((count - last) * channels);
                }
            }
        }
    }
}

/// Appends to a row that is cut into pieces.
struct Writer {
    to: *mut f32,
    at: usize,
    piece: usize,
    piece_stride: usize,
}

impl Writer {
    /// Room for up to `n` floats, and for how many.
    #[inline(always)]
    fn room(&mut self, n: usize) -> (*mut f32, usize) {
        if self.at == self.piece {
            self.at = 0;
            self.to = self.to.wrapping_add(self.piece_stride);
        }
        let n = n.min(self.piece - self.at);
        let to = self.to.wrapping_add(self.at);
        self.at += n;
        (to, n)
    }

    #[inline(always)]
    unsafe fn zeros<S: Simd>(&mut self, mut n: usize) {
        while n > 0 {
            let (to, part) = self.room(n);
            // SAFETY: passed on to the caller.
            unsafe { std::ptr::write_bytes(to, 0, part) };
            n -= part;
        }
    }

    #[inline(always)]
    unsafe fn copy<S: Simd>(&mut self, mut from: *const f32, mut n: usize) {
        while n > 0 {
            let (to, part) = self.room(n);
            // SAFETY: passed on to the caller.
            unsafe { copy::<S>(from, to, part) };
            from = from.wrapping_add(part);
            n -= part;
        }
    }
}

/// Inlined, since the runs are often as short as three floats.
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
