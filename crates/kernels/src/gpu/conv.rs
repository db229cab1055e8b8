//! Slimmable convolution on a GPU: which kernel, how many blocks, how much memory. See `cuda/conv.cu`.

use super::GpuError;
use super::arguments::{FastDivision, arguments, int};
use super::driver::{Gpu, Launch};
use super::memory::{Activation, Buffer, View, ViewMut};
use super::norm::{Running, merge_moments, moments_len};
use crate::conv::ConvShape;

arguments! {
    /// `CorrelateArguments`.
    struct Correlate {
        source: u64,
        weight: u64,
        result: u64,
        scale: u64,
        shift: u64,
        residual: u64,
        moments: u64,
        batch: i32,
        height: i32,
        width: i32,
        source_height: i32,
        source_width: i32,
        depth: i32,
        columns: i32,
        full_in: i32,
        full_out: i32,
        kernel: i32,
        stride: i32,
        relu: i32,
        accumulate: i32,
        active: i32,
        step_taps: i32,
        step_channels: i32,
    }
}

arguments! {
    /// `WeightGradientArguments`.
    struct WeightGradient {
        input: u64,
        gradient: u64,
        weight: u64,
        partial: u64,
        batch: i32,
        height: i32,
        width: i32,
        out_height: i32,
        out_width: i32,
        in_channels: i32,
        out_channels: i32,
        full_in: i32,
        full_out: i32,
        kernel: i32,
        stride: i32,
        parts: i32,
        by_out_width: FastDivision,
        by_out_pixels: FastDivision,
        active: i32,
        unused: u32,
    }
}

arguments! {
    /// `SumPartsArguments`.
    struct SumParts {
        partial: u64,
        weight: u64,
        parts: i32,
        taps: i32,
        in_channels: i32,
        out_channels: i32,
        full_in: i32,
        full_out: i32,
        active: i32,
        unused: u32,
    }
}

/// A tile of `cuda/conv.cu`: rows and columns of the result, depth of a step, steps in flight, threads, and blocks of the
/// weight gradient that a multiprocessor runs at least (`BLOCKS` there).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tile {
    m: usize,
    n: usize,
    k: usize,
    stages: usize,
    threads: u32,
    blocks: usize,
    kernels: [&'static str; 3],
}

pub(super) const FORWARD: usize = 0;
pub(super) const BACKWARD_INPUT: usize = 1;
const BACKWARD_WEIGHT: usize = 2;

macro_rules! tile {
    ($m:literal, $n:literal, $k:literal, $stages:literal, $threads:literal, $blocks:literal, $suffix:literal) => {
        Tile {
            m: $m,
            n: $n,
            k: $k,
            stages: $stages,
            threads: $threads,
            blocks: $blocks,
            kernels: [
                concat!("conv_forward_", $suffix),
                concat!("conv_backward_input_", $suffix),
                concat!("conv_backward_weight_", $suffix),
            ],
        }
    };
}

const WIDE: Tile = tile!(128, 128, 32, 3, 256, 2, "bf16_wide");
const NARROW: Tile = tile!(128, 64, 32, 3, 256, 2, "bf16_narrow");
const ANY_BF16: Tile = tile!(64, 64, 16, 2, 128, 4, "bf16_any");
const EXACT: Tile = tile!(64, 64, 16, 2, 64, 6, "f32_exact");
const ANY_F32: Tile = tile!(64, 64, 16, 2, 128, 3, "f32_any");

impl Tile {
    /// The one for a result of so many columns. `vectors`: all channels and addresses are multiples of 16 bytes.
    fn choose<T: Activation>(vectors: bool, columns: usize) -> Self {
        let bf16 = size_of::<T>() == 2;
        match (bf16, vectors) {
            (true, true) => {
                // By the columns computed in vain. A wide tile reads the rows half as often, so it may waste a little.
                let computed = |n: usize| columns.next_multiple_of(n);
                if computed(WIDE.n) * 8 <= computed(NARROW.n) * 9 { WIDE } else { NARROW }
            }
            (true, false) => ANY_BF16,
            (false, true) => EXACT,
            (false, false) => ANY_F32,
        }
    }

    /// Bytes of shared memory, as `Memory` in `cuda/tile.cuh`. An operand's stage is [outer][inner + 16 bytes]; the
    /// moments keep a number per thread behind the sums.
    fn shared(&self, element: usize, a_along_depth: bool, b_along_depth: bool) -> usize {
        let stage = |size: usize, along_depth: bool| {
            let (outer, inner) = if along_depth { (size, self.k) } else { (self.k, size) };
            outer * (inner * element + 16)
        };
        let stages = self.stages * (stage(self.m, a_along_depth) + stage(self.n, b_along_depth));
        let sums = self.m * (self.n + 4) * size_of::<f32>();
        stages.max(sums + self.threads as usize * size_of::<f32>())
    }

    fn launch(&self, kernel: usize, grid: [u32; 3], shared: usize) -> Launch {
        Launch { kernel: self.kernels[kernel], grid, threads: self.threads, shared }
    }
}

/// What happens to each output value of [`conv_forward`] before it is stored.
#[derive(Clone, Copy)]
pub enum Epilogue<'a, T: Activation> {
    /// The convolution as it is.
    None,
    /// As [`crate::conv::Epilogue::Affine`].
    Affine {
        /// `[out_channels]` factors.
        scale: View<'a, f32>,
        /// `[out_channels]` terms.
        shift: View<'a, f32>,
        /// An activation of the output's shape.
        residual: Option<View<'a, T>>,
        /// Whether negative results become zero.
        relu: bool,
    },
}

/// Channels that images of `channels` should be stored with: whole 16-byte accesses of a pixel, the additional ones zero.
pub fn stored_channels<T: Activation>(channels: usize) -> usize {
    channels.next_multiple_of(T::VECTOR)
}

/// Channels that the input of `len` values is stored with: those of `shape`, or as many as [`stored_channels`] says.
fn stored<T: Activation>(shape: &ConvShape, len: usize) -> usize {
    let padded = stored_channels::<T>(shape.in_channels);
    let pixels = shape.batch * shape.height * shape.width;
    if len == pixels * padded { padded } else { shape.in_channels }
}

/// The length that [`ConvShape::check`] expects of an input of `len` values.
fn dense<T: Activation>(shape: &ConvShape, len: usize) -> usize {
    len / stored::<T>(shape, len) * shape.in_channels
}

/// As [`crate::conv::conv_forward`]. The input may be stored with [`stored_channels`].
///
/// # Errors
/// When the GPU fails.
///
/// # Panics
/// When a length is not the one that `shape` gives.
pub fn conv_forward<T: Activation>(
    gpu: &Gpu,
    shape: &ConvShape,
    input: View<'_, T>,
    weight: View<'_, T>,
    mut output: ViewMut<'_, T>,
    epilogue: Epilogue<'_, T>,
) -> Result<(), GpuError> {
    shape.check(dense::<T>(shape, input.len()), weight.len(), output.len());
    let mut end = End::default();
    if let Epilogue::Affine { scale, shift, residual, relu } = epilogue {
        assert_eq!(scale.len(), shape.out_channels, "length of scale");
        assert_eq!(shift.len(), shape.out_channels, "length of shift");
        (end.scale, end.shift, end.relu) = (scale.on(gpu), shift.on(gpu), relu);
        if let Some(residual) = residual {
            assert_eq!(residual.len(), output.len(), "length of the residual");
            end.residual = residual.on(gpu);
        }
    }
    correlate(gpu, shape, FORWARD, input, weight, output.reborrow(), end)
}

/// As [`crate::conv::conv_forward_statistics`]; the running statistics follow where given. The input may be stored with
/// [`stored_channels`].
///
/// The moments are those of what `output` holds. They are taken of each tile while that is in shared memory.
///
/// # Errors
/// When the GPU fails.
///
/// # Panics
/// When a length is not the one that `shape` gives, or there is no output.
pub fn conv_forward_statistics<T: Activation>(
    gpu: &Gpu,
    shape: &ConvShape,
    input: View<'_, T>,
    weight: View<'_, T>,
    output: ViewMut<'_, T>,
    mean: ViewMut<'_, f32>,
    var: ViewMut<'_, f32>,
    running: Option<Running<'_>>,
    scratch: &mut Buffer<f32>,
) -> Result<(), GpuError> {
    shape.check(dense::<T>(shape, input.len()), weight.len(), output.len());
    assert_eq!(mean.len(), shape.out_channels, "length of mean");
    let addresses = [input.on(gpu), weight.on(gpu), output.on(gpu)];
    let stored = stored::<T>(shape, input.len());
    let tile = Tile::choose::<T>(vectors::<T>(shape, stored, addresses), shape.out_channels);
    let rows = output.len() / shape.out_channels;
    let moments = scratch.reserve(moments_len(rows, tile.m, shape.out_channels))?;
    let end = End { moments: moments.on(gpu), ..End::default() };
    correlate(gpu, shape, FORWARD, input, weight, output, end)?;
    merge_moments(gpu, rows, tile.m, moments, mean, var, running)
}

/// As [`crate::conv::conv_backward_input`].
///
/// # Errors
/// When the GPU fails.
///
/// # Panics
/// When a length is not the one that `shape` gives.
pub fn conv_backward_input<T: Activation>(
    gpu: &Gpu,
    shape: &ConvShape,
    grad_output: View<'_, T>,
    weight: View<'_, T>,
    grad_input: ViewMut<'_, T>,
    accumulate: bool,
) -> Result<(), GpuError> {
    shape.check(grad_input.len(), weight.len(), grad_output.len());
    let end = End { accumulate, ..End::default() };
    correlate(gpu, shape, BACKWARD_INPUT, grad_output, weight, grad_input, end)
}

/// What a correlation does with its sums; addresses may be 0.
#[derive(Clone, Copy, Default)]
pub(super) struct End {
    pub scale: u64,
    pub shift: u64,
    pub residual: u64,
    pub moments: u64,
    pub relu: bool,
    pub accumulate: bool,
}

/// Whether every row of every operand can be read in 16-byte pieces. `inputs` are the channels that the input is stored with.
fn vectors<T: Activation>(shape: &ConvShape, inputs: usize, addresses: [u64; 3]) -> bool {
    [inputs, shape.out_channels, shape.full_out].iter().all(|c| c % T::VECTOR == 0)
        && addresses.iter().all(|a| a % 16 == 0)
}

pub(super) fn correlate<T: Activation>(
    gpu: &Gpu,
    shape: &ConvShape,
    kernel: usize,
    source: View<'_, T>,
    weight: View<'_, T>,
    result: ViewMut<'_, T>,
    end: End,
) -> Result<(), GpuError> {
    if result.is_empty() {
        return Ok(());
    }
    let (out_height, out_width) = (shape.out_height(), shape.out_width());
    let forward = kernel == FORWARD;
    let (size, source_size) = if forward {
        ([out_height, out_width], [shape.height, shape.width])
    } else {
        ([shape.height, shape.width], [out_height, out_width])
    };
    let (depth, active, columns) = if forward {
        (stored::<T>(shape, source.len()), shape.in_channels, shape.out_channels)
    } else {
        (shape.out_channels, shape.out_channels, shape.in_channels)
    };
    let inputs = if forward { depth } else { columns };
    let mut addresses = [source.on(gpu), weight.on(gpu), result.on(gpu)];
    if end.residual != 0 {
        addresses[2] |= end.residual; // aligned only if both are
    }
    let tile = Tile::choose::<T>(vectors::<T>(shape, inputs, addresses), columns);
    // Classes of pixels: the first has the most.
    let classes = if forward { 1 } else { shape.stride };
    let rows = shape.batch * size[0].div_ceil(classes) * size[1].div_ceil(classes);
    // Kernels count pixels and the depth in 32 bits, up to some steps beyond the end.
    for count in [rows + tile.m, shape.kernel * shape.kernel * depth + tile.k * tile.stages] {
        int(count);
    }
    let blocks = rows.div_ceil(tile.m) * columns.div_ceil(tile.n);
    let arguments = Correlate {
        source: source.on(gpu),
        weight: weight.on(gpu),
        result: result.on(gpu),
        scale: end.scale,
        shift: end.shift,
        residual: end.residual,
        moments: end.moments,
        batch: int(shape.batch),
        height: int(size[0]),
        width: int(size[1]),
        source_height: int(source_size[0]),
        source_width: int(source_size[1]),
        depth: int(depth),
        columns: int(columns),
        full_in: int(shape.full_in),
        full_out: int(shape.full_out),
        kernel: int(shape.kernel),
        stride: int(shape.stride),
        relu: end.relu.into(),
        accumulate: end.accumulate.into(),
        active: int(active),
        step_taps: int(tile.k / depth),
        step_channels: int(tile.k % depth),
    };
    let grid = [int(blocks) as u32, (classes * classes) as u32, 1];
    let shared = tile.shared(size_of::<T>(), true, !forward);
    gpu.launch(tile.launch(kernel, grid, shared), &arguments)
}

/// Multiprocessors of a large GPU (H100). Not the GPU's own number: the order of sums follows from it.
const MULTIPROCESSORS: usize = 132;

/// What it costs to begin a part, to write its tile and to add that up, as steps: fits times measured in bf16 with four numbers
/// of parts on an H100 (docs/performance.md).
const STEPS_TO_BEGIN: usize = 20;

/// Steps of a part: shorter ones are not worth a launch to add them up.
const LEAST_STEPS: usize = 8;

/// Waves whose tiles of partial sums may be kept at most.
const MOST_WAVES: usize = 4;

/// Into how many parts to cut sums over `steps` steps, for `tiles` tiles on a GPU that runs `slots` blocks at once, in waves: the
/// number with which the last wave ends earliest.
fn parts(tiles: usize, steps: usize, slots: usize) -> usize {
    let cost =
        |&parts: &usize| (tiles * parts).div_ceil(slots) * (steps.div_ceil(parts) + STEPS_TO_BEGIN);
    let most = (MOST_WAVES * slots / tiles).min(steps / LEAST_STEPS).max(1);
    (1..=most).min_by_key(cost).expect("one part at least")
}

/// As [`crate::conv::conv_backward_weight`]: adds to the leading block of `grad_weight`, which is f32 for every `T`. The input
/// may be stored with [`stored_channels`]. `scratch` holds the parts of a sum over many pixels.
///
/// # Errors
/// When the GPU fails.
///
/// # Panics
/// When a length is not the one that `shape` gives.
pub fn conv_backward_weight<T: Activation>(
    gpu: &Gpu,
    shape: &ConvShape,
    input: View<'_, T>,
    grad_output: View<'_, T>,
    grad_weight: ViewMut<'_, f32>,
    scratch: &mut Buffer<f32>,
) -> Result<(), GpuError> {
    shape.check(dense::<T>(shape, input.len()), grad_weight.len(), grad_output.len());
    if input.is_empty() || grad_output.is_empty() {
        return Ok(());
    }
    let addresses = [input.on(gpu), grad_output.on(gpu), 0];
    let stored = stored::<T>(shape, input.len());
    let tile = Tile::choose::<T>(vectors::<T>(shape, stored, addresses), shape.out_channels);
    let taps = shape.kernel * shape.kernel;
    let rows = taps * stored;
    let blocks = rows.div_ceil(tile.m) * shape.out_channels.div_ceil(tile.n);
    let out_pixels = shape.out_height() * shape.out_width();
    int(shape.batch * out_pixels + tile.k * tile.stages); // pixels, counted in 32 bits
    let steps = (shape.batch * out_pixels).div_ceil(tile.k);
    let parts = parts(blocks, steps, MULTIPROCESSORS * tile.blocks);
    let partial =
        if parts > 1 { scratch.reserve(parts * rows * shape.out_channels)?.on(gpu) } else { 0 };
    let arguments = WeightGradient {
        input: input.on(gpu),
        gradient: grad_output.on(gpu),
        weight: grad_weight.on(gpu),
        partial,
        batch: int(shape.batch),
        height: int(shape.height),
        width: int(shape.width),
        out_height: int(shape.out_height()),
        out_width: int(shape.out_width()),
        in_channels: int(stored),
        out_channels: int(shape.out_channels),
        full_in: int(shape.full_in),
        full_out: int(shape.full_out),
        kernel: int(shape.kernel),
        stride: int(shape.stride),
        parts: int(parts),
        by_out_width: FastDivision::new(shape.out_width()),
        by_out_pixels: FastDivision::new(out_pixels),
        active: int(shape.in_channels),
        unused: 0,
    };
    let shared = tile.shared(size_of::<T>(), false, false);
    let grid = [int(blocks) as u32, int(parts) as u32, 1];
    gpu.launch(tile.launch(BACKWARD_WEIGHT, grid, shared), &arguments)?;
    if parts == 1 {
        return Ok(());
    }
    let sum = SumParts {
        partial,
        weight: grad_weight.on(gpu),
        parts: int(parts),
        taps: int(taps),
        in_channels: int(stored),
        out_channels: int(shape.out_channels),
        full_in: int(shape.full_in),
        full_out: int(shape.full_out),
        active: int(shape.in_channels),
        unused: 0,
    };
    let threads = 256;
    let grid = [(rows * shape.out_channels).div_ceil(threads) as u32, 1, 1];
    gpu.launch(Launch { kernel: "sum_parts", grid, threads: threads as u32, shared: 0 }, &sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One tile fills all slots; what fills them in whole waves is not cut; a short sum is not cut at all.
    #[test]
    fn parts_fill_waves() {
        assert_eq!(parts(1, 100_000, 264), 264);
        assert!(parts(265, 25_088, 264) <= 3, "partial sums are bounded");
        assert_eq!(parts(264, 1000, 264), 1);
        assert_eq!(parts(8, 392, 264), 33); // 8 * 33 = 264
        assert_eq!(parts(1, 0, 264), 1);
        assert_eq!(parts(1, 15, 264), 1);
    }
}
