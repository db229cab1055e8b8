//! Norm, pooling, linear layer and losses against plain f64 references: values, gradients, odd
//! shapes, poisoned outputs, and the same bits on any number of threads.

mod linear;
mod loss;
mod norm;
mod ops;
mod pool;
mod reference;
mod threads;

use reference::{numeric_gradient, weighted};

/// `len` numbers in [-1, 1), the same for the same seed.
fn noise(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        // SplitMix64 (Steele, Lea & Flood 2014).
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    (0..len).map(|_| (next() >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
}

/// A buffer that a kernel must overwrite entirely: an element left alone fails every comparison.
fn poisoned(len: usize) -> Vec<f32> {
    vec![f32::NAN; len]
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| f64::from(v)).collect()
}

/// Every element within `tolerance`, relative to the larger of 1 and the largest expected magnitude.
#[track_caller]
fn assert_close(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    let largest = want.iter().fold(1.0f64, |m, v| m.max(v.abs()));
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(g) - w).abs();
        assert!(error <= tolerance * largest, "{what}[{i}] = {g}, expected {w} (+-{tolerance})");
    }
}
