//! Winograd's F(4, 3) down the lines of a map: four lines of a correlation with three lines of taps as six products in
//! place of twelve, after Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016). Along a line
//! taps are summed by the definition.
//!
//! With `d` six lines of the source and `g` three lines of taps, four lines of the result are
//! `y = A^T [(G g) * (B^T d)]`, with polynomials evaluated at 0, 3/4, -3/4, 3/2, -3/2 and infinity. These points err
//! less than the usual 1 and 2: by about 1e-5 of what six lines of one magnitude give (root mean square). Each of the four errs by
//! as much as the largest of the six lines has it, so one that reads faint lines next to a bright one loses digits, as in any of
//! Winograd's ways. What is left of a map below its last four lines takes fewer points ([`used`]).

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

/// The points that so many lines of the result take, two more than there are lines: at the end of a map there may be less than
/// [`OUTPUTS`]. Filters are the same at all of them, whatever the number; what else belongs to the points of F(4, 3) alone is in
/// the transform of the source.
pub(super) fn used(outputs: usize) -> &'static [usize] {
    match outputs {
        1 => &[1, 2, 5],
        2 => &[0, 1, 2, 5],
        3 => &[1, 2, 3, 4, 5],
        _ => &[0, 1, 2, 3, 4, 5],
    }
}

/// The same as a bit for each point.
pub(super) fn used_bits(outputs: usize) -> u8 {
    used(outputs).iter().fold(0, |bits, point| bits | 1 << point)
}

/// `B^T d` for so many lines of the result, at the points that they take (anything at the others).
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn input(d: [__m512; POINTS], outputs: usize) -> [__m512; POINTS] {
    match outputs {
        1..OUTPUTS => input_of_few(d, outputs),
        _ => input_of_all(d),
    }
}

/// With `N` the product of a point's distances from all others, which filters are divided by, and `M` that from those in use,
/// `N / M` of the product of `x - q` over all others in use, `x^i` being line `i`.
#[inline]
#[target_feature(enable = "avx512f")]
fn input_of_few(d: [__m512; POINTS], outputs: usize) -> [__m512; POINTS] {
    let splat = |x: f32| _mm512_set1_ps(x);
    let scaled = |x: f32, a| _mm512_mul_ps(splat(x), a);
    // a - x b
    let less = |a, x: f32, b| _mm512_fnmadd_ps(splat(x), b, a);
    let both = |scale: f32, even, at: f32, odd| {
        let odd = scaled(at, odd);
        (scaled(scale, _mm512_add_ps(even, odd)), scaled(scale, _mm512_sub_ps(even, odd)))
    };
    let none = _mm512_setzero_ps();
    match outputs {
        1 => {
            // N / M of both is +-p (p^2 - q^2), so that their signs leave p d0 + d1 and p d0 - d1.
            let (near, minus_near) = both(NEAR * (NEAR2 - FAR2), scaled(NEAR, d[0]), 1.0, d[1]);
            [none, near, minus_near, none, none, less(d[2], NEAR2, d[0])]
        }
        2 => {
            let zero = scaled(-FAR2, less(d[2], NEAR2, d[0]));
            let (near, minus_near) = both(NEAR2 - FAR2, d[2], NEAR, d[1]);
            [zero, near, minus_near, none, none, less(d[3], NEAR2, d[1])]
        }
        _ => {
            // N / M is +-p, as above.
            let pair = |at: f32, other: f32| {
                let (even, odd) = (less(d[2], other, d[0]), less(d[3], other, d[1]));
                both(at, scaled(at, even), 1.0, odd)
            };
            let ((near, minus_near), (far, minus_far)) = (pair(NEAR, FAR2), pair(FAR, NEAR2));
            let end = _mm512_fmadd_ps(splat(NEAR2 * FAR2), d[0], less(d[4], NEAR2 + FAR2, d[2]));
            [none, near, minus_near, far, minus_far, end]
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn input_of_all(d: [__m512; POINTS]) -> [__m512; POINTS] {
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

/// `A^T m`, of which so many lines are the result; `m` is zero at the points that they do not take.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn output(m: [__m512; POINTS], outputs: usize) -> [__m512; OUTPUTS] {
    let splat = |x: f32| _mm512_set1_ps(x);
    let [zero, near, minus_near, far, minus_far, end] = m;
    let (near, near_odd) = (_mm512_add_ps(near, minus_near), _mm512_sub_ps(near, minus_near));
    let (far, far_odd) = (_mm512_add_ps(far, minus_far), _mm512_sub_ps(far, minus_far));
    let both = |a, near, b, far| _mm512_fmadd_ps(splat(a), near, _mm512_mul_ps(splat(b), far));
    let y = [
        _mm512_add_ps(zero, _mm512_add_ps(near, far)),
        both(NEAR, near_odd, FAR, far_odd),
        both(NEAR2, near, FAR2, far),
        both(NEAR * NEAR2, near_odd, FAR * FAR2, far_odd),
    ];
    let with = |i: usize| _mm512_add_ps(end, y[i]);
    match outputs {
        1 => [with(0), y[1], y[2], y[3]],
        2 => [y[0], with(1), y[2], y[3]],
        3 => [y[0], y[1], with(2), y[3]],
        _ => [y[0], y[1], y[2], with(3)],
    }
}

/// `A y`, for the gradient of the taps, `G^T [(A dy) * (B^T d)]`; of `y` so many lines are there, and the others zero.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn gradient(y: [__m512; OUTPUTS], outputs: usize) -> [__m512; POINTS] {
    let splat = |x: f32| _mm512_set1_ps(x);
    let at = |p: f32| {
        let even = _mm512_fmadd_ps(splat(p * p), y[2], y[0]);
        let odd = _mm512_mul_ps(splat(p), _mm512_fmadd_ps(splat(p * p), y[3], y[1]));
        (_mm512_add_ps(even, odd), _mm512_sub_ps(even, odd))
    };
    let ((near, minus_near), (far, minus_far)) = (at(NEAR), at(FAR));
    let last = match outputs {
        1 => y[0],
        2 => y[1],
        3 => y[2],
        _ => y[3],
    };
    [y[0], near, minus_near, far, minus_far, last]
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
            for outputs in 1..=OUTPUTS {
                // Lines that are not there.
                let mut dy = dy;
                dy[outputs..].fill([0.0; SIDE]);
                let mut d = d;
                d[outputs + 2..].fill([0.0; SIDE]);
                // SAFETY: the machine has AVX-512.
                let (y, dg) = unsafe {
                    let at = |m: [__m512; POINTS]| {
                        let none = |i| used_bits(outputs) >> i & 1 == 0;
                        std::array::from_fn(|i| if none(i) { _mm512_setzero_ps() } else { m[i] })
                    };
                    let at_points = input(load(&d), outputs);
                    let y = output(at(products(at_points, taps(load(&g)))), outputs);
                    let gradient = gradient(load(&dy), outputs);
                    let dg = taps_gradient(at(products(at_points, gradient)));
                    (store(y), store(dg))
                };
                let there = |i: usize| if i < outputs { y[i] } else { [0.0; SIDE] };
                assert_close::<OUTPUTS>(std::array::from_fn(there), |i, lane| {
                    let of = |t: usize| d[i + t][lane] * g[t][lane];
                    if i < outputs { (0..3).map(of).sum() } else { 0.0 }
                });
                assert_close(dg, |t, lane| {
                    (0..outputs).map(|i| d[i + t][lane] * dy[i][lane]).sum()
                });
            }
        }
    }
}
