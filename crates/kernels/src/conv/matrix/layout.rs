//! Where the operands' rows lie.

use std::ops::Range;

use super::super::class::{Class, Taps};
use super::super::winograd::Map;
use super::minimal;
use super::unit::{BLOCK, DEPTH, ROW, SIDE, Step};

/// One axis of a correlation, whose taps' offsets are -1, 0 and 1.
#[derive(Clone)]
pub(super) struct Axis {
    pub taps: Taps,
    /// Positions of the result.
    pub length: usize,
    /// Places of the source.
    pub source: usize,
    /// The positions whose first tap, and those whose last tap reads a place of the source.
    inside: Range<usize>,
}

impl Axis {
    fn new(taps: Taps, length: usize, source: usize) -> Self {
        let Range { start, end } = offsets(&taps);
        let places = (source as isize + 1 - end).max(0) as usize;
        let first = ((-start).max(0) as usize).div_ceil(taps.step);
        Self { taps, length, source, inside: first..places.div_ceil(taps.step) }
    }
}

/// Offsets of taps from where a position reads.
fn offsets(taps: &Taps) -> Range<isize> {
    taps.offset..taps.offset + taps.count as isize
}

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
    /// of lines of `width` pixels.
    pub(super) fn new(map: Map, width: usize, most: usize) -> Self {
        let padded = |images: usize| {
            let rows = (width * images).next_multiple_of(SIDE);
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

    /// The pixel of a line that a row is, and the image of the block.
    #[inline(always)]
    pub(super) fn place(&self, row: usize) -> (usize, usize) {
        // Not a division, of which there would be one for every row.
        (row >> self.images.trailing_zeros(), row & (self.images - 1))
    }
}

/// How the sum over taps and channels is cut into steps of [`DEPTH`] terms. Channels that no whole step is
/// left for share one with those of the next taps of the line, where there is room for them, and but one
/// view reads what is laid out, as neighbours.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    /// Lines of taps, and taps of each.
    pub down: usize,
    pub across: usize,
    /// Steps that have 32 channels of one tap.
    pub whole: usize,
    /// Channels left over.
    pub rest: usize,
    /// Taps whose left over channels share a step.
    pub shared: usize,
    /// Lines of taps are points of [`minimal`].
    pub minimal: bool,
}

impl Terms {
    fn new(channels: usize, class: &Class, points: bool) -> Self {
        let rest = channels % DEPTH;
        let alone = class.horizontal.step == 1 && class.spacing == 1;
        let shared = DEPTH.checked_div(rest).map_or(1, |taps| taps.min(3));
        let shared = if alone { shared } else { 1 };
        let (down, across) = (class.vertical.count, class.horizontal.count);
        let minimal = alone && points;
        let down = if minimal { minimal::POINTS } else { down };
        Self { down, across, whole: channels / DEPTH, rest, shared, minimal }
    }

    /// Operands that a line of the map is laid out as.
    pub(super) fn planes(&self) -> usize {
        self.whole + usize::from(self.rest > 0)
    }

    /// First taps of a plane's steps in a line.
    pub(super) fn firsts(self, plane: usize) -> impl Iterator<Item = usize> {
        (0..self.across).step_by(if plane < self.whole { 1 } else { self.shared })
    }

    /// Taps of the step that begins with `first`.
    pub(super) fn taps(&self, plane: usize, first: usize) -> Range<usize> {
        if plane < self.whole {
            first..first + 1
        } else {
            first..(first + self.shared).min(self.across)
        }
    }

    /// Steps of a line of a plane.
    fn along(&self, plane: usize) -> usize {
        self.across.div_ceil(if plane < self.whole { 1 } else { self.shared })
    }

    /// Steps of a line of some planes.
    pub(super) fn of(&self, planes: Range<usize>) -> usize {
        self.before(planes.end) - self.before(planes.start)
    }

    /// Steps of a line of all planes before this one.
    fn before(&self, plane: usize) -> usize {
        let rest = if plane > self.whole { self.along(self.whole) } else { 0 };
        self.across * plane.min(self.whole) + rest
    }

    /// Steps before those of a line of a plane.
    pub(super) fn place(&self, line: usize, plane: usize) -> usize {
        if self.minimal {
            line * self.before(self.planes()) + self.before(plane)
        } else {
            self.down * self.before(plane) + line * self.along(plane)
        }
    }

    /// Steps of a sum.
    pub(super) fn count(&self) -> usize {
        self.down * self.before(self.planes())
    }

    /// Channels of a plane.
    pub(super) fn channels(&self, plane: usize) -> Range<usize> {
        let start = plane * DEPTH;
        start..start + if plane < self.whole { DEPTH } else { self.rest }
    }
}

/// What a correlation writes: all of the output, or those of its pixels that read alike.
#[derive(Clone)]
pub(super) struct View {
    pub y: Axis,
    pub x: Axis,
    pub terms: Terms,
    /// Where position 0 of both axes is, and how far apart positions are.
    pub first: [usize; 2],
    pub spacing: usize,
}

impl View {
    pub(super) fn new(channels: usize, class: &Class, source: Map, points: bool) -> Self {
        let Class { vertical, horizontal, lines, positions, .. } = *class;
        Self {
            y: Axis::new(vertical, lines, source.height),
            x: Axis::new(horizontal, positions, source.width),
            terms: Terms::new(channels, class, points),
            first: [class.first_line, class.first_position],
            spacing: class.spacing,
        }
    }

    /// Rows of a line of the result.
    pub(super) fn rows(&self, images: Images) -> usize {
        self.x.length * images.images
    }

    /// The edges that all of a tile's rows are at. Points have lines beyond the edge as zeros.
    pub(super) fn edges(&self, images: Images, line: usize, rows: &Range<usize>) -> Edges {
        let (down, across) = (&self.y.inside, &self.x.inside);
        Edges {
            top: !self.terms.minimal && line < down.start,
            bottom: !self.terms.minimal && line >= down.end,
            left: rows.end <= images.images * across.start,
            right: rows.start >= images.images * across.end,
        }
    }
}

/// The left operand of a correlation: lines of the source, each as a plane for every 32 channels. With a step of 2
/// a plane's pixels of even and of odd places are apart, so that those which a tap reads follow upon each other.
pub(super) struct Lines {
    pub images: Images,
    pub step: usize,
    /// The most pixels that a tap reads of a line, or that every `step`-th place has.
    pub width: usize,
    /// Those of the first view, which all views have the channels' steps of.
    pub terms: Terms,
    /// Offsets of the lines that taps read.
    pub reach: Range<isize>,
}

impl Lines {
    /// For views of one layout: those of a data gradient's classes, of which the first has the most pixels.
    pub(super) fn new(images: Images, views: &[View]) -> Self {
        let View { x, terms, .. } = &views[0];
        let step = x.taps.step;
        let width = x.length.max(x.source.div_ceil(step));
        let reaches = views.iter().map(|view| offsets(&view.y.taps));
        let reach = reaches.fold(0..1, |all, one| all.start.min(one.start)..all.end.max(one.end));
        let lines = Self { images, step, width, terms: *terms, reach };
        let bytes = lines.read(1) * lines.line();
        assert!(u32::try_from(bytes).is_ok(), "lines of {bytes} bytes are too long");
        lines
    }

    /// Bytes of every `step`-th pixel of a line, with a pixel of zeros on either side. The last tiles read beyond: what
    /// comes next, for rows that are no pixels.
    pub(super) fn segment(&self) -> usize {
        (self.width + 2) * self.images.images * ROW
    }

    /// More than the bytes that the last tile reads beyond the last line: 8 rows.
    pub(super) const BEYOND: usize = SIDE * ROW;

    /// Bytes of a plane.
    pub(super) fn plane(&self) -> usize {
        self.segment() * self.step
    }

    /// Bytes of a line.
    pub(super) fn line(&self) -> usize {
        self.plane() * self.terms.planes()
    }

    /// Lines of the source that so many of the result read.
    pub(super) fn read(&self, lines: usize) -> usize {
        (lines - 1) * self.step + self.reach.len()
    }

    /// Where a pixel's rows begin in a plane.
    #[inline(always)]
    pub(super) fn pixel(&self, x: usize) -> usize {
        debug_assert!(self.step <= 2);
        // Not divisions, of which there would be two for every pixel.
        let (segment, x) = (x & (self.step - 1), x >> (self.step - 1));
        segment * self.segment() + (x + 1) * self.images.images * ROW
    }

    /// Writes the steps of a tile's sum over a plane and returns how many there are. Their left operands
    /// count from the tile's first row in this plane of the line that the uppermost tap of all views reads,
    /// their right ones from the plane's first. Steps that would read nothing but the zeros around the map are left out.
    pub(super) fn steps(
        &self,
        view: &View,
        plane: usize,
        edges: Edges,
        steps: &mut [Step],
    ) -> usize {
        let View { y, x, terms, .. } = view;
        let mut count = 0;
        let mut b = 0;
        let lines = if terms.minimal { 0..1 } else { offsets(&y.taps) };
        let top = if terms.minimal { 0 } else { self.reach.start };
        for line in lines {
            for first in terms.firsts(plane) {
                let taps = terms.taps(plane, first);
                let offset = x.taps.offset + taps.start as isize;
                let last = x.taps.offset + taps.end as isize - 1;
                let off = edges.top && line < 0
                    || edges.bottom && line > 0
                    || edges.left && last < 0
                    || edges.right && offset > 0;
                if !off {
                    let step = self.step as isize;
                    let segment = offset.rem_euclid(step) as usize * self.segment();
                    // A pixel of zeros comes first.
                    let pixel = (offset.div_euclid(step) + 1) as usize * self.images.images * ROW;
                    let line = (line - top) as usize * self.line();
                    steps[count] = Step { a: (line + segment + pixel) as u32, b };
                    count += 1;
                }
                b += BLOCK as u32;
            }
        }
        count
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
