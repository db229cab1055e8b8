//! Which images step s holds: shuffling, epochs, and batches that straddle them.

use crate::{DataError, dataset::shuffle};
use slimtau_base::stream;
use std::sync::{Arc, Mutex, PoisonError};

/// In which order an epoch visits the images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// A new permutation each epoch, decided by (seed, epoch).
    Shuffled,
    /// That of the dataset.
    Sequential,
}

/// What happens where an epoch ends within a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastBatch {
    /// The batch goes on with the next epoch's first images: image i of step s is at position
    /// p = s * batch + i, which is image p mod len of epoch p / len. Every batch is full, and may
    /// be larger than the dataset.
    Wrap,
    /// The images left over are not seen in this epoch; every epoch starts with a batch.
    Drop,
    /// The last batch of the epoch is short; every epoch starts with a batch.
    Short,
}

/// The mapping from steps to (epoch, image).
pub(super) struct Positions {
    n_images: usize,
    batch: usize,
    seed: u64,
    order: Order,
    last_batch: LastBatch,
    /// The permutations drawn last, newest first: enough for threads around an epoch's end.
    recent: Mutex<Vec<(u64, Arc<Vec<u32>>)>>,
}

impl Positions {
    pub(super) fn new(
        n_images: usize,
        batch: usize,
        seed: u64,
        order: Order,
        last_batch: LastBatch,
    ) -> Result<Self, DataError> {
        if n_images == 0 || u32::try_from(n_images).is_err() {
            return Err(DataError::setting("images in the dataset", n_images, "1 to 2^32 - 1"));
        }
        if batch == 0 {
            return Err(DataError::setting("batch size", batch, "at least 1"));
        }
        if last_batch == LastBatch::Drop && batch > n_images {
            let expected = format!("at most the {n_images} images, as the last batch is dropped");
            return Err(DataError::setting("batch size", batch, expected));
        }
        Ok(Self { n_images, batch, seed, order, last_batch, recent: Mutex::default() })
    }

    pub(super) fn steps_per_epoch(&self) -> u64 {
        let steps = match self.last_batch {
            LastBatch::Drop => self.n_images / self.batch,
            LastBatch::Wrap | LastBatch::Short => self.n_images.div_ceil(self.batch),
        };
        steps as u64
    }

    /// (epoch, image) of each place in the batch of `step`.
    pub(super) fn of_step(&self, step: u64) -> Result<Vec<(u64, u32)>, DataError> {
        let n = self.n_images as u64;
        let batch = self.batch as u64;
        let (mut epoch, mut place, mut left) = match self.last_batch {
            LastBatch::Wrap => {
                let first = step.checked_mul(batch).filter(|p| p.checked_add(batch).is_some());
                let first = first.ok_or(DataError::StepOutOfRange { step, batch: self.batch })?;
                (first / n, first % n, batch)
            }
            LastBatch::Drop | LastBatch::Short => {
                let per_epoch = self.steps_per_epoch();
                let place = step % per_epoch * batch; // below n, as whole batches come before it
                (step / per_epoch, place, batch.min(n - place))
            }
        };
        let mut draws = Vec::with_capacity(left as usize);
        while left > 0 {
            let taken = left.min(n - place);
            let places = place..place + taken;
            match self.order {
                Order::Sequential => draws.extend(places.map(|i| (epoch, i as u32))),
                Order::Shuffled => {
                    let permutation = self.permutation(epoch);
                    let images = &permutation[places.start as usize..places.end as usize];
                    draws.extend(images.iter().map(|&i| (epoch, i)));
                }
            }
            left -= taken;
            place = 0;
            epoch += 1;
        }
        Ok(draws)
    }

    /// The order of an epoch. The lock is held while it is drawn: a second thread that wants the
    /// same one would otherwise draw it again.
    fn permutation(&self, epoch: u64) -> Arc<Vec<u32>> {
        const KEPT: usize = 3;
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, permutation)) = recent.iter().find(|(e, _)| *e == epoch) {
            return Arc::clone(permutation);
        }
        let mut permutation: Vec<u32> = (0..self.n_images as u32).collect();
        shuffle(&mut permutation, &mut stream(self.seed, "shuffle", epoch));
        let permutation = Arc::new(permutation);
        recent.insert(0, (epoch, Arc::clone(&permutation)));
        recent.truncate(KEPT);
        permutation
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn positions(n: usize, batch: usize, order: Order, last: LastBatch) -> Positions {
        Positions::new(n, batch, 7, order, last).unwrap()
    }

    #[track_caller]
    fn check(n: usize, batch: usize, last: LastBatch, expect: &[&[(u64, u32)]]) {
        let positions = positions(n, batch, Order::Sequential, last);
        for (step, expect) in expect.iter().enumerate() {
            assert_eq!(positions.of_step(step as u64).unwrap(), *expect, "step {step}");
        }
    }

    #[test]
    fn where_epochs_end() {
        let wrapped: &[&[(u64, u32)]] = &[&[(0, 0), (0, 1)], &[(0, 2), (1, 0)], &[(1, 1), (1, 2)]];
        check(3, 2, LastBatch::Wrap, wrapped);
        check(3, 2, LastBatch::Short, &[&[(0, 0), (0, 1)], &[(0, 2)], &[(1, 0), (1, 1)]]);
        check(3, 2, LastBatch::Drop, &[&[(0, 0), (0, 1)], &[(1, 0), (1, 1)]]);
        let large: &[&[(u64, u32)]] =
            &[&[(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)], &[(2, 1), (3, 0), (3, 1), (4, 0), (4, 1)]];
        check(2, 5, LastBatch::Wrap, large);
        check(2, 5, LastBatch::Short, &[&[(0, 0), (0, 1)], &[(1, 0), (1, 1)]]);
        for (last, expect) in [(LastBatch::Wrap, 4), (LastBatch::Short, 4), (LastBatch::Drop, 3)] {
            assert_eq!(positions(10, 3, Order::Sequential, last).steps_per_epoch(), expect);
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let error = |n, batch, last| {
            Positions::new(n, batch, 0, Order::Shuffled, last).err().unwrap().to_string()
        };
        assert_eq!(error(5, 0, LastBatch::Wrap), "batch size is 0, expected at least 1");
        assert_eq!(
            error(5, 6, LastBatch::Drop),
            "batch size is 6, expected at most the 5 images, as the last batch is dropped"
        );
        assert!(error(0, 1, LastBatch::Wrap).starts_with("images in the dataset is 0"));
        let error = positions(5, 4, Order::Shuffled, LastBatch::Wrap).of_step(1 << 62);
        assert!(matches!(error, Err(DataError::StepOutOfRange { .. })));
        assert!(positions(5, 4, Order::Shuffled, LastBatch::Short).of_step(u64::MAX).is_ok());
    }

    #[test]
    fn order_is_pinned() {
        // A change here silently changes every published result: bump the major version instead.
        let positions = positions(10, 10, Order::Shuffled, LastBatch::Wrap);
        let images: Vec<u32> = positions.of_step(3).unwrap().iter().map(|d| d.1).collect();
        assert_eq!(images, PINNED);
    }
    const PINNED: [u32; 10] = [4, 2, 8, 1, 6, 0, 5, 9, 3, 7];

    proptest! {
        #[test]
        fn every_image_once_per_epoch(n in 1usize..60, batch in 1usize..80, seed: u64) {
            for last in [LastBatch::Wrap, LastBatch::Short] {
                let positions = Positions::new(n, batch, seed, Order::Shuffled, last).unwrap();
                let mut times = vec![[0; 3]; n];
                // Enough steps for epochs 0 to 2 to be complete in either mode.
                for step in 0..3 * positions.steps_per_epoch() {
                    for (epoch, image) in positions.of_step(step).unwrap() {
                        if epoch < 3 {
                            times[image as usize][epoch as usize] += 1;
                        }
                    }
                }
                prop_assert_eq!(&times, &vec![[1; 3]; n]);
            }
        }

        #[test]
        fn steps_do_not_depend_on_what_was_asked_before(step in 0u64..500, n in 1usize..40) {
            let fresh = positions(n, 7, Order::Shuffled, LastBatch::Wrap);
            let used = positions(n, 7, Order::Shuffled, LastBatch::Wrap);
            for other in [step + 90, 0, step / 2, step + 1] {
                used.of_step(other).unwrap();
            }
            prop_assert_eq!(fresh.of_step(step).unwrap(), used.of_step(step).unwrap());
        }
    }
}
