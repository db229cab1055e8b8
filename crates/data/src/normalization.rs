//! Per-channel mean and standard deviation, and bringing images to zero mean and unit variance.

use crate::{DataError, Dataset};

/// Maps each channel of an image in \[0, 1\] to `(x - mean) / std`.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalization {
    /// Mean by channel.
    pub mean: Vec<f32>,
    /// Standard deviation by channel, above 0.
    pub std: Vec<f32>,
}

impl Normalization {
    /// Of Fashion-MNIST: mean 0.2860406 and standard deviation 0.3530242 of all pixels of the 60,000
    /// training images. (The embedded subset's own would be 0.28653 and 0.35389.)
    pub fn fashion_mnist() -> Self {
        Self { mean: vec![0.286_040_6], std: vec![0.353_024_24] }
    }

    /// The values everyone uses for ImageNet's red, green and blue.
    pub fn imagenet() -> Self {
        Self { mean: vec![0.485, 0.456, 0.406], std: vec![0.229, 0.224, 0.225] }
    }

    /// Leaves values as they are.
    pub fn identity(channels: usize) -> Self {
        Self { mean: vec![0.0; channels], std: vec![1.0; channels] }
    }

    /// Measured on `n_images` images spread evenly over a dataset (on all of them when it has
    /// fewer), every pixel counting alike. Channels that never vary get a deviation of 1.
    ///
    /// # Errors
    /// When an image cannot be read, or `n_images` is 0, or the dataset is empty.
    pub fn measure(dataset: &dyn Dataset, n_images: usize) -> Result<Self, DataError> {
        let n_images = n_images.min(dataset.len());
        if n_images == 0 {
            return Err(DataError::setting("images to measure", 0, "at least 1"));
        }
        let channels = dataset.channels();
        // Exact integer sums: the result does not depend on the order.
        let (mut sums, mut squares) = (vec![0u64; channels], vec![0u64; channels]);
        let (mut pixels, mut n_pixels) = (Vec::new(), 0u64);
        for k in 0..n_images {
            let i = (k as u64 * dataset.len() as u64 / n_images as u64) as usize;
            dataset.image(i, &mut pixels)?;
            for pixel in pixels.chunks_exact(channels) {
                for ((sum, square), &value) in sums.iter_mut().zip(&mut squares).zip(pixel) {
                    let value = u64::from(value);
                    *sum += value;
                    *square += value * value;
                }
            }
            n_pixels += (pixels.len() / channels) as u64;
        }
        let n = n_pixels as f64;
        let mean: Vec<f64> = sums.iter().map(|&sum| sum as f64 / n).collect();
        let std = squares.iter().zip(&mean).map(|(&square, mean)| {
            let variance = (square as f64 / n - mean * mean).max(0.0);
            if variance == 0.0 { 1.0 } else { (variance.sqrt() / 255.0) as f32 }
        });
        let std = std.collect();
        Ok(Self { mean: mean.iter().map(|mean| (mean / 255.0) as f32).collect(), std })
    }

    /// Refuses values that cannot be applied to images of `channels` channels.
    pub(crate) fn check(&self, channels: usize) -> Result<(), DataError> {
        let Self { mean, std } = self;
        if mean.len() != channels || !mean.iter().all(|v| v.is_finite()) {
            let expected = format!("{channels} finite values, one per channel of the dataset");
            return Err(DataError::setting("normalization mean", mean, expected));
        }
        if std.len() != channels || !std.iter().all(|v| v.is_finite() && *v > 0.0) {
            let expected = format!("{channels} values above 0, one per channel of the dataset");
            return Err(DataError::setting("normalization std", std, expected));
        }
        Ok(())
    }

    /// Normalises an image `[.., channels]` in place.
    ///
    /// # Panics
    /// When the number of values is no multiple of the number of channels.
    pub fn apply(&self, image: &mut [f32]) {
        let channels = self.mean.len();
        assert_eq!(image.len() % channels, 0, "an image of other than {channels} channels");
        if let ([mean], [std]) = (&*self.mean, &*self.std) {
            let scale = 1.0 / std;
            image.iter_mut().for_each(|v| *v = (*v - mean) * scale);
            return;
        }
        for pixel in image.chunks_exact_mut(channels) {
            for ((value, mean), std) in pixel.iter_mut().zip(&self.mean).zip(&self.std) {
                *value = (*value - mean) / std;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Source, Subset, open};
    use std::sync::Arc;

    #[test]
    fn measured_statistics_normalise() {
        let train = open(&Source::Embedded).unwrap().train;
        let measured = Normalization::measure(&*train, usize::MAX).unwrap();
        assert!((measured.mean[0] - 0.286_532_9).abs() < 1e-6, "{measured:?}");
        assert!((measured.std[0] - 0.353_888_3).abs() < 1e-6, "{measured:?}");
        // The stated constants are those of the whole set, which the subset must resemble.
        let stated = Normalization::fashion_mnist();
        assert!((measured.mean[0] - stated.mean[0]).abs() < 2e-3);
        assert!((measured.std[0] - stated.std[0]).abs() < 2e-3);
        let part = Subset::new(train, vec![5, 6], "two").unwrap();
        assert_ne!(Normalization::measure(&part, 10).unwrap(), measured);
    }

    /// One image with channel c holding `10 c + 100 (y mod 2)`.
    struct Stripes;
    impl Dataset for Stripes {
        fn len(&self) -> usize {
            1
        }
        fn classes(&self) -> usize {
            1
        }
        fn channels(&self) -> usize {
            3
        }
        fn size(&self) -> usize {
            4
        }
        fn label(&self, _: usize) -> u32 {
            0
        }
        fn image(&self, _: usize, pixels: &mut Vec<u8>) -> Result<(usize, usize), DataError> {
            pixels.clear();
            pixels.extend((0..48).map(|i| (10 * (i % 3) + 100 * (i / 12 % 2)) as u8));
            Ok((4, 4))
        }
        fn describe(&self) -> String {
            "stripes".into()
        }
    }

    #[test]
    fn channels_are_separate() {
        let stripes: Arc<dyn Dataset> = Arc::new(Stripes);
        let measured = Normalization::measure(&*stripes, 1).unwrap();
        for channel in 0..3 {
            let mean = (10.0 * channel as f32 + 50.0) / 255.0;
            assert!((measured.mean[channel] - mean).abs() < 1e-6);
            assert!((measured.std[channel] - 50.0 / 255.0).abs() < 1e-6);
        }
        let mut pixels = Vec::new();
        stripes.image(0, &mut pixels).unwrap();
        let mut image: Vec<f32> = pixels.iter().map(|&p| f32::from(p) / 255.0).collect();
        measured.apply(&mut image);
        assert!(image.iter().all(|v| (v.abs() - 1.0).abs() < 1e-4), "{image:?}");
    }

    #[test]
    fn unusable_values_are_refused() {
        Normalization::imagenet().check(3).unwrap();
        assert!(Normalization::imagenet().check(1).is_err());
        let zero = Normalization { mean: vec![0.0], std: vec![0.0] };
        let message = zero.check(1).unwrap_err().to_string();
        assert!(message.contains("normalization std is [0.0]"), "{message}");
    }
}
