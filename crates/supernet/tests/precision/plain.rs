//! The network written down plainly, in any precision: direct convolutions, batch norm with the
//! statistics of the batch, ReLU, residuals, average pool and classifier, forward and backward.

use slimtau_space::ConvLayer;
use std::ops::{Add, AddAssign, Div, Mul, Sub};

/// A floating-point type.
pub trait Real:
    Copy
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + AddAssign
{
    fn of(x: f64) -> Self;
    fn wide(self) -> f64;
}

impl Real for f32 {
    fn of(x: f64) -> Self {
        x as f32
    }
    fn wide(self) -> f64 {
        f64::from(self)
    }
}

impl Real for f64 {
    fn of(x: f64) -> Self {
        x
    }
    fn wide(self) -> f64 {
        self
    }
}

/// A convolution's HWIO weight and its norm's scale and shift; or their gradients.
#[derive(Clone)]
pub struct Values<R> {
    pub weight: Vec<R>,
    pub gamma: Vec<R>,
    pub beta: Vec<R>,
}

/// What one convolution with its norm leaves for the backward pass.
pub struct Tape<R> {
    x: Vec<R>,
    normalised: Vec<R>,
    inverse_deviation: Vec<f64>,
    pub out: Vec<R>,
    relu: bool,
}

/// For every output pixel and tap inside the map: first elements of the output pixel, of the input
/// pixel, and of the tap's weights.
fn taps(layer: &ConvLayer, batch: usize, mut visit: impl FnMut(usize, usize, usize)) {
    let ConvLayer { in_channels, out_channels, kernel, stride, in_size, out_size } = *layer;
    let source = |o: usize, k: usize| {
        let i = (o * stride + k).checked_sub(kernel / 2)?;
        (i < in_size).then_some(i)
    };
    for n in 0..batch {
        for (oy, ox) in (0..out_size).flat_map(|y| (0..out_size).map(move |x| (y, x))) {
            for (ky, kx) in (0..kernel).flat_map(|y| (0..kernel).map(move |x| (y, x))) {
                if let (Some(iy), Some(ix)) = (source(oy, ky), source(ox, kx)) {
                    visit(
                        ((n * out_size + oy) * out_size + ox) * out_channels,
                        ((n * in_size + iy) * in_size + ix) * in_channels,
                        (ky * kernel + kx) * in_channels * out_channels,
                    );
                }
            }
        }
    }
}

/// `[relu](norm(conv(x)) [+ residual])`.
pub fn conv_norm<R: Real>(
    layer: &ConvLayer,
    values: &Values<R>,
    batch: usize,
    x: &[R],
    residual: Option<&[R]>,
    relu: bool,
) -> Tape<R> {
    let (ci, co) = (layer.in_channels, layer.out_channels);
    let rows = batch * layer.out_size * layer.out_size;
    let mut y = vec![R::of(0.0); rows * co];
    taps(layer, batch, |o, i, w| {
        let y = &mut y[o..o + co];
        for (x, w) in x[i..i + ci].iter().zip(values.weight[w..].chunks_exact(co)) {
            for (y, w) in y.iter_mut().zip(w) {
                *y += *x * *w;
            }
        }
    });
    // Statistics in f64 for every type: they are not what is to be compared.
    let (mut mean, mut square) = (vec![0.0; co], vec![0.0; co]);
    for row in y.chunks_exact(co) {
        mean.iter_mut().zip(row).for_each(|(m, v)| *m += v.wide() / rows as f64);
    }
    for row in y.chunks_exact(co) {
        for ((s, v), m) in square.iter_mut().zip(row).zip(&mean) {
            *s += (v.wide() - m).powi(2) / rows as f64;
        }
    }
    let inverse_deviation: Vec<f64> = square.iter().map(|s| 1.0 / (s + 1e-5).sqrt()).collect();
    let normalised: Vec<R> = (0..y.len())
        .map(|i| (y[i] - R::of(mean[i % co])) * R::of(inverse_deviation[i % co]))
        .collect();
    let out = (0..y.len())
        .map(|i| {
            let mut v = normalised[i] * values.gamma[i % co] + values.beta[i % co];
            if let Some(residual) = residual {
                v += residual[i];
            }
            if relu && v < R::of(0.0) { R::of(0.0) } else { v }
        })
        .collect();
    Tape { x: x.to_vec(), normalised, inverse_deviation, out, relu }
}

impl<R: Real> Tape<R> {
    /// From the gradient of the output: those of the values, of the input and of the residual.
    pub fn backward(
        &self,
        layer: &ConvLayer,
        values: &Values<R>,
        batch: usize,
        grad_out: &[R],
    ) -> (Values<R>, Vec<R>, Vec<R>) {
        let (ci, co) = (layer.in_channels, layer.out_channels);
        let zero = R::of(0.0);
        let through = |(g, y): (&R, &R)| if self.relu && *y <= zero { zero } else { *g };
        let g: Vec<R> = grad_out.iter().zip(&self.out).map(through).collect();
        let (mut gamma, mut beta) = (vec![0.0; co], vec![0.0; co]);
        for (i, g) in g.iter().enumerate() {
            gamma[i % co] += g.wide() * self.normalised[i].wide();
            beta[i % co] += g.wide();
        }
        let rows = (g.len() / co) as f64;
        let grad_y: Vec<R> = (0..g.len())
            .map(|i| {
                let c = i % co;
                let mean = R::of(beta[c] / rows) + self.normalised[i] * R::of(gamma[c] / rows);
                (g[i] - mean) * values.gamma[c] * R::of(self.inverse_deviation[c])
            })
            .collect();
        let mut grad_x = vec![zero; self.x.len()];
        let mut grad_w = vec![zero; values.weight.len()];
        taps(layer, batch, |o, i, w| {
            let grad_y = &grad_y[o..o + co];
            let rows = values.weight[w..].chunks_exact(co).zip(grad_w[w..].chunks_exact_mut(co));
            let pixel = self.x[i..i + ci].iter().zip(&mut grad_x[i..i + ci]);
            for ((x, grad_x), (w, grad_w)) in pixel.zip(rows) {
                let mut sum = zero;
                for ((g, w), grad_w) in grad_y.iter().zip(w).zip(grad_w) {
                    sum += *g * *w;
                    *grad_w += *x * *g;
                }
                *grad_x += sum;
            }
        });
        let narrow = |v: Vec<f64>| v.into_iter().map(R::of).collect();
        let values = Values { weight: grad_w, gamma: narrow(gamma), beta: narrow(beta) };
        (values, grad_x, g)
    }
}
