//! Cross-entropy, softmax, normalisation and InfoNCE.

use crate::{assert_close, noise, numeric_gradient, poisoned, reference, weighted, wide};
use proptest::prelude::*;
use slimtau_kernels::Scratch;
use slimtau_kernels::loss::{
    Target, cross_entropy, info_nce, l2_normalize, l2_normalize_backward, relu_backward,
    relu_forward, softmax,
};

fn check_cross_entropy(rows: usize, classes: usize, spread: f32, seed: u64) {
    let logits: Vec<f32> = noise(seed, rows * classes).iter().map(|v| v * spread).collect();
    let labels: Vec<u32> = noise(seed + 1, rows)
        .iter()
        .map(|v| (((v + 1.0) / 2.0 * classes as f32) as u32).min(classes as u32 - 1))
        .collect();
    // A distribution per row, except that not every row sums to one.
    let soft: Vec<f32> =
        noise(seed + 2, rows * classes).iter().map(|v| (v + 1.0) / classes as f32).collect();
    let before = noise(seed + 3, logits.len());
    let scale = 0.7;
    let hard = reference::one_hot(classes, &labels);
    for (target, plain) in
        [(Target::Hard(&labels), hard.clone()), (Target::Soft(&soft), wide(&soft))]
    {
        let mut grad = before.clone();
        let loss = cross_entropy(classes, &logits, target, scale, &mut grad);
        let want = reference::cross_entropy(classes, &wide(&logits), &plain);
        assert!((loss - want).abs() <= 2e-6 * want.abs().max(1.0), "loss {loss}, expected {want}");
        let mut want_grad = wide(&before);
        for (row, (x, t)) in wide(&logits).chunks(classes).zip(plain.chunks(classes)).enumerate() {
            let mass: f64 = t.iter().sum();
            for (c, l) in reference::log_softmax(x).iter().enumerate() {
                let g = (l.exp() * mass - t[c]) / rows as f64;
                want_grad[row * classes + c] += f64::from(scale) * g;
            }
        }
        assert_close("grad", &grad, &want_grad, 1e-6);
    }
    let mut p = poisoned(logits.len());
    softmax(classes, 2.5, &logits, &mut p);
    let want: Vec<f64> = wide(&logits)
        .chunks(classes)
        .flat_map(|x| {
            let x: Vec<f64> = x.iter().map(|v| v / 2.5).collect();
            reference::log_softmax(&x).into_iter().map(f64::exp)
        })
        .collect();
    assert_close("softmax", &p, &want, 1e-6);
}

fn check_info_nce(rows: usize, length: usize, dim: usize, temperature: f32, seed: u64) {
    let unit = |seed, n| -> Vec<f32> {
        reference::l2_normalize(dim, &wide(&noise(seed, n * dim)))
            .iter()
            .map(|&v| v as f32)
            .collect()
    };
    let (q, mut k, queue) = (unit(seed, rows), unit(seed + 1, rows), unit(seed + 2, length));
    // Half the keys are close to their queries, so that some positives win and some do not.
    k[..rows / 2 * dim].copy_from_slice(&q[..rows / 2 * dim]);
    let mut grad = poisoned(q.len());
    let (loss, top1) = info_nce(dim, temperature, &q, &k, &queue, &mut grad, &mut Scratch::new());
    let (q, k, queue) = (wide(&q), wide(&k), wide(&queue));
    let temperature = f64::from(temperature);
    let (want, want_grad) = reference::info_nce(dim, temperature, &q, &k, &queue);
    assert!((loss - want).abs() <= 1e-5 * want.max(1.0), "loss {loss}, expected {want}");
    assert_close("grad_q", &grad, &want_grad, 1e-5);
    let logits = reference::info_nce_logits(dim, temperature, &q, &k, &queue);
    let wins = logits
        .chunks(length + 1)
        .filter(|l| l[1..].iter().all(|&negative| l[0] >= negative - 1e-6))
        .count();
    assert!((top1 - wins as f64 / rows as f64).abs() < 1e-9, "top1 {top1}, {wins} of {rows}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn cross_entropy_agrees_with_the_reference(
        rows in 1usize..40,
        classes in prop_oneof![1usize..40, 990usize..1010],
        spread in prop::sample::select(vec![1.0f32, 20.0, 300.0]),
        seed in 0u64..1 << 40,
    ) {
        check_cross_entropy(rows, classes, spread, seed);
    }

    #[test]
    fn l2_normalisation_and_its_gradient(
        rows in 1usize..20,
        dim in 1usize..140,
        seed in 0u64..1 << 40,
    ) {
        let x = noise(seed, rows * dim);
        let grad_y = noise(seed + 1, x.len());
        let (mut y, mut norms) = (poisoned(x.len()), poisoned(rows));
        l2_normalize(dim, &x, &mut y, &mut norms);
        assert_close("y", &y, &reference::l2_normalize(dim, &wide(&x)), 1e-6);
        let mut grad_x = poisoned(x.len());
        l2_normalize_backward(dim, &y, &norms, &grad_y, &mut grad_x);
        for row in 0..rows {
            let at = row * dim..(row + 1) * dim;
            let x = wide(&x[at.clone()]);
            let norm = x.iter().map(|v| v * v).sum::<f64>().sqrt();
            // Too short a row changes its direction within one finite-difference step.
            if norm > 0.05 {
                let g = wide(&grad_y[at.clone()]);
                let want = numeric_gradient(&x, |x| weighted(&reference::l2_normalize(dim, x), &g));
                assert_close("grad_x", &grad_x[at], &want, 1e-4);
            }
        }
    }
}

#[test]
fn reference_gradients_are_derivatives() {
    let (dim, rows) = (5, 3);
    let (q, k, queue) = (noise(1, rows * dim), noise(2, rows * dim), noise(3, 7 * dim));
    let (q, k, queue) = (wide(&q), wide(&k), wide(&queue));
    let (_, grad) = reference::info_nce(dim, 0.3, &q, &k, &queue);
    let numeric = numeric_gradient(&q, |q| reference::info_nce(dim, 0.3, q, &k, &queue).0);
    for (g, n) in grad.iter().zip(&numeric) {
        assert!((g - n).abs() < 1e-7, "InfoNCE: {g}, finite difference {n}");
    }

    let classes = 6;
    let logits = noise(4, rows * classes);
    let soft: Vec<f32> = noise(5, rows * classes).iter().map(|v| v + 1.0).collect();
    let mut grad = vec![0.0; logits.len()];
    cross_entropy(classes, &logits, Target::Soft(&soft), 1.0, &mut grad);
    let soft = wide(&soft);
    let numeric = numeric_gradient(&wide(&logits), |x| reference::cross_entropy(classes, x, &soft));
    assert_close("soft cross-entropy", &grad, &numeric, 1e-6);
}

#[test]
fn info_nce_agrees_with_the_reference() {
    for (rows, length, dim, temperature) in [
        (1, 1, 1, 0.2),
        (4, 0, 8, 0.1),
        (3, 5, 7, 0.02),
        (64, 512, 16, 0.1),
        (65, 513, 10, 0.2),
        (130, 5000, 12, 0.07),
        (2, 9000, 128, 0.02),
    ] {
        check_info_nce(rows, length, dim, temperature, 21);
    }
}

#[test]
fn info_nce_of_a_growing_maximum() {
    // Each piece of the queue beats the one before, so that every running sum is rescaled.
    let length = 3000;
    let queue: Vec<f32> = (0..length).map(|i| i as f32 / 30.0).collect();
    let (q, k) = ([1.0], [50.0]);
    let mut grad = [f32::NAN];
    let (loss, top1) = info_nce(1, 1.0, &q, &k, &queue, &mut grad, &mut Scratch::new());
    let (want, want_grad) = reference::info_nce(1, 1.0, &[1.0], &[50.0], &wide(&queue));
    assert!((loss - want).abs() < 1e-5 * want, "loss {loss}, expected {want}");
    assert_close("grad_q", &grad, &want_grad, 1e-5);
    assert_eq!(top1, 0.0);
}

#[test]
fn the_least_norm_is_a_constant_divisor() {
    let (mut y, mut norms) = ([f32::NAN; 2], [f32::NAN]);
    l2_normalize(2, &[0.0, 3e-13], &mut y, &mut norms);
    assert_eq!(norms, [1e-12]);
    assert_close("y", &y, &[0.0, 0.3], 1e-6);
    let mut grad_x = [f32::NAN; 2];
    l2_normalize_backward(2, &y, &norms, &[1e-12, 2e-12], &mut grad_x);
    assert_close("grad_x", &grad_x, &[1.0, 2.0], 1e-6);
    // Squares beyond the range of f32.
    l2_normalize(2, &[3e25, -4e25], &mut y, &mut norms);
    assert_close("y", &y, &[0.6, -0.8], 1e-6);
}

#[test]
fn relu_and_its_gradient() {
    let x = [-1.0, 0.0, 2.0, f32::INFINITY, f32::NEG_INFINITY];
    let (mut y, mut grad) = ([f32::NAN; 5], [f32::NAN; 5]);
    relu_forward(&x, &mut y);
    assert_eq!(y, [0.0, 0.0, 2.0, f32::INFINITY, 0.0]);
    relu_backward(&y, &[1.0, 2.0, 3.0, 4.0, 5.0], &mut grad);
    assert_eq!(grad, [0.0, 0.0, 3.0, 4.0, 0.0]);
}

#[test]
fn extreme_logits_stay_finite() {
    let mut grad = [0.0; 3];
    let loss = cross_entropy(3, &[1e30, -1e30, 0.0], Target::Hard(&[0]), 1.0, &mut grad);
    assert_eq!((loss, grad), (0.0, [0.0; 3]));
    let mut grad = [0.0; 2];
    let loss = cross_entropy(2, &[f32::NAN, 0.0], Target::Hard(&[1]), 1.0, &mut grad);
    assert!(loss.is_nan() && grad[0].is_nan());
}

#[test]
#[should_panic(expected = "label 3 with 3 classes")]
fn a_label_out_of_range_is_refused() {
    cross_entropy(3, &[0.0; 6], Target::Hard(&[0, 3]), 1.0, &mut [0.0; 6]);
}
