//! Numbers as sums of two of bf16: `x = upper + lower`, each with 8 significant bits, rounded to nearest. What is
//! left over is at most `2^-17 |x|`. Of a product of two such sums the product of the lower halves is left out, at
//! most `2^-16 |x y|`. So a product errs by up to `2^-15` (3e-5) if all roundings agree, as for tensors of one value,
//! and by 4.3e-6 on average if the bits beyond the eighth are random.
//!
//! The unit takes subnormal numbers for zeros: below about 1e-36 only the upper half is left. A number that bf16
//! rounds to infinity (3.39e38 and more; an eighth of it where it is transformed first, `minimal`) makes NaN.

use std::arch::x86_64::*;

use super::unit::{ROW, SIDE};

/// Two vectors of 16 numbers as their upper and lower halves, 32 of each, `low`'s first.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) fn split(low: __m512, high: __m512) -> (__m512i, __m512i) {
    let upper = bits(_mm512_cvtne2ps_pbh(high, low));
    // What is left is exact: the difference has no more bits than `x`.
    let rest = |x: __m512, upper: __m256i| {
        let upper = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(upper));
        _mm512_sub_ps(x, _mm512_castsi512_ps(upper))
    };
    let low = rest(low, _mm512_castsi512_si256(upper));
    let high = rest(high, _mm512_extracti64x4_epi64::<1>(upper));
    (upper, bits(_mm512_cvtne2ps_pbh(high, low)))
}

#[inline]
#[target_feature(enable = "avx512bf16")]
fn bits(x: __m512bh) -> __m512i {
    // SAFETY: both are 64 bytes of anything.
    unsafe { std::mem::transmute(x) }
}

/// Two vectors side by side, lane by lane: what the unit wants of the rows `2 k` and `2 k + 1` of its right
/// operand.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) fn split_pair(even: __m512, odd: __m512) -> (__m512i, __m512i) {
    let (upper, lower) = split(even, odd);
    let order = interleaved();
    (_mm512_permutexvar_epi16(order, upper), _mm512_permutexvar_epi16(order, lower))
}

/// 0, 16, 1, 17, ...
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn interleaved() -> __m512i {
    let first = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    let second = _mm512_slli_epi32::<16>(_mm512_add_epi32(first, _mm512_set1_epi32(16)));
    _mm512_or_si512(first, second)
}

/// The transpose of 16 x 16 words of 32 bits.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transpose(rows: &mut [__m512i; SIDE]) {
    let r = *rows;
    let mut pairs = r;
    for i in 0..SIDE / 2 {
        pairs[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        pairs[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    // Of four rows, the columns `4 q + j` for every quarter `q` of a vector.
    let mut fours = r;
    for i in 0..SIDE / 4 {
        for half in 0..2 {
            let (a, b) = (pairs[4 * i + half], pairs[4 * i + 2 + half]);
            fours[4 * i + 2 * half] = _mm512_unpacklo_epi64(a, b);
            fours[4 * i + 2 * half + 1] = _mm512_unpackhi_epi64(a, b);
        }
    }
    for j in 0..4 {
        let [a, b, c, d] = [fours[j], fours[4 + j], fours[8 + j], fours[12 + j]];
        let (ab, cd) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0x88>(c, d));
        rows[j] = _mm512_shuffle_i32x4::<0x88>(ab, cd);
        rows[8 + j] = _mm512_shuffle_i32x4::<0xdd>(ab, cd);
        let (ab, cd) = (_mm512_shuffle_i32x4::<0xdd>(a, b), _mm512_shuffle_i32x4::<0xdd>(c, d));
        rows[4 + j] = _mm512_shuffle_i32x4::<0x88>(ab, cd);
        rows[12 + j] = _mm512_shuffle_i32x4::<0xdd>(ab, cd);
    }
}

/// The first `n` of 16 lanes.
#[inline]
pub(super) fn lanes(n: usize) -> __mmask16 {
    ((1u32 << n.min(16)) - 1) as __mmask16
}

/// The first `n` floats at `from`, zeros in the other lanes.
///
/// # Safety
/// They can be read.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn load(from: *const f32, n: usize) -> __m512 {
    // SAFETY: masked lanes are not accessed; the caller lends the others.
    unsafe { _mm512_maskz_loadu_ps(lanes(n), from) }
}

/// Has the line of memory brought to the first cache that `from` points to, wherever that is.
#[inline]
pub(super) fn fetch(from: *const f32) {
    // SAFETY: every x86-64 has the instruction, and it accesses nothing.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) };
}

/// A row of an operand: the upper halves, then the lower ones.
///
/// # Safety
/// It can be written at `to`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn store((upper, lower): (__m512i, __m512i), to: *mut u8) {
    // SAFETY: passed on to the caller.
    unsafe {
        _mm512_storeu_si512(to.cast(), upper);
        _mm512_storeu_si512(to.wrapping_add(64).cast(), lower);
    }
}

/// A block of an operand from the transpose of its halves, as words of 32 bits.
///
/// # Safety
/// It can be written at `to`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn store_transposed(
    mut upper: [__m512i; SIDE],
    mut lower: [__m512i; SIDE],
    to: *mut u8,
) {
    transpose(&mut upper);
    transpose(&mut lower);
    for row in 0..SIDE {
        // SAFETY: passed on to the caller.
        unsafe { store((upper[row], lower[row]), to.wrapping_add(row * ROW)) };
    }
}
