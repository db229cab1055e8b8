//! The stem's 3x3 max pool and the head's global average pool, forward and backward.

use crate::tile::{FLUSH, TILE, Tiling, flush, vectorised};
use slimtau_parallel::{chunks, chunks_mut, for_each_chunk};

/// A 3x3 max pool with stride 2 and padding 1 over `[batch, height, width, channels]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolShape {
    /// Images.
    pub batch: usize,
    /// Input height, at least 1.
    pub height: usize,
    /// Input width, at least 1.
    pub width: usize,
    /// Channels.
    pub channels: usize,
}

impl PoolShape {
    /// `ceil(height / 2)`.
    pub fn out_height(&self) -> usize {
        self.height.div_ceil(2)
    }

    /// `ceil(width / 2)`.
    pub fn out_width(&self) -> usize {
        self.width.div_ceil(2)
    }

    /// Floats in the input.
    pub fn input_len(&self) -> usize {
        self.batch * self.height * self.width * self.channels
    }

    /// Floats in the output `[batch, out_height, out_width, channels]`.
    pub fn output_len(&self) -> usize {
        self.batch * self.out_height() * self.out_width() * self.channels
    }
}

/// Channels that [`best_of_window`] keeps in registers.
const LANES: usize = 16;

/// The maximum of every 3x3 window. `argmax`, where given, receives the window position
/// `3 * ky + kx` of the maximum: the first one in row order where several are equal. A NaN wins over
/// every number, and a later NaN over an earlier one, as in PyTorch.
///
/// # Panics
/// When a length is wrong.
pub fn max_pool_forward(shape: &PoolShape, x: &[f32], y: &mut [f32], argmax: Option<&mut [u8]>) {
    let _span = tracing::trace_span!("pool").entered();
    assert_eq!(x.len(), shape.input_len(), "length of x");
    assert_eq!(y.len(), shape.output_len(), "length of y");
    if y.is_empty() {
        return;
    }
    let row_len = shape.out_width() * shape.channels;
    let rows = chunks_mut(y, row_len);
    match argmax {
        None => for_each_chunk(rows, |row, y| pool_row(shape, x, row, y, &mut [])),
        Some(argmax) => {
            assert_eq!(argmax.len(), shape.output_len(), "length of argmax");
            for_each_chunk((rows, chunks_mut(argmax, row_len)), |row, (y, argmax)| {
                pool_row(shape, x, row, y, argmax);
            });
        }
    }
}

/// One output row, `row` counting over all images; `argmax` may be empty.
fn pool_row(shape: &PoolShape, x: &[f32], row: usize, y: &mut [f32], argmax: &mut [u8]) {
    let channels = shape.channels;
    let (image, oy) = (row / shape.out_height(), row % shape.out_height());
    vectorised(
        #[inline(always)]
        || {
            for ox in 0..shape.out_width() {
                // Where each position of the window starts in `x`; positions off the edge are left out.
                let mut window = [(0usize, 0u32); 9];
                let mut n = 0;
                for position in 0..9 {
                    let (iy, ix) = (2 * oy + position / 3, 2 * ox + position % 3);
                    // Coordinates are one too large, so that padding is 0 rather than -1.
                    if (1..=shape.height).contains(&iy) && (1..=shape.width).contains(&ix) {
                        let pixel = (image * shape.height + iy - 1) * shape.width + ix - 1;
                        window[n] = (pixel * channels, position as u32);
                        n += 1;
                    }
                }
                let window = &window[..n];
                let out = ox * channels;
                let mut c = 0;
                while c + LANES <= channels {
                    best_of_window::<LANES>(x, window, c, &mut y[out..], argmax, out);
                    c += LANES;
                }
                while c + 8 <= channels {
                    best_of_window::<8>(x, window, c, &mut y[out..], argmax, out);
                    c += 8;
                }
                while c < channels {
                    best_of_window::<1>(x, window, c, &mut y[out..], argmax, out);
                    c += 1;
                }
            }
        },
    );
}

/// Channels `c..c + N` of one output pixel, whose own floats start at `y[0]` and `argmax[out]`.
#[inline(always)]
fn best_of_window<const N: usize>(
    x: &[f32],
    window: &[(usize, u32)],
    c: usize,
    y: &mut [f32],
    argmax: &mut [u8],
    out: usize,
) {
    let (first, position) = window[0];
    let mut best = [0.0f32; N];
    best.copy_from_slice(&x[first + c..first + c + N]);
    let mut at = [position; N];
    for &(start, position) in &window[1..] {
        let values = &x[start + c..start + c + N];
        for i in 0..N {
            let wins = values[i] > best[i] || values[i].is_nan();
            best[i] = if wins { values[i] } else { best[i] };
            at[i] = if wins { position } else { at[i] };
        }
    }
    y[c..c + N].copy_from_slice(&best);
    if !argmax.is_empty() {
        for (a, position) in argmax[out + c..out + c + N].iter_mut().zip(at) {
            *a = position as u8;
        }
    }
}

/// The gradient of the max pool's input: overwrites `grad_x`. Every input pixel gathers from the
/// (at most four) windows that it lies in, in row order.
///
/// # Panics
/// When a length is wrong.
pub fn max_pool_backward(shape: &PoolShape, argmax: &[u8], grad_y: &[f32], grad_x: &mut [f32]) {
    let _span = tracing::trace_span!("pool").entered();
    assert_eq!(argmax.len(), shape.output_len(), "length of argmax");
    assert_eq!(grad_y.len(), shape.output_len(), "length of grad_y");
    assert_eq!(grad_x.len(), shape.input_len(), "length of grad_x");
    if grad_x.is_empty() {
        return;
    }
    let channels = shape.channels;
    for_each_chunk(chunks_mut(grad_x, shape.width * channels), |row, grad_x| {
        let (image, iy) = (row / shape.height, row % shape.height);
        vectorised(
            #[inline(always)]
            || {
                grad_x.fill(0.0);
                for (oy, ky) in windows_over(iy, shape.out_height()) {
                    for ix in 0..shape.width {
                        let grad_x = &mut grad_x[ix * channels..(ix + 1) * channels];
                        for (ox, kx) in windows_over(ix, shape.out_width()) {
                            let pixel = (image * shape.out_height() + oy) * shape.out_width() + ox;
                            let out = pixel * channels..(pixel + 1) * channels;
                            let position = (3 * ky + kx) as u8;
                            let (argmax, grad_y) = (&argmax[out.clone()], &grad_y[out]);
                            for ((g, &a), &gy) in grad_x.iter_mut().zip(argmax).zip(grad_y) {
                                *g += if a == position { gy } else { 0.0 };
                            }
                        }
                    }
                }
            },
        );
    });
}

/// The windows over input coordinate `i` along one axis: (output coordinate, offset in the window).
#[inline(always)]
fn windows_over(i: usize, out: usize) -> impl Iterator<Item = (usize, usize)> {
    // Window `o` covers 2 o - 1 .. 2 o + 1: an even coordinate is the centre of one window, an odd
    // one the end of a window and the start of the next, which may lie beyond the edge.
    let first = i / 2;
    let last = i.div_ceil(2).min(out - 1);
    (first..=last).map(move |o| (o, i + 1 - 2 * o))
}

/// The mean over the pixels: `x` `[batch, pixels, channels]` to `y` `[batch, channels]`.
///
/// # Panics
/// When a length is wrong or `pixels` is zero.
pub fn average_pool_forward(
    batch: usize,
    pixels: usize,
    channels: usize,
    x: &[f32],
    y: &mut [f32],
) {
    let _span = tracing::trace_span!("pool").entered();
    assert!(pixels > 0, "the mean over no pixels");
    assert_eq!(x.len(), batch * pixels * channels, "length of x");
    assert_eq!(y.len(), batch * channels, "length of y");
    let tiling = Tiling::new(channels);
    for_each_chunk((chunks_mut(y, channels), chunks(x, pixels * channels)), |_, (y, x)| {
        for block in tiling.blocks() {
            let (mut sum, mut sums) = ([0.0; TILE], [0.0; TILE]);
            vectorised(
                #[inline(always)]
                || {
                    for row in 0..tiling.rows(x.len()) {
                        let x = &x[tiling.strip(x.len(), row, &block)];
                        for (s, v) in sum.iter_mut().zip(x) {
                            *s += v;
                        }
                        if row % FLUSH == FLUSH - 1 {
                            flush(&mut sum, &mut sums);
                        }
                    }
                    flush(&mut sum, &mut sums);
                },
            );
            let own = block.start..block.end.min(channels);
            for (j, y) in y[own.clone()].iter_mut().enumerate() {
                let total: f64 = sums[j..block.len()].iter().step_by(channels).sum();
                *y = (total / pixels as f64) as f32;
            }
        }
    });
}

/// The gradient of the average pool's input: `grad_y / pixels` at every pixel. Overwrites `grad_x`.
///
/// # Panics
/// When a length is wrong or `pixels` is zero.
pub fn average_pool_backward(
    batch: usize,
    pixels: usize,
    channels: usize,
    grad_y: &[f32],
    grad_x: &mut [f32],
) {
    let _span = tracing::trace_span!("pool").entered();
    assert!(pixels > 0, "the mean over no pixels");
    assert!(channels > 0, "a tensor needs at least one channel");
    assert_eq!(grad_x.len(), batch * pixels * channels, "length of grad_x");
    assert_eq!(grad_y.len(), batch * channels, "length of grad_y");
    let share = 1.0 / pixels as f32;
    let images = (chunks_mut(grad_x, pixels * channels), chunks(grad_y, channels));
    for_each_chunk(images, |_, (grad_x, grad_y)| {
        let (first, others) = grad_x.split_at_mut(channels);
        for (g, gy) in first.iter_mut().zip(grad_y) {
            *g = gy * share;
        }
        for pixel in others.chunks_mut(channels) {
            pixel.copy_from_slice(first);
        }
    });
}
