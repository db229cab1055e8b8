//! The definition of the three functions, one element at a time and in f64: what tests and benches
//! hold the kernels to.

use super::ConvShape;

/// The place in the input that tap `tap` of output `out` reads, if it is not padding.
fn source(shape: &ConvShape, size: usize, out: usize, tap: usize) -> Option<usize> {
    (out * shape.stride + tap).checked_sub(shape.padding()).filter(|&at| at < size)
}

/// The output that reads input `at` through tap `tap`, if there is one.
fn target(shape: &ConvShape, size: usize, at: usize, tap: usize) -> Option<usize> {
    let from = (at + shape.padding()).checked_sub(tap)?;
    (from.is_multiple_of(shape.stride) && from / shape.stride < size).then(|| from / shape.stride)
}

fn weight_at(shape: &ConvShape, kh: usize, kw: usize, c: usize, o: usize) -> usize {
    ((kh * shape.kernel + kw) * shape.full_in + c) * shape.full_out + o
}

fn taps(shape: &ConvShape) -> impl Iterator<Item = (usize, usize)> {
    let kernel = shape.kernel;
    (0..kernel * kernel).map(move |t| (t / kernel, t % kernel))
}

/// Element `at` of the output, before any epilogue.
pub fn output_at(shape: &ConvShape, input: &[f32], weight: &[f32], at: usize) -> f64 {
    let (o, pixel) = (at % shape.out_channels, at / shape.out_channels);
    let (x, line) = (pixel % shape.out_width(), pixel / shape.out_width());
    let (y, n) = (line % shape.out_height(), line / shape.out_height());
    let mut sum = 0.0;
    for (kh, kw) in taps(shape) {
        let (Some(iy), Some(ix)) =
            (source(shape, shape.height, y, kh), source(shape, shape.width, x, kw))
        else {
            continue;
        };
        let pixel = ((n * shape.height + iy) * shape.width + ix) * shape.in_channels;
        for c in 0..shape.in_channels {
            sum += f64::from(input[pixel + c]) * f64::from(weight[weight_at(shape, kh, kw, c, o)]);
        }
    }
    sum
}

/// Element `at` of the input's gradient.
pub fn input_gradient_at(shape: &ConvShape, grad_output: &[f32], weight: &[f32], at: usize) -> f64 {
    let (c, pixel) = (at % shape.in_channels, at / shape.in_channels);
    let (ix, line) = (pixel % shape.width, pixel / shape.width);
    let (iy, n) = (line % shape.height, line / shape.height);
    let (height, width) = (shape.out_height(), shape.out_width());
    let mut sum = 0.0;
    for (kh, kw) in taps(shape) {
        let (Some(y), Some(x)) = (target(shape, height, iy, kh), target(shape, width, ix, kw))
        else {
            continue;
        };
        let pixel = ((n * height + y) * width + x) * shape.out_channels;
        for o in 0..shape.out_channels {
            sum += f64::from(grad_output[pixel + o])
                * f64::from(weight[weight_at(shape, kh, kw, c, o)]);
        }
    }
    sum
}

/// Element `at` of the weight's gradient; zero outside of the active block.
pub fn weight_gradient_at(shape: &ConvShape, input: &[f32], grad_output: &[f32], at: usize) -> f64 {
    let (o, row) = (at % shape.full_out, at / shape.full_out);
    let (c, tap) = (row % shape.full_in, row / shape.full_in);
    let (kh, kw) = (tap / shape.kernel, tap % shape.kernel);
    if c >= shape.in_channels || o >= shape.out_channels {
        return 0.0;
    }
    let (height, width) = (shape.out_height(), shape.out_width());
    let mut sum = 0.0;
    for n in 0..shape.batch {
        for y in 0..height {
            let Some(iy) = source(shape, shape.height, y, kh) else {
                continue;
            };
            for x in 0..width {
                let Some(ix) = source(shape, shape.width, x, kw) else {
                    continue;
                };
                let a = input[((n * shape.height + iy) * shape.width + ix) * shape.in_channels + c];
                let g = grad_output[((n * height + y) * width + x) * shape.out_channels + o];
                sum += f64::from(a) * f64::from(g);
            }
        }
    }
    sum
}
