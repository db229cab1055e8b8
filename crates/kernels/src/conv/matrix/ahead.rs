//! Memory that is brought to a core's own cache while the unit multiplies, which itself reads little beyond the first cache.

use super::unit::Fetch;

/// Rows of [`FETCHED`](super::unit::FETCHED) floats, `apart` floats from one to the next.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub from: *const f32,
    pub count: usize,
    pub apart: usize,
}

/// What is left to be fetched of some rows.
pub(super) struct Ahead<I> {
    rows: I,
    first: Option<Rows>,
    /// Steps before it begins.
    delay: usize,
}

impl<I: Iterator<Item = Rows>> Ahead<I> {
    pub(super) fn new(rows: I) -> Self {
        Self { rows, first: None, delay: 0 }
    }

    /// Not before so many steps.
    pub(super) fn after(self, delay: usize) -> Self {
        Self { delay, ..self }
    }
}

/// What a sum fetches.
pub(super) trait Source {
    /// For up to so many steps.
    fn next(&mut self, steps: usize) -> Option<Fetch>;
}

impl<I: Iterator<Item = Rows>> Source for Ahead<I> {
    #[inline]
    fn next(&mut self, steps: usize) -> Option<Fetch> {
        if self.delay > 0 {
            self.delay = self.delay.saturating_sub(steps);
            return None;
        }
        let rows = match self.first {
            Some(rows) if rows.count > 0 => rows,
            _ => self.rows.next()?,
        };
        let Rows { from, count, apart } = rows;
        let n = steps.min(count);
        self.first = Some(Rows { from: from.wrapping_add(n * apart), count: count - n, apart });
        Some(Fetch { from, apart: 4 * apart })
    }
}

impl<S: Source> Source for &mut S {
    #[inline]
    fn next(&mut self, steps: usize) -> Option<Fetch> {
        S::next(self, steps)
    }
}

/// Nothing.
impl Source for () {
    fn next(&mut self, _: usize) -> Option<Fetch> {
        None
    }
}
