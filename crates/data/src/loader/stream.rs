//! Batches prepared ahead by threads, handed out in order.

use super::{Batch, Buffers, Shared};
use crate::DataError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

/// The batches of a range of steps, in order; see [`super::Loader::stream`].
///
/// Of W threads, thread t makes the batches of steps t, t + W, t + 2W, ... after the first and
/// has a channel of its own, so taking from the channels in turn gives the batches in order.
pub struct BatchStream {
    shared: Arc<Shared>,
    next: u64,
    end: u64,
    threads: Vec<Worker>,
    /// Whose turn it is.
    turn: usize,
    stop: Arc<AtomicBool>,
    /// Of a stream without threads.
    buffers: Buffers,
}

struct Worker {
    batches: Receiver<Result<Batch, DataError>>,
    thread: JoinHandle<()>,
}

impl BatchStream {
    pub(super) fn new(shared: Arc<Shared>, from: u64, to: u64) -> Self {
        let n_steps = to.saturating_sub(from);
        let n_threads = n_steps.min(shared.config.workers as u64);
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for t in 0..n_threads {
            // One batch waits in the channel while the thread makes the next.
            let (sender, batches) = sync_channel(1);
            let (shared, stop) = (Arc::clone(&shared), Arc::clone(&stop));
            let work = move || make(&shared, from + t, to, n_threads, &sender, &stop);
            // A system out of threads leaves fewer of them; with none, the caller's does it all.
            match thread::Builder::new().name(format!("loader {t}")).spawn(work) {
                Ok(thread) => threads.push(Worker { batches, thread }),
                Err(_) => break,
            }
        }
        let mut stream = Self {
            shared,
            next: from,
            end: from.max(to),
            threads,
            turn: 0,
            stop,
            buffers: Buffers::default(),
        };
        if (stream.threads.len() as u64) < n_threads {
            stream.join(); // the stride assumed all of them
        }
        stream
    }

    /// Stops the threads and waits for them.
    fn join(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for Worker { batches, thread } in self.threads.drain(..) {
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
    first: u64,
    end: u64,
    stride: u64,
    sender: &SyncSender<Result<Batch, DataError>>,
    stop: &AtomicBool,
) {
    let mut buffers = Buffers::default();
    let mut step = Some(first);
    while let Some(current) = step.filter(|&step| step < end) {
        let go_on = || !stop.load(Ordering::Relaxed);
        let Some(result) = shared.assemble(current, &mut buffers, go_on).transpose() else {
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
        let result = if self.threads.is_empty() {
            self.shared.assemble(step, &mut self.buffers, || true).transpose()?
        } else {
            let received = self.threads[self.turn].batches.recv();
            self.turn = (self.turn + 1) % self.threads.len();
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
