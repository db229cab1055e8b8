//! The dense layer, the softmax cross-entropy against labels and against a teacher, and InfoNCE. Ours
//! give a loss and its gradient in one call; candle's are the forward pass and autograd's backward.

use crate::channels_first as candle;
use crate::measure::{CANDLE, OURS, REFERENCE, Work, measure, verify, wide};
use crate::noise::noise;
use crate::reference;
use crate::shapes::{CONTRASTS, DENSE, LOGITS, dense_name};
use candle_core::{Device, Result, Tensor, Var};
use criterion::Criterion;
use slimtau_kernels::Scratch;
use slimtau_kernels::linear::{LinearShape, linear_backward, linear_forward};
use slimtau_kernels::loss::{Target, cross_entropy, info_nce, l2_normalize, softmax};
use std::hint::black_box;

/// Multiply-accumulates that the reference is asked for.
const SMALL: usize = 20_000_000;

pub fn dense(criterion: &mut Criterion) {
    for (space, shape) in DENSE {
        linear(criterion, &dense_name(space, shape), shape).expect("candle's linear layer");
    }
}

pub fn losses(criterion: &mut Criterion) {
    for &(space, [rows, classes]) in LOGITS {
        let name = format!("{space} {rows}x{classes}");
        entropy(criterion, &name, rows, classes).expect("candle's cross-entropy");
    }
    for &(space, [rows, length, dim]) in CONTRASTS {
        let name = format!("{space} {rows} queries, {length} keys of {dim}");
        contrast(criterion, &name, [rows, length, dim]).expect("candle's InfoNCE");
    }
}

fn tensor(rows: usize, values: &[f32]) -> Result<Tensor> {
    Tensor::from_slice(values, (rows, values.len() / rows), &Device::Cpu)
}

fn linear(criterion: &mut Criterion, name: &str, shape: &LinearShape) -> Result<()> {
    let LinearShape { rows, inputs, outputs, full_inputs } = *shape;
    let (x, weight) = (noise(1, rows * inputs), noise(2, outputs * full_inputs));
    let (bias, grad_y) = (noise(3, outputs), noise(4, rows * outputs));
    let mut y = vec![0.0; rows * outputs];
    let (mut grad_x, mut grad_weight) = (x.clone(), vec![0.0; weight.len()]);
    let mut grad_bias = vec![0.0; outputs];
    linear_forward(shape, &x, &weight, &bias, &mut y);
    let (x64, w64, b64) = (wide(&x), wide(&weight), wide(&bias));
    let want = reference::linear(inputs, full_inputs, &x64, &w64, &b64);
    verify("the linear layer", &y, 5000, |at| want[at]);

    let macs = rows * inputs * outputs;
    let (forward, backward) = (Work::Flops(2 * macs), Work::Flops(4 * macs));
    measure(criterion, "linear forward", OURS, name, forward, |b| {
        b.iter(|| linear_forward(shape, &x, &weight, &bias, black_box(&mut y)));
    });
    measure(criterion, "linear backward", OURS, name, backward, |b| {
        b.iter(|| {
            let (gw, gb) = (&mut grad_weight, &mut grad_bias);
            linear_backward(shape, &x, &weight, &grad_y, Some(black_box(&mut grad_x)), gw, gb);
        });
    });
    if macs <= SMALL {
        measure(criterion, "linear forward", REFERENCE, name, forward, |b| {
            b.iter(|| reference::linear(inputs, full_inputs, &x64, &w64, &b64));
        });
    }

    let x = Var::from_tensor(&tensor(rows, &x)?)?;
    let weight = tensor(outputs, &weight)?.narrow(1, 0, inputs)?.contiguous()?;
    let weight = Var::from_tensor(&weight)?;
    let layer = candle_nn::Linear::new(weight.as_tensor().clone(), Some(tensor(1, &bias)?));
    let grad_y = tensor(rows, &grad_y)?;
    let run = |x: &Tensor| candle_nn::Module::forward(&layer, x).expect("candle's linear layer");
    let plain = x.as_tensor().detach();
    measure(criterion, "linear forward", CANDLE, name, forward, |b| b.iter(|| run(&plain)));
    measure(criterion, "linear backward", CANDLE, name, backward, |b| {
        let loss = candle::with_gradient(&run(x.as_tensor()), &grad_y).expect("candle's loss");
        b.iter(|| loss.backward().expect("candle's gradients"));
    });
    Ok(())
}

fn entropy(criterion: &mut Criterion, name: &str, rows: usize, classes: usize) -> Result<()> {
    let logits = noise(1, rows * classes);
    let labels: Vec<u32> = (0..rows).map(|i| (i * 7 % classes) as u32).collect();
    let mut soft = vec![0.0; logits.len()];
    softmax(classes, 1.0, &noise(2, logits.len()), &mut soft);
    let mut grad = vec![0.0; logits.len()];
    let (logits64, soft64) = (wide(&logits), wide(&soft));
    let hard64 = reference::one_hot(classes, &labels);
    let x = Var::from_tensor(&tensor(rows, &logits)?)?;
    let candle_labels = Tensor::from_slice(&labels, rows, &Device::Cpu)?;
    let candle_soft = tensor(rows, &soft)?;
    let candle_hard = || candle_nn::loss::cross_entropy(x.as_tensor(), &candle_labels);
    let candle_soft = || -> Result<Tensor> {
        let log_p = candle_nn::ops::log_softmax(x.as_tensor(), 1)?;
        (log_p * &candle_soft)?.sum_all()?.affine(-1.0 / rows as f64, 0.0)
    };
    type Loss<'a> = &'a (dyn Fn() -> Result<Tensor> + Sync);
    let kinds: [(&str, Target<'_>, &[f64], Loss<'_>, usize); 2] = [
        ("cross-entropy, labels", Target::Hard(&labels), &hard64, &candle_hard, 3),
        ("cross-entropy, teacher", Target::Soft(&soft), &soft64, &candle_soft, 4),
    ];
    for (operation, target, target64, in_candle, passes) in kinds {
        let loss = cross_entropy(classes, &logits, target, 1.0, &mut grad);
        let want = reference::cross_entropy(classes, &logits64, target64);
        verify(operation, &[loss as f32], 1, |_| want);
        let candles = f64::from(in_candle()?.to_scalar::<f32>()?);
        verify("candle's cross-entropy", &[loss as f32], 1, |_| candles);
        let work = Work::Bytes(4 * passes * logits.len());
        measure(criterion, operation, OURS, name, work, |b| {
            b.iter(|| cross_entropy(classes, &logits, target, 1.0, black_box(&mut grad)));
        });
        // Loss only.
        measure(criterion, operation, REFERENCE, name, work, |b| {
            b.iter(|| reference::cross_entropy(classes, &logits64, target64));
        });
        measure(criterion, operation, CANDLE, name, work, |b| {
            b.iter(|| {
                let loss = in_candle().expect("candle's cross-entropy");
                candle::gradient(&loss, &x).expect("candle's gradients")
            });
        });
    }
    Ok(())
}

fn contrast(criterion: &mut Criterion, name: &str, [rows, length, dim]: [usize; 3]) -> Result<()> {
    let unit = |seed, n: usize| {
        let (mut y, mut norms) = (vec![0.0; n * dim], vec![0.0; n]);
        l2_normalize(dim, &noise(seed, n * dim), &mut y, &mut norms);
        y
    };
    let (q, k, queue) = (unit(1, rows), unit(2, rows), unit(3, length));
    let (mut grad, mut scratch) = (vec![0.0; q.len()], Scratch::new());
    const TEMPERATURE: f32 = 0.1;
    let (loss, _) = info_nce(dim, TEMPERATURE, &q, &k, &queue, &mut grad, &mut scratch);
    // Logits and the sum of keys: two products. (The positives do not count.)
    let macs = 2 * rows * length * dim;
    let work = Work::Flops(2 * macs);
    measure(criterion, "InfoNCE", OURS, name, work, |b| {
        let grad = black_box(&mut grad);
        b.iter(|| info_nce(dim, TEMPERATURE, &q, &k, &queue, grad, &mut scratch));
    });
    if macs <= SMALL {
        let (q, k, queue) = (wide(&q), wide(&k), wide(&queue));
        let run = || reference::info_nce(dim, f64::from(TEMPERATURE), &q, &k, &queue);
        let want = run().0;
        verify("InfoNCE", &[loss as f32], 1, |_| want);
        measure(criterion, "InfoNCE", REFERENCE, name, work, |b| b.iter(run));
    }

    let q = Var::from_tensor(&tensor(rows, &q)?)?;
    let (k, queue) = (tensor(rows, &k)?, tensor(length, &queue)?);
    let labels = Tensor::zeros(rows, candle_core::DType::U32, &Device::Cpu)?;
    let in_candle = || -> Result<Tensor> {
        let positive = (q.as_tensor() * &k)?.sum_keepdim(1)?;
        let negative = q.as_tensor().matmul(&queue.t()?)?;
        let logits = Tensor::cat(&[&positive, &negative], 1)?;
        candle_nn::loss::cross_entropy(&(logits / f64::from(TEMPERATURE))?, &labels)
    };
    let candles = f64::from(in_candle()?.to_scalar::<f32>()?);
    verify("candle's InfoNCE", &[loss as f32], 1, |_| candles);
    measure(criterion, "InfoNCE", CANDLE, name, work, |b| {
        b.iter(|| {
            let loss = in_candle().expect("candle's InfoNCE");
            candle::gradient(&loss, &q).expect("candle's gradients")
        });
    });
    Ok(())
}
