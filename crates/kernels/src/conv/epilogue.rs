//! What happens to a vector of results on its way to memory.

use super::simd::{Access, Vector};

/// What happens to each output value of [`conv_forward`](super::conv_forward) before it is stored.
#[derive(Clone, Copy, Debug)]
pub enum Epilogue<'a> {
    /// The convolution as it is.
    None,
    /// `y = conv * scale[c] + shift[c] + residual`, then `max(y, 0)` with `relu`: a folded batch
    /// norm, and the end of a residual block.
    Affine {
        /// `[out_channels]` factors.
        scale: &'a [f32],
        /// `[out_channels]` terms.
        shift: &'a [f32],
        /// An activation of the output's shape.
        residual: Option<&'a [f32]>,
        /// Whether negative results become zero.
        relu: bool,
    },
}

/// The same, with pointers for the kernels, and the data gradient's choice.
#[derive(Clone, Copy)]
pub(super) enum Finish {
    /// Overwrite.
    Store,
    /// Add to what is there.
    Add,
    Affine {
        scale: *const f32,
        shift: *const f32,
        /// As the output, or null.
        residual: *const f32,
        relu: bool,
    },
}

// SAFETY: the pointers come from shared slices that outlive the call, and are only read.
unsafe impl Send for Finish {}
// SAFETY: as above.
unsafe impl Sync for Finish {}

impl From<Epilogue<'_>> for Finish {
    fn from(epilogue: Epilogue<'_>) -> Self {
        match epilogue {
            Epilogue::None => Self::Store,
            Epilogue::Affine { scale, shift, residual, relu } => Self::Affine {
                scale: scale.as_ptr(),
                shift: shift.as_ptr(),
                residual: residual.map_or(std::ptr::null(), <[f32]>::as_ptr),
                relu,
            },
        }
    }
}

impl Finish {
    /// Finishes vectors of neighbouring pixels: `values[j]`, `j < n <= N`, are channels `channel..` of the pixel
    /// at `output + at + j * pixel`.
    ///
    /// # Safety
    /// The channels exist in the output (and in scale, shift and residual), as many as
    /// `access` touches.
    #[inline(always)]
    pub(super) unsafe fn pixels<V: Vector, const N: usize>(
        self,
        values: [V; N],
        n: usize,
        output: *mut f32,
        at: usize,
        pixel: usize,
        channel: usize,
        access: impl Access,
    ) {
        let place = |j: usize| at + j * pixel + channel;
        // SAFETY: the caller answers for every access; `values` prove the instruction set.
        unsafe {
            match self {
                Finish::Store => {
                    for (j, value) in values.into_iter().enumerate().take(n) {
                        access.store(value, output.wrapping_add(place(j)));
                    }
                }
                Finish::Add => {
                    for (j, value) in values.into_iter().enumerate().take(n) {
                        let to = output.wrapping_add(place(j));
                        access.store(value.add(access.load(to)), to);
                    }
                }
                Finish::Affine { scale, shift, residual, relu } => {
                    let scale: V = access.load(scale.wrapping_add(channel));
                    let shift: V = access.load(shift.wrapping_add(channel));
                    let zero = V::splat(0.0);
                    for (j, value) in values.into_iter().enumerate().take(n) {
                        let mut y = value.mul_add(scale, shift);
                        if !residual.is_null() {
                            y = y.add(access.load(residual.wrapping_add(place(j))));
                        }
                        if relu {
                            // In this order a NaN stays one.
                            y = zero.max(y);
                        }
                        access.store(y, output.wrapping_add(place(j)));
                    }
                }
            }
        }
    }
}
