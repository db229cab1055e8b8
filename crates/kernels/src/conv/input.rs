//! What a convolution reads.

use super::ConvShape;
use crate::Scratch;
use crate::norm::{Norm, norm_forward};

/// A convolution's input, `[N, H, W, C]`: a slice as it is, or what a batch norm makes of it.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The map.
    pub values: &'a [f32],
    /// The norm that it goes through where it is read, with its ReLU: the same bits as those of
    /// [`norm_forward`](crate::norm::norm_forward) without a residual, whose output need not exist then. Where a kernel does
    /// not normalise what it reads, that output is made in working memory first.
    pub norm: Option<Norm<'a>>,
}

impl<'a, T: AsRef<[f32]> + ?Sized> From<&'a T> for Input<'a> {
    fn from(values: &'a T) -> Self {
        Self { values: values.as_ref(), norm: None }
    }
}

impl Input<'_> {
    /// # Panics
    /// When the norm has other channels than the convolution reads.
    pub(super) fn check(&self, shape: &ConvShape) {
        if let Some(norm) = &self.norm {
            norm.check();
            assert_eq!(norm.channels, shape.in_channels, "channels of the norm before {shape:?}");
        }
    }

    /// Runs `body` on what the kernel reads, which normalises it if it `can`, with working memory and with `others` more floats that
    /// `body` keeps while the kernel uses that.
    pub(super) fn with<R>(
        self,
        can: bool,
        others: usize,
        scratch: &mut Scratch,
        body: impl FnOnce(Reading<'_>, &mut Scratch, &mut [f32]) -> R,
    ) -> R {
        let Self { values, norm } = self;
        let norm = norm.filter(|_| !values.is_empty());
        let len = match &norm {
            None => 0,
            Some(norm) if can => norm.channels,
            Some(_) => values.len(),
        };
        let aligned = len.next_multiple_of(16);
        scratch.with_kept(|scratch, kept| {
            let (own, others) = kept.floats(aligned + others).split_at_mut(aligned);
            let own = &mut own[..len];
            let reading = match norm {
                None => Reading { values, norm: None },
                Some(norm) if can => {
                    own.iter_mut().enumerate().for_each(|(c, scale)| *scale = norm.scale(c));
                    let Norm { mean, beta, .. } = norm;
                    let least = if norm.relu { 0.0 } else { f32::NEG_INFINITY };
                    Reading { values, norm: Some(InputNorm { mean, scale: own, beta, least }) }
                }
                Some(norm) => {
                    norm_forward(&norm, values, None, own);
                    Reading { values: own, norm: None }
                }
            };
            body(reading, scratch, others)
        })
    }
}

/// An [`Input`] whose norm, if there still is one, the kernel applies itself.
#[derive(Clone, Copy)]
pub(super) struct Reading<'a> {
    pub values: &'a [f32],
    pub norm: Option<InputNorm<'a>>,
}

impl<'a> Reading<'a> {
    /// For a kernel that does not normalise what it reads.
    ///
    /// # Panics
    /// When it should.
    pub(super) fn plain(self) -> &'a [f32] {
        assert!(self.norm.is_none(), "this kernel reads maps as they are");
        self.values
    }
}

/// `max(least, (x - mean) * scale + beta)`, for every channel.
#[derive(Clone, Copy)]
pub(super) struct InputNorm<'a> {
    pub mean: &'a [f32],
    pub scale: &'a [f32],
    pub beta: &'a [f32],
    pub least: f32,
}
