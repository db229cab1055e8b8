//! Max pool, average pool and conversions.

use crate::noise::noise;
use crate::{GPUS, assert_close, filled, poisoned, reference, rounded, wide};
use half::bf16;
use slimtau_kernels::gpu::{
    Activation, Buffer, Element, Gpu, average_pool_backward, average_pool_forward, convert,
    max_pool_backward, max_pool_forward,
};
use slimtau_kernels::pool::PoolShape;

/// `offset` elements and then the values.
fn shifted<T: Element>(gpu: &Gpu, offset: usize, values: &[T]) -> Buffer<T> {
    Buffer::from_slice(gpu, &[&vec![T::default(); offset], values].concat()).unwrap()
}

fn same<T: Activation>(got: &[T], want: &[f32]) {
    assert_eq!(got.len(), want.len());
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let g = g.to_f32();
        assert!(g.to_bits() == w.to_bits() || (g.is_nan() && w.is_nan()), "{g} at {i}, not {w}");
    }
}

fn check<T: Activation>(gpu: &Gpu, shape: &PoolShape, offset: usize, x: &[f32]) {
    let PoolShape { height, width, channels, .. } = *shape;
    let (input_len, output_len) = (shape.input_len(), shape.output_len());
    let (x, x32) = rounded::<T>(x);
    let (want, want_argmax) = reference::max_pool(height, width, channels, &x32);
    let x = shifted(gpu, offset, &x);
    let x = x.view().range(offset..offset + input_len);
    let mut y = filled(gpu, output_len, T::from_f32(7e30));
    let mut argmax = filled(gpu, output_len, 99u8);
    max_pool_forward(gpu, shape, x, y.view_mut(), Some(argmax.view_mut())).unwrap();
    same(&y.to_vec().unwrap(), &want);
    assert_eq!(argmax.to_vec().unwrap(), want_argmax, "argmax of {shape:?}");
    let mut without = filled(gpu, output_len, T::from_f32(7e30));
    max_pool_forward(gpu, shape, x, without.view_mut(), None).unwrap();
    same(&without.to_vec().unwrap(), &want);

    let (grad_y, grad_y32) = rounded::<T>(&noise(3, output_len));
    let want = reference::max_pool_gradient(height, width, channels, &want_argmax, &grad_y32);
    let grad_y = Buffer::from_slice(gpu, &grad_y).unwrap();
    let mut grad_x = poisoned::<T>(gpu, offset + input_len);
    let to = grad_x.view_mut().range(offset..offset + input_len);
    max_pool_backward(gpu, shape, argmax.view(), grad_y.view(), to).unwrap();
    let grad_x = grad_x.view().range(offset..offset + input_len).to_vec().unwrap();
    // A sum of up to four f32 values, rounded to a `T`.
    assert_close("grad_x", &grad_x, &want, 1e-6);
}

/// Many ties, infinities and NaN.
fn coarse(x: &[f32]) -> Vec<f32> {
    let value = |v: &f32| match (v * 4.0).round() as i32 {
        -7 => f32::NEG_INFINITY,
        7 => f32::INFINITY,
        6 => f32::NAN,
        n => (n / 3) as f32,
    };
    x.iter().map(value).collect()
}

#[test]
fn max_pool_follows_the_definition() {
    let sizes = [(1, 1, 1), (2, 2, 3), (1, 7, 8), (3, 5, 4), (2, 1, 6), (1, 16, 15)];
    for gpu in GPUS.iter() {
        for (batch, height, width) in sizes {
            for (channels, offset) in [(1, 0), (8, 0), (8, 1), (10, 0), (20, 0), (72, 0)] {
                let shape = PoolShape { batch, height, width, channels };
                let x = noise(1, shape.input_len());
                for x in [coarse(&x), x] {
                    check::<f32>(gpu, &shape, offset, &x);
                    check::<bf16>(gpu, &shape, offset, &x);
                }
            }
        }
    }
}

fn average_pool<T: Activation>(gpu: &Gpu, batch: usize, pixels: usize, channels: usize) {
    let (x, x32) = rounded::<T>(&noise(1, batch * pixels * channels));
    let x = Buffer::from_slice(gpu, &x).unwrap();
    let run = || {
        let mut y = poisoned::<f32>(gpu, batch * channels);
        average_pool_forward(gpu, batch, pixels, channels, x.view(), y.view_mut()).unwrap();
        y.to_vec().unwrap()
    };
    let y = run();
    let want: Vec<f64> = wide(&x32)
        .chunks(pixels * channels)
        .flat_map(|image| reference::batch_statistics(channels, image).mean)
        .collect();
    // Sums of four in f32, the rest in f64.
    assert_close("y", &y, &want, 1e-6);
    assert_eq!(run(), y);

    let grad_y = noise(2, batch * channels);
    let on_gpu = Buffer::from_slice(gpu, &grad_y).unwrap();
    let mut grad_x = poisoned::<T>(gpu, batch * pixels * channels);
    let to = grad_x.view_mut();
    average_pool_backward(gpu, batch, pixels, channels, on_gpu.view(), to).unwrap();
    let want: Vec<f64> = (0..batch * pixels * channels)
        .map(|i| {
            let (image, c) = (i / (pixels * channels), i % channels);
            f64::from(grad_y[image * channels + c]) / pixels as f64
        })
        .collect();
    // A product with the rounded 1 / pixels, rounded to a `T`.
    assert_close("grad_x", &grad_x.to_vec().unwrap(), &want, 1e-7);
}

#[test]
fn average_pool_follows_the_definition() {
    let shapes = [
        (1, 1, 1),
        (3, 49, 64),
        (2, 16, 24),
        (5, 9, 10),
        (2, 64, 1),
        (1, 700, 3),
        (1, 1300, 8),
        (2, 4, 1032),
        (2, 3, 517),
    ];
    for gpu in GPUS.iter() {
        for (batch, pixels, channels) in shapes {
            average_pool::<f32>(gpu, batch, pixels, channels);
            average_pool::<bf16>(gpu, batch, pixels, channels);
        }
    }
}

fn converted<From: Activation, To: Activation>(gpu: &Gpu, offset: usize, from: &[From]) {
    let all = offset..offset + from.len();
    let source = shifted(gpu, offset, from);
    let mut to = filled(gpu, offset + from.len(), To::from_f32(-3.0));
    let view = to.view_mut().range(all.clone());
    convert(gpu, source.view().range(all.clone()), view).unwrap();
    let want: Vec<f32> = from.iter().map(|v| To::from_f32(v.to_f32()).to_f32()).collect();
    let got = to.to_vec().unwrap();
    same(&got[all], &want);
    same(&got[..offset], &vec![-3.0; offset]);
}

/// Every bf16, and of f32 what lies on, beside and half-way between them.
#[test]
fn conversions_round_to_the_nearest() {
    let narrow: Vec<bf16> = (0..=u16::MAX).map(bf16::from_bits).collect();
    let between = |low: u32| (0..=u16::MAX).step_by(5).map(move |h| u32::from(h) << 16 | low);
    let wide: Vec<f32> = [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff]
        .into_iter()
        .flat_map(between)
        .map(f32::from_bits)
        .collect();
    for gpu in GPUS.iter() {
        converted::<bf16, f32>(gpu, 0, &narrow);
        converted::<f32, bf16>(gpu, 0, &wide);
        converted::<f32, f32>(gpu, 1, &noise(1, 100));
        for len in [0, 1, 7, 8, 9, 2047, 2048, 2049, 4100] {
            for offset in [0, 1, 8] {
                converted::<bf16, f32>(gpu, offset, &narrow[16_000..16_000 + len]);
                converted::<f32, bf16>(gpu, offset, &wide[..len]);
            }
        }
    }
}
