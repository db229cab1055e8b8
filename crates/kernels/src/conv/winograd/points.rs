//! The one-dimensional pieces of Winograd's minimal filtering F(m, 3) for m = 1 to 6 outputs,
//! after Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016).
//!
//! `m` outputs of a 3-tap correlation take `m + 2` products: with `d` the `m + 2` inputs and `g`
//! the taps, `y = A^T [(G g) * (B^T d)]`. Each F(m, 3) evaluates at the first `m + 2` of these points:
//!
//! | point | 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 |
//! |---|---|---|---|---|---|---|---|---|
//! | at | 0 | inf | 1 | -1 | 2 | -2 | 1/2 | -1/2 |
//! | row of `G` | (1, 0, 0)/4 | (0, 0, 1) | -(1, 1, 1)/6 | -(1, -1, 1)/6 | (1, 2, 4)/24 | (1, -2, 4)/24 | (4, 2, 1) 8/45 | (4, -2, 1) 8/45 |
//!
//! All of them have the *same* `G`, so that one set of transformed filters serves the tiles of a map and
//! the shorter ones at its end: their `B^T` makes up for the scale that `G` gives each point.
//!
//! The weight gradient is the same bilinear form transposed: `dg = G^T [(A dy) * (B^T d)]`.

use crate::conv::simd::Vector;

/// Outputs of the largest tile, in one dimension.
pub(super) const MOST_OUTPUTS: usize = 6;
/// Its points, in one dimension.
pub(super) const MOST_POINTS: usize = points(MOST_OUTPUTS);

/// Points, in one dimension, of tiles of up to `outputs`.
pub(super) const fn points(outputs: usize) -> usize {
    outputs + 2
}

/// Whether a tile of `outputs` uses point `i`.
#[inline(always)]
pub(super) const fn uses(outputs: usize, i: usize) -> bool {
    i < points(outputs)
}

/// For the functions below, each of which has been given a `V`.
#[inline(always)]
fn splat<V: Vector>(x: f32) -> V {
    // SAFETY: its callers hold a `V`, which proves the instruction set.
    unsafe { V::splat(x) }
}

/// Zeros after the last value.
#[inline(always)]
fn padded<V: Vector, const N: usize>(values: [V; N]) -> [V; MOST_POINTS] {
    let mut padded = [splat(0.0); MOST_POINTS];
    padded[..N].copy_from_slice(&values);
    padded
}

/// `B^T d` for `M` outputs, of which the first `M + 2` inputs are read. Unused points are zero.
#[inline(always)]
pub(super) fn input<V: Vector, const M: usize>(d: [V; MOST_POINTS]) -> [V; MOST_POINTS] {
    match M {
        6 => {
            let near_even = d[4].neg_mul_add(splat(4.25), d[2].add(d[6]));
            let near_odd = d[3].neg_mul_add(splat(4.25), d[1].add(d[5]));
            let far_even = d[2].mul_add(splat(0.25), d[4].neg_mul_add(splat(1.25), d[6]));
            let far_odd = d[1].mul_add(splat(0.25), d[3].neg_mul_add(splat(1.25), d[5]));
            let half_even = d[2].mul_add(splat(4.0), d[4].neg_mul_add(splat(5.0), d[6]));
            let half_odd = d[1].mul_add(splat(4.0), d[3].neg_mul_add(splat(5.0), d[5]));
            let (near, far) = (splat(4.0 / 3.0), splat(4.0 / 15.0));
            padded([
                d[4].sub(d[2]).mul_add(splat(21.0), d[0].sub(d[6]).mul(splat(4.0))),
                d[3].sub(d[5]).mul_add(splat(5.25), d[7].sub(d[1])),
                near_even.add(near_odd).mul(near),
                near_even.sub(near_odd).mul(near),
                far_odd.mul_add(splat(2.0), far_even).mul(far),
                far_odd.neg_mul_add(splat(2.0), far_even).mul(far),
                half_odd.mul_add(splat(0.5), half_even),
                half_odd.neg_mul_add(splat(0.5), half_even),
            ])
        }
        5 => {
            let half = d[1].mul_add(splat(4.0), d[3].neg_mul_add(splat(5.0), d[5]));
            let even = d[0].mul_add(splat(4.0), d[2].neg_mul_add(splat(5.0), d[4]));
            let end = d[2].mul_add(splat(4.0), d[4].neg_mul_add(splat(5.0), d[6]));
            let near = d[2].neg_mul_add(splat(4.0), d[4]);
            let near_odd = d[3].neg_mul_add(splat(4.0), d[5]);
            let far = d[4].sub(d[2]);
            let far_odd = d[5].sub(d[3]).mul(splat(0.5));
            padded([
                half.neg_mul_add(splat(2.0), even),
                half.neg_mul_add(splat(0.5), end),
                near.add(near_odd).add(half),
                half.mul_add(splat(1.0 / 3.0), near.sub(near_odd)),
                half.mul_add(splat(1.0 / 6.0), far.add(far_odd)),
                half.mul_add(splat(0.1), far.sub(far_odd)),
                half,
            ])
        }
        4 => {
            let even = d[2].neg_mul_add(splat(4.0), d[4]);
            let odd = d[1].neg_mul_add(splat(4.0), d[3]);
            let far_even = d[4].sub(d[2]);
            let far_odd = d[3].sub(d[1]);
            padded([
                d[0].mul_add(splat(4.0), d[2].neg_mul_add(splat(5.0), d[4])),
                d[1].mul_add(splat(4.0), d[3].neg_mul_add(splat(5.0), d[5])),
                even.add(odd),
                even.sub(odd),
                far_odd.mul_add(splat(2.0), far_even),
                far_odd.neg_mul_add(splat(2.0), far_even),
            ])
        }
        3 => {
            let odd = d[3].sub(d[1]);
            let middle = d[2].neg_mul_add(splat(3.0), d[3]);
            padded([
                d[0].sub(d[2]).mul_add(splat(4.0), odd.add(odd)),
                odd.neg_mul_add(splat(2.0), d[4].sub(d[2])),
                d[1].add(d[1]).add(d[2]).neg_mul_add(splat(3.0), d[3].mul(splat(3.0))),
                d[1].mul_add(splat(2.0), middle),
                odd.mul(splat(4.0)),
            ])
        }
        2 => padded([
            d[0].sub(d[2]).mul(splat(4.0)),
            d[3].sub(d[1]),
            d[1].add(d[2]).mul(splat(-3.0)),
            d[1].sub(d[2]).mul(splat(3.0)),
        ]),
        _ => padded([d[0].sub(d[1]).mul(splat(4.0)), d[2].sub(d[1]), d[1].mul(splat(-6.0))]),
    }
}

/// `near + 2^k far + 2^-k half`: the points at 1, 2 and 1/2 in output `k`.
#[inline(always)]
fn powers<V: Vector>(k: u32, far: V, half: V, near: V) -> V {
    let power = (1 << k) as f32;
    half.mul_add(splat(power.recip()), far.mul_add(splat(power), near))
}

/// `A^T m`: the `M` outputs; the others are zero.
#[inline(always)]
pub(super) fn output<V: Vector, const M: usize>(m: [V; MOST_POINTS]) -> [V; MOST_POINTS] {
    let (sum, difference) = (m[2].add(m[3]), m[2].sub(m[3]));
    let (far_sum, far_difference) = (m[4].add(m[5]), m[4].sub(m[5]));
    match M {
        6 => {
            let (half_sum, half_difference) = (m[6].add(m[7]), m[6].sub(m[7]));
            padded([
                m[0].add(sum).add(far_sum.add(half_sum)),
                powers(1, far_difference, half_difference, difference),
                powers(2, far_sum, half_sum, sum),
                powers(3, far_difference, half_difference, difference),
                powers(4, far_sum, half_sum, sum),
                powers(5, far_difference, half_difference, difference.add(m[1])),
            ])
        }
        5 => padded([
            m[0].add(sum).add(far_sum.add(m[6])),
            powers(1, far_difference, m[6], difference),
            powers(2, far_sum, m[6], sum),
            powers(3, far_difference, m[6], difference),
            powers(4, far_sum, m[6], sum.add(m[1])),
        ]),
        4 => padded([
            m[0].add(sum).add(far_sum),
            far_difference.mul_add(splat(2.0), difference),
            far_sum.mul_add(splat(4.0), sum),
            far_difference.mul_add(splat(8.0), difference.add(m[1])),
        ]),
        3 => padded([
            m[0].add(sum).add(m[4]),
            m[4].mul_add(splat(2.0), difference),
            m[4].mul_add(splat(4.0), sum.add(m[1])),
        ]),
        2 => padded([m[0].add(m[2]).add(m[3]), difference.add(m[1])]),
        _ => padded([m[0].add(m[2]).add(m[1])]),
    }
}

/// The even powers of a point and the point times its odd ones, and the same of its negative.
#[inline(always)]
fn plus_and_minus<V: Vector>(at: f32, even: V, odd: V) -> [V; 2] {
    if at == 1.0 {
        return [even.add(odd), even.sub(odd)];
    }
    [odd.mul_add(splat(at), even), odd.neg_mul_add(splat(at), even)]
}

/// `A y`: the transpose of [`output`], for gradients. Unused points are zero.
#[inline(always)]
pub(super) fn gradient<V: Vector, const M: usize>(y: [V; MOST_POINTS]) -> [V; MOST_POINTS] {
    match M {
        6 => {
            let near = plus_and_minus(1.0, y[0].add(y[2]).add(y[4]), y[1].add(y[3]).add(y[5]));
            let far = plus_and_minus(
                2.0,
                y[4].mul_add(splat(4.0), y[2]).mul_add(splat(4.0), y[0]),
                y[5].mul_add(splat(4.0), y[3]).mul_add(splat(4.0), y[1]),
            );
            let half = plus_and_minus(
                0.5,
                y[4].mul_add(splat(0.25), y[2]).mul_add(splat(0.25), y[0]),
                y[5].mul_add(splat(0.25), y[3]).mul_add(splat(0.25), y[1]),
            );
            padded([y[0], y[5], near[0], near[1], far[0], far[1], half[0], half[1]])
        }
        5 => {
            let near = plus_and_minus(1.0, y[0].add(y[2]).add(y[4]), y[1].add(y[3]));
            let far = plus_and_minus(
                2.0,
                y[4].mul_add(splat(4.0), y[2]).mul_add(splat(4.0), y[0]),
                y[3].mul_add(splat(4.0), y[1]),
            );
            let half = y[4].mul_add(splat(0.5), y[3]).mul_add(splat(0.5), y[2]);
            let half = half.mul_add(splat(0.5), y[1]).mul_add(splat(0.5), y[0]);
            padded([y[0], y[4], near[0], near[1], far[0], far[1], half])
        }
        4 => {
            let near = plus_and_minus(1.0, y[0].add(y[2]), y[1].add(y[3]));
            let (even, odd) = (y[2].mul_add(splat(4.0), y[0]), y[3].mul_add(splat(4.0), y[1]));
            let far = plus_and_minus(2.0, even, odd);
            padded([y[0], y[3], near[0], near[1], far[0], far[1]])
        }
        3 => {
            let even = y[0].add(y[2]);
            let far = y[1].mul_add(splat(2.0), y[0]);
            let far = y[2].mul_add(splat(4.0), far);
            padded([y[0], y[2], even.add(y[1]), even.sub(y[1]), far])
        }
        2 => padded([y[0], y[1], y[0].add(y[1]), y[0].sub(y[1])]),
        _ => padded([y[0], y[0], y[0]]),
    }
}

/// `G g` at the first `P` points; the others are zero.
#[inline(always)]
pub(super) fn filter<V: Vector, const P: usize>(g: [V; 3]) -> [V; MOST_POINTS] {
    let near_even = g[0].add(g[2]).mul(splat(-1.0 / 6.0));
    let near_odd = g[1].mul(splat(1.0 / 6.0));
    let far_even = g[0].mul_add(splat(1.0 / 24.0), g[2].mul(splat(1.0 / 6.0)));
    let far_odd = g[1].mul(splat(1.0 / 12.0));
    let half_even = g[0].mul_add(splat(32.0 / 45.0), g[2].mul(splat(8.0 / 45.0)));
    let half_odd = g[1].mul(splat(16.0 / 45.0));
    let mut points = padded([
        g[0].mul(splat(0.25)),
        g[2],
        near_even.sub(near_odd),
        near_even.add(near_odd),
        far_even.add(far_odd),
        far_even.sub(far_odd),
        half_even.add(half_odd),
        half_even.sub(half_odd),
    ]);
    for unused in &mut points[P..] {
        *unused = splat(0.0);
    }
    points
}

/// `G^T u` of the first `P` points: the transpose of [`filter`].
#[inline(always)]
pub(super) fn filter_gradient<V: Vector, const P: usize>(u: [V; MOST_POINTS]) -> [V; 3] {
    let near = u[2].add(u[3]).mul(splat(-1.0 / 6.0));
    let (far_sum, far_difference) = (u[4].add(u[5]), u[4].sub(u[5]));
    let g = [
        u[0].mul_add(splat(0.25), far_sum.mul_add(splat(1.0 / 24.0), near)),
        far_difference.mul_add(splat(1.0 / 12.0), u[3].sub(u[2]).mul(splat(1.0 / 6.0))),
        far_sum.mul_add(splat(1.0 / 6.0), near.add(u[1])),
    ];
    let (half_sum, half_difference) = match P {
        8 => (u[6].add(u[7]), u[6].sub(u[7])),
        7 => (u[6], u[6]),
        _ => return g,
    };
    [
        half_sum.mul_add(splat(32.0 / 45.0), g[0]),
        half_difference.mul_add(splat(16.0 / 45.0), g[1]),
        half_sum.mul_add(splat(8.0 / 45.0), g[2]),
    ]
}

/// Calls a generic function with the number of points, in one dimension, as its last constant.
macro_rules! by_points {
    ($points:expr, $this:ident . $f:ident :: <$($generic:ty),+> $args:tt) => {
        match $points {
            8 => $this.$f::<$($generic,)+ 8> $args,
            7 => $this.$f::<$($generic,)+ 7> $args,
            6 => $this.$f::<$($generic,)+ 6> $args,
            _ => unreachable!("tiles are of up to 4, 5 or 6 outputs a side"),
        }
    };
}
pub(super) use by_points;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conv::simd::{Isa, Job, LANES, Simd};

    /// F(M, 3) with filters at P points.
    struct Check<const M: usize, const P: usize>;

    /// The values in a vector each, and NaN: what does not belong to a tile is not looked at.
    fn vectors<V: Vector>(values: &[f32]) -> [V; MOST_POINTS] {
        // SAFETY: the job that calls this runs.
        std::array::from_fn(|i| unsafe { V::splat(values.get(i).copied().unwrap_or(f32::NAN)) })
    }

    fn floats<V: Vector, const N: usize>(vectors: [V; N]) -> [f32; N] {
        vectors.map(|v| {
            let mut floats = [f32::NAN; LANES];
            // SAFETY: there is room for a narrow vector.
            unsafe { v.store(floats.as_mut_ptr()) };
            floats[0]
        })
    }

    impl<const M: usize, const P: usize> Job for Check<M, P> {
        #[inline(always)]
        unsafe fn run<S: Simd>(self) {
            let d = [0.3, -1.1, 0.7, 2.3, -0.4, 1.9, -2.2, 0.6];
            let dy = [1.2, -0.8, 0.5, -1.7, 0.9, 2.1];
            let g: [f32; 3] = [0.9, -1.3, 0.4];
            // SAFETY: the job runs.
            let u = floats(filter::<_, P>(g.map(|g| unsafe { S::Narrow::splat(g) })));
            let v = floats(input::<_, M>(vectors::<S::Narrow>(&d[..M + 2])));
            assert!(v[M + 2..].iter().all(|&x| x == 0.0));
            let products: Vec<f32> = (0..M + 2).map(|i| u[i] * v[i]).collect();
            let y = floats(output::<_, M>(vectors::<S::Narrow>(&products)));
            for (k, &y) in y[..M].iter().enumerate() {
                let want: f32 = (0..3).map(|j| d[k + j] * g[j]).sum();
                assert!(
                    (y - want).abs() < 2e-5,
                    "F({M}, 3) of {P} points, output {k}: {y}, {want}"
                );
            }

            let z = floats(gradient::<_, M>(vectors::<S::Narrow>(&dy[..M])));
            let products: Vec<f32> =
                (0..P).map(|i| if i < M + 2 { z[i] * v[i] } else { 0.0 }).collect();
            let dg = floats(filter_gradient::<_, P>(vectors::<S::Narrow>(&products)));
            for (j, dg) in dg.into_iter().enumerate() {
                let want: f32 = (0..M).map(|k| d[k + j] * dy[k]).sum();
                assert!((dg - want).abs() < 5e-5, "F({M}, 3) of {P} points, tap {j}: {dg}, {want}");
            }
        }
    }

    #[test]
    fn every_tile_is_a_correlation_with_the_filters_of_every_larger_one() {
        for isa in Isa::available() {
            // SAFETY: the job has no conditions.
            unsafe {
                isa.run(Check::<1, 6>);
                isa.run(Check::<2, 6>);
                isa.run(Check::<3, 6>);
                isa.run(Check::<4, 6>);
                isa.run(Check::<1, 7>);
                isa.run(Check::<2, 7>);
                isa.run(Check::<3, 7>);
                isa.run(Check::<4, 7>);
                isa.run(Check::<5, 7>);
                isa.run(Check::<1, 8>);
                isa.run(Check::<2, 8>);
                isa.run(Check::<3, 8>);
                isa.run(Check::<4, 8>);
                isa.run(Check::<5, 8>);
                isa.run(Check::<6, 8>);
            }
        }
    }
}
