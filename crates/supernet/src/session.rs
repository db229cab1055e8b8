//! One subnet forward and backward, in memory that is kept from step to step.

use crate::backend::{
    Backend, Cpu, End, MapView, NormOf, StatisticsAt, Store, Tracked, VectorView,
};
use crate::layout::Layout;
use crate::plan::{Plan, PlannedConv};
use crate::tape::{ConvTape, Tape, input_and_tape};
use crate::{SupernetError, infer};
use slimtau_kernels::linear::LinearShape;
use slimtau_kernels::pool::PoolShape;

/// Which statistics batch norm uses in a training pass.
pub enum Norms<'a, B: Backend = Cpu> {
    /// Those of the batch; the running ones follow by `momentum` (PyTorch's training mode).
    Tracked {
        /// Running statistics, updated in place for the subnet's channels.
        buffers: &'a mut B::Running,
        /// Weight of the new batch, in (0, 1]; PyTorch's default is 0.1.
        momentum: f32,
    },
    /// Those of the batch; nothing is updated.
    Batch,
    /// The running ones, as constants (the competition authors' frozen BN).
    Frozen {
        /// Running statistics.
        buffers: &'a B::Running,
    },
}

impl<B: Backend> Norms<'_, B> {
    fn batch_statistics(&self) -> bool {
        !matches!(self, Norms::Frozen { .. })
    }
}

/// Runs plans, on the CPU unless made [on](Session::on) another backend. It holds no weights and no code, only memory:
/// any plan may follow any other.
pub struct Session<B: Backend = Cpu> {
    backend: B,
    tape: Tape<B>,
    /// The normalised shortcut, until its block's output is made.
    shortcut: B::Map,
    /// Gradients that flow between layers.
    grad: B::Map,
    grad_inner: B::Map,
    grad_shortcut: B::Map,
    grad_features: B::Vector,
    infer: infer::Memory<B>,
    /// Images that there is room for, whatever the plan.
    room: usize,
    batch: usize,
    batch_statistics: bool,
}

impl Session {
    /// A session on the CPU without memory; it grows to what its largest step needs. Runs on the ambient rayon pool; results
    /// do not depend on the number of threads.
    pub fn new() -> Self {
        Self::on(Cpu::default())
    }
}

impl Default for Session {
    fn default() -> Self {
        Self::new()
    }
}

impl<B: Backend> Session<B> {
    /// A session on a backend.
    pub fn on(backend: B) -> Self {
        Self {
            tape: Tape::new(&backend),
            shortcut: backend.map(),
            grad: backend.map(),
            grad_inner: backend.map(),
            grad_shortcut: backend.map(),
            grad_features: backend.vector(),
            infer: infer::Memory::new(&backend),
            room: 0,
            batch: 0,
            batch_statistics: false,
            backend,
        }
    }

    /// Makes room for the activations and gradients of any plan of a layout on so many images: with that, a run takes nearly
    /// all its memory at its first step, not whenever a wider subnet happens to be drawn. Does nothing where a call before had
    /// as many images; a session is for one layout.
    ///
    /// # Errors
    /// When the machine has not as much; the CPU does not fail.
    pub fn reserve(&mut self, layout: &Layout, images: usize) -> Result<(), SupernetError> {
        if images <= self.room {
            return Ok(());
        }
        let plan = &Plan::new(layout.network(), layout)?;
        let Self { backend, tape, shortcut, grad, grad_inner, grad_shortcut, .. } = self;
        tape.reserve(backend, plan, images)?;
        let len = |conv: &PlannedConv| conv.shape(images).output_len();
        let largest = plan.convs().map(len).max().unwrap_or(0);
        for flowing in [grad, grad_inner, grad_shortcut] {
            flowing.reserve(largest)?;
        }
        let projections = plan.blocks.iter().filter_map(|block| block.projection.as_ref());
        shortcut.reserve(projections.map(len).max().unwrap_or(0))?;
        self.room = images;
        Ok(())
    }

    /// Logits [N, classes] of a training pass, remembered for [`Session::backward`].
    ///
    /// `images` is [N, H, W, C].
    ///
    /// # Errors
    /// When `images` is not a whole number of images.
    pub fn forward(
        &mut self,
        plan: &Plan,
        params: &B::Params,
        norms: Norms<'_, B>,
        images: MapView<'_, B>,
    ) -> Result<VectorView<'_, B>, SupernetError> {
        self.forward_features(plan, params, norms, images)?;
        let Self { backend, tape, batch, .. } = self;
        backend.classify(plan, *batch, params, tape.features.view(), &mut tape.logits)?;
        Ok(self.tape.logits.view())
    }

    /// Pooled features [N, C] of a training pass, remembered for [`Session::backward_features`].
    ///
    /// # Errors
    /// When `images` is not a whole number of images.
    pub fn forward_features(
        &mut self,
        plan: &Plan,
        params: &B::Params,
        norms: Norms<'_, B>,
        images: MapView<'_, B>,
    ) -> Result<VectorView<'_, B>, SupernetError> {
        let batch = B::batch(plan, images)?;
        self.batch = batch;
        self.batch_statistics = norms.batch_statistics();
        let Self { backend, tape, shortcut, .. } = self;
        tape.reserve(backend, plan, batch)?;
        let Tape { stem, stem_out, pooled, places, blocks, features, .. } = tape;
        let mut ctx = Forward { backend, params, norms, batch };

        ctx.conv_norm(&plan.stem, images, None, true, stem, stem_out)?;
        if plan.max_pool() {
            ctx.backend.max_pool_forward(plan, batch, stem_out, pooled, Some(places))?;
        }
        let first: &B::Map = if plan.max_pool() { pooled } else { stem_out };
        for (n, block) in plan.blocks.iter().enumerate() {
            let (input, tape) = input_and_tape(plan, n, first, blocks);
            let residual = match &block.projection {
                None => input,
                Some(conv) => {
                    shortcut.reserve(conv.shape(batch).output_len())?;
                    let (x, t) = (input.view(), &mut tape.projection);
                    ctx.conv_norm(conv, x, None, false, t, shortcut)?;
                    &*shortcut
                }
            };
            let last = block.convs.len() - 1;
            for (i, conv) in block.convs.iter().enumerate() {
                let (before, after) = tape.hidden.split_at_mut(i);
                let x = before.last().unwrap_or(input).view();
                let (res, out) = match after.first_mut() {
                    Some(hidden) if i < last => (None, hidden),
                    _ => (Some(residual.view()), &mut tape.out),
                };
                ctx.conv_norm(conv, x, res, true, &mut tape.convs[i], out)?;
            }
        }
        let input = plan.blocks.last().map_or(first, |block| &blocks[block.place].out);
        backend.average_pool_forward(plan, batch, input.view(), features)?;
        Ok(self.tape.features.view())
    }

    /// The pooled features [N, C] of the last training pass.
    pub fn features(&self) -> VectorView<'_, B> {
        self.tape.features.view()
    }

    /// Adds the gradient of every parameter that the last [`Session::forward`] used into `grads`
    /// (laid out like `params`), given that of its logits.
    ///
    /// The arguments must be those of that forward pass. May be called once per forward pass: the
    /// memory of activations is reused for their gradients.
    ///
    /// # Errors
    /// When the machine fails; the CPU does not.
    ///
    /// # Panics
    /// When `grad_logits` or `grads` have another length than the forward pass implies.
    pub fn try_backward(
        &mut self,
        plan: &Plan,
        params: &B::Params,
        images: MapView<'_, B>,
        grad_logits: VectorView<'_, B>,
        grads: &mut B::Grads,
    ) -> Result<(), SupernetError> {
        let mut grad_features = std::mem::replace(&mut self.grad_features, self.backend.vector());
        grad_features.reserve(self.batch * plan.features())?;
        let Self { backend, tape, batch, .. } = self;
        let features = tape.features.view();
        let into = &mut grad_features;
        backend.classify_backward(plan, *batch, params, features, grad_logits, into, grads)?;
        self.try_backward_features(plan, params, images, grad_features.view(), grads)?;
        self.grad_features = grad_features;
        Ok(())
    }

    /// Like [`Session::try_backward`], from the gradient of the pooled features [N, C].
    ///
    /// # Errors
    /// When the machine fails; the CPU does not.
    ///
    /// # Panics
    /// When `grad_features` or `grads` have another length than the forward pass implies.
    pub fn try_backward_features(
        &mut self,
        plan: &Plan,
        params: &B::Params,
        images: MapView<'_, B>,
        grad_features: VectorView<'_, B>,
        grads: &mut B::Grads,
    ) -> Result<(), SupernetError> {
        let batch = self.batch;
        let Self { backend, tape, grad, grad_inner, grad_shortcut, batch_statistics, .. } = self;
        let mut ctx =
            Backward { backend, params, grads, batch, batch_statistics: *batch_statistics };

        grad.reserve(batch * plan.last_pixels() * plan.features())?;
        ctx.backend.average_pool_backward(plan, batch, grad_features, grad)?;

        for (n, block) in plan.blocks.iter().enumerate().rev() {
            let first = if plan.max_pool() { &tape.pooled } else { &tape.stem_out };
            let (input, tape_block) = input_and_tape(plan, n, first, &mut tape.blocks);
            let input = input.view();

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
                let x = if i > 0 { tape_block.hidden[i - 1].view() } else { input };
                ctx.norm_weight(conv, &mut tape_block.convs[i], true, output, g, x)?;
                if i > 0 {
                    grad_inner.reserve(B::map_len(x))?;
                    ctx.input(conv, tape_block.convs[i].output.view(), grad_inner, false)?;
                }
            }
            let (first, output) = (&block.convs[0], tape_block.convs[0].output.view());
            match &block.projection {
                None => ctx.input(first, output, grad, true)?,
                Some(conv) => {
                    ctx.norm_weight(conv, &mut tape_block.projection, false, None, grad, input)?;
                    // The projection second: with a stride it adds to a few pixels, where the first would write all.
                    grad_shortcut.reserve(B::map_len(input))?;
                    ctx.input(first, output, grad_shortcut, false)?;
                    ctx.input(conv, tape_block.projection.output.view(), grad_shortcut, true)?;
                    std::mem::swap(grad, grad_shortcut);
                }
            }
        }

        if plan.max_pool() {
            grad_inner.reserve(pool_shape(plan, batch).input_len())?;
            ctx.backend.max_pool_backward(plan, batch, &tape.places, grad, grad_inner)?;
            std::mem::swap(grad, grad_inner);
        }
        ctx.norm_weight(&plan.stem, &mut tape.stem, true, None, grad, images)
    }

    /// Eval-mode logits [N, classes]: running statistics, folded into the convolutions.
    ///
    /// `images` is [N, H, W, C]. Leaves the memory of a pending backward pass alone.
    ///
    /// # Errors
    /// When `images` is not a whole number of images.
    pub fn infer(
        &mut self,
        plan: &Plan,
        params: &B::Params,
        buffers: &B::Running,
        images: MapView<'_, B>,
    ) -> Result<VectorView<'_, B>, SupernetError> {
        infer::run(&mut self.infer, &mut self.backend, plan, params, buffers, images)
    }
}

impl Session {
    /// [`Session::try_backward`] on the CPU, which does not fail.
    ///
    /// # Panics
    /// When `grad_logits` or `grads` have another length than the forward pass implies.
    pub fn backward(
        &mut self,
        plan: &Plan,
        params: &[f32],
        images: &[f32],
        grad_logits: &[f32],
        grads: &mut [f32],
    ) {
        assert_eq!(grads.len(), params.len(), "gradients and parameters");
        self.try_backward(plan, params, images, grad_logits, grads).expect("the CPU does not fail");
    }

    /// [`Session::try_backward_features`] on the CPU, which does not fail.
    ///
    /// # Panics
    /// When `grad_features` or `grads` have another length than the forward pass implies.
    pub fn backward_features(
        &mut self,
        plan: &Plan,
        params: &[f32],
        images: &[f32],
        grad_features: &[f32],
        grads: &mut [f32],
    ) {
        assert_eq!(grads.len(), params.len(), "gradients and parameters");
        self.try_backward_features(plan, params, images, grad_features, grads)
            .expect("the CPU does not fail");
    }
}

pub(crate) fn linear_shape(plan: &Plan, rows: usize) -> LinearShape {
    LinearShape {
        rows,
        inputs: plan.features(),
        outputs: plan.network().classes,
        full_inputs: plan.fc_full_inputs,
    }
}

pub(crate) fn pool_shape(plan: &Plan, batch: usize) -> PoolShape {
    let size = plan.network().stem.out_size;
    PoolShape { batch, height: size, width: size, channels: plan.stem.out_channels }
}

/// What every step of a forward pass needs.
struct Forward<'a, B: Backend> {
    backend: &'a mut B,
    params: &'a B::Params,
    norms: Norms<'a, B>,
    batch: usize,
}

impl<B: Backend> Forward<'_, B> {
    /// out = [relu](bn(conv(x)) [+ residual]), filling the tape.
    fn conv_norm(
        &mut self,
        conv: &PlannedConv,
        x: MapView<'_, B>,
        residual: Option<MapView<'_, B>>,
        relu: bool,
        tape: &mut ConvTape<B>,
        out: &mut B::Map,
    ) -> Result<(), SupernetError> {
        let Self { backend, params, norms, batch } = self;
        let ConvTape { output, mean, var } = tape;
        if let Norms::Frozen { buffers } = norms {
            backend.conv(conv, *batch, params, x, End::Plain, output)?;
            backend.load_statistics(buffers, &StatisticsAt::of(conv), mean, var)?;
        } else {
            let tracked = match norms {
                Norms::Tracked { buffers, momentum } => Some(Tracked {
                    running: &mut **buffers,
                    at: StatisticsAt::of(conv),
                    momentum: *momentum,
                }),
                _ => None,
            };
            backend.conv_statistics(conv, *batch, params, x, output, mean, var, tracked)?;
        }
        backend.norm_forward(NormOf { conv, params, mean, var, relu }, output, residual, out)
    }
}

/// What every step of a backward pass needs.
struct Backward<'a, B: Backend> {
    backend: &'a mut B,
    params: &'a B::Params,
    grads: &'a mut B::Grads,
    batch: usize,
    batch_statistics: bool,
}

impl<B: Backend> Backward<'_, B> {
    /// Turns `tape.output` into its own gradient and `grad` into that of the residual, and adds the gradient
    /// of the convolution's weight; `input` is what it read.
    fn norm_weight(
        &mut self,
        conv: &PlannedConv,
        tape: &mut ConvTape<B>,
        relu: bool,
        output: Option<&B::Map>,
        grad: &mut B::Map,
        input: MapView<'_, B>,
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
