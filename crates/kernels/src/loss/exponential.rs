//! An exponential that vectorises, and the sums and maxima over a row that softmax is made of.

use std::f32::consts::LOG2_E;

/// `e^x` to 2 units in the last place for `x <= 88`; exactly 0 below -87, where the true value leaves
/// the range of normal floats. NaN stays NaN. Softmax calls it with `x <= 0`.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`, then `2^n` times the Taylor polynomial of `e^r` of degree
/// 7, whose remainder `r^8 / 8!` is below 6e-9.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Adding this leaves no bits for a fraction: the sum's low mantissa bits are round(x).
    const TO_INTEGER: f32 = 12_582_912.0; // 1.5 * 2^23
    // ln 2 in two parts, of which the first has so few digits that its product with n is exact.
    const LN_2_HIGH: f32 = 355.0 / 512.0;
    const LN_2_LOW: f32 = (std::f64::consts::LN_2 - 355.0 / 512.0) as f32;
    let clamped = x.clamp(-87.0, 88.0); // NaN stays NaN
    let shifted = clamped * LOG2_E + TO_INTEGER;
    let n = shifted - TO_INTEGER;
    let r = (clamped - n * LN_2_HIGH) - n * LN_2_LOW;
    let mut p = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p * r + coefficient;
    }
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    if x < -87.0 { 0.0 } else { p * power }
}

/// Independent partial sums, so that a sum vectorises; their order does not depend on the machine.
const LANES: usize = 16;

/// The sum of `f` over `x`.
#[inline(always)]
pub(super) fn sum_of(x: &[f32], f: impl Fn(f32) -> f32) -> f64 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane += f(v);
        }
    }
    let rest: f64 = rest.iter().map(|&v| f64::from(f(v))).sum();
    lanes.iter().map(|&v| f64::from(v)).sum::<f64>() + rest
}

/// The sum of `f` over the pairs of `x` and `y`.
#[inline(always)]
pub(super) fn sum_of_pairs(x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32) -> f64 {
    let mut lanes = [0.0f32; LANES];
    let ((xs, x_rest), (ys, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (x, y) in xs.iter().zip(ys) {
        for i in 0..LANES {
            lanes[i] += f(x[i], y[i]);
        }
    }
    let rest: f64 = x_rest.iter().zip(y_rest).map(|(&x, &y)| f64::from(f(x, y))).sum();
    lanes.iter().map(|&v| f64::from(v)).sum::<f64>() + rest
}

/// The largest number in `x`, passing over NaN.
#[inline(always)]
pub(super) fn max_of(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, v);
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |a, &b| larger(a, b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_of_the_true_value() {
        for i in 0..=1_750_000 {
            let x = -87.0 + i as f32 * 1e-4;
            let (got, want) = (f64::from(exp(x)), f64::from(x).exp());
            let unit = f64::from((want as f32).next_up()) - f64::from(want as f32);
            assert!((got - want).abs() <= 2.0 * unit, "exp({x}) = {got}, not {want}");
        }
    }

    #[test]
    fn exp_at_the_ends() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-87.5), 0.0);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn sums_and_maxima_cover_every_element() {
        for len in [0, 1, 15, 16, 17, 100] {
            let x: Vec<f32> = (0..len).map(|i| i as f32).collect();
            let total = (0..len).sum::<usize>() as f64;
            assert_eq!(sum_of(&x, |v| v), total);
            assert_eq!(sum_of_pairs(&x, &x, |a, b| a + b), 2.0 * total);
            let largest = if len == 0 { f32::NEG_INFINITY } else { len as f32 - 1.0 };
            assert_eq!(max_of(&x), largest);
        }
    }
}
