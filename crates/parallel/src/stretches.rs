//! Handing out tasks so that a thread works on what it worked on before.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Most stretches of tasks.
const MOST: usize = 16;

/// Lists of tasks of one length, cut into at most 16 stretches of neighbours in all, to be handed out
/// once. Every thread starts with a stretch of its own, or with more than 16 threads shares it, and
/// goes on with others when that is done. What one kernel left in a core's cache, the next then finds
/// there, if it goes through its pixels in the same order.
pub struct Stretches {
    /// Tasks of a list.
    len: usize,
    /// Stretches of a list.
    per_list: usize,
    count: usize,
    threads: usize,
    /// Tasks handed out of each.
    handed_out: [Counter; MOST],
}

/// On a line of its own.
#[repr(align(128))]
struct Counter(AtomicUsize);

/// One thread's way through [`Stretches`].
pub struct Walk<'a> {
    stretches: &'a Stretches,
    first: usize,
    passed: usize,
}

impl Stretches {
    /// `lists` lists, at least 1 and at most 16, of `len` tasks, for so many threads.
    pub fn new(threads: usize, lists: usize, len: usize) -> Self {
        assert!((1..=MOST).contains(&lists), "{lists} lists of tasks");
        let per_list = threads.div_ceil(lists).clamp(1, (MOST / lists).min(len.max(1)));
        let handed_out = [const { Counter(AtomicUsize::new(0)) }; MOST];
        Self { len, per_list, count: lists * per_list, threads: threads.max(1), handed_out }
    }

    /// Most threads that find something to do.
    pub fn threads(&self) -> usize {
        self.threads.min(self.len * (self.count / self.per_list)).max(1)
    }

    /// That of a thread.
    pub fn walk(&self, thread: usize) -> Walk<'_> {
        Walk { stretches: self, first: thread * self.count / self.threads(), passed: 0 }
    }
}

impl Iterator for Walk<'_> {
    /// List and task.
    type Item = (usize, usize);

    fn next(&mut self) -> Option<(usize, usize)> {
        let Stretches { len, per_list, count, ref handed_out, .. } = *self.stretches;
        while self.passed < count {
            let stretch = (self.first + self.passed) % count;
            let (list, part) = (stretch / per_list, stretch % per_list);
            let (start, end) = (len * part / per_list, len * (part + 1) / per_list);
            // Tasks hand nothing to each other, and a job's end orders it and the next.
            let i = start + handed_out[stretch].0.fetch_add(1, Ordering::Relaxed);
            if i < end {
                return Some((list, i));
            }
            self.passed += 1;
        }
        None
    }
}
