//! Batches prepared ahead by threads, handed out in order.

use super::hands::Hands;
use super::{Batch, Shared};
use crate::DataError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

/// Batches in the making at once, where there are hands for it: while the last images of one are waited for, free
/// hands go on with the next.
const AT_ONCE: u64 = 2;

/// Batches that are ahead of the consumer at most: of each line one waits in its channel while the next is made.
pub(super) const MOST_AHEAD: usize = 2 * AT_ONCE as usize;

/// The batches of a range of steps, in order; see [`super::Loader::stream`].
///
/// Batches come in one line, or with two workers and more in two, of which each has every second batch and a channel
/// of its own, so taking from the channels in turn gives the batches in order. All workers share the images of
/// the batches in the making, so that how many are made at once, and their memory, does not depend on the workers.
pub struct BatchStream {
    shared: Arc<Shared>,
    next: u64,
    end: u64,
    lines: Vec<Line>,
    /// Whose turn it is.
    turn: usize,
    stop: Arc<AtomicBool>,
    /// The caller's own, of a stream without threads.
    hands: Arc<Hands>,
}

struct Line {
    batches: Receiver<Result<Batch, DataError>>,
    thread: JoinHandle<()>,
}

impl BatchStream {
    pub(super) fn new(shared: Arc<Shared>, from: u64, to: u64) -> Self {
        let workers = shared.config.workers;
        let n_lines = AT_ONCE.min(to.saturating_sub(from)).min(workers as u64);
        let stop = Arc::new(AtomicBool::new(false));
        let hands = Arc::new(if n_lines > 0 { Hands::new(workers) } else { Hands::default() });
        let mut lines = Vec::new();
        for t in 0..n_lines {
            let (sender, batches) = sync_channel(1);
            let (shared, stop, hands) = (Arc::clone(&shared), stop.clone(), Arc::clone(&hands));
            let work = move || make(&shared, &hands, from + t, to, n_lines, &sender, &stop);
            // A system out of threads leaves fewer of them; with none, the caller's does it all.
            match thread::Builder::new().name(format!("batches {t}")).spawn(work) {
                Ok(thread) => lines.push(Line { batches, thread }),
                Err(_) => break,
            }
        }
        let mut stream =
            Self { shared, next: from, end: from.max(to), lines, turn: 0, stop, hands };
        if (stream.lines.len() as u64) < n_lines {
            stream.join(); // the stride assumed all of them
        }
        stream
    }

    /// Stops the threads and waits for them.
    fn join(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for Line { batches, thread } in self.lines.drain(..) {
            // A thread that waits for room in its channel must hear that nobody reads it.
            drop(batches);
            // A panic in it was reported when its batch was due, or concerns a batch nobody wants.
            let _ = thread.join();
        }
    }
}

/// Makes the batches of steps `first`, `first + stride`, ... below `end`.
fn make(
    shared: &Shared,
    hands: &Hands,
    first: u64,
    end: u64,
    stride: u64,
    sender: &SyncSender<Result<Batch, DataError>>,
    stop: &AtomicBool,
) {
    let mut step = Some(first);
    while let Some(current) = step.filter(|&step| step < end) {
        let go_on = || !stop.load(Ordering::Relaxed);
        let Some(result) = shared.assemble(current, hands, go_on).transpose() else {
            return;
        };
        let failed = result.is_err();
        if sender.send(result).is_err() || failed {
            return;
        }
        step = current.checked_add(stride);
    }
}

impl Iterator for BatchStream {
    type Item = Result<Batch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.end {
            self.join();
            return None;
        }
        let step = self.next;
        let result = if self.lines.is_empty() {
            self.shared.assemble(step, &self.hands, || true).transpose()?
        } else {
            let received = self.lines[self.turn].batches.recv();
            self.turn = (self.turn + 1) % self.lines.len();
            // The channel closes without a batch only when the thread unwound.
            received.unwrap_or(Err(DataError::WorkerPanicked { step }))
        };
        self.next = if result.is_ok() { step + 1 } else { self.end };
        Some(result)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::try_from(self.end - self.next).ok();
        ((self.end - self.next).min(1) as usize, left) // an error may end it early
    }
}

impl std::iter::FusedIterator for BatchStream {}

impl Drop for BatchStream {
    fn drop(&mut self) {
        self.join();
    }
}
