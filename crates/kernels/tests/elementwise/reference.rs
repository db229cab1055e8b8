//! The operations written down as plainly as possible, in f64.

pub struct Moments {
    pub mean: Vec<f64>,
    pub var: Vec<f64>,
}

pub fn batch_statistics(channels: usize, x: &[f64]) -> Moments {
    let rows = (x.len() / channels) as f64;
    let over_rows = |c: usize, f: &dyn Fn(f64) -> f64| {
        x[c..].iter().step_by(channels).map(|&v| f(v)).sum::<f64>() / rows
    };
    let mean: Vec<f64> = (0..channels).map(|c| over_rows(c, &|v| v)).collect();
    let var = (0..channels).map(|c| over_rows(c, &|v| (v - mean[c]).powi(2))).collect();
    Moments { mean, var }
}

pub fn norm_forward(
    moments: &Moments,
    gamma: &[f64],
    beta: &[f64],
    relu: bool,
    x: &[f64],
    residual: Option<&[f64]>,
) -> Vec<f64> {
    let channels = gamma.len();
    (0..x.len())
        .map(|i| {
            let c = i % channels;
            let deviation = (moments.var[c] + f64::from(slimtau_kernels::norm::EPSILON)).sqrt();
            let y = (x[i] - moments.mean[c]) / deviation * gamma[c] + beta[c];
            let y = y + residual.map_or(0.0, |r| r[i]);
            if relu { y.max(0.0) } else { y }
        })
        .collect()
}

pub struct NormGradients {
    pub x: Vec<f64>,
    pub residual: Vec<f64>,
    pub gamma: Vec<f64>,
    pub beta: Vec<f64>,
}

/// `active[i]`: the ReLU let element `i` through.
pub fn norm_backward(
    moments: &Moments,
    gamma: &[f64],
    through_statistics: bool,
    x: &[f64],
    active: &[bool],
    grad: &[f64],
) -> NormGradients {
    let channels = gamma.len();
    let rows = (x.len() / channels) as f64;
    let g: Vec<f64> = grad.iter().zip(active).map(|(g, a)| if *a { *g } else { 0.0 }).collect();
    let deviation = |c: usize| (moments.var[c] + f64::from(slimtau_kernels::norm::EPSILON)).sqrt();
    let h: Vec<f64> = (0..x.len())
        .map(|i| (x[i] - moments.mean[i % channels]) / deviation(i % channels))
        .collect();
    let (mut grad_gamma, mut grad_beta) = (vec![0.0; channels], vec![0.0; channels]);
    for i in 0..x.len() {
        grad_gamma[i % channels] += g[i] * h[i];
        grad_beta[i % channels] += g[i];
    }
    let grad_x = (0..x.len())
        .map(|i| {
            let c = i % channels;
            let through = if through_statistics {
                grad_beta[c] / rows + h[i] * grad_gamma[c] / rows
            } else {
                0.0
            };
            gamma[c] / deviation(c) * (g[i] - through)
        })
        .collect();
    NormGradients { x: grad_x, residual: g, gamma: grad_gamma, beta: grad_beta }
}

/// Windows of a 3x3, stride 2, padding 1 pool: for each output pixel, (window position, input pixel).
pub fn pool_windows(height: usize, width: usize) -> Vec<Vec<(u8, usize)>> {
    let mut windows = Vec::new();
    for oy in 0..(height + 2 - 3) / 2 + 1 {
        for ox in 0..(width + 2 - 3) / 2 + 1 {
            let mut window = Vec::new();
            for ky in 0..3 {
                for kx in 0..3 {
                    let y = (2 * oy + ky) as isize - 1;
                    let x = (2 * ox + kx) as isize - 1;
                    if (0..height as isize).contains(&y) && (0..width as isize).contains(&x) {
                        let pixel = y as usize * width + x as usize;
                        window.push(((3 * ky + kx) as u8, pixel));
                    }
                }
            }
            windows.push(window);
        }
    }
    windows
}

/// Values and positions by the definition: the last NaN if there is one, else the first maximum.
pub fn max_pool(height: usize, width: usize, channels: usize, x: &[f32]) -> (Vec<f32>, Vec<u8>) {
    let windows = pool_windows(height, width);
    let (mut y, mut argmax) = (Vec::new(), Vec::new());
    for image in x.chunks(height * width * channels) {
        for window in &windows {
            for c in 0..channels {
                let value = |pixel: usize| image[pixel * channels + c];
                let nan = window.iter().rev().find(|(_, pixel)| value(*pixel).is_nan());
                let best = nan.copied().unwrap_or_else(|| {
                    let max = window.iter().map(|w| value(w.1)).fold(f32::NEG_INFINITY, f32::max);
                    *window.iter().find(|w| value(w.1) == max).unwrap()
                });
                y.push(value(best.1));
                argmax.push(best.0);
            }
        }
    }
    (y, argmax)
}

pub fn max_pool_gradient(
    height: usize,
    width: usize,
    channels: usize,
    argmax: &[u8],
    grad_y: &[f32],
) -> Vec<f64> {
    let windows = pool_windows(height, width);
    let images = grad_y.len() / (windows.len() * channels);
    let mut grad_x = vec![0.0; images * height * width * channels];
    for (i, g) in grad_y.iter().enumerate() {
        let (pixel, c) = (i / channels, i % channels);
        let (image, window) = (pixel / windows.len(), &windows[pixel % windows.len()]);
        let (_, at) = window.iter().find(|(position, _)| *position == argmax[i]).unwrap();
        grad_x[(image * height * width + at) * channels + c] += f64::from(*g);
    }
    grad_x
}

/// `x[rows, inputs] w[:, ..inputs]^T + bias`.
pub fn linear(inputs: usize, full_inputs: usize, x: &[f64], w: &[f64], bias: &[f64]) -> Vec<f64> {
    x.chunks(inputs)
        .flat_map(|x| {
            w.chunks(full_inputs)
                .zip(bias)
                .map(|(w, b)| b + x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>())
        })
        .collect()
}

pub fn log_softmax(x: &[f64]) -> Vec<f64> {
    let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = x.iter().map(|v| (v - max).exp()).sum();
    x.iter().map(|v| v - max - total.ln()).collect()
}

/// The mean over the rows of `-sum t log softmax(x)`.
pub fn cross_entropy(classes: usize, x: &[f64], target: &[f64]) -> f64 {
    let rows = (x.len() / classes) as f64;
    let each = x.chunks(classes).zip(target.chunks(classes));
    each.map(|(x, t)| -log_softmax(x).iter().zip(t).map(|(l, t)| l * t).sum::<f64>()).sum::<f64>()
        / rows
}

pub fn one_hot(classes: usize, labels: &[u32]) -> Vec<f64> {
    labels
        .iter()
        .flat_map(|&label| (0..classes).map(move |c| f64::from(u8::from(c == label as usize))))
        .collect()
}

/// Rows divided by their norms.
pub fn l2_normalize(dim: usize, x: &[f64]) -> Vec<f64> {
    x.chunks(dim)
        .flat_map(|x| {
            let norm = x.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-12);
            x.iter().map(move |v| v / norm)
        })
        .collect()
}

/// The logits `[rows, 1 + length]` of MoCo's equation 1.
pub fn info_nce_logits(
    dim: usize,
    temperature: f64,
    q: &[f64],
    k: &[f64],
    queue: &[f64],
) -> Vec<f64> {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    q.chunks(dim)
        .zip(k.chunks(dim))
        .flat_map(|(q, k)| {
            std::iter::once(k).chain(queue.chunks(dim)).map(move |key| dot(q, key) / temperature)
        })
        .collect()
}

/// Loss and gradient of `q`.
pub fn info_nce(
    dim: usize,
    temperature: f64,
    q: &[f64],
    k: &[f64],
    queue: &[f64],
) -> (f64, Vec<f64>) {
    let rows = q.len() / dim;
    let logits = info_nce_logits(dim, temperature, q, k, queue);
    let n = logits.len() / rows;
    let (mut loss, mut grad) = (0.0, vec![0.0; q.len()]);
    for row in 0..rows {
        let log_p = log_softmax(&logits[row * n..(row + 1) * n]);
        loss -= log_p[0] / rows as f64;
        let keys = std::iter::once(&k[row * dim..(row + 1) * dim]).chain(queue.chunks(dim));
        for (j, key) in keys.enumerate() {
            let g = log_p[j].exp() - if j == 0 { 1.0 } else { 0.0 };
            for (i, key) in key.iter().enumerate() {
                grad[row * dim + i] += g * key / temperature / rows as f64;
            }
        }
    }
    (loss, grad)
}

/// The gradient of `f` at `x` by central differences.
pub fn numeric_gradient(x: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    const STEP: f64 = 1e-5;
    let mut at = x.to_vec();
    (0..x.len())
        .map(|i| {
            at[i] = x[i] + STEP;
            let above = f(&at);
            at[i] = x[i] - STEP;
            let below = f(&at);
            at[i] = x[i];
            (above - below) / (2.0 * STEP)
        })
        .collect()
}

/// `sum(x * weights)`: makes a scalar of an output, so that its gradient is `weights`.
pub fn weighted(x: &[f64], weights: &[f64]) -> f64 {
    x.iter().zip(weights).map(|(x, w)| x * w).sum()
}
