//! Batch norm with its ReLU: statistics, forward with given statistics, both, and backward.

use crate::channels_first as candle;
use crate::measure::{CANDLE, OURS, REFERENCE, Work, measure, verify, wide};
use crate::noise::noise;
use crate::reference;
use crate::shapes::{Map, NORMS};
use candle_core::{Device, Result, Tensor, Var};
use candle_nn::{BatchNorm, ModuleT};
use criterion::{BatchSize, Criterion};
use slimtau_kernels::Scratch;
use slimtau_kernels::norm::{EPSILON, Norm, batch_statistics, norm_backward, norm_forward};
use std::hint::black_box;

/// Elements that the reference is asked for.
const SMALL: usize = 300_000;

pub fn norms(criterion: &mut Criterion) {
    for map in NORMS {
        let operands = Operands {
            x: noise(1, map.len()),
            grad: noise(2, map.len()),
            gamma: noise(3, map.channels),
            beta: noise(4, map.channels),
        };
        operands.ours(criterion, map);
        if map.len() <= SMALL {
            operands.reference(criterion, map);
        }
        operands.candle(criterion, map).expect("candle's batch norm");
    }
}

struct Operands {
    x: Vec<f32>,
    grad: Vec<f32>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
}

/// The names of the four operations.
const STATISTICS: &str = "norm statistics";
const FORWARD: &str = "norm forward";
const TRAINING: &str = "norm statistics and forward";
const BACKWARD: &str = "norm backward";

/// Bytes of so many passes over a map.
fn passes(map: &Map, n: usize) -> Work {
    Work::Bytes(4 * n * map.len())
}

impl Operands {
    fn ours(&self, criterion: &mut Criterion, map: &Map) {
        let Self { x, grad, gamma, beta } = self;
        let (channels, name, scratch) = (map.channels, &map.name(), &mut Scratch::new());
        let (mut mean, mut var) = (vec![0.0; channels], vec![0.0; channels]);
        batch_statistics(channels, x, &mut mean, &mut var, scratch);
        let moments = reference::batch_statistics(channels, &wide(x));
        verify("the mean's square", &square(&mean, &var), channels, |c| {
            moments.mean[c].powi(2) + moments.var[c]
        });
        let mut y = vec![0.0; x.len()];
        let norm = Norm { channels, mean: &mean, var: &var, gamma, beta, relu: true };
        norm_forward(&norm, x, None, &mut y);
        let want =
            reference::norm_forward(&moments, &wide(gamma), &wide(beta), true, &wide(x), None);
        verify("the norm", &y, 5000, |at| want[at]);

        let (mut m, mut v) = (mean.clone(), var.clone());
        measure(criterion, STATISTICS, OURS, name, passes(map, 1), |b| {
            b.iter(|| batch_statistics(channels, x, black_box(&mut m), &mut v, scratch));
        });
        measure(criterion, FORWARD, OURS, name, passes(map, 2), |b| {
            b.iter(|| norm_forward(&norm, x, None, black_box(&mut y)));
        });
        measure(criterion, TRAINING, OURS, name, passes(map, 3), |b| {
            b.iter(|| {
                batch_statistics(channels, x, black_box(&mut m), &mut v, scratch);
                norm_forward(&norm, x, None, black_box(&mut y));
            });
        });
        let (mut grad_gamma, mut grad_beta) = (vec![0.0; channels], vec![0.0; channels]);
        // In place: every run takes fresh copies, made outside the time.
        measure(criterion, BACKWARD, OURS, name, passes(map, 5), |b| {
            let fresh = || (x.clone(), grad.clone());
            let run = |(x, grad): &mut (Vec<f32>, Vec<f32>)| {
                let (gamma, beta) = (&mut grad_gamma, &mut grad_beta);
                norm_backward(&norm, true, x, None, grad, gamma, beta, scratch);
            };
            b.iter_batched_ref(fresh, run, BatchSize::PerIteration);
        });
    }

    fn reference(&self, criterion: &mut Criterion, map: &Map) {
        let (x, grad, gamma, beta) =
            (wide(&self.x), wide(&self.grad), wide(&self.gamma), wide(&self.beta));
        let (channels, name) = (map.channels, &map.name());
        let moments = reference::batch_statistics(channels, &x);
        let forward = |m: &_| reference::norm_forward(m, &gamma, &beta, true, &x, None);
        let active: Vec<bool> = forward(&moments).iter().map(|y| *y > 0.0).collect();
        measure(criterion, STATISTICS, REFERENCE, name, passes(map, 1), |b| {
            b.iter(|| reference::batch_statistics(channels, &x));
        });
        measure(criterion, FORWARD, REFERENCE, name, passes(map, 2), |b| {
            b.iter(|| forward(&moments));
        });
        measure(criterion, TRAINING, REFERENCE, name, passes(map, 3), |b| {
            b.iter(|| forward(&reference::batch_statistics(channels, &x)));
        });
        measure(criterion, BACKWARD, REFERENCE, name, passes(map, 5), |b| {
            b.iter(|| reference::norm_backward(&moments, &gamma, true, &x, &active, &grad));
        });
    }

    fn candle(&self, criterion: &mut Criterion, map: &Map) -> Result<()> {
        let dims = [map.batch, map.side, map.side, map.channels];
        let vector = |v: &[f32]| Tensor::from_slice(v, map.channels, &Device::Cpu);
        let (gamma, beta) = (vector(&self.gamma)?, vector(&self.beta)?);
        let norm = BatchNorm::new(
            map.channels,
            Var::zeros(map.channels, candle_core::DType::F32, &Device::Cpu)?.as_tensor().clone(),
            Var::ones(map.channels, candle_core::DType::F32, &Device::Cpu)?.as_tensor().clone(),
            Var::from_tensor(&gamma)?.as_tensor().clone(),
            Var::from_tensor(&beta)?.as_tensor().clone(),
            f64::from(EPSILON),
        )?;
        let x = candle::activation(dims, &self.x)?;
        let grad = candle::activation(dims, &self.grad)?;
        let name = &map.name();
        measure(criterion, FORWARD, CANDLE, name, passes(map, 2), |b| {
            b.iter(|| norm.forward_t(&x, false).and_then(|y| y.relu()).expect("candle's norm"));
        });
        measure(criterion, TRAINING, CANDLE, name, passes(map, 3), |b| {
            b.iter(|| norm.forward_train(&x).and_then(|y| y.relu()).expect("candle's norm"));
        });
        let x = Var::from_tensor(&x)?;
        measure(criterion, BACKWARD, CANDLE, name, passes(map, 5), |b| {
            let y = norm.forward_train(x.as_tensor()).and_then(|y| y.relu());
            let loss = y.and_then(|y| candle::with_gradient(&y, &grad)).expect("candle's loss");
            b.iter(|| candle::gradient(&loss, &x).expect("candle's gradients"));
        });
        Ok(())
    }
}

/// `mean^2 + var`, one number a channel that both have to be right for.
fn square(mean: &[f32], var: &[f32]) -> Vec<f32> {
    mean.iter().zip(var).map(|(m, v)| m * m + v).collect()
}
