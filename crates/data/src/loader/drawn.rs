//! Which images a step holds: by the loader's own order, or as the caller has drawn them.

use super::order::Positions;
use crate::DataError;
use slimtau_base::{Stream, stream};
use std::sync::Arc;

/// The mapping from steps to images.
pub(super) enum Places {
    /// Epochs in an order of the loader's.
    Ordered(Positions),
    /// The caller's choice.
    Drawn(Drawn),
}

impl Places {
    pub(super) fn steps_per_epoch(&self) -> u64 {
        match self {
            Self::Ordered(positions) => positions.steps_per_epoch(),
            Self::Drawn(drawn) => drawn.end - drawn.first,
        }
    }

    /// Epoch (drawn: number of the place, from step 0) and image of each place of a step.
    pub(super) fn of_step(&self, step: u64) -> Result<Vec<(u64, u32)>, DataError> {
        match self {
            Self::Ordered(positions) => positions.of_step(step),
            Self::Drawn(drawn) => drawn.of_step(step),
        }
    }

    /// The random numbers that augment an image at one place.
    pub(super) fn augmentation(&self, seed: u64, n_images: usize, at: u64, image: u32) -> Stream {
        match self {
            // Unique to (epoch, image), so it matters neither in which batch an image comes nor
            // which thread handles it. Wrapping could only repeat a stream after 2^64 images.
            Self::Ordered(_) => {
                let number = at.wrapping_mul(n_images as u64).wrapping_add(image.into());
                stream(seed, "augment", number)
            }
            // An image may be there twice, so that (epoch, image) would be the same twice.
            Self::Drawn(_) => stream(seed, "augment.drawn", at),
        }
    }
}

/// Images for the steps `first..end`.
pub(super) struct Drawn {
    first: u64,
    end: u64,
    batch: usize,
    images: Arc<[u32]>,
}

impl Drawn {
    pub(super) fn new(
        n_images: usize,
        batch: usize,
        first: u64,
        images: Arc<[u32]>,
    ) -> Result<Self, DataError> {
        if images.is_empty() || !images.len().is_multiple_of(batch) {
            let expected = format!("one or more whole batches of {batch}");
            return Err(DataError::setting("number of drawn images", images.len(), expected));
        }
        if let Some(image) = images.iter().find(|&&i| i as usize >= n_images) {
            return Err(DataError::setting("drawn image", image, format!("below {n_images}")));
        }
        let end = first.checked_add((images.len() / batch) as u64);
        let end = end.filter(|end| end.checked_mul(batch as u64).is_some());
        let end = end.ok_or(DataError::StepOutOfRange { step: first, batch })?;
        Ok(Self { first, end, batch, images })
    }

    fn of_step(&self, step: u64) -> Result<Vec<(u64, u32)>, DataError> {
        let Self { first, end, batch, .. } = *self;
        if !(first..end).contains(&step) {
            return Err(DataError::StepNotDrawn { step, first, end });
        }
        let begin = (step - first) as usize * batch;
        let images = &self.images[begin..begin + batch];
        Ok((step * batch as u64..).zip(images.iter().copied()).collect())
    }
}
