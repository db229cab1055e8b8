//! The one-dimensional pieces of Winograd's minimal filtering F(m, 3) for m = 1 to 4 outputs,
//! after Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016).
//!
//! `m` outputs of a 3-tap correlation take `m + 2` products: with `d` the `m + 2` inputs and `g`
//! the taps, `y = A^T [(G g) * (B^T d)]`. F(4, 3) evaluates at the points 0, 1, -1, 2, -2 and
//! infinity. The smaller ones, for the last tiles of a map whose side is no multiple of 4, use a
//! subset of these points and the *same* `G`, so that one set of transformed filters serves all
//! tiles: their `B^T` makes up for the scale that `G` gives each point.
//!
//! | outputs | points |
//! |---|---|
//! | 4 | 0 1 -1 2 -2 inf |
//! | 3 | 0 1 -1 2 inf |
//! | 2 | 0 1 -1 inf |
//! | 1 | 0 1 inf |
//!
//! The weight gradient is the same bilinear form transposed: `dg = G^T [(A dy) * (B^T d)]`.

use crate::conv::simd::Vector;

/// Outputs of the largest tile, in one dimension.
pub(super) const TILE: usize = 4;
/// Points, in one dimension.
pub(super) const POINTS: usize = TILE + 2;

/// Whether a tile of `m` outputs uses point `i`.
#[inline(always)]
pub(super) const fn uses(m: usize, i: usize) -> bool {
    match i {
        0 | 1 | 5 => true,
        2 => m >= 2,
        3 => m >= 3,
        _ => m == 4,
    }
}

/// For the functions below, each of which has been given a `V`.
#[inline(always)]
fn splat<V: Vector>(x: f32) -> V {
    // SAFETY: its callers hold a `V`, which proves the instruction set.
    unsafe { V::splat(x) }
}

/// `B^T d` for `M` outputs, of which the first `M + 2` inputs are read. Unused points are zero.
#[inline(always)]
pub(super) fn input<V: Vector, const M: usize>(d: [V; POINTS]) -> [V; POINTS] {
    match M {
        4 => {
            let even = d[2].neg_mul_add(splat(4.0), d[4]);
            let odd = d[1].neg_mul_add(splat(4.0), d[3]);
            let far_even = d[4].sub(d[2]);
            let far_odd = d[3].sub(d[1]);
            [
                d[0].mul_add(splat(4.0), d[2].neg_mul_add(splat(5.0), d[4])),
                even.add(odd),
                even.sub(odd),
                far_odd.mul_add(splat(2.0), far_even),
                far_odd.neg_mul_add(splat(2.0), far_even),
                d[1].mul_add(splat(4.0), d[3].neg_mul_add(splat(5.0), d[5])),
            ]
        }
        3 => {
            let odd = d[3].sub(d[1]);
            let middle = d[2].neg_mul_add(splat(3.0), d[3]);
            [
                d[0].sub(d[2]).mul_add(splat(4.0), odd.add(odd)),
                d[1].add(d[1]).add(d[2]).neg_mul_add(splat(3.0), d[3].mul(splat(3.0))),
                d[1].mul_add(splat(2.0), middle),
                odd.mul(splat(4.0)),
                splat(0.0),
                odd.neg_mul_add(splat(2.0), d[4].sub(d[2])),
            ]
        }
        2 => [
            d[0].sub(d[2]).mul(splat(4.0)),
            d[1].add(d[2]).mul(splat(-3.0)),
            d[1].sub(d[2]).mul(splat(3.0)),
            splat(0.0),
            splat(0.0),
            d[3].sub(d[1]),
        ],
        _ => [
            d[0].sub(d[1]).mul(splat(4.0)),
            d[1].mul(splat(-6.0)),
            splat(0.0),
            splat(0.0),
            splat(0.0),
            d[2].sub(d[1]),
        ],
    }
}

/// `A^T m`: the `M` outputs; the others are zero.
#[inline(always)]
pub(super) fn output<V: Vector, const M: usize>(m: [V; POINTS]) -> [V; TILE] {
    match M {
        4 => {
            let (sum, difference) = (m[1].add(m[2]), m[1].sub(m[2]));
            let (far_sum, far_difference) = (m[3].add(m[4]), m[3].sub(m[4]));
            [
                m[0].add(sum).add(far_sum),
                far_difference.mul_add(splat(2.0), difference),
                far_sum.mul_add(splat(4.0), sum),
                far_difference.mul_add(splat(8.0), difference.add(m[5])),
            ]
        }
        3 => {
            let sum = m[1].add(m[2]);
            [
                m[0].add(sum).add(m[3]),
                m[3].mul_add(splat(2.0), m[1].sub(m[2])),
                m[3].mul_add(splat(4.0), sum.add(m[5])),
                splat(0.0),
            ]
        }
        2 => [m[0].add(m[1]).add(m[2]), m[1].sub(m[2]).add(m[5]), splat(0.0), splat(0.0)],
        _ => [m[0].add(m[1]).add(m[5]), splat(0.0), splat(0.0), splat(0.0)],
    }
}

/// `A y`: the transpose of [`output`], for gradients. Unused points are zero.
#[inline(always)]
pub(super) fn gradient<V: Vector, const M: usize>(y: [V; TILE]) -> [V; POINTS] {
    match M {
        4 => {
            let (even, odd) = (y[0].add(y[2]), y[1].add(y[3]));
            let far_even = y[2].mul_add(splat(4.0), y[0]);
            let far_odd = y[3].mul_add(splat(4.0), y[1]);
            [
                y[0],
                even.add(odd),
                even.sub(odd),
                far_odd.mul_add(splat(2.0), far_even),
                far_odd.neg_mul_add(splat(2.0), far_even),
                y[3],
            ]
        }
        3 => {
            let even = y[0].add(y[2]);
            let far = y[1].mul_add(splat(2.0), y[0]);
            [y[0], even.add(y[1]), even.sub(y[1]), y[2].mul_add(splat(4.0), far), splat(0.0), y[2]]
        }
        2 => [y[0], y[0].add(y[1]), y[0].sub(y[1]), splat(0.0), splat(0.0), y[1]],
        _ => [y[0], y[0], splat(0.0), splat(0.0), splat(0.0), y[0]],
    }
}

/// `G g`.
#[inline(always)]
pub(super) fn filter<V: Vector>(g: [V; 3]) -> [V; POINTS] {
    let near_even = g[0].add(g[2]).mul(splat(-1.0 / 6.0));
    let near_odd = g[1].mul(splat(1.0 / 6.0));
    let far_even = g[0].mul_add(splat(1.0 / 24.0), g[2].mul(splat(1.0 / 6.0)));
    let far_odd = g[1].mul(splat(1.0 / 12.0));
    [
        g[0].mul(splat(0.25)),
        near_even.sub(near_odd),
        near_even.add(near_odd),
        far_even.add(far_odd),
        far_even.sub(far_odd),
        g[2],
    ]
}

/// `G^T u`: the transpose of [`filter`].
#[inline(always)]
pub(super) fn filter_gradient<V: Vector>(u: [V; POINTS]) -> [V; 3] {
    let near = u[1].add(u[2]).mul(splat(-1.0 / 6.0));
    let (far_sum, far_difference) = (u[3].add(u[4]), u[3].sub(u[4]));
    [
        u[0].mul_add(splat(0.25), far_sum.mul_add(splat(1.0 / 24.0), near)),
        far_difference.mul_add(splat(1.0 / 12.0), u[2].sub(u[1]).mul(splat(1.0 / 6.0))),
        far_sum.mul_add(splat(1.0 / 6.0), near.add(u[5])),
    ]
}
