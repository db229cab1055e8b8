//! Times the memory-bound kernels and says what bandwidth they reach:
//! `cargo run --release -p slimtau-kernels --example elementwise`.

use slimtau_kernels::Scratch;
use slimtau_kernels::loss::info_nce;
use slimtau_kernels::norm::{Norm, batch_statistics, norm_backward, norm_forward};
use slimtau_kernels::pool::{PoolShape, max_pool_backward, max_pool_forward};
use std::cell::RefCell;
use std::time::Instant;

/// The median of nine runs, in seconds.
fn median(run: impl FnMut()) -> f64 {
    median_after(|| (), run)
}

/// The median of nine runs, in seconds, each after a `prepare` that is not timed.
fn median_after(mut prepare: impl FnMut(), mut run: impl FnMut()) -> f64 {
    let mut seconds: Vec<f64> = (0..9)
        .map(|_| {
            prepare();
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds[4]
}

fn main() {
    println!("{} threads; GB/s of memory read and written", rayon::current_num_threads());
    println!("rows x channels   copy  statistics  forward  +residual  backward  +residual  frozen");
    for (rows, channels) in [(50_176, 32), (12_544, 128), (50_176, 56), (3_136, 256), (50_176, 256)]
    {
        let len = rows * channels;
        let wave = |step: f32| -> Vec<f32> { (0..len).map(|i| (i as f32 * step).sin()).collect() };
        let (x, residual, grad) = (wave(0.1), wave(0.2), wave(0.3));
        let (mut y, mut scratch) = (vec![0.0; len], Scratch::new());
        let (mut mean, mut var) = (vec![0.0; channels], vec![0.0; channels]);
        let ones = vec![1.0; channels];
        let rate = |streams: usize, seconds: f64| (streams * len * 4) as f64 / seconds * 1e-9;
        let copy = rate(2, median(|| y.copy_from_slice(&x)));
        let statistics = median(|| {
            batch_statistics(channels, &x, &mut mean, &mut var, &mut scratch);
        });
        let norm = Norm { channels, mean: &mean, var: &var, gamma: &ones, beta: &ones, relu: true };
        let forward = median(|| norm_forward(&norm, &x, None, &mut y));
        let with_residual = median(|| norm_forward(&norm, &x, Some(&residual), &mut y));
        // In place: every run needs fresh arguments, or it would soon work on denormal numbers.
        let (gx, g) = (RefCell::new(x.clone()), RefCell::new(grad.clone()));
        let fresh = || {
            gx.borrow_mut().copy_from_slice(&x);
            g.borrow_mut().copy_from_slice(&grad);
        };
        let (mut grad_gamma, mut grad_beta) = (ones.clone(), ones.clone());
        let mut backward = |batch, output| {
            median_after(fresh, || {
                norm_backward(
                    &norm,
                    batch,
                    &mut gx.borrow_mut(),
                    output,
                    &mut g.borrow_mut(),
                    &mut grad_gamma,
                    &mut grad_beta,
                    &mut scratch,
                );
            })
        };
        let plain = backward(true, None);
        let masked = backward(true, Some(&y[..]));
        let frozen = backward(false, None);
        println!(
            "{rows:>6} x {channels:<7} {copy:>6.1} {:>11.1} {:>8.1} {:>10.1} {:>9.1} {:>10.1} {:>7.1}",
            rate(1, statistics),
            rate(2, forward),
            rate(3, with_residual),
            rate(5, plain),
            rate(7, masked),
            rate(3, frozen),
        );
    }

    let shape = PoolShape { batch: 8, height: 112, width: 112, channels: 64 };
    let x: Vec<f32> = (0..shape.input_len()).map(|i| (i as f32).sin()).collect();
    let (mut y, mut argmax) = (vec![0.0; shape.output_len()], vec![0; shape.output_len()]);
    let forward = median(|| max_pool_forward(&shape, &x, &mut y, Some(&mut argmax)));
    let mut grad = x;
    let backward = median(|| max_pool_backward(&shape, &argmax, &y, &mut grad));
    println!("max pool {shape:?}: {:.2} ms, backward {:.2} ms", forward * 1e3, backward * 1e3);

    let (rows, length, dim) = (256, 40_960, 128);
    let unit = |n: usize| -> Vec<f32> {
        let cell = (dim as f32).sqrt().recip();
        (0..n * dim).map(|i| if i * i % 7 < 3 { cell } else { -cell }).collect()
    };
    let (q, k, queue) = (unit(rows), unit(rows), unit(length));
    let (mut grad, mut scratch) = (vec![0.0; rows * dim], Scratch::new());
    let seconds = median(|| {
        info_nce(dim, 0.1, &q, &k, &queue, &mut grad, &mut scratch);
    });
    let flops = 4.0 * (rows * length * dim) as f64;
    println!(
        "InfoNCE {rows} x {length} x {dim}: {:.1} ms, {:.0} GFLOP/s, scratch {:.1} MiB",
        seconds * 1e3,
        flops / seconds * 1e-9,
        scratch.bytes() as f64 / f64::from(1 << 20),
    );
}
