//! Where a buffer of the Winograd domain keeps `[point][tile][channel]`.

use super::ALL_POINTS;
use crate::conv::product::CHUNK;

/// Channels come in chunks of a cache line: channel `c` of tile `t` at point `p` is at `p * point +
/// t * row + c / CHUNK * chunk + c % CHUNK`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub point: usize,
    pub row: usize,
    pub chunk: usize,
}

impl Layout {
    /// A tile's points side by side: `[tile][chunk][point]`. The transforms write and read one
    /// stretch of memory at constant distances, and the products take a line here and a line there,
    /// which is free as long as the buffer is in a core's own cache.
    pub(super) fn by_tile(channels: usize) -> Self {
        let chunk = ALL_POINTS * CHUNK;
        // An odd number of lines, lest the rows of a product fall into the same few cache sets.
        Self { point: CHUNK, row: channels.div_ceil(CHUNK) * chunk + CHUNK, chunk }
    }

    /// A point's tiles side by side: `[point][tile][channel]`, for buffers that come from a shared
    /// cache and had better be read in order.
    pub(super) fn by_point(tiles: usize, channels: usize) -> Self {
        let point = (tiles * channels).next_multiple_of(CHUNK) + CHUNK;
        Self { point, row: channels, chunk: CHUNK }
    }

    /// A chunk's tiles side by side: `[point][chunk][tile]`, for products that sum over tiles.
    pub(super) fn by_chunk(tiles: usize, channels: usize) -> Self {
        let chunk = tiles * CHUNK;
        Self { point: channels.div_ceil(CHUNK) * chunk + CHUNK, row: CHUNK, chunk }
    }

    /// Floats that `tiles` tiles take.
    pub(super) fn len(self, tiles: usize) -> usize {
        if self.point == CHUNK { tiles * self.row } else { ALL_POINTS * self.point }
    }

    /// Offset of a channel in its tile.
    #[inline(always)]
    pub(super) fn channel(self, c: usize) -> usize {
        c / CHUNK * self.chunk + c % CHUNK
    }
}

/// The distance between points, known to the compiler or not.
pub(super) trait Distance: Copy {
    fn point(self, i: usize) -> usize;
}

/// That of [`Layout::by_tile`].
#[derive(Clone, Copy)]
pub(super) struct Near;

impl Distance for Near {
    #[inline(always)]
    fn point(self, i: usize) -> usize {
        i * CHUNK
    }
}

/// Any other.
#[derive(Clone, Copy)]
pub(super) struct Far(pub usize);

impl Distance for Far {
    #[inline(always)]
    fn point(self, i: usize) -> usize {
        i * self.0
    }
}

/// Calls a generic function with the tile's height as a constant. Not the width as well: sixteen
/// copies of everything would not be worth their compile time, and a line of points can choose when
/// it comes to its own transform.
macro_rules! by_height {
    ($height:expr, $this:ident . $f:ident :: <$($generic:ty),+> $args:tt) => {
        by_height!(@ $height, $this, $f, ($($generic),+), $args, 4 3 2 1)
    };
    (@ $height:expr, $this:ident, $f:ident, $generics:tt, $args:tt, $($h:literal)*) => {
        match $height {
            $( $h => by_height!(% $this, $f, $generics, $h, $args), )*
            _ => unreachable!("a tile has 1 to 4 outputs a side"),
        }
    };
    (% $this:ident, $f:ident, ($($generic:ty),+), $h:literal, ($($arg:expr),*)) => {
        $this.$f::<$($generic,)+ $h>($($arg),*)
    };
}
pub(super) use by_height;
