//! Weight gradient: `dW[taps * in, out] += A^T[taps * in, pixels] * dY[pixels, out]`, where row `p`
//! of `A` is what output pixel `p` reads.
//!
//! If a core's cache holds all of `dW`, a task takes a range of blocks from the maps to its own sum.
//! If not, blocks are large, both operands are laid out once for all threads, and a task takes some
//! rows and panels of `dW`. Partial sums are added in order.

use std::ops::Range;

use super::geometry::{Block, Blocks, Cursor, Map, Strip, as_offsets};
use super::operands::{PadLines, PanelRows};
use crate::Scratch;
use crate::conv::ConvShape;
use crate::conv::class::Class;
use crate::conv::indirect::{Indirect, Rows, heights};
use crate::conv::parallel::{SharedMut, for_each_task, lane_len, part};
use crate::conv::product::{CHUNK, Fetch, Panels, Stream};
use crate::conv::simd::{Access, First, Isa, Job, LANES, Simd, Vector, Whole};

/// Floats of `dW` that fit in a core's cache beside a block.
const OWN_FLOATS: usize = 300 << 10;
/// Floats of the strip and pixels of a block, for one thread.
const STRIP_FLOATS: usize = 64 << 10;
const PIXELS: usize = 128;
/// Pixels that pay for a copy of `dW`.
const COPY_PIXELS: usize = 1024;
/// Least and most copies of `dW`: there should be some work for every thread.
const LEAST_COPIES: usize = 4;
const COPIES: usize = 32;
/// Floats of the strip and pixels of a block, for all threads.
const SHARED_FLOATS: usize = 1 << 20;
const SHARED_PIXELS: usize = 1 << 13;
/// Rows of `dW` that a task takes then.
const PIECE: usize = 64;
/// Panels of it.
const PANELS: usize = 4;

/// Adds to `grad_weight`.
pub(in crate::conv) fn weight_gradient(
    isa: Isa,
    shape: &ConvShape,
    input: &[f32],
    grad_output: &[f32],
    grad_weight: &mut [f32],
    scratch: &mut Scratch,
) {
    let class = Class::forward(shape);
    let strip = Strip::new(Map::input(shape), std::iter::once(class));
    let panels = isa.panels(shape.out_channels);
    let plan = Plan { isa, shape, class, strip, panels, input, grad_output };
    if class.depth * panels.columns() <= OWN_FLOATS {
        by_pixels(&plan, grad_weight, scratch);
    } else {
        by_pieces(&plan, grad_weight, scratch);
    }
}

struct Plan<'a> {
    isa: Isa,
    shape: &'a ConvShape,
    class: Class,
    strip: Strip,
    panels: Panels,
    input: &'a [f32],
    grad_output: &'a [f32],
}

/// A task takes a range of blocks and sums its own `dW`.
fn by_pixels(plan: &Plan<'_>, grad_weight: &mut [f32], scratch: &mut Scratch) {
    let Plan { isa, class, strip, panels, .. } = *plan;
    let depth = class.depth;
    let blocks = Blocks::new(&strip, &class, STRIP_FLOATS, PIXELS);
    // Powers of two spread evenly over threads.
    let pixels = Map::output(plan.shape).pixels();
    let copies =
        (pixels / COPY_PIXELS).clamp(LEAST_COPIES, COPIES).next_power_of_two().min(blocks.count());

    let largest = blocks.largest();
    let most = largest.rows(&class);
    let strip_len = strip.floats(&largest).next_multiple_of(CHUNK);
    let list_len = most.next_multiple_of(CHUNK);
    let lane = lane_len(strip_len + list_len + most * panels.columns());
    let taps_len = depth.next_multiple_of(CHUNK);
    let sums = (depth * panels.columns()).next_multiple_of(CHUNK);
    let (shared, lanes) = scratch.split(taps_len + copies * sums, lane);
    let (taps, sums_of) = shared.split_at_mut(taps_len);
    let taps = &mut as_offsets(taps)[..depth];
    strip.tap_offsets(&class, taps);
    let taps = &*taps;

    let writer = SharedMut::new(sums_of);
    for_each_task(copies, lanes, lane, |copy, lane| {
        let (padded, rest) = lane.split_at_mut(strip_len);
        let (list, b) = rest.split_at_mut(list_len);
        let list = as_offsets(list);
        let range = part(blocks.count(), 1, copies, copy);
        for i in range.clone() {
            let block = blocks.get(i);
            let pixels = block.rows(&class);
            // SAFETY: the lane has room for the largest block.
            let start = unsafe { strip.lay_out(isa, plan.input, &block, padded) };
            pixel_offsets(&strip, &class, &block, list);
            for at in 0..panels.count() {
                let to = b[pixels * panels.get(at).0..].as_mut_ptr();
                // SAFETY: as above.
                unsafe { isa.run(plan.panel(at, plan.rows(&block), to)) };
            }
            // The next copy starts where this one ends.
            let next = (i + 1 < blocks.count()).then(|| blocks.get(i + 1));
            let steps = panels.count() * depth.div_ceil(8) * pixels.div_ceil(CHUNK);
            let mut fetch = plan.ahead(next, steps);
            for (first, units) in panels.iter() {
                let job = PieceProduct {
                    pixels: 0..pixels,
                    taps,
                    units,
                    from: start.as_ptr(),
                    offsets: list.as_ptr(),
                    b: b[pixels * first..].as_ptr(),
                    to: writer.at(copy * sums + first * depth),
                    accumulate: i > range.start,
                    fetch: &mut fetch,
                };
                // SAFETY: this copy of `dW` is this task's, and the offsets stay within the strip.
                unsafe { isa.run(job) };
            }
        }
    });
    add_sums(plan, &sums_of[..copies * sums], copies, sums, grad_weight, lanes, lane);
}

/// The operands of a block are shared, and a task takes some rows and panels of `dW`: there are many.
fn by_pieces(plan: &Plan<'_>, grad_weight: &mut [f32], scratch: &mut Scratch) {
    let Plan { isa, class, strip, panels, .. } = *plan;
    let depth = class.depth;
    let blocks = Blocks::new(&strip, &class, SHARED_FLOATS, SHARED_PIXELS);
    let pieces = depth.div_ceil(PIECE);
    let groups = panels.count().div_ceil(PANELS);
    let largest = blocks.largest();
    let most = largest.rows(&class);

    let strip_len = strip.floats(&largest).next_multiple_of(CHUNK);
    let (list_len, taps_len) = (most.next_multiple_of(CHUNK), depth.next_multiple_of(CHUNK));
    let b_len = most * panels.columns();
    let sums = (depth * panels.columns()).next_multiple_of(CHUNK);
    let lane = lane_len(0);
    let total = strip_len + list_len + taps_len + b_len.next_multiple_of(CHUNK) + sums;
    let (shared, lanes) = scratch.split(total, lane);
    let (padded, rest) = shared.split_at_mut(strip_len);
    let (list, rest) = rest.split_at_mut(list_len);
    let (taps, rest) = rest.split_at_mut(taps_len);
    let (b, sums_of) = rest.split_at_mut(b_len.next_multiple_of(CHUNK));
    let (list, taps) = (as_offsets(list), &mut as_offsets(taps)[..depth]);
    strip.tap_offsets(&class, taps);
    let taps = &*taps;

    for block in (0..blocks.count()).map(|i| blocks.get(i)) {
        let pixels = block.rows(&class);
        pixel_offsets(&strip, &class, &block, list);
        let start = plan.share_operands(&block, padded, b, lanes, lane);
        let (b, list) = (&*b, &*list);

        let writer = SharedMut::new(sums_of);
        for_each_task(pieces * groups, lanes, lane, |task, _| {
            let (piece, group) = (task % pieces, task / pieces);
            let rows = part(depth, LANES, pieces, piece);
            let parts = pixels.div_ceil(PIXELS);
            // What a part of the pixels reads stays in the core's cache for all panels.
            for i in 0..parts {
                let here = part(pixels, 1, parts, i);
                for at in part(panels.count(), 1, groups, group) {
                    let (first, units) = panels.get(at);
                    let job = PieceProduct {
                        pixels: here.clone(),
                        taps: &taps[rows.clone()],
                        units,
                        from: start.as_ptr(),
                        offsets: list.as_ptr(),
                        b: b[pixels * first..].as_ptr(),
                        to: writer.at(first * depth + rows.start * units * LANES),
                        accumulate: i > 0,
                        fetch: std::ptr::null_mut(),
                    };
                    // SAFETY: these rows of the sums are this task's, and the offsets stay within the strip.
                    unsafe { isa.run(job) };
                }
            }
        });
        add_sums(plan, &sums_of[..sums], 1, sums, grad_weight, lanes, lane);
    }
}

impl Plan<'_> {
    /// Lays out a block's strip (unless the map serves) and panels, by all threads. Gives what
    /// [`Strip::start`] does.
    fn share_operands<'p>(
        &'p self,
        block: &Block,
        padded: &'p mut [f32],
        b: &mut [f32],
        lanes: &mut [f32],
        lane: usize,
    ) -> &'p [f32] {
        let (isa, strip, pixels) = (self.isa, &self.strip, self.rows(block));
        let lines = block.images.len() * strip.lines(block.lines.len());
        let parts = pixels.len().div_ceil(128);
        let (to_strip, to_b) = (SharedMut::new(padded), SharedMut::new(b));
        for_each_task(parts, lanes, lane, |task, _| {
            let here = part(pixels.len(), 1, parts, task);
            let lines = part(lines, 1, parts, task);
            let pad =
                PadLines { from: self.input.as_ptr(), strip, block, lines, to: to_strip.at(0) };
            // SAFETY: the buffers have room for the largest block, and these lines of the strip and
            // rows of the panels are this task's.
            unsafe {
                if !strip.in_place {
                    isa.run(pad);
                }
                for (at, (first, units)) in self.panels.iter().enumerate() {
                    let to = to_b.at(pixels.len() * first + here.start * units * LANES);
                    let rows = pixels.start + here.start..pixels.start + here.end;
                    isa.run(self.panel(at, rows, to));
                }
            }
        });
        strip.start(self.input, block, padded)
    }

    /// The output's pixels of a block, which are neighbours.
    fn rows(&self, block: &Block) -> Range<usize> {
        let Class { lines, positions, .. } = self.class;
        let at = |image: usize, line: usize| (image * lines + line) * positions;
        at(block.images.start, block.lines.start)..at(block.images.end - 1, block.lines.end)
    }

    fn panel(&self, at: usize, rows: Range<usize>, to: *mut f32) -> PanelRows {
        let (first, units) = self.panels.get(at);
        PanelRows {
            from: self.grad_output.as_ptr().wrapping_add(first),
            stride: self.shape.out_channels,
            columns: (units * LANES).min(self.shape.out_channels - first),
            width: units * LANES,
            rows,
            to,
        }
    }

    /// What the next block reads.
    fn ahead(&self, next: Option<Block>, steps: usize) -> Fetch {
        let (input, rows) =
            next.map_or((0..0, 0..0), |next| (self.strip.source(&next), self.rows(&next)));
        let channels = self.shape.out_channels;
        let stream = |from: &[f32], floats: Range<usize>| {
            Stream::new(from[floats.start..].as_ptr(), floats.len())
        };
        let other = stream(self.grad_output, rows.start * channels..rows.end * channels);
        Fetch::new(stream(self.input, input), other, false, steps)
    }
}

/// Where the pixels of a block begin to read.
fn pixel_offsets(strip: &Strip, class: &Class, block: &Block, to: &mut [u32]) {
    let (origin, steps) = (strip.origin(class), strip.steps(block, class));
    let mut cursor = Cursor::new(block, class);
    for to in to.iter_mut().take(block.rows(class)) {
        // Blocks are limited far below the 2^32 floats that an offset can span.
        *to = (origin + steps.at(block, &cursor)) as u32;
        cursor.advance();
    }
}

/// Some rows and one panel of `dW`, over some pixels.
struct PieceProduct<'a> {
    pixels: Range<usize>,
    /// Of the rows.
    taps: &'a [u32],
    units: usize,
    from: *const f32,
    /// Of the pixels, from the first on.
    offsets: *const u32,
    /// The panel, from the first pixel on.
    b: *const f32,
    to: *mut f32,
    accumulate: bool,
    fetch: *mut Fetch,
}

impl Job for PieceProduct<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (width, start) = (self.units * LANES, self.pixels.start);
        let product = Indirect {
            k: self.pixels.len(),
            offsets: self.offsets.wrapping_add(start),
            b: self.b.wrapping_add(start * width),
            b_step: width,
            accumulate: self.accumulate,
            fetch: self.fetch,
        };
        let mut tile = Rows::new();
        let mut done = 0;
        for height in heights::<S>(self.taps.len(), self.units) {
            for (i, &tap) in self.taps[done..done + height].iter().enumerate() {
                tile.from[i] = self.from.wrapping_add(tap as usize);
                tile.to[i] = self.to.wrapping_add((done + i) * width);
            }
            done += height;
            // SAFETY: the caller lends operands of these sizes.
            unsafe { S::indirect_kernel(height, self.units)(&tile, &product) };
        }
    }
}

/// Adds partial sums to the gradient.
fn add_sums(
    plan: &Plan<'_>,
    sums_of: &[f32],
    copies: usize,
    copy_stride: usize,
    grad_weight: &mut [f32],
    lanes: &mut [f32],
    lane: usize,
) {
    let depth = plan.class.depth;
    let parts = depth.div_ceil(16);
    let to = SharedMut::new(grad_weight);
    for_each_task(parts, lanes, lane, |task, _| {
        let job = AddRows {
            shape: plan.shape,
            depths: part(depth, 1, parts, task),
            panels: plan.panels,
            from: sums_of.as_ptr(),
            copies,
            copy_stride,
            depth,
            to: to.at(0),
        };
        // SAFETY: these rows of the gradient are this task's.
        unsafe { plan.isa.run(job) };
    });
}

/// Adds the partial sums of some rows to the gradient.
struct AddRows<'a> {
    shape: &'a ConvShape,
    depths: Range<usize>,
    panels: Panels,
    /// `[copy][panel][depth][width]`.
    from: *const f32,
    copies: usize,
    copy_stride: usize,
    depth: usize,
    to: *mut f32,
}

impl Job for AddRows<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let shape = self.shape;
        for (first, units) in self.panels.iter() {
            let width = units * LANES;
            for row in self.depths.clone() {
                let (tap, c) = (row / shape.in_channels, row % shape.in_channels);
                let from = self.from.wrapping_add(first * self.depth + row * width);
                let to = self.to.wrapping_add((tap * shape.full_in + c) * shape.full_out + first);
                let active = width.min(shape.out_channels - first);
                let mut at = 0;
                // SAFETY: only active columns of the gradient are touched.
                unsafe {
                    while at + S::Wide::LANES <= active {
                        self.add::<S::Wide>(from.wrapping_add(at), to.wrapping_add(at), Whole);
                        at += S::Wide::LANES;
                    }
                    while at < active {
                        let access = First(LANES.min(active - at));
                        self.add::<S::Narrow>(from.wrapping_add(at), to.wrapping_add(at), access);
                        at += LANES;
                    }
                }
            }
        }
    }
}

impl AddRows<'_> {
    #[inline(always)]
    unsafe fn add<V: Vector>(&self, from: *const f32, to: *mut f32, access: impl Access) {
        // SAFETY: passed on to the caller.
        unsafe {
            let mut sum: V = access.load(from);
            for copy in 1..self.copies {
                sum = sum.add(access.load(from.wrapping_add(copy * self.copy_stride)));
            }
            access.store(sum.add(access.load(to)), to);
        }
    }
}
