//! No intrinsics: arrays that the compiler turns into whatever the target has. Also what Miri runs.

use super::super::indirect;
use super::super::product::{Kernel, tile};
use super::{Job, LANES, Simd, Vector};

#[derive(Clone, Copy)]
pub(super) struct Scalar;

/// Eight lanes.
#[derive(Clone, Copy)]
pub(in crate::conv) struct Lanes([f32; LANES]);

impl Lanes {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Vector for Lanes {
    const LANES: usize = LANES;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self([x; LANES])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller lends 8 floats; an array of f32 has their alignment.
        Self(unsafe { from.cast::<[f32; LANES]>().read() })
    }
    #[inline(never)]
    unsafe fn load_partial(from: *const f32, n: usize) -> Self {
        let mut lanes = [0.0; LANES];
        for (i, lane) in lanes.iter_mut().enumerate().take(n) {
            // SAFETY: `i < n`, and the caller lends `n` floats.
            *lane = unsafe { from.add(i).read() };
        }
        Self(lanes)
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller lends room for 8 floats; an array of f32 has their alignment.
        unsafe { to.cast::<[f32; LANES]>().write(self.0) }
    }
    #[inline(never)]
    unsafe fn store_partial(self, to: *mut f32, n: usize) {
        for (i, lane) in self.0.iter().enumerate().take(n) {
            // SAFETY: `i < n`, and the caller lends room for `n` floats.
            unsafe { to.add(i).write(*lane) }
        }
    }
    #[inline(never)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
    #[inline(never)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
    #[inline(never)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }
    #[inline(never)]
    fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }
    #[inline(never)]
    fn gate(self, mask: Self) -> Self {
        self.zip(mask, |a, m| if m <= 0.0 { 0.0 } else { a })
    }
    #[inline(never)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        self.mul(factor).add(term)
    }
    #[inline(never)]
    fn neg_mul_add(self, factor: Self, term: Self) -> Self {
        term.sub(self.mul(factor))
    }
}

impl Simd for Scalar {
    type Wide = Lanes;
    type Narrow = Lanes;
    const PANEL: usize = 1;
    const JOINED: usize = 0;

    #[inline(always)]
    fn rows(_units: usize) -> usize {
        4
    }

    #[inline(always)]
    fn indirect_kernel(rows: usize, _units: usize) -> indirect::Kernel {
        match rows {
            1 => indirect::tile::<Self, 1, 1, 0>,
            2 => indirect::tile::<Self, 2, 1, 0>,
            3 => indirect::tile::<Self, 3, 1, 0>,
            _ => indirect::tile::<Self, 4, 1, 0>,
        }
    }

    #[inline(always)]
    fn kernel(rows: usize, _units: usize) -> Kernel {
        match rows {
            1 => tile::<Self, 1, 1, 0>,
            2 => tile::<Self, 2, 1, 0>,
            3 => tile::<Self, 3, 1, 0>,
            _ => tile::<Self, 4, 1, 0>,
        }
    }

    #[inline(never)]
    fn transpose(rows: [Lanes; LANES]) -> [Lanes; LANES] {
        std::array::from_fn(|i| Lanes(std::array::from_fn(|j| rows[j].0[i])))
    }

    unsafe fn vectorize<J: Job>(job: J) {
        // SAFETY: this needs no instruction set; the caller answers for the job.
        unsafe { job.run::<Self>() }
    }
}
