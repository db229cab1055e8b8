//! The output map cut into 4 x 4 tiles, and the tiles into blocks.

use std::ops::Range;

use super::points::{POINTS, TILE, uses};

/// One dimension of the map: `count` tiles of 4 outputs, except that the last has `last`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    pub size: usize,
    pub count: usize,
    pub last: usize,
}

impl Axis {
    pub(super) fn new(size: usize) -> Self {
        let count = size.div_ceil(TILE);
        Self { size, count, last: size - (count - 1) * TILE }
    }

    /// Products in one dimension: what the tiles of a line need together.
    pub(super) fn points(self) -> usize {
        (self.count - 1) * POINTS + self.last + 2
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
    rows: Axis,
    columns: Axis,
    first_image: usize,
    images: usize,
    first_row: usize,
    /// Tile rows with all 4 outputs, and whether a shorter one follows.
    full_rows: usize,
    short_row: bool,
    full_columns: usize,
    short_column: bool,
}

impl Block {
    pub(super) fn new(
        rows: Axis,
        columns: Axis,
        images: Range<usize>,
        tile_rows: Range<usize>,
    ) -> Self {
        let short_row = tile_rows.end == rows.count && rows.last < TILE;
        let short_column = columns.last < TILE;
        Self {
            rows,
            columns,
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

    /// The tiles that use the vertical point `i` and the horizontal point `j`.
    #[inline(always)]
    pub(super) fn using(&self, i: usize, j: usize) -> Range<usize> {
        let vertical = !self.short_row || uses(self.rows.last, i);
        let horizontal = !self.short_column || uses(self.columns.last, j);
        let start = if horizontal { 0 } else { self.right() };
        let end = match (vertical, horizontal) {
            (true, true) => self.len(),
            (true, false) => self.right() + self.full() + self.bottom(),
            (false, _) => self.right() + self.full(),
        };
        start..end
    }

    /// Calls `f(t, tile)` for the tiles `range` of the block, in order.
    #[inline(always)]
    pub(super) fn for_each(&self, range: Range<usize>, mut f: impl FnMut(usize, Tile)) {
        let full_rows = self.first_row..self.first_row + self.full_rows;
        let short_rows = full_rows.end..full_rows.end + usize::from(self.short_row);
        let full_columns = 0..self.full_columns;
        let short_columns = self.full_columns..self.full_columns + usize::from(self.short_column);
        let (bottom, right) = (self.rows.last, self.columns.last);
        let groups = [
            (&full_rows, &short_columns, TILE, right),
            (&full_rows, &full_columns, TILE, TILE),
            (&short_rows, &full_columns, bottom, TILE),
            (&short_rows, &short_columns, bottom, right),
        ];
        let mut t = 0;
        for (rows, columns, height, width) in groups {
            for image in self.first_image..self.first_image + self.images {
                for row in rows.clone() {
                    if t + columns.len() <= range.start || t >= range.end {
                        t += columns.len();
                        continue;
                    }
                    for column in columns.clone() {
                        if range.contains(&t) {
                            let (y, x) = (row * TILE, column * TILE);
                            f(t, Tile { image, y, x, height, width });
                        }
                        t += 1;
                    }
                }
            }
        }
    }
}

/// The tiles of a whole batch in blocks of similar size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    pub rows: Axis,
    pub columns: Axis,
    batch: usize,
    /// Images of a block; 1 when a block is less than an image.
    images: usize,
    /// Blocks that an image is cut into; 1 when a block is whole images.
    cuts: usize,
}

impl Grid {
    /// Blocks of about `target` tiles: whole images if they are small, or whole tile rows of one.
    pub(super) fn new(batch: usize, height: usize, width: usize, target: usize) -> Self {
        let (rows, columns) = (Axis::new(height), Axis::new(width));
        let per_image = rows.count * columns.count;
        let images = (target / per_image).clamp(1, batch);
        let cuts = if images > 1 || batch == 0 {
            1
        } else {
            per_image.div_ceil(target.max(1)).min(rows.count)
        };
        // Even blocks: 10 images in blocks of up to 4 are 4 + 3 + 3.
        let images = batch.div_ceil(batch.div_ceil(images));
        Self { rows, columns, batch, images, cuts }
    }

    pub(super) fn blocks(&self) -> usize {
        self.batch.div_ceil(self.images) * self.cuts
    }

    pub(super) fn block(&self, i: usize) -> Block {
        let image = i / self.cuts * self.images;
        let cut = i % self.cuts;
        let row = |cut: usize| self.rows.count * cut / self.cuts;
        Block::new(
            self.rows,
            self.columns,
            image..(image + self.images).min(self.batch),
            row(cut)..row(cut + 1),
        )
    }

    /// Tiles of the largest block.
    pub(super) fn largest(&self) -> usize {
        self.images * self.rows.count.div_ceil(self.cuts) * self.columns.count
    }
}
