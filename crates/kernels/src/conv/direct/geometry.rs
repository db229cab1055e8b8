//! What a convolution reads, and in which blocks it is computed.

use std::ops::Range;

use crate::conv::ConvShape;
use crate::conv::class::Class;
use crate::conv::parallel::part;

/// A dense map `[batch][height][width][channels]`.
#[derive(Clone, Copy)]
pub(super) struct Map {
    pub batch: usize,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
}

impl Map {
    pub(super) fn input(shape: &ConvShape) -> Self {
        let ConvShape { batch, height, width, in_channels: channels, .. } = *shape;
        Self { batch, height, width, channels }
    }

    pub(super) fn output(shape: &ConvShape) -> Self {
        let (height, width) = (shape.out_height(), shape.out_width());
        Self { batch: shape.batch, height, width, channels: shape.out_channels }
    }

    pub(super) fn pixels(&self) -> usize {
        self.batch * self.height * self.width
    }
}

/// A source map with a border of zeros around it, so that every tap of every row reads something.
/// Only as much of it as a block needs is ever there; without a border, the map itself serves.
#[derive(Clone, Copy)]
pub(super) struct Strip {
    pub map: Map,
    step: usize,
    top: usize,
    pub left: usize,
    /// Pixels of a line.
    pub width: usize,
    /// Lines that one line of destinations reads.
    reach: usize,
    pub in_place: bool,
}

impl Strip {
    pub(super) fn new(map: Map, classes: impl Iterator<Item = Class> + Clone) -> Self {
        let reading = classes.filter(|c| c.depth > 0 && c.lines > 0 && c.positions > 0);
        let most = |f: &dyn Fn(Class) -> isize| reading.clone().map(f).max().unwrap_or(0).max(0);
        let top = most(&|c| -c.vertical.offset);
        let left = most(&|c| -c.horizontal.offset);
        let reach = most(&|c| c.vertical.end(1)) + top;
        let bottom = most(&|c| c.vertical.end(c.lines));
        let right = most(&|c| c.horizontal.end(c.positions));
        let inside = bottom <= map.height as isize && right <= map.width as isize;
        let in_place = top == 0 && left == 0 && inside;
        Self {
            map,
            step: reading.clone().map(|c| c.vertical.step).max().unwrap_or(1),
            top: top as usize,
            left: left as usize,
            width: if in_place { map.width } else { (left + right) as usize },
            reach: reach as usize,
            in_place,
        }
    }

    /// Floats of a line.
    pub(super) fn line(&self) -> usize {
        self.width * self.map.channels
    }

    /// Lines of an image that `lines` lines of destinations read.
    pub(super) fn lines(&self, lines: usize) -> usize {
        self.step * lines.saturating_sub(1) + self.reach
    }

    /// Floats from one image to the next.
    pub(super) fn image(&self, block: &Block) -> usize {
        let lines = if self.in_place { self.map.height } else { self.lines(block.lines.len()) };
        lines * self.line()
    }

    /// Floats of a block; none of them are copied where the map itself serves.
    pub(super) fn floats(&self, block: &Block) -> usize {
        if self.in_place { 0 } else { block.images.len() * self.image(block) }
    }

    /// The source line under the first line of a block, which may be above the map.
    pub(super) fn first_line(&self, block: &Block) -> isize {
        (self.step * block.lines.start) as isize - self.top as isize
    }

    /// The floats of the map that a block reads, as a range of them.
    pub(super) fn source(&self, block: &Block) -> Range<usize> {
        let Map { height, width, channels, .. } = self.map;
        let first = self.first_line(block);
        let last = first + self.lines(block.lines.len()) as isize;
        let at = |image: usize, line: isize| {
            (image * height + line.clamp(0, height as isize) as usize) * width * channels
        };
        at(block.images.start, first)..at(block.images.end - 1, last)
    }

    /// Where the taps of the block's first row of a class begin.
    pub(super) fn origin(&self, class: &Class) -> usize {
        let (y, x) = (class.vertical.offset, class.horizontal.offset);
        let line = self.top.wrapping_add_signed(y);
        line * self.line() + self.left.wrapping_add_signed(x) * self.map.channels
    }

    /// How far apart the block's rows of a class begin to read.
    pub(super) fn steps(&self, block: &Block, class: &Class) -> Steps {
        Steps {
            image: self.image(block),
            line: class.vertical.step * self.line(),
            position: class.horizontal.step * self.map.channels,
        }
    }

    /// Where the taps of a row read, counted from its first one.
    pub(super) fn tap_offsets(&self, class: &Class, to: &mut [u32]) {
        // A kernel's lines are a small part of the 2^32 floats that an offset can span.
        let run = class.horizontal.count * self.map.channels;
        for (i, to) in to.iter_mut().enumerate() {
            *to = (i / run * self.line() + i % run) as u32;
        }
    }
}

/// Floats of a strip from a row to the next one in each dimension.
#[derive(Clone, Copy)]
pub(super) struct Steps {
    image: usize,
    line: usize,
    position: usize,
}

impl Steps {
    /// Where the row under the cursor begins to read, counted from the block's first one.
    #[inline(always)]
    pub(super) fn at(&self, block: &Block, cursor: &Cursor) -> usize {
        (cursor.image - block.images.start) * self.image
            + (cursor.line - block.lines.start) * self.line
            + cursor.position * self.position
    }
}

/// Some whole images, or some lines of one.
#[derive(Clone)]
pub(super) struct Block {
    pub images: Range<usize>,
    /// Lines of destinations, as the classes number them.
    pub lines: Range<usize>,
}

impl Block {
    /// The block's lines that a class has.
    pub(super) fn lines(&self, class: &Class) -> Range<usize> {
        self.lines.start.min(class.lines)..self.lines.end.min(class.lines)
    }

    /// The block's destinations of a class.
    pub(super) fn rows(&self, class: &Class) -> usize {
        self.images.len() * self.lines(class).len() * class.positions
    }
}

/// A cut of all destinations into blocks.
#[derive(Clone, Copy)]
pub(super) struct Blocks {
    batch: usize,
    lines: usize,
    image_parts: usize,
    line_parts: usize,
}

impl Blocks {
    /// Blocks of about `rows` rows of the largest class and at most `floats` of the strip (one line
    /// of rows at least).
    pub(super) fn new(strip: &Strip, largest: &Class, floats: usize, rows: usize) -> Self {
        let (batch, lines) = (strip.map.batch, largest.lines);
        let fitting = (floats / strip.line().max(1)).saturating_sub(strip.reach) / strip.step + 1;
        let most_lines = fitting.min((rows / largest.positions).max(1));
        if most_lines < lines {
            let line_parts = lines.div_ceil(most_lines);
            return Self { batch, lines, image_parts: batch, line_parts };
        }
        let image = strip.lines(lines) * strip.line();
        let images = (floats / image.max(1)).min(rows / (lines * largest.positions)).max(1);
        let mut image_parts = batch.div_ceil(images);
        if image_parts < 32 {
            // These spread evenly over threads.
            image_parts = image_parts.next_power_of_two().min(batch);
        }
        Self { batch, lines, image_parts, line_parts: 1 }
    }

    pub(super) fn count(self) -> usize {
        self.image_parts * self.line_parts
    }

    pub(super) fn get(self, i: usize) -> Block {
        Block {
            images: part(self.batch, 1, self.image_parts, i / self.line_parts),
            lines: part(self.lines, 1, self.line_parts, i % self.line_parts),
        }
    }

    /// The largest block's sizes.
    pub(super) fn largest(self) -> Block {
        Block {
            images: 0..self.batch.div_ceil(self.image_parts),
            lines: 0..self.lines.div_ceil(self.line_parts),
        }
    }
}

/// Walks the rows of a block: its images, their lines, their positions.
pub(super) struct Cursor {
    pub image: usize,
    pub line: usize,
    pub position: usize,
    lines: Range<usize>,
    positions: usize,
}

impl Cursor {
    #[inline(always)]
    pub(super) fn new(block: &Block, class: &Class) -> Self {
        let lines = block.lines(class);
        Self {
            image: block.images.start,
            line: lines.start,
            position: 0,
            lines,
            positions: class.positions,
        }
    }

    #[inline(always)]
    pub(super) fn advance(&mut self) {
        self.position += 1;
        if self.position == self.positions {
            self.position = 0;
            self.line += 1;
            if self.line == self.lines.end {
                self.line = self.lines.start;
                self.image += 1;
            }
        }
    }
}

/// Floats as offsets.
pub(super) fn as_offsets(floats: &mut [f32]) -> &mut [u32] {
    // SAFETY: the two types have the same size and alignment, and no bits are invalid in either.
    unsafe { std::slice::from_raw_parts_mut(floats.as_mut_ptr().cast(), floats.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every destination is in one block, and its taps are within the block's strip.
    fn check(map: Map, classes: &[Class], to: [usize; 2], floats: usize, rows: usize) {
        let strip = Strip::new(map, classes.iter().copied());
        let blocks = Blocks::new(&strip, &classes[0], floats, rows);
        let mut seen = vec![0; map.batch * to[0] * to[1]];
        for block in (0..blocks.count()).map(|i| blocks.get(i)) {
            assert!(strip.floats(&block) <= strip.floats(&blocks.largest()));
            let start = if strip.in_place { strip.source(&block).start } else { 0 };
            let len =
                if strip.in_place { map.pixels() * map.channels } else { strip.floats(&block) };
            for class in classes {
                assert!(block.rows(class) <= blocks.largest().rows(&classes[0]));
                let mut taps = vec![0; class.depth];
                strip.tap_offsets(class, &mut taps);
                let steps = strip.steps(&block, class);
                let mut cursor = Cursor::new(&block, class);
                for _ in 0..block.rows(class) {
                    let line = cursor.line * class.spacing + class.first_line;
                    let position = cursor.position * class.spacing + class.first_position;
                    seen[(cursor.image * to[0] + line) * to[1] + position] += 1;
                    let at = start + strip.origin(class) + steps.at(&block, &cursor);
                    assert!(taps.iter().all(|&tap| at + (tap as usize) < len));
                    cursor.advance();
                }
            }
        }
        assert!(seen.iter().all(|&n| n == 1), "times that each was seen: {seen:?}");
    }

    #[test]
    fn blocks_hold_every_destination_once_and_strips_what_it_reads() {
        for (kernel, stride) in [(1, 1), (1, 2), (1, 3), (3, 1), (3, 2), (3, 3), (5, 2), (7, 2)] {
            for [batch, height, width] in [[1, 1, 1], [3, 7, 8], [2, 12, 5], [5, 4, 4]] {
                let (in_channels, out_channels) = (3, 2);
                let (full_in, full_out) = (3, 2);
                let shape = ConvShape {
                    batch,
                    height,
                    width,
                    in_channels,
                    out_channels,
                    full_in,
                    full_out,
                    kernel,
                    stride,
                };
                let (input, output) = (Map::input(&shape), Map::output(&shape));
                let backward: Vec<_> =
                    (0..stride * stride).map(|i| Class::backward(&shape, i)).collect();
                for (floats, rows) in [(1, 1), (200, 9), (400, 1000), (1 << 20, 1 << 20)] {
                    let to = [output.height, output.width];
                    check(input, &[Class::forward(&shape)], to, floats, rows);
                    check(output, &backward, [height, width], floats, rows);
                }
            }
        }
    }
}
