//! Weight gradient.

use std::ops::Range;

use super::ahead;
use super::correlation::Map;
use super::grid::{Block, Grid, Tiling};
use super::input::{GradientTiles, InputTiles, Tiles, source, source_len};
use super::layout::Layout;
use super::output::FilterGradient;
use super::points::MOST_OUTPUTS;
use crate::Scratch;
use crate::conv::ConvShape;
use crate::conv::columns::{ByColumns, InputGradient};
use crate::conv::input::Reading;
use crate::conv::parallel::{SharedMut, Shares, for_each_task, lane_len, part};
use crate::conv::product::{CHUNK, Fetch, Panels, Product, Stream, multiply};
use crate::conv::simd::{Isa, Job, LANES, Simd};

/// Floats that the buffers of one thread may take to stay in its own cache.
const LANE_FLOATS: usize = 144 << 10;
/// The same where tiles are large, which have more points.
const LARGE_LANE_FLOATS: usize = 180 << 10;
/// Floats of `dU` that a task sums by itself.
const OWN_FLOATS: usize = 176 << 10;
/// Floats of `dU` that two tasks sum, each half of its rows, so that it stays in the cores' own caches.
const SPLIT_FLOATS: usize = 700 << 10;
/// Tiles of a block then, unless that is more than half of them: many, for each block reads and writes all of `dU`.
const SPLIT_TILES: usize = 64;
/// Pixels that pay for a copy of `dU`.
const COPY_PIXELS: usize = 6000;
/// Most copies of `dU`.
const COPIES: usize = 32;
/// Outputs of the largest tiles where `dU` is shared out, in one dimension.
const MANY_CHANNELS_OUTPUTS: usize = 5;
/// Floats of `V` and `Z` together when they are shared.
const SHARED_FLOATS: usize = 3 << 20;
/// Input channels of a block of `dU` when it is shared out.
const ROWS: usize = 48;
/// Its output channels, in units of [`LANES`]. Wide blocks read less of `V` and `Z`.
const SHARE: usize = 12;

/// Adds the weight gradient of a 3 x 3 convolution of stride 1 to `grad_weight`; with `norm` that for the
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
    let few = few_channels(shape);
    let maps = Maps { isa, shape, input, grad_output, fetched: few.is_some() };
    if let Some(tiling) = few {
        by_tiles(maps, tiling, norm, grad_weight, scratch);
    } else {
        assert!(norm.is_none(), "several tasks would each make the gradient of a block");
        by_blocks(maps, grad_weight, scratch);
    }
}

/// Whether one task alone transforms each block of the output's gradient, which could then be made
/// there.
pub(in crate::conv) fn takes_norm(shape: &ConvShape) -> bool {
    few_channels(shape).is_some_and(|tiling| Copies::new(tiling, shape).pieces == 1)
}

/// Whether it normalises the input that it reads.
pub(in crate::conv) fn sums_normalise(shape: &ConvShape) -> bool {
    few_channels(shape).is_some()
}

/// Floats of `dU`.
fn all_floats(tiling: Tiling, shape: &ConvShape) -> usize {
    tiling.points() * shape.in_channels * shape.out_channels.next_multiple_of(LANES)
}

/// The tiles of a shape with few channels: large ones where a task keeps all of `dU`.
fn few_channels(shape: &ConvShape) -> Option<Tiling> {
    let large = Tiling::large(shape.height, shape.width, MOST_OUTPUTS);
    let small = Tiling::small(shape.height, shape.width);
    let fits = |tiling, floats| (all_floats(tiling, shape) <= floats).then_some(tiling);
    fits(large, OWN_FLOATS).or(fits(small, SPLIT_FLOATS))
}

/// How the tiles of a shape with few channels are shared out.
struct Copies {
    grid: Grid,
    /// Copies of `dU`, each of which sums a range of the grid's blocks.
    count: usize,
    /// Parts of a copy's rows, each a task that transforms the output's gradient for itself: where a
    /// copy is large, and where there are more threads than copies. The sums are the same in any case.
    pieces: usize,
}

impl Copies {
    fn new(tiling: Tiling, shape: &ConvShape) -> Self {
        let floats = |channels: usize| tiling.points() * channels.next_multiple_of(CHUNK);
        let per_tile = floats(shape.in_channels) + floats(shape.out_channels);
        let split = all_floats(tiling, shape) > OWN_FLOATS;
        let lane_floats = if tiling.is_small() { LANE_FLOATS } else { LARGE_LANE_FLOATS };
        let target = if split {
            SPLIT_TILES.min((shape.batch * tiling.tiles()).div_ceil(2))
        } else {
            (lane_floats / per_tile).clamp(24, 64)
        };
        let grid = Grid::new(tiling, shape.batch, target);
        // Powers of two spread evenly over threads.
        let (count, least) = if split {
            (2, 2)
        } else {
            let pixels = shape.batch * shape.height * shape.width;
            let count = (pixels / COPY_PIXELS).clamp(1, COPIES);
            (count.next_power_of_two(), 1)
        };
        let count = count.min(grid.blocks());
        let threads = rayon::current_num_threads();
        let pieces = threads.div_ceil(count).max(least).min(shape.in_channels.div_ceil(CHUNK));
        Self { grid, count, pieces }
    }
}

/// Few channels: a task takes a range of tiles, and sums its own copy of `dU`.
fn by_tiles(
    maps: Maps<'_>,
    tiling: Tiling,
    norm: Option<InputGradient>,
    grad_weight: &mut [f32],
    scratch: &mut Scratch,
) {
    let Maps { isa, shape, .. } = maps;
    let panels = isa.panels(shape.out_channels);
    let Copies { grid, count: copies, pieces } = Copies::new(tiling, shape);
    assert!(norm.is_none() || pieces == 1, "several tasks would each make the gradient of a block");

    // The sums run over tiles, so a channel's tiles had better be neighbours, and so had the rows of
    // `dU` at a point, which every block reads and writes: in order, on few pages, on whole lines.
    let side = grid.tiling.side();
    let v_layout = Layout::by_chunk(side, grid.largest(), shape.in_channels);
    let z_layout = Layout::by_chunk(side, grid.largest(), panels.columns());
    let u_layout =
        Layout::by_point(side, shape.in_channels, panels.columns().next_multiple_of(CHUNK));
    let (v_len, u_len) = (v_layout.len(grid.largest()), u_layout.len(shape.in_channels));
    let source_len = source_len(maps.input, &grid);
    let lane = lane_len(v_len + source_len + z_layout.len(grid.largest()));
    let (u, lanes) = scratch.split(copies * u_len, lane);

    let shared = SharedMut::new(u);
    for_each_task(copies * pieces, lanes, lane, |task, lane| {
        let (copy, piece) = (task / pieces, task % pieces);
        let (v, lane) = lane.split_at_mut(v_len);
        let (lines, z) = lane.split_at_mut(source_len);
        // One pointer to each for all that write and read it: with two, a write through one would invalidate the other.
        let (v, lines, z) = (v.as_mut_ptr(), lines.as_mut_ptr(), z.as_mut_ptr());
        let channels = part(shape.in_channels, CHUNK, pieces, piece);
        let blocks = part(grid.blocks(), 1, copies, copy);
        for i in blocks.clone() {
            let block = grid.block(i);
            // The next copy starts where this one ends.
            let next = (i + 1 < grid.blocks()).then(|| grid.block(i + 1));
            let mut fetch = ahead::spread(
                ahead::stream(
                    next,
                    maps.input.values.as_ptr(),
                    shape.in_channels,
                    shape.in_channels,
                ),
                ahead::stream(next, maps.grad_output, shape.out_channels, shape.out_channels),
                false,
                grid.tiling.points(),
                panels.count(),
                channels.len(),
                block.len(),
            );
            if let Some(norm) = norm {
                let (out, grad) = (shape.out_channels, norm.grad);
                fetch = fetch.also(ahead::stream(next, grad, out, out));
            }
            let products = BlockProducts {
                block: &block,
                fetch: &mut fetch,
                rows: channels.len(),
                v,
                v_layout,
                z,
                z_layout,
                panels,
                u: shared.at(copy * u_len + channels.start * u_layout.row),
                u_layout,
                accumulate: i > blocks.start,
            };
            let tiles = 0..block.len();
            let columns = 0..shape.out_channels;
            // SAFETY: `V` and `Z` have room for the largest block, `lines` for what any reads, and these rows of this copy of
            // `dU` are this task's only. So are the block's pixels where they are made: pieces are one.
            unsafe {
                if let Some(norm) = norm {
                    isa.run(ByColumns(norm.part(block.pixels())));
                }
                let from = source(isa, maps.input, &block, channels.clone(), lines);
                isa.run(maps.input(from, &block, tiles.clone(), channels.clone(), v, v_layout));
                isa.run(maps.gradient(&block, tiles, columns, z, z_layout));
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
            from: u[rows.start * u_layout.row..].as_ptr(),
            copies,
            copy_stride: u_len,
            layout: u_layout,
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
fn by_blocks(maps: Maps<'_>, grad_weight: &mut [f32], scratch: &mut Scratch) {
    let Maps { isa, shape, input, .. } = maps;
    let input = input.plain();
    let shares = Shares::new(shape.out_channels, SHARE);
    let depth = shape.in_channels.next_multiple_of(LANES);
    let all_columns = shape.out_channels.next_multiple_of(LANES);
    let tiling = Tiling::large(shape.height, shape.width, MANY_CHANNELS_OUTPUTS);
    let (side, points) = (tiling.side(), tiling.points());
    let target = (SHARED_FLOATS / (points * (depth + all_columns))).max(32);
    let grid = Grid::new(tiling, shape.batch, target);
    let pieces = shape.in_channels.div_ceil(ROWS);

    let tiles = grid.largest();
    let v_layout = Layout::by_point(side, tiles, ROWS);
    let z_point = Layout::by_point(side, tiles, all_columns).point;
    let lane = lane_len(Layout::by_tile(side, shares.widest()).len(ROWS));
    let v_len = v_layout.len(tiles);
    let z_start = pieces * v_len;
    let (shared, lanes) = scratch.split(z_start + points * z_point, lane);
    let to = SharedMut::new(grad_weight);

    for block in (0..grid.blocks()).map(|i| grid.block(i)) {
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
                    let (input, to) = (input.as_ptr(), writer.at(piece * v_len));
                    isa.run(maps.input(input, &block, range, channels, to, v_layout));
                    return;
                }
                for columns in (0..shares.count()).map(|i| shares.get(i)) {
                    let to = writer.at(z_start + tiles * columns.start);
                    let layout = Layout { side, point: z_point, row: columns.len(), chunk: CHUNK };
                    let columns = columns.start..columns.end.min(shape.out_channels);
                    isa.run(maps.gradient(&block, range.clone(), columns, to, layout));
                }
            }
        });
        let (v, z) = shared.split_at(z_start);

        for_each_task(pieces * shares.count(), lanes, lane, |task, u| {
            let (piece, columns) = (task % pieces, shares.get(task / pieces));
            let rows = piece * ROWS..((piece + 1) * ROWS).min(shape.in_channels);
            let u_layout = Layout::by_tile(side, columns.len());
            let u = u.as_mut_ptr();
            // Both operands, a point ahead.
            let (v, z) = (&v[piece * v_len..(piece + 1) * v_len], &z[tiles * columns.start..]);
            let z_ahead = Stream::stretches(
                z[z_point..].as_ptr(),
                points - 1,
                block.len() * columns.len(),
                z_point,
            );
            let mut fetch = ahead::spread(
                Stream::new(v[v_layout.point..].as_ptr(), v_len - v_layout.point),
                z_ahead,
                false,
                points,
                isa.panels(columns.len()).count(),
                rows.len(),
                block.len(),
            );
            let products = BlockProducts {
                block: &block,
                fetch: &mut fetch,
                rows: rows.len(),
                v: v.as_ptr(),
                v_layout,
                z: z.as_ptr(),
                z_layout: Layout { side, point: z_point, row: columns.len(), chunk: CHUNK },
                panels: isa.panels(columns.len()),
                u,
                u_layout,
                accumulate: false,
            };
            let back = FilterGradient {
                from: u,
                copies: 1,
                copy_stride: 0,
                layout: u_layout,
                rows,
                first_column: columns.start,
                columns: columns.end.min(shape.out_channels) - columns.start,
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

/// The two maps that tiles are read from.
#[derive(Clone, Copy)]
struct Maps<'a> {
    isa: Isa,
    shape: &'a ConvShape,
    input: Reading<'a>,
    /// Of the output's size.
    grad_output: *const f32,
    /// Whether products fetch both.
    fetched: bool,
}

// SAFETY: the gradient is a slice that outlives the call. It is only read, but for a block's pixels by the
// one task that has the block.
unsafe impl Send for Maps<'_> {}
// SAFETY: as above.
unsafe impl Sync for Maps<'_> {}

impl<'a> Maps<'a> {
    /// Tiles of what [`source`] makes of the input.
    fn input(
        &self,
        from: *const f32,
        block: &'a Block,
        range: Range<usize>,
        channels: Range<usize>,
        to: *mut f32,
        layout: Layout,
    ) -> InputTiles<'a> {
        let map =
            Map { batch: self.shape.batch, height: self.shape.height, width: self.shape.width };
        let (pixel, fetched) = (self.shape.in_channels, self.fetched);
        InputTiles(Tiles { block, range, from, map, pixel, channels, to, layout, fetched })
    }

    fn gradient(
        &self,
        block: &'a Block,
        range: Range<usize>,
        channels: Range<usize>,
        to: *mut f32,
        layout: Layout,
    ) -> GradientTiles<'a> {
        let map =
            Map { batch: self.shape.batch, height: self.shape.height, width: self.shape.width };
        let (from, pixel) = (self.grad_output, self.shape.out_channels);
        let fetched = self.fetched;
        GradientTiles(Tiles { block, range, from, map, pixel, channels, to, layout, fetched })
    }
}

/// `dU[in, out] (+)= V^T[in, tiles] * Z[tiles, out]` at every point.
struct BlockProducts<'a> {
    block: &'a Block,
    fetch: *mut Fetch,
    rows: usize,
    v: *const f32,
    v_layout: Layout,
    z: *const f32,
    z_layout: Layout,
    panels: Panels,
    u: *mut f32,
    u_layout: Layout,
    accumulate: bool,
}

impl Job for BlockProducts<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (from, with, to) = (self.v_layout, self.z_layout, self.u_layout);
        for point in 0..from.points() {
            let tiles = self.block.using(point / from.side, point % from.side);
            let v = self.v.wrapping_add(point * from.point + tiles.start * from.row);
            let z = self.z.wrapping_add(point * with.point + tiles.start * with.row);
            let u = self.u.wrapping_add(point * to.point);
            for (first, units) in self.panels.iter() {
                // Rows of `V^T` are neighbours within a chunk only.
                for row in (0..self.rows).step_by(CHUNK) {
                    let product = Product {
                        k: tiles.len(),
                        a: v.wrapping_add(from.channel(row)),
                        row: 1,
                        step: from.row,
                        jump: CHUNK * from.row,
                        b: z.wrapping_add(with.channel(first)),
                        b_step: with.row,
                        b_jump: with.chunk,
                        c: u.wrapping_add(row * to.row + to.channel(first)),
                        c_row: to.row,
                        c_jump: to.chunk,
                        accumulate: self.accumulate,
                        fetch: self.fetch,
                    };
                    // SAFETY: the caller lends `V`, `Z` and `dU` of these sizes.
                    unsafe { multiply::<S>(CHUNK.min(self.rows - row), units, product) };
                }
            }
        }
    }
}
