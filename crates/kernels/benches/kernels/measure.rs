//! How everything is measured: one criterion benchmark per operation, implementation and shape, with
//! the work that it does, so that `cargo xtask bench` can put them side by side.

use criterion::{Bencher, BenchmarkId, Criterion, Throughput};

/// Implementations, as `cargo xtask bench` knows them.
pub const OURS: &str = "ours";
/// The plain reference, on one thread, in f64.
pub const REFERENCE: &str = "reference";
/// The same operation of candle, or what its autograd makes of it, channels first.
pub const CANDLE: &str = "candle";

/// What bounds an operation.
#[derive(Clone, Copy)]
pub enum Work {
    /// Additions and multiplications of the definition, whatever the algorithm needs.
    Flops(usize),
    /// Bytes read from and written to tensors, over all passes.
    Bytes(usize),
}

/// One measurement, in a thread of the global pool, as in a training step.
pub fn measure(
    criterion: &mut Criterion,
    operation: &str,
    implementation: &str,
    shape: &str,
    work: Work,
    mut run: impl FnMut(&mut Bencher<'_>) + Send,
) {
    let mut group = criterion.benchmark_group(operation);
    group.throughput(match work {
        Work::Flops(n) => Throughput::Elements(n as u64),
        Work::Bytes(n) => Throughput::Bytes(n as u64),
    });
    group.bench_function(BenchmarkId::new(implementation, shape), |bencher| {
        rayon::scope(|_| run(bencher));
    });
    group.finish();
}

pub fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| f64::from(v)).collect()
}

/// Some elements of a result against the definition: a benchmark of wrong numbers is worth nothing.
pub fn verify(what: &str, got: &[f32], samples: usize, want: impl Fn(usize) -> f64) {
    let (mut error, mut size) = (0.0, 0.0);
    for at in (0..got.len()).step_by(got.len() / samples + 1) {
        let want = want(at);
        error += (f64::from(got[at]) - want).powi(2);
        size += want * want;
    }
    assert!(error <= size * 1e-8, "{what} is wrong: relative error {}", (error / size).sqrt());
}
