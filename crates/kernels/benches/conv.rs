//! Effective GFLOP/s (`Gelem/s` in criterion's words: two operations a multiply-accumulate) of the
//! three convolution functions over a table of shapes, on two threads. Each result is held to the
//! definition before it is timed.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use slimtau_kernels::Scratch;
use slimtau_kernels::conv::{
    ConvShape, Epilogue, conv_backward_input, conv_backward_weight, conv_forward, reference,
};

/// Batch, side, input channels, output channels, kernel, stride.
const TABLE: &[[usize; 6]] = &[
    // The stages of `mini` at the widest, then slimmed.
    [64, 28, 32, 32, 3, 1],
    [64, 14, 64, 64, 3, 1],
    [64, 7, 128, 128, 3, 1],
    [64, 4, 256, 256, 3, 1],
    [64, 28, 24, 32, 3, 1],
    [64, 7, 104, 128, 3, 1],
    // Those of `cvpr2022`.
    [8, 56, 64, 64, 3, 1],
    [8, 28, 128, 128, 3, 1],
    [8, 14, 256, 256, 3, 1],
    [8, 7, 512, 512, 3, 1],
    [8, 14, 208, 232, 3, 1],
    // First convolutions of a stage, projections, stems.
    [64, 28, 32, 64, 3, 2],
    [64, 14, 64, 128, 3, 2],
    [64, 7, 128, 256, 3, 2],
    [8, 56, 64, 128, 3, 2],
    [8, 14, 256, 512, 3, 2],
    [64, 28, 32, 64, 1, 2],
    [8, 14, 256, 512, 1, 2],
    [64, 28, 1, 32, 3, 1],
    [8, 224, 3, 64, 7, 2],
];

fn noise(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 3.46
    };
    (0..len).map(|_| next()).collect()
}

/// Some elements against the definition, relative to its root mean square.
fn verify(what: &str, got: &[f32], samples: usize, want: impl Fn(usize) -> f64) {
    let (mut error, mut size) = (0.0, 0.0);
    for at in (0..got.len()).step_by(got.len() / samples + 1) {
        let want = want(at);
        error += (f64::from(got[at]) - want).powi(2);
        size += want * want;
    }
    assert!(error <= size * 1e-10, "{what} is wrong: relative error {}", (error / size).sqrt());
}

fn convolutions(criterion: &mut Criterion) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("two threads");
    for &[batch, side, in_channels, out_channels, kernel, stride] in TABLE {
        let shape = ConvShape {
            batch,
            height: side,
            width: side,
            in_channels,
            out_channels,
            full_in: in_channels + 8,
            full_out: out_channels + 8,
            kernel,
            stride,
        };
        let x = noise(1, shape.input_len());
        let w = noise(2, shape.weight_len());
        let dy = noise(3, shape.output_len());
        let mut y = vec![0.0; shape.output_len()];
        let mut dx = vec![0.0; shape.input_len()];
        let mut dw = vec![0.0; shape.weight_len()];
        let scratch = &mut Scratch::new();
        pool.install(|| {
            conv_forward(&shape, &x, &w, &mut y, Epilogue::None, scratch);
            conv_backward_input(&shape, &dy, &w, &mut dx, false, scratch);
            conv_backward_weight(&shape, &x, &dy, &mut dw, scratch);
        });
        verify("forward", &y, 500, |at| reference::output_at(&shape, &x, &w, at));
        verify("data gradient", &dx, 500, |at| reference::input_gradient_at(&shape, &dy, &w, at));
        verify("weight gradient", &dw, 30, |at| reference::weight_gradient_at(&shape, &x, &dy, at));

        let mut group = criterion.benchmark_group("conv");
        group.throughput(Throughput::Elements(2 * shape.macs() as u64));
        let name = format!("{batch}x{side}x{side}x{in_channels}-{out_channels}_k{kernel}s{stride}");
        group.bench_function(BenchmarkId::new("forward", &name), |b| {
            pool.install(|| {
                b.iter(|| {
                    conv_forward(&shape, &x, &w, black_box(&mut y), Epilogue::None, scratch);
                });
            });
        });
        group.bench_function(BenchmarkId::new("data_gradient", &name), |b| {
            pool.install(|| {
                b.iter(|| {
                    conv_backward_input(&shape, &dy, &w, black_box(&mut dx), false, scratch);
                });
            });
        });
        group.bench_function(BenchmarkId::new("weight_gradient", &name), |b| {
            pool.install(|| {
                b.iter(|| conv_backward_weight(&shape, &x, &dy, black_box(&mut dw), scratch));
            });
        });
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800));
    targets = convolutions
}
criterion_main!(benches);
