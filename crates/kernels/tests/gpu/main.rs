//! The GPU kernels against the plain references: on the emulator, in both orders of threads, or on a GPU. The tests need
//! one or the other, so they run by `cargo xtask cuda test`.

mod conv;
mod linear;
mod loss;
#[path = "../noise/mod.rs"]
mod noise;
mod norm;
mod nvrtc;
mod optimiser;
mod place;
mod pool;
#[allow(dead_code, reason = "shared with the tests of the CPU's functions, which need all of it")]
#[path = "../elementwise/reference.rs"]
mod reference;
mod rows;

use slimtau_kernels::gpu::{Activation, Buffer, Element, Gpu};
use std::sync::LazyLock;

static GPUS: LazyLock<Vec<Gpu>> = LazyLock::new(place::gpus);

/// A buffer that a kernel is to overwrite: NaN, so that what it leaves out shows.
fn poisoned<T: Activation>(gpu: &Gpu, len: usize) -> Buffer<T> {
    filled(gpu, len, T::from_f32(f32::NAN))
}

fn filled<T: Element>(gpu: &Gpu, len: usize, value: T) -> Buffer<T> {
    Buffer::from_slice(gpu, &vec![value; len]).expect("memory")
}

/// Values as a `T` holds them, and these as f32.
fn rounded<T: Activation>(values: &[f32]) -> (Vec<T>, Vec<f32>) {
    let rounded: Vec<T> = values.iter().map(|v| T::from_f32(*v)).collect();
    let back = rounded.iter().map(|v| v.to_f32()).collect();
    (rounded, back)
}

/// Half a unit in the last place of a `T`, relative to the value.
fn unit<T: Activation>() -> f64 {
    if size_of::<T>() == 2 { 1.0 / 256.0 } else { f64::from(f32::EPSILON) / 2.0 }
}

/// What `run` gives on every GPU, twice on each: always the same bits.
fn same_everywhere(run: impl Fn(&Gpu) -> Vec<Vec<f32>>) -> Vec<Vec<f32>> {
    let bits = |values: &[Vec<f32>]| -> Vec<Vec<u32>> {
        values.iter().map(|v| v.iter().map(|x| x.to_bits()).collect()).collect()
    };
    let first = run(&GPUS[0]);
    for gpu in GPUS.iter().rev() {
        assert_eq!(bits(&run(gpu)), bits(&first), "other bits in another order or run");
    }
    first
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| f64::from(v)).collect()
}

/// Every element within `tolerance`, relative to the larger of 1 and the largest expected magnitude, and rounded to a `T`.
#[track_caller]
fn assert_close<T: Activation>(what: &str, got: &[T], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    let allowed = tolerance * want.iter().fold(1.0f64, |m, v| m.max(v.abs()));
    for (i, (g, &w)) in got.iter().zip(want).enumerate() {
        let (got, allowed) = (g.to_f32(), allowed + unit::<T>() * w.abs());
        let error = (f64::from(got) - w).abs();
        assert!(error <= allowed, "{what}[{i}] = {got}, expected {w} (+-{allowed})");
    }
}

#[test]
#[should_panic(expected = "a buffer on another GPU")]
fn buffers_of_another_gpu_are_refused() {
    let [here, there] = [0, 1].map(|_| place::gpus().remove(0));
    let from = Buffer::from_slice(&there, &[1.0f32]).unwrap();
    let mut to = Buffer::<half::bf16>::new(&here);
    let to = to.reserve(1).unwrap();
    let _ = slimtau_kernels::gpu::convert(&here, from.view(), to);
}
