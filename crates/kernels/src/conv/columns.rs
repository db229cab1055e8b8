//! Element-wise work on the pixels of a block while they are in a core's cache, a vector of channels
//! after the other.

use super::input::InputNorm;
use super::simd::{Access, First, Job, LANES, Simd, Vector, Whole};

/// Work on `[rows, channels]` whose channels do not depend on each other.
pub(super) trait Columns {
    /// The channels of a row that are worked on.
    fn range(&self) -> std::ops::Range<usize>;

    /// Does it for `lanes` channels from `channel` on, in all rows.
    ///
    /// # Safety
    /// The instruction set is available, the rows are there, and `access` covers `lanes` lanes.
    unsafe fn vector<V: Vector>(&self, channel: usize, lanes: usize, access: impl Access);
}

/// The same for all of these channels.
pub(super) struct ByColumns<C>(pub C);

impl<C: Columns> Job for ByColumns<C> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let range = self.0.range();
        let (mut c, channels) = (range.start, range.end);
        // SAFETY: passed on from the caller; a whole vector of channels is left, or `channels - c`.
        unsafe {
            while c + S::Wide::LANES <= channels {
                self.0.vector::<S::Wide>(c, S::Wide::LANES, Whole);
                c += S::Wide::LANES;
            }
            while c < channels {
                let lanes = LANES.min(channels - c);
                self.0.vector::<S::Narrow>(c, lanes, First(lanes));
                c += LANES;
            }
        }
    }
}

/// The gradient of a batch norm's input, in place, as [`norm_backward`](crate::norm::norm_backward)
/// computes it in its second pass: `x = scale * (g - sum - (x - mean) * product)`, to the same bits.
#[derive(Clone, Copy)]
pub(super) struct InputGradient {
    /// `[rows, channels]` both.
    pub x: *mut f32,
    pub grad: *const f32,
    pub rows: usize,
    pub channels: usize,
    /// The norm's numbers for each channel: `(x - mean) * scale + beta`.
    pub mean: *const f32,
    pub scale: *const f32,
    pub beta: *const f32,
    /// The mean of `g`, and that of `g (x - mean)` over the variance.
    pub sum: *const f32,
    pub product: *const f32,
    /// Whether the ReLU's mask is to be taken from `x`.
    pub masked: bool,
}

// SAFETY: the pointers come from slices that outlive the call; of `x`, threads write different rows.
unsafe impl Send for InputGradient {}
// SAFETY: as above.
unsafe impl Sync for InputGradient {}

impl InputGradient {
    /// Some rows of it.
    pub(super) fn part(self, rows: std::ops::Range<usize>) -> Self {
        let at = rows.start * self.channels;
        let (x, grad) = (self.x.wrapping_add(at), self.grad.wrapping_add(at));
        Self { x, grad, rows: rows.len(), ..self }
    }
}

impl Columns for InputGradient {
    fn range(&self) -> std::ops::Range<usize> {
        0..self.channels
    }

    #[inline(always)]
    unsafe fn vector<V: Vector>(&self, channel: usize, _: usize, access: impl Access) {
        // SAFETY: passed on to the caller.
        unsafe {
            let of = |values: *const f32| -> V { access.load(values.wrapping_add(channel)) };
            let (mean, scale, beta) = (of(self.mean), of(self.scale), of(self.beta));
            let (sum, product) = (of(self.sum), of(self.product));
            for row in 0..self.rows {
                let at = row * self.channels + channel;
                let to = self.x.wrapping_add(at);
                let x: V = access.load(to);
                let mut g: V = access.load(self.grad.wrapping_add(at));
                let centred = x.sub(mean);
                if self.masked {
                    g = g.gate(centred.mul(scale).add(beta));
                }
                access.store(scale.mul(g.sub(sum).sub(centred.mul(product))), to);
            }
        }
    }
}

/// What a convolution reads of some pixels: `max(least, (x - mean) * scale + beta)`, to the bits of
/// [`norm_forward`](crate::norm::norm_forward).
pub(super) struct Normalise<'a> {
    pub norm: InputNorm<'a>,
    /// `[rows, channels]` both.
    pub x: *const f32,
    pub to: *mut f32,
    pub rows: usize,
    /// The channels that are wanted.
    pub range: std::ops::Range<usize>,
}

impl Columns for Normalise<'_> {
    fn range(&self) -> std::ops::Range<usize> {
        self.range.clone()
    }

    #[inline(always)]
    unsafe fn vector<V: Vector>(&self, channel: usize, _: usize, access: impl Access) {
        let InputNorm { mean, scale, beta, least } = self.norm;
        let channels = mean.len();
        // SAFETY: passed on to the caller.
        unsafe {
            let of = |values: &[f32]| -> V { access.load(values.as_ptr().wrapping_add(channel)) };
            let (mean, scale, beta, least) = (of(mean), of(scale), of(beta), V::splat(least));
            for row in 0..self.rows {
                let at = row * channels + channel;
                let x: V = access.load(self.x.wrapping_add(at));
                // In this order a NaN stays one.
                let y = least.max(x.sub(mean).mul(scale).add(beta));
                access.store(y, self.to.wrapping_add(at));
            }
        }
    }
}
