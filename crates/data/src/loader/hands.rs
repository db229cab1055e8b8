//! Who prepares the images of a batch: the thread that asks for it, or several at once.

use crate::{DataError, Scratch};
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::sync::{Mutex, PoisonError};

/// Buffers of one image in the making.
#[derive(Default)]
pub(super) struct Buffers {
    pub pixels: Vec<u8>,
    pub scratch: Scratch,
}

/// The threads of a loader and their buffers.
#[derive(Default)]
pub(super) struct Hands {
    /// None: the thread that asks does it all.
    pool: Option<ThreadPool>,
    spare: Mutex<Vec<Buffers>>,
}

/// Why not every image was made.
pub(super) enum Ended {
    /// Nobody wants the batch any more.
    Stopped,
    Failed(DataError),
}

impl Hands {
    /// So many threads. One needs none besides that which asks; nor are there others where the system has none left.
    pub fn new(workers: usize) -> Self {
        let named = |i| format!("loader {i}");
        let pool = || ThreadPoolBuilder::new().num_threads(workers).thread_name(named).build().ok();
        let pool = if workers > 1 { pool() } else { None };
        Self { pool, spare: Mutex::default() }
    }

    /// Calls `make` with each of `images`, until all are made, one fails, or `go_on` says no. Of several that fail it is
    /// the first in order that counts, whichever was met first.
    pub fn each<T: Send>(
        &self,
        images: Vec<T>,
        go_on: impl Fn() -> bool + Sync,
        make: impl Fn(&mut Buffers, T) -> Result<(), DataError> + Sync,
    ) -> Result<(), Ended> {
        let one = |image| {
            if !go_on() {
                return Some(Ended::Stopped);
            }
            // Taken and put back, not the thread's own: a dataset that uses threads itself may have this one begin
            // another image before this is done.
            let mut buffers = self.lock().pop().unwrap_or_default();
            let made = make(&mut buffers, image);
            self.lock().push(buffers);
            made.err().map(Ended::Failed)
        };
        let ended = match &self.pool {
            // Files differ too much in size to be dealt out beforehand.
            Some(pool) => {
                pool.install(|| images.into_par_iter().with_max_len(1).find_map_first(one))
            }
            None => images.into_iter().find_map(one),
        };
        ended.map_or(Ok(()), Err)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Buffers>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
