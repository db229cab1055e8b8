//! Features of a training pass that no backward pass follows: a few maps for any depth, which stay in the caches from layer
//! to layer, instead of one for each layer.

use crate::SupernetError;
use crate::backend::{Backend, MapView, Read, Store};
use crate::passes::{Flowing, Forward};
use crate::plan::{Plan, PlannedBlock, PlannedConv};
use crate::tape::ConvTape;

/// What is read and written from block to block, and what lives within one of them.
pub(crate) struct Memory<B: Backend> {
    x: B::Map,
    out: B::Map,
    inner: Inner<B>,
    pub features: B::Vector,
}

/// Maps that live within a block.
struct Inner<B: Backend> {
    /// The last convolution's output, and that of the one before it, which it reads.
    convs: [ConvTape<B>; 2],
    /// What a convolution reads where the backend does not [normalise](Backend::NORMALISES) it.
    hidden: B::Map,
    shortcut: B::Map,
}

impl<B: Backend> Memory<B> {
    pub fn new(backend: &B) -> Self {
        Self {
            x: backend.map(),
            out: backend.map(),
            inner: Inner {
                convs: [ConvTape::new(backend), ConvTape::new(backend)],
                hidden: backend.map(),
                shortcut: backend.map(),
            },
            features: backend.vector(),
        }
    }

    /// Takes the maps that lie idle between backward passes for those of a block, or gives them back.
    pub fn exchange(&mut self, flowing: &mut Flowing<B>, shortcut: &mut B::Map) {
        let Inner { convs: [first, second], shortcut: own, .. } = &mut self.inner;
        std::mem::swap(&mut first.output, &mut flowing.grad);
        std::mem::swap(&mut second.output, &mut flowing.inner);
        std::mem::swap(&mut self.out, &mut flowing.shortcut);
        std::mem::swap(own, shortcut);
    }
}

/// Pooled features [N, C], into the memory's.
pub(crate) fn run<B: Backend>(
    memory: &mut Memory<B>,
    mut forward: Forward<'_, B>,
    plan: &Plan,
    images: MapView<'_, B>,
) -> Result<(), SupernetError> {
    let Memory { x, out, inner, features } = memory;
    // The references take turns, not the maps: some are lent, and each keeps the size of its part from pass to pass.
    let (mut x, mut out) = (x, out);
    let batch = forward.batch;
    let stem = if plan.max_pool() { &mut *out } else { &mut *x };
    let conv = &mut inner.convs[0];
    reserve(&plan.stem, batch, conv, stem)?;
    forward.conv_norm(&plan.stem, images, None, true, conv, stem)?;
    if plan.max_pool() {
        x.reserve(plan.first_len(batch))?;
        forward.backend.max_pool_forward(plan, batch, out, x, None)?;
    }
    for planned in &plan.blocks {
        block(&mut forward, planned, x, inner, out)?;
        std::mem::swap(&mut x, &mut out);
    }
    features.reserve(batch * plan.features())?;
    forward.backend.average_pool_forward(plan, batch, x.view(), features)
}

fn block<B: Backend>(
    forward: &mut Forward<'_, B>,
    block: &PlannedBlock,
    x: &B::Map,
    inner: &mut Inner<B>,
    out: &mut B::Map,
) -> Result<(), SupernetError> {
    let Inner { convs: [this, before], hidden, shortcut } = inner;
    let (mut this, mut before) = (this, before);
    let (batch, params) = (forward.batch, forward.params);
    if let Some(conv) = &block.projection {
        reserve(conv, batch, this, shortcut)?;
        forward.conv_norm(conv, x.view(), None, false, this, shortcut)?;
    }
    let residual = if block.projection.is_some() { &*shortcut } else { x };
    let last = block.convs.len() - 1;
    for (i, conv) in block.convs.iter().enumerate() {
        let read = match i.checked_sub(1) {
            None => Read::plain(x.view()),
            Some(previous) => before.read(&block.convs[previous], params, hidden),
        };
        this.reserve(conv, batch)?;
        forward.conv(conv, read, this)?;
        let norm = this.norm(conv, params, true);
        let len = conv.shape(batch).output_len();
        if i == last {
            out.reserve(len)?;
            forward.backend.norm_forward(norm, &this.output, Some(residual.view()), out)?;
        } else if !B::NORMALISES {
            hidden.reserve(len)?;
            forward.backend.norm_forward(norm, &this.output, None, hidden)?;
        }
        std::mem::swap(&mut this, &mut before);
    }
    Ok(())
}

fn reserve<B: Backend>(
    conv: &PlannedConv,
    batch: usize,
    tape: &mut ConvTape<B>,
    out: &mut B::Map,
) -> Result<(), SupernetError> {
    tape.reserve(conv, batch)?;
    out.reserve(conv.shape(batch).output_len())
}
