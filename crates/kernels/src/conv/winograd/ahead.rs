//! Fetching the maps under the next block of tiles while the products of this one run.
//!
//! The products work within a core's own cache and leave the path to memory idle; the transforms
//! then wait for memory and leave the arithmetic idle. A prefetch now and then in the products
//! brings the next block's pixels to the second-level cache in between. In bursts they would fill
//! the miss buffers and stop the products, so they are spread as thinly as they can be.

use super::grid::Block;
use crate::conv::product::{CHUNK, Fetch, Stream};

/// The pixels of `next` in a map `[pixel][pixel_floats]`: `channels` of each, from `map` on.
pub(super) fn stream(
    next: Option<Block>,
    map: *const f32,
    pixel: usize,
    channels: usize,
) -> Stream {
    let pixels = next.map_or(0..0, |block| block.pixels());
    let start = map.wrapping_add(pixels.start * pixel);
    if channels == pixel {
        return Stream::new(start, pixels.len() * pixel);
    }
    Stream::stretches(start, pixels.len(), channels, pixel)
}

/// Spreads two streams over the products of a block: `panels` panels of `rows` rows of `depth` at
/// each of `points` points, in register tiles of about 8 rows.
pub(super) fn spread(
    read: Stream,
    other: Stream,
    write: bool,
    points: usize,
    panels: usize,
    rows: usize,
    depth: usize,
) -> Fetch {
    let steps = points * panels * rows.div_ceil(8) * depth.div_ceil(CHUNK);
    Fetch::new(read, other, write, steps)
}
