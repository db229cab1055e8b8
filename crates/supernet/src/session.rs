//! One subnet forward and backward, in memory that is kept from step to step.

use crate::plan::{Plan, PlannedConv};
use crate::tape::{Buffer, ConvTape, Tape};
use crate::{SupernetError, infer};
use slimtau_kernels::Scratch;
use slimtau_kernels::conv::{
    Epilogue, conv_backward_input, conv_backward_weight, conv_forward, conv_forward_statistics,
};
use slimtau_kernels::linear::{LinearShape, linear_backward, linear_forward};
use slimtau_kernels::norm::{Norm, norm_backward, norm_forward, update_running};
use slimtau_kernels::pool::{
    PoolShape, average_pool_backward, average_pool_forward, max_pool_backward, max_pool_forward,
};

/// Which statistics batch norm uses in a training pass.
pub enum Norms<'a> {
    /// Those of the batch; the running ones follow by `momentum` (PyTorch's training mode).
    Tracked {
        /// Running statistics, updated in place for the subnet's channels.
        buffers: &'a mut [f32],
        /// Weight of the new batch, in (0, 1]; PyTorch's default is 0.1.
        momentum: f32,
    },
    /// Those of the batch; nothing is updated.
    Batch,
    /// The running ones, as constants (the competition authors' frozen BN).
    Frozen {
        /// Running statistics.
        buffers: &'a [f32],
    },
}

impl Norms<'_> {
    fn batch_statistics(&self) -> bool {
        !matches!(self, Norms::Frozen { .. })
    }
}

/// Runs plans. It holds no weights and no code, only memory: any plan may follow any other.
#[derive(Default)]
pub struct Session {
    tape: Tape,
    scratch: Scratch,
    /// The normalised shortcut, until its block's output is made.
    shortcut: Buffer,
    /// Gradients that flow between layers.
    grad: Buffer,
    grad_inner: Buffer,
    grad_shortcut: Buffer,
    grad_features: Buffer,
    infer: infer::Memory,
    batch: usize,
    batch_statistics: bool,
}

impl Session {
    /// A session without memory; it grows to what its largest step needs.
    pub fn new() -> Self {
        Self::default()
    }

    /// Logits [N, classes] of a training pass, remembered for [`Session::backward`].
    ///
    /// `images` is [N, H, W, C]. Runs on the ambient rayon pool; the result does not depend on
    /// the number of threads.
    ///
    /// # Errors
    /// When `images` is not a whole number of images.
    pub fn forward(
        &mut self,
        plan: &Plan,
        params: &[f32],
        norms: Norms<'_>,
        images: &[f32],
    ) -> Result<&[f32], SupernetError> {
        self.forward_features(plan, params, norms, images)?;
        let shape = self.linear_shape(plan);
        let logits = self.tape.logits.reserve(self.batch * shape.outputs);
        let (weight, bias) = (&params[plan.fc_weight.clone()], &params[plan.fc_bias.clone()]);
        linear_forward(&shape, self.tape.features.get(), weight, bias, logits);
        Ok(self.tape.logits.get())
    }

    /// Pooled features [N, C] of a training pass, remembered for [`Session::backward_features`].
    ///
    /// # Errors
    /// When `images` is not a whole number of images.
    pub fn forward_features(
        &mut self,
        plan: &Plan,
        params: &[f32],
        mut norms: Norms<'_>,
        images: &[f32],
    ) -> Result<&[f32], SupernetError> {
        let batch = plan.batch(images)?;
        self.batch = batch;
        self.batch_statistics = norms.batch_statistics();
        let Self { tape, scratch, shortcut, .. } = self;
        tape.reserve(plan, batch);
        let Tape { stem, stem_out, pooled, argmax, blocks, features, .. } = tape;

        conv_norm(
            &plan.stem, params, &mut norms, images, None, true, stem, stem_out, scratch, batch,
        );
        if plan.max_pool() {
            let shape = pool_shape(plan, batch);
            let argmax = &mut argmax[..shape.output_len()];
            max_pool_forward(&shape, stem_out.get(), pooled.get_mut(), Some(argmax));
        }
        let mut input: &Buffer = if plan.max_pool() { pooled } else { stem_out };
        for (block, tape) in plan.blocks.iter().zip(blocks.iter_mut()) {
            let residual = match &block.projection {
                None => input,
                Some(conv) => {
                    shortcut.reserve(conv.shape(batch).output_len());
                    let (x, t) = (input.get(), &mut tape.projection);
                    conv_norm(
                        conv, params, &mut norms, x, None, false, t, shortcut, scratch, batch,
                    );
                    &*shortcut
                }
            };
            let last = block.convs.len() - 1;
            for (i, conv) in block.convs.iter().enumerate() {
                let (before, after) = tape.hidden.split_at_mut(i);
                let x = before.last().unwrap_or(input).get();
                let (res, out) = match after.first_mut() {
                    Some(hidden) if i < last => (None, hidden),
                    _ => (Some(residual.get()), &mut tape.out),
                };
                let t = &mut tape.convs[i];
                conv_norm(conv, params, &mut norms, x, res, true, t, out, scratch, batch);
            }
            input = &tape.out;
        }
        let features = {
            let out = features.reserve(batch * plan.features());
            average_pool_forward(batch, plan.last_pixels(), plan.features(), input.get(), out);
            features.get()
        };
        Ok(features)
    }

    /// The pooled features [N, C] of the last training pass.
    pub fn features(&self) -> &[f32] {
        self.tape.features.get()
    }

    /// Adds the gradient of every parameter that the last [`Session::forward`] used into `grads`
    /// (laid out like `params`), given that of its logits.
    ///
    /// The arguments must be those of that forward pass. May be called once per forward pass: the
    /// memory of activations is reused for their gradients.
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
        let shape = self.linear_shape(plan);
        let mut grad_features = std::mem::take(&mut self.grad_features);
        grad_features.reserve(self.batch * plan.features());
        let weight = &params[plan.fc_weight.clone()];
        let (grad_weight, grad_bias) =
            pair_mut(grads, plan.fc_weight.clone(), plan.fc_bias.clone());
        linear_backward(
            &shape,
            self.tape.features.get(),
            weight,
            grad_logits,
            Some(grad_features.get_mut()),
            grad_weight,
            grad_bias,
        );
        self.backward_features(plan, params, images, grad_features.get(), grads);
        self.grad_features = grad_features;
    }

    /// Like [`Session::backward`], from the gradient of the pooled features [N, C].
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
        let batch = self.batch;
        assert_eq!(grad_features.len(), batch * plan.features(), "gradient of the features");
        assert_eq!(grads.len(), params.len(), "gradients and parameters");
        let Self { tape, scratch, grad, grad_inner, grad_shortcut, batch_statistics, .. } = self;
        let mut ctx =
            Backward { params, grads, scratch, batch, batch_statistics: *batch_statistics };

        let pixels = plan.last_pixels();
        grad.reserve(batch * pixels * plan.features());
        average_pool_backward(batch, pixels, plan.features(), grad_features, grad.get_mut());

        for (n, block) in plan.blocks.iter().enumerate().rev() {
            let (earlier, this) = tape.blocks.split_at_mut(n);
            let tape_block = &mut this[0];
            let first = if plan.max_pool() { &tape.pooled } else { &tape.stem_out };
            let input = earlier.last().map_or(first, |b| &b.out).get();

            // From the block's output down to the first convolution: `grad` ends as the gradient
            // of the shortcut, `grad_inner` carries the gradient along the branch.
            let last = block.convs.len() - 1;
            for i in (0..=last).rev() {
                let conv = &block.convs[i];
                let (output, g) = if i == last {
                    (Some(tape_block.out.get()), &mut *grad)
                } else {
                    (None, &mut *grad_inner)
                };
                ctx.norm(conv, &mut tape_block.convs[i], true, output, g.get_mut());
                let grad_y = tape_block.convs[i].output.get();
                if i > 0 {
                    let x = tape_block.hidden[i - 1].get();
                    ctx.weight(conv, x, grad_y);
                    grad_inner.reserve(x.len());
                    ctx.input(conv, grad_y, grad_inner.get_mut(), false);
                } else {
                    ctx.weight(conv, input, grad_y);
                }
            }
            let to_input = match &block.projection {
                None => &mut *grad,
                Some(conv) => {
                    ctx.norm(conv, &mut tape_block.projection, false, None, grad.get_mut());
                    let grad_y = tape_block.projection.output.get();
                    ctx.weight(conv, input, grad_y);
                    grad_shortcut.reserve(input.len());
                    ctx.input(conv, grad_y, grad_shortcut.get_mut(), false);
                    std::mem::swap(grad, grad_shortcut);
                    &mut *grad
                }
            };
            ctx.input(&block.convs[0], tape_block.convs[0].output.get(), to_input.get_mut(), true);
        }

        if plan.max_pool() {
            let shape = pool_shape(plan, batch);
            grad_inner.reserve(shape.input_len());
            let argmax = &tape.argmax[..shape.output_len()];
            max_pool_backward(&shape, argmax, grad.get(), grad_inner.get_mut());
            std::mem::swap(grad, grad_inner);
        }
        ctx.norm(&plan.stem, &mut tape.stem, true, None, grad.get_mut());
        ctx.weight(&plan.stem, images, tape.stem.output.get());
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
        params: &[f32],
        buffers: &[f32],
        images: &[f32],
    ) -> Result<&[f32], SupernetError> {
        infer::run(&mut self.infer, &mut self.scratch, plan, params, buffers, images)
    }

    fn linear_shape(&self, plan: &Plan) -> LinearShape {
        linear_shape(plan, self.batch)
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

/// out = [relu](bn(conv(x)) [+ residual]), filling the tape.
fn conv_norm(
    conv: &PlannedConv,
    params: &[f32],
    norms: &mut Norms<'_>,
    x: &[f32],
    residual: Option<&[f32]>,
    relu: bool,
    tape: &mut ConvTape,
    out: &mut Buffer,
    scratch: &mut Scratch,
    batch: usize,
) {
    let (shape, slot, channels) = (conv.shape(batch), &conv.slot, conv.out_channels);
    let y = tape.output.get_mut();
    let weight = &params[slot.weight.clone()];
    let (mean, var) = (tape.mean.get_mut(), tape.var.get_mut());
    match norms {
        Norms::Frozen { buffers } => {
            conv_forward(&shape, x, weight, y, Epilogue::None, scratch);
            mean.copy_from_slice(&buffers[conv.vector(&slot.mean)]);
            var.copy_from_slice(&buffers[conv.vector(&slot.var)]);
        }
        Norms::Batch => conv_forward_statistics(&shape, x, weight, y, mean, var, scratch),
        Norms::Tracked { buffers, momentum } => {
            conv_forward_statistics(&shape, x, weight, y, mean, var, scratch);
            let rows = y.len() / channels;
            let (running_mean, running_var) =
                pair_mut(buffers, conv.vector(&slot.mean), conv.vector(&slot.var));
            update_running(*momentum, rows, mean, var, running_mean, running_var);
        }
    }
    norm_forward(&norm(conv, params, tape, relu), tape.output.get(), residual, out.get_mut());
}

fn norm<'a>(conv: &PlannedConv, params: &'a [f32], tape: &'a ConvTape, relu: bool) -> Norm<'a> {
    Norm {
        channels: conv.out_channels,
        mean: tape.mean.get(),
        var: tape.var.get(),
        gamma: &params[conv.vector(&conv.slot.gamma)],
        beta: &params[conv.vector(&conv.slot.beta)],
        relu,
    }
}

/// What every step of a backward pass needs.
struct Backward<'a> {
    params: &'a [f32],
    grads: &'a mut [f32],
    scratch: &'a mut Scratch,
    batch: usize,
    batch_statistics: bool,
}

impl Backward<'_> {
    /// Turns `tape.output` into its own gradient and `grad` into that of the residual.
    fn norm(
        &mut self,
        conv: &PlannedConv,
        tape: &mut ConvTape,
        relu: bool,
        output: Option<&[f32]>,
        grad: &mut [f32],
    ) {
        let mut x = std::mem::take(&mut tape.output);
        let (grad_gamma, grad_beta) =
            pair_mut(self.grads, conv.vector(&conv.slot.gamma), conv.vector(&conv.slot.beta));
        norm_backward(
            &norm(conv, self.params, tape, relu),
            self.batch_statistics,
            x.get_mut(),
            output,
            grad,
            grad_gamma,
            grad_beta,
            self.scratch,
        );
        tape.output = x;
    }

    fn weight(&mut self, conv: &PlannedConv, x: &[f32], grad_y: &[f32]) {
        let grad_weight = &mut self.grads[conv.slot.weight.clone()];
        conv_backward_weight(&conv.shape(self.batch), x, grad_y, grad_weight, self.scratch);
    }

    fn input(&mut self, conv: &PlannedConv, grad_y: &[f32], grad_x: &mut [f32], accumulate: bool) {
        let weight = &self.params[conv.slot.weight.clone()];
        let shape = conv.shape(self.batch);
        conv_backward_input(&shape, grad_y, weight, grad_x, accumulate, self.scratch);
    }
}

/// Two disjoint ranges of one buffer, the first before the second.
fn pair_mut(
    values: &mut [f32],
    first: std::ops::Range<usize>,
    second: std::ops::Range<usize>,
) -> (&mut [f32], &mut [f32]) {
    let (head, tail) = values.split_at_mut(second.start);
    (&mut head[first], &mut tail[..second.end - second.start])
}
