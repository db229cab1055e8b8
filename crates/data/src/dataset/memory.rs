//! A dataset's images read once and kept: for those that are costly to read again and again.

use crate::{DataError, Dataset};
use std::sync::Arc;

/// Another dataset with all of its images in memory, decoded or composed once.
#[derive(Clone)]
pub struct InMemory {
    dataset: Arc<dyn Dataset>,
    pixels: Vec<u8>,
    /// Where each image begins, with its height and width.
    places: Vec<(usize, usize, usize)>,
}

impl InMemory {
    /// Reads every image of `dataset`; takes height x width x channels bytes for each.
    ///
    /// # Errors
    /// When an image cannot be read.
    pub fn new(dataset: Arc<dyn Dataset>) -> Result<Self, DataError> {
        let (mut pixels, mut one) = (Vec::new(), Vec::new());
        let mut places = Vec::with_capacity(dataset.len());
        for i in 0..dataset.len() {
            let (height, width) = dataset.image(i, &mut one)?;
            places.push((pixels.len(), height, width));
            pixels.extend_from_slice(&one);
        }
        Ok(Self { dataset, pixels, places })
    }
}

impl Dataset for InMemory {
    fn len(&self) -> usize {
        self.places.len()
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

    fn image(&self, i: usize, pixels: &mut Vec<u8>) -> Result<(usize, usize), DataError> {
        let (begin, height, width) = self.places[i];
        let len = height * width * self.channels();
        pixels.clear();
        pixels.extend_from_slice(&self.pixels[begin..begin + len]);
        Ok((height, width))
    }

    fn describe(&self) -> String {
        self.dataset.describe()
    }
}
