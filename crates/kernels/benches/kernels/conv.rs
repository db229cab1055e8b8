//! Convolutions: forward, input gradient, weight gradient, and both gradients at once, which is what
//! candle's autograd computes.

use crate::channels_first as candle;
use crate::measure::{CANDLE, OURS, REFERENCE, Work, measure, verify};
use crate::noise::noise;
use crate::shapes::{LAYERS, Layer};
use candle_core::{Tensor, Var};
use criterion::Criterion;
use slimtau_kernels::Scratch;
use slimtau_kernels::conv::{
    ConvShape, Epilogue, conv_backward_input, conv_backward_weight, conv_forward, reference,
};
use std::hint::black_box;

/// Multiply-accumulates that the reference can be asked for, a twentieth of a second or so.
const SMALL: usize = 20_000_000;

pub fn convolutions(criterion: &mut Criterion) {
    for layer in LAYERS {
        let shape = layer.shape();
        let operands = Operands {
            x: noise(1, shape.input_len()),
            w: noise(2, shape.weight_len()),
            dy: noise(3, shape.output_len()),
            shape,
        };
        let y = operands.ours(criterion, &layer.name());
        if shape.macs() <= SMALL {
            operands.reference(criterion, &layer.name());
        }
        operands.candle(criterion, layer, &y).expect("candle takes every shape of the table");
    }
}

struct Operands {
    shape: ConvShape,
    x: Vec<f32>,
    w: Vec<f32>,
    dy: Vec<f32>,
}

impl Operands {
    fn work(&self) -> Work {
        Work::Flops(2 * self.shape.macs())
    }

    /// Ours, verified; the forward result.
    fn ours(&self, criterion: &mut Criterion, name: &str) -> Vec<f32> {
        let Self { shape, x, w, dy } = self;
        let scratch = &mut Scratch::new();
        let mut y = vec![0.0; shape.output_len()];
        let mut dx = vec![0.0; shape.input_len()];
        let mut dw = vec![0.0; shape.weight_len()];
        conv_forward(shape, x, w, &mut y, Epilogue::None, scratch);
        conv_backward_input(shape, dy, w, &mut dx, false, scratch);
        conv_backward_weight(shape, x, dy, &mut dw, scratch);
        verify("forward", &y, 500, |at| reference::output_at(shape, x, w, at));
        verify("input gradient", &dx, 500, |at| reference::input_gradient_at(shape, dy, w, at));
        verify("weight gradient", &dw, 30, |at| reference::weight_gradient_at(shape, x, dy, at));

        measure(criterion, "conv forward", OURS, name, self.work(), |b| {
            b.iter(|| conv_forward(shape, x, w, black_box(&mut y), Epilogue::None, scratch));
        });
        measure(criterion, "conv input gradient", OURS, name, self.work(), |b| {
            b.iter(|| conv_backward_input(shape, dy, w, black_box(&mut dx), false, scratch));
        });
        measure(criterion, "conv weight gradient", OURS, name, self.work(), |b| {
            b.iter(|| conv_backward_weight(shape, x, dy, black_box(&mut dw), scratch));
        });
        measure(criterion, "conv both gradients", OURS, name, self.twice(), |b| {
            b.iter(|| {
                conv_backward_weight(shape, x, dy, black_box(&mut dw), scratch);
                conv_backward_input(shape, dy, w, black_box(&mut dx), false, scratch);
            });
        });
        y
    }

    fn twice(&self) -> Work {
        Work::Flops(4 * self.shape.macs())
    }

    fn reference(&self, criterion: &mut Criterion, name: &str) {
        let Self { shape, x, w, dy } = self;
        measure(criterion, "conv forward", REFERENCE, name, self.work(), |b| {
            b.iter(|| sum(shape.output_len(), |at| reference::output_at(shape, x, w, at)));
        });
        measure(criterion, "conv input gradient", REFERENCE, name, self.work(), |b| {
            b.iter(|| sum(shape.input_len(), |at| reference::input_gradient_at(shape, dy, w, at)));
        });
        measure(criterion, "conv weight gradient", REFERENCE, name, self.work(), |b| {
            b.iter(|| {
                sum(shape.weight_len(), |at| reference::weight_gradient_at(shape, x, dy, at))
            });
        });
    }

    fn candle(
        &self,
        criterion: &mut Criterion,
        layer: &Layer,
        ours: &[f32],
    ) -> candle_core::Result<()> {
        let ConvShape { batch, height, width, kernel, stride, full_in, full_out, .. } = self.shape;
        let [ci, co] = layer.channels;
        let x = Var::from_tensor(&candle::activation([batch, height, width, ci], &self.x)?)?;
        let w = candle::weight([kernel, ci, co], [full_in, full_out], &self.w)?;
        let w = Var::from_tensor(&w)?;
        let out = [batch, self.shape.out_height(), self.shape.out_width(), co];
        let dy = candle::activation(out, &self.dy)?;
        let forward = |x: &Tensor, w: &Tensor| x.conv2d(w, kernel / 2, stride, 1, 1);
        let (plain_x, plain_w) = (x.as_tensor().detach(), w.as_tensor().detach());
        let name = layer.name();
        let mut verified = false;
        measure(criterion, "conv forward", CANDLE, &name, self.work(), |b| {
            // Called for every sample, or for none where a filter leaves it out.
            if !std::mem::replace(&mut verified, true) {
                let y = forward(&plain_x, &plain_w).and_then(|y| candle::values(&y));
                let y = y.expect("candle's convolution");
                verify("candle's convolution", &y, 5000, |at| f64::from(ours[at]));
            }
            b.iter(|| forward(&plain_x, &plain_w).expect("candle's convolution"));
        });
        measure(criterion, "conv both gradients", CANDLE, &name, self.twice(), |b| {
            let y = forward(x.as_tensor(), w.as_tensor());
            let loss = y.and_then(|y| candle::with_gradient(&y, &dy)).expect("candle's loss");
            b.iter(|| loss.backward().expect("candle's gradients"));
        });
        Ok(())
    }
}

/// Every element of a reference, so that all of it is computed.
fn sum(len: usize, at: impl Fn(usize) -> f64) -> f64 {
    (0..len).map(at).sum()
}
