//! Geometry: crop boxes, antialiased bilinear resizing, flips.

use super::uniform;
use crate::Scratch;
use rand::RngExt;
use slimtau_base::Stream;

/// A decoded image, `[height, width, channels]` in u8.
#[derive(Clone, Copy, Debug)]
pub struct Pixels<'a> {
    /// `height * width * channels` values.
    pub data: &'a [u8],
    /// Rows, at least 1.
    pub height: usize,
    /// Columns, at least 1.
    pub width: usize,
    /// 1 or 3.
    pub channels: usize,
}

/// A rectangle of pixels inside an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CropBox {
    /// First row.
    pub top: usize,
    /// First column.
    pub left: usize,
    /// Rows, at least 1.
    pub height: usize,
    /// Columns, at least 1.
    pub width: usize,
}

/// u8 to \[0, 1\]; 255 becomes exactly 1.
pub(super) const UNIT: f32 = 1.0 / 255.0;

/// The box of a random resized crop in an image of `height` x `width`: its area is a fraction in
/// `scale` of the image's, its aspect ratio (width / height) lies in `ratio`, log-uniformly. Ten
/// boxes are tried; when none fits, the largest centred box whose ratio is in range is taken.
pub fn random_crop_box(
    rng: &mut Stream,
    height: usize,
    width: usize,
    scale: (f32, f32),
    ratio: (f32, f32),
) -> CropBox {
    let area = (height * width) as f32;
    let log_ratio = (ratio.0.ln(), ratio.1.ln());
    for _ in 0..10 {
        let target = area * uniform(rng, scale);
        let aspect = uniform(rng, log_ratio).exp();
        let w = (target * aspect).sqrt().round() as usize;
        let h = (target / aspect).sqrt().round() as usize;
        if (1..=height).contains(&h) && (1..=width).contains(&w) {
            let top = rng.random_range(0..=(height - h) as u32) as usize;
            let left = rng.random_range(0..=(width - w) as u32) as usize;
            return CropBox { top, left, height: h, width: w };
        }
    }
    let aspect = width as f32 / height as f32;
    let (h, w) = if aspect < ratio.0 {
        ((width as f32 / ratio.0).round() as usize, width)
    } else if aspect > ratio.1 {
        (height, (height as f32 * ratio.1).round() as usize)
    } else {
        (height, width)
    };
    let (h, w) = (h.clamp(1, height), w.clamp(1, width));
    CropBox { top: (height - h) / 2, left: (width - w) / 2, height: h, width: w }
}

/// Crops an image to `crop` and resizes it to `size` x `size`, bilinearly; when it shrinks, the
/// triangle filter widens accordingly, so that nothing aliases. Writes `[size, size, channels]`
/// in \[0, 1\] to `out`.
///
/// # Panics
/// When the box leaves the image or `out` has another length.
pub fn resize(
    pixels: Pixels<'_>,
    crop: CropBox,
    size: usize,
    scratch: &mut Scratch,
    out: &mut [f32],
) {
    let axis = |start: usize, n: usize, limit: usize| {
        assert!(n > 0 && start + n <= limit, "crop box {crop:?} outside the image");
        Axis { from: start, to: start + n, start: start as f32, extent: n as f32 }
    };
    let rows = axis(crop.top, crop.height, pixels.height);
    let columns = axis(crop.left, crop.width, pixels.width);
    resample(pixels, rows, columns, size, scratch, out);
}

/// One axis of a window to resample: `extent` pixels from `start` (both may be fractional), reading
/// only pixels `from..to`.
#[derive(Clone, Copy)]
pub(super) struct Axis {
    pub from: usize,
    pub to: usize,
    pub start: f32,
    pub extent: f32,
}

/// Resamples a window to `size` x `size`, rows first: that pass runs along contiguous u8 and so
/// takes the conversion to f32 with it.
pub(super) fn resample(
    pixels: Pixels<'_>,
    rows: Axis,
    columns: Axis,
    size: usize,
    scratch: &mut Scratch,
    out: &mut [f32],
) {
    let Pixels { data, height, width, channels } = pixels;
    assert_eq!(data.len(), height * width * channels, "pixels and their shape disagree");
    assert_eq!(out.len(), size * size * channels, "output of another size");
    scratch.rows.fill(rows, size);
    scratch.columns.fill(columns, size);
    let first = columns.from * channels;
    let n = (columns.to - columns.from) * channels;
    let line = &mut scratch.line;
    line.clear();
    line.resize(n, 0.0);
    for (y, out_row) in out.chunks_exact_mut(size * channels).enumerate() {
        let (start, weights) = scratch.rows.get(y);
        for (k, &weight) in weights.iter().enumerate() {
            let weight = weight * UNIT;
            let begin = (start + k) * width * channels + first;
            let row = &data[begin..begin + n];
            if k == 0 {
                line.iter_mut().zip(row).for_each(|(v, &p)| *v = weight * f32::from(p));
            } else {
                line.iter_mut().zip(row).for_each(|(v, &p)| *v += weight * f32::from(p));
            }
        }
        match channels {
            1 => along_row::<1>(line, columns.from, &scratch.columns, out_row),
            3 => along_row::<3>(line, columns.from, &scratch.columns, out_row),
            n => unreachable!("datasets have 1 or 3 channels, not {n}"),
        }
    }
}

fn along_row<const C: usize>(line: &[f32], from: usize, columns: &Taps, out: &mut [f32]) {
    for (x, pixel) in out.chunks_exact_mut(C).enumerate() {
        let (start, weights) = columns.get(x);
        let mut sum = [0f32; C];
        let source = line[(start - from) * C..].chunks_exact(C);
        for (&weight, source) in weights.iter().zip(source) {
            for c in 0..C {
                sum[c] += weight * source[c];
            }
        }
        pixel.copy_from_slice(&sum);
    }
}

/// For each output position of an axis, the first input position it reads and the weights from
/// there on; they sum to 1.
#[derive(Clone, Debug, Default)]
pub(crate) struct Taps {
    /// (first input position, end of its weights in `weights`).
    spans: Vec<(usize, usize)>,
    weights: Vec<f32>,
}

impl Taps {
    fn fill(&mut self, axis: Axis, n_out: usize) {
        let scale = axis.extent / n_out as f32;
        let support = scale.max(1.0); // half the width of the triangle, in input pixels
        self.spans.clear();
        self.weights.clear();
        for o in 0..n_out {
            let centre = axis.start + (o as f32 + 0.5) * scale;
            // `as usize` sends a negative bound to 0. The pixel under the centre is at most half
            // a pixel away, so the range never comes out empty once it is inside the limits.
            let first = ((centre - support + 0.5) as usize).clamp(axis.from, axis.to - 1);
            let end = ((centre + support + 0.5) as usize).clamp(first + 1, axis.to);
            let begin = self.weights.len();
            self.weights.extend(
                (first..end).map(|i| (1.0 - (i as f32 + 0.5 - centre).abs() / support).max(0.0)),
            );
            while self.weights.len() > begin + 1 && self.weights.last() == Some(&0.0) {
                self.weights.pop();
            }
            let weights = &mut self.weights[begin..];
            let sum: f32 = weights.iter().sum();
            weights.iter_mut().for_each(|w| *w /= sum);
            self.spans.push((first, self.weights.len()));
        }
    }

    fn get(&self, o: usize) -> (usize, &[f32]) {
        let begin = if o == 0 { 0 } else { self.spans[o - 1].1 };
        let (first, end) = self.spans[o];
        (first, &self.weights[begin..end])
    }
}

/// Mirrors an image `[.., width, channels]` left to right, in place.
///
/// # Panics
/// When the number of values is no multiple of `width * channels`.
pub fn flip_horizontal(image: &mut [f32], width: usize, channels: usize) {
    assert_eq!(image.len() % (width * channels), 0, "image and its shape disagree");
    for row in image.chunks_exact_mut(width * channels) {
        row.reverse();
        if channels > 1 {
            row.chunks_exact_mut(channels).for_each(<[f32]>::reverse);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use slimtau_base::stream;

    fn whole(height: usize, width: usize) -> CropBox {
        CropBox { top: 0, left: 0, height, width }
    }

    #[track_caller]
    fn check_line(data: &[u8], size: usize, expect: &[f32]) {
        // One row repeated: only the horizontal filter matters.
        let (height, width) = (3, data.len());
        let image = data.repeat(height);
        let pixels = Pixels { data: &image, height, width, channels: 1 };
        let mut out = vec![0.0; size * size];
        resize(pixels, whole(height, width), size, &mut Scratch::default(), &mut out);
        for row in out.chunks_exact(size) {
            for (got, expect) in row.iter().zip(expect) {
                assert!((got * 255.0 - expect).abs() < 1e-3, "got {row:?} / 255, want {expect:?}");
            }
        }
    }

    #[test]
    fn known_resizings() {
        check_line(&[0, 100, 200], 3, &[0.0, 100.0, 200.0]);
        // Twice as large: centres at a quarter and three quarters, clamped at the border.
        check_line(&[0, 100], 4, &[0.0, 25.0, 75.0, 100.0]);
        // Half as large: triangle of half-width 2 around 1 and 3: weights 1/4 3/4 3/4 1/4.
        check_line(
            &[0, 40, 80, 120],
            2,
            &[
                (0.75 * 40.0 + 0.25 * 80.0) / 1.75,
                (0.25 * 40.0 + 0.75 * 80.0 + 0.75 * 120.0) / 1.75,
            ],
        );
        check_line(&[7; 50], 3, &[7.0; 3]);
    }

    proptest! {
        #[test]
        fn crop_boxes_lie_inside(
            height in 1usize..400,
            width in 1usize..400,
            lo in 0.001f32..1.0,
            more in 0.0f32..1.0,
            ratio in 0.1f32..1.0,
            seed: u64,
        ) {
            let scale = (lo, lo + (1.0 - lo) * more);
            let mut rng = stream(seed, "box", 0);
            let b = random_crop_box(&mut rng, height, width, scale, (ratio, 1.0 / ratio));
            prop_assert!(b.height >= 1 && b.top + b.height <= height, "{:?}", b);
            prop_assert!(b.width >= 1 && b.left + b.width <= width, "{:?}", b);
        }

        #[test]
        fn crop_boxes_respect_scale_and_ratio(seed: u64, side in 64usize..400) {
            let (scale, ratio) = ((0.2, 0.7), (0.75, 4.0 / 3.0));
            let b = random_crop_box(&mut stream(seed, "box", 0), side, side, scale, ratio);
            let (h, w) = (b.height as f32, b.width as f32);
            let fraction = h * w / (side * side) as f32;
            // Rounding both sides to whole pixels moves each by up to half a pixel.
            let slack = 1.0 + 1.1 / h.min(w);
            prop_assert!(fraction > scale.0 / slack && fraction < scale.1 * slack, "{:?}", b);
            prop_assert!(w / h > ratio.0 / slack && w / h < ratio.1 * slack, "{:?}", b);
        }

        #[test]
        fn resizing_stays_between_the_extremes_of_the_box(
            height in 1usize..40,
            width in 1usize..40,
            size in 1usize..40,
            colour: bool,
            seed: u64,
        ) {
            let channels = if colour { 3 } else { 1 };
            let mut rng = stream(seed, "pixels", 0);
            let b = random_crop_box(&mut rng, height, width, (0.05, 1.0), (0.5, 2.0));
            // Inside the box 100..=150, outside 0: a filter that reads across would show.
            let data: Vec<u8> = (0..height * width * channels)
                .map(|i| {
                    let (y, x) = (i / channels / width, i / channels % width);
                    let inside = (b.top..b.top + b.height).contains(&y)
                        && (b.left..b.left + b.width).contains(&x);
                    if inside { rng.random_range(100..=150) } else { 0 }
                })
                .collect();
            let mut out = vec![0.0; size * size * channels];
            let pixels = Pixels { data: &data, height, width, channels };
            resize(pixels, b, size, &mut Scratch::default(), &mut out);
            for v in out {
                prop_assert!((99.99..150.01).contains(&(v * 255.0)), "{} in {:?}", v * 255.0, b);
            }
        }

        #[test]
        fn same_size_is_identity(side in 1usize..40, seed: u64) {
            let mut rng = stream(seed, "pixels", 0);
            let data: Vec<u8> = (0..side * side * 3).map(|_| rng.random()).collect();
            let pixels = Pixels { data: &data, height: side, width: side, channels: 3 };
            let mut out = vec![0.0; data.len()];
            resize(pixels, whole(side, side), side, &mut Scratch::default(), &mut out);
            let expect: Vec<f32> = data.iter().map(|&p| f32::from(p) * UNIT).collect();
            prop_assert_eq!(out, expect);
        }

        #[test]
        fn two_flips_are_none(width in 1usize..20, height in 1usize..20, colour: bool) {
            let channels = if colour { 3 } else { 1 };
            let image: Vec<f32> = (0..width * height * channels).map(|i| i as f32).collect();
            let mut flipped = image.clone();
            flip_horizontal(&mut flipped, width, channels);
            for (y, x, c) in [(0, 0, 0), (height - 1, width / 2, channels - 1)] {
                let at = |x: usize| (y * width + x) * channels + c;
                prop_assert_eq!(flipped[at(x)], image[at(width - 1 - x)]);
            }
            flip_horizontal(&mut flipped, width, channels);
            prop_assert_eq!(flipped, image);
        }
    }
}
