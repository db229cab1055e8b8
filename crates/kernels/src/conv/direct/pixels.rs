//! Forward and data gradient.

use super::geometry::{Block, Blocks, Cursor, Map, Strip, as_offsets};
use super::operands::WeightPanel;
use crate::Scratch;
use crate::conv::ConvShape;
use crate::conv::class::Class;
use crate::conv::epilogue::Finish;
use crate::conv::indirect::{Indirect, Rows, heights};
use crate::conv::parallel::{SharedMut, for_each_task, lane_len};
use crate::conv::product::{CHUNK, Fetch, Panels, Stream};
use crate::conv::simd::{Access, First, Isa, Job, LANES, Simd, Vector, Whole};

/// Floats of a strip, which stays in a core's cache with a panel of the weight.
const STRIP_FLOATS: usize = 64 << 10;
/// Rows of a block.
const ROWS: usize = 256;

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
    let plan = Plan { isa, shape, backward: false };
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
    let plan = Plan { isa, shape, backward: true };
    run(plan, grad_output, weight, grad_input, finish, scratch);
}

#[derive(Clone, Copy)]
struct Plan<'a> {
    isa: Isa,
    shape: &'a ConvShape,
    backward: bool,
}

impl Plan<'_> {
    fn from(&self) -> Map {
        if self.backward { Map::output(self.shape) } else { Map::input(self.shape) }
    }

    fn to(&self) -> Map {
        if self.backward { Map::input(self.shape) } else { Map::output(self.shape) }
    }

    fn classes(&self) -> impl Iterator<Item = Class> + Clone {
        let count = if self.backward { self.shape.stride.pow(2) } else { 1 };
        (0..count).map(|i| self.class(i))
    }

    fn class(&self, i: usize) -> Class {
        if self.backward { Class::backward(self.shape, i) } else { Class::forward(self.shape) }
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
    let to_map = plan.to();
    let panels = plan.isa.panels(to_map.channels);
    let columns = panels.columns();
    let strip = Strip::new(plan.from(), plan.classes());
    // The first class has the most rows.
    let blocks = Blocks::new(&strip, &plan.class(0), STRIP_FLOATS, ROWS);
    // Whole vectors of channels go from the registers to where they belong.
    let direct = to_map.channels == columns && matches!(finish, Finish::Store | Finish::Add);

    let depth = plan.classes().map(|c| c.depth).sum::<usize>();
    let largest = blocks.largest();
    let strip_len = strip.floats(&largest).next_multiple_of(CHUNK);
    let rows = if direct { 0 } else { largest.rows(&plan.class(0)) };
    let lane = lane_len(strip_len + rows * columns);
    let list_len = depth.next_multiple_of(CHUNK);
    let (shared, lanes) = scratch.split(list_len + depth * columns, lane);
    let (list, weights) = shared.split_at_mut(list_len);
    lay_out_weight(plan, panels, weight, weights, lanes, lane);
    let offsets = as_offsets(list);
    let mut start = 0;
    for class in plan.classes() {
        strip.tap_offsets(&class, &mut offsets[start..start + class.depth]);
        start += class.depth;
    }

    let operands = Operands { plan, strip, panels, from, offsets, weights };
    let to = SharedMut::new(to);
    for_each_task(blocks.count(), lanes, lane, |task, lane| {
        let block = blocks.get(task);
        let next = (task + 1 < blocks.count()).then(|| blocks.get(task + 1));
        let mut fetch = operands.ahead(&block, next, to);
        let (padded, products) = lane.split_at_mut(strip_len);
        // SAFETY: the destinations of a block are this task's, and the lane has room for the
        // largest one.
        unsafe {
            let pixels = strip.lay_out(plan.isa, from, &block, padded);
            operands.multiply(&block, pixels.as_ptr(), products, direct, to, finish, &mut fetch);
        }
    });
}

/// What all blocks share.
struct Operands<'a> {
    plan: Plan<'a>,
    strip: Strip,
    panels: Panels,
    from: &'a [f32],
    /// Of the taps of each class.
    offsets: &'a [u32],
    /// The matrix of each class.
    weights: &'a [f32],
}

impl Operands<'_> {
    /// Computes a block, whose strip is at `pixels`: each class straight to the destination if that
    /// is `direct`, and by way of `products` if not.
    ///
    /// # Safety
    /// The strip is laid out, `products` has room for the products of a class unless `direct`, and
    /// no other thread touches the block's destinations in `to`.
    unsafe fn multiply(
        &self,
        block: &Block,
        pixels: *const f32,
        products: &mut [f32],
        direct: bool,
        to: SharedMut<'_>,
        finish: Finish,
        fetch: &mut Fetch,
    ) {
        let (isa, columns) = (self.plan.isa, self.panels.columns());
        let mut start = 0;
        for class in self.plan.classes() {
            let rows = BlockRows { block, class, map: self.plan.to() };
            let product = BlockProduct {
                rows,
                strip: &self.strip,
                panels: self.panels,
                // Only a class that reads nothing can begin past the end.
                from: pixels.wrapping_add(self.strip.origin(&class)),
                offsets: self.offsets[start..].as_ptr(),
                b: self.weights[start * columns..].as_ptr(),
                to: if direct { to.at(0) } else { products.as_mut_ptr() },
                dense: (!direct).then_some(columns),
                accumulate: direct && matches!(finish, Finish::Add),
                fetch,
            };
            start += class.depth;
            if product.accumulate && class.depth == 0 {
                continue;
            }
            // SAFETY: passed on to the caller.
            unsafe {
                isa.run(product);
                if !direct {
                    let from = products.as_ptr();
                    isa.run(ScatterRows { rows, from, columns, to: to.at(0), finish });
                }
            }
        }
    }

    /// What the next block reads and writes, to be fetched during the products of this one.
    fn ahead(&self, block: &Block, next: Option<Block>, to: SharedMut<'_>) -> Fetch {
        let (mut read, mut write) = (0..0, 0..0);
        if let Some(next) = next {
            let Map { height, width, channels, .. } = self.plan.to();
            let spacing = self.plan.class(0).spacing;
            let at = |image: usize, line: usize| {
                (image * height + (line * spacing).min(height)) * width * channels
            };
            read = self.strip.source(&next);
            write =
                at(next.images.start, next.lines.start)..at(next.images.end - 1, next.lines.end);
        }
        let read = Stream::new(self.from[read.start..].as_ptr(), read.len());
        let write = Stream::new(to.at(write.start), write.len());
        let steps = |c: Class| c.depth.div_ceil(CHUNK) * block.rows(&c).div_ceil(8);
        let steps = self.plan.classes().map(steps).sum::<usize>() * self.panels.count();
        Fetch::new(read, write, true, steps)
    }
}

/// The weight's matrices, one per class, in panels.
fn lay_out_weight(
    plan: Plan<'_>,
    panels: Panels,
    weight: &[f32],
    b: &mut [f32],
    lanes: &mut [f32],
    lane: usize,
) {
    let shared = SharedMut::new(b);
    let taps = plan.classes().map(|c| c.vertical.count).sum::<usize>();
    for_each_task(taps * panels.count(), lanes, lane, |task, _| {
        let (panel, mut tap) = (task / taps, task % taps);
        let (first, units) = panels.get(panel);
        let mut start = 0;
        for class in plan.classes() {
            if tap >= class.vertical.count {
                tap -= class.vertical.count;
                start += class.depth * panels.columns();
                continue;
            }
            let row = tap * class.horizontal.count * plan.from().channels;
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
}

/// A block's destinations of one class.
#[derive(Clone, Copy)]
struct BlockRows<'a> {
    block: &'a Block,
    class: Class,
    map: Map,
}

impl BlockRows<'_> {
    /// The first channel of the pixel under the cursor.
    #[inline(always)]
    fn at(&self, cursor: &Cursor) -> usize {
        let Class { spacing, first_line, first_position, .. } = self.class;
        let line = cursor.image * self.map.height + cursor.line * spacing + first_line;
        let pixel = line * self.map.width + cursor.position * spacing + first_position;
        pixel * self.map.channels
    }
}

/// `C[rows, columns] (+)= A[rows, depth] * B[depth, columns]` for the rows of a block and class.
struct BlockProduct<'a> {
    rows: BlockRows<'a>,
    strip: &'a Strip,
    panels: Panels,
    /// What the block's first row reads first.
    from: *const f32,
    offsets: *const u32,
    b: *const f32,
    /// Of the destination map, or of a matrix with rows of `dense` floats.
    to: *mut f32,
    dense: Option<usize>,
    accumulate: bool,
    fetch: *mut Fetch,
}

impl Job for BlockProduct<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let BlockRows { block, class, .. } = self.rows;
        let steps = self.strip.steps(block, &class);
        for (first, units) in self.panels.iter() {
            let product = Indirect {
                k: class.depth,
                offsets: self.offsets,
                b: self.b.wrapping_add(first * class.depth),
                b_step: units * LANES,
                accumulate: self.accumulate,
                fetch: self.fetch,
            };
            let mut cursor = Cursor::new(block, &class);
            let mut tile = Rows::new();
            let mut done = 0;
            for height in heights::<S>(block.rows(&class), units) {
                for i in 0..height {
                    tile.from[i] = self.from.wrapping_add(steps.at(block, &cursor));
                    let to = match self.dense {
                        Some(columns) => (done + i) * columns,
                        None => self.rows.at(&cursor),
                    };
                    tile.to[i] = self.to.wrapping_add(to + first);
                    cursor.advance();
                }
                done += height;
                // SAFETY: the strip holds what the taps of the block's rows read, and the caller
                // lends the rest.
                unsafe { S::indirect_kernel(height, units)(&tile, &product) };
            }
        }
    }
}

/// Rows of products to the pixels that they stand for.
struct ScatterRows<'a> {
    rows: BlockRows<'a>,
    from: *const f32,
    columns: usize,
    to: *mut f32,
    finish: Finish,
}

impl Job for ScatterRows<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let BlockRows { block, class, map } = self.rows;
        let mut cursor = Cursor::new(block, &class);
        for r in 0..block.rows(&class) {
            let from = self.from.wrapping_add(r * self.columns);
            let at = self.rows.at(&cursor);
            cursor.advance();
            let mut c = 0;
            // SAFETY: the pixel is on the map and the caller's own, and only its channels are
            // touched.
            unsafe {
                while c + S::Wide::LANES <= map.channels {
                    let value = S::Wide::load(from.wrapping_add(c));
                    self.finish.pixels([value], 1, self.to, at, 0, c, Whole);
                    c += S::Wide::LANES;
                }
                while c < map.channels {
                    let access = First(LANES.min(map.channels - c));
                    let value: S::Narrow = access.load(from.wrapping_add(c));
                    self.finish.pixels([value], 1, self.to, at, 0, c, access);
                    c += LANES;
                }
            }
        }
    }
}
