//! The layers of a training pass in their order, forward and backward.

use crate::SupernetError;
use crate::backend::{
    Backend, End, MapView, NormOf, Read, StatisticsAt, Store, Tracked, VectorView,
};
use crate::plan::{Plan, PlannedConv};
use crate::session::{Norms, pool_shape};
use crate::tape::{BlockTape, ConvTape, StemTape, between, input_and_tape};

/// What every step of a forward pass needs.
pub(crate) struct Forward<'a, B: Backend> {
    pub backend: &'a mut B,
    pub params: &'a B::Params,
    pub norms: Norms<'a, B>,
    pub batch: usize,
}

impl<B: Backend> Forward<'_, B> {
    /// From images to what the first block reads.
    pub fn stem(
        &mut self,
        plan: &Plan,
        images: MapView<'_, B>,
        tape: &mut StemTape<B>,
    ) -> Result<(), SupernetError> {
        let StemTape { conv, out, pooled, places } = tape;
        self.conv_norm(&plan.stem, images, None, true, conv, out)?;
        if plan.max_pool() {
            self.backend.max_pool_forward(plan, self.batch, out, pooled, Some(places))?;
        }
        Ok(())
    }

    /// From there to pooled features.
    pub fn blocks(
        &mut self,
        plan: &Plan,
        first: &B::Map,
        blocks: &mut [BlockTape<B>],
        shortcut: &mut B::Map,
        features: &mut B::Vector,
    ) -> Result<(), SupernetError> {
        let batch = self.batch;
        for (n, block) in plan.blocks.iter().enumerate() {
            let (input, tape) = input_and_tape(plan, n, first, blocks);
            let residual = match &block.projection {
                None => input,
                Some(conv) => {
                    shortcut.reserve(conv.shape(batch).output_len())?;
                    let (x, t) = (input.view(), &mut tape.projection);
                    self.conv_norm(conv, x, None, false, t, shortcut)?;
                    &*shortcut
                }
            };
            let last = block.convs.len() - 1;
            for (i, conv) in block.convs.iter().enumerate() {
                let (before, this) = tape.convs.split_at_mut(i);
                let x = between(block, self.params, input, before, &tape.hidden);
                self.conv(conv, x, &mut this[0])?;
                let norm = this[0].norm(conv, self.params, true);
                let x = &this[0].output;
                if i == last {
                    let residual = Some(residual.view());
                    self.backend.norm_forward(norm, x, residual, &mut tape.out)?;
                } else if !B::NORMALISES {
                    self.backend.norm_forward(norm, x, None, &mut tape.hidden[i])?;
                }
            }
        }
        let input = plan.blocks.last().map_or(first, |block| &blocks[block.place].out);
        self.backend.average_pool_forward(plan, batch, input.view(), features)
    }

    /// out = [relu](bn(conv(x)) [+ residual]), filling the tape.
    pub fn conv_norm(
        &mut self,
        conv: &PlannedConv,
        x: MapView<'_, B>,
        residual: Option<MapView<'_, B>>,
        relu: bool,
        tape: &mut ConvTape<B>,
        out: &mut B::Map,
    ) -> Result<(), SupernetError> {
        self.conv(conv, Read::plain(x), tape)?;
        let norm = tape.norm(conv, self.params, relu);
        self.backend.norm_forward(norm, &tape.output, residual, out)
    }

    /// conv(x) and the statistics of its norm, filling the tape.
    pub fn conv(
        &mut self,
        conv: &PlannedConv,
        x: Read<'_, B>,
        tape: &mut ConvTape<B>,
    ) -> Result<(), SupernetError> {
        let Self { backend, params, norms, batch } = self;
        let ConvTape { output, mean, var } = tape;
        if let Norms::Frozen { buffers } = norms {
            backend.conv(conv, *batch, params, x, End::Plain, output)?;
            backend.load_statistics(buffers, &StatisticsAt::of(conv), mean, var)
        } else {
            let tracked = match norms {
                Norms::Tracked { buffers, momentum } => Some(Tracked {
                    running: &mut **buffers,
                    at: StatisticsAt::of(conv),
                    momentum: *momentum,
                }),
                _ => None,
            };
            backend.conv_statistics(conv, *batch, params, x, output, mean, var, tracked)
        }
    }
}

/// What every step of a backward pass needs.
pub(crate) struct Backward<'a, B: Backend> {
    pub backend: &'a mut B,
    pub params: &'a B::Params,
    pub grads: &'a mut B::Grads,
    pub batch: usize,
    pub batch_statistics: bool,
}

impl<B: Backend> Backward<'_, B> {
    /// From the gradient of pooled features down to that of what the first block reads, [`Flowing::grad`].
    pub fn blocks(
        &mut self,
        plan: &Plan,
        first: &B::Map,
        blocks: &mut [BlockTape<B>],
        grad_features: VectorView<'_, B>,
        flowing: &mut Flowing<B>,
    ) -> Result<(), SupernetError> {
        let Flowing { grad, inner: grad_inner, shortcut: grad_shortcut } = flowing;
        grad.reserve(self.batch * plan.last_pixels() * plan.features())?;
        self.backend.average_pool_backward(plan, self.batch, grad_features, grad)?;

        for (n, block) in plan.blocks.iter().enumerate().rev() {
            let (input, tape_block) = input_and_tape(plan, n, first, blocks);

            // From the block's output down to the first convolution: `grad` ends as the gradient
            // of the shortcut, `grad_inner` carries the gradient along the branch.
            let last = block.convs.len() - 1;
            for i in (0..=last).rev() {
                let conv = &block.convs[i];
                let (output, g) = if i == last {
                    (Some(&tape_block.out), &mut *grad)
                } else {
                    (None, &mut *grad_inner)
                };
                let (before, this) = tape_block.convs.split_at_mut(i);
                let read = between(block, self.params, input, before, &tape_block.hidden);
                self.norm_weight(conv, &mut this[0], true, output, g, read)?;
                if i > 0 {
                    grad_inner.reserve(B::map_len(read.x))?;
                    self.input(conv, this[0].output.view(), grad_inner, false)?;
                }
            }
            let (first, output) = (&block.convs[0], tape_block.convs[0].output.view());
            match &block.projection {
                None => self.input(first, output, grad, true)?,
                Some(conv) => {
                    let (tape, read) = (&mut tape_block.projection, Read::plain(input.view()));
                    self.norm_weight(conv, tape, false, None, grad, read)?;
                    // The projection second: with a stride it adds to a few pixels, where the first would write all.
                    grad_shortcut.reserve(B::map_len(input.view()))?;
                    self.input(first, output, grad_shortcut, false)?;
                    self.input(conv, tape_block.projection.output.view(), grad_shortcut, true)?;
                    std::mem::swap(grad, grad_shortcut);
                }
            }
        }
        Ok(())
    }

    /// From there to the stem's parameters; `grad` is turned into others, and `inner` is room for one.
    pub fn stem(
        &mut self,
        plan: &Plan,
        images: MapView<'_, B>,
        tape: &mut StemTape<B>,
        grad: &mut B::Map,
        inner: &mut B::Map,
    ) -> Result<(), SupernetError> {
        let grad = if plan.max_pool() {
            inner.reserve(pool_shape(plan, self.batch).input_len())?;
            self.backend.max_pool_backward(plan, self.batch, &tape.places, grad, inner)?;
            inner
        } else {
            grad
        };
        self.norm_weight(&plan.stem, &mut tape.conv, true, None, grad, Read::plain(images))
    }

    /// Turns `tape.output` into its own gradient and `grad` into that of the residual, and adds the gradient
    /// of the convolution's weight; `input` is what it read.
    fn norm_weight(
        &mut self,
        conv: &PlannedConv,
        tape: &mut ConvTape<B>,
        relu: bool,
        output: Option<&B::Map>,
        grad: &mut B::Map,
        input: Read<'_, B>,
    ) -> Result<(), SupernetError> {
        let Self { backend, params, batch, batch_statistics, grads } = self;
        let ConvTape { output: x, mean, var } = tape;
        let norm = NormOf { conv, params: *params, mean, var, relu };
        backend.norm_conv_backward(norm, *batch_statistics, *batch, x, output, grad, input, grads)
    }

    fn input(
        &mut self,
        conv: &PlannedConv,
        grad_y: MapView<'_, B>,
        grad_x: &mut B::Map,
        accumulate: bool,
    ) -> Result<(), SupernetError> {
        let (backend, params) = (&mut *self.backend, self.params);
        backend.conv_backward_input(conv, self.batch, params, grad_y, grad_x, accumulate)
    }
}

/// Gradients that flow between layers.
pub(crate) struct Flowing<B: Backend> {
    pub grad: B::Map,
    /// Along a block's branch.
    pub inner: B::Map,
    pub shortcut: B::Map,
}

impl<B: Backend> Flowing<B> {
    pub fn new(backend: &B) -> Self {
        Self { grad: backend.map(), inner: backend.map(), shortcut: backend.map() }
    }

    pub fn reserve(&mut self, len: usize) -> Result<(), SupernetError> {
        let Self { grad, inner, shortcut } = self;
        [grad, inner, shortcut].into_iter().try_for_each(|map| map.reserve(len))
    }
}
