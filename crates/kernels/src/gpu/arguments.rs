//! What kernels are called with: structures laid out as in the CUDA sources, which assert the same sizes.

use super::memory::Activation;

/// Plain old data that a kernel takes as its only parameter.
///
/// # Safety
/// The type is `repr(C)`, has no padding bytes, and is laid out like the kernel's parameter.
pub(super) unsafe trait Arguments: Copy {
    fn bytes(&self) -> &[u8] {
        // SAFETY: the implementor has no padding, so all its bytes are initialised; they are borrowed from `self`.
        unsafe { std::slice::from_raw_parts((&raw const *self).cast(), size_of::<Self>()) }
    }
}

/// A kernel's parameter: a structure whose size is that of its fields, checked when it is compiled.
macro_rules! arguments {
    ($(#[$meta:meta])* struct $name:ident { $($field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug)]
        #[repr(C)]
        pub(super) struct $name { $(pub $field: $type,)* }

        const _: () = assert!(size_of::<$name>() == 0 $(+ size_of::<$type>())*, "padding");

        // SAFETY: `repr(C)` without padding, as just asserted; the CUDA source asserts the same size for the same fields.
        unsafe impl $crate::gpu::arguments::Arguments for $name {}
    };
}
pub(super) use arguments;

/// # Panics
/// When a kernel cannot count so far.
pub(super) fn int(n: usize) -> i32 {
    i32::try_from(n).unwrap_or_else(|_| panic!("{n} is too large for a GPU kernel"))
}

/// The kernels of one name, for [`variant`].
macro_rules! variants {
    ($name:literal) => {
        [
            concat!($name, "_f32_any"),
            concat!($name, "_f32_vectors"),
            concat!($name, "_bf16_any"),
            concat!($name, "_bf16_vectors"),
        ]
    };
}
pub(super) use variants;

/// Elements of a thread's vector: those of 16 bytes where rows of `channels` at these addresses allow that, else 1.
pub(super) fn length<T: Activation>(channels: usize, addresses: &[u64]) -> usize {
    let aligned = addresses.iter().all(|a| a.is_multiple_of(16));
    if aligned && channels.is_multiple_of(T::VECTOR) { T::VECTOR } else { 1 }
}

/// The kernel for activations of type `T` in vectors of `length`.
pub(super) fn variant<T: Activation>(names: [&'static str; 4], length: usize) -> &'static str {
    names[usize::from(size_of::<T>() == 2) * 2 + usize::from(length > 1)]
}

/// Threads of a block of the kernels that walk over `[rows, channels]` buffers.
pub(super) const THREADS: usize = 256;

/// Vectors of channels that a block takes: all, or a part that keeps nearly all of its threads busy.
pub(super) fn across(vectors: usize) -> usize {
    // Threads are in whole rows: of 256, up to `across - 1` are idle. 32 of 16 bytes are contiguous memory enough.
    (1..)
        .map(|tiles| vectors.div_ceil(tiles))
        .find(|across| {
            let busy = THREADS / across * across;
            let computed = vectors.next_multiple_of(*across);
            *across <= 32 || busy * vectors * 8 >= THREADS * computed * 7
        })
        .expect("at most 32 in the end")
}

/// Division of numbers below 2^31 by a constant, as a multiplication and a shift (Granlund & Montgomery 1994).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct FastDivision {
    divisor: u32,
    multiplier: u32,
    shift: u32,
}

impl FastDivision {
    /// # Panics
    /// When the divisor is zero or above 2^31.
    pub fn new(divisor: usize) -> Self {
        assert!((1..=1 << 31).contains(&divisor), "division by {divisor}");
        let shift = usize::BITS - (divisor - 1).leading_zeros(); // the least with 2^shift >= divisor
        let multiplier = ((1u64 << 32) * ((1u64 << shift) - divisor as u64)) / divisor as u64 + 1;
        Self { divisor: divisor as u32, multiplier: multiplier as u32, shift }
    }
}

#[cfg(test)]
mod tests {
    use super::{FastDivision, THREADS, across};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_quotient_is_exact(n in 0u32..1 << 31, divisor in prop_oneof![1usize..300, 1usize..=1 << 31]) {
            let d = FastDivision::new(divisor);
            let high = ((u64::from(n) * u64::from(d.multiplier)) >> 32) as u32;
            prop_assert_eq!((high + n) >> d.shift, n / divisor as u32);
        }

        #[test]
        fn most_threads_have_channels(vectors in 1usize..3000) {
            let across = across(vectors);
            prop_assert!(across <= THREADS && across <= vectors);
            let of_threads = (THREADS / across * across) as f64 / THREADS as f64;
            let of_tiles = vectors as f64 / vectors.next_multiple_of(across) as f64;
            prop_assert!(of_threads * of_tiles > 0.85, "{across} of {vectors}");
        }
    }
}
