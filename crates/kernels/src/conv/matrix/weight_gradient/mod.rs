//! Weight gradient.

mod sums;
mod visit;

use std::ops::Range;

use super::ahead::{Ahead, Rows};
use super::layout::{Images, as_steps};
use super::minimal::{self, OUTPUTS, POINTS};
use super::unit::{BLOCK, DEPTH, FETCHED, ROW, SIDE, SUMS};
use crate::Scratch;
use crate::conv::columns::{ByColumns, InputGradient};
use crate::conv::input::Reading;
use crate::conv::parallel::{SharedMut, for_each_task, lane_len, part};
use crate::conv::simd::Isa;
use crate::conv::winograd::Map;
use crate::conv::{ConvShape, map, output_map};
use sums::{Merge, Products, SumsPlace};
use visit::{Left, Right, Visit};

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
    input: Reading<'_>,
    grad_output: *const f32,
    norm: Option<InputGradient>,
    grad_weight: &mut [f32],
    scratch: &mut Scratch,
) {
    let maps = Maps { input, grad_output };
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
    let steps_len = plan.lists();
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
                next: (),
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
    maps: Maps<'_>,
    grad_weight: &mut [f32],
    scratch: &mut Scratch,
) {
    let visits = plan.images.blocks();
    let (left_len, right_len) = plan.operands(plan.pairs);
    let steps_len = plan.lists();
    let lane = lane_len(steps_len + GROUP * plan.taps() * 2 * SUMS);
    let (maps_of, lanes) = scratch.split(visits * (left_len + right_len), lane);
    let (left, right) = maps_of.split_at_mut(visits * left_len);
    let (left, right) = (SharedMut::new(left), SharedMut::new(right));
    let visit_of = |visit: usize| Visit {
        plan,
        block: plan.images.block(visit),
        units: 0..plan.units,
        maps,
        left: left.at(visit * left_len).cast(),
        right: right.at(visit * right_len).cast(),
        pairs: 0..plan.pairs,
    };

    // Of each line, or four of them at points, some channels; the left operand has up to two lines more.
    let most = if plan.minimal { plan.units } else { plan.slots() };
    let cuts = CUTS.min(plan.pairs.min(plan.columns));
    for_each_task(2 * visits * most * cuts, lanes, lane, |task, _| {
        let (cut, task) = (task % cuts, task / cuts);
        let (side, task) = (task % 2, task / 2);
        let (line, visit) = (task % most, visit_of(task / most));
        // SAFETY: the buffers have room for the visit, and these channels of this line are this task's.
        unsafe {
            if side == 0 {
                if line < plan.new_lines(&visit.units, false).end {
                    let (lines, pairs) = (line..line + 1, part(plan.pairs, 1, cuts, cut));
                    isa.run(Left { visit: &visit, lines, pairs });
                }
            } else if line < plan.units {
                let (units, columns) = (line..line + 1, part(plan.columns, 1, cuts, cut));
                isa.run(Right { visit: &visit, units, columns });
            }
        }
    });

    // Steps of all visits' sums, for each pair and column.
    let lists = as_steps(&mut lanes[..steps_len]);
    let taps = |visit: Visit<'_>| (0..plan.taps()).map(|tap| visit.list(tap, lists)).sum::<usize>();
    let steps_of_all = (0..visits).map(visit_of).map(taps).sum::<usize>();

    let to = SharedMut::new(grad_weight);
    // A group's right operand stays in a core's own cache from pair to pair.
    let groups = plan.columns.div_ceil(GROUP).max(LEAST_BLOCKS.div_ceil(plan.pairs));
    let groups = groups.min(plan.columns);
    for_each_task(groups * plan.pairs, lanes, lane, |task, lane| {
        let (pair, group) = (task % plan.pairs, task / plan.pairs);
        let columns = part(plan.columns, 1, groups, group);
        let (steps, sums) = lane.split_at_mut(steps_len);
        let grad_at = to.at(0);
        let place =
            SumsPlace { first: (pair, columns.start), columns: columns.len(), taps: plan.taps() };
        // Just before it is added to.
        let all = steps_of_all * columns.len();
        let wanted = TAPS * DEPTH * columns.len().div_ceil(FETCHED / SIDE);
        let mut gradient = Ahead::new(gradient_of(shape, grad_at, pair, &columns))
            .after(all.saturating_sub(wanted * 5 / 4));
        for visit in 0..visits {
            let job = Products {
                visit: &visit_of(visit),
                pairs: pair..pair + 1,
                columns: columns.clone(),
                steps: as_steps(steps),
                sums: sums.as_mut_ptr(),
                place,
                accumulate: visit > 0,
                next: &mut gradient,
            };
            // SAFETY: all is laid out, and the lane has room for a group's sums.
            unsafe { isa.run(job) };
        }
        for tap in 0..plan.merged_taps() {
            let (sums, columns) = (sums.as_ptr(), columns.clone());
            let to = grad_at;
            let job = Merge { plan, shape, sums, place, copy_len: 0, pair, columns, tap, to };
            // SAFETY: these channels' gradients are this task's.
            unsafe { isa.run(job) };
        }
    });
}

/// Where a pair's and some columns' part of the gradient is.
fn gradient_of(
    shape: &ConvShape,
    gradient: *const f32,
    pair: usize,
    columns: &Range<usize>,
) -> impl Iterator<Item = Rows> {
    let ConvShape { in_channels, full_in, full_out, .. } = *shape;
    let first = 2 * pair * SIDE;
    let count = DEPTH.min(in_channels - first);
    let columns = columns.clone().step_by(FETCHED / SIDE);
    (0..TAPS).flat_map(move |tap| {
        columns.clone().map(move |column| {
            let at = (tap * full_in + first) * full_out + column * SIDE;
            Rows { from: gradient.wrapping_add(at), count, apart: full_out }
        })
    })
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

    /// Floats of the lists of a visit's steps, one for each tap.
    fn lists(&self) -> usize {
        (2 * self.taps() * self.longest * self.steps).next_multiple_of(16)
    }

    /// Floats of a visit's operands, the left one of so many pairs.
    fn operands(&self, pairs: usize) -> (usize, usize) {
        let left = self.slots() * self.stride * 2 * pairs * self.steps * BLOCK / 4;
        let right = self.right_lines() * self.columns * self.right_plane() / 4;
        let fits = u32::try_from(4 * left.max(right)).is_ok();
        assert!(fits, "lines of {left} and {right} floats are too long");
        (left, right)
    }

    /// Lines of the output that a unit at points is.
    fn outputs(&self, unit: usize) -> usize {
        self.output_lines(&(unit..unit + 1)).len()
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
struct Maps<'a> {
    input: Reading<'a>,
    /// Of which a task may write what it reads later.
    grad_output: *const f32,
}

// SAFETY: the pointers come from slices that outlive the call; each place where one is written argues
// that no other thread touches it.
unsafe impl Send for Maps<'_> {}
// SAFETY: as above.
unsafe impl Sync for Maps<'_> {}
