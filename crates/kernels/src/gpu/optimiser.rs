//! One pass each over flat parameters on a GPU: SGD, moving averages, accumulation of gradients. See
//! `cuda/optimiser.cu`. Parameters, velocities, averages and totals get the bits that they would have on the CPU.

use super::GpuError;
use super::arguments::{THREADS, arguments, int};
use super::driver::{Gpu, Launch};
use super::memory::{Buffer, View, ViewMut};
use half::bf16;
use std::ops::Range;

arguments! {
    /// `SgdArguments`.
    struct SgdStep {
        work: u64,
        params: u64,
        grads: u64,
        velocity: u64,
        copy: u64,
        lr: f32,
        momentum: f32,
        weight_decay: f32,
        nesterov: i32,
        aligned: i32,
        unused: u32,
    }
}

arguments! {
    /// `EmaArguments`.
    struct Ema {
        average: u64,
        current: u64,
        copy: u64,
        length: i64,
        kept: f32,
        added: f32,
        aligned: i32,
        unused: u32,
    }
}

arguments! {
    /// `DrainArguments`.
    struct Drain {
        total: u64,
        grads: u64,
        partial: u64,
        length: i64,
        each: i32,
        aligned: i32,
    }
}

arguments! {
    /// `NormArguments`.
    struct Norm {
        partial: u64,
        norm: u64,
        count: i64,
    }
}

/// Values of one block: enough to keep a memory controller busy, few enough to occupy all multiprocessors.
const CHUNK: usize = 4096;

/// Which ranges of flat buffers an optimiser steps, and where weight decay acts: a table of pieces of work on the GPU,
/// made anew only when the ranges change.
pub struct WorkTable {
    pieces: Buffer<u32>,
    len: usize,
    active: Vec<Range<usize>>,
    no_decay: Vec<Range<usize>>,
    host: Vec<u32>,
}

impl WorkTable {
    /// No ranges of empty buffers.
    pub fn new(gpu: &Gpu) -> Self {
        Self {
            pieces: Buffer::new(gpu),
            len: 0,
            active: Vec::new(),
            no_decay: Vec::new(),
            host: Vec::new(),
        }
    }

    /// The `active` ranges of buffers of `len` values, with weight decay everywhere but in the ranges `no_decay`.
    ///
    /// # Errors
    /// When the GPU fails.
    ///
    /// # Panics
    /// When `active` or `no_decay` is not sorted, disjoint and inside the buffers, or `len` is 2^32 or more.
    pub fn set(
        &mut self,
        len: usize,
        active: &[Range<usize>],
        no_decay: &[Range<usize>],
    ) -> Result<(), GpuError> {
        if self.len == len && self.active == active && self.no_decay == no_decay {
            return Ok(());
        }
        assert!(u32::try_from(len).is_ok(), "{len} values are too many for a table of work");
        assert_sorted("active", active, len);
        assert_sorted("no_decay", no_decay, len);
        self.len = 0; // should the upload fail, the next call does not find itself up to date
        self.host.clear();
        let mut holes = no_decay.iter().filter(|r| !r.is_empty()).peekable();
        for range in active {
            let mut at = range.start;
            while at < range.end {
                while holes.next_if(|hole| hole.end <= at).is_some() {}
                let (decays, change) = match holes.peek() {
                    Some(hole) if hole.start <= at => (false, hole.end),
                    Some(hole) => (true, hole.start),
                    None => (true, len),
                };
                // At multiples of the chunk, so that only the ends of a range are not aligned.
                let end = range.end.min(change).min((at / CHUNK + 1) * CHUNK);
                self.host.extend([at as u32, (end - at) as u32, decays.into(), 0]);
                at = end;
            }
        }
        self.pieces.upload(&self.host)?;
        self.len = len;
        self.active.clear();
        self.active.extend_from_slice(active);
        self.no_decay.clear();
        self.no_decay.extend_from_slice(no_decay);
        Ok(())
    }
}

fn assert_sorted(name: &str, ranges: &[Range<usize>], len: usize) {
    let mut end = 0;
    for range in ranges {
        assert!(
            end <= range.start && range.start <= range.end && range.end <= len,
            "{name}: {range:?} is out of order or outside 0..{len}"
        );
        end = range.end;
    }
}

/// One step of SGD: `v = momentum v + (g + weight_decay w); w = w - lr v`, or with Nesterov's variant
/// `w = w - lr (g + weight_decay w + momentum v)`, `v` being the new one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// Learning rate.
    pub lr: f32,
    /// Share of the velocity that is kept; 0 to 1.
    pub momentum: f32,
    /// L2 penalty.
    pub weight_decay: f32,
    /// Nesterov's variant.
    pub nesterov: bool,
}

/// Steps the ranges of `work`, zeroes their gradients, and writes the new parameters as bf16 to the same places of `copy`.
/// Outside these ranges nothing is read or written. `params`, `grads`, `velocity` and `copy` are equally long.
///
/// # Errors
/// When the GPU fails.
///
/// # Panics
/// When a length is not the one that `work` was set for.
pub fn sgd_step(
    gpu: &Gpu,
    sgd: &Sgd,
    work: &WorkTable,
    params: ViewMut<'_, f32>,
    grads: ViewMut<'_, f32>,
    velocity: ViewMut<'_, f32>,
    copy: Option<ViewMut<'_, bf16>>,
) -> Result<(), GpuError> {
    assert_eq!(params.len(), work.len, "number of parameters");
    assert_eq!(grads.len(), work.len, "number of gradients");
    assert_eq!(velocity.len(), work.len, "number of velocities");
    let pieces = work.pieces.view();
    if pieces.is_empty() {
        return Ok(());
    }
    let copy = copy_address(gpu, copy, work.len);
    let arguments = SgdStep {
        work: pieces.on(gpu),
        params: params.on(gpu),
        grads: grads.on(gpu),
        velocity: velocity.on(gpu),
        copy,
        lr: sgd.lr,
        momentum: sgd.momentum,
        weight_decay: sgd.weight_decay,
        nesterov: sgd.nesterov.into(),
        aligned: aligned([params.on(gpu), grads.on(gpu), velocity.on(gpu)], copy),
        unused: 0,
    };
    gpu.launch(launch("sgd_step", pieces.len() / 4, 0), &arguments)
}

/// `average = decay average + (1 - decay) current`, and the new average as bf16 in `copy`. All are equally long.
///
/// # Errors
/// When the GPU fails.
///
/// # Panics
/// When the lengths differ.
pub fn ema_update(
    gpu: &Gpu,
    decay: f32,
    average: ViewMut<'_, f32>,
    current: View<'_, f32>,
    copy: Option<ViewMut<'_, bf16>>,
) -> Result<(), GpuError> {
    let len = average.len();
    assert_eq!(current.len(), len, "average and current differ in length");
    if len == 0 {
        return Ok(());
    }
    let copy = copy_address(gpu, copy, len);
    let arguments = Ema {
        average: average.on(gpu),
        current: current.on(gpu),
        copy,
        length: len as i64,
        kept: decay,
        added: 1.0 - decay,
        aligned: aligned([average.on(gpu), current.on(gpu), 0], copy),
        unused: 0,
    };
    gpu.launch(launch("ema_update", len.div_ceil(4 * THREADS), 0), &arguments)
}

/// Adds `grads` to `total`, zeroes them, and writes their L2 norm as they were into the one number `norm`: summed in f64 in
/// an order that depends on the length alone. `scratch` holds the parts of the sum.
///
/// # Errors
/// When the GPU fails.
///
/// # Panics
/// When `total` and `grads` differ in length, or `norm` is not one number.
pub fn drain_into(
    gpu: &Gpu,
    total: ViewMut<'_, f32>,
    grads: ViewMut<'_, f32>,
    mut norm: ViewMut<'_, f32>,
    scratch: &mut Buffer<f32>,
) -> Result<(), GpuError> {
    let len = grads.len();
    assert_eq!(total.len(), len, "total and gradients differ in length");
    assert_eq!(norm.len(), 1, "numbers for a norm");
    if len == 0 {
        return norm.clear();
    }
    let blocks = len.div_ceil(CHUNK);
    let partial = scratch.reserve(2 * blocks)?.on(gpu); // of f64
    let arguments = Drain {
        total: total.on(gpu),
        grads: grads.on(gpu),
        partial,
        length: len as i64,
        each: int(CHUNK / 4),
        aligned: aligned([total.on(gpu), grads.on(gpu), 0], 0),
    };
    let shared = THREADS / 32 * size_of::<f64>();
    gpu.launch(launch("drain_into", blocks, shared), &arguments)?;
    let arguments = Norm { partial, norm: norm.on(gpu), count: blocks as i64 };
    gpu.launch(launch("drained_norm", 1, shared), &arguments)
}

fn launch(kernel: &'static str, blocks: usize, shared: usize) -> Launch {
    Launch { kernel, grid: [int(blocks) as u32, 1, 1], threads: THREADS as u32, shared }
}

fn copy_address(gpu: &Gpu, copy: Option<ViewMut<'_, bf16>>, len: usize) -> u64 {
    copy.map_or(0, |copy| {
        assert_eq!(copy.len(), len, "length of the bf16 copy");
        copy.on(gpu)
    })
}

/// Whether four values whose index is a multiple of four can be had at once.
fn aligned(buffers: [u64; 3], copy: u64) -> i32 {
    (buffers.iter().all(|a| a % 16 == 0) && copy.is_multiple_of(8)).into()
}
