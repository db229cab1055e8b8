//! Weight gradient.

use super::correlation::Map;
use super::grid::{Block, Grid};
use super::input::{GradientTiles, InputTiles};
use super::output::FilterGradient;
use super::points::POINTS;
use super::{ALL_POINTS, padded_point, padded_row};
use crate::Scratch;
use crate::conv::ConvShape;
use crate::conv::parallel::{SharedMut, for_each_task, lane_len, part};
use crate::conv::product::{Product, multiply};
use crate::conv::simd::{Isa, Job, LANES, Simd};

/// Floats that the buffers of one thread may take to stay in its own cache.
const LANE_FLOATS: usize = 200 << 10;
/// Floats of `dU` beyond which threads do not each sum their own.
const OWN_FLOATS: usize = 170 << 10;
/// Floats of `V` and `Z` together when they are shared.
const SHARED_FLOATS: usize = 3 << 20;
/// Input channels of a block of `dU` when it is shared out.
const ROWS: usize = 64;

/// Adds the weight gradient of a 3 x 3 convolution of stride 1 to `grad_weight`.
pub(in crate::conv) fn weight_gradient(
    isa: Isa,
    shape: &ConvShape,
    input: &[f32],
    grad_output: &[f32],
    grad_weight: &mut [f32],
    scratch: &mut Scratch,
) {
    let map = Map { batch: shape.batch, height: shape.height, width: shape.width };
    let columns = shape.out_channels.next_multiple_of(LANES);
    if ALL_POINTS * shape.in_channels * columns <= OWN_FLOATS {
        by_tiles(isa, shape, map, input, grad_output, grad_weight, scratch);
    } else {
        by_blocks(isa, shape, map, input, grad_output, grad_weight, scratch);
    }
}

/// Few channels: a thread takes a range of tiles and sums its own `dU`.
fn by_tiles(
    isa: Isa,
    shape: &ConvShape,
    map: Map,
    input: &[f32],
    grad_output: &[f32],
    grad_weight: &mut [f32],
    scratch: &mut Scratch,
) {
    let panels = isa.panels(shape.out_channels);
    let v_row = padded_row(shape.in_channels.next_multiple_of(LANES));
    let columns = panels.columns();
    let target = (LANE_FLOATS / (ALL_POINTS * (v_row + columns))).clamp(32, 64);
    let grid = Grid::new(map.batch, map.height, map.width, target);
    // A copy of dU costs about as much to sum up as 8 tiles; powers of two spread evenly.
    let copies = (grid.blocks() * grid.largest() / 200)
        .clamp(1, grid.blocks())
        .next_power_of_two()
        .min(32)
        .min(grid.blocks());

    let (v_point, z_point) =
        (padded_point(grid.largest() * v_row), padded_point(grid.largest() * columns));
    let u_point = padded_point(shape.in_channels * columns);
    let lane = lane_len(ALL_POINTS * (v_point + z_point));
    let (u, lanes) = scratch.split(copies * ALL_POINTS * u_point, lane);

    let shared = SharedMut::new(u);
    for_each_task(copies, lanes, lane, |copy, lane| {
        let (v, z) = lane.split_at_mut(ALL_POINTS * v_point);
        let blocks = part(grid.blocks(), 1, copies, copy);
        for i in blocks.clone() {
            let block = grid.block(i);
            let buffers = Buffers { isa, shape, block: &block, input, grad_output };
            let products = BlockProducts {
                block: &block,
                rows: shape.in_channels,
                v: v.as_ptr(),
                v_point,
                v_row,
                z: z.as_ptr(),
                z_point,
                z_tiles: grid.largest(),
                panels,
                panel_range: (0, panels.count()),
                u: shared.at(copy * ALL_POINTS * u_point),
                u_point,
                u_row: columns,
                accumulate: i > blocks.start,
            };
            // SAFETY: `V` and `Z` have room for the largest block, and this copy of `dU` is this
            // task's only.
            unsafe {
                isa.run(buffers.input_tiles(
                    0..block.len(),
                    0..shape.in_channels,
                    v.as_mut_ptr(),
                    v_point,
                    v_row,
                ));
                isa.run(buffers.gradient_tiles(
                    0..block.len(),
                    z.as_mut_ptr(),
                    z_point,
                    grid.largest(),
                ));
                isa.run(products);
            }
        }
    });
    let u = &*u;

    let parts = shape.in_channels.div_ceil(8);
    let to = SharedMut::new(grad_weight);
    for_each_task(parts, lanes, lane, |task, _| {
        let rows = part(shape.in_channels, 1, parts, task);
        let job = FilterGradient {
            from: u[rows.start * columns..].as_ptr(),
            copies,
            copy_stride: ALL_POINTS * u_point,
            point_stride: u_point,
            row_stride: columns,
            rows,
            first_column: 0,
            columns: shape.out_channels,
            to: to.at(0),
            tap_stride: shape.full_in * shape.full_out,
            full_out: shape.full_out,
        };
        // SAFETY: these rows of the gradient are this task's only.
        unsafe { isa.run(job) };
    });
}

/// Many channels: `V` and `Z` of a chunk of tiles are shared, a thread takes a block of `dU` and
/// adds it to the gradient before the next chunk.
fn by_blocks(
    isa: Isa,
    shape: &ConvShape,
    map: Map,
    input: &[f32],
    grad_output: &[f32],
    grad_weight: &mut [f32],
    scratch: &mut Scratch,
) {
    let panels = isa.panels(shape.out_channels);
    let widest = panels.iter().map(|(_, units)| units).max().unwrap_or(0) * LANES;
    let depth = shape.in_channels.next_multiple_of(LANES);
    let target = (SHARED_FLOATS / (ALL_POINTS * (depth + panels.columns()))).max(32);
    let grid = Grid::new(map.batch, map.height, map.width, target);
    let pieces = shape.in_channels.div_ceil(ROWS);

    let tiles = grid.largest();
    let v_point = padded_point(tiles * ROWS);
    let z_point = padded_point(tiles * panels.columns());
    let u_point = padded_point(ROWS * widest);
    let lane = lane_len(ALL_POINTS * u_point);
    let v_len = pieces * ALL_POINTS * v_point;
    let (shared, lanes) = scratch.split(v_len + ALL_POINTS * z_point, lane);
    let to = SharedMut::new(grad_weight);

    for block in (0..grid.blocks()).map(|i| grid.block(i)) {
        let buffers = Buffers { isa, shape, block: &block, input, grad_output };
        let parts = block.len().div_ceil(16);
        let writer = SharedMut::new(shared);
        for_each_task((pieces + 1) * parts, lanes, lane, |task, _| {
            let (piece, at) = (task / parts, task % parts);
            let range = part(block.len(), 1, parts, at);
            // SAFETY: the buffers have room for the largest block, and these tiles' rows of them
            // are this task's.
            unsafe {
                if piece < pieces {
                    let channels = piece * ROWS..((piece + 1) * ROWS).min(shape.in_channels);
                    let to = writer.at(piece * ALL_POINTS * v_point);
                    isa.run(buffers.input_tiles(range, channels, to, v_point, ROWS));
                } else {
                    isa.run(buffers.gradient_tiles(range, writer.at(v_len), z_point, tiles));
                }
            }
        });
        let (v, z) = shared.split_at(v_len);

        for_each_task(pieces * panels.count(), lanes, lane, |task, u| {
            let (piece, panel) = (task % pieces, task / pieces);
            let (first, units) = panels.get(panel);
            let rows = piece * ROWS..((piece + 1) * ROWS).min(shape.in_channels);
            let products = BlockProducts {
                block: &block,
                rows: rows.len(),
                v: v[piece * ALL_POINTS * v_point..].as_ptr(),
                v_point,
                v_row: ROWS,
                z: z.as_ptr(),
                z_point,
                z_tiles: tiles,
                panels,
                panel_range: (panel, panel + 1),
                u: u.as_mut_ptr(),
                u_point,
                u_row: units * LANES,
                accumulate: false,
            };
            let back = FilterGradient {
                from: u.as_ptr(),
                copies: 1,
                copy_stride: 0,
                point_stride: u_point,
                row_stride: units * LANES,
                rows,
                first_column: first,
                columns: (units * LANES).min(shape.out_channels - first),
                to: to.at(0),
                tap_stride: shape.full_in * shape.full_out,
                full_out: shape.full_out,
            };
            // SAFETY: the lane has room for a block of `dU`, and this block of the gradient is
            // this task's only.
            unsafe {
                isa.run(products);
                isa.run(back);
            }
        });
    }
}

/// The two maps that a block of tiles is read from.
struct Buffers<'a> {
    isa: Isa,
    shape: &'a ConvShape,
    block: &'a Block,
    input: &'a [f32],
    grad_output: &'a [f32],
}

impl<'a> Buffers<'a> {
    fn input_tiles(
        &self,
        tiles: std::ops::Range<usize>,
        channels: std::ops::Range<usize>,
        to: *mut f32,
        point_stride: usize,
        row: usize,
    ) -> InputTiles<'a> {
        InputTiles {
            block: self.block,
            tiles,
            from: self.input.as_ptr(),
            height: self.shape.height,
            width: self.shape.width,
            pixel: self.shape.in_channels,
            channels,
            to,
            point_stride,
            row,
        }
    }

    fn gradient_tiles(
        &self,
        range: std::ops::Range<usize>,
        to: *mut f32,
        point_stride: usize,
        tiles: usize,
    ) -> GradientTiles<'a> {
        GradientTiles {
            block: self.block,
            range,
            from: self.grad_output.as_ptr(),
            height: self.shape.height,
            width: self.shape.width,
            channels: self.shape.out_channels,
            panels: self.isa.panels(self.shape.out_channels),
            to,
            point_stride,
            tiles,
        }
    }
}

/// `dU[in, out] (+)= V^T[in, tiles] * Z[tiles, out]` at every point, for some panels.
struct BlockProducts<'a> {
    block: &'a Block,
    rows: usize,
    v: *const f32,
    v_point: usize,
    v_row: usize,
    z: *const f32,
    z_point: usize,
    /// Tiles that a panel of `Z` holds.
    z_tiles: usize,
    panels: crate::conv::product::Panels,
    panel_range: (usize, usize),
    /// The first column of the first of the panels.
    u: *mut f32,
    u_point: usize,
    u_row: usize,
    accumulate: bool,
}

impl Job for BlockProducts<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (origin, _) = self.panels.get(self.panel_range.0);
        for point in 0..ALL_POINTS {
            let tiles = self.block.using(point / POINTS, point % POINTS);
            let v = self.v.wrapping_add(point * self.v_point + tiles.start * self.v_row);
            let z = self.z.wrapping_add(point * self.z_point);
            let u = self.u.wrapping_add(point * self.u_point);
            for panel in self.panel_range.0..self.panel_range.1 {
                let (first, units) = self.panels.get(panel);
                let start = first * self.z_tiles + tiles.start * units * LANES;
                let product = Product {
                    k: tiles.len(),
                    a: v,
                    row: 1,
                    step: self.v_row,
                    b: z.wrapping_add(start),
                    c: u.wrapping_add(first - origin),
                    stride: self.u_row,
                    accumulate: self.accumulate,
                };
                // SAFETY: the caller lends `V`, `Z` and `dU` of these sizes.
                unsafe { multiply::<S>(self.rows, units, product) };
            }
        }
    }
}
