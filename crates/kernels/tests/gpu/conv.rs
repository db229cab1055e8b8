//! Convolution: every direction, element type and path over a grid of shapes, and over random ones.

use crate::noise::noise;
use crate::{GPUS, filled, poisoned, rounded, unit};
use half::bf16;
use proptest::prelude::*;
use slimtau_kernels::conv::{ConvShape, reference};
use slimtau_kernels::gpu::{
    Activation, Buffer, Epilogue, Gpu, Running, conv_backward_input, conv_backward_weight,
    conv_forward, conv_forward_statistics, stored_channels,
};

fn shape(
    [batch, height, width]: [usize; 3],
    channels: [usize; 2],
    full: [usize; 2],
    kernel: usize,
    stride: usize,
) -> ConvShape {
    let ([in_channels, out_channels], [full_in, full_out]) = (channels, full);
    ConvShape { batch, height, width, in_channels, out_channels, full_in, full_out, kernel, stride }
}

/// Slimmed and full, odd and single pixels, all strides and kernels; channels that are multiples of a vector and not;
/// more rows, columns and pixels than one tile or one part has.
fn grid() -> Vec<ConvShape> {
    vec![
        shape([1, 1, 1], [8, 8], [8, 8], 3, 1),
        shape([2, 7, 7], [8, 16], [16, 24], 3, 1),
        shape([1, 5, 6], [24, 40], [32, 64], 3, 2),
        shape([3, 4, 4], [64, 136], [64, 144], 1, 2),
        shape([1, 3, 5], [40, 72], [48, 72], 1, 1),
        shape([1, 12, 12], [16, 72], [16, 72], 3, 1),
        shape([2, 17, 16], [8, 8], [16, 16], 3, 1),
        shape([2, 9, 8], [3, 8], [3, 16], 7, 2),
        shape([2, 11, 11], [3, 16], [5, 16], 7, 2),
        shape([1, 3, 13], [16, 8], [16, 8], 9, 1),
        shape([1, 9, 7], [40, 24], [48, 24], 7, 1),
        shape([2, 9, 8], [1, 16], [1, 16], 3, 1),
        shape([2, 6, 5], [10, 6], [12, 10], 3, 1),
        shape([2, 6, 5], [10, 6], [12, 10], 3, 2),
        shape([5, 1, 1], [20, 10], [32, 12], 1, 1),
        shape([1, 7, 6], [8, 8], [8, 8], 3, 3),
        shape([1, 2, 2], [4, 4], [8, 8], 1, 3),
    ]
}

/// `got` is `want` rounded to a `T`, but for the order of an f32 sum of terms whose absolute values sum to `magnitude`.
fn close<T: Activation>(
    what: &str,
    shape: &ConvShape,
    at: usize,
    got: f32,
    want: f64,
    magnitude: f64,
) {
    let tolerance = unit::<T>() * want.abs() + 16.0 * f64::from(f32::EPSILON) * magnitude;
    let error = (f64::from(got) - want).abs();
    assert!(error <= tolerance, "{what} of {shape} at {at}: {got}, not {want} (+-{tolerance})");
}

fn absolute(values: &[f32]) -> Vec<f32> {
    values.iter().map(|v| v.abs()).collect()
}

/// An input [N, H, W, C], as it is or stored with channels of zeros behind its own.
fn input<T: Activation>(gpu: &Gpu, s: &ConvShape, stored: bool, x: &[T]) -> Buffer<T> {
    let channels = if stored { stored_channels::<T>(s.in_channels) } else { s.in_channels };
    let mut wide = vec![T::from_f32(0.0); x.len() / s.in_channels * channels];
    for (to, from) in wide.chunks_exact_mut(channels).zip(x.chunks_exact(s.in_channels)) {
        to[..s.in_channels].copy_from_slice(from);
    }
    Buffer::from_slice(gpu, &wide).unwrap()
}

fn forward<T: Activation>(gpu: &Gpu, s: &ConvShape, stored: bool) {
    let (x, x32) = rounded::<T>(&noise(1, s.input_len()));
    let (w, w32) = rounded::<T>(&noise(2, s.weight_len()));
    let (x, w) = (input(gpu, s, stored, &x), Buffer::from_slice(gpu, &w).unwrap());
    let mut y = poisoned::<T>(gpu, s.output_len());
    conv_forward(gpu, s, x.view(), w.view(), y.view_mut(), Epilogue::None).unwrap();
    let plain = y.to_vec().unwrap();
    let (ax, aw) = (absolute(&x32), absolute(&w32));
    for (at, got) in plain.iter().enumerate() {
        let want = reference::output_at(s, &x32, &w32, at);
        let magnitude = reference::output_at(s, &ax, &aw, at);
        close::<T>("output", s, at, got.to_f32(), want, magnitude);
    }

    let (scale, shift) = (noise(3, s.out_channels), noise(4, s.out_channels));
    let (residual, residual32) = rounded::<T>(&noise(5, s.output_len()));
    let on_gpu = |v: &[f32]| Buffer::from_slice(gpu, v).unwrap();
    let (of_scale, of_shift) = (on_gpu(&scale), on_gpu(&shift));
    let of_residual = Buffer::from_slice(gpu, &residual).unwrap();
    for with_residual in [false, true] {
        for relu in [false, true] {
            let residual = with_residual.then(|| of_residual.view());
            let (scale_view, shift_view) = (of_scale.view(), of_shift.view());
            let end = Epilogue::Affine { scale: scale_view, shift: shift_view, residual, relu };
            let mut y = poisoned::<T>(gpu, s.output_len());
            conv_forward(gpu, s, x.view(), w.view(), y.view_mut(), end).unwrap();
            for (at, got) in y.to_vec().unwrap().into_iter().enumerate() {
                let c = at % s.out_channels;
                let (a, b) = (f64::from(scale[c]), f64::from(shift[c]));
                let r = if with_residual { f64::from(residual32[at]) } else { 0.0 };
                let mut want = reference::output_at(s, &x32, &w32, at) * a + b + r;
                if relu {
                    want = want.max(0.0);
                }
                let magnitude = reference::output_at(s, &ax, &aw, at) * a.abs() + b.abs() + r.abs();
                close::<T>("affine output", s, at, got.to_f32(), want, magnitude);
            }
        }
    }
}

fn statistics<T: Activation>(gpu: &Gpu, s: &ConvShape, stored: bool) {
    let (x, _) = rounded::<T>(&noise(1, s.input_len()));
    let (w, _) = rounded::<T>(&noise(2, s.weight_len()));
    let (x, w) = (input(gpu, s, stored, &x), Buffer::from_slice(gpu, &w).unwrap());
    let mut y = poisoned::<T>(gpu, s.output_len());
    let channels = s.out_channels;
    let (mut mean, mut var) = (poisoned::<f32>(gpu, channels), poisoned::<f32>(gpu, channels));
    let mut running = [filled(gpu, channels, 0.5f32), filled(gpu, channels, 0.5f32)];
    let [running_mean, running_var] = &mut running;
    let (running_mean, running_var) = (running_mean.view_mut(), running_var.view_mut());
    let tracked = Running { mean: running_mean, var: running_var, momentum: 0.25 };
    let (of_mean, of_var, mut scratch) = (mean.view_mut(), var.view_mut(), Buffer::new(gpu));
    let into = y.view_mut();
    conv_forward_statistics(
        gpu,
        s,
        x.view(),
        w.view(),
        into,
        of_mean,
        of_var,
        Some(tracked),
        &mut scratch,
    )
    .unwrap();
    let y = y.to_vec().unwrap();
    let mut plain = poisoned::<T>(gpu, s.output_len());
    conv_forward(gpu, s, x.view(), w.view(), plain.view_mut(), Epilogue::None).unwrap();
    let plain = plain.to_vec().unwrap();
    assert!(y.iter().zip(&plain).all(|(a, b)| a.to_f32() == b.to_f32()), "other outputs of {s}");
    let [running_mean, running_var] = running.map(|r| r.to_vec().unwrap());
    let (mean, var) = (mean.to_vec().unwrap(), var.to_vec().unwrap());
    let rows = (y.len() / channels) as f64;
    for c in 0..channels {
        let of_channel = || y.iter().skip(c).step_by(channels).map(|v| f64::from(v.to_f32()));
        let want_mean = of_channel().sum::<f64>() / rows;
        let want_var = of_channel().map(|v| (v - want_mean).powi(2)).sum::<f64>() / rows;
        let largest = of_channel().fold(0.0f64, |m, v| m.max(v.abs()));
        let unbiased = want_var * rows / (rows - 1.0).max(1.0);
        for (what, got, want, scale) in [
            ("mean", mean[c], want_mean, largest),
            ("variance", var[c], want_var, largest * largest),
            ("running mean", running_mean[c], 0.375 + 0.25 * want_mean, largest),
            ("running variance", running_var[c], 0.375 + 0.25 * unbiased, largest * largest),
        ] {
            let error = (f64::from(got) - want).abs();
            assert!(
                error <= 2e-6 * scale.max(1.0),
                "{what} of channel {c} of {s}: {got}, not {want}"
            );
        }
    }
}

fn backward_input<T: Activation>(gpu: &Gpu, s: &ConvShape) {
    let (g, g32) = rounded::<T>(&noise(6, s.output_len()));
    let (w, w32) = rounded::<T>(&noise(7, s.weight_len()));
    let (before, before32) = rounded::<T>(&noise(8, s.input_len()));
    let (g, w) = (Buffer::from_slice(gpu, &g).unwrap(), Buffer::from_slice(gpu, &w).unwrap());
    let mut overwritten = poisoned::<T>(gpu, s.input_len());
    conv_backward_input(gpu, s, g.view(), w.view(), overwritten.view_mut(), false).unwrap();
    let mut added = Buffer::from_slice(gpu, &before).unwrap();
    conv_backward_input(gpu, s, g.view(), w.view(), added.view_mut(), true).unwrap();
    let (overwritten, added) = (overwritten.to_vec().unwrap(), added.to_vec().unwrap());
    let (ag, aw) = (absolute(&g32), absolute(&w32));
    for at in 0..s.input_len() {
        let want = reference::input_gradient_at(s, &g32, &w32, at);
        let magnitude = reference::input_gradient_at(s, &ag, &aw, at);
        close::<T>("input gradient", s, at, overwritten[at].to_f32(), want, magnitude);
        let b = f64::from(before32[at]);
        let (sum, magnitude) = (want + b, magnitude + b.abs());
        close::<T>("added input gradient", s, at, added[at].to_f32(), sum, magnitude);
    }
}

fn backward_weight<T: Activation>(gpu: &Gpu, s: &ConvShape, stored: bool) {
    let (x, x32) = rounded::<T>(&noise(9, s.input_len()));
    let (g, g32) = rounded::<T>(&noise(10, s.output_len()));
    let (x, g) = (input(gpu, s, stored, &x), Buffer::from_slice(gpu, &g).unwrap());
    let mut gradient = filled(gpu, s.weight_len(), 0.5f32);
    let mut scratch = Buffer::new(gpu);
    let into = gradient.view_mut();
    conv_backward_weight(gpu, s, x.view(), g.view(), into, &mut scratch).unwrap();
    let (ax, ag) = (absolute(&x32), absolute(&g32));
    for (at, got) in gradient.to_vec().unwrap().into_iter().enumerate() {
        let want = reference::weight_gradient_at(s, &x32, &g32, at) + 0.5;
        let magnitude = reference::weight_gradient_at(s, &ax, &ag, at) + 0.5;
        if magnitude == 0.5 {
            assert_eq!(got, 0.5, "the inactive weight {at} of {s} was touched");
        }
        close::<f32>("weight gradient", s, at, got, want, magnitude);
    }
}

/// `stored`: with channels of zeros behind the input's, where a type needs them.
fn all<T: Activation>(s: &ConvShape, stored: bool) {
    for gpu in GPUS.iter() {
        forward::<T>(gpu, s, stored);
        statistics::<T>(gpu, s, stored);
        backward_weight::<T>(gpu, s, stored);
        if !stored {
            backward_input::<T>(gpu, s);
        }
    }
}

fn over_the_grid<T: Activation>() {
    for s in &grid() {
        all::<T>(s, false);
        if stored_channels::<T>(s.in_channels) != s.in_channels {
            all::<T>(s, true);
        }
    }
}

#[test]
fn every_direction_over_the_grid() {
    over_the_grid::<bf16>();
    over_the_grid::<f32>();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn every_direction_over_random_shapes(
        size in (1usize..4, 1usize..10, 1usize..10),
        channels in (1usize..20, 1usize..20),
        inactive in (0usize..9, 0usize..9),
        kernel in prop::sample::select(vec![1usize, 3, 5]),
        stride in 1usize..4,
        eights: bool,
        stored: bool,
    ) {
        let by = if eights { 8 } else { 1 };
        let channels = [channels.0 * by, channels.1 * by];
        let full = [channels[0] + inactive.0 * by, channels[1] + inactive.1 * by];
        let s = shape([size.0, size.1, size.2], channels, full, kernel, stride);
        all::<bf16>(&s, stored);
        all::<f32>(&s, stored);
    }
}
