//! Eval-mode logits: batch norm folded into the convolutions, a few buffers for any depth.

use crate::SupernetError;
use crate::plan::{Plan, PlannedBlock, PlannedConv};
use crate::session::{linear_shape, pool_shape};
use crate::tape::Buffer;
use slimtau_kernels::Scratch;
use slimtau_kernels::conv::{Epilogue, conv_forward};
use slimtau_kernels::linear::linear_forward;
use slimtau_kernels::norm::{Norm, fold};
use slimtau_kernels::pool::{average_pool_forward, max_pool_forward};

#[derive(Default)]
pub(crate) struct Memory {
    x: Buffer,
    out: Buffer,
    inner: Inner,
    folding: Folding,
    head: Head,
}

/// Maps that live within one block, or within the stem.
#[derive(Default)]
pub(crate) struct Inner {
    hidden: [Buffer; 2],
    shortcut: Buffer,
}

/// A batch norm as one factor and one addend per channel.
#[derive(Default)]
pub(crate) struct Folding {
    scale: Buffer,
    shift: Buffer,
}

/// What the classifier reads and writes.
#[derive(Default)]
pub(crate) struct Head {
    features: Buffer,
    logits: Buffer,
}

pub(crate) fn run<'m>(
    memory: &'m mut Memory,
    scratch: &mut Scratch,
    plan: &Plan,
    params: &[f32],
    buffers: &[f32],
    images: &[f32],
) -> Result<&'m [f32], SupernetError> {
    let batch = plan.batch(images)?;
    let Memory { x, out, inner, folding, head } = memory;
    let folded = Folded { params, batch, folding, scratch };
    let mut layers = Shared { folded, buffers };
    stem(&mut layers, plan, batch, images, inner, x);
    for planned in &plan.blocks {
        block(&mut layers, planned, x, inner, out);
        std::mem::swap(x, out);
    }
    Ok(logits(plan, params, batch, x, head))
}

/// A convolution with its batch norm, however that gets its statistics.
pub(crate) trait ConvNorm {
    /// `out` = [relu](bn(conv(x)) [+ residual]).
    fn conv(
        &mut self,
        conv: &PlannedConv,
        x: &[f32],
        residual: Option<&[f32]>,
        relu: bool,
        out: &mut Buffer,
    );
}

/// From images to the first block's input.
pub(crate) fn stem(
    layers: &mut impl ConvNorm,
    plan: &Plan,
    batch: usize,
    images: &[f32],
    inner: &mut Inner,
    out: &mut Buffer,
) {
    if !plan.max_pool() {
        layers.conv(&plan.stem, images, None, true, out);
        return;
    }
    let [before, _] = &mut inner.hidden;
    layers.conv(&plan.stem, images, None, true, before);
    let shape = pool_shape(plan, batch);
    max_pool_forward(&shape, before.get(), out.reserve(shape.output_len()), None);
}

/// One residual block.
pub(crate) fn block(
    layers: &mut impl ConvNorm,
    block: &PlannedBlock,
    x: &Buffer,
    inner: &mut Inner,
    out: &mut Buffer,
) {
    let Inner { hidden: [h0, h1], shortcut } = inner;
    if let Some(conv) = &block.projection {
        layers.conv(conv, x.get(), None, false, shortcut);
    }
    let residual = if block.projection.is_some() { &*shortcut } else { x };
    let last = block.convs.len() - 1;
    for (i, conv) in block.convs.iter().enumerate() {
        let input = if i == 0 { x.get() } else { h0.get() };
        if i == last {
            layers.conv(conv, input, Some(residual.get()), true, out);
        } else {
            layers.conv(conv, input, None, true, h1);
            std::mem::swap(h0, h1);
        }
    }
}

/// From the last block's output to logits [N, classes].
pub(crate) fn logits<'m>(
    plan: &Plan,
    params: &[f32],
    batch: usize,
    x: &Buffer,
    head: &'m mut Head,
) -> &'m [f32] {
    let Head { features, logits } = head;
    let pooled = features.reserve(batch * plan.features());
    average_pool_forward(batch, plan.last_pixels(), plan.features(), x.get(), pooled);
    let shape = linear_shape(plan, batch);
    let out = logits.reserve(batch * shape.outputs);
    let (weight, bias) = (&params[plan.fc_weight.clone()], &params[plan.fc_bias.clone()]);
    linear_forward(&shape, pooled, weight, bias, out);
    logits.get()
}

/// Convolutions with the statistics that all subnets share.
pub(crate) struct Shared<'a> {
    pub folded: Folded<'a>,
    pub buffers: &'a [f32],
}

impl ConvNorm for Shared<'_> {
    fn conv(
        &mut self,
        conv: &PlannedConv,
        x: &[f32],
        residual: Option<&[f32]>,
        relu: bool,
        out: &mut Buffer,
    ) {
        let mean = &self.buffers[conv.vector(&conv.slot.mean)];
        let var = &self.buffers[conv.vector(&conv.slot.var)];
        self.folded.conv(conv, mean, var, x, residual, relu, out);
    }
}

/// Convolutions with their batch norm folded in.
pub(crate) struct Folded<'a> {
    pub params: &'a [f32],
    pub batch: usize,
    pub folding: &'a mut Folding,
    pub scratch: &'a mut Scratch,
}

impl Folded<'_> {
    pub fn conv(
        &mut self,
        conv: &PlannedConv,
        mean: &[f32],
        var: &[f32],
        x: &[f32],
        residual: Option<&[f32]>,
        relu: bool,
        out: &mut Buffer,
    ) {
        let (shape, slot) = (conv.shape(self.batch), &conv.slot);
        let norm = Norm {
            channels: conv.out_channels,
            mean,
            var,
            gamma: &self.params[conv.vector(&slot.gamma)],
            beta: &self.params[conv.vector(&slot.beta)],
            relu,
        };
        let scale = self.folding.scale.reserve(conv.out_channels);
        let shift = self.folding.shift.reserve(conv.out_channels);
        fold(&norm, scale, shift);
        let epilogue = Epilogue::Affine { scale, shift, residual, relu };
        let weight = &self.params[slot.weight.clone()];
        conv_forward(&shape, x, weight, out.reserve(shape.output_len()), epilogue, self.scratch);
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
