//! x86-64 with AVX-512F and VL: 32 registers of 16 lanes, masks, and the same of 8 lanes.

use std::arch::x86_64::*;

use super::super::product::kernels;
use super::{Job, LANES, Simd, Vector, avx2};

#[derive(Clone, Copy)]
pub(super) struct Avx512;

/// Sixteen lanes.
#[derive(Clone, Copy)]
pub(in crate::conv) struct Zmm(__m512);

impl Vector for Zmm {
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: the caller has AVX-512F.
        Self(unsafe { _mm512_set1_ps(x) })
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller has AVX-512F and lends 16 floats.
        Self(unsafe { _mm512_loadu_ps(from) })
    }
    #[inline(always)]
    unsafe fn load_partial(from: *const f32, n: usize) -> Self {
        debug_assert!(n <= 16);
        // SAFETY: the caller has AVX-512F and lends `n` floats; masked lanes are not accessed.
        Self(unsafe { _mm512_maskz_loadu_ps(((1u32 << n) - 1) as __mmask16, from) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the value proves AVX-512F; the caller lends room for 16 floats.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, to: *mut f32, n: usize) {
        debug_assert!(n <= 16);
        // SAFETY: the value proves AVX-512F; the caller lends room for `n` floats, and masked
        // lanes are not accessed.
        unsafe { _mm512_mask_storeu_ps(to, ((1u32 << n) - 1) as __mmask16, self.0) }
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: the value proves AVX-512F.
        Self(unsafe { _mm512_add_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        // SAFETY: the value proves AVX-512F.
        Self(unsafe { _mm512_sub_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        // SAFETY: the value proves AVX-512F.
        Self(unsafe { _mm512_mul_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: the value proves AVX-512F.
        Self(unsafe { _mm512_max_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn gate(self, mask: Self) -> Self {
        // SAFETY: the value proves AVX-512F.
        Self(unsafe {
            let open = _mm512_cmp_ps_mask::<_CMP_NLE_UQ>(mask.0, _mm512_setzero_ps());
            _mm512_maskz_mov_ps(open, self.0)
        })
    }
    #[inline(always)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        // SAFETY: the value proves AVX-512F.
        Self(unsafe { _mm512_fmadd_ps(self.0, factor.0, term.0) })
    }
    #[inline(always)]
    fn neg_mul_add(self, factor: Self, term: Self) -> Self {
        // SAFETY: the value proves AVX-512F.
        Self(unsafe { _mm512_fnmadd_ps(self.0, factor.0, term.0) })
    }
}

impl Simd for Avx512 {
    type Wide = Zmm;
    type Narrow = avx2::Ymm;
    // 8 x 32 keeps 16 sums in flight, enough for the latency; the last panel has up to 48 columns.
    const PANEL: usize = 4;
    const JOINED: usize = 2;

    #[inline(always)]
    fn rows(units: usize) -> usize {
        if units == 1 { 14 } else { 8 }
    }

    kernels!(Avx512, "avx512f,avx512vl,avx2,fma",
        1 => (0, 1) [1 2 3 4 5 6 7 8 9 10 11 12 13 14],
        2 => (1, 0) [1 2 3 4 5 6 7 8],
        3 => (1, 1) [1 2 3 4 5 6 7 8],
        4 => (2, 0) [1 2 3 4 5 6 7 8],
        5 => (2, 1) [1 2 3 4 5 6 7 8],
        6 => (3, 0) [1 2 3 4 5 6 7 8]
    );

    #[inline(always)]
    fn transpose(rows: [avx2::Ymm; LANES]) -> [avx2::Ymm; LANES] {
        avx2::transpose(rows)
    }

    #[inline(always)]
    fn prefetch(at: *const f32) {
        avx2::prefetch(at);
    }

    #[inline(always)]
    fn prefetch_near(at: *const f32) {
        avx2::prefetch_near(at);
    }

    #[inline(always)]
    fn prefetch_to_write(at: *const f32) {
        avx2::prefetch_to_write(at);
    }

    #[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
    unsafe fn vectorize<J: Job>(job: J) {
        // SAFETY: the caller has AVX-512F, AVX-512VL, AVX2 and FMA, and answers for the job.
        unsafe { job.run::<Self>() }
    }
}
