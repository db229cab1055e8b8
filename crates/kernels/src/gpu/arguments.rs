//! What kernels are called with: structures laid out as in the CUDA sources, which assert the same sizes.

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
    use super::FastDivision;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_quotient_is_exact(n in 0u32..1 << 31, divisor in prop_oneof![1usize..300, 1usize..=1 << 31]) {
            let d = FastDivision::new(divisor);
            let high = ((u64::from(n) * u64::from(d.multiplier)) >> 32) as u32;
            prop_assert_eq!((high + n) >> d.shift, n / divisor as u32);
        }
    }
}
