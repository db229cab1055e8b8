//! Weight gradient: `dW[taps * in, out] += A^T[taps * in, pixels] * dY[pixels, out]`, where row `p`
//! of `A` is what output pixel `p` gathered.
//!
//! Chunk by chunk of pixels, both operands are laid out once for all threads; then a thread takes a
//! piece of `A`'s columns and a panel of `dY`'s. If these make too few tasks, as in a stem, the
//! pixels are split as well and the partial sums added in order.

use std::ops::Range;

use super::gather::{GatherRows, PanelRows};
use super::{Map, Taps};
use crate::Scratch;
use crate::conv::ConvShape;
use crate::conv::parallel::{SharedMut, for_each_task, lane_len, part};
use crate::conv::product::{CHUNK, Panels, Product, multiply};
use crate::conv::simd::{Access, First, Isa, Job, LANES, Simd, Vector, Whole};

/// Floats of `A` in a chunk.
const CHUNK_FLOATS: usize = 1 << 20;
/// Widest piece of `A`'s columns.
const PIECE: usize = 64;
/// Pixels whose part of a panel stays in a core's cache.
const PIXELS: usize = 1024;
/// Least tasks that a chunk should make.
const TASKS: usize = 16;

/// Adds to `grad_weight`.
pub(in crate::conv) fn weight_gradient(
    isa: Isa,
    shape: &ConvShape,
    input: &[f32],
    grad_output: &[f32],
    grad_weight: &mut [f32],
    scratch: &mut Scratch,
) {
    let map = Map {
        batch: shape.batch,
        height: shape.height,
        width: shape.width,
        channels: shape.in_channels,
    };
    let (lines, positions) = (shape.out_height(), shape.out_width());
    let total = shape.batch * lines * positions;
    let taps = Taps::forward(shape.kernel, shape.stride);
    let depth = taps.count * taps.count * shape.in_channels;
    let panels = isa.panels(shape.out_channels);
    let columns = panels.columns();

    let piece = PIECE.min(depth.next_multiple_of(LANES));
    let pieces = depth.div_ceil(piece);
    let chunk = (CHUNK_FLOATS / depth).clamp(256, 1 << 15).min(total);
    // Even chunks.
    let chunks = total.div_ceil(chunk);
    let chunk = total.div_ceil(chunks);
    let tiles = pieces * panels.count();
    let splits = TASKS.div_ceil(tiles).min(chunk.div_ceil(64));

    let piece_stride = chunk * piece + 16;
    let (a_len, b_len) = (pieces * piece_stride, chunk * columns);
    let sums = pieces * piece * columns;
    let lane = lane_len(0);
    let (shared, lanes) = scratch.split((a_len + b_len).next_multiple_of(16) + splits * sums, lane);
    let (operands, sums_of) = shared.split_at_mut((a_len + b_len).next_multiple_of(16));
    let to = SharedMut::new(grad_weight);

    for i in 0..chunks {
        let pixels = part(total, 1, chunks, i);
        let parts = pixels.len().div_ceil(128);
        let writer = SharedMut::new(operands);
        for_each_task(parts, lanes, lane, |task, _| {
            let rows = part(pixels.len(), 1, parts, task);
            let here = pixels.start + rows.start..pixels.start + rows.end;
            let gather = GatherRows {
                from: input.as_ptr(),
                map,
                vertical: taps,
                horizontal: taps,
                lines,
                positions,
                rows: here.clone(),
                to: writer.at(rows.start * piece),
                piece,
                piece_stride,
            };
            // SAFETY: the operands have room for a chunk, and these pixels' rows of `A` are this
            // task's.
            unsafe { isa.run(gather) };
            for (first, units) in panels.iter() {
                let one = PanelRows {
                    from: grad_output.as_ptr().wrapping_add(first),
                    stride: shape.out_channels,
                    columns: (units * LANES).min(shape.out_channels - first),
                    width: units * LANES,
                    rows: here.clone(),
                    to: writer.at(a_len + chunk * first + rows.start * units * LANES),
                };
                // SAFETY: as above, for the panels.
                unsafe { isa.run(one) };
            }
        });
        let (a, b) = operands.split_at(a_len);

        let writer = SharedMut::new(sums_of);
        for_each_task(tiles * splits, lanes, lane, |task, _| {
            let (split, tile) = (task / tiles, task % tiles);
            let (p, panel) = (tile % pieces, tile / pieces);
            let (first, units) = panels.get(panel);
            let job = TileProduct {
                pixels: part(pixels.len(), 1, splits, split),
                rows: piece.min(depth - p * piece),
                units,
                a: a[p * piece_stride..].as_ptr(),
                a_row: piece,
                b: b[chunk * first..].as_ptr(),
                c: writer.at(split * sums + first * pieces * piece + p * piece * units * LANES),
            };
            // SAFETY: this tile of this partial sum is this task's.
            unsafe { isa.run(job) };
        });
        let sums_of = &*sums_of;

        for_each_task(pieces, lanes, lane, |p, _| {
            let job = AddRows {
                shape,
                depths: p * piece..((p + 1) * piece).min(depth),
                panels,
                from: sums_of.as_ptr(),
                splits,
                split_stride: sums,
                padded_depth: pieces * piece,
                to: to.at(0),
            };
            // SAFETY: these rows of the gradient are this task's.
            unsafe { isa.run(job) };
        });
    }
}

/// `C[rows, width] = A^T * B` over some pixels.
struct TileProduct {
    pixels: Range<usize>,
    rows: usize,
    units: usize,
    a: *const f32,
    a_row: usize,
    b: *const f32,
    c: *mut f32,
}

impl Job for TileProduct {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let width = self.units * LANES;
        let mut start = self.pixels.start;
        loop {
            let end = (start + PIXELS).min(self.pixels.end);
            let product = Product {
                k: end - start,
                a: self.a.wrapping_add(start * self.a_row),
                row: 1,
                step: self.a_row,
                jump: CHUNK * self.a_row,
                b: self.b.wrapping_add(start * width),
                b_step: width,
                b_jump: CHUNK,
                c: self.c,
                c_row: width,
                c_jump: CHUNK,
                accumulate: start > self.pixels.start,
                fetch: std::ptr::null_mut(),
            };
            // SAFETY: the caller lends matrices of these sizes.
            unsafe { multiply::<S>(self.rows, self.units, product) };
            start = end;
            if start >= self.pixels.end {
                break;
            }
        }
    }
}

/// Adds the partial sums of some rows to the gradient.
struct AddRows<'a> {
    shape: &'a ConvShape,
    depths: Range<usize>,
    panels: Panels,
    /// `[split][panel][depth][width]`.
    from: *const f32,
    splits: usize,
    split_stride: usize,
    padded_depth: usize,
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
                let from = self.from.wrapping_add(first * self.padded_depth + row * width);
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
            for split in 1..self.splits {
                sum = sum.add(access.load(from.wrapping_add(split * self.split_stride)));
            }
            access.store(sum.add(access.load(to)), to);
        }
    }
}
