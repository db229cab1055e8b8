//! Networks on the CPU: the kernels over slices, on the ambient rayon pool.

use super::{Backend, End, NormOf, Read, StatisticsAt, Store, Tracked};
use crate::SupernetError;
use crate::plan::{Plan, PlannedConv};
use crate::session::{linear_shape, pool_shape};
use crate::tape::Buffer;
use slimtau_kernels::Scratch;
use slimtau_kernels::conv::{
    Epilogue, Input, NormGradient, conv_backward_input, conv_backward_weight, conv_forward,
    conv_forward_statistics, norm_conv_backward_weight,
};
use slimtau_kernels::linear::{linear_backward, linear_forward};
use slimtau_kernels::norm::{Norm, fold, norm_backward, norm_forward, update_running};
use slimtau_kernels::pool::{
    average_pool_backward, average_pool_forward, max_pool_backward, max_pool_forward,
};
use std::ops::Range;

/// The CPU, in f32.
#[derive(Default)]
pub struct Cpu {
    scratch: Scratch,
}

impl Store for Buffer {
    type View<'a> = &'a [f32];

    fn reserve(&mut self, len: usize) -> Result<(), SupernetError> {
        Buffer::reserve(self, len);
        Ok(())
    }

    fn view(&self) -> &[f32] {
        self.get()
    }
}

impl Store for Vec<u8> {
    type View<'a> = &'a [u8];

    fn reserve(&mut self, len: usize) -> Result<(), SupernetError> {
        self.resize(len, 0);
        Ok(())
    }

    fn view(&self) -> &[u8] {
        self
    }
}

impl Backend for Cpu {
    const NORMALISES: bool = true;

    type Params = [f32];
    type Grads = [f32];
    type Running = [f32];
    type OwnRunning = Vec<f32>;
    type Map = Buffer;
    type Vector = Buffer;
    type Places = Vec<u8>;

    fn map(&self) -> Buffer {
        Buffer::default()
    }

    fn vector(&self) -> Buffer {
        Buffer::default()
    }

    fn places(&self) -> Vec<u8> {
        Vec::new()
    }

    fn running(&self, len: usize) -> Result<Vec<f32>, SupernetError> {
        Ok(vec![0.0; len])
    }

    fn map_len(map: &[f32]) -> usize {
        map.len()
    }

    fn conv(
        &mut self,
        conv: &PlannedConv,
        batch: usize,
        params: &[f32],
        x: Read<'_, Self>,
        end: End<'_, '_, Self>,
        y: &mut Buffer,
    ) -> Result<(), SupernetError> {
        let weight = &params[conv.slot.weight.clone()];
        let epilogue = match end {
            End::Plain => Epilogue::None,
            End::Affine { scale, shift, residual, relu } => {
                Epilogue::Affine { scale: scale.get(), shift: shift.get(), residual, relu }
            }
        };
        conv_forward(
            &conv.shape(batch),
            input(x),
            weight,
            y.get_mut(),
            epilogue,
            &mut self.scratch,
        );
        Ok(())
    }

    fn conv_statistics(
        &mut self,
        conv: &PlannedConv,
        batch: usize,
        params: &[f32],
        x: Read<'_, Self>,
        y: &mut Buffer,
        mean: &mut Buffer,
        var: &mut Buffer,
        tracked: Option<Tracked<'_, Self>>,
    ) -> Result<(), SupernetError> {
        let (shape, weight) = (conv.shape(batch), &params[conv.slot.weight.clone()]);
        let (y, mean, var) = (y.get_mut(), mean.get_mut(), var.get_mut());
        conv_forward_statistics(&shape, input(x), weight, y, mean, var, &mut self.scratch);
        if let Some(tracked) = tracked {
            track(tracked, y.len() / conv.out_channels, mean, var);
        }
        Ok(())
    }

    fn conv_backward_input(
        &mut self,
        conv: &PlannedConv,
        batch: usize,
        params: &[f32],
        grad_y: &[f32],
        grad_x: &mut Buffer,
        accumulate: bool,
    ) -> Result<(), SupernetError> {
        let (shape, weight) = (conv.shape(batch), &params[conv.slot.weight.clone()]);
        let scratch = &mut self.scratch;
        conv_backward_input(&shape, grad_y, weight, grad_x.get_mut(), accumulate, scratch);
        Ok(())
    }

    fn conv_backward_weight(
        &mut self,
        conv: &PlannedConv,
        batch: usize,
        x: Read<'_, Self>,
        grad_y: &[f32],
        grads: &mut [f32],
    ) -> Result<(), SupernetError> {
        let grad_weight = &mut grads[conv.slot.weight.clone()];
        conv_backward_weight(&conv.shape(batch), input(x), grad_y, grad_weight, &mut self.scratch);
        Ok(())
    }

    fn load_statistics(
        &mut self,
        running: &[f32],
        at: &StatisticsAt,
        mean: &mut Buffer,
        var: &mut Buffer,
    ) -> Result<(), SupernetError> {
        mean.get_mut().copy_from_slice(&running[at.mean.clone()]);
        var.get_mut().copy_from_slice(&running[at.var.clone()]);
        Ok(())
    }

    fn norm_forward(
        &mut self,
        norm: NormOf<'_, Self>,
        x: &Buffer,
        residual: Option<&[f32]>,
        y: &mut Buffer,
    ) -> Result<(), SupernetError> {
        norm_forward(&slices(norm), x.get(), residual, y.get_mut());
        Ok(())
    }

    fn norm_backward(
        &mut self,
        norm: NormOf<'_, Self>,
        batch_statistics: bool,
        x: &mut Buffer,
        output: Option<&Buffer>,
        grad: &mut Buffer,
        grads: &mut [f32],
    ) -> Result<(), SupernetError> {
        let (conv, slot) = (norm.conv, &norm.conv.slot);
        let (grad_gamma, grad_beta) =
            pair_mut(grads, conv.vector(&slot.gamma), conv.vector(&slot.beta));
        norm_backward(
            &slices(norm),
            batch_statistics,
            x.get_mut(),
            output.map(Buffer::get),
            grad.get_mut(),
            grad_gamma,
            grad_beta,
            &mut self.scratch,
        );
        Ok(())
    }

    fn norm_conv_backward(
        &mut self,
        norm: NormOf<'_, Self>,
        batch_statistics: bool,
        batch: usize,
        x: &mut Buffer,
        output: Option<&Buffer>,
        grad: &mut Buffer,
        read: Read<'_, Self>,
        grads: &mut [f32],
    ) -> Result<(), SupernetError> {
        let (conv, slot) = (norm.conv, &norm.conv.slot);
        let ranges = [conv.vector(&slot.gamma), conv.vector(&slot.beta), slot.weight.clone()];
        let [grad_gamma, grad_beta, grad_weight] =
            grads.get_disjoint_mut(ranges).expect("tensors do not overlap");
        let (x, output, grad) = (x.get_mut(), output.map(Buffer::get), grad.get_mut());
        let norm = slices(norm);
        let of = NormGradient { norm, batch_statistics, x, output, grad, grad_gamma, grad_beta };
        let (shape, scratch) = (conv.shape(batch), &mut self.scratch);
        norm_conv_backward_weight(of, &shape, input(read), grad_weight, scratch);
        Ok(())
    }

    fn fold(
        &mut self,
        conv: &PlannedConv,
        params: &[f32],
        running: &[f32],
        at: &StatisticsAt,
        scale: &mut Buffer,
        shift: &mut Buffer,
    ) -> Result<(), SupernetError> {
        let slot = &conv.slot;
        let norm = Norm {
            channels: conv.out_channels,
            mean: &running[at.mean.clone()],
            var: &running[at.var.clone()],
            gamma: &params[conv.vector(&slot.gamma)],
            beta: &params[conv.vector(&slot.beta)],
            relu: false,
        };
        fold(&norm, scale.get_mut(), shift.get_mut());
        Ok(())
    }

    fn max_pool_forward(
        &mut self,
        plan: &Plan,
        batch: usize,
        x: &Buffer,
        y: &mut Buffer,
        places: Option<&mut Vec<u8>>,
    ) -> Result<(), SupernetError> {
        let places = places.map(Vec::as_mut_slice);
        max_pool_forward(&pool_shape(plan, batch), x.get(), y.get_mut(), places);
        Ok(())
    }

    fn max_pool_backward(
        &mut self,
        plan: &Plan,
        batch: usize,
        places: &Vec<u8>,
        grad_y: &Buffer,
        grad_x: &mut Buffer,
    ) -> Result<(), SupernetError> {
        max_pool_backward(&pool_shape(plan, batch), places, grad_y.get(), grad_x.get_mut());
        Ok(())
    }

    fn average_pool_forward(
        &mut self,
        plan: &Plan,
        batch: usize,
        x: &[f32],
        features: &mut Buffer,
    ) -> Result<(), SupernetError> {
        average_pool_forward(batch, plan.last_pixels(), plan.features(), x, features.get_mut());
        Ok(())
    }

    fn average_pool_backward(
        &mut self,
        plan: &Plan,
        batch: usize,
        grad_features: &[f32],
        grad_x: &mut Buffer,
    ) -> Result<(), SupernetError> {
        let (pixels, channels) = (plan.last_pixels(), plan.features());
        average_pool_backward(batch, pixels, channels, grad_features, grad_x.get_mut());
        Ok(())
    }

    fn classify(
        &mut self,
        plan: &Plan,
        batch: usize,
        params: &[f32],
        features: &[f32],
        logits: &mut Buffer,
    ) -> Result<(), SupernetError> {
        let (weight, bias) = (&params[plan.fc_weight.clone()], &params[plan.fc_bias.clone()]);
        linear_forward(&linear_shape(plan, batch), features, weight, bias, logits.get_mut());
        Ok(())
    }

    fn classify_backward(
        &mut self,
        plan: &Plan,
        batch: usize,
        params: &[f32],
        features: &[f32],
        grad_logits: &[f32],
        grad_features: &mut Buffer,
        grads: &mut [f32],
    ) -> Result<(), SupernetError> {
        let (grad_weight, grad_bias) =
            pair_mut(grads, plan.fc_weight.clone(), plan.fc_bias.clone());
        linear_backward(
            &linear_shape(plan, batch),
            features,
            &params[plan.fc_weight.clone()],
            grad_logits,
            Some(grad_features.get_mut()),
            grad_weight,
            grad_bias,
        );
        Ok(())
    }
}

fn input<'a>(read: Read<'a, Cpu>) -> Input<'a> {
    Input { values: read.x, norm: read.norm.map(slices) }
}

fn slices<'a>(norm: NormOf<'a, Cpu>) -> Norm<'a> {
    let NormOf { conv, params, mean, var, relu } = norm;
    Norm {
        channels: conv.out_channels,
        mean: mean.get(),
        var: var.get(),
        gamma: &params[conv.vector(&conv.slot.gamma)],
        beta: &params[conv.vector(&conv.slot.beta)],
        relu,
    }
}

/// Running statistics follow those of a batch of so many rows.
pub(crate) fn track(tracked: Tracked<'_, Cpu>, rows: usize, mean: &[f32], var: &[f32]) {
    let Tracked { running, at, momentum } = tracked;
    let (running_mean, running_var) = pair_mut(running, at.mean, at.var);
    update_running(momentum, rows, mean, var, running_mean, running_var);
}

/// Two disjoint ranges of one buffer, the first before the second.
fn pair_mut(
    values: &mut [f32],
    first: Range<usize>,
    second: Range<usize>,
) -> (&mut [f32], &mut [f32]) {
    let (head, tail) = values.split_at_mut(second.start);
    (&mut head[first], &mut tail[..second.end - second.start])
}
