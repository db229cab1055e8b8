//! Fetching the maps under the next block of tiles, and the weights of the next filters, while products run.
//!
//! The products work within a core's own cache and leave the path to memory idle; the transforms
//! then wait for memory and leave the arithmetic idle. A prefetch now and then in the products
//! brings the next block's pixels to the second-level cache in between. In bursts they would fill
//! the miss buffers and stop the products, so they are spread as thinly as they can be.

use super::filter::Next;
use super::grid::Block;
use crate::conv::product::{CHUNK, Fetch, Stream};

/// Of a filter.
const TAPS: usize = 9;

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
    Fetch::new(read, other, write, points * panels * steps(rows, depth))
}

/// Steps of `rows` rows of `depth`, in register tiles of about 8 rows.
fn steps(rows: usize, depth: usize) -> usize {
    rows.div_ceil(8) * depth.div_ceil(CHUNK)
}

/// Fetches some columns of a row of all taps.
#[inline(always)]
pub(super) fn taps(row: *const f32, tap: usize, columns: usize, fetch: impl Fn(*const f32)) {
    for row in (0..TAPS).map(|t| row.wrapping_add(t * tap)) {
        (0..columns).step_by(CHUNK).for_each(|c| fetch(row.wrapping_add(c)));
    }
}

/// Before the products at `point`, of so many: the weights of a tap during every few of them. On maps whose
/// tiles lack the points of a tap its weights are not fetched.
pub(super) fn a_tap_each(
    next: &Next,
    fetch: &mut Fetch,
    point: usize,
    points: usize,
    rows: usize,
    depth: usize,
) {
    let few = points / TAPS;
    if point.is_multiple_of(few) && point / few < TAPS {
        fetch.replace_also(next.tap(point / few), few * steps(rows, depth));
    }
}
