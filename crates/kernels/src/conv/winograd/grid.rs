//! The output map cut into square tiles, and the tiles into blocks.

use std::ops::Range;

use super::points::{points, uses};

/// Outputs, in one dimension, of the tiles that any layer may take.
const SMALL: usize = 4;

/// One dimension of the map: `count` tiles of `tile` outputs, except that the last has `last`.
#[derive(Clone, Copy, Debug)]
struct Axis {
    tile: usize,
    count: usize,
    last: usize,
}

impl Axis {
    fn new(size: usize, tile: usize) -> Self {
        let count = size.div_ceil(tile);
        Self { tile, count, last: size - (count - 1) * tile }
    }

    fn size(self) -> usize {
        (self.count - 1) * self.tile + self.last
    }

    /// Points of all its tiles.
    fn points(self) -> usize {
        (self.count - 1) * points(self.tile) + points(self.last)
    }
}

/// How a map is cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tiling {
    rows: Axis,
    columns: Axis,
}

impl Tiling {
    fn new(height: usize, width: usize, tile: usize) -> Self {
        Self { rows: Axis::new(height, tile), columns: Axis::new(width, tile) }
    }

    /// Tiles of up to 4 outputs a side.
    pub(super) fn small(height: usize, width: usize) -> Self {
        Self::new(height, width, SMALL)
    }

    /// Tiles of up to `most` outputs a side where they save an eighth of the products of small ones,
    /// and the smallest that save the most; else small ones, whose filters have fewer points.
    pub(super) fn large(height: usize, width: usize, most: usize) -> Self {
        let small = Self::small(height, width);
        (SMALL + 1..=most)
            .map(|tile| Self::new(height, width, tile))
            .min_by_key(|tiling| tiling.products())
            .filter(|tiling| 8 * tiling.products() <= 7 * small.products())
            .unwrap_or(small)
    }

    pub(super) fn is_small(self) -> bool {
        self.rows.tile == SMALL
    }

    /// Products of an image, for each input and output channel.
    fn products(self) -> usize {
        self.rows.points() * self.columns.points()
    }

    /// Points of a whole tile in one dimension.
    pub(super) fn side(self) -> usize {
        points(self.rows.tile)
    }

    /// All of its points.
    pub(super) fn points(self) -> usize {
        self.side() * self.side()
    }

    /// Tiles of an image.
    pub(super) fn tiles(self) -> usize {
        self.rows.count * self.columns.count
    }
}

/// A tile of `height` x `width` outputs whose first is at `(y, x)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tile {
    pub image: usize,
    pub y: usize,
    pub x: usize,
    pub height: usize,
    pub width: usize,
}

/// Some whole tile rows of some images.
///
/// A tile that is short in one dimension lacks some points there. The tiles of a block are ordered
/// so that each point needs one contiguous run of them: first those short in width only (right),
/// then the full ones, then those short in height only (bottom), then those short in both
/// (corner). A point that short widths lack drops the first and the last group, one that short
/// heights lack drops the last two.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    tiling: Tiling,
    /// Size of the map.
    height: usize,
    width: usize,
    first_image: usize,
    images: usize,
    first_row: usize,
    /// Tile rows with all outputs, and whether a shorter one follows.
    full_rows: usize,
    short_row: bool,
    full_columns: usize,
    short_column: bool,
}

impl Block {
    fn new(tiling: Tiling, images: Range<usize>, tile_rows: Range<usize>) -> Self {
        let Tiling { rows, columns } = tiling;
        let short_row = tile_rows.end == rows.count && rows.last < rows.tile;
        let short_column = columns.last < columns.tile;
        Self {
            tiling,
            height: rows.size(),
            width: columns.size(),
            first_image: images.start,
            images: images.len(),
            first_row: tile_rows.start,
            full_rows: tile_rows.len() - usize::from(short_row),
            short_row,
            full_columns: columns.count - usize::from(short_column),
            short_column,
        }
    }

    fn right(&self) -> usize {
        self.images * self.full_rows * usize::from(self.short_column)
    }

    fn full(&self) -> usize {
        self.images * self.full_rows * self.full_columns
    }

    fn bottom(&self) -> usize {
        self.images * usize::from(self.short_row) * self.full_columns
    }

    /// Tiles.
    pub(super) fn len(&self) -> usize {
        let corner = self.images * usize::from(self.short_row) * usize::from(self.short_column);
        self.right() + self.full() + self.bottom() + corner
    }

    /// The output pixels of the block, which are neighbours in memory.
    pub(super) fn pixels(&self) -> Range<usize> {
        let end = (self.first_row + self.full_rows) * self.tiling.rows.tile;
        let end = if self.short_row { self.height } else { end };
        let row = |image: usize, y: usize| (image * self.height + y) * self.width;
        let last = self.first_image + self.images - 1;
        row(self.first_image, self.first_row * self.tiling.rows.tile)..row(last, end)
    }

    /// The input pixels that its tiles read, which are neighbours in memory, too.
    pub(super) fn reads(&self) -> Range<usize> {
        let Range { start, end } = self.pixels();
        let image = self.height * self.width;
        let (first, last) = (self.first_image * image, (self.first_image + self.images) * image);
        start.saturating_sub(self.width).max(first)..(end + self.width).min(last)
    }

    /// The tiles that use the vertical point `i` and the horizontal point `j`.
    #[inline(always)]
    pub(super) fn using(&self, i: usize, j: usize) -> Range<usize> {
        let vertical = !self.short_row || uses(self.tiling.rows.last, i);
        let horizontal = !self.short_column || uses(self.tiling.columns.last, j);
        let start = if horizontal { 0 } else { self.right() };
        let end = match (vertical, horizontal) {
            (true, true) => self.len(),
            (true, false) => self.right() + self.full() + self.bottom(),
            (false, _) => self.right() + self.full(),
        };
        start..end
    }

    /// The tiles `range` of the block, in order.
    #[inline(always)]
    pub(super) fn tiles(&self, range: Range<usize>) -> Tiles<'_> {
        let mut tiles = Tiles {
            block: self,
            range,
            group: self.group(0),
            next_group: 1,
            image: 0,
            row: 0,
            column: 0,
        };
        let mut before = 0;
        while !tiles.range.is_empty()
            && tiles.range.start - before >= self.images * tiles.group.per_image()
        {
            before += self.images * tiles.group.per_image();
            tiles.group = self.group(tiles.next_group);
            tiles.next_group += 1;
        }
        if !tiles.range.is_empty() {
            let n = tiles.range.start - before;
            tiles.image = n / tiles.group.per_image();
            tiles.row = n % tiles.group.per_image() / tiles.group.columns;
            tiles.column = n % tiles.group.columns;
        }
        tiles
    }

    /// The groups of equal tiles in their order: right, full, bottom, corner.
    #[inline(always)]
    fn group(&self, i: usize) -> Group {
        let (bottom, right) = (i >= 2, i == 0 || i == 3);
        Group {
            first_row: self.first_row + if bottom { self.full_rows } else { 0 },
            rows: if bottom { usize::from(self.short_row) } else { self.full_rows },
            first_column: if right { self.full_columns } else { 0 },
            columns: if right { usize::from(self.short_column) } else { self.full_columns },
            height: if bottom { self.tiling.rows.last } else { self.tiling.rows.tile },
            width: if right { self.tiling.columns.last } else { self.tiling.columns.tile },
        }
    }
}

/// Tiles of one size: some tile rows and columns of every image of a block.
#[derive(Clone, Copy)]
struct Group {
    first_row: usize,
    rows: usize,
    first_column: usize,
    columns: usize,
    height: usize,
    width: usize,
}

impl Group {
    fn per_image(&self) -> usize {
        self.rows * self.columns
    }
}

/// See [`Block::tiles`].
pub(super) struct Tiles<'a> {
    block: &'a Block,
    range: Range<usize>,
    group: Group,
    next_group: usize,
    image: usize,
    row: usize,
    column: usize,
}

impl Iterator for Tiles<'_> {
    type Item = (usize, Tile);

    #[inline(always)]
    fn next(&mut self) -> Option<(usize, Tile)> {
        let t = self.range.next()?;
        while self.image == self.block.images || self.group.per_image() == 0 {
            self.group = self.block.group(self.next_group);
            self.next_group += 1;
            self.image = 0;
        }
        let tile = Tile {
            image: self.block.first_image + self.image,
            y: (self.group.first_row + self.row) * self.block.tiling.rows.tile,
            x: (self.group.first_column + self.column) * self.block.tiling.columns.tile,
            height: self.group.height,
            width: self.group.width,
        };
        self.column += 1;
        if self.column == self.group.columns {
            self.column = 0;
            self.row += 1;
            if self.row == self.group.rows {
                self.row = 0;
                self.image += 1;
            }
        }
        Some((t, tile))
    }
}

/// The tiles of a whole batch in blocks of similar size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    pub tiling: Tiling,
    batch: usize,
    /// Images of a block; 1 when a block is less than an image.
    images: usize,
    /// Blocks that an image is cut into; 1 when a block is whole images.
    cuts: usize,
}

impl Grid {
    /// Blocks of about `target` tiles: whole images if they are small, or whole tile rows of one.
    pub(super) fn new(tiling: Tiling, batch: usize, target: usize) -> Self {
        let per_image = tiling.tiles();
        let images = (target / per_image).clamp(1, batch);
        let cuts =
            if images > 1 { 1 } else { per_image.div_ceil(target.max(1)).min(tiling.rows.count) };
        // Even blocks: 10 images in blocks of up to 4 are 4 + 3 + 3.
        let images = batch.div_ceil(batch.div_ceil(images));
        Self { tiling, batch, images, cuts }
    }

    pub(super) fn blocks(&self) -> usize {
        self.batch.div_ceil(self.images) * self.cuts
    }

    pub(super) fn block(&self, i: usize) -> Block {
        let image = i / self.cuts * self.images;
        let cut = i % self.cuts;
        let row = |cut: usize| self.tiling.rows.count * cut / self.cuts;
        let images = image..(image + self.images).min(self.batch);
        Block::new(self.tiling, images, row(cut)..row(cut + 1))
    }

    /// Input pixels that a block reads at most.
    pub(super) fn most_read(&self) -> usize {
        (0..self.blocks()).map(|i| self.block(i).reads().len()).max().unwrap_or(0)
    }

    /// Tiles of the largest block.
    pub(super) fn largest(&self) -> usize {
        self.images * self.tiling.rows.count.div_ceil(self.cuts) * self.tiling.columns.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_tiles_are_taken_where_they_save_an_eighth() {
        let sides = |most: usize, sizes: &[usize]| {
            sizes.iter().map(|&size| Tiling::large(size, size, most).side()).collect::<Vec<_>>()
        };
        assert_eq!(sides(6, &[56, 28, 16, 14, 7, 4, 1]), [8, 8, 8, 7, 6, 6, 6]);
        assert_eq!(sides(5, &[56, 28, 16, 14, 7, 4, 1]), [6, 6, 6, 7, 6, 6, 6]);
    }

    #[test]
    fn a_point_uses_the_tiles_that_are_long_enough() {
        for (height, width) in [(1, 1), (28, 28), (14, 9), (7, 26), (11, 5)] {
            for tile in 4..=6 {
                let grid = Grid::new(Tiling::new(height, width, tile), 2, 9);
                for block in (0..grid.blocks()).map(|i| grid.block(i)) {
                    for (i, j) in (0..tile + 2).flat_map(|i| (0..tile + 2).map(move |j| (i, j))) {
                        let uses = block.using(i, j);
                        for (t, tile) in block.tiles(0..block.len()) {
                            let long = tile.height + 2 > i && tile.width + 2 > j;
                            assert_eq!(uses.contains(&t), long, "{tile:?}, point {i} {j}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn blocks_cover_every_pixel_once_and_know_their_own() {
        let maps = [(1, 1, 1, 24), (3, 28, 28, 24), (8, 7, 7, 32), (5, 14, 9, 30), (2, 56, 56, 40)];
        for ((batch, height, width, target), tile) in
            maps.into_iter().flat_map(|map| [4, 5, 6].map(|tile| (map, tile)))
        {
            let grid = Grid::new(Tiling::new(height, width, tile), batch, target);
            let mut end = 0;
            for block in (0..grid.blocks()).map(|i| grid.block(i)) {
                let pixels = block.pixels();
                assert_eq!(pixels.start, end, "a gap before {block:?}");
                end = pixels.end;
                // A line more on either side, within the images.
                let image = height * width;
                let images = block.first_image * image..(block.first_image + block.images) * image;
                let reads = block.reads();
                assert_eq!(reads.start, images.start.max(pixels.start.saturating_sub(width)));
                assert_eq!(reads.end, images.end.min(pixels.end + width), "{block:?}");
                assert!(reads.len() <= grid.most_read(), "{block:?}");
                let mut seen = vec![0; pixels.len()];
                for (_, tile) in block.tiles(0..block.len()) {
                    for y in tile.y..tile.y + tile.height {
                        for x in tile.x..tile.x + tile.width {
                            let pixel = (tile.image * height + y) * width + x;
                            seen[pixel - pixels.start] += 1;
                        }
                    }
                }
                assert!(seen.iter().all(|&n| n == 1), "{block:?}: {seen:?}");
            }
            assert_eq!(end, batch * height * width);
        }
    }
}
