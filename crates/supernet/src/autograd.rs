//! Whole subnets as candle operations, for users who build on candle's tensors and autograd.
//!
//! The parameters are one flat tensor; the gradient that candle returns for it is laid out alike.

use crate::{Norms, Plan, Session, SupernetError, Weights};
use candle_core::{CpuStorage, CustomOp2, Error, Layout, Result, Shape, Tensor};
use std::sync::Mutex;

fn candle(error: SupernetError) -> Error {
    Error::wrap(error)
}

/// NCHW f32 images as the NHWC buffer that a [`Session`] takes.
fn to_nhwc(images: &Tensor) -> Result<Vec<f32>> {
    images.permute((0, 2, 3, 1))?.flatten_all()?.to_vec1()
}

fn check_images(plan: &Plan, images: &Tensor) -> Result<usize> {
    let (n, c, h, w) = images.dims4()?;
    let network = plan.network();
    let (size, channels) = (network.image_size, network.channels);
    if (c, h, w) != (channels, size, size) || n == 0 {
        candle_core::bail!(
            "images have shape [{n}, {c}, {h}, {w}], expected [N, {channels}, {size}, {size}] with N > 0"
        );
    }
    Ok(n)
}

/// Eval-mode logits [N, classes] of images [N, C, H, W] (f32).
///
/// # Errors
/// When the images have another shape or element type.
pub fn forward(plan: &Plan, weights: &Weights, images: &Tensor) -> Result<Tensor> {
    let n = check_images(plan, images)?;
    let mut session = Session::new();
    let logits = session
        .infer(plan, &weights.params, &weights.buffers, &to_nhwc(images)?)
        .map_err(candle)?;
    Tensor::from_slice(logits, (n, plan.network().classes), images.device())
}

/// Training-mode logits [N, classes] (batch statistics) of images [N, C, H, W], differentiable by
/// candle with respect to the flat parameters `[P]`. The images get no gradient.
///
/// # Errors
/// When a shape or element type is not as stated.
pub fn forward_train(plan: &Plan, params: &Tensor, images: &Tensor) -> Result<Tensor> {
    check_images(plan, images)?;
    params.dims1()?;
    let op = SubnetOp { plan: plan.clone(), session: Mutex::new(Session::new()) };
    images.permute((0, 2, 3, 1))?.contiguous()?.detach().apply_op2(&params.contiguous()?, op)
}

/// (images [N, H, W, C], parameters [P]) -> logits. The session keeps the activations from
/// forward to backward; candle calls the two in this order, once each.
struct SubnetOp {
    plan: Plan,
    session: Mutex<Session>,
}

impl CustomOp2 for SubnetOp {
    fn name(&self) -> &'static str {
        "slimtau-subnet"
    }

    fn cpu_fwd(
        &self,
        images: &CpuStorage,
        images_layout: &Layout,
        params: &CpuStorage,
        params_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let images = contiguous(images, images_layout)?;
        let params = contiguous(params, params_layout)?;
        let mut session = self.session.lock().map_err(|_| poisoned())?;
        let logits =
            session.forward(&self.plan, params, Norms::Batch, images).map_err(candle)?.to_vec();
        let classes = self.plan.network().classes;
        let shape = Shape::from((logits.len() / classes, classes));
        Ok((CpuStorage::F32(logits), shape))
    }

    fn bwd(
        &self,
        images: &Tensor,
        params: &Tensor,
        _logits: &Tensor,
        grad_logits: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let images: Vec<f32> = images.flatten_all()?.to_vec1()?;
        let values: Vec<f32> = params.to_vec1()?;
        let grad_logits: Vec<f32> = grad_logits.flatten_all()?.to_vec1()?;
        let mut grads = vec![0.0; values.len()];
        let mut session = self.session.lock().map_err(|_| poisoned())?;
        // Forward again: a caller may differentiate one graph twice, and the backward pass
        // consumes the activations.
        session.forward(&self.plan, &values, Norms::Batch, &images).map_err(candle)?;
        session.backward(&self.plan, &values, &images, &grad_logits, &mut grads);
        let grads = Tensor::from_vec(grads, params.shape(), params.device())?;
        Ok((None, Some(grads)))
    }
}

fn poisoned() -> Error {
    Error::Msg("an earlier call on this graph panicked".into())
}

fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => Err(Error::Msg("slimtau-subnet: tensors must be contiguous".into())),
    }
}
