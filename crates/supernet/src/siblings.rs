//! Subnets of one supernet that run on the same images and weights, one after the other, as in a training step that sums
//! the gradients of several.
//!
//! Their stems differ in nothing but how many of the same channels they have: every channel is the same sum over the same image, batch norm treats
//! it by itself, and so does the max pool. So the widest stem is computed once, and each subnet reads its leading channels. Backward,
//! given what the forward pass left, the stem's gradient is linear in that of its output: those of all subnets are summed first and
//! go through the stem once.

use crate::backend::{Backend, Cpu, StatisticsAt, Tracked, track};
use crate::passes::{Backward, Forward};
use crate::plan::Plan;
use crate::tape::{Buffer, Tape};
use crate::{Norms, Session, SupernetError};
use slimtau_kernels::leading::{add_leading, put_leading, take_leading};

/// What siblings need of a session beside their tapes.
pub(crate) struct Memory<B: Backend> {
    /// The leading channels of the stem's output, for a subnet that reads not all.
    first: B::Map,
    /// The sum of the gradients of the stem's output.
    grad: B::Map,
    /// The length of either that there is to be room for, whatever the plan.
    pub room: usize,
}

impl<B: Backend> Memory<B> {
    pub fn new(backend: &B) -> Self {
        Self { first: backend.map(), grad: backend.map(), room: 0 }
    }
}

/// So many values of one of its maps, which has room for any plan's.
fn with_room(map: &mut Buffer, room: usize, len: usize) -> &mut [f32] {
    map.reserve(room.max(len));
    map.reserve(len)
}

/// Training passes of several subnets on the same images and weights, whose stems are computed once: made by
/// [`Session::siblings`], ended by [`Siblings::finish`].
///
/// Where it is dropped without `finish`, as after an error, gradients that were added lack the stem's.
#[must_use = "the stem's gradient is added by `finish`"]
pub struct Siblings<'s> {
    session: &'s mut Session,
    widest: &'s Plan,
    params: &'s [f32],
    images: &'s [f32],
    /// Whether there is a sum of gradients of the stem's output, and the channels of one that is still where gradients flow.
    summed: bool,
    pending: Option<usize>,
    /// Channels of the stem of the subnet whose forward pass waits for its backward pass.
    ahead: Option<usize>,
}

impl Session {
    /// Begins the passes of several subnets on the same images [N, H, W, C] and parameters, of which `widest` has the widest stem. Numbers are
    /// those of one [`Session::forward`] and [`Session::backward`] after the other but for rounding, with one subnet to the
    /// bit; running statistics follow subnet by subnet as there. `norms` says whose statistics count; none are updated yet.
    ///
    /// # Errors
    /// When `images` is not a whole number of images.
    pub fn siblings<'s>(
        &'s mut self,
        widest: &'s Plan,
        params: &'s [f32],
        norms: &Norms<'_>,
        images: &'s [f32],
    ) -> Result<Siblings<'s>, SupernetError> {
        let batch = Cpu::batch(widest, images)?;
        self.batch = batch;
        self.batch_statistics = norms.batch_statistics();
        let norms = match norms {
            Norms::Frozen { buffers } => Norms::Frozen { buffers: *buffers },
            _ => Norms::Batch,
        };
        let Self { backend, tape, .. } = self;
        tape.stem.reserve(widest, batch)?;
        Forward { backend, params, norms, batch }.stem(widest, images, &mut tape.stem)?;
        Ok(Siblings {
            session: self,
            widest,
            params,
            images,
            summed: false,
            pending: None,
            ahead: None,
        })
    }
}

impl Siblings<'_> {
    /// Logits [N, classes] of one of the subnets, remembered for [`Siblings::backward`].
    ///
    /// # Errors
    /// When the machine fails; the CPU does not.
    ///
    /// # Panics
    /// When the subnet's stem is wider than the widest or of another layout, or when `norms` has batch statistics where [`Session::siblings`] was
    /// given running ones, or the other way round. [`Norms::Frozen`] has to have the same buffers.
    pub fn forward(&mut self, plan: &Plan, norms: Norms<'_>) -> Result<&[f32], SupernetError> {
        self.sum();
        let Self { session, widest, params, ahead, .. } = self;
        let Session { backend, tape, shortcut, batch, batch_statistics, siblings, .. } =
            &mut **session;
        assert_eq!(norms.batch_statistics(), *batch_statistics, "norms of one kind");
        let (channels, all) = (plan.stem.out_channels, widest.stem.out_channels);
        assert!(channels <= all, "a stem of {channels} channels, the widest of {all}");
        assert_eq!(plan.stem.slot, widest.stem.slot, "stems of one layout");
        tape.reserve_blocks(backend, plan, *batch)?;
        let Tape { stem, blocks, features, logits } = tape;
        let mut ctx = Forward { backend, params: *params, norms, batch: *batch };
        if let Norms::Tracked { buffers, momentum } = &mut ctx.norms {
            let (at, momentum) = (StatisticsAt::of(&plan.stem), *momentum);
            let tracked = Tracked { running: &mut **buffers, at, momentum };
            let [mean, var] = [&stem.conv.mean, &stem.conv.var].map(|own| &own.get()[..channels]);
            track(tracked, stem.out.get().len() / all, mean, var);
        }
        let mut first = stem.first(widest);
        if channels < all {
            let len = plan.first_len(*batch);
            let narrow = with_room(&mut siblings.first, siblings.room, len);
            take_leading(all, first.get(), channels, narrow);
            first = &siblings.first;
        }
        ctx.blocks(plan, first, blocks, shortcut, features)?;
        backend.classify(plan, *batch, params, features.get(), logits)?;
        *ahead = Some(channels);
        Ok(logits.get())
    }

    /// Adds the gradient of the parameters behind the stem that the last [`Siblings::forward`] used, given that of its
    /// logits. Once per forward pass, with its subnet, and always into the same `grads` as [`Siblings::finish`].
    ///
    /// # Errors
    /// When the machine fails; the CPU does not.
    ///
    /// # Panics
    /// When `grad_logits` or `grads` have another length than the forward pass implies, or that was not the last pass, or had another stem.
    pub fn backward(
        &mut self,
        plan: &Plan,
        grad_logits: &[f32],
        grads: &mut [f32],
    ) -> Result<(), SupernetError> {
        let batch_statistics = self.session.batch_statistics;
        let ahead = self.ahead.take().expect("a forward pass before each backward pass");
        assert_eq!(ahead, plan.stem.out_channels, "the subnet of the forward pass");
        let Self { session, widest, params, pending, .. } = self;
        let Session { backend, tape, flowing, batch, siblings, grad_features, .. } = &mut **session;
        assert_eq!(grads.len(), params.len(), "gradients and parameters");
        let Tape { stem, blocks, features, .. } = tape;
        grad_features.reserve(*batch * plan.features());
        let (features, into) = (features.get(), &mut *grad_features);
        backend.classify_backward(plan, *batch, params, features, grad_logits, into, grads)?;
        let (channels, all) = (plan.stem.out_channels, widest.stem.out_channels);
        let first = if channels < all { &siblings.first } else { stem.first(widest) };
        let mut ctx = Backward { backend, params: *params, grads, batch: *batch, batch_statistics };
        ctx.blocks(plan, first, blocks, grad_features.get(), flowing)?;
        *pending = Some(channels);
        Ok(())
    }

    /// Adds the last subnet's gradient of the stem's output to the others'.
    fn sum(&mut self) {
        let Self { session, widest, summed, pending, .. } = self;
        let Some(channels) = pending.take() else { return };
        let Session { flowing, batch, siblings, .. } = &mut **session;
        let (grad, all) = (flowing.grad.get(), widest.stem.out_channels);
        if std::mem::replace(summed, true) {
            add_leading(channels, grad, all, siblings.grad.get_mut());
        } else {
            let len = widest.first_len(*batch);
            put_leading(channels, grad, all, with_room(&mut siblings.grad, siblings.room, len));
            // So that a narrower stem of a later step takes no memory.
            siblings.first.reserve(siblings.room);
        }
    }

    /// Adds the gradient of the stem's parameters, for all subnets together.
    ///
    /// # Errors
    /// When the machine fails; the CPU does not.
    ///
    /// # Panics
    /// When `grads` has another length than the parameters.
    pub fn finish(mut self, grads: &mut [f32]) -> Result<(), SupernetError> {
        assert_eq!(grads.len(), self.params.len(), "gradients and parameters");
        let alone = !self.summed && self.pending == Some(self.widest.stem.out_channels);
        if !alone {
            self.sum();
        }
        let Self { session, widest, params, images, summed, .. } = self;
        if !summed && !alone {
            return Ok(());
        }
        let Session { backend, tape, flowing, batch, batch_statistics, siblings, .. } = session;
        let (batch, batch_statistics) = (*batch, *batch_statistics);
        let mut ctx = Backward { backend, params, grads, batch, batch_statistics };
        let grad = if alone { &mut flowing.grad } else { &mut siblings.grad };
        ctx.stem(widest, images, &mut tape.stem, grad, &mut flowing.inner)
    }
}
