//! Batch norm: statistics, forward and backward in every combination of ReLU and residual.

use crate::{assert_close, noise, numeric_gradient, poisoned, reference, weighted, wide};
use proptest::prelude::*;
use reference::Moments;
use slimtau_kernels::Scratch;
use slimtau_kernels::norm::{
    EPSILON, Norm, batch_statistics, fold, norm_backward, norm_forward, update_running,
};

struct Case {
    rows: usize,
    channels: usize,
    relu: bool,
    residual: bool,
    through_statistics: bool,
    seed: u64,
}

fn check(case: &Case) {
    let Case { rows, channels, relu, residual, through_statistics, seed } = *case;
    let len = rows * channels;
    let x: Vec<f32> = noise(seed, len).iter().map(|v| 3.0 * v + 1.0).collect();
    let residual = residual.then(|| noise(seed + 1, len));
    let (gamma, beta) = (noise(seed + 2, channels), noise(seed + 3, channels));
    let mut scratch = Scratch::new();
    let (mut mean, mut var) = (poisoned(channels), poisoned(channels));
    batch_statistics(channels, &x, &mut mean, &mut var, &mut scratch);
    let exact = reference::batch_statistics(channels, &wide(&x));
    assert_close("mean", &mean, &exact.mean, 1e-6);
    assert_close("var", &var, &exact.var, 2e-6);
    if !through_statistics {
        mean = noise(seed + 4, channels);
        var = noise(seed + 5, channels).iter().map(|v| v + 1.1).collect();
    }
    let moments = Moments { mean: wide(&mean), var: wide(&var) };

    let norm = Norm { channels, mean: &mean, var: &var, gamma: &gamma, beta: &beta, relu };
    let mut y = poisoned(len);
    norm_forward(&norm, &x, residual.as_deref(), &mut y);
    let wide_residual = residual.as_deref().map(wide);
    let want = reference::norm_forward(
        &moments,
        &wide(&gamma),
        &wide(&beta),
        relu,
        &wide(&x),
        wide_residual.as_deref(),
    );
    // One row has no variance: 1 / sqrt(eps) = 316 magnifies the rounding of x - mean.
    assert_close("y", &y, &want, 1e-5);

    let active: Vec<bool> = y.iter().map(|&y| !relu || y > 0.0).collect();
    let grad = noise(seed + 6, len);
    let want = reference::norm_backward(
        &moments,
        &wide(&gamma),
        through_statistics,
        &wide(&x),
        &active,
        &wide(&grad),
    );
    let (mut got_x, mut got_grad) = (x.clone(), grad.clone());
    let before = noise(seed + 7, 2 * channels);
    let (mut grad_gamma, mut grad_beta) =
        (before[..channels].to_vec(), before[channels..].to_vec());
    norm_backward(
        &norm,
        through_statistics,
        &mut got_x,
        (relu && residual.is_some()).then_some(&y[..]),
        &mut got_grad,
        &mut grad_gamma,
        &mut grad_beta,
        &mut scratch,
    );
    let plus = |sum: &[f64], before: &[f32]| -> Vec<f64> {
        sum.iter().zip(before).map(|(s, &b)| s + f64::from(b)).collect()
    };
    assert_close("grad_x", &got_x, &want.x, 1e-5);
    assert_close("grad_gamma", &grad_gamma, &plus(&want.gamma, &before[..channels]), 1e-5);
    assert_close("grad_beta", &grad_beta, &plus(&want.beta, &before[channels..]), 1e-5);
    if residual.is_some() {
        assert_close("grad of the residual", &got_grad, &want.residual, 0.0);
    }
}

fn channel_counts() -> impl Strategy<Value = usize> {
    prop_oneof![1usize..70, prop::sample::select(vec![64, 96, 128, 200, 256, 511, 512, 513, 1030])]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn agrees_with_the_reference(
        rows in 1usize..90,
        channels in channel_counts(),
        relu: bool,
        residual: bool,
        through_statistics: bool,
        seed in 0u64..1 << 40,
    ) {
        check(&Case { rows, channels, relu, residual, through_statistics, seed });
    }
}

#[test]
fn agrees_with_the_reference_over_many_chunks() {
    for (rows, channels) in [(30_000, 6), (9_001, 24), (2_500, 64), (300, 513)] {
        for mode in 0..8 {
            let (relu, residual) = (mode & 1 != 0, mode & 2 != 0);
            let through_statistics = mode & 4 != 0;
            check(&Case { rows, channels, relu, residual, through_statistics, seed: 5 });
        }
    }
}

#[test]
fn the_reference_gradient_is_the_derivative() {
    let (rows, channels) = (7, 3);
    for mode in 0..8 {
        let (relu, through, with_residual) = (mode & 1 != 0, mode & 2 != 0, mode & 4 != 0);
        let x = wide(&noise(1, rows * channels));
        let (gamma, beta) = (wide(&noise(2, channels)), wide(&noise(3, channels)));
        let residual = with_residual.then(|| wide(&noise(4, rows * channels)));
        let grad = wide(&noise(5, rows * channels));
        let fixed = reference::batch_statistics(channels, &x);
        let forward = |x: &[f64], gamma: &[f64], beta: &[f64], residual: Option<&[f64]>| {
            let own = reference::batch_statistics(channels, x);
            let moments = if through { &own } else { &fixed };
            reference::norm_forward(moments, gamma, beta, relu, x, residual)
        };
        let residual = residual.as_deref();
        let y = forward(&x, &gamma, &beta, residual);
        let active: Vec<bool> = y.iter().map(|&y| !relu || y > 0.0).collect();
        let got = reference::norm_backward(&fixed, &gamma, through, &x, &active, &grad);
        let near = |what: &str, got: &[f64], want: &[f64]| {
            for (g, w) in got.iter().zip(want) {
                assert!((g - w).abs() < 1e-6, "{what}: {g}, finite difference {w} (mode {mode})");
            }
        };
        let loss = |x: &[f64], g: &[f64], b: &[f64], r: Option<&[f64]>| {
            weighted(&forward(x, g, b, r), &grad)
        };
        near("x", &got.x, &numeric_gradient(&x, |x| loss(x, &gamma, &beta, residual)));
        near("gamma", &got.gamma, &numeric_gradient(&gamma, |g| loss(&x, g, &beta, residual)));
        near("beta", &got.beta, &numeric_gradient(&beta, |b| loss(&x, &gamma, b, residual)));
        if let Some(residual) = residual {
            let numeric = numeric_gradient(residual, |r| loss(&x, &gamma, &beta, Some(r)));
            near("residual", &got.residual, &numeric);
        }
    }
}

#[test]
fn variance_survives_a_large_mean_and_an_odd_first_row() {
    let (rows, channels) = (5_000, 24);
    for first in [0.0, 1e4, -3e5] {
        let mut x: Vec<f32> = noise(9, rows * channels).iter().map(|v| 1e4 + v).collect();
        x[..channels].fill(first);
        let (mut mean, mut var) = (poisoned(channels), poisoned(channels));
        batch_statistics(channels, &x, &mut mean, &mut var, &mut Scratch::new());
        let want = reference::batch_statistics(channels, &wide(&x));
        for c in 0..channels {
            let relative = (f64::from(var[c]) - want.var[c]).abs() / want.var[c];
            assert!(relative < 1e-5, "first row {first}: var {} for {}", var[c], want.var[c]);
            assert!((f64::from(mean[c]) - want.mean[c]).abs() < 1e-3);
        }
    }
}

#[test]
fn a_constant_channel_has_no_variance() {
    let (mut mean, mut var) = ([f32::NAN; 3], [f32::NAN; 3]);
    batch_statistics(3, &[0.1; 3 * 70_000], &mut mean, &mut var, &mut Scratch::new());
    assert_eq!((mean, var), ([0.1; 3], [0.0; 3]));
}

#[test]
fn nan_is_not_hidden() {
    let mut x = noise(1, 40);
    x[5] = f32::NAN;
    let (mut mean, mut var) = ([0.0; 4], [0.0; 4]);
    batch_statistics(4, &x, &mut mean, &mut var, &mut Scratch::new());
    assert!(mean[1].is_nan() && var[1].is_nan() && var[0].is_finite());
    let (zero, one) = ([0.0; 4], [1.0; 4]);
    let norm = Norm { channels: 4, mean: &zero, var: &one, gamma: &one, beta: &zero, relu: true };
    let mut y = [0.0; 40];
    norm_forward(&norm, &x, None, &mut y);
    assert!(y[5].is_nan());
}

#[test]
fn running_statistics_follow_pytorch() {
    // torch.nn.BatchNorm1d(1, momentum=0.1) on [1, 2, 4]: mean 7/3, unbiased variance 7/3.
    let (mut mean, mut var) = ([0.0], [1.0]);
    update_running(0.1, 3, &[7.0 / 3.0], &[14.0 / 9.0], &mut mean, &mut var);
    assert_close("running_mean", &mean, &[0.7 / 3.0], 1e-7);
    assert_close("running_var", &var, &[0.9 + 0.7 / 3.0], 1e-7);
    update_running(1.0, 1, &[3.0], &[0.5], &mut mean, &mut var);
    assert_eq!((mean, var), ([3.0], [0.5]));
}

#[test]
fn folding_gives_the_same_function() {
    let channels = 10;
    let (mean, gamma, beta) = (noise(1, channels), noise(2, channels), noise(3, channels));
    let var: Vec<f32> = noise(4, channels).iter().map(|v| v + 1.5).collect();
    let norm = Norm { channels, mean: &mean, var: &var, gamma: &gamma, beta: &beta, relu: false };
    let (mut scale, mut shift) = (poisoned(channels), poisoned(channels));
    fold(&norm, &mut scale, &mut shift);
    let x = noise(5, 7 * channels);
    let mut y = poisoned(x.len());
    norm_forward(&norm, &x, None, &mut y);
    let folded: Vec<f64> = (0..x.len())
        .map(|i| f64::from(x[i]) * f64::from(scale[i % channels]) + f64::from(shift[i % channels]))
        .collect();
    assert_close("y", &y, &folded, 1e-6);
    assert!((scale[0] - gamma[0] / (var[0] + EPSILON).sqrt()).abs() < 1e-6);
}

#[test]
#[should_panic(expected = "gamma has 3 values for 4 channels")]
fn short_parameters_are_refused() {
    let four = [1.0; 4];
    let norm =
        Norm { channels: 4, mean: &four, var: &four, gamma: &four[..3], beta: &four, relu: false };
    norm_forward(&norm, &[0.0; 8], None, &mut [0.0; 8]);
}
