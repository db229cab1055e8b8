//! Weight gradient.

use std::arch::x86_64::*;
use std::ops::Range;

use super::layout::{Images, as_steps};
use super::split::{fetch, lanes, load, split_pair, store, store_transposed};
use super::unit::{BLOCK, DEPTH, ROW, SIDE, SUMS, Step, Unit};
use crate::Scratch;
use crate::conv::columns::{ByColumns, InputGradient};
use crate::conv::parallel::{SharedMut, for_each_task, lane_len, part};
use crate::conv::simd::{Isa, Job, Simd};
use crate::conv::winograd::Map;
use crate::conv::{ConvShape, map, output_map};

/// Pixels that pay for one of the first few copies of the sums, and for one that outgrows a core's own cache; twice as many
/// pay for any other, since all are merged in the end.
const COPY_PIXELS: usize = 780;
const MANY_COPY_PIXELS: usize = 3000;
const FEW_COPIES: usize = 4;
/// Tasks for each thread that even out what a thread is slower than another.
const TASKS: usize = 2;
/// Most copies.
const COPIES: usize = 8;
/// Steps that tiles of sums are loaded and stored for, and how many where the sums outgrow a core's own
/// cache.
const STEPS: usize = 7;
const MANY_STEPS: usize = 28;
/// Floats of sums from which on they do.
const MANY_SUMS: usize = 256 << 10;
/// Pixels of a line from which on zeros beside it cost less than longer blocks.
const WIDE: usize = 14;
/// Taps of a filter.
const TAPS: usize = 9;

/// Adds the weight gradient of a 3 x 3 convolution to `grad_weight`; with `norm` that for the
/// gradient that it makes of its `x`, where [`takes_norm`] says that it can.
pub(in crate::conv) fn weight_gradient(
    isa: Isa,
    shape: &ConvShape,
    input: &[f32],
    grad_output: *const f32,
    norm: Option<InputGradient>,
    grad_weight: &mut [f32],
    scratch: &mut Scratch,
) {
    let maps = Maps { input: input.as_ptr(), grad_output };
    let plan = Plan::new(shape);
    let Plan { images, copies, pieces, .. } = plan;
    assert!(norm.is_none() || pieces == 1, "several tasks would each make the gradient of a line");

    let copy_len = plan.pairs * plan.columns * TAPS * 2 * SUMS;
    let pairs = |piece: usize| part(plan.pairs, 1, pieces, piece);
    let widest = plan.pairs.div_ceil(pieces);
    let steps_len = (2 * TAPS * plan.lines * plan.steps).next_multiple_of(16);
    let left_len = plan.slots() * plan.stride * 2 * widest * plan.steps * BLOCK / 4;
    let right_len = plan.lines * plan.columns * plan.right_plane() / 4;
    let fits = u32::try_from(4 * left_len.max(right_len)).is_ok();
    assert!(fits, "lines of {left_len} and {right_len} floats are too long");
    let lane = lane_len(steps_len + left_len + right_len);
    let (sums, lanes) = scratch.split(copies * copy_len, lane);

    let shared = SharedMut::new(sums);
    for_each_task(copies * pieces, lanes, lane, |task, lane| {
        let (copy, piece) = (task / pieces, task % pieces);
        let (steps, lane) = lane.split_at_mut(steps_len);
        let (left, right) = lane.split_at_mut(left_len);
        let visits = part(images.blocks() * plan.parts, 1, copies, copy);
        let mut laid_out = 0;
        for visit in visits.clone() {
            let (block, i) = (images.block(visit / plan.parts), visit % plan.parts);
            let lines = part(plan.output.height, 1, plan.parts, i);
            if visit == visits.start || i == 0 {
                laid_out = (lines.start * plan.stride).saturating_sub(1);
            }
            let last = ((lines.end - 1) * plan.stride + 2).min(images.map.height);
            if let Some(norm) = norm {
                for image in block.clone() {
                    let at = |line: usize| (image * plan.output.height + line) * plan.output.width;
                    let rows = norm.part(at(lines.start)..at(lines.end));
                    // SAFETY: these pixels are this task's, for pieces are one.
                    unsafe { isa.run(ByColumns(rows)) };
                }
            }
            let job = Visit {
                plan,
                block,
                new: laid_out..last,
                lines,
                maps,
                left: left.as_mut_ptr().cast(),
                right: right.as_mut_ptr().cast(),
                steps: as_steps(steps),
                pairs: pairs(piece),
                sums: shared.at(copy * copy_len),
                accumulate: visit > visits.start,
            };
            laid_out = last;
            // SAFETY: the lane has room for the visit, and these pairs of this copy are this task's.
            unsafe { isa.run(job) };
        }
    });
    let sums = &*sums;

    let to = SharedMut::new(grad_weight);
    for_each_task(plan.pairs * TAPS, lanes, lane, |task, _| {
        let (pair, tap) = (task / TAPS, task % TAPS);
        let job = Merge { plan, shape, sums: sums.as_ptr(), copy_len, pair, tap, to: to.at(0) };
        // SAFETY: these channels' gradients for this tap are this task's.
        unsafe { isa.run(job) };
    });
}

/// Whether one task alone reads each pixel of the output's gradient, which could then be made there.
pub(in crate::conv) fn takes_norm(shape: &ConvShape) -> bool {
    Plan::new(shape).pieces == 1
}

/// How the work is cut. A sum runs over pixels and images, in steps of [`DEPTH`] rows of a line; a tile of
/// sums is loaded and stored once for some lines of a block of images, which is a visit.
#[derive(Clone, Copy)]
struct Plan {
    /// Of the input.
    images: Images,
    output: Map,
    /// Every how manyth pixel of the input a tap meets: those are laid out by themselves.
    stride: usize,
    in_channels: usize,
    out_channels: usize,
    /// Input channels in units of 32, and output channels in units of 16.
    pairs: usize,
    columns: usize,
    /// Steps of a line.
    steps: usize,
    /// Steps that a tile of sums is loaded and stored for.
    stretch: usize,
    /// Visits of a block, and lines of the longest.
    parts: usize,
    lines: usize,
    /// Copies of the sums, each of which takes a range of the visits.
    copies: usize,
    /// Parts of a copy's input channels, each a task. The sums are the same in any case.
    pieces: usize,
}

impl Plan {
    fn new(shape: &ConvShape) -> Self {
        let ConvShape { in_channels, out_channels, stride, .. } = *shape;
        let (input, output) = (map(shape), output_map(shape));
        let Map { batch, height, width } = output;
        let images =
            Images::new(input, width, if width < WIDE || width % 2 == 1 { 32 } else { 16 });
        let (pairs, columns) = (in_channels.div_ceil(2 * SIDE), out_channels.div_ceil(SIDE));
        let steps = (width * images.images).div_ceil(DEPTH);
        let many = pairs * columns * TAPS * 2 * SUMS > MANY_SUMS;
        let stretch = if many { MANY_STEPS } else { STEPS };
        let lines = stretch.div_ceil(steps);
        let parts = height.div_ceil(lines);
        let lines = height.div_ceil(parts);
        let pays = if many { MANY_COPY_PIXELS } else { COPY_PIXELS };
        let paid = batch * height * width / pays;
        let copies = paid.min(FEW_COPIES).max(paid / 2).clamp(1, COPIES);
        let copies = copies.min(images.blocks() * parts);
        let pieces = (TASKS * rayon::current_num_threads()).div_ceil(copies).min(pairs);
        Self {
            images,
            output,
            stride,
            in_channels,
            out_channels,
            pairs,
            columns,
            steps,
            stretch,
            parts,
            lines,
            copies,
            pieces,
        }
    }

    /// Lines of the left operand that are held: those that a visit's lines are made of.
    fn slots(&self) -> usize {
        (self.lines - 1) * self.stride + 3
    }

    /// Bytes of 16 columns of a line of the right operand: pairs of rows, with a pixel of zeros on either
    /// side, and what the last step reads beyond.
    fn right_plane(&self) -> usize {
        (self.steps * SIDE + self.images.images) * ROW
    }
}

/// The operands.
#[derive(Clone, Copy)]
struct Maps {
    input: *const f32,
    /// Of which a task may write what it reads later.
    grad_output: *const f32,
}

// SAFETY: the pointers come from slices that outlive the call; each place where one is written argues
// that no other thread touches it.
unsafe impl Send for Maps {}
// SAFETY: as above.
unsafe impl Sync for Maps {}

/// Some lines of a block of images, added to some of the sums.
struct Visit<'a> {
    plan: Plan,
    block: Range<usize>,
    lines: Range<usize>,
    /// Lines of the input that earlier visits have not laid out.
    new: Range<usize>,
    maps: Maps,
    /// `[slot][place modulo the stride][tile of channels][step]` blocks of 16 channels by 32 rows.
    left: *mut u8,
    /// `[line][columns]` planes.
    right: *mut u8,
    steps: &'a mut [Step],
    pairs: Range<usize>,
    /// `[pair][columns][tap]` pairs of tiles.
    sums: *mut f32,
    accumulate: bool,
}

impl Job for Visit<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: passed on to the caller; only an instruction set with the unit comes here.
        unsafe { self.compute() }
    }
}

impl Visit<'_> {
    /// # Safety
    /// The machine has the unit, and the buffers and maps are as the fields say.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
    unsafe fn compute(mut self) {
        let Plan { steps, columns, .. } = self.plan;
        // SAFETY: passed on to the caller.
        unsafe {
            for line in self.new.clone() {
                self.lay_out_left(line);
            }
            for line in self.lines.clone() {
                self.lay_out_right(line);
            }
            let list = self.plan.lines * steps;
            let mut counts = [0; TAPS];
            for (tap, count) in counts.iter_mut().enumerate() {
                *count = self.list(tap, tap * list);
            }
            let unit = Unit::new();
            let plane = steps * BLOCK;
            for pair in self.pairs.clone() {
                let a = self.left.wrapping_add((pair - self.pairs.start) * 2 * plane);
                let tall = self.plan.in_channels > (2 * pair + 1) * SIDE;
                for column in 0..columns {
                    let b = self.right.wrapping_add(column * self.plan.right_plane());
                    for start in (0..list).step_by(self.plan.stretch) {
                        let accumulate = self.accumulate || start > 0;
                        for tap in 0..TAPS {
                            let end = counts[tap].min(start + self.plan.stretch);
                            let steps = &self.steps[tap * list..][start.min(end)..end];
                            let at = ((pair * columns + column) * TAPS + tap) * 2 * SUMS;
                            let c = self.sums.wrapping_add(at);
                            if tall {
                                unit.pair(steps, a, plane, b, c, accumulate);
                            } else {
                                unit.single(steps, a, b, c, accumulate);
                            }
                        }
                    }
                }
            }
        }
    }

    /// Bytes of a line of the left operand.
    fn left_line(&self) -> usize {
        self.plan.stride * self.left_segment()
    }

    /// Bytes of every `stride`-th pixel of one.
    fn left_segment(&self) -> usize {
        2 * self.pairs.len() * self.plan.steps * BLOCK
    }

    /// Writes the steps of a tap from `at` on and returns how many there are, without those whose
    /// gradients lie all beside the map.
    fn list(&mut self, tap: usize, at: usize) -> usize {
        let Plan { images, output, stride, steps, columns, .. } = self.plan;
        let (vertical, horizontal) = (tap / 3, tap % 3);
        // The output's pixel `o` meets the input's `stride * o + horizontal - 1`, which is number `o + shift` of
        // its segment.
        let (segment, shift) = match horizontal {
            0 => (stride - 1, -1),
            offset => ((offset - 1) % stride, ((offset - 1) / stride) as isize),
        };
        let half = images.images / 2;
        let mut count = 0;
        for line in self.lines.clone() {
            let from = (line * stride + vertical).checked_sub(1);
            let Some(from) = from.filter(|&l| l < images.map.height) else { continue };
            let a = from % self.plan.slots() * self.left_line() + segment * self.left_segment();
            let b = (line - self.lines.start) * columns * self.plan.right_plane();
            for step in 0..steps {
                let row = step * SIDE + (1 - shift) as usize * half;
                if row + SIDE <= half || row >= half * (output.width + 1) {
                    continue;
                }
                let (a, b) = (a + step * BLOCK, b + row * ROW);
                self.steps[at + count] = Step { a: a as u32, b: b as u32 };
                count += 1;
            }
        }
        count
    }

    /// The first of the channels at row `row` of a line, which has every `step`-th pixel from `first` on, and how many
    /// images are there from that row's on.
    #[inline(always)]
    fn place(
        &self,
        of: *const f32,
        map: Map,
        line: usize,
        row: usize,
        (first, step): (usize, usize),
        channels: usize,
    ) -> (*const f32, usize) {
        let (x, n) = self.plan.images.place(row);
        let x = x * step + first;
        if x >= map.width || n >= self.block.len() {
            return (of, 0);
        }
        let pixel = ((self.block.start + n) * map.height + line) * map.width + x;
        (of.wrapping_add(pixel * channels), self.block.len() - n)
    }

    /// A line of the input, channels by rows.
    ///
    /// # Safety
    /// As in `compute`.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
    unsafe fn lay_out_left(&self, line: usize) {
        let Plan { images: Images { map, .. }, stride, in_channels, steps, .. } = self.plan;
        let image = map.height * map.width * in_channels;
        let to = self.left.wrapping_add(line % self.plan.slots() * self.left_line());
        let first = 2 * self.pairs.start * SIDE;
        let tiles = (2 * self.pairs.len()).min((in_channels - first).div_ceil(SIDE));
        for (segment, step) in (0..stride).flat_map(|i| (0..steps).map(move |step| (i, step))) {
            let to = to.wrapping_add(segment * self.left_segment());
            for tile in 0..tiles {
                let channel = first + tile * SIDE;
                let width = SIDE.min(in_channels - channel);
                let to = to.wrapping_add((tile * steps + step) * BLOCK);
                // The same channels of the next step's pixels, each in a place of its own that processors do not expect.
                for row in ((step + 1) * DEPTH..(step + 2) * DEPTH).step_by(2) {
                    let every = (segment, stride);
                    let (next, _) = self.place(self.maps.input, map, line, row, every, in_channels);
                    fetch(next.wrapping_add(channel));
                    fetch(next.wrapping_add(image + channel));
                }
                // SAFETY: only pixels and channels on the map are read, and the line has room.
                unsafe {
                    let mut upper = [_mm512_setzero_si512(); SIDE];
                    let mut lower = upper;
                    for j in 0..SIDE {
                        let row = step * DEPTH + 2 * j;
                        let every = (segment, stride);
                        let (from, there) =
                            self.place(self.maps.input, map, line, row, every, in_channels);
                        let from = from.wrapping_add(channel);
                        let even = load(from, if there > 0 { width } else { 0 });
                        let odd = load(from.wrapping_add(image), if there > 1 { width } else { 0 });
                        (upper[j], lower[j]) = split_pair(even, odd);
                    }
                    store_transposed(upper, lower, to);
                }
            }
        }
    }

    /// A line of the output's gradient, pairs of rows by channels.
    ///
    /// # Safety
    /// As in `compute`.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
    unsafe fn lay_out_right(&self, line: usize) {
        let Plan { images, output, out_channels, columns, .. } = self.plan;
        let plane = self.plan.right_plane();
        let image = output.height * output.width * out_channels;
        let to = self.right.wrapping_add((line - self.lines.start) * columns * plane);
        let half = images.images / 2;
        // SAFETY: only pixels and channels on the map are read, and the line has room.
        unsafe {
            for column in 0..columns {
                let to = to.wrapping_add(column * plane);
                to.write_bytes(0, half * ROW);
                let end = (half + half * output.width) * ROW;
                to.wrapping_add(end).write_bytes(0, plane - end);
            }
            for j in 0..half * output.width {
                let place = |j| {
                    let from = self.maps.grad_output;
                    self.place(from, output, line, 2 * j, (0, 1), out_channels)
                };
                // The next pixel of these images is fetched meanwhile.
                let (next, _) = place(j + half);
                let (from, there) = place(j);
                let to = to.wrapping_add((half + j) * ROW);
                for column in 0..columns {
                    let channel = column * SIDE;
                    let width = SIDE.min(out_channels - channel);
                    let from = from.wrapping_add(channel);
                    fetch(next.wrapping_add(channel));
                    fetch(next.wrapping_add(image + channel));
                    let even = load(from, if there > 0 { width } else { 0 });
                    let odd = load(from.wrapping_add(image), if there > 1 { width } else { 0 });
                    store(split_pair(even, odd), to.wrapping_add(column * plane));
                }
            }
        }
    }
}

/// The copies' sums of 32 input channels and a tap, added to the gradient.
struct Merge<'a> {
    plan: Plan,
    shape: &'a ConvShape,
    sums: *const f32,
    copy_len: usize,
    pair: usize,
    tap: usize,
    to: *mut f32,
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
        let Plan { in_channels, out_channels, columns, copies, .. } = self.plan;
        let first = 2 * self.pair * SIDE;
        for column in 0..columns {
            let width = SIDE.min(out_channels - column * SIDE);
            let at = ((self.pair * columns + column) * TAPS + self.tap) * 2 * SUMS;
            for row in 0..(2 * SIDE).min(in_channels - first) {
                let from = self.sums.wrapping_add(at + row * SIDE);
                let channel = self.tap * self.shape.full_in + first + row;
                let to = self.to.wrapping_add(channel * self.shape.full_out + column * SIDE);
                // SAFETY: the sums are there, and only active channels' gradients are touched.
                unsafe {
                    let mut sum = load(from, SIDE);
                    for copy in 1..copies {
                        sum =
                            _mm512_add_ps(sum, load(from.wrapping_add(copy * self.copy_len), SIDE));
                    }
                    let sum = _mm512_add_ps(sum, load(to, width));
                    _mm512_mask_storeu_ps(to, lanes(width), sum);
                }
            }
        }
    }
}
