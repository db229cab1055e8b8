//! Forward and data gradient.

use super::gather::{GatherRows, WeightPanel};
use super::{Map, Taps};
use crate::Scratch;
use crate::conv::ConvShape;
use crate::conv::epilogue::Finish;
use crate::conv::parallel::{SharedMut, for_each_task, lane_len};
use crate::conv::product::{CHUNK, Panels, Product, multiply};
use crate::conv::simd::{Access, First, Isa, Job, LANES, Simd, Vector, Whole};

/// Floats of gathered rows that a thread works on at a time.
const ROWS_FLOATS: usize = 128 << 10;
/// Most rows of a block.
const MOST_ROWS: usize = 128;

/// `output = finish(input * weight)`.
pub(in crate::conv) fn forward(
    isa: Isa,
    shape: &ConvShape,
    input: &[f32],
    weight: &[f32],
    output: &mut [f32],
    finish: Finish,
    scratch: &mut Scratch,
) {
    let from = Map {
        batch: shape.batch,
        height: shape.height,
        width: shape.width,
        channels: shape.in_channels,
    };
    let to = Map {
        batch: shape.batch,
        height: shape.out_height(),
        width: shape.out_width(),
        channels: shape.out_channels,
    };
    let plan = Plan { isa, shape, from, to, backward: false, panels: isa.panels(to.channels) };
    run(plan, input, weight, output, finish, scratch);
}

/// `grad_input = finish(grad_output * transposed weight)`.
pub(in crate::conv) fn backward_input(
    isa: Isa,
    shape: &ConvShape,
    grad_output: &[f32],
    weight: &[f32],
    grad_input: &mut [f32],
    finish: Finish,
    scratch: &mut Scratch,
) {
    let from = Map {
        batch: shape.batch,
        height: shape.out_height(),
        width: shape.out_width(),
        channels: shape.out_channels,
    };
    let to = Map {
        batch: shape.batch,
        height: shape.height,
        width: shape.width,
        channels: shape.in_channels,
    };
    let plan = Plan { isa, shape, from, to, backward: true, panels: isa.panels(to.channels) };
    run(plan, grad_output, weight, grad_input, finish, scratch);
}

#[derive(Clone, Copy)]
struct Plan<'a> {
    isa: Isa,
    shape: &'a ConvShape,
    from: Map,
    to: Map,
    backward: bool,
    panels: Panels,
}

/// The destinations that gather alike: positions `step * i + start` in each dimension.
#[derive(Clone, Copy)]
struct Class {
    vertical: Taps,
    horizontal: Taps,
    step: usize,
    y: usize,
    x: usize,
    lines: usize,
    positions: usize,
    /// Floats of a row.
    depth: usize,
    rows: usize,
    block: usize,
}

impl Plan<'_> {
    fn classes(&self) -> usize {
        if self.backward { self.shape.stride.pow(2) } else { 1 }
    }

    fn class(&self, i: usize) -> Class {
        let (kernel, stride) = (self.shape.kernel, self.shape.stride);
        let (step, y, x) = if self.backward { (stride, i / stride, i % stride) } else { (1, 0, 0) };
        let taps = |class| {
            if self.backward {
                Taps::backward(kernel, stride, class)
            } else {
                Taps::forward(kernel, stride)
            }
        };
        let (vertical, horizontal) = (taps(y), taps(x));
        let lines = self.to.height.saturating_sub(y).div_ceil(step);
        let positions = self.to.width.saturating_sub(x).div_ceil(step);
        let depth = vertical.count * horizontal.count * self.from.channels;
        let rows = self.to.batch * lines * positions;
        // Enough blocks for an even spread, each a whole number of tiles.
        let block =
            (ROWS_FLOATS / depth.max(1)).min(rows / 24).clamp(1, MOST_ROWS).next_multiple_of(8);
        Class { vertical, horizontal, step, y, x, lines, positions, depth, rows, block }
    }
}

fn run(
    plan: Plan<'_>,
    from: &[f32],
    weight: &[f32],
    to: &mut [f32],
    finish: Finish,
    scratch: &mut Scratch,
) {
    let classes = || (0..plan.classes()).map(|i| plan.class(i));
    let (panels, columns) = (plan.panels, plan.panels.columns());
    let matrix = classes().map(|c| c.depth).sum::<usize>() * columns;
    let gathered = classes().map(|c| c.block * c.depth).max().unwrap_or(0).next_multiple_of(16);
    let most = classes().map(|c| c.block).max().unwrap_or(0);
    let lane = lane_len(gathered + most * columns);
    let (b, lanes) = scratch.split(matrix, lane);

    let shared = SharedMut::new(b);
    let taps = classes().map(|c| c.vertical.count).sum::<usize>();
    for_each_task(taps * panels.count(), lanes, lane, |task, _| {
        let (panel, mut tap) = (task / taps, task % taps);
        let (first, units) = panels.get(panel);
        let mut start = 0;
        for class in classes() {
            if tap >= class.vertical.count {
                tap -= class.vertical.count;
                start += class.depth * columns;
                continue;
            }
            let row = tap * class.horizontal.count * plan.from.channels;
            let job = WeightPanel {
                shape: plan.shape,
                weight: weight.as_ptr(),
                vertical_tap: class.vertical.tap(tap),
                horizontal: class.horizontal,
                transposed: plan.backward,
                first_column: first,
                units,
                to: shared.at(start + first * class.depth + row * units * LANES),
            };
            // SAFETY: this vertical tap's rows of this panel are this task's.
            unsafe { plan.isa.run(job) };
            break;
        }
    });
    let b = &*b;

    let to = SharedMut::new(to);
    let blocks = classes().map(|c| c.rows.div_ceil(c.block)).sum();
    for_each_task(blocks, lanes, lane, |mut task, lane| {
        let (a, c) = lane.split_at_mut(gathered);
        let mut start = 0;
        for class in classes() {
            let blocks = class.rows.div_ceil(class.block);
            if task >= blocks {
                task -= blocks;
                start += class.depth * columns;
                continue;
            }
            let rows = task * class.block..((task + 1) * class.block).min(class.rows);
            let gather = GatherRows {
                from: from.as_ptr(),
                map: plan.from,
                vertical: class.vertical,
                horizontal: class.horizontal,
                lines: class.lines,
                positions: class.positions,
                rows: rows.clone(),
                to: a.as_mut_ptr(),
                piece: class.depth.max(1),
                piece_stride: 0,
            };
            let products = RowProducts {
                rows: rows.len(),
                depth: class.depth,
                panels,
                a: a.as_ptr(),
                b: b[start..].as_ptr(),
                c: c.as_mut_ptr(),
            };
            let scatter = ScatterRows {
                rows,
                class,
                from: c.as_ptr(),
                columns,
                to: to.at(0),
                map: plan.to,
                finish,
            };
            // SAFETY: the lane has room for the largest block, and the pixels that its rows stand
            // for are this task's.
            unsafe {
                plan.isa.run(gather);
                plan.isa.run(products);
                plan.isa.run(scatter);
            }
            break;
        }
    });
}

/// `C[rows, columns] = A[rows, depth] * B[depth, columns]`.
struct RowProducts {
    rows: usize,
    depth: usize,
    panels: Panels,
    a: *const f32,
    b: *const f32,
    c: *mut f32,
}

impl Job for RowProducts {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for (first, units) in self.panels.iter() {
            let product = Product {
                k: self.depth,
                a: self.a,
                row: self.depth,
                step: 1,
                jump: CHUNK,
                b: self.b.wrapping_add(first * self.depth),
                b_step: units * LANES,
                b_jump: CHUNK,
                c: self.c.wrapping_add(first),
                c_row: self.panels.columns(),
                c_jump: CHUNK,
                accumulate: false,
                fetch: std::ptr::null_mut(),
            };
            // SAFETY: the caller lends matrices of these sizes.
            unsafe { multiply::<S>(self.rows, units, product) };
        }
    }
}

/// Rows of products to the pixels that they stand for.
struct ScatterRows {
    rows: std::ops::Range<usize>,
    class: Class,
    from: *const f32,
    columns: usize,
    to: *mut f32,
    map: Map,
    finish: Finish,
}

impl Job for ScatterRows {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Class { step, y, x, lines, positions, .. } = self.class;
        for r in self.rows.clone() {
            let (position, line) = (r % positions, r / positions);
            let (line, image) = (line % lines, line / lines);
            let pixel =
                (image * self.map.height + line * step + y) * self.map.width + position * step + x;
            let from = self.from.wrapping_add((r - self.rows.start) * self.columns);
            let at = pixel * self.map.channels;
            let mut c = 0;
            // SAFETY: the pixel is on the map and the caller's own, and only its channels are
            // touched.
            unsafe {
                while c + S::Wide::LANES <= self.map.channels {
                    let zero = S::Wide::splat(0.0);
                    let values = [S::Wide::load(from.wrapping_add(c)), zero, zero, zero];
                    self.finish.pixels(values, 1, self.to, at, 0, c, Whole);
                    c += S::Wide::LANES;
                }
                while c < self.map.channels {
                    let access = First(LANES.min(self.map.channels - c));
                    let zero = S::Narrow::splat(0.0);
                    let values = [access.load(from.wrapping_add(c)), zero, zero, zero];
                    self.finish.pixels::<S::Narrow>(values, 1, self.to, at, 0, c, access);
                    c += LANES;
                }
            }
        }
    }
}
