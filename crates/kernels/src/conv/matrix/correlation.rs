//! Forward and data gradient.

use std::arch::x86_64::*;
use std::ops::Range;

use super::layout::{Edges, Images, Lines, Terms, as_steps};
use super::split::{load, split, split_pair, store, store_transposed};
use super::unit::{BLOCK, DEPTH, ROW, SIDE, SUMS, Step, Unit};
use crate::Scratch;
use crate::conv::columns::ByColumns;
use crate::conv::epilogue::Finish;
use crate::conv::moments::Moments;
use crate::conv::parallel::{SharedMut, for_each_task, lane_len, part};
use crate::conv::simd::{First, Isa, Job, Simd, Vector, Whole};
use crate::conv::winograd::{Filters, Map, Statistics};
use crate::norm::merge_moments;
use crate::tile::as_doubles;

/// Bytes of a band of lines, which with an operand of filters stays in a core's own cache.
const BAND_BYTES: usize = 900 << 10;
/// Rows of the map that a task computes at least, if it has them: the two around a band are laid out twice.
const LEAST_BAND: usize = 4;

/// `output = finish(input * filters)`, both maps dense, and if wanted the output's statistics.
pub(in crate::conv) fn correlate(
    isa: Isa,
    map: Map,
    input: &[f32],
    filters: Filters,
    output: &mut [f32],
    finish: Finish,
    statistics: Option<Statistics<'_>>,
    scratch: &mut Scratch,
) {
    let images = Images::new(map, 16);
    let lines = Lines { images, terms: Terms::new(filters.depth) };
    // All of it depends on the shape alone, for a band's moments have to.
    let most = (BAND_BYTES / lines.line()).saturating_sub(2).max(LEAST_BAND);
    let bands = map.height.div_ceil(most);
    let band = |i: usize| part(map.height, 1, bands, i);
    let tallest = map.height.div_ceil(bands);
    let columns = filters.columns.div_ceil(SIDE);
    let tasks = images.blocks() * bands;
    // Where there are few, several take the same lines, each for some of the channels.
    let least = TASKS * rayon::current_num_threads();
    let groups = least.div_ceil(tasks).min(columns);

    let operand = lines.terms.count() * BLOCK / 4;
    let lane_bytes = (tallest + 2) * lines.line();
    let lane = lane_len((TILES + 1) * SUMS + lane_bytes / 4);
    let whole = bands == 1;
    let count = if whole { images.blocks() } else { map.batch * bands };
    let moments = if statistics.is_some() { 2 * filters.columns } else { 0 };
    let steps_len = 2 * 2 * Edges::KINDS * LIST;
    let (b_len, partials_len) = (columns * operand, 2 * moments * count);
    let (shared, lanes) = scratch.split(b_len + steps_len + partials_len, lane);
    let (b, shared) = shared.split_at_mut(b_len);
    let (steps, partials) = shared.split_at_mut(steps_len);
    let steps = Sums::new(lines, as_steps(steps));

    let to = SharedMut::new(b);
    let planes = lines.terms.planes();
    for_each_task(columns * planes, lanes, lane, |task, _| {
        let (column, plane) = (task / planes, task % planes);
        let at = column * operand + lines.terms.before(plane) * BLOCK / 4;
        // SAFETY: the unit's machine has the instructions, and this plane of these columns is this task's.
        unsafe { lay_out_filters(&filters, lines.terms, column, plane, to.at(at).cast()) };
    });
    let b = &*b;

    let partials = &mut as_doubles(partials)[..moments * count];
    let shared = SharedMut::new(partials);
    let to = SharedMut::new(output);
    let group_of = |group: usize| part(columns, 1, groups, group);
    let moments_of = |block: usize, i: usize, columns: Range<usize>| {
        let of = |image: usize, rows: usize, at: usize| Moments {
            x: to.at(images.pixel(image, band(i).start, 0) * filters.columns),
            rows,
            channels: filters.columns,
            first: columns.start * SIDE,
            last: (columns.end * SIDE).min(filters.columns),
            moments: shared.at(moments * at),
        };
        let all = images.block(block);
        // SAFETY: these channels of these pixels are written, and the moments are theirs.
        unsafe {
            if whole {
                let rows = all.len() * map.height * map.width;
                isa.run(ByColumns(of(all.start, rows, block)));
            } else {
                for image in all {
                    let rows = band(i).len() * map.width;
                    isa.run(ByColumns(of(image, rows, image * bands + i)));
                }
            }
        }
    };
    for_each_task(tasks * groups, lanes, lane, |task, lane| {
        let (group, task) = (task % groups, task / groups);
        let (block, i) = (task / bands, task % bands);
        let (sums, from) = lane.split_at_mut((TILES + 1) * SUMS);
        let job = Band {
            lines,
            steps,
            input: input.as_ptr(),
            from: from.as_mut_ptr().cast(),
            sums: sums.as_mut_ptr(),
            block: images.block(block),
            band: band(i),
            b: b.as_ptr(),
            operand,
            columns: group_of(group),
            output: to.at(0),
            channels: filters.columns,
            finish,
        };
        // SAFETY: the lane has room for the tallest band, and these channels of its pixels are this task's.
        unsafe { isa.run(job) };
        if moments > 0 {
            moments_of(block, i, group_of(group));
        }
    });
    let Some(Statistics { mean, var }) = statistics else { return };
    let rows = (0..count).map(|at| {
        if whole {
            images.block(at).len() * map.height * map.width
        } else {
            band(at % bands).len() * map.width
        }
    });
    merge_moments(partials, rows, mean, var);
}

/// Tasks for each thread that even out what a thread is slower than another.
const TASKS: usize = 4;
/// Most steps of a sum over a plane.
const LIST: usize = 9;
/// Tiles whose sums are made side by side: with what they are sums of in a plane, about what a core's first
/// cache holds.
const TILES: usize = 8;

/// The steps of all tiles' sums.
#[derive(Clone, Copy)]
struct Sums<'a> {
    /// Lists of [`LIST`] for every kind of [`Edges`], of which the first `counts` are there: those of all
    /// planes but the last, and those of the last one.
    steps: &'a [Step],
    counts: [u8; 2 * Edges::KINDS],
}

impl<'a> Sums<'a> {
    fn new(lines: Lines, steps: &'a mut [Step]) -> Self {
        let mut counts = [0; 2 * Edges::KINDS];
        for (i, (steps, count)) in steps.chunks_mut(LIST).zip(&mut counts).enumerate() {
            let plane = if i < Edges::KINDS { 0 } else { lines.terms.planes() - 1 };
            *count = lines.steps(plane, Edges::kind(i % Edges::KINDS), steps) as u8;
        }
        Self { steps, counts }
    }

    fn at(&self, last: bool, edges: Edges) -> &'a [Step] {
        let i = edges.number() + if last { Edges::KINDS } else { 0 };
        &self.steps[i * LIST..][..usize::from(self.counts[i])]
    }
}

/// The right operand of 16 columns, for a plane.
///
/// # Safety
/// The machine has AVX-512 with bf16, and there is room for the plane's steps at `to`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn lay_out_filters(
    filters: &Filters,
    terms: Terms,
    column: usize,
    plane: usize,
    to: *mut u8,
) {
    let Filters { weight, full_in, full_out, transposed, columns, .. } = *filters;
    let first = column * SIDE;
    let width = SIDE.min(columns - first);
    let channels = terms.channels(plane);
    let lines = (0..3).flat_map(|line| terms.firsts(plane).map(move |first| (line, first)));
    for (i, (line, first_tap)) in lines.enumerate() {
        let to = to.wrapping_add(i * BLOCK);
        let taps = terms.taps(plane, first_tap);
        // SAFETY: taps, channels and columns are the weight's, and the block is the caller's.
        unsafe {
            if transposed {
                let mut upper = [_mm512_setzero_si512(); SIDE];
                let mut lower = upper;
                for column in 0..width {
                    let at = |tap: usize| {
                        let tap = 8 - (3 * line + tap);
                        let row = (tap * full_in + first + column) * full_out;
                        weight.wrapping_add(row + channels.start)
                    };
                    let (low, high) = if taps.len() == 1 {
                        let from = at(taps.start);
                        let n = channels.len();
                        (load(from, n), load(from.wrapping_add(SIDE), n.saturating_sub(SIDE)))
                    } else {
                        let mut terms = [0.0f32; DEPTH];
                        for (tap, terms) in taps.clone().zip(terms.chunks_mut(channels.len())) {
                            terms.as_mut_ptr().copy_from_nonoverlapping(at(tap), channels.len());
                        }
                        (load(terms.as_ptr(), SIDE), load(terms[SIDE..].as_ptr(), SIDE))
                    };
                    (upper[column], lower[column]) = split(low, high);
                }
                store_transposed(upper, lower, to);
            } else {
                let term = |k: usize| {
                    // Divisions are dear, and mostly there is but one tap.
                    let (tap, channel) = if taps.len() == 1 {
                        (taps.start, k)
                    } else {
                        (taps.start + k / channels.len(), k % channels.len())
                    };
                    if tap >= taps.end || channel >= channels.len() {
                        return _mm512_setzero_ps();
                    }
                    let row = (3 * line + tap) * full_in + channels.start + channel;
                    load(weight.wrapping_add(row * full_out + first), width)
                };
                for row in 0..SIDE {
                    let pair = split_pair(term(2 * row), term(2 * row + 1));
                    store(pair, to.wrapping_add(row * ROW));
                }
            }
        }
    }
}

/// Some lines of a block of images, for some of the output's channels.
struct Band<'a> {
    lines: Lines,
    steps: Sums<'a>,
    input: *const f32,
    /// Room for the lines.
    from: *mut u8,
    /// Room for the tiles.
    sums: *mut f32,
    block: Range<usize>,
    band: Range<usize>,
    /// The filters' operands, of `operand` floats for 16 columns.
    b: *const f32,
    operand: usize,
    columns: Range<usize>,
    output: *mut f32,
    channels: usize,
    finish: Finish,
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
        let Lines { images, .. } = self.lines;
        let height = images.map.height;
        // Lines of the map that the band reads, and the band's own number of the first.
        let read = self.band.start.saturating_sub(1)..(self.band.end + 1).min(height);
        let number = |line: usize| line + 1 - self.band.start;
        // SAFETY: passed on to the caller.
        unsafe {
            for line in read {
                self.lay_out(line, self.from.wrapping_add(number(line) * self.lines.line()));
            }
            let unit = Unit::new();
            for column in self.columns.clone() {
                let b = self.b.wrapping_add(column * self.operand).cast();
                let mut line = self.band.start;
                while line < self.band.end {
                    // Some short lines together, or a long one part by part.
                    let lines = line..(line + self.together()).min(self.band.end);
                    let mut row = 0;
                    while row < images.rows() {
                        let rows = row..(row + TILES * SIDE).min(images.rows());
                        self.multiply(&unit, lines.clone(), rows.clone(), b);
                        for (i, line) in lines.clone().enumerate() {
                            let sums = self.sums.wrapping_add(i * Self::sums(&rows));
                            self.finish(line, rows.clone(), column, sums);
                        }
                        row = rows.end;
                    }
                    line = lines.end;
                }
            }
        }
    }

    /// Lines whose sums are made side by side.
    fn together(&self) -> usize {
        (TILES / self.lines.images.rows().div_ceil(SIDE)).max(1)
    }

    /// Floats of some rows' sums.
    fn sums(rows: &Range<usize>) -> usize {
        rows.len().div_ceil(SIDE) * SUMS
    }

    /// The sums of some tiles, plane by plane: a plane's filters stay in the first cache for all of them, and
    /// so do pixels from one tile to the next.
    ///
    /// # Safety
    /// As in `compute`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
    unsafe fn multiply(&self, unit: &Unit, lines: Range<usize>, rows: Range<usize>, b: *const u8) {
        let Lines { images: Images { images, .. }, terms } = self.lines;
        let end = self.lines.images.rows();
        for plane in 0..terms.planes() {
            let last = plane + 1 == terms.planes();
            let b = b.wrapping_add(terms.before(plane) * BLOCK);
            let a = self.from.wrapping_add(plane * self.lines.plane());
            for (i, line) in lines.clone().enumerate() {
                // The band's own numbers begin with the line above it.
                let a = a.wrapping_add((line - self.band.start) * self.lines.line());
                let c = self.sums.wrapping_add(i * Self::sums(&rows));
                let mut row = rows.start;
                while row < rows.end {
                    // The first and the last pixels' tiles by themselves, if they have some taps less.
                    let alone = images >= SIDE && (row == 0 || row + 2 * SIDE >= end)
                        || row + SIDE >= rows.end;
                    let next = row + if alone { SIDE } else { 2 * SIDE };
                    let steps = self.steps.at(last, self.lines.edges(line, &(row..next)));
                    let a = a.wrapping_add(row * ROW);
                    let c = c.wrapping_add((row - rows.start) * SIDE);
                    // SAFETY: the rows are laid out, and there is room for the sums.
                    unsafe {
                        if alone {
                            unit.single(steps, a, b, c, plane > 0);
                        } else {
                            unit.pair(steps, a, SIDE * ROW, b, c, plane > 0);
                        }
                    }
                    row = next;
                }
            }
        }
    }

    /// A line of the map.
    ///
    /// # Safety
    /// As in `compute`.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
    unsafe fn lay_out(&self, line: usize, to: *mut u8) {
        let Lines { images: of, terms } = self.lines;
        let (images, width, depth) = (of.images, of.map.width, terms.whole * DEPTH + terms.rest);
        let plane = self.lines.plane();
        // SAFETY: the pixels are on the map, and the line has room for all planes.
        unsafe {
            for i in 0..terms.planes() {
                let to = to.wrapping_add(i * plane);
                if i < terms.whole || terms.shared == 1 {
                    to.write_bytes(0, images * ROW);
                    let end = (images + of.rows()) * ROW;
                    to.wrapping_add(end).write_bytes(0, plane - end);
                } else {
                    to.write_bytes(0, plane);
                }
            }
            for n in self.block.len()..images {
                for x in 0..width {
                    for i in 0..terms.planes() {
                        let row = (x + 1) * images + n;
                        to.wrapping_add(i * plane + row * ROW).write_bytes(0, ROW);
                    }
                }
            }
            for (n, image) in self.block.clone().enumerate() {
                let from = self.input.wrapping_add(of.pixel(image, line, 0) * depth);
                for x in 0..width {
                    let from = from.wrapping_add(x * depth);
                    let to = to.wrapping_add(((x + 1) * images + n) * ROW);
                    for i in 0..terms.whole {
                        let from = from.wrapping_add(i * DEPTH);
                        let halves = split(load(from, SIDE), load(from.wrapping_add(SIDE), SIDE));
                        store(halves, to.wrapping_add(i * plane));
                    }
                    if terms.rest == 0 {
                        continue;
                    }
                    let from = from.wrapping_add(terms.whole * DEPTH);
                    let high = load(from.wrapping_add(SIDE), terms.rest.saturating_sub(SIDE));
                    let halves = split(load(from, terms.rest), high);
                    let to = to.wrapping_add(terms.whole * plane);
                    if terms.shared == 1 {
                        store(halves, to);
                        continue;
                    }
                    // The row of a pixel holds the next pixels' channels, too, for their taps.
                    let mask = (1u64 << terms.rest) as __mmask32 - 1;
                    for tap in 0..terms.shared.min(x + 2) {
                        let to =
                            to.wrapping_sub(tap * images * ROW).wrapping_add(tap * terms.rest * 2);
                        _mm512_mask_storeu_epi16(to.cast(), mask, halves.0);
                        _mm512_mask_storeu_epi16(to.wrapping_add(64).cast(), mask, halves.1);
                    }
                }
            }
        }
    }

    /// Sums to the pixels that they stand for.
    ///
    /// # Safety
    /// As in `compute`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
    unsafe fn finish(&self, line: usize, rows: Range<usize>, column: usize, sums: *const f32) {
        use crate::conv::simd::Sixteen;
        /// Rows that are a pixel's in neighbouring images, whatever the number of images.
        const TOGETHER: usize = 8;
        let Lines { images: of, .. } = self.lines;
        let channel = column * SIDE;
        let width = SIDE.min(self.channels - channel);
        let stride = of.map.height * of.map.width * self.channels;
        for i in 0..rows.len().div_ceil(TOGETHER) {
            let row = rows.start + i * TOGETHER;
            let (x, n) = of.place(row);
            if x >= of.map.width || n >= self.block.len() {
                continue;
            }
            let count = TOGETHER.min(self.block.len() - n);
            let at = of.pixel(self.block.start + n, line, x) * self.channels;
            // SAFETY: the rows are there, and so are the pixels and their channels.
            unsafe {
                let from = sums.wrapping_add(i * TOGETHER * SIDE);
                let values: [Sixteen; TOGETHER] =
                    std::array::from_fn(|j| Sixteen::load(from.wrapping_add(j * SIDE)));
                if width == SIDE {
                    self.finish.pixels(values, count, self.output, at, stride, channel, Whole);
                } else {
                    let access = First(width);
                    self.finish.pixels(values, count, self.output, at, stride, channel, access);
                }
            }
        }
    }
}
