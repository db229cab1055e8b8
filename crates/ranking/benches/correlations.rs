//! Time of tau-b, of all three correlations and of the bootstrap, by the number of architectures. Target: tau-b of
//! 45,000 within 15 ms. Every result is first compared with the definition or with a second way.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use rand::RngExt;
use slimtau_ranking::{Bootstrap, bootstrap, correlations, kendall_tau};
use std::hint::black_box;

/// Accuracies on a grid of 0.04 % (2,500 images): ties as in the competition.
fn lists(n: usize) -> (Vec<f64>, Vec<f64>) {
    let mut stream = slimtau_base::stream(7, "bench", n as u64);
    let mut pair = |_| {
        let quality: f64 = stream.random_range(60.0..75.0);
        let mut measure = || ((quality + stream.random_range(-1.0..1.0)) / 0.04_f64).round() * 0.04;
        (measure(), measure())
    };
    (0..n).map(&mut pair).unzip()
}

/// Tau-b over all pairs, in O(n^2).
fn by_definition(x: &[f64], y: &[f64]) -> f64 {
    let (mut sum, mut x_untied, mut y_untied) = (0_i64, 0_i64, 0_i64);
    let sign = |a: f64, b: f64| i64::from(a > b) - i64::from(a < b);
    for i in 0..x.len() {
        for j in 0..i {
            let (a, b) = (sign(x[i], x[j]), sign(y[i], y[j]));
            sum += a * b;
            x_untied += a * a;
            y_untied += b * b;
        }
    }
    sum as f64 / ((x_untied as f64).sqrt() * (y_untied as f64).sqrt())
}

fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ranking");
    group.sample_size(20);
    for n in [30, 1000, 45_000] {
        let (x, y) = lists(n);
        let tau = kendall_tau(&x, &y).expect("finite lists").expect("they vary");
        if n <= 1000 {
            assert!((tau - by_definition(&x, &y)).abs() < 1e-12);
        } else {
            let turned = kendall_tau(&y, &x).expect("finite lists").expect("they vary");
            assert!((tau - turned).abs() < 1e-12);
        }
        group.bench_function(BenchmarkId::new("kendall_tau", n), |b| {
            b.iter(|| kendall_tau(black_box(&x), black_box(&y)));
        });
        group.bench_function(BenchmarkId::new("correlations", n), |b| {
            b.iter(|| correlations(black_box(&x), black_box(&y)));
        });
        let options = Bootstrap { resamples: 20, ..Bootstrap::default() };
        group.bench_function(BenchmarkId::new("bootstrap of 20", n), |b| {
            b.iter(|| bootstrap(black_box(&x), black_box(&y), &options));
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
