//! One subnet forward and backward, in memory that is kept from step to step.

use crate::backend::{Backend, Cpu, MapView, Store, VectorView};
use crate::layout::Layout;
use crate::passes::{Backward, Flowing, Forward};
use crate::plan::{Plan, PlannedConv};
use crate::tape::Tape;
use crate::{SupernetError, features_only, infer, siblings};
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
    pub(crate) fn batch_statistics(&self) -> bool {
        !matches!(self, Norms::Frozen { .. })
    }
}

/// Runs plans, on the CPU unless made [on](Session::on) another backend. It holds no weights and no code, only memory:
/// any plan may follow any other.
pub struct Session<B: Backend = Cpu> {
    pub(crate) backend: B,
    pub(crate) tape: Tape<B>,
    /// The normalised shortcut, until its block's output is made.
    pub(crate) shortcut: B::Map,
    pub(crate) flowing: Flowing<B>,
    pub(crate) grad_features: B::Vector,
    infer: infer::Memory<B>,
    features_only: features_only::Memory<B>,
    /// Images that there is room for, whatever the plan.
    room: usize,
    pub(crate) batch: usize,
    pub(crate) batch_statistics: bool,
    pub(crate) siblings: siblings::Memory<B>,
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
            flowing: Flowing::new(&backend),
            grad_features: backend.vector(),
            infer: infer::Memory::new(&backend),
            features_only: features_only::Memory::new(&backend),
            room: 0,
            batch: 0,
            batch_statistics: false,
            siblings: siblings::Memory::new(&backend),
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
        let Self { backend, tape, shortcut, flowing, .. } = self;
        tape.reserve(backend, plan, images)?;
        let len = |conv: &PlannedConv| conv.shape(images).output_len();
        flowing.reserve(plan.convs().map(len).max().unwrap_or(0))?;
        let projections = plan.blocks.iter().filter_map(|block| block.projection.as_ref());
        shortcut.reserve(projections.map(len).max().unwrap_or(0))?;
        self.siblings.room = plan.first_len(images);
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
        let Tape { stem, blocks, features, .. } = tape;
        let mut ctx = Forward { backend, params, norms, batch };
        ctx.stem(plan, images, stem)?;
        ctx.blocks(plan, stem.first(plan), blocks, shortcut, features)?;
        Ok(self.tape.features.view())
    }

    /// Pooled features [N, C] of a training pass that no backward pass follows: those of [`Session::forward_features`] to
    /// the bit, running statistics included, in a few maps for any depth. Leaves a pending backward pass and
    /// [`Session::features`] alone.
    ///
    /// # Errors
    /// When `images` is not a whole number of images.
    pub fn forward_features_only(
        &mut self,
        plan: &Plan,
        params: &B::Params,
        norms: Norms<'_, B>,
        images: MapView<'_, B>,
    ) -> Result<VectorView<'_, B>, SupernetError> {
        let batch = B::batch(plan, images)?;
        let Self { backend, features_only: memory, flowing, shortcut, .. } = self;
        memory.exchange(flowing, shortcut);
        let forward = Forward { backend, params, norms, batch };
        let done = features_only::run(memory, forward, plan, images);
        memory.exchange(flowing, shortcut);
        done?;
        Ok(memory.features.view())
    }

    /// The pooled features [N, C] of the last [`Session::forward_features`] or [`Session::forward`].
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
        let Self { backend, tape, flowing, batch_statistics, .. } = self;
        let mut ctx =
            Backward { backend, params, grads, batch, batch_statistics: *batch_statistics };
        let Tape { stem, blocks, .. } = tape;
        ctx.blocks(plan, stem.first(plan), blocks, grad_features, flowing)?;
        ctx.stem(plan, images, stem, &mut flowing.grad, &mut flowing.inner)
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
