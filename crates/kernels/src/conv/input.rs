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

impl<'a> From<&'a [f32]> for Input<'a> {
    fn from(values: &'a [f32]) -> Self {
        Self { values, norm: None }
    }
}

impl<'a> From<&'a Vec<f32>> for Input<'a> {
    fn from(values: &'a Vec<f32>) -> Self {
        values.as_slice().into()
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

    /// Runs `body` on what kernels read, which normalise it themselves if they `can`, with working memory, and with so many
    /// floats beside it.
    pub(super) fn with<R>(
        self,
        can: bool,
        others: usize,
        scratch: &mut Scratch,
        body: impl FnOnce(Reading<'_>, &mut Scratch, &mut [f32]) -> R,
    ) -> R {
        let Self { values, norm } = self;
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
                None => Reading { values, entry: None },
                Some(norm) if can => {
                    own.iter_mut().enumerate().for_each(|(c, scale)| *scale = norm.scale(c));
                    let Norm { mean, beta, .. } = norm;
                    let least = if norm.relu { 0.0 } else { f32::NEG_INFINITY };
                    Reading { values, entry: Some(Entry { mean, scale: own, beta, least }) }
                }
                Some(norm) => {
                    norm_forward(&norm, values, None, own);
                    Reading { values: own, entry: None }
                }
            };
            body(reading, scratch, others)
        })
    }
}

/// The same for kernels.
#[derive(Clone, Copy)]
pub(super) struct Reading<'a> {
    pub values: &'a [f32],
    pub entry: Option<Entry<'a>>,
}

impl<'a> Reading<'a> {
    /// For a kernel that does not normalise what it reads.
    ///
    /// # Panics
    /// When it should.
    pub(super) fn plain(self) -> &'a [f32] {
        assert!(self.entry.is_none(), "this kernel reads maps as they are");
        self.values
    }
}

/// `max(least, (x - mean) * scale + beta)`, for every channel.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a> {
    pub mean: &'a [f32],
    pub scale: &'a [f32],
    pub beta: &'a [f32],
    pub least: f32,
}
