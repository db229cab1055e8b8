//! Where a buffer of the Winograd domain keeps `[point][tile][channel]`.

use crate::conv::product::CHUNK;

/// Channels come in chunks of a cache line: channel `c` of tile `t` at point `p` is at `p * point +
/// t * row + c / CHUNK * chunk + c % CHUNK`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// Points in one dimension.
    pub side: usize,
    pub point: usize,
    pub row: usize,
    pub chunk: usize,
}

impl Layout {
    /// A tile's points side by side: `[tile][chunk][point]`. The transforms write and read one
    /// stretch of memory at constant distances, and the products take a line here and a line there,
    /// which is free as long as the buffer is in a core's own cache, and cheap where it is read once.
    pub(super) fn by_tile(side: usize, channels: usize) -> Self {
        // 64 lines would put all chunks of a tile into the same sets of the first-level cache.
        let lines = side * side + usize::from(side * side == 64);
        // An odd number of lines, lest the rows of a product fall into the same few cache sets.
        let row = (channels.div_ceil(CHUNK) * lines) | 1;
        Self { side, point: CHUNK, row: row * CHUNK, chunk: lines * CHUNK }
    }

    /// A point's tiles side by side: `[point][tile][channel]`, for buffers that come from a shared
    /// cache and had better be read in order.
    pub(super) fn by_point(side: usize, tiles: usize, channels: usize) -> Self {
        let point = (tiles * channels).next_multiple_of(CHUNK) + CHUNK;
        Self { side, point, row: channels, chunk: CHUNK }
    }

    /// A chunk's tiles side by side: `[point][chunk][tile]`, for products that sum over tiles.
    pub(super) fn by_chunk(side: usize, tiles: usize, channels: usize) -> Self {
        let chunk = tiles * CHUNK;
        Self { side, point: channels.div_ceil(CHUNK) * chunk + CHUNK, row: CHUNK, chunk }
    }

    /// Floats that `tiles` tiles take.
    pub(super) fn len(self, tiles: usize) -> usize {
        if self.point == CHUNK { tiles * self.row } else { self.points() * self.point }
    }

    /// All points of a tile.
    pub(super) fn points(self) -> usize {
        self.side * self.side
    }

    /// For [`Layout::by_tile`].
    #[inline(always)]
    pub(super) fn near(self) -> Near {
        debug_assert_eq!(self.point, CHUNK);
        Near { line: self.side * CHUNK }
    }

    /// For any.
    #[inline(always)]
    pub(super) fn far(self) -> Far {
        Far { line: self.side * self.point, point: self.point }
    }

    /// Offset of a channel in its tile.
    #[inline(always)]
    pub(super) fn channel(self, c: usize) -> usize {
        c / CHUNK * self.chunk + c % CHUNK
    }
}

/// Where a tile's points are, at a distance that is known to the compiler or not.
pub(super) trait Distance: Copy {
    /// Offset of the vertical point `i` and the horizontal point `j`.
    fn point(self, i: usize, j: usize) -> usize;
}

/// That of [`Layout::by_tile`]: horizontal points are neighbours, and vertical ones so far apart.
#[derive(Clone, Copy)]
pub(super) struct Near {
    line: usize,
}

impl Distance for Near {
    #[inline(always)]
    fn point(self, i: usize, j: usize) -> usize {
        i * self.line + j * CHUNK
    }
}

/// Any other: the distances between vertical and between horizontal points.
#[derive(Clone, Copy)]
pub(super) struct Far {
    line: usize,
    point: usize,
}

impl Distance for Far {
    #[inline(always)]
    fn point(self, i: usize, j: usize) -> usize {
        i * self.line + j * self.point
    }
}
