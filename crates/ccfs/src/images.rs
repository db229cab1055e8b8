//! PA&DA's data: training images drawn in proportion to their gradient norms.

use crate::importance::Importance;
use rand::RngExt;
use slimtau_base::{FileError, TensorFile, stream};
use std::path::Path;

/// Sampling probabilities of the training images, learned from their gradient norms (Lu et al.,
/// PA&DA, CVPR 2023).
///
/// An image's norm is that of its loss's gradient at the logits, which bounds the norm of its gradient
/// at the weights up to a factor common to all images (Katharopoulos and Fleuret, Not All Samples Are
/// Created Equal, 2018) and costs nothing, since the backward pass starts with it. Its probability is
///
/// p = smoothing norm / sum of norms + (1 - smoothing) / images.
///
/// Draws are independent, with replacement; [`ImageImportance::weights`] makes a mean over drawn
/// images an unbiased estimate of the mean over all. The authors' code leaves the weights out, and
/// forgets norms after each epoch, whereupon an image that was not drawn counts as one of norm 0;
/// here a norm stays until the image is drawn again.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageImportance {
    importance: Importance,
    momentum: f32,
    n_images: usize,
}

impl ImageImportance {
    /// Uniform over `n_images`, at least one. `momentum`, 0 to 1, is the share of its old value that
    /// a running norm keeps with each observation; 0.5 in the authors' code.
    pub fn new(n_images: usize, momentum: f32) -> Self {
        Self { importance: Importance::new([n_images]), momentum, n_images }
    }

    /// Takes in the gradient norms of a batch: `norms[i]` is that of `images[i]`, which may occur
    /// more than once. A norm that is not finite is passed over.
    ///
    /// # Panics
    /// When the lengths differ, or an image is not below the number of images.
    pub fn observe(&mut self, images: &[u32], norms: &[f32]) {
        assert_eq!(images.len(), norms.len(), "one norm per image");
        for (&image, &norm) in images.iter().zip(norms) {
            self.importance.observe(0, image as usize, norm, self.momentum);
        }
    }

    /// Makes the probabilities in force from the norms observed so far. `smoothing`, 0 to 1, is
    /// their weight against uniform; no weight exceeds 1 / (1 - smoothing).
    pub fn update(&mut self, smoothing: f32) {
        self.importance.update(smoothing);
    }

    /// The `n` images of a period: a function of the probabilities in force, seed and period.
    pub fn draw(&self, seed: u64, period: u64, n: usize) -> Vec<u32> {
        let mut sum = 0.0;
        let add = |&p: &f32| {
            sum += f64::from(p);
            sum
        };
        let sums: Vec<f64> = self.probabilities().iter().map(add).collect();
        // The first image at which the whole sum is reached: none after it has a probability.
        let last = sums.partition_point(|&s| s < sum);
        let mut rng = stream(seed, "pa-da.images", period);
        let mut one = || {
            let at = rng.random::<f64>() * sum;
            sums.partition_point(|&s| s <= at).min(last) as u32
        };
        (0..n).map(|_| one()).collect()
    }

    /// What the loss of a drawn image is multiplied by, 1 / (images p): the mean over draws of weight
    /// times loss has the plain mean over all images as its expectation.
    pub fn weights(&self, images: &[u32], weights: &mut Vec<f32>) {
        let probabilities = self.probabilities();
        let total: f64 = probabilities.iter().map(|&p| f64::from(p)).sum();
        let mean = total / self.n_images as f64;
        weights.clear();
        weights
            .extend(images.iter().map(|&i| (mean / f64::from(probabilities[i as usize])) as f32));
    }

    /// The probabilities in force, of every image; they sum to 1 up to rounding.
    pub fn probabilities(&self) -> &[f32] {
        self.importance.probabilities(0)
    }

    /// Adds the state to a file, as tensors whose names begin with `prefix`.
    pub fn save(&self, prefix: &str, file: &mut TensorFile) {
        self.importance.save(prefix, file);
    }

    /// Goes on from a saved state; `path` is for messages.
    ///
    /// # Errors
    /// When a tensor is missing or of another number of images. The state is then as it was.
    pub fn restore(
        &mut self,
        path: &Path,
        prefix: &str,
        file: &mut TensorFile,
    ) -> Result<(), FileError> {
        self.importance.restore(path, prefix, file)
    }
}
