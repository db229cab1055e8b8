//! Into the Winograd domain: `V = B^T d B` for input tiles, `Z = A dy A^T` for output gradients.

use std::ops::Range;

use super::correlation::Map;
use super::grid::{Block, Grid, Tile};
use super::layout::{Distance, Layout};
use super::points::MOST_POINTS;
use super::separable::{Column, Gradient, Input, Sink, Transform, transform};
use crate::conv::columns::{ByColumns, Normalise};
use crate::conv::input::{InputNorm, Reading};
use crate::conv::product::CHUNK;
use crate::conv::simd::{First, Isa, Job, LANES, Simd, Vector, Whole};

/// What stands for a pixel outside the map.
static ZEROS: [f32; 16] = [0.0; 16];

/// Where [`Tiles`] of a block find some channels of what they read: in the map itself, or, normalised, in `to`. Then the address is
/// one that the map would have if it were all there, and only the pixels that the block [reads](Block::reads) are.
///
/// # Safety
/// The block is of `reading`'s map, and, if it is normalised, `to` has [room](source_len) for it and is left alone while tiles
/// read.
pub(super) unsafe fn source(
    isa: Isa,
    reading: Reading<'_>,
    block: &Block,
    channels: Range<usize>,
    to: *mut f32,
) -> *const f32 {
    let Reading { values, norm } = reading;
    let Some(norm) = norm else { return values.as_ptr() };
    let pixels = block.reads();
    let first = pixels.start * norm.mean.len();
    let x = values[first..].as_ptr();
    // SAFETY: passed on to the caller.
    unsafe { isa.run(ByColumns(Normalise { norm, x, to, rows: pixels.len(), range: channels })) };
    to.wrapping_sub(first)
}

/// Floats of room for it.
pub(super) fn source_len(reading: Reading<'_>, grid: &Grid) -> usize {
    let len = |norm: InputNorm<'_>| (grid.most_read() * norm.mean.len()).next_multiple_of(16);
    reading.norm.map_or(0, len)
}

/// Some tiles of a block, some channels of them, and where they go.
///
/// Channel `channels.start` becomes the layout's channel 0; channels are padded with zeros to a
/// multiple of [`LANES`].
#[derive(Clone)]
pub(super) struct Tiles<'a> {
    pub block: &'a Block,
    /// Which tiles of the block.
    pub range: Range<usize>,
    /// The map, `[image][height][width][pixel]`; input tiles may have it from [`source`].
    pub from: *const f32,
    pub map: Map,
    pub pixel: usize,
    pub channels: Range<usize>,
    pub to: *mut f32,
    pub layout: Layout,
    /// Whether the pixels are in a core's own cache.
    pub fetched: bool,
}

/// From the channels of a tile that are read to those that are fetched meanwhile: a tile's pixels are in more places than a
/// processor keeps track of.
const AHEAD: usize = 2 * CHUNK;

/// `V`: the pixels under each tile, two more a side than it has outputs.
#[derive(Clone)]
pub(super) struct InputTiles<'a>(pub Tiles<'a>);

/// `Z`: the pixels of each tile.
#[derive(Clone)]
pub(super) struct GradientTiles<'a>(pub Tiles<'a>);

impl Job for InputTiles<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: passed on from the caller.
        unsafe {
            if self.0.layout.point == CHUNK {
                self.tiles::<S, _>(self.0.layout.near());
            } else {
                self.tiles::<S, _>(self.0.layout.far());
            }
        }
    }
}

impl Job for GradientTiles<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: passed on from the caller.
        unsafe {
            if self.0.layout.point == CHUNK {
                self.tiles::<S, _>(self.0.layout.near());
            } else {
                self.tiles::<S, _>(self.0.layout.far());
            }
        }
    }
}

impl InputTiles<'_> {
    #[inline(always)]
    unsafe fn tiles<S: Simd, D: Distance>(&self, distance: D) {
        let Tiles { block, map: Map { height, width, .. }, pixel, .. } = self.0;
        let line = width * pixel;
        for (t, tile) in block.tiles(self.0.range.clone()) {
            let start = self.0.start(tile).wrapping_sub(line + pixel);
            // No tile reaches further than one pixel over a side.
            let (top, bottom) = (tile.y == 0, tile.y + tile.height == height);
            let (left, right) = (tile.x == 0, tile.x + tile.width == width);
            let end = [tile.height, tile.width].map(|outputs| outputs + 1);
            let column = |j: usize, c: usize| {
                if (left && j == 0) || (right && j == end[1]) {
                    return Column::new(ZEROS.as_ptr(), 0, end[0] + 1);
                }
                let column = Column::new(start.wrapping_add(j * pixel + c), line, end[0] + 1);
                Column {
                    first: if top { ZEROS.as_ptr() } else { column.first },
                    last: if bottom { ZEROS.as_ptr() } else { column.last },
                    ..column
                }
            };
            // SAFETY: passed on from the caller.
            unsafe { self.0.channels::<S, Input, D>(t, tile, column, distance) };
        }
    }
}

impl GradientTiles<'_> {
    #[inline(always)]
    unsafe fn tiles<S: Simd, D: Distance>(&self, distance: D) {
        let Tiles { block, map, pixel, .. } = self.0;
        for (t, tile) in block.tiles(self.0.range.clone()) {
            let start = self.0.start(tile);
            let column = |j: usize, c: usize| {
                Column::new(start.wrapping_add(j * pixel + c), map.width * pixel, tile.height)
            };
            // SAFETY: passed on from the caller; only the tile's own pixels are read.
            unsafe { self.0.channels::<S, Gradient, D>(t, tile, column, distance) };
        }
    }
}

impl Tiles<'_> {
    /// The tile's first pixel.
    #[inline(always)]
    fn start(&self, tile: Tile) -> *const f32 {
        let Map { height, width, .. } = self.map;
        let pixel = (tile.image * height + tile.y) * width + tile.x;
        self.from.wrapping_add(pixel * self.pixel)
    }

    /// Transforms tile `t` of the block, whose `column(j, c)` is column `j` of channel `c`.
    #[inline(always)]
    unsafe fn channels<S: Simd, T: Transform, D: Distance>(
        &self,
        t: usize,
        tile: Tile,
        column: impl Fn(usize, usize) -> Column,
        distance: D,
    ) {
        let size = [tile.height, tile.width];
        let Range { start, end } = self.channels;
        let mut c = start;
        // SAFETY: a whole vector of channels is left in the pixels, or `end - c`; they go to the
        // tile's own row.
        unsafe {
            while c + S::Wide::LANES <= end {
                if !self.fetched && (c - start).is_multiple_of(CHUNK) {
                    for column in (0..T::read(tile.width)).map(|j| column(j, c + AHEAD)) {
                        for i in 0..T::read(tile.height) {
                            S::prefetch(column.start.wrapping_add(i * column.line));
                        }
                    }
                }
                let sink = self.points(t, c - start, distance);
                transform::<S::Wide, T>(size, Whole, |j| column(j, c), sink);
                c += S::Wide::LANES;
            }
            while c < end {
                let (sink, access) =
                    (self.points(t, c - start, distance), First(LANES.min(end - c)));
                transform::<S::Narrow, T>(size, access, |j| column(j, c), sink);
                c += LANES;
            }
        }
    }

    /// Where channels `c..` of tile `t` go.
    #[inline(always)]
    fn points<D: Distance>(&self, t: usize, c: usize, distance: D) -> Points<D> {
        let to = self.to.wrapping_add(t * self.layout.row + self.layout.channel(c));
        Points { to, distance }
    }
}

/// A vector's points.
#[derive(Clone, Copy)]
struct Points<D> {
    to: *mut f32,
    distance: D,
}

impl<V: Vector, D: Distance> Sink<V> for Points<D> {
    #[inline(always)]
    unsafe fn line(self, i: usize, n: usize, values: [V; MOST_POINTS]) {
        for (j, point) in values.into_iter().enumerate().take(n) {
            // SAFETY: passed on to the caller.
            unsafe { point.store(self.to.wrapping_add(self.distance.point(i, j))) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::grid::Tiling;
    use super::*;

    /// In blocks of several images, and of some lines of one.
    #[test]
    fn tiles_of_normalised_lines_are_those_of_the_normalised_map() {
        let (map, pixel) = (Map { batch: 2, height: 11, width: 4 }, 9);
        let len = map.batch * map.height * map.width * pixel;
        let number = |i: usize| ((37 * i) % 29) as f32 / 7.0 - 2.0;
        let x: Vec<f32> = (0..len).map(number).collect();
        let of_channel = |seed: usize| (0..pixel).map(|c| number(c + seed)).collect::<Vec<_>>();
        let [mean, scale, beta] = [1, 5, 11].map(of_channel);
        let norm = InputNorm { mean: &mean, scale: &scale, beta: &beta, least: 0.0 };
        let normed: Vec<f32> = (0..len)
            .map(|i| ((x[i] - mean[i % pixel]) * scale[i % pixel] + beta[i % pixel]).max(0.0))
            .collect();
        let tiling = Tiling::small(map.height, map.width);
        for (target, blocks) in [(1, 6), (6, 1)] {
            let grid = Grid::new(tiling, map.batch, target);
            assert_eq!(grid.blocks(), blocks, "blocks of {target} tiles");
            let layout = Layout::by_tile(tiling.side(), pixel.next_multiple_of(LANES));
            for isa in Isa::available() {
                for (block, channels) in
                    (0..blocks).flat_map(|i| [0..8, 8..pixel].map(|range| (grid.block(i), range)))
                {
                    let tiles = |reading: Reading<'_>| {
                        let mut lines = vec![f32::NAN; source_len(reading, &grid)];
                        let mut to = vec![0.0; layout.len(grid.largest())];
                        let some = channels.clone();
                        // SAFETY: the block is of the map, and there is room for its lines and tiles.
                        unsafe {
                            let from = source(isa, reading, &block, some, lines.as_mut_ptr());
                            isa.run(InputTiles(Tiles {
                                block: &block,
                                range: 0..block.len(),
                                from,
                                map,
                                pixel,
                                channels: channels.clone(),
                                to: to.as_mut_ptr(),
                                layout,
                                fetched: false,
                            }));
                        }
                        to
                    };
                    let found = tiles(Reading { values: &x, norm: Some(norm) });
                    let want = tiles(Reading { values: &normed, norm: None });
                    assert!(found == want, "{block:?}, {channels:?}, {}", isa.name());
                }
            }
        }
    }
}
