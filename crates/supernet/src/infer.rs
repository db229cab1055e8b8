//! Eval-mode logits: batch norm folded into the convolutions, a few buffers for any depth.

use crate::SupernetError;
use crate::backend::{Backend, End, MapView, Read, StatisticsAt, Store, VectorView};
use crate::plan::{Plan, PlannedBlock, PlannedConv};

pub(crate) struct Memory<B: Backend> {
    x: B::Map,
    out: B::Map,
    inner: Inner<B>,
    folding: Folding<B>,
    head: Head<B>,
}

impl<B: Backend> Memory<B> {
    pub fn new(backend: &B) -> Self {
        Self {
            x: backend.map(),
            out: backend.map(),
            inner: Inner::new(backend),
            folding: Folding::new(backend),
            head: Head::new(backend),
        }
    }
}

/// Maps that live within one block, or within the stem.
pub(crate) struct Inner<B: Backend> {
    hidden: [B::Map; 2],
    shortcut: B::Map,
}

impl<B: Backend> Inner<B> {
    pub fn new(backend: &B) -> Self {
        Self { hidden: [backend.map(), backend.map()], shortcut: backend.map() }
    }
}

/// A batch norm as one factor and one addend per channel.
pub(crate) struct Folding<B: Backend> {
    scale: B::Vector,
    shift: B::Vector,
}

impl<B: Backend> Folding<B> {
    pub fn new(backend: &B) -> Self {
        Self { scale: backend.vector(), shift: backend.vector() }
    }
}

/// What the classifier reads and writes.
pub(crate) struct Head<B: Backend> {
    features: B::Vector,
    logits: B::Vector,
}

impl<B: Backend> Head<B> {
    pub fn new(backend: &B) -> Self {
        Self { features: backend.vector(), logits: backend.vector() }
    }
}

pub(crate) fn run<'m, B: Backend>(
    memory: &'m mut Memory<B>,
    backend: &mut B,
    plan: &Plan,
    params: &B::Params,
    buffers: &B::Running,
    images: MapView<'_, B>,
) -> Result<VectorView<'m, B>, SupernetError> {
    let batch = B::batch(plan, images)?;
    let Memory { x, out, inner, folding, head } = memory;
    // The references take turns, not the maps: each keeps the size of its part from pass to pass.
    let (mut x, mut out) = (x, out);
    let folded = Folded { backend, params, batch, folding };
    let mut layers = Shared { folded, buffers };
    stem(&mut layers, plan, images, inner, x)?;
    for planned in &plan.blocks {
        block(&mut layers, planned, x, inner, out)?;
        std::mem::swap(&mut x, &mut out);
    }
    logits(layers.backend(), plan, params, batch, x, head)
}

/// A convolution with its batch norm, however that gets its statistics.
pub(crate) trait ConvNorm<B: Backend> {
    /// `out` = [relu](bn(conv(x)) [+ residual]).
    fn conv(
        &mut self,
        conv: &PlannedConv,
        x: MapView<'_, B>,
        residual: Option<MapView<'_, B>>,
        relu: bool,
        out: &mut B::Map,
    ) -> Result<(), SupernetError>;

    fn backend(&mut self) -> &mut B;

    /// The number of images.
    fn batch(&self) -> usize;
}

/// From images to the first block's input.
pub(crate) fn stem<B: Backend>(
    layers: &mut impl ConvNorm<B>,
    plan: &Plan,
    images: MapView<'_, B>,
    inner: &mut Inner<B>,
    out: &mut B::Map,
) -> Result<(), SupernetError> {
    if !plan.max_pool() {
        return layers.conv(&plan.stem, images, None, true, out);
    }
    let [before, _] = &mut inner.hidden;
    layers.conv(&plan.stem, images, None, true, before)?;
    let batch = layers.batch();
    out.reserve(plan.first_len(batch))?;
    layers.backend().max_pool_forward(plan, batch, before, out, None)
}

/// One residual block.
pub(crate) fn block<B: Backend>(
    layers: &mut impl ConvNorm<B>,
    block: &PlannedBlock,
    x: &B::Map,
    inner: &mut Inner<B>,
    out: &mut B::Map,
) -> Result<(), SupernetError> {
    let Inner { hidden: [h0, h1], shortcut } = inner;
    let (mut h0, mut h1) = (h0, h1);
    if let Some(conv) = &block.projection {
        layers.conv(conv, x.view(), None, false, shortcut)?;
    }
    let residual = if block.projection.is_some() { &*shortcut } else { x };
    let last = block.convs.len() - 1;
    for (i, conv) in block.convs.iter().enumerate() {
        let input = if i == 0 { x.view() } else { h0.view() };
        if i == last {
            layers.conv(conv, input, Some(residual.view()), true, out)?;
        } else {
            layers.conv(conv, input, None, true, h1)?;
            std::mem::swap(&mut h0, &mut h1);
        }
    }
    Ok(())
}

/// From the last block's output to logits [N, classes].
pub(crate) fn logits<'m, B: Backend>(
    backend: &mut B,
    plan: &Plan,
    params: &B::Params,
    batch: usize,
    x: &B::Map,
    head: &'m mut Head<B>,
) -> Result<VectorView<'m, B>, SupernetError> {
    let Head { features, logits } = head;
    features.reserve(batch * plan.features())?;
    backend.average_pool_forward(plan, batch, x.view(), features)?;
    logits.reserve(batch * plan.network().classes)?;
    backend.classify(plan, batch, params, features.view(), logits)?;
    Ok(logits.view())
}

/// Convolutions with the statistics that all subnets share.
pub(crate) struct Shared<'a, B: Backend> {
    pub folded: Folded<'a, B>,
    pub buffers: &'a B::Running,
}

impl<B: Backend> ConvNorm<B> for Shared<'_, B> {
    fn conv(
        &mut self,
        conv: &PlannedConv,
        x: MapView<'_, B>,
        residual: Option<MapView<'_, B>>,
        relu: bool,
        out: &mut B::Map,
    ) -> Result<(), SupernetError> {
        let at = StatisticsAt::of(conv);
        self.folded.conv(conv, self.buffers, &at, x, residual, relu, out)
    }

    fn backend(&mut self) -> &mut B {
        self.folded.backend
    }

    fn batch(&self) -> usize {
        self.folded.batch
    }
}

/// Convolutions with their batch norm folded in.
pub(crate) struct Folded<'a, B: Backend> {
    pub backend: &'a mut B,
    pub params: &'a B::Params,
    pub batch: usize,
    pub folding: &'a mut Folding<B>,
}

impl<B: Backend> Folded<'_, B> {
    pub fn conv(
        &mut self,
        conv: &PlannedConv,
        running: &B::Running,
        at: &StatisticsAt,
        x: MapView<'_, B>,
        residual: Option<MapView<'_, B>>,
        relu: bool,
        out: &mut B::Map,
    ) -> Result<(), SupernetError> {
        let Self { backend, params, batch, folding: Folding { scale, shift } } = self;
        scale.reserve(conv.out_channels)?;
        shift.reserve(conv.out_channels)?;
        backend.fold(conv, params, running, at, scale, shift)?;
        out.reserve(conv.shape(*batch).output_len())?;
        let end = End::Affine { scale, shift, residual, relu };
        backend.conv(conv, *batch, params, Read::plain(x), end, out)
    }
}

/// Index of the largest value; the first of equals, as PyTorch's `argmax` on a CPU.
///
/// NaN never wins. An empty row gives 0.
pub fn argmax(row: &[f32]) -> usize {
    let mut best = 0;
    for (i, v) in row.iter().enumerate() {
        if *v > row[best] || row[best].is_nan() {
            best = i;
        }
    }
    best
}
