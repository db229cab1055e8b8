//! From stored pixels to network input: which augmentation, then normalisation.

use crate::transform::{CropFlip, EvalCrop, MocoViews, Pixels, ResizedCropFlip, Taps};
use crate::{DataError, Normalization};
use slimtau_base::Stream;

/// What is made of each image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pipeline {
    /// One view without randomness.
    Eval(EvalCrop),
    /// One view for training on small images.
    CropFlip(CropFlip),
    /// One view for training on large images.
    ResizedCropFlip(ResizedCropFlip),
    /// Two independent views for contrastive learning.
    TwoViews(MocoViews),
}

/// Buffers that transforms reuse from image to image; what is in them never matters.
#[derive(Clone, Debug, Default)]
pub struct Scratch {
    pub(crate) rows: Taps,
    pub(crate) columns: Taps,
    pub(crate) line: Vec<f32>,
    pub(crate) image: Vec<f32>,
    pub(crate) kernel: Vec<f32>,
}

impl Pipeline {
    /// Views per image, 1 or 2.
    pub fn n_views(&self) -> usize {
        if matches!(self, Self::TwoViews(_)) { 2 } else { 1 }
    }

    /// Refuses settings out of range.
    ///
    /// # Errors
    /// Names the setting, its value and its range.
    pub fn check(&self) -> Result<(), DataError> {
        match self {
            Self::Eval(config) => config.check(),
            Self::CropFlip(config) => config.check(),
            Self::ResizedCropFlip(config) => config.check(),
            Self::TwoViews(config) => config.check(),
        }
    }

    /// Writes one view of an image, `[size, size, channels]`, normalised, to `out`.
    ///
    /// # Panics
    /// When `out` is of another size, or `pixels` disagrees with its own shape.
    pub fn view(
        &self,
        pixels: Pixels<'_>,
        size: usize,
        normalization: &Normalization,
        rng: &mut Stream,
        scratch: &mut Scratch,
        out: &mut [f32],
    ) {
        assert_eq!(out.len(), size * size * pixels.channels, "output of another size");
        match self {
            Self::Eval(config) => config.apply(pixels, size, scratch, out),
            Self::CropFlip(config) => config.apply(pixels, size, rng, scratch, out),
            Self::ResizedCropFlip(config) => config.apply(pixels, size, rng, scratch, out),
            Self::TwoViews(config) => config.apply(pixels, size, rng, scratch, out),
        }
        normalization.apply(out);
    }
}
