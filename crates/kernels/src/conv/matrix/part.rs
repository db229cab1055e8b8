//! Which steps the sums of a correlation are made of, where their filters are, and which are made together.

use std::ops::Range;

use super::layout::{Edges, Images, Lines, View};
use super::planes::VISIT;
use super::unit::{BLOCK, SIDE, SUMS, Step};

/// Most steps of a visit to some planes: nine taps of one, or three taps of a line of each at points.
const LIST: usize = 9;
const _: () = assert!(3 * VISIT <= LIST);

/// The steps of all tiles' sums.
#[derive(Clone, Copy)]
pub(super) struct StepLists<'a> {
    /// Lists of [`LIST`] for every kind of [`Edges`], of which the first `counts` are there: those of a visit to
    /// planes, and those of the last visit.
    steps: &'a [Step],
    counts: [u8; 2 * Edges::KINDS],
    /// Planes of a visit.
    pub visit: usize,
}

impl<'a> StepLists<'a> {
    /// Floats of their memory.
    pub(super) const LEN: usize = 2 * 2 * Edges::KINDS * LIST;

    /// For products that are added up over `visit` planes before the sums are written, and over what is left of them at last.
    pub(super) fn new(lines: &Lines, view: &View, steps: &'a mut [Step], visit: usize) -> Self {
        let planes = lines.terms.planes();
        let last = (planes - 1) / visit * visit;
        let mut counts = [0; 2 * Edges::KINDS];
        for (i, (steps, count)) in steps.chunks_mut(LIST).zip(&mut counts).enumerate() {
            let first = if i < Edges::KINDS { 0 } else { last };
            let mut done = 0;
            for plane in first..(first + visit).min(planes) {
                let edges = Edges::kind(i % Edges::KINDS);
                let steps = &mut steps[done..];
                let more = lines.steps(view, plane, edges, steps);
                for step in &mut steps[..more] {
                    step.a += ((plane - first) * lines.plane()) as u32;
                    step.b += (lines.terms.of(first..plane) * BLOCK) as u32;
                }
                done += more;
            }
            *count = done as u8;
        }
        Self { steps, counts, visit }
    }

    pub(super) fn at(&self, last: bool, edges: Edges) -> &'a [Step] {
        let i = edges.number() + if last { Edges::KINDS } else { 0 };
        &self.steps[i * LIST..][..usize::from(self.counts[i])]
    }
}

/// A view and its sums.
pub(super) struct Part<'a> {
    pub view: &'a View,
    pub steps: StepLists<'a>,
}

/// The same with all its filters, of `operand` floats for 16 columns.
pub(super) struct Product<'a> {
    pub part: Part<'a>,
    pub b: &'a [f32],
    pub operand: usize,
}

impl Product<'_> {
    /// The operand of a column for a plane of a line of taps, or for one of a point.
    pub(super) fn filters(&self, column: usize, line: usize, plane: usize) -> *const u8 {
        let b: *const u8 = self.b[column * self.operand..].as_ptr().cast();
        b.wrapping_add(self.part.view.terms.place(line, plane) * BLOCK)
    }
}

/// Tiles whose sums are made together: some rows of some lines, or of all points, for some columns.
pub(super) struct Group<'a> {
    pub part: &'a Part<'a>,
    pub lines: Range<usize>,
    pub rows: Range<usize>,
    pub columns: Range<usize>,
}

impl Group<'_> {
    /// Tiles of a line.
    pub(super) fn tiles(&self) -> usize {
        self.rows.len().div_ceil(SIDE)
    }

    /// Where the sums of a column's line begin.
    pub(super) fn sums(&self, column: usize, line: usize) -> usize {
        (column * self.lines.len() + line) * self.tiles() * SUMS
    }

    /// Pixels of a line.
    pub(super) fn pixels(&self, Images { images, .. }: Images) -> Range<usize> {
        self.rows.start / images..self.rows.end / images
    }

    /// Where the first column's sums of a pixel of an image are.
    pub(super) fn sum(
        &self,
        Images { images, .. }: Images,
        line: usize,
        x: usize,
        n: usize,
    ) -> usize {
        self.sums(0, line) + (x * images + n - self.rows.start) * SIDE
    }
}
