//! The matrix product whose left operand is addressed through pointers and a list:
//! `C[m, n] (+)= sum over k of A[m, k] * B[k, n]` with `A[m, k]` at `from[m] + offsets[k]`.
//!
//! So a convolution's operand needs no copy with each pixel in it once per tap: its rows are pixels
//! and the offsets lead to what their taps read, or the other way round in a weight gradient. The
//! offset costs one load for all rows of a register tile.

use super::product::{CHUNK, Fetch, put};
use super::simd::{LANES, Simd, Vector};

/// Most rows of a register tile: as many pointers as x86-64 has registers for.
pub(super) const MOST_ROWS: usize = 8;

/// What the tiles of a panel have in common.
#[derive(Clone, Copy)]
pub(super) struct Indirect {
    /// Depth of the sum.
    pub k: usize,
    pub offsets: *const u32,
    /// `B[k, n]` is at `b + k * b_step + n`.
    pub b: *const f32,
    pub b_step: usize,
    /// Add to `C` instead of overwriting it.
    pub accumulate: bool,
    /// What to fetch meanwhile, or null.
    pub fetch: *mut Fetch,
}

/// The rows of a tile: `A[m, k]` is at `from[m] + offsets[k]`, `C[m, n]` at `to[m] + n`.
pub(super) struct Rows {
    pub from: [*const f32; MOST_ROWS],
    pub to: [*mut f32; MOST_ROWS],
}

impl Rows {
    pub(super) fn new() -> Self {
        Self { from: [std::ptr::null(); MOST_ROWS], to: [std::ptr::null_mut(); MOST_ROWS] }
    }
}

/// One register tile, of a height and width that the kernel was chosen for.
pub(super) type Kernel = unsafe fn(rows: &Rows, product: &Indirect);

/// The heights of tiles that together are `rows` high, as even as can be: 9 rows are 5 + 4.
#[inline(always)]
pub(super) fn heights<S: Simd>(rows: usize, units: usize) -> impl Iterator<Item = usize> {
    let tiles = rows.div_ceil(S::rows(units).min(MOST_ROWS));
    let (height, taller) = (rows / tiles.max(1), rows % tiles.max(1));
    (0..tiles).map(move |i| height + usize::from(i < taller))
}

/// The register tile: `ROWS` x (`WIDE` wide vectors and `NARROW` narrow ones).
///
/// # Safety
/// `S` is available, the operands are valid for the sizes given, and `fetch` is null or valid.
#[inline(always)]
pub(super) unsafe fn tile<S: Simd, const ROWS: usize, const WIDE: usize, const NARROW: usize>(
    rows: &Rows,
    product: &Indirect,
) {
    let Indirect { k, mut offsets, mut b, b_step, accumulate, fetch } = *product;
    let from: [*const f32; ROWS] = std::array::from_fn(|i| rows.from[i]);
    // SAFETY: the caller lends `k` offsets and rows of `B`, and `ROWS` rows of `A` and `C`.
    unsafe {
        let mut w = [[S::Wide::splat(0.0); WIDE]; ROWS];
        let mut n = [[S::Narrow::splat(0.0); NARROW]; ROWS];
        let mut left = k;
        while left > 0 {
            let steps = left.min(CHUNK);
            left -= steps;
            if let Some(fetch) = fetch.as_mut() {
                fetch.step::<S>();
            }
            for _ in 0..steps {
                let at = *offsets as usize;
                offsets = offsets.wrapping_add(1);
                let bw: [S::Wide; WIDE] =
                    std::array::from_fn(|j| S::Wide::load(b.add(j * S::Wide::LANES)));
                let bn: [S::Narrow; NARROW] = std::array::from_fn(|j| {
                    S::Narrow::load(b.add(WIDE * S::Wide::LANES + j * LANES))
                });
                for i in 0..ROWS {
                    let x = *from[i].wrapping_add(at);
                    let (xw, xn) = (S::Wide::splat(x), S::Narrow::splat(x));
                    for j in 0..WIDE {
                        w[i][j] = xw.mul_add(bw[j], w[i][j]);
                    }
                    for j in 0..NARROW {
                        n[i][j] = xn.mul_add(bn[j], n[i][j]);
                    }
                }
                b = b.wrapping_add(b_step);
            }
        }
        for i in 0..ROWS {
            let c = rows.to[i];
            for j in 0..WIDE {
                put(w[i][j], c.wrapping_add(j * S::Wide::LANES), accumulate);
            }
            for j in 0..NARROW {
                put(n[i][j], c.wrapping_add(WIDE * S::Wide::LANES + j * LANES), accumulate);
            }
        }
    }
}
