//! Batch normalisation (Ioffe & Szegedy 2015) over dense `[rows, channels]` buffers, fused with
//! the residual addition and the ReLU that follow it in a basic block.

mod backward;
mod statistics;

pub use backward::norm_backward;
pub(crate) use backward::sums;
use slimtau_parallel::{chunks, chunks_mut, for_each_chunk};
pub(crate) use statistics::merge_moments;
pub use statistics::{batch_statistics, update_running};

use crate::tile::{Columns, Tiling, vectorised};

/// Added to the variance before its square root, as in PyTorch.
pub const EPSILON: f32 = 1e-5;

/// One batch norm: its statistics, its parameters, and whether a ReLU follows.
///
/// Every vector has length `channels`; a slimmed norm passes the leading part of the shared ones.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    /// Active channels.
    pub channels: usize,
    /// Mean of every channel: of the batch, or a running one.
    pub mean: &'a [f32],
    /// Biased variance of every channel.
    pub var: &'a [f32],
    /// Scale of every channel.
    pub gamma: &'a [f32],
    /// Shift of every channel.
    pub beta: &'a [f32],
    /// Whether a ReLU follows (after the residual, if there is one).
    pub relu: bool,
}

impl Norm<'_> {
    pub(crate) fn check(&self) {
        let channels = self.channels;
        for (name, v) in
            [("mean", self.mean), ("var", self.var), ("gamma", self.gamma), ("beta", self.beta)]
        {
            assert!(v.len() == channels, "{name} has {} values for {channels} channels", v.len());
        }
    }

    /// `1 / sqrt(var + eps)` of channel `c`.
    #[inline(always)]
    fn inverse_deviation(&self, c: usize) -> f32 {
        1.0 / (self.var[c] + EPSILON).sqrt()
    }

    /// `gamma / sqrt(var + eps)` of channel `c`.
    #[inline(always)]
    pub(crate) fn scale(&self, c: usize) -> f32 {
        self.gamma[c] * self.inverse_deviation(c)
    }
}

/// Panics unless `len` is a whole number of rows, and returns how many.
fn whole_rows(channels: usize, len: usize) -> usize {
    assert!(channels > 0 && len.is_multiple_of(channels), "{len} floats in {channels} channels");
    len / channels
}

/// The value before the ReLU and the residual. The backward pass recomputes the ReLU's mask with
/// this very expression, so the two passes agree to the last bit. Subtracting the mean first keeps
/// the digits that `x * scale + shift` would cancel when the mean is far from zero.
#[inline(always)]
fn affine(x: f32, mean: f32, scale: f32, beta: f32) -> f32 {
    (x - mean) * scale + beta
}

/// `y = relu((x - mean) / sqrt(var + eps) * gamma + beta + residual)`; without [`Norm::relu`], no
/// ReLU. NaN passes through. `x`, `residual` and `y` are `[rows, channels]`.
///
/// # Panics
/// When a length is wrong.
pub fn norm_forward(norm: &Norm<'_>, x: &[f32], residual: Option<&[f32]>, y: &mut [f32]) {
    let _span = tracing::trace_span!("norm_forward").entered();
    norm.check();
    whole_rows(norm.channels, x.len());
    assert_eq!(x.len(), y.len(), "lengths of x and y");
    let tiling = Tiling::new(norm.channels);
    let len = tiling.chunk_len();
    if let Some(residual) = residual {
        assert_eq!(x.len(), residual.len(), "lengths of x and the residual");
    }
    let forward = match (norm.relu, residual.is_some()) {
        (true, false) => forward::<true, false>,
        (false, false) => forward::<false, false>,
        (true, true) => forward::<true, true>,
        (false, true) => forward::<false, true>,
    };
    // Without a residual, `x` takes its place and is not read.
    let residual = residual.unwrap_or(x);
    for_each_chunk((chunks_mut(y, len), chunks(x, len), chunks(residual, len)), |_, (y, x, r)| {
        forward(norm, x, r, y);
    });
}

/// One chunk of the forward pass.
fn forward<const RELU: bool, const RESIDUAL: bool>(
    norm: &Norm<'_>,
    x: &[f32],
    residual: &[f32],
    y: &mut [f32],
) {
    let tiling = Tiling::new(norm.channels);
    for block in tiling.blocks() {
        let mean: Columns = tiling.spread(&block, |c| norm.mean[c]);
        let scale: Columns = tiling.spread(&block, |c| norm.scale(c));
        let beta: Columns = tiling.spread(&block, |c| norm.beta[c]);
        vectorised(
            #[inline(always)]
            || {
                for row in 0..tiling.rows(x.len()) {
                    let at = tiling.strip(x.len(), row, &block);
                    let n = at.len();
                    let (mean, scale, beta) = (&mean[..n], &scale[..n], &beta[..n]);
                    let (x, y) = (&x[at.clone()][..n], &mut y[at.clone()][..n]);
                    let residual = if RESIDUAL { &residual[at][..n] } else { x };
                    for i in 0..n {
                        let mut value = affine(x[i], mean[i], scale[i], beta[i]);
                        if RESIDUAL {
                            value += residual[i];
                        }
                        // Written so that NaN stays NaN.
                        y[i] = if RELU && value < 0.0 { 0.0 } else { value };
                    }
                }
            },
        );
    }
}

/// The norm as one multiply and one add, to be folded into the convolution before it:
/// `scale = gamma / sqrt(var + eps)`, `shift = beta - mean * scale`.
///
/// # Panics
/// When a length is not [`Norm::channels`].
pub fn fold(norm: &Norm<'_>, scale: &mut [f32], shift: &mut [f32]) {
    norm.check();
    assert_eq!(scale.len(), norm.channels, "length of scale");
    assert_eq!(shift.len(), norm.channels, "length of shift");
    for c in 0..norm.channels {
        let deviation = (f64::from(norm.var[c]) + f64::from(EPSILON)).sqrt();
        let s = f64::from(norm.gamma[c]) / deviation;
        scale[c] = s as f32;
        shift[c] = (f64::from(norm.beta[c]) - f64::from(norm.mean[c]) * s) as f32;
    }
}
