//! Cross-entropy, softmax, hits, InfoNCE and the contrastive head's small operations, against f64 and against the CPU.
//! Tolerances are those of the CPU's tests: 1e-6 for what is a softmax or a division, 1e-5 for what has products in it,
//! 2e-6 for a mean loss; each relative to the largest result, or to 1.

use crate::noise::noise;
use crate::{GPUS, assert_close, filled, poisoned, reference, same_everywhere, wide};
use proptest::prelude::*;
use slimtau_kernels::Scratch;
use slimtau_kernels::gpu::{
    Buffer, Gpu, InfoNceMemory, Labels, Target, cross_entropy, info_nce, l2_normalize,
    l2_normalize_backward, mean, relu_backward, relu_forward, softmax, top1,
};
use slimtau_kernels::loss;

fn on_gpu(gpu: &Gpu, values: &[f32]) -> Buffer<f32> {
    Buffer::from_slice(gpu, values).unwrap()
}

fn labels_on(gpu: &Gpu, classes: usize, labels: &[u32]) -> Labels {
    let mut on_gpu = Labels::new(gpu);
    on_gpu.upload(classes, labels).unwrap();
    on_gpu
}

/// A number in [0, 1) of each value of the noise.
fn shares(seed: u64, len: usize) -> Vec<f32> {
    noise(seed, len).iter().map(|v| (v / 3.5 + 0.5).clamp(0.0, 0.999)).collect()
}

/// The gradient, which was `before`, and the mean loss.
fn entropy(
    gpu: &Gpu,
    classes: usize,
    logits: &[f32],
    target: Target<'_>,
    scale: f32,
    before: &[f32],
) -> [Vec<f32>; 2] {
    let logits = on_gpu(gpu, logits);
    let mut grad = on_gpu(gpu, before);
    let mut losses = poisoned(gpu, before.len() / classes);
    let (into, each) = (grad.view_mut(), losses.view_mut());
    cross_entropy(gpu, classes, logits.view(), target, scale, into, each).unwrap();
    let mut loss = poisoned(gpu, 1);
    mean(gpu, losses.view(), loss.view_mut()).unwrap();
    [grad.to_vec().unwrap(), loss.to_vec().unwrap()]
}

fn check_cross_entropy(rows: usize, classes: usize, spread: f32, seed: u64) {
    let logits: Vec<f32> = noise(seed, rows * classes).iter().map(|v| v * spread).collect();
    let labels: Vec<u32> =
        shares(seed + 1, rows).iter().map(|v| (v * classes as f32) as u32).collect();
    // A distribution per row, except that not every row sums to one.
    let soft: Vec<f32> =
        shares(seed + 2, logits.len()).iter().map(|v| 2.0 * v / classes as f32).collect();
    let before = noise(seed + 3, logits.len());
    let (scale, temperature) = (0.7, 2.5);
    let results = same_everywhere(|gpu| {
        let hard = labels_on(gpu, classes, &labels);
        let distributions = on_gpu(gpu, &soft);
        let logits_on = on_gpu(gpu, &logits);
        let mut p = poisoned(gpu, logits.len());
        softmax(gpu, classes, temperature, logits_on.view(), p.view_mut()).unwrap();
        let targets = [Target::Hard(&hard), Target::Soft(distributions.view())];
        let entropies = targets.map(|t| entropy(gpu, classes, &logits, t, scale, &before));
        entropies.into_iter().flatten().chain([p.to_vec().unwrap()]).collect()
    });

    let hard = reference::one_hot(classes, &labels);
    let on_cpu = [loss::Target::Hard(&labels), loss::Target::Soft(&soft)];
    for (i, (target, plain)) in on_cpu.into_iter().zip([hard, wide(&soft)]).enumerate() {
        let (grad, loss) = (&results[2 * i], f64::from(results[2 * i + 1][0]));
        let want = reference::cross_entropy(classes, &wide(&logits), &plain);
        assert!((loss - want).abs() <= 2e-6 * want.abs().max(1.0), "loss {loss}, not {want}");
        let mut want_grad = wide(&before);
        for (row, (x, t)) in wide(&logits).chunks(classes).zip(plain.chunks(classes)).enumerate() {
            let mass: f64 = t.iter().sum();
            for (c, l) in reference::log_softmax(x).iter().enumerate() {
                let g = (l.exp() * mass - t[c]) / rows as f64;
                want_grad[row * classes + c] += f64::from(scale) * g;
            }
        }
        assert_close("grad", grad, &want_grad, 1e-6);
        let mut cpu_grad = before.clone();
        let cpu = loss::cross_entropy(classes, &logits, target, scale, &mut cpu_grad);
        assert!((loss - cpu).abs() <= 2e-6 * cpu.abs().max(1.0), "loss {loss}, on the CPU {cpu}");
        assert_close("grad of the CPU", grad, &wide(&cpu_grad), 1e-6);
    }
    let tempered: Vec<f64> = wide(&logits).iter().map(|v| v / f64::from(temperature)).collect();
    let want: Vec<f64> = tempered
        .chunks(classes)
        .flat_map(|x| reference::log_softmax(x).into_iter().map(f64::exp))
        .collect();
    assert_close("softmax", &results[4], &want, 1e-6);
    let mut cpu = vec![0.0; logits.len()];
    loss::softmax(classes, temperature, &logits, &mut cpu);
    assert_close("softmax of the CPU", &results[4], &wide(&cpu), 1e-6);
}

#[test]
fn cross_entropy_and_softmax_of_all_widths() {
    for (rows, classes) in
        [(1, 1), (9, 2), (33, 10), (8, 32), (7, 33), (3, 128), (5, 1000), (1, 4097)]
    {
        check_cross_entropy(rows, classes, 1.0, 31);
        check_cross_entropy(rows, classes, 300.0, 32);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn cross_entropy_and_softmax_of_random_shapes(
        rows in 1usize..20,
        classes in 1usize..140,
        spread in prop::sample::select(vec![1.0f32, 20.0]),
        seed in 0u64..1 << 40,
    ) {
        check_cross_entropy(rows, classes, spread, seed);
    }
}

#[test]
fn a_loss_near_zero_keeps_its_digits() {
    for gpu in GPUS.iter() {
        let labels = labels_on(gpu, 2, &[0]);
        let [_, loss] = entropy(gpu, 2, &[20.0, 0.0], Target::Hard(&labels), 1.0, &[0.0; 2]);
        let want = (-20.0f64).exp().ln_1p();
        assert!((f64::from(loss[0]) - want).abs() < 1e-6 * want, "{} for {want}", loss[0]);
    }
}

#[test]
fn extreme_logits_stay_finite() {
    for gpu in GPUS.iter() {
        let zero = labels_on(gpu, 3, &[0]);
        let extreme = [1e30, -1e30, 0.0];
        let found = entropy(gpu, 3, &extreme, Target::Hard(&zero), 1.0, &[0.0; 3]);
        assert_eq!(found, [vec![0.0; 3], vec![0.0]]);
        let one = labels_on(gpu, 2, &[1]);
        let broken = [f32::NAN, 0.0];
        let [grad, loss] = entropy(gpu, 2, &broken, Target::Hard(&one), 1.0, &[0.0; 2]);
        assert!(loss[0].is_nan() && grad[0].is_nan());
    }
}

#[test]
#[should_panic(expected = "label 3 with 3 classes")]
fn a_label_out_of_range_is_refused() {
    labels_on(&GPUS[0], 3, &[0, 3]);
}

#[test]
#[should_panic(expected = "labels of 10 classes with 3")]
fn labels_of_more_classes_are_refused() {
    let gpu = &GPUS[0];
    let labels = labels_on(gpu, 10, &[0]);
    entropy(gpu, 3, &[0.0; 3], Target::Hard(&labels), 1.0, &[0.0; 3]);
}

#[test]
fn means_are_summed_in_f64() {
    for len in [2, 511, 512, 513, 2561] {
        // 1e8 + 1 is no f32: it is only in a wider sum that the ones survive. Of 2561, one thread has both large ones.
        let mut values = vec![1.0f32; len];
        (values[0], values[len - 1]) = (1e8, -1e8);
        let found = same_everywhere(|gpu| {
            let mut slots = filled(gpu, 3, 7.0f32);
            let to = slots.view_mut().range(1..2);
            mean(gpu, on_gpu(gpu, &values).view(), to).unwrap();
            vec![slots.to_vec().unwrap()]
        });
        let want = ((len - 2) as f64 / len as f64) as f32;
        assert_eq!(found, [[7.0, want, 7.0]], "{len} values");
    }
}

/// As `argmax` of slimtau-supernet.
fn argmax(row: &[f32]) -> usize {
    let mut best = 0;
    for (i, v) in row.iter().enumerate() {
        if *v > row[best] || row[best].is_nan() {
            best = i;
        }
    }
    best
}

fn check_top1(classes: usize, logits: &[f32], labels: &[u32]) {
    let found = same_everywhere(|gpu| {
        let (mut hits, mut scratch) = (poisoned(gpu, 1), Buffer::new(gpu));
        let labels = labels_on(gpu, classes, labels);
        let logits = on_gpu(gpu, logits);
        top1(gpu, classes, logits.view(), &labels, hits.view_mut(), &mut scratch).unwrap();
        vec![hits.to_vec().unwrap()]
    });
    let rows = logits.chunks(classes).zip(labels);
    let want = rows.filter(|(row, label)| argmax(row) == **label as usize).count();
    assert_eq!(found, [[want as f32]], "{classes} classes");
}

#[test]
fn hits_are_counted() {
    for (rows, classes) in [(1, 1), (40, 2), (50, 10), (9, 33), (17, 1000)] {
        // Few different values: many rows have several largest ones, in other lanes and in the same.
        let coarse = |v: &f32| (v * 1.5).round();
        let logits: Vec<f32> = noise(41, rows * classes).iter().map(coarse).collect();
        let best: Vec<u32> = logits.chunks(classes).map(|row| argmax(row) as u32).collect();
        check_top1(classes, &logits, &best);
        let mut labels = best;
        for label in labels.iter_mut().step_by(3) {
            *label = (*label + 1) % classes as u32;
        }
        check_top1(classes, &logits, &labels);
    }
}

#[test]
fn no_hit_is_a_nan() {
    const NAN: f32 = f32::NAN;
    const LEAST: f32 = f32::NEG_INFINITY;
    for row in [[NAN, 1.0, 1.0], [1.0, NAN, 2.0], [NAN, LEAST, NAN], [LEAST, NAN, LEAST], [NAN; 3]]
    {
        for label in 0..3 {
            check_top1(3, &row, &[label]);
        }
    }
    let mut row = vec![NAN; 100];
    row[70] = LEAST;
    check_top1(100, &row, &[70]);
}

/// Mean loss, share of hits, gradient.
fn contrast(
    gpu: &Gpu,
    dim: usize,
    temperature: f32,
    [q, k, queue]: [&[f32]; 3],
    memory: &mut InfoNceMemory,
) -> Vec<Vec<f32>> {
    let mut grad = poisoned(gpu, q.len());
    let mut scalars = poisoned(gpu, 2);
    let (loss, hits) = scalars.view_mut().split_at(1);
    let [q, k, queue] = [q, k, queue].map(|v| on_gpu(gpu, v));
    let (q, k, queue) = (q.view(), k.view(), queue.view());
    let into = grad.view_mut();
    info_nce(gpu, dim, temperature, q, k, queue, into, loss, hits, memory).unwrap();
    vec![scalars.to_vec().unwrap(), grad.to_vec().unwrap()]
}

fn check_info_nce(rows: usize, length: usize, dim: usize, temperature: f32) {
    let unit = |seed, n| -> Vec<f32> {
        let normalized = reference::l2_normalize(dim, &wide(&noise(seed, n * dim)));
        normalized.iter().map(|&v| v as f32).collect()
    };
    let (q, mut k, queue) = (unit(51, rows), unit(52, rows), unit(53, length));
    // Half the keys are close to their queries, so that some positives win and some do not.
    k[..rows / 2 * dim].copy_from_slice(&q[..rows / 2 * dim]);
    let results = same_everywhere(|gpu| {
        let memory = &mut InfoNceMemory::new(gpu);
        contrast(gpu, dim, temperature, [&q, &k, &queue], memory)
    });
    let [scalars, grad] = &results[..] else { unreachable!() };
    let [loss, top1] = [0, 1].map(|i| f64::from(scalars[i]));
    let mut cpu_grad = vec![0.0; q.len()];
    let (cpu, cpu_top1) =
        loss::info_nce(dim, temperature, &q, &k, &queue, &mut cpu_grad, &mut Scratch::new());
    let (q, k, queue) = (wide(&q), wide(&k), wide(&queue));
    let (want, want_grad) = reference::info_nce(dim, f64::from(temperature), &q, &k, &queue);
    assert!((loss - want).abs() <= 1e-5 * want.max(1.0), "loss {loss}, not {want}");
    assert!((loss - cpu).abs() <= 1e-5 * want.max(1.0), "loss {loss}, on the CPU {cpu}");
    assert_close("grad_q", grad, &want_grad, 1e-5);
    assert_close("grad_q of the CPU", grad, &wide(&cpu_grad), 1e-5);
    assert!((top1 - cpu_top1).abs() < 1e-6, "top1 {top1}, on the CPU {cpu_top1}");
}

#[test]
fn info_nce_agrees_with_the_reference() {
    for (rows, length, dim, temperature) in [
        (1, 1, 1, 0.2),
        (4, 0, 8, 0.1),
        (3, 5, 7, 0.02),
        (32, 256, 16, 0.1),
        (33, 257, 10, 0.2),
        (1, 8200, 4, 0.07), // more parts than lanes
        (4, 600, 128, 0.02),
    ] {
        check_info_nce(rows, length, dim, temperature);
    }
}

#[test]
fn info_nce_of_a_growing_maximum() {
    // Every part of the queue beats the one before.
    let length = 1000;
    let queue: Vec<f32> = (0..length).map(|i| i as f32 / 10.0).collect();
    let (want, want_grad) = reference::info_nce(1, 1.0, &[1.0], &[50.0], &wide(&queue));
    for gpu in GPUS.iter() {
        // In memory that held other numbers.
        let memory = &mut InfoNceMemory::new(gpu);
        contrast(gpu, 1, 1.0, [&[f32::NAN; 3], &[f32::NAN; 3], &[f32::NAN; 900]], memory);
        let results = contrast(gpu, 1, 1.0, [&[1.0], &[50.0], &queue], memory);
        let loss = f64::from(results[0][0]);
        assert!((loss - want).abs() < 1e-5 * want, "loss {loss}, not {want}");
        assert_close("grad_q", &results[1], &want_grad, 1e-5);
        assert_eq!(results[0][1], 0.0);
    }
}

#[test]
fn broken_embeddings_are_reported() {
    for gpu in GPUS.iter() {
        let memory = &mut InfoNceMemory::new(gpu);
        let results = contrast(gpu, 1, 1.0, [&[f32::NAN], &[1.0], &[1.0, 2.0]], memory);
        assert!(results[0][0].is_nan() && results[0][1] == 0.0, "{:?}", results[0]);
        assert!(results[1][0].is_nan());
    }
}

/// `y`, norms, and the gradient of `x`.
fn normalized(gpu: &Gpu, dim: usize, x: &[f32], grad_y: &[f32]) -> Vec<Vec<f32>> {
    let [mut y, mut norms] = [x.len(), x.len() / dim].map(|len| poisoned(gpu, len));
    l2_normalize(gpu, dim, on_gpu(gpu, x).view(), y.view_mut(), norms.view_mut()).unwrap();
    let mut grad_x = poisoned(gpu, x.len());
    let grad_y = on_gpu(gpu, grad_y);
    let (y_view, norms_view) = (y.view(), norms.view());
    let into = grad_x.view_mut();
    l2_normalize_backward(gpu, dim, y_view, norms_view, grad_y.view(), into).unwrap();
    [y, norms, grad_x].map(|b| b.to_vec().unwrap()).into()
}

#[test]
fn l2_normalisation_and_its_gradient() {
    for (rows, dim) in [(1, 1), (9, 7), (8, 32), (3, 33), (20, 128), (2, 1000)] {
        let (x, grad_y) = (noise(61, rows * dim), noise(62, rows * dim));
        let results = same_everywhere(|gpu| normalized(gpu, dim, &x, &grad_y));
        assert_close("y", &results[0], &reference::l2_normalize(dim, &wide(&x)), 1e-6);
        let (mut y, mut norms) = (vec![0.0; x.len()], vec![0.0; rows]);
        loss::l2_normalize(dim, &x, &mut y, &mut norms);
        assert_close("norms", &results[1], &wide(&norms), 1e-6);
        let mut grad_x = vec![0.0; x.len()];
        loss::l2_normalize_backward(dim, &y, &norms, &grad_y, &mut grad_x);
        assert_close("grad_x", &results[2], &wide(&grad_x), 1e-5);
    }
}

#[test]
fn the_least_norm_is_a_constant_divisor() {
    for gpu in GPUS.iter() {
        let short = normalized(gpu, 2, &[0.0, 3e-13], &[1e-12, 2e-12]);
        assert_eq!(short[1], [1e-12]);
        assert_close("y", &short[0], &[0.0, 0.3], 1e-6);
        assert_close("grad_x", &short[2], &[1.0, 2.0], 1e-6);
        // Squares beyond the range of f32.
        let long = normalized(gpu, 2, &[3e25, -4e25], &[0.0; 2]);
        assert_close("y", &long[0], &[0.6, -0.8], 1e-6);
    }
}

#[test]
fn relu_and_its_gradient() {
    let mut x = vec![-1.0, 0.0, 2.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
    x.extend(noise(71, 295)); // more than one block
    let grad_y = noise(72, x.len());
    let results = same_everywhere(|gpu| {
        let (mut y, mut grad_x) = (poisoned(gpu, x.len()), poisoned(gpu, x.len()));
        relu_forward(gpu, on_gpu(gpu, &x).view(), y.view_mut()).unwrap();
        relu_backward(gpu, y.view(), on_gpu(gpu, &grad_y).view(), grad_x.view_mut()).unwrap();
        vec![y.to_vec().unwrap(), grad_x.to_vec().unwrap()]
    });
    for (i, &x) in x.iter().enumerate() {
        let (y, grad) = if x <= 0.0 { (0.0, 0.0) } else { (x, grad_y[i]) };
        assert!(results[0][i] == y || y.is_nan() && results[0][i].is_nan(), "relu({x})");
        assert_eq!(results[1][i], grad, "gradient at {x}");
    }
}
