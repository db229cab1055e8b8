//! The augmentations: what training, evaluation and contrastive learning each make of an image.

use super::resize::{Axis, UNIT, resample};
use super::{
    ColourJitter, Pixels, chance, flip_horizontal, gaussian_blur, greyscale, random_crop_box,
    resize, uniform,
};
use crate::{DataError, Scratch};
use rand::RngExt;
use slimtau_base::Stream;

/// Evaluation: no randomness. An image that already is a square of the right size stays as it is; any other
/// is resized so that its shorter side is `size / crop_fraction` (rounded) and its longer one in proportion
/// (rounded down), and the square of `size` in its centre is taken: torchvision's `Resize` and `CenterCrop`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EvalCrop {
    /// Side of the square in shorter sides of the resized image, above 0 and at most 1.
    pub crop_fraction: f32,
}

/// The usual 224 of 256.
impl Default for EvalCrop {
    fn default() -> Self {
        Self { crop_fraction: 0.875 }
    }
}

impl EvalCrop {
    pub(crate) fn check(&self) -> Result<(), DataError> {
        if (0.1..=1.0).contains(&self.crop_fraction) {
            return Ok(());
        }
        Err(DataError::setting("crop fraction", self.crop_fraction, "0.1 to 1"))
    }

    /// Writes `[size, size, channels]` in \[0, 1\] to `out`.
    pub(crate) fn apply(
        &self,
        pixels: Pixels<'_>,
        size: usize,
        scratch: &mut Scratch,
        out: &mut [f32],
    ) {
        if (pixels.height, pixels.width) == (size, size) {
            out.iter_mut().zip(pixels.data).for_each(|(v, &p)| *v = f32::from(p) * UNIT);
            return;
        }
        let shortest = pixels.height.min(pixels.width);
        let shorter = ((size as f32 / self.crop_fraction).round() as usize).max(size);
        // Only the square's part of the resized image is computed.
        let centred = |n: usize| {
            let resized = shorter * n / shortest;
            let scale = n as f32 / resized as f32;
            let start = half_to_even(resized - size) as f32 * scale;
            Axis { from: 0, to: n, start, extent: size as f32 * scale }
        };
        resample(pixels, centred(pixels.height), centred(pixels.width), size, scratch, out);
    }
}

/// Half of `n`, a half rounded to the even neighbour.
fn half_to_even(n: usize) -> usize {
    n / 2 + usize::from(n % 4 == 3)
}

/// Training on small images: pad with black, crop at a random place, flip.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CropFlip {
    /// Pixels of padding on each side, so shifts of up to this many.
    pub padding: usize,
    /// How often the image is mirrored, 0 to 1.
    pub flip_probability: f32,
}

/// 2 pixels (for 28 x 28; 4 is usual for 32 x 32), half of the images flipped.
impl Default for CropFlip {
    fn default() -> Self {
        Self { padding: 2, flip_probability: 0.5 }
    }
}

impl CropFlip {
    pub(crate) fn check(&self) -> Result<(), DataError> {
        if self.padding > 1 << 16 {
            return Err(DataError::setting("crop padding", self.padding, "at most 65536"));
        }
        check_probability("flip probability", self.flip_probability)
    }

    pub(crate) fn apply(
        &self,
        pixels: Pixels<'_>,
        size: usize,
        rng: &mut Stream,
        scratch: &mut Scratch,
        out: &mut [f32],
    ) {
        let channels = pixels.channels;
        let mut shift = || {
            let offset = rng.random_range(0..=2 * self.padding as u32) as isize;
            // Output position x shows input position x + shift.
            offset - self.padding as isize
        };
        let (down, right) = (shift(), shift());
        let mut image = std::mem::take(&mut scratch.image);
        image.clear();
        image.resize(out.len(), 0.0);
        EvalCrop { crop_fraction: 1.0 }.apply(pixels, size, scratch, &mut image);
        out.fill(0.0);
        let row_len = size * channels;
        let n = size.saturating_sub(right.unsigned_abs()) * channels;
        let from = right.max(0) as usize * channels;
        let to = (-right).max(0) as usize * channels;
        for (y, row) in out.chunks_exact_mut(row_len).enumerate() {
            let source = y as isize + down;
            if n > 0 && (0..size as isize).contains(&source) {
                let source = &image[source as usize * row_len..][..row_len];
                row[to..to + n].copy_from_slice(&source[from..from + n]);
            }
        }
        scratch.image = image;
        if chance(rng, self.flip_probability) {
            flip_horizontal(out, size, channels);
        }
    }
}

/// Training on large images: a random box resized to the square, then a flip.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ResizedCropFlip {
    /// Range of the box's area as a fraction of the image's, within (0, 1\].
    pub scale: (f32, f32),
    /// Range of the box's width / height, above 0.
    pub ratio: (f32, f32),
    /// How often the image is mirrored, 0 to 1.
    pub flip_probability: f32,
}

/// ImageNet's: area 0.08 to 1, ratio 3/4 to 4/3, half of the images flipped.
impl Default for ResizedCropFlip {
    fn default() -> Self {
        Self { scale: (0.08, 1.0), ratio: (3.0 / 4.0, 4.0 / 3.0), flip_probability: 0.5 }
    }
}

impl ResizedCropFlip {
    pub(crate) fn check(&self) -> Result<(), DataError> {
        check_box(self.scale, self.ratio)?;
        check_probability("flip probability", self.flip_probability)
    }

    pub(crate) fn apply(
        &self,
        pixels: Pixels<'_>,
        size: usize,
        rng: &mut Stream,
        scratch: &mut Scratch,
        out: &mut [f32],
    ) {
        let crop = random_crop_box(rng, pixels.height, pixels.width, self.scale, self.ratio);
        resize(pixels, crop, size, scratch, out);
        if chance(rng, self.flip_probability) {
            flip_horizontal(out, size, pixels.channels);
        }
    }
}

/// One of the two views of contrastive learning (MoCo v2, Chen et al. 2020, after SimCLR): random
/// resized crop, colour jitter, greyscale, blur, flip. Drawn twice per image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MocoViews {
    /// Range of the crop's area as a fraction of the image's, within (0, 1\].
    pub scale: (f32, f32),
    /// Range of the crop's width / height, above 0.
    pub ratio: (f32, f32),
    /// The change of colours.
    pub jitter: ColourJitter,
    /// How often an RGB image becomes grey, 0 to 1.
    pub greyscale_probability: f32,
    /// How often the image is blurred, 0 to 1.
    pub blur_probability: f32,
    /// Range of the blur's standard deviation in pixels of the output, above 0 and at most 100.
    pub blur_sigma: (f32, f32),
    /// How often the image is mirrored, 0 to 1.
    pub flip_probability: f32,
}

/// MoCo v2's.
impl Default for MocoViews {
    fn default() -> Self {
        Self {
            scale: (0.2, 1.0),
            ratio: (3.0 / 4.0, 4.0 / 3.0),
            jitter: ColourJitter::default(),
            greyscale_probability: 0.2,
            blur_probability: 0.5,
            blur_sigma: (0.1, 2.0),
            flip_probability: 0.5,
        }
    }
}

impl MocoViews {
    pub(crate) fn check(&self) -> Result<(), DataError> {
        check_box(self.scale, self.ratio)?;
        self.jitter.check()?;
        check_probability("greyscale probability", self.greyscale_probability)?;
        check_probability("blur probability", self.blur_probability)?;
        check_range("blur sigma", self.blur_sigma, 100.0)?;
        check_probability("flip probability", self.flip_probability)
    }

    pub(crate) fn apply(
        &self,
        pixels: Pixels<'_>,
        size: usize,
        rng: &mut Stream,
        scratch: &mut Scratch,
        out: &mut [f32],
    ) {
        let channels = pixels.channels;
        let crop = random_crop_box(rng, pixels.height, pixels.width, self.scale, self.ratio);
        resize(pixels, crop, size, scratch, out);
        self.jitter.apply(out, channels, rng);
        if chance(rng, self.greyscale_probability) {
            greyscale(out, channels);
        }
        if chance(rng, self.blur_probability) {
            let sigma = uniform(rng, self.blur_sigma);
            gaussian_blur(out, (size, size, channels), sigma, scratch);
        }
        if chance(rng, self.flip_probability) {
            flip_horizontal(out, size, channels);
        }
    }
}

pub(super) fn check_probability(setting: &'static str, value: f32) -> Result<(), DataError> {
    if (0.0..=1.0).contains(&value) {
        return Ok(());
    }
    Err(DataError::setting(setting, value, "a probability, 0 to 1"))
}

fn check_range(setting: &'static str, range: (f32, f32), at_most: f32) -> Result<(), DataError> {
    if range.0 > 0.0 && range.0 <= range.1 && range.1 <= at_most {
        return Ok(());
    }
    let expected = format!("a range (low, high) with 0 < low <= high <= {at_most}");
    Err(DataError::setting(setting, range, expected))
}

fn check_box(scale: (f32, f32), ratio: (f32, f32)) -> Result<(), DataError> {
    check_range("crop scale", scale, 1.0)?;
    check_range("crop ratio", ratio, 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use slimtau_base::stream;

    fn gradient(height: usize, width: usize) -> Vec<u8> {
        (0..height * width).map(|i| (1 + i / width + 10 * (i % width)) as u8).collect()
    }

    #[test]
    fn eval_takes_the_centre() {
        // 8 x 16: the square is columns 4..12; with fraction 0.5, rows 2..6 and columns 6..10.
        let data = gradient(8, 16);
        let pixels = Pixels { data: &data, height: 8, width: 16, channels: 1 };
        for (crop_fraction, size, top, left) in [(1.0, 8, 0, 4), (0.5, 4, 2, 6)] {
            let mut out = vec![0.0; size * size];
            EvalCrop { crop_fraction }.apply(pixels, size, &mut Scratch::default(), &mut out);
            for (i, got) in out.iter().enumerate() {
                let expect = data[(top + i / size) * 16 + left + i % size];
                assert!((got * 255.0 - f32::from(expect)).abs() < 1e-3, "{i}: {got} {expect}");
            }
        }
    }

    #[test]
    fn crop_flip_shifts_and_fills_with_black() {
        let data = gradient(5, 5); // no pixel is 0
        let pixels = Pixels { data: &data, height: 5, width: 5, channels: 1 };
        let config = CropFlip { padding: 2, flip_probability: 0.0 };
        let mut seen = std::collections::BTreeSet::new();
        for i in 0..400 {
            let mut out = vec![9.0; 25];
            let mut rng = stream(1, "test", i);
            config.apply(pixels, 5, &mut rng, &mut Scratch::default(), &mut out);
            // The output's centre is always a shown pixel; it tells the shift.
            let centre = (out[12] * 255.0).round() as isize - 1;
            let (down, right) = (centre % 10 - 2, centre / 10 - 2);
            assert!(down.abs() <= 2 && right.abs() <= 2);
            seen.insert((down, right));
            for (j, got) in out.iter().enumerate() {
                let (y, x) = (j as isize / 5 + down, j as isize % 5 + right);
                let inside = (0..5).contains(&y) && (0..5).contains(&x);
                let expect = if inside { data[(y * 5 + x) as usize] } else { 0 };
                assert_eq!((got * 255.0).round() as u8, expect, "shift {down}, {right} at {j}");
            }
        }
        assert_eq!(seen.len(), 25, "every shift occurs");
    }

    #[test]
    fn padding_beyond_the_image_is_black_not_a_panic() {
        let pixels = Pixels { data: &[255; 4], height: 2, width: 2, channels: 1 };
        let config = CropFlip { padding: 9, flip_probability: 0.5 };
        for i in 0..200 {
            let mut out = [9.0; 4];
            let mut rng = stream(1, "test", i);
            config.apply(pixels, 2, &mut rng, &mut Scratch::default(), &mut out);
            assert!(out.iter().all(|&v| v == 0.0 || v == 1.0));
        }
    }

    #[test]
    fn flips_occur_as_often_as_asked() {
        let data = gradient(4, 4);
        let pixels = Pixels { data: &data, height: 4, width: 4, channels: 1 };
        let config = CropFlip { padding: 0, flip_probability: 0.3 };
        let flipped = (0..2000).filter(|&i| {
            let mut out = vec![0.0; 16];
            let mut rng = stream(1, "test", i);
            config.apply(pixels, 4, &mut rng, &mut Scratch::default(), &mut out);
            out[0] > out[3]
        });
        let n = flipped.count();
        assert!((500..700).contains(&n), "{n} of 2000"); // 600 +- 5 standard deviations
    }

    #[test]
    fn grey_views_of_colour_images_occur_as_often_as_asked() {
        let data: Vec<u8> = [200u8, 40, 90].repeat(64);
        let pixels = Pixels { data: &data, height: 8, width: 8, channels: 3 };
        let grey = (0..2000).filter(|&i| {
            let mut out = vec![0.0; 8 * 8 * 3];
            let mut rng = stream(2, "test", i);
            MocoViews::default().apply(pixels, 8, &mut rng, &mut Scratch::default(), &mut out);
            assert!(out.iter().all(|v| (-1e-6..=1.0 + 1e-5).contains(v)));
            out.chunks_exact(3).all(|p| (p[0] - p[1]).abs() < 1e-5 && (p[1] - p[2]).abs() < 1e-5)
        });
        let n = grey.count();
        assert!((310..490).contains(&n), "{n} of 2000"); // 400 +- 5 standard deviations
    }

    #[track_caller]
    fn check_refused(result: Result<(), DataError>, expect: &str) {
        assert_eq!(result.unwrap_err().to_string(), expect);
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let moco = MocoViews::default();
        moco.check().unwrap();
        check_refused(
            MocoViews { scale: (0.5, 0.2), ..moco }.check(),
            "crop scale is (0.5, 0.2), expected a range (low, high) with 0 < low <= high <= 1",
        );
        check_refused(
            MocoViews { blur_sigma: (0.0, 2.0), ..moco }.check(),
            "blur sigma is (0.0, 2.0), expected a range (low, high) with 0 < low <= high <= 100",
        );
        check_refused(
            MocoViews { jitter: ColourJitter { hue: 0.6, ..moco.jitter }, ..moco }.check(),
            "jitter hue is 0.6, expected 0 to 0.5",
        );
        check_refused(
            CropFlip { padding: 2, flip_probability: f32::NAN }.check(),
            "flip probability is NaN, expected a probability, 0 to 1",
        );
        check_refused(
            EvalCrop { crop_fraction: 0.0 }.check(),
            "crop fraction is 0.0, expected 0.1 to 1",
        );
    }
}
