//! Where the operands' rows lie.

use std::ops::Range;

use super::super::winograd::Map;
use super::unit::{BLOCK, DEPTH, ROW, SIDE, Step};

/// Images side by side, of which tiles take their rows: row `x * images + n` of a line of the map is
/// pixel `x` of image `n`. So neighbours of all rows of a tile are a tile, too, and where a line ends
/// there are rows of zeros.
#[derive(Clone, Copy)]
pub(super) struct Images {
    pub map: Map,
    /// Images of a block: 8, 16 or 32.
    pub images: usize,
}

impl Images {
    /// Blocks of at most `most` images, and as many that little is lost in the last block and at the ends
    /// of lines.
    pub(super) fn new(map: Map, most: usize) -> Self {
        let padded = |images: usize| {
            let rows = (map.width * images).next_multiple_of(SIDE);
            map.batch.div_ceil(images) * rows
        };
        let least = [8, 16, 32].map(padded).into_iter().min().unwrap_or(0);
        let images = [32, 16, 8]
            .into_iter()
            .find(|&images| images <= most && padded(images) * 8 <= least * 9)
            .unwrap_or(8);
        Self { map, images }
    }

    /// Blocks of images.
    pub(super) fn blocks(&self) -> usize {
        self.map.batch.div_ceil(self.images)
    }

    /// The images of a block.
    pub(super) fn block(&self, i: usize) -> Range<usize> {
        i * self.images..((i + 1) * self.images).min(self.map.batch)
    }

    /// Rows of a line.
    pub(super) fn rows(&self) -> usize {
        self.map.width * self.images
    }

    /// The pixel of a line that a row is, and the image of the block.
    #[inline(always)]
    pub(super) fn place(&self, row: usize) -> (usize, usize) {
        // Not a division, of which there would be one for every row.
        (row >> self.images.trailing_zeros(), row & (self.images - 1))
    }

    /// The pixel at `(x, line)` of an image.
    #[inline(always)]
    pub(super) fn pixel(&self, image: usize, line: usize, x: usize) -> usize {
        (image * self.map.height + line) * self.map.width + x
    }
}

/// How the sum over a line's three taps and the channels is cut into steps of [`DEPTH`] terms. Channels
/// that no whole step is left for share one with those of the next taps, where there is room for them.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    /// Steps that have 32 channels of one tap.
    pub whole: usize,
    /// Channels left over.
    pub rest: usize,
    /// Taps whose left over channels share a step.
    pub shared: usize,
}

impl Terms {
    pub(super) fn new(channels: usize) -> Self {
        let rest = channels % DEPTH;
        let shared = DEPTH.checked_div(rest).map_or(1, |taps| taps.min(3));
        Self { whole: channels / DEPTH, rest, shared }
    }

    /// Operands that a line of the map is laid out as.
    pub(super) fn planes(&self) -> usize {
        self.whole + usize::from(self.rest > 0)
    }

    /// First taps of a plane's steps in a line.
    pub(super) fn firsts(self, plane: usize) -> impl Iterator<Item = usize> {
        (0..3).step_by(if plane < self.whole { 1 } else { self.shared })
    }

    /// Taps of the step that begins with `first`.
    pub(super) fn taps(&self, plane: usize, first: usize) -> Range<usize> {
        if plane < self.whole { first..first + 1 } else { first..(first + self.shared).min(3) }
    }

    /// Steps before a plane's, if all lines of taps count.
    pub(super) fn before(&self, plane: usize) -> usize {
        let rest = if plane > self.whole { 3 * 3_usize.div_ceil(self.shared) } else { 0 };
        9 * plane.min(self.whole) + rest
    }

    /// Steps of a sum.
    pub(super) fn count(&self) -> usize {
        self.before(self.planes())
    }

    /// Channels of a plane.
    pub(super) fn channels(&self, plane: usize) -> Range<usize> {
        let start = plane * DEPTH;
        start..start + if plane < self.whole { DEPTH } else { self.rest }
    }
}

/// The left operand of a correlation: lines of the map, each as a plane for every 32 channels.
#[derive(Clone, Copy)]
pub(super) struct Lines {
    pub images: Images,
    pub terms: Terms,
}

impl Lines {
    /// Bytes of a plane: the line, a pixel of zeros on either side, and what the last tiles read beyond.
    pub(super) fn plane(&self) -> usize {
        (self.images.rows() + 2 * self.images.images + 2 * SIDE) * ROW
    }

    /// Bytes of a line.
    pub(super) fn line(&self) -> usize {
        self.plane() * self.terms.planes()
    }

    /// Writes the steps of a tile's sum over a plane and returns how many there are. Their left operands
    /// count from the tile's first row in the plane of the line that the first tap reads, their right ones
    /// from the plane's first. Steps that would read nothing but the zeros around the map are left out.
    pub(super) fn steps(&self, plane: usize, edges: Edges, steps: &mut [Step]) -> usize {
        let mut count = 0;
        let mut b = 0;
        for line in 0..3 {
            for first in self.terms.firsts(plane) {
                let taps = self.terms.taps(plane, first);
                let off = edges.top && line == 0
                    || edges.bottom && line == 2
                    || edges.left && taps.end == 1
                    || edges.right && taps.start == 2;
                if !off {
                    debug_assert!(2 * self.line() + self.plane() <= u32::MAX as usize);
                    let a = line * self.line() + first * self.images.images * ROW;
                    steps[count] = Step { a: a as u32, b };
                    count += 1;
                }
                b += BLOCK as u32;
            }
        }
        count
    }

    /// The edges that all of a tile's rows are at.
    pub(super) fn edges(&self, line: usize, rows: &Range<usize>) -> Edges {
        let Images { images, map } = self.images;
        Edges {
            top: line == 0,
            bottom: line + 1 == map.height,
            left: rows.end <= images,
            right: rows.start + images >= self.images.rows(),
        }
    }
}

/// Edges of the map, beyond which taps are left out.
#[derive(Clone, Copy)]
pub(super) struct Edges {
    pub top: bool,
    pub bottom: bool,
    pub left: bool,
    pub right: bool,
}

impl Edges {
    /// How many there may be of them.
    pub(super) const KINDS: usize = 16;

    pub(super) fn kind(i: usize) -> Self {
        let is = |bit: usize| i >> bit & 1 == 1;
        Self { top: is(0), bottom: is(1), left: is(2), right: is(3) }
    }

    pub(super) fn number(self) -> usize {
        let Self { top, bottom, left, right } = self;
        [top, bottom, left, right].iter().rev().fold(0, |all, &is| 2 * all + usize::from(is))
    }
}

/// Floats of the working memory as steps.
pub(super) fn as_steps(floats: &mut [f32]) -> &mut [Step] {
    // SAFETY: a step is two words of 32 bits, of any contents and no stricter alignment; the floats are
    // borrowed for as long.
    unsafe { std::slice::from_raw_parts_mut(floats.as_mut_ptr().cast(), floats.len() / 2) }
}
