//! Batch normalisation on a GPU, fused with the residual and the ReLU. See `cuda/norm.cu`.

use super::GpuError;
use super::arguments::{THREADS, across, arguments, int, length, variant, variants};
use super::driver::{Gpu, Launch};
use super::memory::{Activation, Buffer, View, ViewMut};

/// How blocks share `[rows, channels]`: `Walk`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Walk {
    rows: i64,
    channels: i32,
    across: i32,
    tiles: i32,
    steps: i32,
}

/// Rows that one thread has: enough to pay for what it computes per channel, and few enough for a sum in f32.
const STEPS: std::ops::RangeInclusive<usize> = 8..=64;

/// Blocks that fill a large GPU a few times over (H100: 132 multiprocessors with two or three blocks each). Not the GPU's
/// own number: the order of sums follows from it.
const BLOCKS: usize = 1024;

impl Walk {
    /// In vectors of `length` channels.
    fn new(rows: usize, channels: usize, length: usize) -> Self {
        let vectors = channels.div_ceil(length);
        let across = across(vectors);
        let tiles = vectors.div_ceil(across);
        let chunks = BLOCKS.div_ceil(tiles);
        let steps = rows.div_ceil(THREADS / across).div_ceil(chunks);
        // Whole rounds of the loads that a thread has on their way at once.
        let steps = steps.clamp(*STEPS.start(), *STEPS.end()).next_multiple_of(4);
        Self {
            rows: rows as i64,
            channels: int(channels),
            across: int(across),
            tiles: int(tiles),
            steps: int(steps),
        }
    }

    fn chunk_rows(&self) -> usize {
        THREADS / self.across as usize * self.steps as usize
    }

    fn chunks(&self) -> usize {
        (self.rows as usize).div_ceil(self.chunk_rows())
    }

    /// A kernel whose threads keep `numbers` f32 per channel of theirs in shared memory.
    fn launch(&self, kernel: &'static str, numbers: usize, length: usize) -> Launch {
        Launch {
            kernel,
            grid: [int(self.chunks() * self.tiles as usize) as u32, 1, 1],
            threads: THREADS as u32,
            shared: numbers * length * THREADS * size_of::<f32>(),
        }
    }
}

/// `Parameters`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Parameters {
    mean: u64,
    var: u64,
    gamma: u64,
    beta: u64,
}

arguments! {
    /// `NormForwardArguments`.
    struct Forward {
        norm: Parameters,
        x: u64,
        residual: u64,
        y: u64,
        walk: Walk,
        relu: i32,
        unused: u32,
    }
}

arguments! {
    /// `MomentsArguments`.
    struct Moments {
        x: u64,
        partial: u64,
        walk: Walk,
    }
}

arguments! {
    /// `MergePartsArguments`.
    struct MergeParts {
        partial: u64,
        merged: u64,
        rows: i64,
        rows_per_part: i64,
        parts: i32,
        channels: i32,
        group: i32,
        unused: u32,
    }
}

arguments! {
    /// `MergeMomentsArguments`.
    struct MergeMoments {
        partial: u64,
        mean: u64,
        var: u64,
        running_mean: u64,
        running_var: u64,
        rows: i64,
        rows_per_part: i64,
        parts: i32,
        channels: i32,
        momentum: f32,
        unbiased: f32,
    }
}

arguments! {
    /// `NormSumsArguments`.
    struct Sums {
        norm: Parameters,
        x: u64,
        output: u64,
        grad: u64,
        partial: u64,
        walk: Walk,
        mask: i32,
        unused: u32,
    }
}

arguments! {
    /// `MergeSumsArguments`.
    struct MergeSums {
        partial: u64,
        var: u64,
        grad_gamma: u64,
        grad_beta: u64,
        means: u64,
        rows: i64,
        parts: i32,
        channels: i32,
    }
}

arguments! {
    /// `NormInputGradientArguments`.
    struct InputGradient {
        norm: Parameters,
        x: u64,
        grad: u64,
        means: u64,
        walk: Walk,
        masked: i32,
        unused: u32,
    }
}

arguments! {
    /// `FoldArguments`.
    struct Fold {
        norm: Parameters,
        scale: u64,
        shift: u64,
        channels: i32,
        unused: u32,
    }
}

/// As [`crate::norm::Norm`]. Every vector has length `channels`; the leading part of shared ones will do.
#[derive(Clone, Copy)]
pub struct Norm<'a> {
    /// Active channels.
    pub channels: usize,
    /// Mean of every channel: of the batch, or a running one.
    pub mean: View<'a, f32>,
    /// Biased variance of every channel.
    pub var: View<'a, f32>,
    /// Scale of every channel.
    pub gamma: View<'a, f32>,
    /// Shift of every channel.
    pub beta: View<'a, f32>,
    /// Whether a ReLU follows (after the residual, if there is one).
    pub relu: bool,
}

impl Norm<'_> {
    fn check(&self) {
        let channels = self.channels;
        for (name, v) in
            [("mean", self.mean), ("var", self.var), ("gamma", self.gamma), ("beta", self.beta)]
        {
            assert!(v.len() == channels, "{name} has {} values for {channels} channels", v.len());
        }
    }

    fn parameters(&self, gpu: &Gpu) -> Parameters {
        Parameters {
            mean: self.mean.on(gpu),
            var: self.var.on(gpu),
            gamma: self.gamma.on(gpu),
            beta: self.beta.on(gpu),
        }
    }
}

/// Panics unless `len` is a whole number of rows, and returns how many.
fn whole_rows(channels: usize, len: usize) -> usize {
    assert!(channels > 0 && len.is_multiple_of(channels), "{len} values in {channels} channels");
    len / channels
}

/// As [`crate::norm::norm_forward`]: `x`, `residual` and `y` are `[rows, channels]`.
///
/// # Errors
/// When the GPU fails.
///
/// # Panics
/// When a length is wrong.
pub fn norm_forward<T: Activation>(
    gpu: &Gpu,
    norm: &Norm<'_>,
    x: View<'_, T>,
    residual: Option<View<'_, T>>,
    y: ViewMut<'_, T>,
) -> Result<(), GpuError> {
    norm.check();
    let rows = whole_rows(norm.channels, x.len());
    assert_eq!(x.len(), y.len(), "lengths of x and y");
    if let Some(residual) = residual {
        assert_eq!(x.len(), residual.len(), "lengths of x and the residual");
    }
    if rows == 0 {
        return Ok(());
    }
    let residual = residual.map_or(0, |v| v.on(gpu));
    let length = length::<T>(norm.channels, &[x.on(gpu), residual, y.on(gpu)]);
    let walk = Walk::new(rows, norm.channels, length);
    let arguments = Forward {
        norm: norm.parameters(gpu),
        x: x.on(gpu),
        residual,
        y: y.on(gpu),
        walk,
        relu: norm.relu.into(),
        unused: 0,
    };
    let kernel = variant::<T>(variants!("norm_forward"), length);
    gpu.launch(walk.launch(kernel, 0, 0), &arguments)
}

/// Running statistics, each `[channels]`, to be moved towards a batch's as by [`crate::norm::update_running`].
pub struct Running<'a> {
    /// Of the means.
    pub mean: ViewMut<'a, f32>,
    /// Of the unbiased variances.
    pub var: ViewMut<'a, f32>,
    /// The share of the batch.
    pub momentum: f32,
}

/// As [`crate::norm::batch_statistics`]: mean and biased variance `[channels]` of `x` `[rows, channels]`, and the running
/// ones' update. `scratch` holds the chunks' moments.
///
/// # Errors
/// When the GPU fails.
///
/// # Panics
/// When `x` is empty or not whole rows, or another length is not `channels`.
pub fn batch_statistics<T: Activation>(
    gpu: &Gpu,
    channels: usize,
    x: View<'_, T>,
    mean: ViewMut<'_, f32>,
    var: ViewMut<'_, f32>,
    running: Option<Running<'_>>,
    scratch: &mut Buffer<f32>,
) -> Result<(), GpuError> {
    let rows = whole_rows(channels, x.len());
    assert!(rows > 0, "statistics of an empty batch");
    let length = length::<T>(channels, &[x.on(gpu)]);
    let walk = Walk::new(rows, channels, length);
    let partial = scratch.reserve(moments_len(rows, walk.chunk_rows(), channels))?;
    let arguments = Moments { x: x.on(gpu), partial: partial.on(gpu), walk };
    let kernel = variant::<T>(variants!("norm_moments"), length);
    gpu.launch(walk.launch(kernel, 3, length), &arguments)?;
    merge_moments(gpu, rows, walk.chunk_rows(), partial, mean, var, running)
}

/// Channels and threads of a block that merges, as in `cuda/norm.cu`.
const MERGED: usize = 8;
const MERGE_THREADS: usize = 1024;

fn merge_launch(kernel: &'static str, channels: usize) -> Launch {
    Launch {
        kernel,
        grid: [channels.div_ceil(MERGED) as u32, 1, 1],
        threads: MERGE_THREADS as u32,
        shared: 2 * MERGE_THREADS * size_of::<f64>(),
    }
}

/// Parts that merge into one where there are more than [`MANY`], as those of a convolution over large maps: merging takes a
/// block for every few channels, and narrow layers would leave most of a GPU idle.
const GROUP: usize = 64;
const MANY: usize = 512;

/// Numbers that [`merge_moments`] needs: the parts', and f64 of groups of them.
pub fn moments_len(rows: usize, rows_per_part: usize, channels: usize) -> usize {
    let parts = rows.div_ceil(rows_per_part);
    let groups = if parts > MANY { parts.div_ceil(GROUP) } else { 0 };
    (parts + 2 * groups) * 2 * channels
}

/// Mean and biased variance `[channels]` of `rows` rows from their parts of `rows_per_part` rows, the last one of what is
/// left: `partial` begins with `[parts, 2, channels]`, each one's means and sums of squared deviations, as convolutions leave
/// them, and is as long as [`moments_len`] says. Merges in f64, and moves the running statistics, if there are any.
///
/// # Errors
/// When the GPU fails.
///
/// # Panics
/// When there are no rows, or a length is wrong.
pub fn merge_moments(
    gpu: &Gpu,
    rows: usize,
    rows_per_part: usize,
    partial: ViewMut<'_, f32>,
    mean: ViewMut<'_, f32>,
    var: ViewMut<'_, f32>,
    running: Option<Running<'_>>,
) -> Result<(), GpuError> {
    assert!(rows > 0, "statistics of an empty batch");
    let (channels, parts) = (mean.len(), rows.div_ceil(rows_per_part));
    let needed = moments_len(rows, rows_per_part, channels);
    assert_eq!(partial.len(), needed, "length of the parts");
    assert_eq!(var.len(), channels, "length of var");
    let (partial, merged) = partial.split_at(parts * 2 * channels);
    let (mut kernel, mut from, mut rows_of_each) =
        ("merge_moments_f32", partial.on(gpu), rows_per_part);
    if !merged.is_empty() {
        assert!(merged.on(gpu).is_multiple_of(8), "f64 at an odd address");
        let groups = parts.div_ceil(GROUP);
        let arguments = MergeParts {
            partial: partial.on(gpu),
            merged: merged.on(gpu),
            rows: rows as i64,
            rows_per_part: rows_per_part as i64,
            parts: int(parts),
            channels: int(channels),
            group: int(GROUP),
            unused: 0,
        };
        let launch = Launch {
            kernel: "merge_parts",
            grid: [channels.div_ceil(32) as u32, groups as u32, 1],
            threads: THREADS as u32,
            shared: 2 * THREADS * size_of::<f64>(),
        };
        gpu.launch(launch, &arguments)?;
        (kernel, from, rows_of_each) = ("merge_moments_f64", merged.on(gpu), rows_per_part * GROUP);
    }
    let mut arguments = MergeMoments {
        partial: from,
        mean: mean.on(gpu),
        var: var.on(gpu),
        running_mean: 0,
        running_var: 0,
        rows: rows as i64,
        rows_per_part: rows_of_each as i64,
        parts: int(rows.div_ceil(rows_of_each)),
        channels: int(channels),
        momentum: 0.0,
        unbiased: (rows as f64 / rows.saturating_sub(1).max(1) as f64) as f32,
    };
    if let Some(Running { mean, var, momentum }) = running {
        assert_eq!(mean.len(), channels, "length of running_mean");
        assert_eq!(var.len(), channels, "length of running_var");
        (arguments.running_mean, arguments.running_var) = (mean.on(gpu), var.on(gpu));
        arguments.momentum = momentum;
    }
    gpu.launch(merge_launch(kernel, channels), &arguments)
}

/// `Mask`.
const NO_RELU: i32 = 0;
const FROM_INPUT: i32 = 1;
const FROM_OUTPUT: i32 = 2;

/// As [`crate::norm::norm_backward`], in place: `x` becomes its gradient and `grad`, where there is an `output`, that of
/// the residual. `grad_gamma` and `grad_beta` are added to. `scratch` holds the chunks' sums.
///
/// # Errors
/// When the GPU fails.
///
/// # Panics
/// When a length is wrong.
pub fn norm_backward<T: Activation>(
    gpu: &Gpu,
    norm: &Norm<'_>,
    batch_statistics: bool,
    x: ViewMut<'_, T>,
    output: Option<View<'_, T>>,
    grad: ViewMut<'_, T>,
    grad_gamma: ViewMut<'_, f32>,
    grad_beta: ViewMut<'_, f32>,
    scratch: &mut Buffer<f32>,
) -> Result<(), GpuError> {
    norm.check();
    let channels = norm.channels;
    let rows = whole_rows(channels, x.len());
    assert_eq!(x.len(), grad.len(), "lengths of x and grad");
    assert_eq!(grad_gamma.len(), channels, "length of grad_gamma");
    assert_eq!(grad_beta.len(), channels, "length of grad_beta");
    let output = output.filter(|_| norm.relu);
    if let Some(output) = output {
        assert_eq!(x.len(), output.len(), "lengths of x and the output");
    }
    if rows == 0 {
        return Ok(());
    }
    let mask = match (norm.relu, output) {
        (false, _) => NO_RELU,
        (true, None) => FROM_INPUT,
        (true, Some(_)) => FROM_OUTPUT,
    };
    let output = output.map_or(0, |v| v.on(gpu));
    let length = length::<T>(channels, &[x.on(gpu), output, grad.on(gpu)]);
    let walk = Walk::new(rows, channels, length);
    let (means, partial) =
        scratch.reserve((1 + walk.chunks()) * 2 * channels)?.split_at(2 * channels);
    let means = if batch_statistics { means.on(gpu) } else { 0 };

    let sums = Sums {
        norm: norm.parameters(gpu),
        x: x.on(gpu),
        output,
        grad: grad.on(gpu),
        partial: partial.on(gpu),
        walk,
        mask,
        unused: 0,
    };
    let kernel = variant::<T>(variants!("norm_sums"), length);
    gpu.launch(walk.launch(kernel, 2, length), &sums)?;

    let merge = MergeSums {
        partial: partial.on(gpu),
        var: norm.var.on(gpu),
        grad_gamma: grad_gamma.on(gpu),
        grad_beta: grad_beta.on(gpu),
        means,
        rows: rows as i64,
        parts: int(walk.chunks()),
        channels: int(channels),
    };
    gpu.launch(merge_launch("norm_merge_sums", channels), &merge)?;

    let input = InputGradient {
        norm: norm.parameters(gpu),
        x: x.on(gpu),
        grad: grad.on(gpu),
        means,
        walk,
        // With an output, the masked gradient is already in `grad`.
        masked: (mask == FROM_INPUT).into(),
        unused: 0,
    };
    let kernel = variant::<T>(variants!("norm_input_gradient"), length);
    gpu.launch(walk.launch(kernel, 0, 0), &input)
}

/// As [`crate::norm::fold`].
///
/// # Errors
/// When the GPU fails.
///
/// # Panics
/// When a length is not [`Norm::channels`].
pub fn fold(
    gpu: &Gpu,
    norm: &Norm<'_>,
    scale: ViewMut<'_, f32>,
    shift: ViewMut<'_, f32>,
) -> Result<(), GpuError> {
    norm.check();
    assert_eq!(scale.len(), norm.channels, "length of scale");
    assert_eq!(shift.len(), norm.channels, "length of shift");
    let (norm, channels) = (norm.parameters(gpu), norm.channels);
    let (scale, shift) = (scale.on(gpu), shift.on(gpu));
    let arguments = Fold { norm, scale, shift, channels: int(channels), unused: 0 };
    let grid = [channels.div_ceil(THREADS) as u32, 1, 1];
    gpu.launch(Launch { kernel: "fold", grid, threads: THREADS as u32, shared: 0 }, &arguments)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// What the kernels count on, for sizes that no emulator gets through.
        #[test]
        fn chunks_are_bounded_and_cover_all_rows(
            rows in 1usize..1 << 25,
            channels in 1usize..2100,
            length in prop::sample::select(vec![1usize, 4, 8]),
        ) {
            let walk = Walk::new(rows, channels, length);
            let (chunks, chunk_rows) = (walk.chunks(), walk.chunk_rows());
            prop_assert!((chunks - 1) * chunk_rows < rows && rows <= chunks * chunk_rows);
            prop_assert!(STEPS.contains(&(walk.steps as usize)) && walk.steps % 4 == 0);
            let covered = walk.tiles as usize * walk.across as usize * length;
            prop_assert!(covered >= channels && covered - channels < walk.across as usize * length);
            // More blocks than wanted only where their threads have all the rows that they may.
            let blocks = chunks * walk.tiles as usize;
            prop_assert!(blocks <= 2 * BLOCKS || walk.steps as usize == *STEPS.end());
        }
    }
}
