//! What layouts read.

use std::arch::x86_64::*;

use super::split::{fetch, lanes, load};
use super::unit::SIDE;
use crate::conv::input::InputNorm;

/// Lines of a map that are read together, of which some may be off it.
#[derive(Clone, Copy)]
pub(super) struct Together<'a, const N: usize> {
    /// Floats from one to the next.
    across: usize,
    there: [bool; N],
    all: bool,
    norm: Option<InputNorm<'a>>,
}

impl<'a, const N: usize> Together<'a, N> {
    /// From line `first` on, of `height`; what is read goes through `norm`.
    pub(super) fn new(
        first: isize,
        height: usize,
        across: usize,
        norm: Option<InputNorm<'a>>,
    ) -> Self {
        let there = std::array::from_fn(|i| (0..height as isize).contains(&(first + i as isize)));
        Self { across, there, all: there == [true; N], norm }
    }

    /// The first `n` floats of each from a place of the first line on, which are channels from `channel` on, zeros in the other
    /// lanes and where there is no line.
    ///
    /// # Safety
    /// They can be read where there is a line, and there are so many channels.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn load(&self, from: *const f32, channel: usize, n: usize) -> [__m512; N] {
        let at = |i: usize| from.wrapping_add(i * self.across);
        let width = |i: usize| if self.there[i] { n } else { 0 };
        // SAFETY: passed on to the caller.
        unsafe {
            let mut values = if self.all && n == SIDE {
                std::array::from_fn(|i| _mm512_loadu_ps(at(i)))
            } else {
                std::array::from_fn(|i| load(at(i), width(i)))
            };
            if let Some(InputNorm { mean, scale, beta, least }) = self.norm {
                let of = |vector: &[f32]| load(vector.as_ptr().wrapping_add(channel), n);
                let (mean, scale, beta) = (of(mean), of(scale), of(beta));
                let least = _mm512_set1_ps(least);
                for (i, value) in values.iter_mut().enumerate() {
                    // Not one operation, for the bits of `norm_forward`; in this order a NaN stays one.
                    let product = _mm512_mul_ps(_mm512_sub_ps(*value, mean), scale);
                    let normed = _mm512_add_ps(product, beta);
                    *value = _mm512_maskz_max_ps(lanes(width(i)), least, normed);
                }
            }
            values
        }
    }

    /// Has `n` floats of each from a place of the first line on brought to the first cache, wherever that is. What
    /// neighbours in memory is asked for in a row.
    #[inline]
    pub(super) fn fetch(&self, from: *const f32, n: usize) {
        for i in 0..N {
            for at in (0..n).step_by(SIDE) {
                fetch(from.wrapping_add(i * self.across + at));
            }
        }
    }
}
