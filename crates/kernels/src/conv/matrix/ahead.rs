//! Memory that is brought to a core's own cache while the unit multiplies, which itself reads little beyond the first cache.

use super::unit::Fetch;

/// Rows of [`FETCHED`](super::unit::FETCHED) floats.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub from: *const f32,
    pub count: usize,
    /// Floats from one to the next.
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

/// Memory that sums fetch one after the other while they are made.
pub(super) trait Prefetch {
    /// What a sum of so many steps fetches, a row at each of them; where fewer rows are left, what lies behind them, too.
    fn next(&mut self, steps: usize) -> Option<Fetch>;
}

impl<I: Iterator<Item = Rows>> Prefetch for Ahead<I> {
    #[inline]
    fn next(&mut self, steps: usize) -> Option<Fetch> {
        if self.delay > 0 {
            self.delay = self.delay.saturating_sub(steps);
            return None;
        }
        let rows = match self.first {
            Some(rows) if rows.count > 0 => rows,
            _ => self.rows.find(|rows| rows.count > 0)?,
        };
        let Rows { from, count, apart } = rows;
        let n = steps.min(count);
        self.first = Some(Rows { from: from.wrapping_add(n * apart), count: count - n, apart });
        Some(Fetch { from, apart: 4 * apart })
    }
}

impl<S: Prefetch> Prefetch for &mut S {
    #[inline]
    fn next(&mut self, steps: usize) -> Option<Fetch> {
        S::next(self, steps)
    }
}

/// Nothing.
impl Prefetch for () {
    fn next(&mut self, _: usize) -> Option<Fetch> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_fetched_once_and_not_before_the_delay() {
        let floats = [0.0f32; 64];
        let from = floats.as_ptr();
        let rows = [(0, 5, 2), (20, 0, 1), (30, 4, 3)];
        for (steps, delay) in [(1, 0), (3, 0), (4, 7), (9, 2), (100, 0)] {
            let rows =
                rows.map(|(at, count, apart)| Rows { from: from.wrapping_add(at), count, apart });
            let mut ahead = Ahead::new(rows.into_iter()).after(delay);
            let (mut found, mut waited) = (Vec::new(), 0);
            for _ in 0..200 {
                match ahead.next(steps) {
                    None if found.is_empty() => waited += steps,
                    None => break,
                    Some(Fetch { from: at, apart }) => {
                        let at = (at as usize - from as usize) / 4;
                        // As many of its steps as there are rows.
                        let end = if at < 20 { 10 } else { 42 };
                        found.extend((0..steps).map(|i| at + i * apart / 4).filter(|&at| at < end));
                    }
                }
            }
            assert_eq!(found, [0, 2, 4, 6, 8, 30, 33, 36, 39], "{steps} steps after {delay}");
            assert!(waited >= delay && waited < delay + steps, "{steps} steps after {delay}");
        }
    }
}
