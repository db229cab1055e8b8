//! Gaussian blur, separable, with the border pixels repeated outwards.

use crate::Scratch;

/// Blurs an image `[height, width, channels]` in place with standard deviation `sigma` (pixels,
/// above 0). The kernel is cut at 3 sigma and sums to 1.
///
/// # Panics
/// When the shape is not that of `image`, or `sigma` is not a positive number.
pub fn gaussian_blur(
    image: &mut [f32],
    (height, width, channels): (usize, usize, usize),
    sigma: f32,
    scratch: &mut Scratch,
) {
    assert_eq!(image.len(), height * width * channels, "image and its shape disagree");
    assert!(sigma > 0.0 && sigma.is_finite(), "sigma {sigma} is not a positive number");
    let radius = (3.0 * sigma).ceil() as usize;
    let Scratch { kernel, line, image: blurred, .. } = scratch;
    kernel.clear();
    kernel.extend((0..=2 * radius).map(|k| {
        let distance = (k as f32 - radius as f32) / sigma;
        (-0.5 * distance * distance).exp()
    }));
    let sum: f32 = kernel.iter().sum();
    kernel.iter_mut().for_each(|w| *w /= sum);

    let row_len = width * channels;
    blurred.clear();
    blurred.resize(image.len(), 0.0);
    for (row, out) in image.chunks_exact(row_len).zip(blurred.chunks_exact_mut(row_len)) {
        line.clear();
        (0..radius).for_each(|_| line.extend_from_slice(&row[..channels]));
        line.extend_from_slice(row);
        (0..radius).for_each(|_| line.extend_from_slice(&row[row_len - channels..]));
        // One pass over the row per weight: contiguous, so it vectorises for any channel count.
        for (k, &weight) in kernel.iter().enumerate() {
            accumulate(out, &line[k * channels..][..row_len], weight);
        }
    }
    for (y, out) in image.chunks_exact_mut(row_len).enumerate() {
        out.fill(0.0);
        for (k, &weight) in kernel.iter().enumerate() {
            let source = (y + k).saturating_sub(radius).min(height - 1);
            accumulate(out, &blurred[source * row_len..][..row_len], weight);
        }
    }
}

fn accumulate(out: &mut [f32], values: &[f32], weight: f32) {
    out.iter_mut().zip(values).for_each(|(out, value)| *out += weight * value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, in f64, pixel by pixel.
    fn naive(image: &[f32], (h, w, c): (usize, usize, usize), sigma: f64) -> Vec<f64> {
        let radius = (3.0 * sigma).ceil() as i64;
        let weight = |d: i64| (-0.5 * (d as f64 / sigma).powi(2)).exp();
        let norm: f64 = (-radius..=radius).map(weight).sum();
        let mut out = Vec::new();
        for (y, x, ch) in (0..h * w * c).map(|i| (i / c / w, i / c % w, i % c)) {
            let mut sum = 0.0;
            for (dy, dx) in (-radius..=radius).flat_map(|a| (-radius..=radius).map(move |b| (a, b)))
            {
                let sy = (y as i64 + dy).clamp(0, h as i64 - 1) as usize;
                let sx = (x as i64 + dx).clamp(0, w as i64 - 1) as usize;
                let value = f64::from(image[(sy * w + sx) * c + ch]);
                sum += weight(dy) * weight(dx) / (norm * norm) * value;
            }
            out.push(sum);
        }
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn agrees_with_the_definition(
            h in 1usize..9, w in 1usize..9, colour: bool, sigma in 0.1f32..2.0,
        ) {
            let shape = (h, w, if colour { 3 } else { 1 });
            let n = h * w * shape.2;
            let image: Vec<f32> = (0..n).map(|i| (i * i % 11) as f32 / 10.0).collect();
            let mut blurred = image.clone();
            gaussian_blur(&mut blurred, shape, sigma, &mut Scratch::default());
            for (got, expect) in blurred.iter().zip(naive(&image, shape, f64::from(sigma))) {
                prop_assert!((f64::from(*got) - expect).abs() < 1e-5, "{} != {}", got, expect);
            }
        }
    }
}
