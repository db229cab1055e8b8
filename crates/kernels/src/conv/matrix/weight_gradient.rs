//! Weight gradient.

use std::arch::x86_64::*;
use std::ops::Range;

use super::layout::{Images, as_steps};
use super::minimal::{self, OUTPUTS, POINTS};
use super::source::Together;
use super::split::{lanes, load, split_pair, store, store_transposed};
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
/// Steps that tiles of sums are loaded and stored for.
const STEPS: usize = 4;
/// Steps of a visit at least, and where the sums outgrow a core's own cache.
const VISIT: usize = 7;
const MANY_VISIT: usize = 28;
/// Floats of sums of nine taps from which on they do.
const MANY_SUMS: usize = 256 << 10;
/// Pixels of a line from which on zeros beside it cost less than longer blocks.
const WIDE: usize = 14;
/// Columns of 16 channels whose sums one task makes and adds where there is one copy: neighbouring lines of the gradient are
/// written in a row, and the sums stay in a core's own cache, as does the right operand from task to task.
const GROUP: usize = 8;
/// Fewest blocks of the gradient that are shared out there, if it has columns enough.
const LEAST_BLOCKS: usize = 8;
/// Parts that a line's channels are laid out in there.
const CUTS: usize = 4;
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
    if plan.alone() {
        assert!(
            norm.is_none(),
            "where there is one copy, lines are laid out by parts of their channels"
        );
        of_one_copy(isa, shape, plan, maps, grad_weight, scratch);
        return;
    }
    let Plan { images, copies, pieces, .. } = plan;
    assert!(norm.is_none() || pieces == 1, "several tasks would each make the gradient of a line");

    let copy_len = plan.pairs * plan.columns * plan.taps() * 2 * SUMS;
    let pairs = |piece: usize| part(plan.pairs, 1, pieces, piece);
    let widest = plan.pairs.div_ceil(pieces);
    let steps_len = (2 * plan.taps() * plan.longest * plan.steps).next_multiple_of(16);
    let (left_len, right_len) = plan.operands(widest);
    let lane = lane_len(steps_len + left_len + right_len);
    let (sums, lanes) = scratch.split(copies * copy_len, lane);

    let shared = SharedMut::new(sums);
    for_each_task(copies * pieces, lanes, lane, |task, lane| {
        let (copy, piece) = (task / pieces, task % pieces);
        let (steps, lane) = lane.split_at_mut(steps_len);
        let (left, right) = lane.split_at_mut(left_len);
        let visits = part(images.blocks() * plan.parts, 1, copies, copy);
        for visit in visits.clone() {
            let (block, i) = (images.block(visit / plan.parts), visit % plan.parts);
            let units = part(plan.units, 1, plan.parts, i);
            if let Some(norm) = norm {
                let lines = plan.output_lines(&units);
                for image in block.clone() {
                    let at = |line: usize| (image * plan.output.height + line) * plan.output.width;
                    let rows = norm.part(at(lines.start)..at(lines.end));
                    // SAFETY: these pixels are this task's, for pieces are one.
                    unsafe { isa.run(ByColumns(rows)) };
                }
            }
            let follows = visit > visits.start && i > 0;
            let new = plan.new_lines(&units, follows);
            let visit_of = Visit {
                plan,
                block,
                units,
                maps,
                left: left.as_mut_ptr().cast(),
                right: right.as_mut_ptr().cast(),
                pairs: pairs(piece),
            };
            let columns = 0..plan.columns;
            let job = Products {
                pairs: pairs(piece),
                columns: columns.clone(),
                steps: as_steps(steps),
                sums: shared.at(copy * copy_len),
                place: plan.sums(),
                accumulate: visit > visits.start,
                visit: &visit_of,
            };
            // SAFETY: the lane has room for the visit, and these pairs of this copy are this task's.
            unsafe {
                isa.run(Left { visit: &visit_of, lines: new, pairs: pairs(piece) });
                isa.run(Right { visit: &visit_of, units: visit_of.units.clone(), columns });
                isa.run(job);
            }
        }
    });
    let sums = &*sums;

    let to = SharedMut::new(grad_weight);
    // A task for each tap, or for each column of taps.
    let taps = plan.merged_taps();
    for_each_task(plan.pairs * taps, lanes, lane, |task, _| {
        let (pair, tap) = (task / taps, task % taps);
        let job = Merge {
            plan,
            shape,
            sums: sums.as_ptr(),
            place: plan.sums(),
            copy_len,
            pair,
            columns: 0..plan.columns,
            tap,
            to: to.at(0),
        };
        // SAFETY: these channels' gradients for this tap, or for this column of taps, are this task's.
        unsafe { isa.run(job) };
    });
}

/// One copy of the sums, for few pixels: both maps are laid out once for all, and each task sums a block of the gradient over all of them,
/// which it adds while it still has it in its cache.
fn of_one_copy(
    isa: Isa,
    shape: &ConvShape,
    plan: Plan,
    maps: Maps,
    grad_weight: &mut [f32],
    scratch: &mut Scratch,
) {
    let visits = plan.images.blocks() * plan.parts;
    let (left_len, right_len) = plan.operands(plan.pairs);
    let steps_len = (2 * plan.taps() * plan.longest * plan.steps).next_multiple_of(16);
    let lane = lane_len(steps_len + GROUP * plan.taps() * 2 * SUMS);
    let (maps_of, lanes) = scratch.split(visits * (left_len + right_len), lane);
    let (left, right) = maps_of.split_at_mut(visits * left_len);
    let (left, right) = (SharedMut::new(left), SharedMut::new(right));
    let visit_of = |visit: usize| Visit {
        plan,
        block: plan.images.block(visit / plan.parts),
        units: part(plan.units, 1, plan.parts, visit % plan.parts),
        maps,
        left: left.at(visit * left_len).cast(),
        right: right.at(visit * right_len).cast(),
        pairs: 0..plan.pairs,
    };

    // Of each line, or four of them at points, some channels.
    let most = if plan.minimal { plan.longest } else { plan.slots() };
    let cuts = CUTS.min(plan.pairs.min(plan.columns));
    for_each_task(2 * visits * most * cuts, lanes, lane, |task, _| {
        let (cut, task) = (task % cuts, task / cuts);
        let (side, task) = (task % 2, task / 2);
        let (line, visit) = (task % most, visit_of(task / most));
        // SAFETY: the buffers have room for the visit, and these channels of this line are this task's.
        unsafe {
            if side == 0 {
                let Range { start, end } = plan.new_lines(&visit.units, false);
                if start + line < end {
                    let lines = start + line..start + line + 1;
                    isa.run(Left { visit: &visit, lines, pairs: part(plan.pairs, 1, cuts, cut) });
                }
            } else if line < visit.units.len() {
                let unit = visit.units.start + line;
                let columns = part(plan.columns, 1, cuts, cut);
                isa.run(Right { visit: &visit, units: unit..unit + 1, columns });
            }
        }
    });

    let to = SharedMut::new(grad_weight);
    // A group's right operand stays in a core's own cache from pair to pair.
    let groups = plan.columns.div_ceil(GROUP).max(LEAST_BLOCKS.div_ceil(plan.pairs));
    let groups = groups.min(plan.columns);
    for_each_task(groups * plan.pairs, lanes, lane, |task, lane| {
        let (pair, group) = (task % plan.pairs, task / plan.pairs);
        let columns = part(plan.columns, 1, groups, group);
        let (steps, sums) = lane.split_at_mut(steps_len);
        let place =
            SumsPlace { first: (pair, columns.start), columns: columns.len(), taps: plan.taps() };
        for visit in 0..visits {
            let job = Products {
                visit: &visit_of(visit),
                pairs: pair..pair + 1,
                columns: columns.clone(),
                steps: as_steps(steps),
                sums: sums.as_mut_ptr(),
                place,
                accumulate: visit > 0,
            };
            // SAFETY: all is laid out, and the lane has room for a group's sums.
            unsafe { isa.run(job) };
        }
        for tap in 0..plan.merged_taps() {
            let (sums, columns) = (sums.as_ptr(), columns.clone());
            let to = to.at(0);
            let job = Merge { plan, shape, sums, place, copy_len: 0, pair, columns, tap, to };
            // SAFETY: these channels' gradients are this task's.
            unsafe { isa.run(job) };
        }
    });
}

/// Whether one task alone lays out each line of the output's gradient, which could then be made there.
pub(in crate::conv) fn takes_norm(shape: &ConvShape) -> bool {
    let plan = Plan::new(shape);
    plan.pieces == 1 && !plan.alone()
}

/// How the work is cut. A sum runs over pixels and images, in steps of [`DEPTH`] rows of a line; some lines of
/// a block of images are a visit, for which pixels are laid out.
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
    /// Whether four lines of the output are taken together, at the points of [`minimal`].
    minimal: bool,
    /// Lines of the output, or fours of them.
    units: usize,
    /// Visits of a block, and units of the longest.
    parts: usize,
    longest: usize,
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
        let least = if many { MANY_VISIT } else { VISIT };
        let minimal = stride == 1 && minimal::pays(output);
        let units = if minimal { height.div_ceil(OUTPUTS) } else { height };
        let parts = units.div_ceil(least.div_ceil(steps));
        let longest = units.div_ceil(parts);
        let pays = if many { MANY_COPY_PIXELS } else { COPY_PIXELS };
        let paid = batch * height * width / pays;
        let copies = paid.min(FEW_COPIES).max(paid / 2).clamp(1, COPIES);
        let copies = copies.min(images.blocks() * parts);
        // One copy's visits are laid out before all sums: shorter ones would have lines twice.
        let (parts, longest) = if copies == 1 { (1, units) } else { (parts, longest) };
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
            minimal,
            units,
            parts,
            longest,
            copies,
            pieces,
        }
    }

    /// Taps, or three taps of a line for each point.
    fn taps(&self) -> usize {
        if self.minimal { 3 * POINTS } else { TAPS }
    }

    /// Whether there is one copy of the sums.
    fn alone(&self) -> bool {
        self.copies == 1
    }

    /// Where a copy has its sums.
    fn sums(&self) -> SumsPlace {
        SumsPlace { first: (0, 0), columns: self.columns, taps: self.taps() }
    }

    /// Taps that are merged one by one, or columns of taps, whose three are made of the same sums.
    fn merged_taps(&self) -> usize {
        if self.minimal { 3 } else { TAPS }
    }

    /// Floats of a visit's operands, the left one of so many pairs.
    fn operands(&self, pairs: usize) -> (usize, usize) {
        let left = self.slots() * self.stride * 2 * pairs * self.steps * BLOCK / 4;
        let right = self.right_lines() * self.columns * self.right_plane() / 4;
        let fits = u32::try_from(4 * left.max(right)).is_ok();
        assert!(fits, "lines of {left} and {right} floats are too long");
        (left, right)
    }

    /// Lines of the output that units are.
    fn output_lines(&self, units: &Range<usize>) -> Range<usize> {
        let each = if self.minimal { OUTPUTS } else { 1 };
        units.start * each..(units.end * each).min(self.output.height)
    }

    /// Lines of the input that units of a line read and the visit before, if these follow upon its units, has not laid out; at
    /// points those units, from 0 on.
    fn new_lines(&self, units: &Range<usize>, follows: bool) -> Range<usize> {
        if self.minimal {
            return 0..units.len();
        }
        let first = (units.start * self.stride).saturating_sub(1);
        let first = if follows { first + 3 - self.stride } else { first };
        first..((units.end - 1) * self.stride + 2).min(self.images.map.height)
    }

    /// Lines of the left operand that are held: those that a visit's units are made of.
    fn slots(&self) -> usize {
        if self.minimal { self.longest * POINTS } else { (self.longest - 1) * self.stride + 3 }
    }

    /// Lines of the right operand.
    fn right_lines(&self) -> usize {
        self.longest * if self.minimal { POINTS } else { 1 }
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

/// Some units of a block of images, and where they are laid out.
struct Visit {
    plan: Plan,
    block: Range<usize>,
    units: Range<usize>,
    maps: Maps,
    /// `[slot][place modulo the stride][tile of channels][step]` blocks of 16 channels by 32 rows.
    left: *mut u8,
    /// `[line][columns]` planes, at points `[unit][point][columns]`.
    right: *mut u8,
    /// Pairs of tiles of channels that the left operand has.
    pairs: Range<usize>,
}

/// Lays out lines of the input, or at points the lines that units' are transformed to, counted from the visit's first.
struct Left<'a> {
    visit: &'a Visit,
    lines: Range<usize>,
    pairs: Range<usize>,
}

impl Job for Left<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: passed on to the caller; only an instruction set with the unit comes here.
        unsafe { self.compute() }
    }
}

impl Left<'_> {
    /// # Safety
    /// The machine has the unit, and the buffers and maps are as the fields say.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
    unsafe fn compute(self) {
        let Self { visit, lines, ref pairs } = self;
        for line in lines {
            // SAFETY: passed on to the caller.
            unsafe {
                if visit.plan.minimal {
                    let first = (visit.units.start + line) * OUTPUTS;
                    let slot = line * POINTS;
                    visit.lay_out_left(first as isize - 1, slot, pairs, |lines| {
                        minimal::input(lines)
                    });
                } else {
                    let slot = line % visit.plan.slots();
                    visit.lay_out_left(line as isize, slot, pairs, |line: [_; 1]| line);
                }
            }
        }
    }
}

/// Lays out units of the output's gradient.
struct Right<'a> {
    visit: &'a Visit,
    units: Range<usize>,
    columns: Range<usize>,
}

impl Job for Right<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: passed on to the caller; only an instruction set with the unit comes here.
        unsafe { self.compute() }
    }
}

impl Right<'_> {
    /// # Safety
    /// As for [`Left`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
    unsafe fn compute(self) {
        let Self { visit, units, ref columns } = self;
        for unit in units {
            let i = unit - visit.units.start;
            // SAFETY: passed on to the caller.
            unsafe {
                if visit.plan.minimal {
                    let (line, slot) = (unit * OUTPUTS, i * POINTS);
                    visit.lay_out_right(line, slot, columns, |lines| minimal::gradient(lines));
                } else {
                    visit.lay_out_right(unit, i, columns, |line: [_; 1]| line);
                }
            }
        }
    }
}

/// Where sums lie: `[pair][column][tap]` pairs of tiles.
#[derive(Clone, Copy)]
struct SumsPlace {
    /// Pair and column.
    first: (usize, usize),
    columns: usize,
    taps: usize,
}

impl SumsPlace {
    fn at(self, pair: usize, column: usize, tap: usize) -> usize {
        let (pair, column) = (pair - self.first.0, column - self.first.1);
        ((pair * self.columns + column) * self.taps + tap) * 2 * SUMS
    }
}

/// What a visit adds to some of the sums.
struct Products<'a> {
    visit: &'a Visit,
    pairs: Range<usize>,
    columns: Range<usize>,
    steps: &'a mut [Step],
    sums: *mut f32,
    place: SumsPlace,
    accumulate: bool,
}

impl Job for Products<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: passed on to the caller; only an instruction set with the unit comes here.
        unsafe { self.compute() }
    }
}

impl Products<'_> {
    /// # Safety
    /// As for [`Left`]; all that is read is laid out.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
    unsafe fn compute(self) {
        let Self { visit, steps: all, sums, place, .. } = self;
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
}

impl Visit {
    /// Bytes of a line of the left operand.
    fn left_line(&self) -> usize {
        self.plan.stride * self.left_segment()
    }

    /// Bytes of every `stride`-th pixel of one.
    fn left_segment(&self) -> usize {
        2 * self.pairs.len() * self.plan.steps * BLOCK
    }

    /// Writes the steps of a tap, or of a point and a tap of a line, and returns how many there are, without those whose
    /// gradients lie all beside the map.
    fn list(&self, tap: usize, to: &mut [Step]) -> usize {
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
        for (i, unit) in self.units.clone().enumerate() {
            let (slot, right) = if self.plan.minimal {
                (i * POINTS + vertical, i * POINTS + vertical)
            } else {
                let from = (unit * stride + vertical).checked_sub(1);
                let Some(from) = from.filter(|&l| l < images.map.height) else { continue };
                (from % self.plan.slots(), i)
            };
            let a = slot * self.left_line() + segment * self.left_segment();
            let b = right * columns * self.plan.right_plane();
            for step in 0..steps {
                let row = step * SIDE + (1 - shift) as usize * half;
                if row + SIDE <= half || row >= half * (output.width + 1) {
                    continue;
                }
                let (a, b) = (a + step * BLOCK, b + row * ROW);
                to[count] = Step { a: a as u32, b: b as u32 };
                count += 1;
            }
        }
        count
    }

    /// The first of the channels at row `row` of a line, which may be off the map and has every `step`-th pixel from `first` on, and how many
    /// images are there from that row's on.
    #[inline(always)]
    fn place(
        &self,
        of: *const f32,
        map: Map,
        line: isize,
        row: usize,
        (first, step): (usize, usize),
        channels: usize,
    ) -> (*const f32, usize) {
        let (x, n) = self.plan.images.place(row);
        let x = x * step + first;
        if x >= map.width || n >= self.block.len() {
            return (of, 0);
        }
        let line = ((self.block.start + n) * map.height) as isize + line;
        let pixel = line * map.width as isize + x as isize;
        (of.wrapping_offset(pixel * channels as isize), self.block.len() - n)
    }

    /// What lines of the input are transformed to, channels by rows, as lines of the left operand from `slot` on.
    ///
    /// # Safety
    /// As in `compute`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
    unsafe fn lay_out_left<const IN: usize, const OUT: usize>(
        &self,
        line: isize,
        slot: usize,
        pairs: &Range<usize>,
        transform: impl Fn([__m512; IN]) -> [__m512; OUT],
    ) {
        let Plan { images: Images { map, .. }, stride, in_channels, steps, .. } = self.plan;
        let across = map.width * in_channels;
        let image = map.height * across;
        let lines = Together::<IN>::new(line, map.height, across);
        let before = 2 * (pairs.start - self.pairs.start) * steps * BLOCK;
        let to = self.left.wrapping_add(slot * self.left_line() + before);
        let first = 2 * pairs.start * SIDE;
        let tiles = (2 * pairs.len()).min((in_channels - first).div_ceil(SIDE));
        for (segment, step) in (0..stride).flat_map(|i| (0..steps).map(move |step| (i, step))) {
            let to = to.wrapping_add(segment * self.left_segment());
            // Pairs of images of this step's pixels and of the next step's, each in a place of its own.
            let place = |row: usize| {
                self.place(self.maps.input, map, line, row, (segment, stride), in_channels)
            };
            let rows: [_; SIDE] = std::array::from_fn(|j| place(step * DEPTH + 2 * j));
            for j in 0..SIDE {
                let (next, _) = place((step + 1) * DEPTH + 2 * j);
                let next = next.wrapping_add(first);
                let n = tiles * SIDE;
                lines.fetch(next, n);
                lines.fetch(next.wrapping_add(image), n);
            }
            for tile in 0..tiles {
                let channel = first + tile * SIDE;
                let width = SIDE.min(in_channels - channel);
                let to = to.wrapping_add((tile * steps + step) * BLOCK);
                // SAFETY: only lines (`Together`), images (`place`) and channels that there are are read, and the lines have room.
                unsafe {
                    let mut upper = [[_mm512_setzero_si512(); SIDE]; OUT];
                    let mut lower = upper;
                    for (j, (from, images)) in rows.into_iter().enumerate() {
                        let read = |i: usize| {
                            let from = from.wrapping_add(i * image + channel);
                            transform(lines.load(from, if images > i { width } else { 0 }))
                        };
                        let (even, odd) = (read(0), read(1));
                        for i in 0..OUT {
                            (upper[i][j], lower[i][j]) = split_pair(even[i], odd[i]);
                        }
                    }
                    for i in 0..OUT {
                        let to = to.wrapping_add(i * self.left_line());
                        store_transposed(upper[i], lower[i], to);
                    }
                }
            }
        }
    }

    /// What lines of the output's gradient are transformed to, pairs of rows by channels, as lines of the right operand from
    /// `slot` on.
    ///
    /// # Safety
    /// As in `compute`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
    unsafe fn lay_out_right<const IN: usize, const OUT: usize>(
        &self,
        line: usize,
        slot: usize,
        some: &Range<usize>,
        transform: impl Fn([__m512; IN]) -> [__m512; OUT],
    ) {
        let Plan { images, output, out_channels, columns, .. } = self.plan;
        let plane = self.plan.right_plane();
        let across = output.width * out_channels;
        let image = output.height * across;
        let line = line as isize;
        let lines = Together::<IN>::new(line, output.height, across);
        let to = self.right.wrapping_add(slot * columns * plane);
        let half = images.images / 2;
        let (first, end) = (some.start * SIDE, (some.end * SIDE).min(out_channels));
        let width = end - first;
        // SAFETY: only lines (`Together`), images (`place`) and channels that there are are read, and the lines have room.
        unsafe {
            for (i, column) in (0..OUT).flat_map(|i| some.clone().map(move |column| (i, column))) {
                let to = to.wrapping_add((i * columns + column) * plane);
                to.write_bytes(0, half * ROW);
                let end = (half + half * output.width) * ROW;
                to.wrapping_add(end).write_bytes(0, plane - end);
            }
            for j in 0..half * output.width {
                let place = |j| {
                    self.place(self.maps.grad_output, output, line, 2 * j, (0, 1), out_channels)
                };
                // The next pixel of these images is fetched meanwhile.
                let (next, _) = place(j + half);
                let (next, n) = (next.wrapping_add(first), width);
                lines.fetch(next, n);
                lines.fetch(next.wrapping_add(image), n);
                let (from, images) = place(j);
                let to = to.wrapping_add((half + j) * ROW);
                for column in some.clone() {
                    let channel = column * SIDE;
                    let width = SIDE.min(out_channels - channel);
                    let read = |i: usize| {
                        let from = from.wrapping_add(i * image + channel);
                        transform(lines.load(from, if images > i { width } else { 0 }))
                    };
                    let (even, odd) = (read(0), read(1));
                    for i in 0..OUT {
                        let to = to.wrapping_add((i * columns + column) * plane);
                        store(split_pair(even[i], odd[i]), to);
                    }
                }
            }
        }
    }
}

/// The copies' sums of 32 input channels and a tap, or all of a column of taps, added to the gradient.
struct Merge<'a> {
    plan: Plan,
    shape: &'a ConvShape,
    sums: *const f32,
    place: SumsPlace,
    copy_len: usize,
    pair: usize,
    columns: Range<usize>,
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
