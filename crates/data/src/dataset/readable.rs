//! Going on without images that cannot be decoded: replaced in training, left out of evaluation.

use super::Subset;
use crate::{DataError, Dataset};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// Told of each image that cannot be decoded, once: which, and what is wrong with it.
type Report = dyn Fn(usize, &DataError) + Send + Sync;

/// Another dataset in which an image that cannot be decoded is replaced by the next of the same class that can, in
/// the dataset's order, the first following the last. Labels, and the number of images in each class,
/// stay as they are, and which image replaces which depends on nothing but the files.
///
/// A file that cannot be read at all remains an error: a disk that fails for a moment must not change a run.
#[derive(Clone)]
pub struct Replaced {
    dataset: Arc<dyn Dataset>,
    /// Those found so far. They only keep a report from coming twice.
    reported: Arc<Mutex<BTreeSet<usize>>>,
    report: Arc<Report>,
}

impl Replaced {
    /// `report` is told of each replaced image when it is first met, from the thread that met it.
    pub fn new(
        dataset: Arc<dyn Dataset>,
        report: impl Fn(usize, &DataError) + Send + Sync + 'static,
    ) -> Self {
        Self { dataset, reported: Arc::default(), report: Arc::new(report) }
    }

    fn met(&self, i: usize, error: &DataError) {
        // Reported under the lock: reports come one at a time.
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        if reported.insert(i) {
            (self.report)(i, error);
        }
    }
}

impl Dataset for Replaced {
    fn len(&self) -> usize {
        self.dataset.len()
    }

    fn classes(&self) -> usize {
        self.dataset.classes()
    }

    fn channels(&self) -> usize {
        self.dataset.channels()
    }

    fn size(&self) -> usize {
        self.dataset.size()
    }

    fn label(&self, i: usize) -> u32 {
        self.dataset.label(i)
    }

    /// # Errors
    /// When the image and every other of its class cannot be decoded (its own error), or a file cannot be read.
    fn image(&self, i: usize, pixels: &mut Vec<u8>) -> Result<(usize, usize), DataError> {
        let own = match self.dataset.image(i, pixels) {
            Err(error @ DataError::Decode { .. }) => error,
            result => return result,
        };
        self.met(i, &own);
        let label = self.label(i);
        for k in (i + 1..self.len()).chain(0..i).filter(|&k| self.label(k) == label) {
            match self.dataset.image(k, pixels) {
                Err(error @ DataError::Decode { .. }) => self.met(k, &error),
                result => return result,
            }
        }
        Err(own)
    }

    fn decodes(&self) -> bool {
        self.dataset.decodes()
    }

    fn describe(&self) -> String {
        format!(
            "{}, those that cannot be decoded replaced by the next of their class",
            self.dataset.describe()
        )
    }
}

/// The images of a dataset that can be decoded, found by decoding each of them, in `threads` threads (at least
/// one); `report` is told of the others, in their order. Where all can be, the dataset itself.
///
/// # Errors
/// When none can be decoded, or a file cannot be read.
pub fn readable(
    dataset: Arc<dyn Dataset>,
    threads: usize,
    mut report: impl FnMut(usize, &DataError),
) -> Result<Arc<dyn Dataset>, DataError> {
    let next = AtomicUsize::new(0);
    let scan = || {
        let (mut pixels, mut failed) = (Vec::new(), Vec::new());
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= dataset.len() {
                return failed;
            }
            if let Err(error) = dataset.image(i, &mut pixels) {
                failed.push((i, error));
            }
        }
    };
    let mut failed = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(scan)).collect();
        let mut failed = scan();
        for other in others {
            failed.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        failed
    });
    failed.sort_by_key(|(i, _)| *i);
    if let Some(k) = failed.iter().position(|(_, e)| !matches!(e, DataError::Decode { .. })) {
        return Err(failed.swap_remove(k).1);
    }
    if failed.is_empty() {
        return Ok(dataset);
    }
    failed.iter().for_each(|(i, error)| report(*i, error));
    if failed.len() == dataset.len() {
        return Err(failed.swap_remove(0).1);
    }
    let without: BTreeSet<usize> = failed.iter().map(|(i, _)| *i).collect();
    let kept = (0..dataset.len()).filter(|i| !without.contains(i)).map(|i| i as u32).collect();
    let what = format!("all but {} that cannot be decoded", without.len());
    Ok(Arc::new(Subset::new(dataset, kept, what)?))
}
