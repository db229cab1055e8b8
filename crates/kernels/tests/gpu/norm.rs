//! Batch norm: statistics, forward and backward in every combination of ReLU, residual and kind of statistics.

use crate::noise::noise;
use crate::reference::{self, Moments, numeric_gradient, weighted};
use crate::{GPUS, assert_close, poisoned, rounded, wide};
use half::bf16;
use slimtau_kernels::gpu::{
    Activation, Buffer, Gpu, Norm, Running, batch_statistics, fold, merge_moments, moments_len,
    norm_backward, norm_forward,
};
use slimtau_kernels::norm::update_running;

#[derive(Clone, Copy, Debug)]
struct Case {
    rows: usize,
    channels: usize,
    /// Elements by which activations miss the start of their buffers.
    offset: usize,
    relu: bool,
    residual: bool,
    through_statistics: bool,
}

/// What goes in: values as a `T` holds them.
struct Inputs {
    x: Vec<f32>,
    residual: Vec<f32>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
    grad: Vec<f32>,
    /// Gradients of gamma and beta before.
    before: Vec<f32>,
}

impl Inputs {
    fn new<T: Activation>(case: &Case) -> Self {
        let Case { rows, channels, .. } = *case;
        let len = rows * channels;
        let values = |seed| rounded::<T>(&noise(seed, len)).1;
        let x: Vec<f32> = noise(1, len).iter().map(|v| 3.0 * v + 1.0).collect();
        Self {
            x: rounded::<T>(&x).1,
            residual: values(2),
            gamma: noise(3, channels),
            beta: noise(4, channels),
            grad: values(5),
            before: noise(6, 2 * channels),
        }
    }
}

/// What comes out.
struct Outputs<T> {
    batch: [Vec<f32>; 2],
    running: [Vec<f32>; 2],
    /// Those that the norm used.
    moments: Moments,
    y: Vec<T>,
    grad_x: Vec<T>,
    grad: Vec<T>,
    grad_gamma: Vec<f32>,
    grad_beta: Vec<f32>,
}

const MOMENTUM: f32 = 0.3;

fn running_before(channels: usize) -> [Vec<f32>; 2] {
    [noise(7, channels), noise(8, channels).iter().map(|v| v + 2.0).collect()]
}

fn run<T: Activation>(gpu: &Gpu, case: &Case, inputs: &Inputs) -> Outputs<T> {
    let Case { rows, channels, offset, relu, residual, through_statistics } = *case;
    let len = rows * channels;
    let upload = |values: &[f32]| Buffer::from_slice(gpu, values).unwrap();
    let shifted = |values: &[f32]| {
        let mut padded = vec![T::from_f32(f32::NAN); offset];
        padded.extend(values.iter().map(|v| T::from_f32(*v)));
        Buffer::from_slice(gpu, &padded).unwrap()
    };
    let all = offset..offset + len;
    let mut x = shifted(&inputs.x);
    let mut grad = shifted(&inputs.grad);
    let of_residual = shifted(&inputs.residual);

    let mut scratch = poisoned::<f32>(gpu, 4);
    let (mut mean, mut var) = (poisoned::<f32>(gpu, channels), poisoned::<f32>(gpu, channels));
    let mut running = running_before(channels).map(|v| upload(&v));
    let [running_mean, running_var] = &mut running;
    let update =
        Running { mean: running_mean.view_mut(), var: running_var.view_mut(), momentum: MOMENTUM };
    let (m, v) = (mean.view_mut(), var.view_mut());
    let of_x = x.view().range(all.clone());
    batch_statistics(gpu, channels, of_x, m, v, Some(update), &mut scratch).unwrap();
    let batch = [mean.to_vec().unwrap(), var.to_vec().unwrap()];
    if !through_statistics {
        mean.upload(&noise(9, channels)).unwrap();
        let positive: Vec<f32> = noise(10, channels).iter().map(|v| v + 2.0).collect();
        var.upload(&positive).unwrap();
    }

    // Parameters that start at no multiple of 16 bytes, as those after slimmed ones may.
    let parameters = upload(&[&[f32::NAN][..], &inputs.gamma, &inputs.beta].concat());
    let norm = Norm {
        channels,
        mean: mean.view(),
        var: var.view(),
        gamma: parameters.view().range(1..1 + channels),
        beta: parameters.view().range(1 + channels..1 + 2 * channels),
        relu,
    };
    let mut y = poisoned::<T>(gpu, offset + len);
    let of_residual = residual.then(|| of_residual.view().range(all.clone()));
    let of_x = x.view().range(all.clone());
    norm_forward(gpu, &norm, of_x, of_residual, y.view_mut().range(all.clone())).unwrap();

    let mut sums = upload(&inputs.before);
    let (grad_gamma, grad_beta) = sums.view_mut().split_at(channels);
    let output = (relu && residual).then(|| y.view().range(all.clone()));
    norm_backward(
        gpu,
        &norm,
        through_statistics,
        x.view_mut().range(all.clone()),
        output,
        grad.view_mut().range(all.clone()),
        grad_gamma,
        grad_beta,
        &mut scratch,
    )
    .unwrap();
    let values = |of: &Buffer<T>| of.view().range(all.clone()).to_vec().unwrap();
    let sums = sums.to_vec().unwrap();
    Outputs {
        batch,
        running: running.map(|v| v.to_vec().unwrap()),
        moments: Moments { mean: wide(&mean.to_vec().unwrap()), var: wide(&var.to_vec().unwrap()) },
        y: values(&y),
        grad_x: values(&x),
        grad: values(&grad),
        grad_gamma: sums[..channels].to_vec(),
        grad_beta: sums[channels..].to_vec(),
    }
}

/// Against the reference in f64. Everything is rounded to a `T` once, but for sums and statistics in f32: 1e-5 of the
/// largest value covers these, and 1 / sqrt(eps) = 316, which magnifies rounding where one row has no variance.
fn compare<T: Activation>(case: &Case, inputs: &Inputs, got: &Outputs<T>) {
    let Case { rows, channels, relu, residual, through_statistics, .. } = *case;
    let x = wide(&inputs.x);
    let exact = reference::batch_statistics(channels, &x);
    assert_close("mean", &got.batch[0], &exact.mean, 1e-6);
    assert_close("var", &got.batch[1], &exact.var, 2e-6);
    let [mut mean, mut var] = running_before(channels);
    update_running(MOMENTUM, rows, &got.batch[0], &got.batch[1], &mut mean, &mut var);
    assert_close("running mean", &got.running[0], &wide(&mean), 1e-6);
    assert_close("running var", &got.running[1], &wide(&var), 1e-6);

    let (gamma, beta) = (wide(&inputs.gamma), wide(&inputs.beta));
    let of_residual = residual.then(|| wide(&inputs.residual));
    let of_residual = of_residual.as_deref();
    let want = reference::norm_forward(&got.moments, &gamma, &beta, relu, &x, of_residual);
    assert_close("y", &got.y, &want, 1e-5);

    let active: Vec<bool> = got.y.iter().map(|y| !relu || y.to_f32() > 0.0).collect();
    let grad = wide(&inputs.grad);
    let want =
        reference::norm_backward(&got.moments, &gamma, through_statistics, &x, &active, &grad);
    let plus = |sum: &[f64], before: &[f32]| -> Vec<f64> {
        sum.iter().zip(before).map(|(s, &b)| s + f64::from(b)).collect()
    };
    let (of_gamma, of_beta) = inputs.before.split_at(channels);
    assert_close("grad_x", &got.grad_x, &want.x, 1e-5);
    assert_close("grad_gamma", &got.grad_gamma, &plus(&want.gamma, of_gamma), 1e-5);
    assert_close("grad_beta", &got.grad_beta, &plus(&want.beta, of_beta), 1e-5);
    // Nothing is computed here: the masked gradient where there is a residual's, else what was there.
    let want = if relu && residual { want.residual } else { grad };
    let got: Vec<f64> = got.grad.iter().map(|g| f64::from(g.to_f32())).collect();
    assert_eq!(got, want, "gradient of the residual");
}

impl<T: Activation> Outputs<T> {
    fn bits(&self) -> Vec<u32> {
        let narrow = |v: &[T]| v.iter().map(|v| v.to_f32().to_bits()).collect::<Vec<_>>();
        let single = [&self.batch, &self.running].into_iter().flatten();
        let single = single.chain([&self.grad_gamma, &self.grad_beta]);
        let single: Vec<u32> = single.flatten().map(|v| v.to_bits()).collect();
        [single, narrow(&self.y), narrow(&self.grad_x), narrow(&self.grad)].concat()
    }
}

/// The same bits on another run, and in another order of the threads where that can be chosen.
fn check<T: Activation>(case: &Case) {
    let inputs = Inputs::new::<T>(case);
    let first = run::<T>(&GPUS[0], case, &inputs);
    compare(case, &inputs, &first);
    let again = run::<T>(GPUS.last().unwrap(), case, &inputs);
    assert!(again.bits() == first.bits(), "other bits on another run of {case:?}");
}

fn every_mode(rows: usize, channels: usize, offset: usize, modes: impl Iterator<Item = usize>) {
    for mode in modes {
        let case = Case {
            rows,
            channels,
            offset,
            relu: mode & 1 != 0,
            residual: mode & 2 != 0,
            through_statistics: mode & 4 != 0,
        };
        check::<f32>(&case);
        check::<bf16>(&case);
    }
}

#[test]
fn agrees_with_the_reference_over_small_shapes() {
    for (rows, channels) in [(1, 1), (1, 8), (3, 40), (57, 24), (38, 20), (45, 10)] {
        every_mode(rows, channels, 0, 0..8);
    }
}

/// More rows than a block takes, and more channels, of which the last blocks have fewer.
#[test]
fn agrees_with_the_reference_over_several_chunks_and_tiles() {
    for (rows, channels) in [(2_100, 24), (4_500, 1), (1_500, 9), (90, 344), (60, 91)] {
        // With and without everything, and a ReLU alone.
        every_mode(rows, channels, 0, [0, 7, 5].into_iter());
    }
}

#[test]
fn unaligned_activations() {
    every_mode(30, 16, 1, 0..8);
    every_mode(30, 16, 2, [7].into_iter());
}

#[test]
fn the_gradient_is_the_derivative() {
    let (rows, channels) = (7, 8);
    for mode in 0..8 {
        let case = Case {
            rows,
            channels,
            offset: 0,
            relu: mode & 1 != 0,
            residual: mode & 2 != 0,
            through_statistics: mode & 4 != 0,
        };
        let inputs = Inputs::new::<f32>(&case);
        let got = run::<f32>(&GPUS[0], &case, &inputs);
        let residual = case.residual.then(|| wide(&inputs.residual));
        let grad = wide(&inputs.grad);
        let loss = |x: &[f64], gamma: &[f64], beta: &[f64], residual: Option<&[f64]>| {
            let own = reference::batch_statistics(channels, x);
            let moments = if case.through_statistics { &own } else { &got.moments };
            let y = reference::norm_forward(moments, gamma, beta, case.relu, x, residual);
            weighted(&y, &grad)
        };
        let (x, gamma, beta) = (wide(&inputs.x), wide(&inputs.gamma), wide(&inputs.beta));
        let r = residual.as_deref();
        let (before_gamma, before_beta) = inputs.before.split_at(channels);
        let without = |got: &[f32], before: &[f32]| -> Vec<f32> {
            got.iter().zip(before).map(|(g, b)| g - b).collect()
        };
        let of_gamma = without(&got.grad_gamma, before_gamma);
        let of_beta = without(&got.grad_beta, before_beta);
        // f32 against differences that are exact to 1e-6.
        let numeric = numeric_gradient(&x, |x| loss(x, &gamma, &beta, r));
        assert_close("grad_x", &got.grad_x, &numeric, 1e-5);
        let numeric = numeric_gradient(&gamma, |gamma| loss(&x, gamma, &beta, r));
        assert_close("grad_gamma", &of_gamma, &numeric, 1e-5);
        let numeric = numeric_gradient(&beta, |beta| loss(&x, &gamma, beta, r));
        assert_close("grad_beta", &of_beta, &numeric, 1e-5);
        if let Some(residual) = &residual {
            let numeric = numeric_gradient(residual, |r| loss(&x, &gamma, &beta, Some(r)));
            assert_close("grad of the residual", &got.grad, &numeric, 1e-5);
        }
    }
}

fn statistics(gpu: &Gpu, channels: usize, x: &[f32]) -> [Vec<f32>; 2] {
    let x = Buffer::from_slice(gpu, x).unwrap();
    let (mut mean, mut var) = (poisoned::<f32>(gpu, channels), poisoned::<f32>(gpu, channels));
    let (m, v) = (mean.view_mut(), var.view_mut());
    batch_statistics(gpu, channels, x.view(), m, v, None, &mut Buffer::new(gpu)).unwrap();
    [mean.to_vec().unwrap(), var.to_vec().unwrap()]
}

#[test]
fn variance_survives_a_large_mean_and_an_odd_first_row() {
    let (rows, channels) = (5_000, 20);
    for gpu in GPUS.iter() {
        for first in [0.0, 1e4, -3e5] {
            let mut x: Vec<f32> = noise(9, rows * channels).iter().map(|v| 1e4 + v).collect();
            x[..channels].fill(first);
            let [mean, var] = statistics(gpu, channels, &x);
            let want = reference::batch_statistics(channels, &wide(&x));
            for c in 0..channels {
                // The chunks' means are f32: to 5e-4 at 1e4, and differ by 0.05, of a variance of 1.
                let relative = (f64::from(var[c]) - want.var[c]).abs() / want.var[c];
                assert!(relative < 5e-5, "first row {first}: var {} for {}", var[c], want.var[c]);
                assert!((f64::from(mean[c]) - want.mean[c]).abs() < 1e-3);
            }
        }
    }
}

#[test]
fn a_constant_channel_has_no_variance() {
    for channels in [3, 8] {
        let [mean, var] = statistics(&GPUS[0], channels, &vec![0.1; channels * 7_001]);
        assert_eq!((mean, var), (vec![0.1; channels], vec![0.0; channels]));
    }
}

#[test]
fn nan_is_not_hidden() {
    let channels = 4;
    let mut x = noise(1, 40);
    x[5] = f32::NAN;
    for gpu in GPUS.iter() {
        let [mean, var] = statistics(gpu, channels, &x);
        assert!(mean[1].is_nan() && var[1].is_nan() && var[0].is_finite());
        let on_gpu = |v: &[f32]| Buffer::from_slice(gpu, v).unwrap();
        let (zero, one, x) = (on_gpu(&[0.0; 4]), on_gpu(&[1.0; 4]), on_gpu(&x));
        let (mean, var, gamma, beta) = (zero.view(), one.view(), one.view(), zero.view());
        let norm = Norm { channels, mean, var, gamma, beta, relu: true };
        let mut y = Buffer::zeros(gpu, 40).unwrap();
        norm_forward(gpu, &norm, x.view(), None, y.view_mut()).unwrap();
        let y = y.to_vec().unwrap();
        assert!(y[5].is_nan() && y.iter().filter(|y| y.is_nan()).count() == 1);
    }
}

/// As many parts as the stem's convolution leaves of a large batch, and few; the last one shorter.
#[test]
fn moments_merge() {
    let shapes = [
        (25_000usize, 64usize, 8),
        (600, 3, 37),
        (512, 3, 33),
        (300, 128, 11),
        (2, 100, 5),
        (1, 7, 1),
    ];
    for (parts, rows_per_part, channels) in shapes {
        let rows = (parts - 1) * rows_per_part + rows_per_part.div_ceil(3);
        let of_part =
            |part: usize| if part + 1 == parts { rows_per_part.div_ceil(3) } else { rows_per_part };
        // Far from zero in one channel, and nearly constant.
        let mut partial = noise(1, parts * 2 * channels);
        for part in 0..parts {
            let (means, squares) =
                partial[part * 2 * channels..][..2 * channels].split_at_mut(channels);
            means[channels - 1] = 1000.0 + means[channels - 1] / 16.0;
            squares.iter_mut().for_each(|s| *s = s.abs() * of_part(part) as f32);
            squares[channels - 1] /= 1e3;
        }
        let over_parts = |f: &dyn Fn(usize, f64) -> f64| -> f64 {
            (0..parts).map(|part| f(part, of_part(part) as f64)).sum::<f64>() / rows as f64
        };
        let of = |part: usize, what: usize, c: usize| {
            f64::from(partial[(part * 2 + what) * channels + c])
        };
        for gpu in GPUS.iter() {
            let mut longer = partial.clone();
            longer.resize(moments_len(rows, rows_per_part, channels), f32::NAN);
            let mut on_gpu = Buffer::from_slice(gpu, &longer).unwrap();
            let (mut mean, mut var) =
                (poisoned::<f32>(gpu, channels), poisoned::<f32>(gpu, channels));
            let (m, v) = (mean.view_mut(), var.view_mut());
            merge_moments(gpu, rows, rows_per_part, on_gpu.view_mut(), m, v, None).unwrap();
            let (mean, var) = (mean.to_vec().unwrap(), var.to_vec().unwrap());
            for c in 0..channels {
                let want = over_parts(&|part, n| n * of(part, 0, c));
                assert!((f64::from(mean[c]) - want).abs() <= 1e-7 * want.abs().max(1.0));
                let want_var =
                    over_parts(&|part, n| of(part, 1, c) + n * (of(part, 0, c) - want).powi(2));
                let relative = (f64::from(var[c]) - want_var).abs() / want_var;
                assert!(relative <= 1e-7, "var {} for {want_var}, {parts} parts", var[c]);
            }
        }
    }
}

#[test]
fn a_momentum_of_one_leaves_nothing_of_the_old_statistics() {
    let gpu = &GPUS[0];
    let (mean, var) = ([-0.00484033_f32, 1e-6], [0.0115_f32, 3e-7]);
    let mut partial = Buffer::from_slice(gpu, &[mean, var].concat()).unwrap();
    let mut out = poisoned::<f32>(gpu, 4);
    let mut running = Buffer::from_slice(gpu, &[7.0, -1e6, 1e6, 0.0]).unwrap();
    let (running_mean, running_var) = running.view_mut().split_at(2);
    let running_to = Running { mean: running_mean, var: running_var, momentum: 1.0 };
    let (m, v) = out.view_mut().split_at(2);
    merge_moments(gpu, 1, 1, partial.view_mut(), m, v, Some(running_to)).unwrap();
    assert_eq!(out.to_vec().unwrap(), [mean, var].concat());
    assert_eq!(running.to_vec().unwrap(), [mean, var].concat());
}

#[test]
#[should_panic(expected = "gamma has 3 values for 4 channels")]
fn short_parameters_are_refused() {
    let gpu = &GPUS[0];
    let four = Buffer::from_slice(gpu, &[1.0f32; 4]).unwrap();
    let mut y = poisoned::<f32>(gpu, 4);
    let all = four.view();
    let norm =
        Norm { channels: 4, mean: all, var: all, gamma: all.range(0..3), beta: all, relu: false };
    let _ = norm_forward(gpu, &norm, all, None, y.view_mut());
}

#[test]
fn folded_norms_agree_with_the_cpu() {
    for channels in [1, 10, 300] {
        let noise = |seed| noise(seed, channels);
        let (mean, gamma, beta) = (noise(1), noise(3), noise(4));
        let var: Vec<f32> = noise(2).iter().map(|v| v * v).collect();
        let (mut scale, mut shift) = (vec![0.0; channels], vec![0.0; channels]);
        let cpu = slimtau_kernels::norm::Norm {
            channels,
            mean: &mean,
            var: &var,
            gamma: &gamma,
            beta: &beta,
            relu: false,
        };
        slimtau_kernels::norm::fold(&cpu, &mut scale, &mut shift);
        for gpu in GPUS.iter() {
            let [mean, var, gamma, beta] =
                [&mean, &var, &gamma, &beta].map(|v| Buffer::from_slice(gpu, v).unwrap());
            let norm = Norm {
                channels,
                mean: mean.view(),
                var: var.view(),
                gamma: gamma.view(),
                beta: beta.view(),
                relu: false,
            };
            let (mut a, mut b) = (poisoned::<f32>(gpu, channels), poisoned::<f32>(gpu, channels));
            fold(gpu, &norm, a.view_mut(), b.view_mut()).unwrap();
            assert_close("scale", &a.to_vec().unwrap(), &wide(&scale), 1e-7);
            assert_close("shift", &b.to_vec().unwrap(), &wide(&shift), 1e-7);
        }
    }
}
