//! What layouts read.

use std::arch::x86_64::*;

use super::split::{fetch, load};
use super::unit::SIDE;

/// Lines of a map that are read together, of which some may be off it.
#[derive(Clone, Copy)]
pub(super) struct Together<const N: usize> {
    /// Floats from one to the next.
    across: usize,
    there: [bool; N],
    all: bool,
}

impl<const N: usize> Together<N> {
    /// From line `first` on, of `height`.
    pub(super) fn new(first: isize, height: usize, across: usize) -> Self {
        let there = std::array::from_fn(|i| (0..height as isize).contains(&(first + i as isize)));
        Self { across, there, all: there == [true; N] }
    }

    /// The first `n` floats of each from a place of the first line on, zeros in the other lanes and where there is
    /// no line.
    ///
    /// # Safety
    /// They can be read where there is a line.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn load(&self, from: *const f32, n: usize) -> [__m512; N] {
        let at = |i: usize| from.wrapping_add(i * self.across);
        // SAFETY: passed on to the caller.
        unsafe {
            if self.all && n == SIDE {
                std::array::from_fn(|i| _mm512_loadu_ps(at(i)))
            } else {
                std::array::from_fn(|i| load(at(i), if self.there[i] { n } else { 0 }))
            }
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
