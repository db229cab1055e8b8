//! Forward and data gradient.

use std::arch::x86_64::*;
use std::ops::Range;

use super::layout::{Edges, Images, Lines, View, as_steps};
use super::split::{fetch, load, split, split_pair, store, store_transposed};
use super::unit::{BLOCK, DEPTH, ROW, SIDE, SUMS, Step, Unit};
use crate::Scratch;
use crate::conv::class::Class;
use crate::conv::columns::ByColumns;
use crate::conv::epilogue::Finish;
use crate::conv::moments::Moments;
use crate::conv::parallel::{SharedMut, for_each_task, lane_len, part};
use crate::conv::simd::{First, Isa, Job, Simd, Vector, Whole};
use crate::conv::winograd::{Filters, Map, Statistics};
use crate::conv::{ConvShape, map, output_map};
use crate::norm::merge_moments;
use crate::tile::as_doubles;

/// Bytes of a band of lines, which with the filters of some columns and their sums stays in a core's own cache.
const BAND_BYTES: usize = 900 << 10;
/// Lines of a band that may outgrow that: those around a band are laid out twice.
const LEAST_BAND: usize = 4;
/// Bands of all blocks of images together that are wanted if each then has so many lines. With fewer of them than tasks, several
/// tasks have to lay out the same lines, each for some of the columns.
const WANTED: usize = 8;
const LEAST_WANTED_BAND: usize = 3;

/// What is read and written.
struct Correlation<'a> {
    kernel: usize,
    /// The maps, both dense.
    source: Map,
    result: Map,
    /// All of the result, each of its pixels in one of them; they read one layout.
    views: &'a [View],
}

/// `output = finish(input * weight)`, and if wanted the output's statistics.
pub(in crate::conv) fn forward(
    isa: Isa,
    shape: &ConvShape,
    input: &[f32],
    filters: Filters,
    output: &mut [f32],
    finish: Finish,
    statistics: Option<Statistics<'_>>,
    scratch: &mut Scratch,
) {
    let (source, result) = (map(shape), output_map(shape));
    let views = [View::new(filters.depth, &Class::forward(shape), source)];
    let problem = Correlation { kernel: shape.kernel, source, result, views: &views };
    correlate(isa, problem, input, filters, output, finish, statistics, scratch);
}

/// `grad_input = finish(the gradient of the input)`.
pub(in crate::conv) fn backward_input(
    isa: Isa,
    shape: &ConvShape,
    grad_output: &[f32],
    filters: Filters,
    grad_input: &mut [f32],
    finish: Finish,
    scratch: &mut Scratch,
) {
    let ConvShape { kernel, stride, .. } = *shape;
    let (source, result) = (output_map(shape), map(shape));
    let view = |class: usize| View::new(filters.depth, &Class::backward(shape, class), source);
    // Where there are fewer, the first is there again.
    let classes = stride * stride;
    let views: [View; MOST_VIEWS] = std::array::from_fn(|i| view(if i < classes { i } else { 0 }));
    let problem = Correlation { kernel, source, result, views: &views[..classes] };
    correlate(isa, problem, grad_output, filters, grad_input, finish, None, scratch);
}

/// Strides are 1 or 2.
const MOST_VIEWS: usize = 4;

/// `output = finish(input * filters)`, both maps dense, and if wanted the output's statistics.
fn correlate(
    isa: Isa,
    problem: Correlation<'_>,
    input: &[f32],
    filters: Filters,
    output: &mut [f32],
    finish: Finish,
    statistics: Option<Statistics<'_>>,
    scratch: &mut Scratch,
) {
    let Correlation { kernel, source, result, views } = problem;
    // No more than a tile's rows: groups of tiles are whole pixels of all images.
    let images = Images::new(source, views[0].x.length, SIDE);
    let lines = Lines::new(images, views);
    let height = views[0].y.length;
    // All of it depends on the shape alone, for a band's moments have to.
    let most = (BAND_BYTES / lines.line()).saturating_sub(lines.read(1)) / lines.step + 1;
    let wanted = WANTED.div_ceil(images.blocks()).min(height / LEAST_WANTED_BAND);
    let bands = height.div_ceil(most.max(LEAST_BAND)).max(wanted);
    let band = |i: usize| part(height, 1, bands, i);
    let tallest = height.div_ceil(bands);
    let columns = filters.columns.div_ceil(SIDE);
    let tasks = images.blocks() * bands;
    // Where there are few, several take the same lines, each for some of the channels.
    let least = TASKS * rayon::current_num_threads();
    let groups = least.div_ceil(tasks).min(columns);

    // Floats of a view's operand of 16 columns, and where the operands of each view begin.
    let operand = |view: &View| view.terms.count() * BLOCK / 4;
    let mut starts = [0; MOST_VIEWS + 1];
    for (i, view) in views.iter().enumerate() {
        starts[i + 1] = starts[i] + columns * operand(view);
    }
    let lane_bytes = lines.read(tallest) * lines.line() + Lines::BEYOND;
    let lane = lane_len(GROUP * SUMS + lane_bytes / 4);
    let whole = bands == 1;
    let count = if whole { images.blocks() } else { source.batch * bands };
    assert!(statistics.is_none() || views.len() == 1, "the moments of a band's pixels");
    let moments = if statistics.is_some() { 2 * filters.columns } else { 0 };
    let steps_len = views.len() * Sums::LEN;
    let (b_len, partials_len) = (starts[views.len()], 2 * moments * count);
    let (shared, lanes) = scratch.split(b_len + steps_len + partials_len, lane);
    let (b, shared) = shared.split_at_mut(b_len);
    let (steps, partials) = shared.split_at_mut(steps_len);

    let to = SharedMut::new(b);
    let planes = lines.terms.planes();
    for_each_task(views.len() * columns * planes, lanes, lane, |task, _| {
        let (i, column, plane) = (task / planes / columns, task / planes % columns, task % planes);
        let view = &views[i];
        let at = starts[i] + column * operand(view) + view.terms.before(plane) * BLOCK / 4;
        let to = to.at(at).cast();
        // SAFETY: the unit's machine has the instructions, and this plane of these columns is this task's.
        unsafe { lay_out_filters(&filters, kernel, view, column, plane, to) };
    });
    let b = &*b;
    let mut steps = as_steps(steps).chunks_mut(Sums::LEN / 2);
    let parts: [Option<Part<'_>>; MOST_VIEWS] = std::array::from_fn(|i| {
        let view = views.get(i)?;
        let steps = Sums::new(&lines, view, steps.next()?);
        Some(Part { view, steps, b: &b[starts[i]..], operand: operand(view) })
    });

    let partials = &mut as_doubles(partials)[..moments * count];
    let shared = SharedMut::new(partials);
    let to = SharedMut::new(output);
    let group_of = |group: usize| part(columns, 1, groups, group);
    let moments_of = |block: usize, i: usize, columns: Range<usize>| {
        let of = |image: usize, rows: usize, at: usize| Moments {
            x: to.at((image * result.height + band(i).start) * result.width * filters.columns),
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
                let rows = all.len() * result.height * result.width;
                isa.run(ByColumns(of(all.start, rows, block)));
            } else {
                for image in all {
                    let rows = band(i).len() * result.width;
                    isa.run(ByColumns(of(image, rows, image * bands + i)));
                }
            }
        }
    };
    for_each_task(tasks * groups, lanes, lane, |task, lane| {
        let (group, task) = (task % groups, task / groups);
        let (block, i) = (task / bands, task % bands);
        let (sums, from) = lane.split_at_mut(GROUP * SUMS);
        let job = Band {
            lines: &lines,
            parts: &parts,
            depth: filters.depth,
            input: input.as_ptr(),
            from: from.as_mut_ptr().cast(),
            sums: sums.as_mut_ptr(),
            block: images.block(block),
            band: band(i),
            columns: group_of(group),
            output: to.at(0),
            result,
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
            images.block(at).len() * result.height * result.width
        } else {
            band(at % bands).len() * result.width
        }
    });
    merge_moments(partials, rows, mean, var);
}

/// Tasks for each thread that even out what a thread is slower than another.
const TASKS: usize = 4;
/// Most steps of a sum over a plane.
const LIST: usize = 9;
/// Tiles of a line, lines and columns of 16 channels whose sums are made together. The fewer tiles and the more lines, the more
/// of a plane's pixels stay in a core's first cache from one line to the next; the more columns, the more of
/// an output's neighbouring lines of memory are written in a row, which takes a third of the time of writing them one by one.
const ACROSS: usize = 2;
const DOWN: usize = 8;
const COLUMNS: usize = 8;
/// Room for their sums: one tile more at the beginning of a line.
const GROUP: usize = (ACROSS + 1) * DOWN * COLUMNS;
/// Most bytes of filters of columns whose sums are made together: all of them are read once for each group.
const FILTER_BYTES: usize = 640 << 10;

/// The steps of all tiles' sums.
#[derive(Clone, Copy)]
struct Sums<'a> {
    /// Lists of [`LIST`] for every kind of [`Edges`], of which the first `counts` are there: those of all
    /// planes but the last, and those of the last one.
    steps: &'a [Step],
    counts: [u8; 2 * Edges::KINDS],
}

impl<'a> Sums<'a> {
    /// Floats of their memory.
    const LEN: usize = 2 * 2 * Edges::KINDS * LIST;

    fn new(lines: &Lines, view: &View, steps: &'a mut [Step]) -> Self {
        let mut counts = [0; 2 * Edges::KINDS];
        for (i, (steps, count)) in steps.chunks_mut(LIST).zip(&mut counts).enumerate() {
            let plane = if i < Edges::KINDS { 0 } else { lines.terms.planes() - 1 };
            *count = lines.steps(view, plane, Edges::kind(i % Edges::KINDS), steps) as u8;
        }
        Self { steps, counts }
    }

    fn at(&self, last: bool, edges: Edges) -> &'a [Step] {
        let i = edges.number() + if last { Edges::KINDS } else { 0 };
        &self.steps[i * LIST..][..usize::from(self.counts[i])]
    }
}

/// A view, its sums, and its operands of filters, of `operand` floats for 16 columns.
struct Part<'a> {
    view: &'a View,
    steps: Sums<'a>,
    b: &'a [f32],
    operand: usize,
}

/// The right operand of 16 columns, for a plane.
///
/// # Safety
/// The machine has AVX-512 with bf16, and there is room for the plane's steps at `to`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn lay_out_filters(
    filters: &Filters,
    kernel: usize,
    view: &View,
    column: usize,
    plane: usize,
    to: *mut u8,
) {
    let Filters { weight, full_in, full_out, transposed, columns, .. } = *filters;
    let first = column * SIDE;
    let width = SIDE.min(columns - first);
    let View { y, x, terms, .. } = view;
    let channels = terms.channels(plane);
    let lines = (0..terms.down).flat_map(|line| terms.firsts(plane).map(move |tap| (line, tap)));
    for (i, (line, first_tap)) in lines.enumerate() {
        let of_weight = |tap: usize| y.taps.tap(line) * kernel + x.taps.tap(tap);
        let to = to.wrapping_add(i * BLOCK);
        let taps = terms.taps(plane, first_tap);
        // SAFETY: taps, channels and columns are the weight's, and the block is the caller's.
        unsafe {
            if transposed {
                let mut upper = [_mm512_setzero_si512(); SIDE];
                let mut lower = upper;
                for column in 0..width {
                    let at = |tap: usize| {
                        let row = (of_weight(tap) * full_in + first + column) * full_out;
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
                    let row = of_weight(tap) * full_in + channels.start + channel;
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
    lines: &'a Lines,
    parts: &'a [Option<Part<'a>>],
    /// Channels of the source.
    depth: usize,
    input: *const f32,
    /// Room for the lines.
    from: *mut u8,
    /// Room for the tiles.
    sums: *mut f32,
    block: Range<usize>,
    band: Range<usize>,
    columns: Range<usize>,
    output: *mut f32,
    result: Map,
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
        let Lines { images, step, ref reach, .. } = *self.lines;
        // Lines of the source that the band reads, and the band's own number of the first.
        let first = (self.band.start * step).wrapping_add_signed(reach.start);
        let start = (self.band.start * step).saturating_add_signed(reach.start);
        let end = ((self.band.end - 1) * step).saturating_add_signed(reach.end);
        let read = start..end.min(images.map.height);
        // SAFETY: passed on to the caller.
        unsafe {
            for line in read {
                let number = line.wrapping_sub(first);
                self.lay_out(line, self.from.wrapping_add(number * self.lines.line()));
            }
            let unit = Unit::new();
            for part in self.parts.iter().flatten() {
                let end = self.band.end.min(part.view.y.length);
                let lines = (self.band.start..end).step_by(DOWN);
                let lines = lines.map(|line| line..(line + DOWN).min(end));
                let together = (FILTER_BYTES / 4 / part.operand).clamp(1, COLUMNS);
                for first in self.columns.clone().step_by(together) {
                    let columns = first..(first + together).min(self.columns.end);
                    let mut row = 0;
                    while row < part.view.rows(self.lines.images) {
                        let rows = self.strip(part, row);
                        row = rows.end;
                        for lines in lines.clone() {
                            let (rows, columns) = (rows.clone(), columns.clone());
                            let group = Group { part, lines, rows, columns };
                            self.multiply(&unit, &group);
                            self.write(&group);
                        }
                    }
                }
            }
        }
    }

    /// The rows of a line whose sums are made together, from `row` on.
    fn strip(&self, part: &Part<'_>, row: usize) -> Range<usize> {
        let alone = row == 0 && self.first_alone();
        let end = row + (ACROSS + usize::from(alone)) * SIDE;
        row..end.min(part.view.rows(self.lines.images))
    }

    /// Whether the first and the last tile of a line, of one pixel each, have some taps less than the others.
    fn first_alone(&self) -> bool {
        self.lines.images.images >= SIDE
    }

    /// The sums of a group, plane by plane: a plane's filters stay in the first cache for all of a column's tiles, and so do
    /// pixels from one line to the next.
    ///
    /// # Safety
    /// As in `compute`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
    unsafe fn multiply(&self, unit: &Unit, group: &Group<'_>) {
        let Group { part, lines, rows, columns } = group;
        let Lines { images: of, step, .. } = *self.lines;
        let terms = part.view.terms;
        let end = part.view.rows(of);
        for (k, plane) in columns.clone().flat_map(|k| (0..terms.planes()).map(move |i| (k, i))) {
            let last = plane + 1 == terms.planes();
            let b: *const u8 = part.b[k * part.operand..].as_ptr().cast();
            let b = b.wrapping_add(terms.before(plane) * BLOCK);
            let a = self.from.wrapping_add(plane * self.lines.plane());
            let c = self.sums.wrapping_add(group.sums(k - columns.start, 0));
            for (i, line) in lines.clone().enumerate() {
                let a = a.wrapping_add((line - self.band.start) * step * self.lines.line());
                let c = c.wrapping_add(group.sums(0, i));
                let mut row = rows.start;
                while row < rows.end {
                    let alone = self.first_alone() && (row == 0 || row + 2 * SIDE >= end)
                        || row + SIDE >= rows.end;
                    let next = row + if alone { SIDE } else { 2 * SIDE };
                    let steps = part.steps.at(last, part.view.edges(of, line, &(row..next)));
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
        let Lines { images: of, step, terms, .. } = *self.lines;
        let (images, width, depth) = (of.images, of.map.width, self.depth);
        let (segment, plane) = (self.lines.segment(), self.lines.plane());
        // SAFETY: the pixels are on the map, and the line has room for all planes.
        unsafe {
            for i in 0..terms.planes() {
                let to = to.wrapping_add(i * plane);
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
                    for i in 0..terms.planes() {
                        let at = i * plane + self.lines.pixel(x) + n * ROW;
                        to.wrapping_add(at).write_bytes(0, ROW);
                    }
                }
            }
            for (n, image) in self.block.clone().enumerate() {
                let pixel = (image * of.map.height + line) * width;
                let from = self.input.wrapping_add(pixel * depth);
                // What is read next, the next image's line or the first one's next, is a place that processors do not expect.
                let image_len = of.map.height * width * depth;
                let next = if n + 1 < self.block.len() {
                    from.wrapping_add(image_len)
                } else {
                    from.wrapping_sub(n * image_len).wrapping_add(width * depth)
                };
                for x in 0..width {
                    for channel in (0..depth).step_by(SIDE) {
                        fetch(next.wrapping_add(x * depth + channel));
                    }
                    let from = from.wrapping_add(x * depth);
                    let to = to.wrapping_add(self.lines.pixel(x) + n * ROW);
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

    /// A group's sums to the pixels that they stand for, all columns of a pixel and all pixels of an image and a line in a row:
    /// memory takes neighbouring lines of 64 bytes several times as fast as single ones.
    ///
    /// # Safety
    /// As in `compute`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
    unsafe fn write(&self, group: &Group<'_>) {
        use crate::conv::simd::Sixteen;
        let Group { part, lines, rows, columns } = group;
        let images = self.lines.images.images;
        let View { first: [first_line, first_position], spacing, .. } = part.view;
        let Map { height, width, .. } = self.result;
        for (i, line) in lines.clone().enumerate() {
            let sums = self.sums.wrapping_add(group.sums(0, i));
            for (n, image) in self.block.clone().enumerate() {
                let line = image * height + first_line + line * spacing;
                for x in rows.start / images..rows.end / images {
                    let from = sums.wrapping_add((x * images + n - rows.start) * SIDE);
                    let at = (line * width + first_position + x * spacing) * self.channels;
                    for (k, column) in columns.clone().enumerate() {
                        let channel = column * SIDE;
                        // SAFETY: the row's sums are there, and so are the pixel and its channels.
                        unsafe {
                            let sum = [Sixteen::load(from.wrapping_add(group.sums(k, 0)))];
                            let left = self.channels - channel;
                            if left >= SIDE {
                                self.finish.pixels(sum, 1, self.output, at, 0, channel, Whole);
                            } else {
                                let access = First(left);
                                self.finish.pixels(sum, 1, self.output, at, 0, channel, access);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Tiles whose sums are made together: some rows of some lines, for some columns.
struct Group<'a> {
    part: &'a Part<'a>,
    lines: Range<usize>,
    rows: Range<usize>,
    columns: Range<usize>,
}

impl Group<'_> {
    /// Tiles of a line.
    fn tiles(&self) -> usize {
        self.rows.len().div_ceil(SIDE)
    }

    /// Where the sums of a column's line begin.
    fn sums(&self, column: usize, line: usize) -> usize {
        (column * self.lines.len() + line) * self.tiles() * SUMS
    }
}
