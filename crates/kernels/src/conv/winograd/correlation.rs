//! Forward and data gradient.

use std::ops::Range;

use super::ahead;
use super::filter::{FilterLayout, FilterPanel, Filters, Next};
use super::grid::{Block, Grid, Tiling};
use super::input::{InputTiles, Tiles, source, source_len};
use super::layout::Layout;
use super::output::OutputTiles;
use super::padded;
use super::points::MOST_OUTPUTS;
use crate::Scratch;
use crate::conv::columns::ByColumns;
use crate::conv::epilogue::Finish;
use crate::conv::input::Reading;
use crate::conv::moments::Moments;
use crate::conv::parallel::{
    Lists, SharedMut, Shares, for_each_in_lists, for_each_task, lane_len, part,
};
use crate::conv::product::{CHUNK, Fetch, Panels, Product, Stream, multiply};
use crate::conv::simd::{Isa, Job, LANES, Simd};
use crate::norm::merge_moments;
use crate::tile::as_doubles;

/// The size that input and output maps share.
#[derive(Clone, Copy)]
pub(in crate::conv) struct Map {
    pub batch: usize,
    pub height: usize,
    pub width: usize,
}

/// Mean and biased variance of each output channel over the batch.
pub(in crate::conv) struct Statistics<'a> {
    pub mean: &'a mut [f32],
    pub var: &'a mut [f32],
}

/// Floats of `V` and `M` of one thread. Little, for the filters beside them are to stay in a core's own
/// cache from block to block.
const LANE_FLOATS: usize = 88 << 10;
/// The same where tiles are large, which have more points.
const LARGE_LANE_FLOATS: usize = 120 << 10;
/// Floats of `U` beyond which it is not kept whole.
const FILTER_FLOATS: usize = 700 << 10;
/// Floats of `U` that stay in a core's own cache beside those buffers.
const GROUP_FLOATS: usize = 290 << 10;
/// Most depth of a piece of `U` when it is not. Pieces of 64 stay in a core's own cache, but sums go to and
/// fro once for each.
const DEPTH: usize = 256;
/// Tiles that a task transforms then: few, for there are few.
const SHARED_PART: usize = 4;
/// Most tiles of a block then: their products with a panel, and `V` of a point, stay in a core's own
/// cache. Each block transforms all filters.
const SHARED_TILES: usize = 96;
/// Floats of `U` up to which large tiles pay: a point more costs a core's own cache more than the
/// products that it saves.
const LARGE_FILTER_FLOATS: usize = 200 << 10;
/// Outputs of the largest tiles where `U` is not kept whole, in one dimension.
const MANY_CHANNELS_OUTPUTS: usize = 5;

/// `output = finish(input * filters)`, both maps dense, and if wanted the output's statistics.
pub(in crate::conv) fn correlate(
    isa: Isa,
    map: Map,
    input: Reading<'_>,
    filters: Filters,
    output: &mut [f32],
    finish: Finish,
    statistics: Option<Statistics<'_>>,
    scratch: &mut Scratch,
) {
    if let Some(tiling) = few_channels(map, [filters.depth, filters.columns]) {
        by_tiles(isa, map, tiling, input, filters, output, finish, statistics, scratch);
        return;
    }
    let tiling = Tiling::large(map.height, map.width, MANY_CHANNELS_OUTPUTS);
    by_panels(isa, map, tiling, input.plain(), filters, output, finish, statistics, scratch);
}

/// The tiles of a map with few channels, of which a thread takes a block end to end.
fn few_channels(Map { height, width, .. }: Map, channels: [usize; 2]) -> Option<Tiling> {
    // As they are stored: so there are at most three groups of output channels.
    let [depth, columns] = channels.map(|n| n.next_multiple_of(LANES));
    let (large, small) = (Tiling::large(height, width, MOST_OUTPUTS), Tiling::small(height, width));
    let fits =
        |tiling: Tiling, floats| (tiling.points() * depth * columns <= floats).then_some(tiling);
    fits(large, LARGE_FILTER_FLOATS).or(fits(small, FILTER_FLOATS))
}

/// Whether [`correlate`] normalises what it reads.
pub(in crate::conv) fn normalises(map: Map, channels: [usize; 2]) -> bool {
    few_channels(map, channels).is_some()
}

/// Few channels: a thread takes a block of tiles end to end, for a group of output channels.
fn by_tiles(
    isa: Isa,
    map: Map,
    tiling: Tiling,
    input: Reading<'_>,
    filters: Filters,
    output: &mut [f32],
    finish: Finish,
    statistics: Option<Statistics<'_>>,
    scratch: &mut Scratch,
) {
    let depth = filters.depth.next_multiple_of(LANES);
    // Groups of output channels, so that a group's filters stay in a core's own cache while all tiles
    // go by. Tiles are transformed anew for each of the few groups, and threads transform filters
    // each for themselves: either is cheaper than to fetch what another core has just written. Each
    // thread stays with one group for as long as that has blocks left.
    let (side, points) = (tiling.side(), tiling.points());
    let all = points * depth * filters.columns.next_multiple_of(LANES);
    let units = filters.columns.div_ceil(LANES);
    let groups = Shares::new(filters.columns, units.div_ceil(all.div_ceil(GROUP_FLOATS).max(1)));
    let [v_layout, m_layout] = [depth, groups.widest()].map(|n| Layout::by_tile(side, n));
    let lane_floats = if tiling.is_small() { LANE_FLOATS } else { LARGE_LANE_FLOATS };
    let target = (lane_floats / (v_layout.row + m_layout.row)).clamp(8, 64);
    let grid = Grid::new(tiling, map.batch, target);

    let u_point = padded(depth * groups.widest());
    let u_len = points * u_point;
    let u_layout = FilterLayout::Dense { side, point: u_point, depth };
    let v_len = v_layout.len(grid.largest());
    let source_len = source_len(input, &grid);
    let lane = lane_len(u_len + v_len + source_len + m_layout.len(grid.largest()));
    let blocks = grid.blocks();
    let moments = if statistics.is_some() { 2 * filters.columns } else { 0 };
    // A double takes the place of two floats.
    let (partials, lanes) = scratch.split(2 * moments * blocks, lane);
    let partials = &mut as_doubles(partials)[..moments * blocks];
    let shared = SharedMut::new(partials);

    let maps = SharedMut::new(output);
    // A list of blocks for each group. They start at different blocks, lest two threads write into the
    // same lines at a time: groups meet within a line where channels are no multiple of 16.
    let lists = Lists { count: groups.count(), len: blocks };
    let block_of = |group: usize, i: usize| (i + group * blocks / groups.count()) % blocks;
    for_each_in_lists(lists, lanes, lane, None, |group, task, held, lane| {
        let (u, lane) = lane.split_at_mut(u_len);
        let at = block_of(group, task);
        let block = grid.block(at);
        let columns = groups.get(group);
        let panels = isa.panels(columns.len());
        if *held != Some(group) {
            *held = Some(group);
            for (first, units) in panels.iter() {
                let (at, layout) = u_layout.panel(first, units);
                let job = FilterPanel {
                    filters,
                    depths: 0..depth,
                    first_column: columns.start + first,
                    units,
                    to: u[at..].as_mut_ptr(),
                    layout,
                };
                // SAFETY: `U` holds `u_point` floats a point.
                unsafe { isa.run(job) };
            }
        }
        let (v, lane) = lane.split_at_mut(v_len);
        let (lines, m) = lane.split_at_mut(source_len);
        // One pointer to each for all that write and read it: with two, a write through one would invalidate the other.
        let (v, m) = (v.as_mut_ptr(), m.as_mut_ptr());
        let tiles = InputTiles(Tiles {
            block: &block,
            range: 0..block.len(),
            // SAFETY: the map has the given size, and `lines` room for what any block reads.
            from: unsafe { source(isa, input, &block, 0..filters.depth, lines.as_mut_ptr()) },
            map,
            pixel: filters.depth,
            channels: 0..filters.depth,
            to: v,
            layout: v_layout,
            fetched: true,
        });
        let next = task + 1;
        let next = (next < blocks).then(|| grid.block(block_of(group, next)));
        let width = columns.end.min(filters.columns) - columns.start;
        let mut fetch = ahead::spread(
            ahead::stream(next, input.values.as_ptr(), filters.depth, filters.depth),
            ahead::stream(next, maps.at(columns.start), filters.columns, width),
            true,
            points,
            panels.count(),
            block.len(),
            filters.depth,
        );
        let products = BlockProducts {
            block: &block,
            fetch: &mut fetch,
            depth: filters.depth,
            v,
            v_layout,
            u: u.as_ptr(),
            u_layout,
            panels,
            m,
            m_layout,
            accumulate: false,
            next: None,
        };
        let back = OutputTiles {
            block: &block,
            from: m,
            layout: m_layout,
            to: maps.at(0),
            map,
            pixel: filters.columns,
            first: columns.start,
            channels: width,
            finish,
        };
        // SAFETY: `V` and `M` have room for the largest block, the maps have the given sizes, and
        // the tiles of this block are this task's only.
        unsafe {
            isa.run(tiles);
            isa.run(products);
            isa.run(back);
        }
        if moments > 0 {
            let (x, moments) = (maps.at(0), shared.at(moments * at));
            let job = block_moments(&block, x, filters.columns, columns.start, width, moments);
            // SAFETY: these channels of these pixels are this task's, and so are their moments.
            unsafe { isa.run(job) };
        }
    });
    if let Some(Statistics { mean, var }) = statistics {
        let rows = (0..blocks).map(|i| grid.block(i).pixels().len());
        merge_moments(partials, rows, mean, var);
    }
}

/// The moments of some channels of a block's pixels, while the task that made them has them in its cache.
fn block_moments(
    block: &Block,
    map: *const f32,
    channels: usize,
    first: usize,
    count: usize,
    moments: *mut f64,
) -> ByColumns<Moments> {
    let pixels = block.pixels();
    let (x, rows) = (map.wrapping_add(pixels.start * channels), pixels.len());
    ByColumns(Moments { x, rows, channels, first, last: first + count, moments })
}

/// Many channels: a thread takes a panel of output channels, for all tiles of a chunk.
fn by_panels(
    isa: Isa,
    map: Map,
    tiling: Tiling,
    input: &[f32],
    filters: Filters,
    output: &mut [f32],
    finish: Finish,
    statistics: Option<Statistics<'_>>,
    scratch: &mut Scratch,
) {
    let grid = Grid::new(tiling, map.batch, SHARED_TILES);
    let tiles = grid.largest();
    // One panel a task: the products of all tiles stay in a core's cache. As wide as may be, for each of
    // them reads all of `V`.
    let shares = isa.panel_shares(filters.columns);
    let widest = shares.widest();
    // Pieces of whole lines, and even: 360 are 192 + 168.
    let pieces = filters.depth.div_ceil(DEPTH);
    let deepest = filters.depth.div_ceil(pieces).next_multiple_of(CHUNK);
    let piece_of = |i: usize| i * deepest..((i + 1) * deepest).min(filters.depth);

    let side = tiling.side();
    let v_layout = Layout::by_point(side, tiles, deepest);
    let u_len = deepest * Layout::by_tile(side, widest).row;
    let (v_len, m_len) = (v_layout.len(tiles), Layout::by_tile(side, widest).len(tiles));
    let lane = lane_len(u_len + m_len);
    let moments = if statistics.is_some() { 2 * filters.columns } else { 0 };
    let partials_len = (2 * moments * grid.blocks()).next_multiple_of(CHUNK);
    let (buffers, lanes) = scratch.split(partials_len + pieces * v_len, lane);
    let (partials, v) = buffers.split_at_mut(partials_len);
    let partials = &mut as_doubles(partials)[..moments * grid.blocks()];
    let sums = SharedMut::new(partials);
    let output = SharedMut::new(output);

    for i in 0..grid.blocks() {
        let block = grid.block(i);
        let parts = block.len().div_ceil(SHARED_PART);
        let shared = SharedMut::new(v);
        for_each_task(pieces * parts, lanes, lane, |task, _| {
            let (piece, at) = (task / parts, task % parts);
            let job = InputTiles(Tiles {
                block: &block,
                range: part(block.len(), 1, parts, at),
                from: input.as_ptr(),
                map,
                pixel: filters.depth,
                channels: piece_of(piece),
                to: shared.at(piece * v_len),
                layout: v_layout,
                fetched: false,
            });
            // SAFETY: each piece has room for the largest block, and these tiles' rows of it are
            // this task's.
            unsafe { isa.run(job) };
        });
        let v = &*v;

        for_each_task(shares.count(), lanes, lane, |task, lane| {
            let (u, m) = lane.split_at_mut(u_len);
            let (u, m) = (u.as_mut_ptr(), m.as_mut_ptr());
            let Range { start: first, end } = shares.get(task);
            let width = end - first;
            let units = width / LANES;
            let m_layout = Layout::by_tile(side, width);
            for piece in 0..pieces {
                let depths = piece_of(piece);
                let next = if piece + 1 < pieces {
                    Some((piece + 1, first..end))
                } else {
                    (task + 1 < shares.count()).then(|| (0, shares.get(task + 1)))
                };
                let next =
                    next.map(|(piece, columns)| Next { filters, depths: piece_of(piece), columns });
                // V, a point ahead, and before the maps are written, their lines.
                let from = piece * v_len + v_layout.point;
                let mut fetch = ahead::spread(
                    Stream::new(v[from..].as_ptr(), v_len.min(v.len() - from)),
                    if piece + 1 == pieces {
                        ahead::stream(Some(block), output.at(first), filters.columns, width)
                    } else {
                        Stream::none()
                    },
                    true,
                    tiling.points(),
                    1,
                    block.len(),
                    depths.len(),
                );
                let products = BlockProducts {
                    block: &block,
                    fetch: &mut fetch,
                    depth: depths.len(),
                    v: v[piece * v_len..].as_ptr(),
                    v_layout,
                    u,
                    u_layout: FilterLayout::ByDepth { side },
                    panels: Panels::new(width, units, 0),
                    m,
                    m_layout,
                    accumulate: piece > 0,
                    next,
                };
                let transform = FilterPanel {
                    filters,
                    depths: depths.start..depths.end.next_multiple_of(LANES),
                    first_column: first,
                    units,
                    to: u,
                    layout: Layout::by_tile(side, width),
                };
                // SAFETY: `U` and `M` have room for the widest panel.
                unsafe {
                    isa.run(transform);
                    isa.run(products);
                }
            }
            let count = width.min(filters.columns - first);
            let back = OutputTiles {
                block: &block,
                from: m,
                layout: m_layout,
                to: output.at(0),
                map,
                pixel: filters.columns,
                first,
                channels: count,
                finish,
            };
            // SAFETY: these channels of the output are this task's only.
            unsafe { isa.run(back) };
            if moments > 0 {
                let (x, moments) = (output.at(0), sums.at(moments * i));
                let job = block_moments(&block, x, filters.columns, first, count, moments);
                // SAFETY: as above, and so are their moments.
                unsafe { isa.run(job) };
            }
        });
    }
    if let Some(Statistics { mean, var }) = statistics {
        let rows = (0..grid.blocks()).map(|i| grid.block(i).pixels().len());
        merge_moments(partials, rows, mean, var);
    }
}

/// `M[tiles, columns] (+)= V[tiles, depth] * U[depth, columns]` at every point.
struct BlockProducts<'a> {
    block: &'a Block,
    fetch: *mut Fetch,
    depth: usize,
    v: *const f32,
    v_layout: Layout,
    u: *const f32,
    u_layout: FilterLayout,
    panels: Panels,
    m: *mut f32,
    m_layout: Layout,
    accumulate: bool,
    /// Whose weights are fetched meanwhile.
    next: Option<Next>,
}

impl Job for BlockProducts<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (from, to) = (self.v_layout, self.m_layout);
        for point in 0..from.points() {
            let tiles = self.block.using(point / from.side, point % from.side);
            if let Some(next) = &self.next {
                let [points, rows] = [from.points(), self.block.len()];
                // SAFETY: the caller lends it.
                unsafe {
                    ahead::a_tap_each(next, &mut *self.fetch, point, points, rows, self.depth)
                };
            }
            let v = self.v.wrapping_add(point * from.point + tiles.start * from.row);
            let m = self.m.wrapping_add(point * to.point + tiles.start * to.row);
            for (first, units) in self.panels.iter() {
                let (at, u_layout) = self.u_layout.panel(first, units);
                let product = Product {
                    k: self.depth,
                    a: v,
                    row: from.row,
                    step: 1,
                    jump: from.chunk,
                    b: self.u.wrapping_add(at + point * u_layout.point),
                    b_step: u_layout.row,
                    b_jump: u_layout.chunk,
                    c: m.wrapping_add(to.channel(first)),
                    c_row: to.row,
                    c_jump: to.chunk,
                    accumulate: self.accumulate,
                    fetch: self.fetch,
                };
                // SAFETY: the caller lends `V`, `U` and `M` of these sizes.
                unsafe { multiply::<S>(tiles.len(), units, product) };
            }
        }
    }
}
