//! Brightness, contrast, saturation, hue and greyscale, on images `[.., channels]` in \[0, 1\].
//! One-channel images have neither saturation nor hue; there these operations change nothing.

use super::{chance, uniform};
use crate::{DataError, dataset::shuffle};
use slimtau_base::Stream;

/// Ranges of a random change of colours. Factors are uniform in `[max(0, 1 - x), 1 + x]`, the hue
/// shift in `[-hue, hue]` turns of the colour circle; the four come in random order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ColourJitter {
    /// Strength of the brightness change, at least 0.
    pub brightness: f32,
    /// Strength of the contrast change, at least 0.
    pub contrast: f32,
    /// Strength of the saturation change, at least 0; RGB only.
    pub saturation: f32,
    /// Largest hue shift, 0 to 0.5; RGB only.
    pub hue: f32,
    /// How often colours are changed at all, 0 to 1.
    pub probability: f32,
}

/// MoCo v2's: 0.4, 0.4, 0.4, 0.1 with probability 0.8.
impl Default for ColourJitter {
    fn default() -> Self {
        Self { brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1, probability: 0.8 }
    }
}

impl ColourJitter {
    /// Changes an image in place as `rng` decides.
    pub fn apply(&self, image: &mut [f32], channels: usize, rng: &mut Stream) {
        if !chance(rng, self.probability) {
            return;
        }
        let mut factor = |strength: f32| uniform(rng, ((1.0 - strength).max(0.0), 1.0 + strength));
        let brightness = factor(self.brightness);
        let contrast = factor(self.contrast);
        let saturation = factor(self.saturation);
        let hue = uniform(rng, (-self.hue, self.hue));
        let mut order = [0, 1, 2, 3];
        shuffle(&mut order, rng);
        for operation in order {
            match operation {
                0 => adjust_brightness(image, brightness),
                1 => adjust_contrast(image, channels, contrast),
                2 => adjust_saturation(image, channels, saturation),
                _ => adjust_hue(image, channels, hue),
            }
        }
    }

    pub(super) fn check(&self) -> Result<(), DataError> {
        let strengths = [
            ("jitter brightness", self.brightness),
            ("jitter contrast", self.contrast),
            ("jitter saturation", self.saturation),
        ];
        for (setting, value) in strengths {
            if !(value >= 0.0 && value.is_finite()) {
                return Err(DataError::setting(setting, value, "a number of at least 0"));
            }
        }
        if !(0.0..=0.5).contains(&self.hue) {
            return Err(DataError::setting("jitter hue", self.hue, "0 to 0.5"));
        }
        super::augment::check_probability("jitter probability", self.probability)
    }
}

/// Luma of ITU-R BT.601, as image libraries use for greyscale.
fn luma(pixel: &[f32]) -> f32 {
    0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2]
}

/// Multiplies by `factor` (0 gives black) and clamps.
pub fn adjust_brightness(image: &mut [f32], factor: f32) {
    image.iter_mut().for_each(|v| *v = (*v * factor).clamp(0.0, 1.0));
}

/// Moves values away from the image's mean luma by `factor` (0 gives uniform grey) and clamps.
pub fn adjust_contrast(image: &mut [f32], channels: usize, factor: f32) {
    if image.is_empty() {
        return;
    }
    let sum: f32 = match channels {
        3 => image.chunks_exact(3).map(luma).sum(),
        _ => image.iter().sum(),
    };
    let mean = sum / (image.len() / channels) as f32;
    image.iter_mut().for_each(|v| *v = (mean + factor * (*v - mean)).clamp(0.0, 1.0));
}

/// Moves each pixel away from its own luma by `factor` (0 gives greyscale) and clamps; RGB only.
pub fn adjust_saturation(image: &mut [f32], channels: usize, factor: f32) {
    if channels != 3 {
        return;
    }
    for pixel in image.chunks_exact_mut(3) {
        let grey = luma(pixel);
        pixel.iter_mut().for_each(|v| *v = (grey + factor * (*v - grey)).clamp(0.0, 1.0));
    }
}

/// Turns each pixel's hue by `shift` of the colour circle in HSV (1/3 sends red to green); RGB
/// only.
pub fn adjust_hue(image: &mut [f32], channels: usize, shift: f32) {
    if channels != 3 {
        return;
    }
    for pixel in image.chunks_exact_mut(3) {
        let [r, g, b] = [pixel[0], pixel[1], pixel[2]];
        let value = r.max(g).max(b);
        let chroma = value - r.min(g).min(b);
        if chroma <= 0.0 {
            continue; // grey has no hue
        }
        // The hue in sixths of the circle.
        let hue = if value == r {
            (g - b) / chroma
        } else if value == g {
            (b - r) / chroma + 2.0
        } else {
            (r - g) / chroma + 4.0
        };
        // HSV to RGB without branches: f(n) = V - C max(0, min(k, 4 - k, 1)), k = (n + H) mod 6.
        for (out, n) in pixel.iter_mut().zip([5.0, 3.0, 1.0]) {
            let k = (n + hue + 6.0 * shift).rem_euclid(6.0);
            *out = value - chroma * k.min(4.0 - k).clamp(0.0, 1.0);
        }
    }
}

/// Replaces the three channels by their luma; RGB only.
pub fn greyscale(image: &mut [f32], channels: usize) {
    adjust_saturation(image, channels, 0.0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use slimtau_base::stream;

    #[track_caller]
    fn check(mut image: Vec<f32>, change: impl Fn(&mut [f32]), expect: &[f32]) {
        change(&mut image);
        for (got, expect) in image.iter().zip(expect) {
            assert!((got - expect).abs() < 1e-5, "got {image:?}, expected {expect:?}");
        }
    }

    #[test]
    fn known_changes() {
        check(vec![0.2, 0.8], |i| adjust_brightness(i, 1.5), &[0.3, 1.0]);
        check(vec![0.2, 0.6], |i| adjust_contrast(i, 1, 0.0), &[0.4, 0.4]);
        check(vec![0.2, 0.6], |i| adjust_contrast(i, 1, 2.0), &[0.0, 0.8]);
        check(vec![1.0, 0.0, 0.0], |i| adjust_contrast(i, 3, 0.0), &[0.299; 3]);
        check(vec![0.0, 1.0, 0.0], |i| greyscale(i, 3), &[0.587; 3]);
        check(vec![0.0, 1.0, 0.5], |i| greyscale(i, 1), &[0.0, 1.0, 0.5]);
        check(vec![0.8, 0.1, 0.1], |i| adjust_hue(i, 3, 1.0 / 3.0), &[0.1, 0.8, 0.1]);
        check(vec![0.8, 0.1, 0.1], |i| adjust_hue(i, 3, -1.0 / 3.0), &[0.1, 0.1, 0.8]);
        check(vec![0.8, 0.1, 0.1], |i| adjust_hue(i, 3, 0.5), &[0.1, 0.8, 0.8]);
        check(vec![0.4, 0.4, 0.4], |i| adjust_hue(i, 3, 0.3), &[0.4; 3]);
    }

    proptest! {
        #[test]
        fn hue_turned_and_turned_back(r in 0f32..1.0, g in 0f32..1.0, b in 0f32..1.0,
                                      shift in -0.5f32..0.5) {
            let mut pixel = vec![r, g, b];
            adjust_hue(&mut pixel, 3, shift);
            adjust_hue(&mut pixel, 3, -shift);
            for (got, expect) in pixel.iter().zip([r, g, b]) {
                prop_assert!((got - expect).abs() < 1e-4, "{:?} from {:?}", pixel, [r, g, b]);
            }
        }

        #[test]
        fn jitter_stays_in_range(seed: u64, colour: bool) {
            let channels = if colour { 3 } else { 1 };
            let mut image: Vec<f32> = (0..48).map(|i| (i * 7 % 48) as f32 / 47.0).collect();
            let strong = ColourJitter {
                brightness: 2.0, contrast: 2.0, saturation: 2.0, hue: 0.5, probability: 1.0,
            };
            strong.apply(&mut image, channels, &mut stream(seed, "jitter", 0));
            prop_assert!(image.iter().all(|v| (0.0..=1.0).contains(v)), "{:?}", image);
        }
    }
}
