//! x86-64 with AVX2 and FMA: 16 registers of 8 lanes.

use std::arch::x86_64::*;

use super::super::product::kernels;
use super::{Job, LANES, Simd, Vector};

#[derive(Clone, Copy)]
pub(super) struct Avx2;

/// Eight lanes.
#[derive(Clone, Copy)]
pub(in crate::conv) struct Ymm(__m256);

/// Eight set words, then eight clear ones: a window of it selects the first `n` lanes.
static WINDOW: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

#[inline(always)]
unsafe fn first(n: usize) -> __m256i {
    debug_assert!(n <= LANES);
    // SAFETY: the window starts at `8 - n`, so it ends at `16 - n <= 16`; the caller has AVX2.
    unsafe { _mm256_loadu_si256(WINDOW.as_ptr().add(LANES - n).cast()) }
}

impl Vector for Ymm {
    const LANES: usize = LANES;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: the caller has AVX2.
        Self(unsafe { _mm256_set1_ps(x) })
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller has AVX2 and lends 8 floats.
        Self(unsafe { _mm256_loadu_ps(from) })
    }
    #[inline(always)]
    unsafe fn load_partial(from: *const f32, n: usize) -> Self {
        // SAFETY: the caller has AVX2 and lends `n` floats; masked lanes are not accessed.
        Self(unsafe { _mm256_maskload_ps(from, first(n)) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the value proves AVX2; the caller lends room for 8 floats.
        unsafe { _mm256_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, to: *mut f32, n: usize) {
        // SAFETY: the value proves AVX2; the caller lends room for `n` floats, and masked lanes
        // are not accessed.
        unsafe { _mm256_maskstore_ps(to, first(n), self.0) }
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: the value proves AVX2.
        Self(unsafe { _mm256_add_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        // SAFETY: the value proves AVX2.
        Self(unsafe { _mm256_sub_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        // SAFETY: the value proves AVX2.
        Self(unsafe { _mm256_mul_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: the value proves AVX2.
        Self(unsafe { _mm256_max_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn gate(self, mask: Self) -> Self {
        // SAFETY: the value proves AVX2.
        Self(unsafe {
            let open = _mm256_cmp_ps::<_CMP_NLE_UQ>(mask.0, _mm256_setzero_ps());
            _mm256_and_ps(self.0, open)
        })
    }
    #[inline(always)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        // SAFETY: the value proves FMA.
        Self(unsafe { _mm256_fmadd_ps(self.0, factor.0, term.0) })
    }
    #[inline(always)]
    fn neg_mul_add(self, factor: Self, term: Self) -> Self {
        // SAFETY: the value proves FMA.
        Self(unsafe { _mm256_fnmadd_ps(self.0, factor.0, term.0) })
    }
}

/// An 8 x 8 transpose: pairs, then quadruples, then halves.
#[inline(always)]
pub(super) fn transpose(r: [Ymm; LANES]) -> [Ymm; LANES] {
    // SAFETY: the values prove AVX2.
    unsafe {
        let pairs = |a: Ymm, b: Ymm| (_mm256_unpacklo_ps(a.0, b.0), _mm256_unpackhi_ps(a.0, b.0));
        let quads = |a: (__m256, __m256), b: (__m256, __m256)| {
            [
                _mm256_shuffle_ps::<0x44>(a.0, b.0),
                _mm256_shuffle_ps::<0xEE>(a.0, b.0),
                _mm256_shuffle_ps::<0x44>(a.1, b.1),
                _mm256_shuffle_ps::<0xEE>(a.1, b.1),
            ]
        };
        let top = quads(pairs(r[0], r[1]), pairs(r[2], r[3]));
        let bottom = quads(pairs(r[4], r[5]), pairs(r[6], r[7]));
        std::array::from_fn(|i| {
            let (t, b) = (top[i % 4], bottom[i % 4]);
            Ymm(if i < 4 {
                _mm256_permute2f128_ps::<0x20>(t, b)
            } else {
                _mm256_permute2f128_ps::<0x31>(t, b)
            })
        })
    }
}

impl Simd for Avx2 {
    type Wide = Ymm;
    type Narrow = Ymm;
    // 6 x 16 and 12 x 8 are 12 accumulators, which leaves registers for the columns and the
    // broadcast. 4 x 24 would need all 16, and the compiler then spills.
    const PANEL: usize = 2;
    const JOINED: usize = 0;

    #[inline(always)]
    fn rows(units: usize) -> usize {
        if units == 1 { 12 } else { 6 }
    }

    kernels!(Avx2, "avx2,fma",
        1 => (1, 0) [1 2 3 4 5 6 7 8 9 10 11 12],
        2 => (2, 0) [1 2 3 4 5 6]
    );

    #[inline(always)]
    fn transpose(rows: [Ymm; LANES]) -> [Ymm; LANES] {
        transpose(rows)
    }

    #[inline(always)]
    fn prefetch(at: *const f32) {
        prefetch(at);
    }

    #[inline(always)]
    fn prefetch_near(at: *const f32) {
        prefetch_near(at);
    }

    #[inline(always)]
    fn prefetch_to_write(at: *const f32) {
        prefetch_to_write(at);
    }

    #[target_feature(enable = "avx2,fma")]
    unsafe fn vectorize<J: Job>(job: J) {
        // SAFETY: the caller has AVX2 and FMA, and answers for the job.
        unsafe { job.run::<Self>() }
    }
}

/// To the second-level cache.
#[inline(always)]
pub(super) fn prefetch(at: *const f32) {
    // SAFETY: a prefetch reads nothing and faults nowhere; SSE is part of x86-64.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) };
}

/// To the first-level cache.
#[inline(always)]
pub(super) fn prefetch_near(at: *const f32) {
    // SAFETY: as above.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
}

/// To the second-level cache, as the only owner.
#[inline(always)]
pub(super) fn prefetch_to_write(at: *const f32) {
    // SAFETY: as above. every processor with AVX2 has `prefetchw`, or takes it for a no-op.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) at, options(nostack, preserves_flags, readonly));
    }
}
