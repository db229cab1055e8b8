//! aarch64: 32 registers of 4 lanes, used in pairs.

use std::arch::aarch64::*;

use super::super::product::kernels;
use super::{Job, LANES, Simd, Vector};

#[derive(Clone, Copy)]
pub(super) struct Neon;

/// Eight lanes in two registers.
#[derive(Clone, Copy)]
pub(in crate::conv) struct Pair(float32x4_t, float32x4_t);

impl Pair {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(float32x4_t, float32x4_t) -> float32x4_t) -> Self {
        Self(f(self.0, other.0), f(self.1, other.1))
    }
    #[inline(always)]
    fn to_array(self) -> [f32; LANES] {
        let mut lanes = [0.0; LANES];
        // SAFETY: `lanes` holds 8 floats.
        unsafe { self.store(lanes.as_mut_ptr()) };
        lanes
    }
}

impl Vector for Pair {
    const LANES: usize = LANES;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: the caller has NEON.
        unsafe { Self(vdupq_n_f32(x), vdupq_n_f32(x)) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller has NEON and lends 8 floats.
        unsafe { Self(vld1q_f32(from), vld1q_f32(from.add(4))) }
    }
    #[inline(always)]
    unsafe fn load_partial(from: *const f32, n: usize) -> Self {
        let mut lanes = [0.0; LANES];
        for (i, lane) in lanes.iter_mut().enumerate().take(n) {
            // SAFETY: `i < n`, and the caller lends `n` floats.
            *lane = unsafe { from.add(i).read() };
        }
        // SAFETY: the caller has NEON; `lanes` holds 8 floats.
        unsafe { Self::load(lanes.as_ptr()) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the value proves NEON; the caller lends room for 8 floats.
        unsafe {
            vst1q_f32(to, self.0);
            vst1q_f32(to.add(4), self.1);
        }
    }
    #[inline(always)]
    unsafe fn store_partial(self, to: *mut f32, n: usize) {
        for (i, lane) in self.to_array().iter().enumerate().take(n) {
            // SAFETY: `i < n`, and the caller lends room for `n` floats.
            unsafe { to.add(i).write(*lane) }
        }
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: the value proves NEON.
        self.zip(other, |a, b| unsafe { vaddq_f32(a, b) })
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        // SAFETY: the value proves NEON.
        self.zip(other, |a, b| unsafe { vsubq_f32(a, b) })
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        // SAFETY: the value proves NEON.
        self.zip(other, |a, b| unsafe { vmulq_f32(a, b) })
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: the value proves NEON.
        self.zip(other, |a, b| unsafe { vmaxq_f32(a, b) })
    }
    #[inline(always)]
    fn gate(self, mask: Self) -> Self {
        // SAFETY: the value proves NEON.
        self.zip(mask, |a, m| unsafe {
            let shut = vcleq_f32(m, vdupq_n_f32(0.0));
            vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(a), shut))
        })
    }
    #[inline(always)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        // SAFETY: the value proves NEON.
        unsafe { Self(vfmaq_f32(term.0, self.0, factor.0), vfmaq_f32(term.1, self.1, factor.1)) }
    }
    #[inline(always)]
    fn neg_mul_add(self, factor: Self, term: Self) -> Self {
        // SAFETY: the value proves NEON.
        unsafe { Self(vfmsq_f32(term.0, self.0, factor.0), vfmsq_f32(term.1, self.1, factor.1)) }
    }
}

impl Simd for Neon {
    type Wide = Pair;
    type Narrow = Pair;
    // 6 x 16 is 24 accumulators of the 32 registers.
    const PANEL: usize = 2;
    const JOINED: usize = 0;

    #[inline(always)]
    fn rows(units: usize) -> usize {
        if units == 1 { 12 } else { 6 }
    }

    kernels!(Neon, "neon",
        1 => (1, 0) [1 2 3 4 5 6 7 8 9 10 11 12],
        2 => (2, 0) [1 2 3 4 5 6]
    );

    #[inline(always)]
    fn transpose(rows: [Pair; LANES]) -> [Pair; LANES] {
        let block = rows.map(Pair::to_array);
        std::array::from_fn(|i| {
            let column: [f32; LANES] = std::array::from_fn(|j| block[j][i]);
            // SAFETY: the values prove NEON; `column` holds 8 floats.
            unsafe { Pair::load(column.as_ptr()) }
        })
    }

    #[target_feature(enable = "neon")]
    unsafe fn vectorize<J: Job>(job: J) {
        // SAFETY: the caller has NEON, and answers for the job.
        unsafe { job.run::<Self>() }
    }
}
