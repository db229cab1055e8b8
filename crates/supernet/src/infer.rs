//! Eval-mode logits: batch norm folded into the convolutions, four buffers for any depth.

use crate::SupernetError;
use crate::plan::{Plan, PlannedConv};
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
    hidden: [Buffer; 2],
    shortcut: Buffer,
    scale: Buffer,
    shift: Buffer,
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
    let Memory { x, hidden: [h0, h1], shortcut, scale, shift, features, logits } = memory;
    let mut folded = Folded { params, buffers, batch, scale, shift, scratch };

    folded.conv(&plan.stem, images, None, true, x);
    if plan.max_pool() {
        let shape = pool_shape(plan, batch);
        max_pool_forward(&shape, x.get(), h0.reserve(shape.output_len()), None);
        std::mem::swap(x, h0);
    }
    for block in &plan.blocks {
        if let Some(conv) = &block.projection {
            folded.conv(conv, x.get(), None, false, shortcut);
        }
        let last = block.convs.len() - 1;
        for (i, conv) in block.convs.iter().enumerate() {
            let input = if i == 0 { x.get() } else { h0.get() };
            let residual = if block.projection.is_some() { &*shortcut } else { &*x };
            let residual = (i == last).then(|| residual.get());
            folded.conv(conv, input, residual, true, h1);
            std::mem::swap(h0, h1);
        }
        std::mem::swap(x, h0);
    }
    let pooled = features.reserve(batch * plan.features());
    average_pool_forward(batch, plan.last_pixels(), plan.features(), x.get(), pooled);
    let shape = linear_shape(plan, batch);
    let out = logits.reserve(batch * shape.outputs);
    let (weight, bias) = (&params[plan.fc_weight.clone()], &params[plan.fc_bias.clone()]);
    linear_forward(&shape, pooled, weight, bias, out);
    Ok(logits.get())
}

/// Convolutions with their batch norm folded in.
struct Folded<'a> {
    params: &'a [f32],
    buffers: &'a [f32],
    batch: usize,
    scale: &'a mut Buffer,
    shift: &'a mut Buffer,
    scratch: &'a mut Scratch,
}

impl Folded<'_> {
    fn conv(
        &mut self,
        conv: &PlannedConv,
        x: &[f32],
        residual: Option<&[f32]>,
        relu: bool,
        out: &mut Buffer,
    ) {
        let (shape, slot) = (conv.shape(self.batch), &conv.slot);
        let norm = Norm {
            channels: conv.out_channels,
            mean: &self.buffers[conv.vector(&slot.mean)],
            var: &self.buffers[conv.vector(&slot.var)],
            gamma: &self.params[conv.vector(&slot.gamma)],
            beta: &self.params[conv.vector(&slot.beta)],
            relu,
        };
        let scale = self.scale.reserve(conv.out_channels);
        let shift = self.shift.reserve(conv.out_channels);
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
