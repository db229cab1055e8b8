//! The same bits on any number of threads, and scratch memory that stops growing.

use crate::noise;
use slimtau_kernels::Scratch;
use slimtau_kernels::linear::{LinearShape, linear_backward, linear_forward};
use slimtau_kernels::loss::{Target, cross_entropy, info_nce, l2_normalize, softmax};
use slimtau_kernels::norm::{Norm, batch_statistics, norm_backward, norm_forward};
use slimtau_kernels::pool::{PoolShape, average_pool_forward, max_pool_backward, max_pool_forward};

fn norms(scratch: &mut Scratch) -> Vec<f32> {
    let (rows, channels) = (12_345, 24);
    let x = noise(1, rows * channels);
    let mut out = vec![0.0; 2 * channels];
    let (mean, var) = out.split_at_mut(channels);
    batch_statistics(channels, &x, mean, var, scratch);
    let ones = vec![1.0; channels];
    let norm = Norm { channels, mean, var, gamma: &ones, beta: &ones, relu: true };
    let residual = noise(2, x.len());
    let mut y = vec![0.0; x.len()];
    norm_forward(&norm, &x, Some(&residual), &mut y);
    let (mut grad_x, mut grad) = (x, noise(3, y.len()));
    let (mut grad_gamma, mut grad_beta) = (vec![0.0; channels], vec![0.0; channels]);
    norm_backward(
        &norm,
        true,
        &mut grad_x,
        Some(&y),
        &mut grad,
        &mut grad_gamma,
        &mut grad_beta,
        scratch,
    );
    [out, y, grad_x, grad, grad_gamma, grad_beta].concat()
}

fn pools(_: &mut Scratch) -> Vec<f32> {
    let shape = PoolShape { batch: 3, height: 31, width: 17, channels: 20 };
    let x = noise(1, shape.input_len());
    let (mut y, mut argmax) = (vec![0.0; shape.output_len()], vec![0; shape.output_len()]);
    max_pool_forward(&shape, &x, &mut y, Some(&mut argmax));
    let mut grad_x = vec![0.0; x.len()];
    max_pool_backward(&shape, &argmax, &noise(2, y.len()), &mut grad_x);
    let mut average = vec![0.0; 3 * 20];
    average_pool_forward(3, 31 * 17, 20, &x, &mut average);
    [y, grad_x, average].concat()
}

fn linears(_: &mut Scratch) -> Vec<f32> {
    let shape = LinearShape { rows: 150, inputs: 100, outputs: 200, full_inputs: 128 };
    let (x, weight) = (noise(1, 150 * 100), noise(2, 200 * 128));
    let mut y = vec![0.0; 150 * 200];
    linear_forward(&shape, &x, &weight, &noise(3, 200), &mut y);
    let (mut grad_x, mut grad_weight) = (vec![0.0; x.len()], vec![0.0; weight.len()]);
    let mut grad_bias = vec![0.0; 200];
    linear_backward(&shape, &x, &weight, &y, Some(&mut grad_x), &mut grad_weight, &mut grad_bias);
    [y, grad_x, grad_weight, grad_bias].concat()
}

fn losses(scratch: &mut Scratch) -> Vec<f32> {
    let (rows, classes) = (77, 333);
    let logits = noise(1, rows * classes);
    let mut p = vec![0.0; logits.len()];
    softmax(classes, 0.5, &noise(2, logits.len()), &mut p);
    let mut grad = vec![0.0; logits.len()];
    let soft = cross_entropy(classes, &logits, Target::Soft(&p), 1.0, &mut grad);
    let labels: Vec<u32> = (0..rows as u32).collect();
    let hard = cross_entropy(classes, &logits, Target::Hard(&labels), 1.0, &mut grad);
    let dim = 24;
    let unit = |seed, n: usize| {
        let (mut y, mut norms) = (vec![0.0; n * dim], vec![0.0; n]);
        l2_normalize(dim, &noise(seed, n * dim), &mut y, &mut norms);
        y
    };
    let mut grad_q = vec![0.0; 130 * dim];
    let (q, k, queue) = (unit(3, 130), unit(4, 130), unit(5, 6000));
    let (nce, top1) = info_nce(dim, 0.1, &q, &k, &queue, &mut grad_q, scratch);
    // All 64 bits of the losses count.
    let halves = [soft, hard, nce, top1].map(|v| {
        let bits = v.to_bits();
        [f32::from_bits((bits >> 32) as u32), f32::from_bits(bits as u32)]
    });
    [p, grad, grad_q, halves.concat()].concat()
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    type Operation = fn(&mut Scratch) -> Vec<f32>;
    let operations: [(&str, Operation); 4] =
        [("norm", norms), ("pool", pools), ("linear", linears), ("loss", losses)];
    for (name, operation) in operations {
        let run = |threads: usize| -> Vec<u32> {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| operation(&mut Scratch::new())).iter().map(|v| v.to_bits()).collect()
        };
        let one = run(1);
        for threads in [2, 3, 3] {
            assert!(run(threads) == one, "{name}: {threads} threads give other bits than one");
        }
    }
}

#[test]
fn scratch_grows_once_and_its_contents_do_not_matter() {
    let mut scratch = Scratch::new();
    let first = (norms(&mut scratch), losses(&mut scratch));
    let bytes = scratch.bytes();
    scratch.floats(bytes / 4).fill(f32::NAN);
    let second = (norms(&mut scratch), losses(&mut scratch));
    assert_eq!(scratch.bytes(), bytes);
    let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&first.0), bits(&second.0));
    assert_eq!(bits(&first.1), bits(&second.1));
}
