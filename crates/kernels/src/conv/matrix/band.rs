//! Some lines of a correlation's result: those of the source that they read are laid out, multiplied by the filters, and
//! the sums are written.

use std::arch::x86_64::*;
use std::ops::Range;

use super::ahead::{Ahead, Prefetch, Rows};
use super::layout::{Lines, View};
use super::minimal::{self, OUTPUTS, POINTS};
use super::part::{Group, Product};
use super::source::Together;
use super::split::{fetch, load, split, store};
use super::unit::{BLOCK, DEPTH, FETCHED, ROW, SIDE, SUMS, Unit};
use crate::conv::epilogue::Finish;
use crate::conv::input::Reading;
use crate::conv::simd::{First, Job, Simd, Sixteen, Vector, Whole};
use crate::conv::winograd::Map;

/// How many sums are made together, before they are written.
struct Sizes {
    /// Tiles of a line, and lines or points.
    across: usize,
    down: usize,
    /// Columns of 16 channels. The more of them, the more of an output's neighbouring lines of memory are written in a
    /// row, which takes a third of the time of writing them one by one.
    columns: usize,
}

/// By the definition, the fewer tiles and the more lines, the more of a plane's pixels stay in a core's first cache from
/// one line to the next.
const BY_LINES: Sizes = Sizes { across: 2, down: 8, columns: 8 };
/// At points no line reads what another one has; then many tiles pay for the filters that are read for each group.
const BY_POINTS: Sizes = Sizes { across: 14, down: POINTS, columns: MOST_COLUMNS };
/// Most columns whose sums at points are written together.
pub(super) const MOST_COLUMNS: usize = 4;

impl Sizes {
    /// Room for the sums: there is one tile more at the beginning of a line.
    const fn sums(&self) -> usize {
        (self.across + 1) * self.down * self.columns
    }
}

/// Tiles of sums that a band needs room for.
pub(super) const GROUP: usize = {
    let (lines, points) = (BY_LINES.sums(), BY_POINTS.sums());
    if lines > points { lines } else { points }
};
/// Most bytes of filters of columns whose sums are made together by lines: all of them are read once for each group.
const FILTER_BYTES: usize = 640 << 10;

/// Some lines of a block of images, for some of the output's channels.
pub(super) struct Band<'a> {
    pub lines: &'a Lines,
    pub products: &'a [Option<Product<'a>>],
    /// Channels of the source.
    pub depth: usize,
    pub input: Reading<'a>,
    /// Room for the lines.
    pub from: *mut u8,
    /// Room for the tiles of sums of a group: for [`GROUP`], or where groups are larger, as [`planes`](super::planes) makes them,
    /// for those of all [`POINTS`] of its columns.
    pub sums: *mut f32,
    pub block: Range<usize>,
    pub band: Range<usize>,
    pub columns: Range<usize>,
    pub output: *mut f32,
    pub result: Map,
    pub channels: usize,
    pub finish: Finish,
    /// Whether filters at points are fetched ahead, since they outgrow a core's own cache.
    pub fetch_filters: bool,
    /// Whether pixels of the result are fetched before they are written, since they may come from memory.
    pub fetch_result: bool,
}

impl Job for Band<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: passed on to the caller; only an instruction set with the unit comes here.
        unsafe { self.compute() }
    }
}

impl Band<'_> {
    /// # Safety
    /// The machine has the unit, and the buffers and maps are as the fields say.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
    unsafe fn compute(&self) {
        let minimal = self.lines.terms.minimal;
        // SAFETY: passed on to the caller.
        unsafe {
            if minimal {
                self.lay_out_points();
            } else {
                self.lay_out_lines();
            }
            let unit = Unit::new();
            for product in self.products.iter().flatten() {
                let (lines, columns) = if minimal {
                    (0..POINTS, BY_POINTS.columns)
                } else {
                    let end = self.band.end.min(product.part.view.y.length);
                    let columns = FILTER_BYTES / 4 / product.operand;
                    (self.band.start..end, columns.clamp(1, BY_LINES.columns))
                };
                for first in self.columns.clone().step_by(columns) {
                    let columns = first..(first + columns).min(self.columns.end);
                    self.groups(&unit, product, lines.clone(), columns);
                }
            }
        }
    }

    /// All sums of some columns, which are written as soon as some are made.
    ///
    /// # Safety
    /// As in `compute`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
    unsafe fn groups(
        &self,
        unit: &Unit,
        product: &Product<'_>,
        all: Range<usize>,
        columns: Range<usize>,
    ) {
        let part = &product.part;
        let minimal = self.lines.terms.minimal;
        let Sizes { across, down, .. } = if minimal { BY_POINTS } else { BY_LINES };
        let end = part.view.rows(self.lines.images);
        let mut row = 0;
        while row < end {
            let first = usize::from(row == 0 && self.ends_alone());
            let next = (row + (across + first) * SIDE).min(end);
            for line in all.clone().step_by(down) {
                let lines = line..(line + down).min(all.end);
                let group = Group { part, lines, rows: row..next, columns: columns.clone() };
                // SAFETY: passed on to the caller.
                unsafe {
                    let mut ahead = Ahead::new(self.written(&group));
                    if minimal {
                        self.multiply_points(unit, &group, product, &mut ahead);
                        self.write_points(&group);
                    } else {
                        self.multiply_lines(unit, &group, product, &mut ahead);
                        self.write_lines(&group);
                    }
                }
            }
            row = next;
        }
    }

    /// Pixels of the result that a group writes, if they are to be fetched.
    pub(super) fn written(&self, group: &Group<'_>) -> impl Iterator<Item = Rows> {
        let View { first: [first_line, first_position], spacing, .. } = *group.part.view;
        let pixels = group.pixels(self.lines.images);
        let lines = if self.lines.terms.minimal { self.band.clone() } else { group.lines.clone() };
        let block = if self.fetch_result { self.block.clone() } else { 0..0 };
        let apart = spacing * self.channels;
        // Whole lines follow upon each other.
        let whole = spacing == 1 && pixels.len() == self.result.width;
        let together = if whole { lines.len().max(1) } else { 1 };
        let count = together * pixels.len();
        block.flat_map(move |image| {
            let (pixels, columns) = (pixels.clone(), group.columns.clone());
            lines.clone().step_by(together).flat_map(move |line| {
                let first = first_position + pixels.start * spacing;
                let at = self.pixel(image, first_line + line * spacing, first);
                columns.clone().step_by(FETCHED / SIDE).map(move |column| {
                    let from = self.output.wrapping_add(at + column * SIDE);
                    Rows { from, count, apart }
                })
            })
        })
    }

    /// Whether the first and the last tile of a line, of one pixel each, have some taps less than the others.
    fn ends_alone(&self) -> bool {
        self.lines.images.images >= SIDE
    }

    /// The sums of a group, plane by plane: a plane's filters stay in the first cache for all of a column's tiles, and so do
    /// pixels from one line to the next.
    ///
    /// # Safety
    /// As in `compute`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
    unsafe fn multiply_lines(
        &self,
        unit: &Unit,
        group: &Group<'_>,
        product: &Product<'_>,
        ahead: &mut impl Prefetch,
    ) {
        let Group { lines, columns, .. } = group;
        let planes = group.part.view.terms.planes();
        for (k, plane) in columns.clone().flat_map(|k| (0..planes).map(move |i| (k, i))) {
            let a = self.from.wrapping_add(plane * self.lines.plane());
            for (i, line) in lines.clone().enumerate() {
                let place = (line - self.band.start) * self.lines.step;
                let operands = Operands {
                    a: a.wrapping_add(place * self.lines.line()),
                    b: product.filters(k, 0, plane),
                    next: None,
                    c: self.sums.wrapping_add(group.sums(k - columns.start, i)),
                };
                // SAFETY: passed on to the caller.
                unsafe { self.tiles(unit, group, line, plane..plane + 1, operands, ahead) };
            }
        }
    }

    /// The sums of a group at all points, visit by visit: a visit's pixels stay in the first cache for all columns.
    ///
    /// # Safety
    /// As in `compute`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
    unsafe fn multiply_points(
        &self,
        unit: &Unit,
        group: &Group<'_>,
        product: &Product<'_>,
        ahead: &mut impl Prefetch,
    ) {
        let Group { columns, .. } = group;
        let planes = group.part.view.terms.planes();
        let visit = group.part.steps.visit;
        let visits = planes.div_ceil(visit);
        let used = minimal::used(self.band.len());
        let place = |i: usize| {
            let (k, i) = (i % columns.len(), i / columns.len());
            (columns.start + k, used[i / visits], i % visits * visit)
        };
        let filters = |i: usize| {
            let (k, point, plane) = place(i);
            product.filters(k, point, plane)
        };
        let count = used.len() * visits * columns.len();
        for i in 0..count {
            let (k, point, plane) = place(i);
            let at = point * self.lines.line() + plane * self.lines.plane();
            let operands = Operands {
                a: self.from.wrapping_add(at),
                b: filters(i),
                next: (self.fetch_filters && i + 1 < count).then(|| filters(i + 1)),
                c: self.sums.wrapping_add(group.sums(k - columns.start, point)),
            };
            let planes = plane..(plane + visit).min(planes);
            // SAFETY: passed on to the caller.
            unsafe { self.tiles(unit, group, point, planes, operands, ahead) };
        }
    }

    /// Adds products over some planes to a group's sums at all points. `b` are their filters of the group's columns, point by
    /// point, and `next` the weights that are fetched meanwhile.
    ///
    /// # Safety
    /// As in `compute`; the band is laid out at the points, the filters are there, and the planes are those of one visit of the
    /// group's steps.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
    pub(super) unsafe fn multiply_planes(
        &self,
        unit: &Unit,
        group: &Group<'_>,
        planes: Range<usize>,
        b: *const u8,
        ahead: &mut impl Prefetch,
    ) {
        let (all, visit) = (group.part.view.terms.planes(), group.part.steps.visit);
        let whole = planes.start.is_multiple_of(visit);
        debug_assert!(
            whole && planes.end == all.min(planes.start + visit),
            "not a visit: {planes:?}"
        );
        let operand = group.part.view.terms.of(planes.clone()) * BLOCK;
        let a = self.from.wrapping_add(planes.start * self.lines.plane());
        for &point in minimal::used(self.band.len()) {
            for k in 0..group.columns.len() {
                let operands = Operands {
                    a: a.wrapping_add(point * self.lines.line()),
                    b: b.wrapping_add((k * POINTS + point) * operand),
                    next: None,
                    c: self.sums.wrapping_add(group.sums(k, point)),
                };
                // SAFETY: passed on to the caller.
                unsafe { self.tiles(unit, group, point, planes.clone(), operands, ahead) };
            }
        }
    }

    /// A line of some planes, which are visited together, times filters: a tile of sums for each of its tiles.
    ///
    /// # Safety
    /// As in `compute`; the operands are there.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
    unsafe fn tiles(
        &self,
        unit: &Unit,
        group: &Group<'_>,
        line: usize,
        planes: Range<usize>,
        operands: Operands,
        ahead: &mut impl Prefetch,
    ) {
        let Group { part, rows, .. } = group;
        let Operands { a, b, next: fetched, c } = operands;
        let images = self.lines.images;
        let terms = part.view.terms;
        let end = part.view.rows(images);
        let (accumulate, last) = (planes.start > 0, planes.end == terms.planes());
        // Lines of memory that are fetched for each tile.
        let share = (terms.of(planes) * BLOCK / 64).div_ceil(group.tiles());
        let mut row = rows.start;
        while row < rows.end {
            let alone =
                self.ends_alone() && (row == 0 || row + 2 * SIDE >= end) || row + SIDE >= rows.end;
            let tiles = if alone { 1 } else { 2 };
            let next = row + tiles * SIDE;
            let tile = (row - rows.start) / SIDE;
            if let Some(from) = fetched {
                for i in tile * share..(tile + tiles) * share {
                    fetch(from.wrapping_add(i * 64).cast());
                }
            }
            let edges = part.view.edges(images, line, &(row..next));
            let steps = part.steps.at(last, edges);
            let a = a.wrapping_add(row * ROW);
            let c = c.wrapping_add(tile * SUMS);
            // SAFETY: the rows are laid out, and there is room for the sums.
            unsafe {
                if alone {
                    unit.single(steps, a, b, c, accumulate);
                } else {
                    let fetch = ahead.next(steps.len());
                    unit.pair(steps, a, SIDE * ROW, b, c, accumulate, fetch);
                }
            }
            row = next;
        }
    }

    /// The lines of the source that the band reads.
    ///
    /// # Safety
    /// As in `compute`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
    unsafe fn lay_out_lines(&self) {
        let Lines { images, step, ref reach, .. } = *self.lines;
        let start = (self.band.start * step) as isize + reach.start;
        let end = ((self.band.end - 1) * step) as isize + reach.end;
        for line in start.max(0)..end.min(images.map.height as isize) {
            let to = self.from.wrapping_add((line - start) as usize * self.lines.line());
            // SAFETY: passed on to the caller.
            unsafe { self.lay_out(line, to, 1, |line: [_; 1]| line) };
        }
    }

    /// The lines of the source that the band reads as what they are at the points.
    ///
    /// # Safety
    /// As in `compute`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
    pub(super) unsafe fn lay_out_points(&self) {
        // SAFETY: passed on to the caller.
        unsafe {
            let (first, outputs) = (self.band.start as isize - 1, self.band.len());
            let used = minimal::used_bits(outputs);
            self.lay_out(first, self.from, used, |lines| minimal::input(lines, outputs))
        };
    }

    /// What lines of the map from `line` on are transformed to: those of the bits.
    ///
    /// # Safety
    /// As in `compute`.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
    unsafe fn lay_out<const N: usize>(
        &self,
        line: isize,
        to: *mut u8,
        used: u8,
        transform: impl Fn([__m512; N]) -> [__m512; N],
    ) {
        let Lines { images: of, step, terms, .. } = *self.lines;
        let (images, width, depth) = (of.images, of.map.width, self.depth);
        let (segment, plane) = (self.lines.segment(), self.lines.plane());
        let line_len = self.lines.line();
        let across = width * depth;
        let Reading { values, norm } = self.input;
        let used = |i: usize| used >> i & 1 == 1;
        let lines = Together::<N>::new(line, of.map.height, across, norm);
        // SAFETY: lines that are not on the map are not read (`Together`), the others' pixels are there, and at `to` there is
        // room for all planes of `N` lines.
        unsafe {
            for i in 0..N * terms.planes() {
                let (point, i) = (i / terms.planes(), i % terms.planes());
                let to = to.wrapping_add(point * line_len + i * plane);
                if i < terms.whole || terms.shared == 1 {
                    for first in 0..step {
                        let to = to.wrapping_add(first * segment);
                        to.write_bytes(0, images * ROW);
                        let end = ((width + step - 1 - first) / step + 1) * images * ROW;
                        to.wrapping_add(end).write_bytes(0, segment - end);
                    }
                } else {
                    to.write_bytes(0, plane);
                }
            }
            for n in self.block.len()..images {
                for x in 0..width {
                    for i in 0..N * terms.planes() {
                        let (point, i) = (i / terms.planes(), i % terms.planes());
                        let at = point * line_len + i * plane + self.lines.pixel(x) + n * ROW;
                        to.wrapping_add(at).write_bytes(0, ROW);
                    }
                }
            }
            for (n, image) in self.block.clone().enumerate() {
                let pixel = (image * of.map.height * width) as isize + line * width as isize;
                let from = values.as_ptr().wrapping_offset(pixel * depth as isize);
                // What is read next, the next image's line or the first one's next, is a place that processors do not expect.
                let image_len = of.map.height * across;
                let next = if n + 1 < self.block.len() {
                    from.wrapping_add(image_len)
                } else {
                    from.wrapping_sub(n * image_len).wrapping_add(if N == 1 {
                        across
                    } else {
                        OUTPUTS * across
                    })
                };
                for x in 0..width {
                    lines.fetch(next.wrapping_add(x * depth), depth);
                    let from = from.wrapping_add(x * depth);
                    let to = to.wrapping_add(self.lines.pixel(x) + n * ROW);
                    let read =
                        |at: usize, n: usize| transform(lines.load(from.wrapping_add(at), at, n));
                    for i in 0..terms.whole {
                        let low = read(i * DEPTH, SIDE);
                        let high = read(i * DEPTH + SIDE, SIDE);
                        for (point, (low, high)) in low.into_iter().zip(high).enumerate() {
                            if !used(point) {
                                continue;
                            }
                            store(split(low, high), to.wrapping_add(point * line_len + i * plane));
                        }
                    }
                    if terms.rest == 0 {
                        continue;
                    }
                    let low = read(terms.whole * DEPTH, terms.rest.min(SIDE));
                    let high = read(terms.whole * DEPTH + SIDE, terms.rest.saturating_sub(SIDE));
                    for (point, (low, high)) in low.into_iter().zip(high).enumerate() {
                        if !used(point) {
                            continue;
                        }
                        let halves = split(low, high);
                        let to = to.wrapping_add(point * line_len + terms.whole * plane);
                        if terms.shared == 1 {
                            store(halves, to);
                            continue;
                        }
                        // The row of a pixel holds the next pixels' channels, too, for their taps.
                        let mask = (1u64 << terms.rest) as __mmask32 - 1;
                        for tap in 0..terms.shared.min(x + 2) {
                            let to = to
                                .wrapping_sub(tap * images * ROW)
                                .wrapping_add(tap * terms.rest * 2);
                            _mm512_mask_storeu_epi16(to.cast(), mask, halves.0);
                            _mm512_mask_storeu_epi16(to.wrapping_add(64).cast(), mask, halves.1);
                        }
                    }
                }
            }
        }
    }

    /// A group's sums to the pixels that they stand for, all columns of a pixel and all pixels of an image and a line in a row.
    ///
    /// # Safety
    /// As in `compute`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
    unsafe fn write_lines(&self, group: &Group<'_>) {
        let View { first: [first_line, first_position], spacing, .. } = group.part.view;
        for (i, line) in group.lines.clone().enumerate() {
            let line = first_line + line * spacing;
            for (n, image) in self.block.clone().enumerate() {
                for x in group.pixels(self.lines.images) {
                    let from = self.sums.wrapping_add(group.sum(self.lines.images, i, x, n));
                    let at = self.pixel(image, line, first_position + x * spacing);
                    for (k, column) in group.columns.clone().enumerate() {
                        // SAFETY: the row's sums are there, and so are the pixel and its channels.
                        unsafe { self.put(from.wrapping_add(group.sums(k, 0)), at, column) };
                    }
                }
            }
        }
    }

    /// The same of sums at points.
    ///
    /// # Safety
    /// As in `compute`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
    pub(super) unsafe fn write_points(&self, group: &Group<'_>) {
        // All columns of a pixel are written in a row, but all lines of a column are made together.
        let mut lines = [[[0.0f32; SIDE]; BY_POINTS.columns]; OUTPUTS];
        let outputs = self.band.len();
        let used = minimal::used_bits(outputs);
        for (n, image) in self.block.clone().enumerate() {
            for x in group.pixels(self.lines.images) {
                let from = self.sums.wrapping_add(group.sum(self.lines.images, 0, x, n));
                for k in 0..group.columns.len() {
                    let point = |i: usize| from.wrapping_add(group.sums(k, i));
                    // SAFETY: the row's sums are there, and there is room for a vector.
                    unsafe {
                        let width = |i: usize| if used >> i & 1 == 1 { SIDE } else { 0 };
                        let sums = std::array::from_fn(|i| load(point(i), width(i)));
                        for (line, y) in lines.iter_mut().zip(minimal::output(sums, outputs)) {
                            _mm512_storeu_ps(line[k].as_mut_ptr(), y);
                        }
                    }
                }
                for (line, sums) in self.band.clone().zip(&lines) {
                    let at = self.pixel(image, line, x);
                    for (sums, column) in sums.iter().zip(group.columns.clone()) {
                        // SAFETY: the pixel and its channels are there.
                        unsafe { self.put(sums.as_ptr(), at, column) };
                    }
                }
            }
        }
    }

    /// Where a pixel of the result begins.
    fn pixel(&self, image: usize, line: usize, x: usize) -> usize {
        let Map { height, width, .. } = self.result;
        ((image * height + line) * width + x) * self.channels
    }

    /// Finishes 16 channels of a pixel, or those that there are.
    ///
    /// # Safety
    /// As in `compute`; the sums are there, and so are the pixel and the column.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
    unsafe fn put(&self, sums: *const f32, at: usize, column: usize) {
        let channel = column * SIDE;
        let left = self.channels - channel;
        // SAFETY: passed on to the caller.
        unsafe {
            let sums = [Sixteen::load(sums)];
            if left >= SIDE {
                self.finish.pixels(sums, 1, self.output, at, 0, channel, Whole);
            } else {
                self.finish.pixels(sums, 1, self.output, at, 0, channel, First(left));
            }
        }
    }
}

/// Where a product reads and writes.
struct Operands {
    a: *const u8,
    b: *const u8,
    /// The filters after these, to be fetched meanwhile.
    next: Option<*const u8>,
    c: *mut f32,
}
