//! Spreading tasks over the ambient pool, with working memory for each thread.

use std::marker::PhantomData;
use std::ops::Range;

use super::simd::LANES;
use slimtau_parallel::{Chunks, Stretches, chunks_mut, run};

/// Working memory of each thread, in floats: a whole number of cache lines, and not a multiple of
/// a page, so that two threads' buffers do not contend for the same cache sets.
pub(super) fn lane_len(floats: usize) -> usize {
    floats.next_multiple_of(1024) + 64
}

/// Runs `task(i, lane)` for every `i < tasks`. `lanes` is cut into pieces of `lane` floats; each
/// thread keeps one for as long as there are tasks and takes the next task when it is free.
pub(super) fn for_each_task(
    tasks: usize,
    lanes: &mut [f32],
    lane: usize,
    task: impl Fn(usize, &mut [f32]) + Sync,
) {
    let lists = Lists { count: 1, len: tasks };
    for_each_in_lists(lists, lanes, lane, (), |_, i, (), lane| task(i, lane));
}

/// Lists of tasks of one length, at most 16.
#[derive(Clone, Copy)]
pub(super) struct Lists {
    pub count: usize,
    pub len: usize,
}

/// Runs `task(list, i, kept, lane)` for every `i` of every list, with something that each thread keeps
/// from task to task beside its lane. Threads start on different lists and stay with theirs until it
/// is done: what they keep for a list is seldom made anew. Within a list, a thread's next task is most
/// often `i + 1`.
pub(super) fn for_each_in_lists<T: Clone + Send + Sync>(
    lists: Lists,
    lanes: &mut [f32],
    lane: usize,
    kept: T,
    task: impl Fn(usize, usize, &mut T, &mut [f32]) + Sync,
) {
    let stretches = Stretches::new(lanes.len() / lane, lists.count, lists.len);
    let threads = stretches.threads();
    let lanes = chunks_mut(&mut lanes[..threads * lane], lane);
    run(threads, |thread| {
        // SAFETY: there is a lane for every thread, and a thread runs once.
        let lane = unsafe { lanes.chunk(thread) };
        let mut kept = kept.clone();
        for (list, i) in stretches.walk(thread) {
            task(list, i, &mut kept, lane);
        }
    });
}

/// Part `i` of `parts` of `0..len`, as even as `step` allows.
pub(super) fn part(len: usize, step: usize, parts: usize, i: usize) -> Range<usize> {
    let steps = len.div_ceil(step);
    let at = |i: usize| (steps * i / parts * step).min(len);
    at(i)..at(i + 1)
}

/// How the columns of a product are shared out to tasks, in units of [`LANES`]: as evenly as may be.
#[derive(Clone, Copy)]
pub(super) struct Shares {
    units: usize,
    /// Units that stay together.
    step: usize,
    count: usize,
}

impl Shares {
    /// Shares of up to `widest` units.
    pub(super) fn new(columns: usize, widest: usize) -> Self {
        let units = columns.div_ceil(LANES);
        Self { units, step: 1, count: units.div_ceil(widest) }
    }

    /// Shares of up to `widest` units, whole vectors of `step` units, and as many for each thread of the
    /// ambient pool.
    pub(super) fn for_threads(columns: usize, widest: usize, step: usize) -> Self {
        let units = columns.div_ceil(LANES);
        let even = units.div_ceil(widest).next_multiple_of(rayon::current_num_threads());
        Self { units, step, count: even.min(units.div_ceil(step)) }
    }

    pub(super) fn count(self) -> usize {
        self.count
    }

    /// Columns of the widest share.
    pub(super) fn widest(self) -> usize {
        self.units.div_ceil(self.step).div_ceil(self.count) * self.step * LANES
    }

    /// Columns of share `i`, padded to whole units.
    pub(super) fn get(self, i: usize) -> Range<usize> {
        let units = part(self.units, self.step, self.count, i);
        units.start * LANES..units.end * LANES
    }
}

/// A slice that several tasks write at once, in places that do not overlap.
#[derive(Clone, Copy)]
pub(super) struct SharedMut<'a, T = f32> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: it is a `&mut [T]` that is lent to several threads; each place where one is written
// argues that no other thread touches it.
unsafe impl<T: Send> Send for SharedMut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    pub(super) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// The address of element `i`. Going through it is the caller's responsibility.
    #[inline(always)]
    pub(super) fn at(self, i: usize) -> *mut T {
        debug_assert!(i <= self.len);
        // In bounds or one past the end, as every caller's indices are.
        self.start.wrapping_add(i)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn shares_cover_all_columns_within_their_width_and_are_even() {
        for threads in [1, 2, 3, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            for columns in [1, 8, 16, 40, 136, 176, 200, 216, 256, 512] {
                let every = [Shares::new(columns, 6), Shares::new(columns, 7)];
                let for_threads = [(6, 2), (2, 1), (1, 1)].map(|(widest, step)| {
                    pool.install(|| Shares::for_threads(columns, widest, step))
                });
                for shares in every.into_iter().chain(for_threads) {
                    let mut end = 0;
                    for share in (0..shares.count()).map(|i| shares.get(i)) {
                        assert_eq!(share.start, end, "{columns} columns, {threads} threads");
                        assert!(!share.is_empty() && share.len() <= shares.widest());
                        assert!(shares.widest() - share.len() <= shares.step * LANES);
                        end = share.end;
                    }
                    assert_eq!(end, columns.next_multiple_of(LANES));
                }
                for (shares, (widest, step)) in for_threads.iter().zip([(6, 2), (2, 1), (1, 1)]) {
                    assert!(shares.widest() <= widest * LANES);
                    let vectors = columns.div_ceil(LANES).div_ceil(step);
                    assert!(shares.count() % threads == 0 || shares.count() == vectors);
                }
            }
        }
    }

    #[test]
    fn every_task_of_every_list_runs_once() {
        for threads in [1, 2, 3, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            for (count, len) in [(1, 0), (1, 7), (2, 1), (3, 5), (4, 2)] {
                let runs: Vec<_> = (0..count * len).map(|_| AtomicUsize::new(0)).collect();
                let (mut lanes, lists) = (vec![0.0; 64 * threads], Lists { count, len });
                pool.install(|| {
                    for_each_in_lists(lists, &mut lanes, 64, (), |list, i, (), _| {
                        runs[list * len + i].fetch_add(1, Ordering::Relaxed);
                    });
                });
                let once = runs.iter().all(|n| n.load(Ordering::Relaxed) == 1);
                assert!(once, "{count} lists of {len} on {threads} threads: {runs:?}");
            }
        }
    }
}
