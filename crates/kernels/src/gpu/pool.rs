//! Pooling on a GPU, and conversions between element types. See `cuda/pool.cu`.

use super::GpuError;
use super::arguments::{FastDivision, THREADS, across, arguments, int, length, variant, variants};
use super::driver::{Gpu, Launch};
use super::memory::{Activation, View, ViewMut};
use crate::pool::PoolShape;

arguments! {
    /// `MaxPoolArguments`.
    struct MaxPool {
        from: u64,
        to: u64,
        argmax: u64,
        height: i32,
        width: i32,
        out_height: i32,
        out_width: i32,
        channels: i32,
        count: u32,
        by_vectors: FastDivision,
        by_width: FastDivision,
        by_height: FastDivision,
        unused: u32,
    }
}

arguments! {
    /// `AveragePoolForwardArguments`.
    struct AverageForward {
        x: u64,
        y: u64,
        pixels: i32,
        channels: i32,
        across: i32,
        tiles: i32,
    }
}

arguments! {
    /// `AveragePoolBackwardArguments`.
    struct AverageBackward {
        grad_y: u64,
        grad_x: u64,
        count: u32,
        channels: i32,
        share: f32,
        by_vectors: FastDivision,
        by_pixels: FastDivision,
        unused: u32,
    }
}

arguments! {
    /// `ConvertArguments`.
    struct Convert {
        from: u64,
        to: u64,
        count: i64,
        vectors: i32,
        unused: u32,
    }
}

/// A kernel with one thread per vector.
fn launch<T: Activation>(names: [&'static str; 4], length: usize, threads: usize) -> Launch {
    Launch {
        kernel: variant::<T>(names, length),
        grid: [threads.div_ceil(THREADS) as u32, 1, 1],
        threads: THREADS as u32,
        shared: 0,
    }
}

/// As [`crate::pool::max_pool_forward`].
///
/// # Errors
/// When the GPU fails.
///
/// # Panics
/// When a length is wrong.
pub fn max_pool_forward<T: Activation>(
    gpu: &Gpu,
    shape: &PoolShape,
    x: View<'_, T>,
    y: ViewMut<'_, T>,
    argmax: Option<ViewMut<'_, u8>>,
) -> Result<(), GpuError> {
    assert_eq!(x.len(), shape.input_len(), "length of x");
    assert_eq!(y.len(), shape.output_len(), "length of y");
    if let Some(argmax) = &argmax {
        assert_eq!(argmax.len(), shape.output_len(), "length of argmax");
    }
    let argmax = argmax.map_or(0, |a| a.on(gpu));
    let names = variants!("max_pool_forward");
    max_pool::<T>(gpu, shape, names, true, [x.on(gpu), y.on(gpu), argmax])
}

/// As [`crate::pool::max_pool_backward`].
///
/// # Errors
/// When the GPU fails.
///
/// # Panics
/// When a length is wrong.
pub fn max_pool_backward<T: Activation>(
    gpu: &Gpu,
    shape: &PoolShape,
    argmax: View<'_, u8>,
    grad_y: View<'_, T>,
    grad_x: ViewMut<'_, T>,
) -> Result<(), GpuError> {
    assert_eq!(argmax.len(), shape.output_len(), "length of argmax");
    assert_eq!(grad_y.len(), shape.output_len(), "length of grad_y");
    assert_eq!(grad_x.len(), shape.input_len(), "length of grad_x");
    let names = variants!("max_pool_backward");
    let addresses = [grad_y.on(gpu), grad_x.on(gpu), argmax.on(gpu)];
    max_pool::<T>(gpu, shape, names, false, addresses)
}

/// `addresses`: `from`, `to` and `argmax`.
fn max_pool<T: Activation>(
    gpu: &Gpu,
    shape: &PoolShape,
    names: [&'static str; 4],
    forward: bool,
    addresses: [u64; 3],
) -> Result<(), GpuError> {
    let (len, height, width) = if forward {
        (shape.output_len(), shape.out_height(), shape.out_width())
    } else {
        (shape.input_len(), shape.height, shape.width)
    };
    if len == 0 {
        return Ok(());
    }
    let length = length::<T>(shape.channels, &addresses);
    let count = len / length;
    let [from, to, argmax] = addresses;
    let arguments = MaxPool {
        from,
        to,
        argmax,
        height: int(shape.height),
        width: int(shape.width),
        out_height: int(shape.out_height()),
        out_width: int(shape.out_width()),
        channels: int(shape.channels),
        count: int(count) as u32,
        by_vectors: FastDivision::new(shape.channels / length),
        by_width: FastDivision::new(width),
        by_height: FastDivision::new(height),
        unused: 0,
    };
    gpu.launch(launch::<T>(names, length, count), &arguments)
}

/// As [`crate::pool::average_pool_forward`], into f32: `x` `[batch, pixels, channels]` to `y` `[batch, channels]`.
///
/// # Errors
/// When the GPU fails.
///
/// # Panics
/// When a length is wrong or `pixels` is zero.
pub fn average_pool_forward<T: Activation>(
    gpu: &Gpu,
    batch: usize,
    pixels: usize,
    channels: usize,
    x: View<'_, T>,
    y: ViewMut<'_, f32>,
) -> Result<(), GpuError> {
    assert!(pixels > 0, "the mean over no pixels");
    assert_eq!(x.len(), batch * pixels * channels, "length of x");
    assert_eq!(y.len(), batch * channels, "length of y");
    if y.is_empty() {
        return Ok(());
    }
    let length = length::<T>(channels, &[x.on(gpu)]);
    let across = across(channels / length);
    let tiles = (channels / length).div_ceil(across);
    let arguments = AverageForward {
        x: x.on(gpu),
        y: y.on(gpu),
        pixels: int(pixels),
        channels: int(channels),
        across: int(across),
        tiles: int(tiles),
    };
    let launch = Launch {
        kernel: variant::<T>(variants!("average_pool_forward"), length),
        grid: [int(batch * tiles) as u32, 1, 1],
        threads: THREADS as u32,
        shared: length * THREADS * size_of::<f64>(),
    };
    gpu.launch(launch, &arguments)
}

/// As [`crate::pool::average_pool_backward`], from f32: overwrites `grad_x` `[batch, pixels, channels]` with
/// `grad_y / pixels`.
///
/// # Errors
/// When the GPU fails.
///
/// # Panics
/// When a length is wrong or `pixels` is zero.
pub fn average_pool_backward<T: Activation>(
    gpu: &Gpu,
    batch: usize,
    pixels: usize,
    channels: usize,
    grad_y: View<'_, f32>,
    grad_x: ViewMut<'_, T>,
) -> Result<(), GpuError> {
    assert!(pixels > 0, "the mean over no pixels");
    assert_eq!(grad_x.len(), batch * pixels * channels, "length of grad_x");
    assert_eq!(grad_y.len(), batch * channels, "length of grad_y");
    if grad_x.is_empty() {
        return Ok(());
    }
    let length = length::<T>(channels, &[grad_x.on(gpu)]);
    let count = grad_x.len() / length;
    let arguments = AverageBackward {
        grad_y: grad_y.on(gpu),
        grad_x: grad_x.on(gpu),
        count: int(count) as u32,
        channels: int(channels),
        share: 1.0 / pixels as f32,
        by_vectors: FastDivision::new(channels / length),
        by_pixels: FastDivision::new(pixels),
        unused: 0,
    };
    gpu.launch(launch::<T>(variants!("average_pool_backward"), length, count), &arguments)
}

/// Elements of a thread of the conversions, as in `cuda/pool.cu`.
const CONVERTED: usize = 8;

/// The nearest values of another type, ties to even; a copy where it is the same.
///
/// # Errors
/// When the GPU fails.
///
/// # Panics
/// When the lengths differ.
pub fn convert<From: Activation, To: Activation>(
    gpu: &Gpu,
    from: View<'_, From>,
    to: ViewMut<'_, To>,
) -> Result<(), GpuError> {
    assert_eq!(from.len(), to.len(), "lengths of a conversion");
    if from.is_empty() {
        return Ok(());
    }
    let kernel = match (size_of::<From>(), size_of::<To>()) {
        (4, 2) => "convert_f32_bf16",
        (2, 4) => "convert_bf16_f32",
        (size, _) => return gpu.driver.copy(from.on(gpu), to.on(gpu), from.len() * size),
    };
    let arguments = Convert {
        from: from.on(gpu),
        to: to.on(gpu),
        count: from.len() as i64,
        vectors: (from.on(gpu).is_multiple_of(16) && to.on(gpu).is_multiple_of(16)).into(),
        unused: 0,
    };
    let blocks = from.len().div_ceil(CONVERTED).div_ceil(THREADS);
    let launch =
        Launch { kernel, grid: [int(blocks) as u32, 1, 1], threads: THREADS as u32, shared: 0 };
    gpu.launch(launch, &arguments)
}
