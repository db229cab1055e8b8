//! Forward and data gradient.

use std::ops::Range;

use super::band::{Band, GROUP};
use super::filters::Columns;
use super::layout::{Images, Lines, View, as_steps};
use super::minimal::{self, OUTPUTS, POINTS};
use super::part::{Part, Product, StepLists};
use super::planes;
use super::unit::{BLOCK, SIDE, SUMS};
use crate::Scratch;
use crate::conv::class::Class;
use crate::conv::columns::ByColumns;
use crate::conv::epilogue::Finish;
use crate::conv::input::Reading;
use crate::conv::moments::Moments;
use crate::conv::parallel::{SharedMut, for_each_task, lane_len, part};
use crate::conv::simd::Isa;
use crate::conv::winograd::{Filters, Map, Statistics};
use crate::conv::{ConvShape, map, output_map};
use crate::norm::merge_moments;
use crate::tile::as_doubles;

/// Bytes of a band of lines by the definition, which with the filters of some columns and their sums stays in a core's own cache.
const BAND_BYTES: usize = 900 << 10;
/// Lines of a band that may outgrow that: those around a band are laid out twice.
const LEAST_BAND: usize = 4;
/// Bands of all blocks of images together that are wanted if each then has so many lines. With fewer of them than tasks, several
/// tasks have to lay out the same lines, each for some of the columns.
const WANTED: usize = 8;
const LEAST_WANTED_BAND: usize = 3;
/// Floats of filters that stay in a core's own cache.
const FILTERS: usize = 128 << 10;

/// Columns of 16 whose filters are made in one task.
const TOGETHER: usize = 4;

/// What is read and written.
pub(super) struct Correlation<'a> {
    pub kernel: usize,
    /// The maps, both dense.
    pub source: Map,
    pub result: Map,
    /// All of the result, each of its pixels in one of them; they read one layout.
    pub views: &'a [View],
}

/// `output = finish(input * weight)`, and if wanted the output's statistics.
pub(in crate::conv) fn forward(
    isa: Isa,
    shape: &ConvShape,
    input: Reading<'_>,
    filters: Filters,
    output: &mut [f32],
    finish: Finish,
    statistics: Option<Statistics<'_>>,
    scratch: &mut Scratch,
) {
    let (source, result) = (map(shape), output_map(shape));
    let by_planes = super::by_planes(shape);
    let points = by_planes || minimal::pays(source);
    let views = [View::new(filters.depth, &Class::forward(shape), source, points)];
    let problem = Correlation { kernel: shape.kernel, source, result, views: &views };
    let correlate = if by_planes { planes::correlate } else { correlate };
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
    let by_planes = super::by_planes(shape);
    let points = by_planes || minimal::pays(source);
    let view =
        |class: usize| View::new(filters.depth, &Class::backward(shape, class), source, points);
    // Where there are fewer, the first is there again.
    let classes = stride * stride;
    let views: [View; MOST_VIEWS] = std::array::from_fn(|i| view(if i < classes { i } else { 0 }));
    let problem = Correlation { kernel, source, result, views: &views[..classes] };
    let correlate = if by_planes { planes::correlate } else { correlate };
    let source = Reading { values: grad_output, norm: None };
    correlate(isa, problem, source, filters, grad_input, finish, None, scratch);
}

/// Strides are 1 or 2.
const MOST_VIEWS: usize = 4;

/// `output = finish(input * filters)`, both maps dense, and if wanted the output's statistics.
fn correlate(
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
    // No more than a tile's rows: groups of tiles are whole pixels of all images.
    let images = Images::new(source, views[0].x.length, SIDE);
    let lines = Lines::new(images, views);
    let height = views[0].y.length;
    // All of it depends on the shape alone, for a band's moments have to.
    let most = (BAND_BYTES / lines.line()).saturating_sub(lines.read(1)) / lines.step + 1;
    let wanted = WANTED.div_ceil(images.blocks()).min(height / LEAST_WANTED_BAND);
    let minimal = lines.terms.minimal;
    let bands = if minimal {
        height.div_ceil(OUTPUTS)
    } else {
        height.div_ceil(most.max(LEAST_BAND)).max(wanted)
    };
    let band = |i: usize| {
        if minimal {
            i * OUTPUTS..((i + 1) * OUTPUTS).min(height)
        } else {
            part(height, 1, bands, i)
        }
    };
    let held = if minimal { POINTS } else { lines.read(height.div_ceil(bands)) };
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
    let lane_bytes = held * lines.line() + Lines::BEYOND;
    let lane = lane_len(GROUP * SUMS + lane_bytes / 4);
    let whole = bands == 1;
    let count = if whole { images.blocks() } else { source.batch * bands };
    assert!(statistics.is_none() || views.len() == 1, "the moments of a band's pixels");
    let moments = if statistics.is_some() { 2 * filters.columns } else { 0 };
    let steps_len = views.len() * StepLists::LEN;
    let (b_len, partials_len) = (starts[views.len()], 2 * moments * count);
    let (shared, lanes) = scratch.split(b_len + steps_len + partials_len, lane);
    let (b, shared) = shared.split_at_mut(b_len);
    let (steps, partials) = shared.split_at_mut(steps_len);

    let to = SharedMut::new(b);
    let planes = lines.terms.planes();
    // Those of several columns are neighbours in memory, but for the data gradient.
    let many = columns * planes >= TOGETHER * TASKS * rayon::current_num_threads();
    let together = if many && !filters.transposed { TOGETHER } else { 1 };
    let wide = columns.div_ceil(together);
    for_each_task(views.len() * wide * planes, lanes, lane, |task, _| {
        let (i, plane, group) = (task / wide / planes, task / wide % planes, task % wide);
        let view = &views[i];
        let columns = part(columns, 1, wide, group);
        let to = to.at(starts[i] + columns.start * operand(view)).cast();
        let columns =
            Columns { filters: &filters, kernel, view, columns, apart: 4 * operand(view) };
        let place = |line: usize| view.terms.place(line, plane);
        // SAFETY: the unit's machine has the instructions, and this plane of these columns is this task's.
        unsafe { columns.lay_out(plane, place, to) };
    });
    let b = &*b;
    // Sums over two planes need no way to memory and back; over pairs of more, pixels and filters would not stay in the first cache.
    let visit = if minimal && planes == 2 { 2 } else { 1 };
    let mut steps = as_steps(steps).chunks_mut(StepLists::LEN / 2);
    let products: [Option<Product<'_>>; MOST_VIEWS] = std::array::from_fn(|i| {
        let view = views.get(i)?;
        let part = Part { view, steps: StepLists::new(&lines, view, steps.next()?, visit) };
        Some(Product { part, b: &b[starts[i]..], operand: operand(view) })
    });

    let partials = &mut as_doubles(partials)[..moments * count];
    let shared = SharedMut::new(partials);
    let to = SharedMut::new(output);
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
        let columns = part(columns, 1, groups, task % groups);
        let task = task / groups;
        let (block, i) = (task / bands, task % bands);
        let (sums, from) = lane.split_at_mut(GROUP * SUMS);
        let job = Band {
            lines: &lines,
            products: &products,
            depth: filters.depth,
            input,
            from: from.as_mut_ptr().cast(),
            sums: sums.as_mut_ptr(),
            block: images.block(block),
            band: band(i),
            columns: columns.clone(),
            output: to.at(0),
            result,
            channels: filters.columns,
            finish,
            fetch_filters: b.len() > FILTERS,
            // Only training passes have statistics. What these keep for a backward pass has not been touched since the last step;
            // where a pass keeps nothing its maps are in a cache, and fetching them costs little.
            fetch_result: moments > 0,
        };
        // SAFETY: the lane has room for the tallest band's lines, or for six at points, and these channels of its pixels are this task's.
        unsafe { isa.run(job) };
        if moments > 0 {
            moments_of(block, i, columns);
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
