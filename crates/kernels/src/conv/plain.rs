//! Plain loops for every shape: what the fast kernels are not made for goes here.

use rayon::prelude::*;

use super::{ConvShape, Epilogue};

pub(super) fn forward(
    shape: &ConvShape,
    input: &[f32],
    weight: &[f32],
    output: &mut [f32],
    epilogue: Epilogue<'_>,
) {
    let (oh, ow, ci, co) =
        (shape.out_height(), shape.out_width(), shape.in_channels, shape.out_channels);
    if ow * co == 0 {
        return;
    }
    let tap = shape.full_in * shape.full_out;
    output.par_chunks_mut(ow * co).enumerate().for_each(|(row, out)| {
        let (n, y) = (row / oh, row % oh);
        out.fill(0.0);
        for x in 0..ow {
            let acc = &mut out[x * co..(x + 1) * co];
            for kh in 0..shape.kernel {
                let Some(iy) = source(y, kh, shape.stride, shape.padding(), shape.height) else {
                    continue;
                };
                for kw in 0..shape.kernel {
                    let Some(ix) = source(x, kw, shape.stride, shape.padding(), shape.width) else {
                        continue;
                    };
                    let pixel = ((n * shape.height + iy) * shape.width + ix) * ci;
                    for c in 0..ci {
                        let a = input[pixel + c];
                        let w = (kh * shape.kernel + kw) * tap + c * shape.full_out;
                        for (s, w) in acc.iter_mut().zip(&weight[w..w + co]) {
                            *s += a * w;
                        }
                    }
                }
            }
        }
        if let Epilogue::Affine { scale, shift, residual, relu } = epilogue {
            let base = row * ow * co;
            for (i, v) in out.iter_mut().enumerate() {
                let mut y = *v * scale[i % co] + shift[i % co];
                if let Some(r) = residual {
                    y += r[base + i];
                }
                *v = if relu { y.max(0.0) } else { y };
            }
        }
    });
}

pub(super) fn backward_input(
    shape: &ConvShape,
    grad_output: &[f32],
    weight: &[f32],
    grad_input: &mut [f32],
    accumulate: bool,
) {
    let (oh, ow, ci, co) =
        (shape.out_height(), shape.out_width(), shape.in_channels, shape.out_channels);
    if shape.width * ci == 0 {
        return;
    }
    let tap = shape.full_in * shape.full_out;
    grad_input.par_chunks_mut(shape.width * ci).enumerate().for_each(|(row, out)| {
        let (n, iy) = (row / shape.height, row % shape.height);
        if !accumulate {
            out.fill(0.0);
        }
        for kh in 0..shape.kernel {
            let Some(y) = target(iy, kh, shape.stride, shape.padding(), oh) else {
                continue;
            };
            for ix in 0..shape.width {
                for kw in 0..shape.kernel {
                    let Some(x) = target(ix, kw, shape.stride, shape.padding(), ow) else {
                        continue;
                    };
                    let g = &grad_output[((n * oh + y) * ow + x) * co..][..co];
                    for c in 0..ci {
                        let w =
                            &weight[(kh * shape.kernel + kw) * tap + c * shape.full_out..][..co];
                        out[ix * ci + c] += dot(g, w);
                    }
                }
            }
        }
    });
}

pub(super) fn backward_weight(
    shape: &ConvShape,
    input: &[f32],
    grad_output: &[f32],
    grad_weight: &mut [f32],
) {
    let (oh, ow, ci, co) =
        (shape.out_height(), shape.out_width(), shape.in_channels, shape.out_channels);
    if shape.full_out == 0 {
        return;
    }
    grad_weight.par_chunks_mut(shape.full_out).enumerate().for_each(|(row, out)| {
        let (tap, c) = (row / shape.full_in, row % shape.full_in);
        if c >= ci {
            return;
        }
        let (kh, kw) = (tap / shape.kernel, tap % shape.kernel);
        for n in 0..shape.batch {
            for y in 0..oh {
                let Some(iy) = source(y, kh, shape.stride, shape.padding(), shape.height) else {
                    continue;
                };
                for x in 0..ow {
                    let Some(ix) = source(x, kw, shape.stride, shape.padding(), shape.width) else {
                        continue;
                    };
                    let a = input[((n * shape.height + iy) * shape.width + ix) * ci + c];
                    let g = &grad_output[((n * oh + y) * ow + x) * co..][..co];
                    for (s, g) in out[..co].iter_mut().zip(g) {
                        *s += a * g;
                    }
                }
            }
        }
    });
}

fn source(out: usize, tap: usize, stride: usize, padding: usize, size: usize) -> Option<usize> {
    (out * stride + tap).checked_sub(padding).filter(|&i| i < size)
}

fn target(input: usize, tap: usize, stride: usize, padding: usize, size: usize) -> Option<usize> {
    let at = (input + padding).checked_sub(tap)?;
    (at.is_multiple_of(stride) && at / stride < size).then_some(at / stride)
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let (a16, b16) = (a.chunks_exact(16), b.chunks_exact(16));
    let tail: f32 = a16.remainder().iter().zip(b16.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a16.zip(b16) {
        for i in 0..16 {
            lanes[i] += a[i] * b[i];
        }
    }
    lanes.iter().sum::<f32>() + tail
}
