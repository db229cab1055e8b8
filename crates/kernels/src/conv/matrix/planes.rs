//! Forward and data gradient of few pixels by many filters, which as operands would outgrow the caches. The pixels are laid
//! out once for all, at the points of [`minimal`](super::minimal); each task makes the filters of its columns where it uses
//! them, some planes of 32 channels at a time, and keeps its sums of all pixels meanwhile.

use std::ops::Range;

use super::ahead::Ahead;
use super::band::{Band, MOST_COLUMNS};
use super::correlation::Correlation;
use super::filters::Columns;
use super::layout::{Images, Lines, as_steps};
use super::minimal::{OUTPUTS, POINTS};
use super::part::{Group, Part, StepLists};
use super::unit::{BLOCK, DEPTH, FETCHED, SIDE, SUMS, Unit};
use crate::Scratch;
use crate::conv::columns::ByColumns;
use crate::conv::epilogue::Finish;
use crate::conv::input::Reading;
use crate::conv::moments::Moments;
use crate::conv::parallel::{SharedMut, for_each_task, lane_len, part};
use crate::conv::simd::{Isa, Job, Simd};
use crate::conv::winograd::{Filters, Map, Statistics};
use crate::norm::merge_moments;
use crate::tile::as_doubles;

/// Planes whose products are added up before sums are written. The loop of a sum fetches the weights of the next ones, a row of
/// [`FETCHED`] floats at each step: that many are the channels of two planes (where weights are transposed), and of
/// [`MOST_COLUMNS`] (where not).
pub(super) const VISIT: usize = FETCHED / DEPTH;
const _: () = assert!(MOST_COLUMNS * SIDE == FETCHED && VISIT * DEPTH == FETCHED);
/// Tasks for each thread at least, that even out what a thread is slower than another.
const TASKS: usize = 2;

/// `output = finish(input * filters)`, both maps dense, and if wanted the output's statistics.
pub(super) fn correlate(
    isa: Isa,
    problem: Correlation<'_>,
    input: Reading<'_>,
    filters: Filters,
    output: &mut [f32],
    finish: Finish,
    statistics: Option<Statistics<'_>>,
    scratch: &mut Scratch,
) {
    let Correlation { kernel, source, result, views } = problem;
    let [view] = views else { panic!("at points all pixels are of one view") };
    let images = Images::new(source, view.x.length, SIDE);
    let lines = Lines::new(images, views);
    let bands = view.y.length.div_ceil(OUTPUTS);
    let count = images.blocks() * bands;
    let columns = filters.columns.div_ceil(SIDE);
    let least = TASKS * rayon::current_num_threads();
    let tasks = columns.div_ceil(MOST_COLUMNS).max(least).min(columns);

    // Floats of a laid out band, and of its sums and filters of a task with the most columns.
    let widest = columns.div_ceil(tasks);
    let band_len = ((POINTS * lines.line() + Lines::BEYOND) / 4).next_multiple_of(16);
    let sums_len = widest * POINTS * view.rows(images).div_ceil(SIDE) * SUMS;
    let filters_len = widest * POINTS * VISIT * view.terms.across * BLOCK / 4;
    let lane = lane_len(count * sums_len + filters_len);
    let moments = if statistics.is_some() { 2 * filters.columns } else { 0 };
    let (shared, lanes) = scratch.split(count * band_len + StepLists::LEN + 2 * moments, lane);
    let (laid_out, shared) = shared.split_at_mut(count * band_len);
    let (steps, moments_of) = shared.split_at_mut(StepLists::LEN);
    let part_of = Part { view, steps: StepLists::new(&lines, view, as_steps(steps), VISIT) };
    let plan = Plan {
        lines: &lines,
        part: &part_of,
        filters: &filters,
        kernel,
        bands,
        count,
        input,
        laid_out: SharedMut::new(laid_out),
        band_len,
        sums_len,
        output: SharedMut::new(output),
        result,
        finish,
        fetch_result: moments > 0,
    };

    for_each_task(count, lanes, lane, |i, lane| {
        // SAFETY: band `i` of the map is laid out in its own part of the room, by this task alone.
        unsafe { isa.run(LayOut(plan.band(i, lane.as_mut_ptr()))) };
    });
    let moments_of = &mut as_doubles(moments_of)[..moments];
    let moments_at = SharedMut::new(moments_of);
    let rows = source.batch * result.height * result.width;
    for_each_task(tasks, lanes, lane, |task, lane| {
        let columns = part(columns, 1, tasks, task);
        let (sums, filters_of) = lane.split_at_mut(count * sums_len);
        let job = Task {
            plan: &plan,
            columns: columns.clone(),
            sums: sums.as_mut_ptr(),
            filters: filters_of.as_mut_ptr().cast(),
        };
        // SAFETY: all bands are laid out, the lane has room for their sums and for the filters, and these channels of all
        // pixels are this task's.
        unsafe { isa.run(job) };
        if moments > 0 {
            let of = Moments {
                x: plan.output.at(0),
                rows,
                channels: filters.columns,
                first: columns.start * SIDE,
                last: (columns.end * SIDE).min(filters.columns),
                moments: moments_at.at(0),
            };
            // SAFETY: these channels of these pixels are written, and the moments are theirs.
            unsafe { isa.run(ByColumns(of)) };
        }
    });
    let Some(Statistics { mean, var }) = statistics else { return };
    merge_moments(moments_of, std::iter::once(rows), mean, var);
}

/// What all tasks know.
struct Plan<'a> {
    lines: &'a Lines,
    part: &'a Part<'a>,
    filters: &'a Filters,
    kernel: usize,
    /// Bands of a block of images.
    bands: usize,
    /// Bands of all blocks.
    count: usize,
    input: Reading<'a>,
    laid_out: SharedMut<'a>,
    /// Floats of a laid out band.
    band_len: usize,
    /// Floats of a band's sums, for the task with the most columns.
    sums_len: usize,
    output: SharedMut<'a>,
    result: Map,
    finish: Finish,
    fetch_result: bool,
}

impl Plan<'_> {
    /// Four lines of a block of images, with room for its sums.
    fn band(&self, i: usize, sums: *mut f32) -> Band<'_> {
        let first = i % self.bands * OUTPUTS;
        let Filters { depth, columns, .. } = *self.filters;
        Band {
            lines: self.lines,
            products: &[],
            depth,
            input: self.input,
            from: self.laid_out.at(i * self.band_len).cast(),
            sums,
            block: self.lines.images.block(i / self.bands),
            band: first..(first + OUTPUTS).min(self.result.height),
            columns: 0..0,
            output: self.output.at(0),
            result: self.result,
            channels: columns,
            finish: self.finish,
            fetch_filters: false,
            fetch_result: self.fetch_result,
        }
    }
}

struct LayOut<'a>(Band<'a>);

impl Job for LayOut<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: passed on to the caller; only an instruction set with the unit comes here.
        unsafe { self.0.lay_out_points() }
    }
}

/// All pixels' sums of some columns.
struct Task<'a> {
    plan: &'a Plan<'a>,
    columns: Range<usize>,
    /// Room for the sums of all bands, and for filters of a visit.
    sums: *mut f32,
    filters: *mut u8,
}

impl Job for Task<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: passed on to the caller; only an instruction set with the unit comes here.
        unsafe { self.compute() }
    }
}

impl Task<'_> {
    /// # Safety
    /// The machine has the unit, the bands are laid out, and the buffers and maps are as the fields say.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
    unsafe fn compute(&self) {
        let Self { plan, ref columns, sums, filters } = *self;
        let Plan { part, kernel, .. } = *plan;
        let terms = part.view.terms;
        let rows = 0..part.view.rows(plan.lines.images);
        let group = Group { part, lines: 0..POINTS, rows, columns: columns.clone() };
        let bands = || (0..plan.count).map(|i| plan.band(i, sums.wrapping_add(i * plan.sums_len)));
        // SAFETY: passed on to the caller.
        unsafe {
            let unit = Unit::new();
            for first in (0..terms.planes()).step_by(part.steps.visit) {
                let planes = first..(first + part.steps.visit).min(terms.planes());
                let steps = terms.of(planes.clone());
                let of = Columns {
                    filters: plan.filters,
                    kernel,
                    view: part.view,
                    columns: columns.clone(),
                    apart: POINTS * steps * BLOCK,
                };
                for plane in planes.clone() {
                    let before = terms.of(first..plane);
                    of.lay_out(plane, |point| point * steps + before, filters);
                }
                let next = planes.end..(planes.end + part.steps.visit).min(terms.planes());
                let last = next.is_empty();
                let mut weights = Ahead::new(of.weights(next));
                for band in bands() {
                    let planes = planes.clone();
                    if last {
                        let mut written = Ahead::new(band.written(&group));
                        band.multiply_planes(&unit, &group, planes, filters, &mut written);
                    } else {
                        band.multiply_planes(&unit, &group, planes, filters, &mut weights);
                    }
                }
            }
            for band in bands() {
                band.write_points(&group);
            }
        }
    }
}
