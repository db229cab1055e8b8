//! Winograd's F(4, 3) down the lines of a map: four lines of a correlation with three lines of taps as six products in
//! place of twelve, after Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016). Along a line
//! taps are summed by the definition.
//!
//! With `d` six lines of the source and `g` three lines of taps, four lines of the result are
//! `y = A^T [(G g) * (B^T d)]`, with polynomials evaluated at 0, 3/4, -3/4, 3/2, -3/2 and infinity. These points err
//! less than the usual 1 and 2: by about 1e-5 of what six lines of one magnitude give (root mean square). Each of the four errs by as much as the largest of the six
//! lines has it, so one that reads faint lines next to a bright one loses digits, as in any of Winograd's ways.

use std::arch::x86_64::*;

use crate::conv::winograd::Map;

/// Lines of the result that are made together.
pub(super) const OUTPUTS: usize = 4;
/// Lines of the source that they read, and products.
pub(super) const POINTS: usize = 6;
/// Fewest lines of a map, and pixels of all, that this pays for where filters are made all at once: they and their gradients
/// are twice as many at the points.
pub(super) const LEAST_LINES: usize = 3;
const LEAST_PIXELS: usize = 1200;

/// Whether half the products are worth their transforms.
pub(super) fn pays(Map { batch, height, width }: Map) -> bool {
    height >= LEAST_LINES && batch * height * width >= LEAST_PIXELS
}

const NEAR: f32 = 0.75;
const FAR: f32 = 1.5;
const NEAR2: f32 = NEAR * NEAR;
const FAR2: f32 = FAR * FAR;

/// `B^T d`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn input(d: [__m512; POINTS]) -> [__m512; POINTS] {
    let splat = |x: f32| _mm512_set1_ps(x);
    let (near2, far2) = (splat(NEAR2), splat(FAR2));
    // a - b c
    let less = |a, b, c| _mm512_fnmadd_ps(b, c, a);
    let near = (less(d[4], far2, d[2]), less(d[3], far2, d[1]));
    let far = (less(d[4], near2, d[2]), less(d[3], near2, d[1]));
    let both = |(even, odd), at| (_mm512_fmadd_ps(at, odd, even), _mm512_fnmadd_ps(at, odd, even));
    let (near, minus_near) = both(near, splat(NEAR));
    let (far, minus_far) = both(far, splat(FAR));
    let end = |a, b, c| _mm512_fmadd_ps(splat(NEAR2 * FAR2), a, less(c, splat(NEAR2 + FAR2), b));
    [end(d[0], d[2], d[4]), near, minus_near, far, minus_far, end(d[1], d[3], d[5])]
}

/// `G g`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn taps(g: [__m512; 3]) -> [__m512; POINTS] {
    let splat = |x: f32| _mm512_set1_ps(x);
    // `1 / (2 p^2 (p^2 - q^2))` of (g0 + p^2 g2) + p g1 and of their difference.
    let both = |at: f32, other: f32| {
        let scale = splat(1.0 / (2.0 * at * at * (at * at - other * other)));
        let even = _mm512_mul_ps(_mm512_fmadd_ps(splat(at * at), g[2], g[0]), scale);
        let odd = _mm512_mul_ps(_mm512_mul_ps(splat(at), g[1]), scale);
        (_mm512_add_ps(even, odd), _mm512_sub_ps(even, odd))
    };
    let (near, minus_near) = both(NEAR, FAR);
    let (far, minus_far) = both(FAR, NEAR);
    let zero = _mm512_mul_ps(g[0], splat(1.0 / (NEAR2 * FAR2)));
    [zero, near, minus_near, far, minus_far, g[2]]
}

/// `A^T m`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn output(m: [__m512; POINTS]) -> [__m512; OUTPUTS] {
    let splat = |x: f32| _mm512_set1_ps(x);
    let [zero, near, minus_near, far, minus_far, end] = m;
    let (near, near_odd) = (_mm512_add_ps(near, minus_near), _mm512_sub_ps(near, minus_near));
    let (far, far_odd) = (_mm512_add_ps(far, minus_far), _mm512_sub_ps(far, minus_far));
    let both = |a, near, b, far| _mm512_fmadd_ps(splat(a), near, _mm512_mul_ps(splat(b), far));
    [
        _mm512_add_ps(zero, _mm512_add_ps(near, far)),
        both(NEAR, near_odd, FAR, far_odd),
        both(NEAR2, near, FAR2, far),
        _mm512_add_ps(end, both(NEAR * NEAR2, near_odd, FAR * FAR2, far_odd)),
    ]
}

/// `A y`, for the gradient of the taps, `G^T [(A dy) * (B^T d)]`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn gradient(y: [__m512; OUTPUTS]) -> [__m512; POINTS] {
    let splat = |x: f32| _mm512_set1_ps(x);
    let at = |p: f32| {
        let even = _mm512_fmadd_ps(splat(p * p), y[2], y[0]);
        let odd = _mm512_mul_ps(splat(p), _mm512_fmadd_ps(splat(p * p), y[3], y[1]));
        (_mm512_add_ps(even, odd), _mm512_sub_ps(even, odd))
    };
    let ((near, minus_near), (far, minus_far)) = (at(NEAR), at(FAR));
    [y[0], near, minus_near, far, minus_far, y[3]]
}

/// `G^T m`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn taps_gradient(m: [__m512; POINTS]) -> [__m512; 3] {
    let splat = |x: f32| _mm512_set1_ps(x);
    let [zero, near, minus_near, far, minus_far, end] = m;
    let both = |a, b, at: f32, other: f32| {
        let scale = splat(1.0 / (2.0 * at * at * (at * at - other * other)));
        let even = _mm512_mul_ps(scale, _mm512_add_ps(a, b));
        let odd = _mm512_mul_ps(scale, _mm512_sub_ps(a, b));
        (even, _mm512_mul_ps(splat(at), odd), _mm512_mul_ps(splat(at * at), even))
    };
    let near = both(near, minus_near, NEAR, FAR);
    let far = both(far, minus_far, FAR, NEAR);
    let zero = _mm512_mul_ps(zero, splat(1.0 / (NEAR2 * FAR2)));
    [
        _mm512_add_ps(zero, _mm512_add_ps(near.0, far.0)),
        _mm512_add_ps(near.1, far.1),
        _mm512_add_ps(end, _mm512_add_ps(near.2, far.2)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conv::matrix::unit::SIDE;

    type Lines<const N: usize> = [[f32; SIDE]; N];

    fn lines<const N: usize>(seed: usize) -> Lines<N> {
        let at = |i: usize, lane: usize| ((seed + 37 * i + 11 * lane) % 29) as f32 / 7.0 - 2.0;
        std::array::from_fn(|i| std::array::from_fn(|lane| at(i, lane)))
    }

    #[target_feature(enable = "avx512f")]
    fn load<const N: usize>(lines: &Lines<N>) -> [__m512; N] {
        // SAFETY: a line has 16 floats.
        std::array::from_fn(|i| unsafe { _mm512_loadu_ps(lines[i].as_ptr()) })
    }

    #[target_feature(enable = "avx512f")]
    fn store<const N: usize>(vectors: [__m512; N]) -> Lines<N> {
        let mut lines = [[0.0; SIDE]; N];
        for (line, vector) in lines.iter_mut().zip(vectors) {
            // SAFETY: a line has 16 floats.
            unsafe { _mm512_storeu_ps(line.as_mut_ptr(), vector) };
        }
        lines
    }

    #[target_feature(enable = "avx512f")]
    fn products(a: [__m512; POINTS], b: [__m512; POINTS]) -> [__m512; POINTS] {
        std::array::from_fn(|i| _mm512_mul_ps(a[i], b[i]))
    }

    fn assert_close<const N: usize>(got: Lines<N>, want: impl Fn(usize, usize) -> f32) {
        for (i, line) in got.iter().enumerate() {
            for (lane, &got) in line.iter().enumerate() {
                let want = want(i, lane);
                assert!((got - want).abs() < 2e-5, "line {i}, lane {lane}: {got} for {want}");
            }
        }
    }

    #[test]
    fn products_at_the_points_are_the_correlation_and_its_gradient() {
        if !is_x86_feature_detected!("avx512f") {
            return;
        }
        for seed in 0..29 {
            let (d, g, dy) = (lines(seed), lines(seed + 5), lines::<OUTPUTS>(seed + 11));
            // SAFETY: the machine has AVX-512.
            let (y, dg) = unsafe {
                let at_points = input(load(&d));
                let y = output(products(at_points, taps(load(&g))));
                let dg = taps_gradient(products(at_points, gradient(load(&dy))));
                (store(y), store(dg))
            };
            assert_close(y, |i, lane| (0..3).map(|t| d[i + t][lane] * g[t][lane]).sum());
            assert_close(dg, |t, lane| (0..OUTPUTS).map(|i| d[i + t][lane] * dy[i][lane]).sum());
        }
    }
}
