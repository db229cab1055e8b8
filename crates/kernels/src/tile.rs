//! How element-wise kernels cut a dense `[rows, channels]` buffer: into chunks that threads share
//! out, and within a chunk into strips long enough to vectorise whatever `channels` is.
//!
//! With few channels, several rows are handled as one: a buffer of 24 channels is walked as rows
//! of 504 = 21 x 24, whose per-channel parameters are repeated 21 times. Inner loops are then long,
//! and a channel count off the vector width costs nothing. Every cut depends on the shape alone,
//! never on the number of threads, so that sums do not either.

use crate::Scratch;
use std::ops::Range;

/// Most columns handled at once: the length of the per-column arrays on the stack.
pub(crate) const TILE: usize = 512;

/// Floats that one parallel task handles (256 KiB): enough to hide its start, few enough to share.
const CHUNK: usize = 1 << 16;

/// Strips added up in f32 before the sum moves to f64, which bounds its rounding error.
pub(crate) const FLUSH: usize = 32;

/// One f32 per column, on the stack.
pub(crate) type Columns = [f32; TILE];

/// The cut for one channel count.
#[derive(Clone, Copy)]
pub(crate) struct Tiling {
    channels: usize,
    /// Columns of a wide row: a multiple of `channels`.
    stride: usize,
}

impl Tiling {
    /// # Panics
    /// When `channels` is zero.
    pub(crate) fn new(channels: usize) -> Self {
        assert!(channels > 0, "a tensor needs at least one channel");
        Self { channels, stride: channels * (TILE / channels).max(1) }
    }

    /// Floats in one parallel task: whole wide rows.
    pub(crate) fn chunk_len(&self) -> usize {
        self.stride * (CHUNK / self.stride).max(1)
    }

    /// The column ranges, each at most [`TILE`] long, that cover a wide row.
    pub(crate) fn blocks(self) -> impl Iterator<Item = Range<usize>> {
        (0..self.stride).step_by(TILE).map(move |c| c..(c + TILE).min(self.stride))
    }

    /// The floats of `block` in wide row number `row`, as a range of a chunk of `len` floats.
    #[inline(always)]
    pub(crate) fn strip(&self, len: usize, row: usize, block: &Range<usize>) -> Range<usize> {
        let start = row * self.stride;
        (start + block.start).min(len)..(start + block.end).min(len)
    }

    /// Floats in the first `rows` wide rows of a chunk of `len` floats.
    pub(crate) fn head(&self, len: usize, rows: usize) -> usize {
        (rows * self.stride).min(len)
    }

    /// Wide rows in a chunk of `len` floats, the last one possibly short.
    pub(crate) fn rows(&self, len: usize) -> usize {
        len.div_ceil(self.stride)
    }

    /// `per_channel` repeated over the columns of `block`.
    pub(crate) fn spread(
        &self,
        block: &Range<usize>,
        per_channel: impl Fn(usize) -> f32,
    ) -> Columns {
        let mut columns = [0.0; TILE];
        let columns_used = &mut columns[..block.len()];
        if self.channels <= TILE {
            // The block starts a wide row: compute one period, then copy it.
            for (c, v) in columns_used[..self.channels].iter_mut().enumerate() {
                *v = per_channel(c);
            }
            for start in (self.channels..block.len()).step_by(self.channels) {
                columns_used.copy_within(..self.channels, start);
            }
        } else {
            for (c, v) in block.clone().zip(columns_used) {
                *v = per_channel(c);
            }
        }
        columns
    }

    /// Adds each column's sum to its channel's.
    pub(crate) fn fold(&self, block: &Range<usize>, columns: &[f64; TILE], channels: &mut [f64]) {
        for (period, sums) in columns[..block.len()].chunks(self.channels).enumerate() {
            let first = (block.start + period * self.channels) % self.channels;
            for (total, sum) in channels[first..].iter_mut().zip(sums) {
                *total += sum;
            }
        }
    }
}

/// Moves f32 sums into their f64 totals.
#[inline(always)]
pub(crate) fn flush(sums: &mut Columns, totals: &mut [f64; TILE]) {
    for (total, sum) in totals.iter_mut().zip(sums.iter_mut()) {
        *total += f64::from(*sum);
        *sum = 0.0;
    }
}

/// `len` doubles of unspecified contents from the scratch buffer.
pub(crate) fn doubles(scratch: &mut Scratch, len: usize) -> &mut [f64] {
    // The scratch buffer starts on a cache line, so nothing is cut off at the front.
    &mut as_doubles(scratch.floats(2 * len))[..len]
}

/// The whole, aligned doubles in some floats.
pub(crate) fn as_doubles(floats: &mut [f32]) -> &mut [f64] {
    // SAFETY: any bit pattern is a valid f64, and `align_to_mut` itself keeps to whole, aligned
    // elements of the borrowed slice.
    unsafe { floats.align_to_mut::<f64>() }.1
}

/// Runs `body` compiled for the best instruction set that this machine has.
///
/// `body` must be an `#[inline(always)]` closure: only code inlined here is compiled for it.
#[inline(always)]
pub(crate) fn vectorised<R>(body: impl FnOnce() -> R) -> R {
    instruction_set().dispatch(body)
}

/// The best instruction set that this machine has. Miri, which knows no intrinsics, gets plain code.
#[inline(always)]
pub(crate) fn instruction_set() -> pulp::Arch {
    if cfg!(miri) { pulp::Arch::Scalar } else { pulp::Arch::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_float_is_in_exactly_one_strip_under_its_own_channel() {
        for channels in [1, 3, 8, 24, 200, 511, 512, 513, 1030] {
            let tiling = Tiling::new(channels);
            // Miri would be long at the last.
            for rows in [1, 2, 7, 70].into_iter().take(if cfg!(miri) { 3 } else { 4 }) {
                let len = rows * channels;
                let mut seen = vec![0; len];
                for block in tiling.blocks() {
                    let channel = tiling.spread(&block, |c| c as f32);
                    for row in 0..tiling.rows(len) {
                        let strip = tiling.strip(len, row, &block);
                        for (j, i) in strip.enumerate() {
                            seen[i] += 1;
                            assert_eq!(channel[j] as usize, i % channels);
                        }
                    }
                }
                assert!(seen.iter().all(|&n| n == 1), "{channels} channels, {rows} rows");
            }
        }
    }

    #[test]
    fn folding_returns_columns_to_their_channels() {
        for channels in [1, 5, 24, 512, 513, 1030] {
            let tiling = Tiling::new(channels);
            let mut sums = vec![0.0; channels];
            let mut repeats = 0;
            for block in tiling.blocks() {
                let columns = tiling.spread(&block, |c| c as f32 + 1.0);
                tiling.fold(&block, &columns.map(f64::from), &mut sums);
                repeats += block.len();
            }
            let repeats = (repeats / channels) as f64;
            for (c, sum) in sums.iter().enumerate() {
                assert_eq!(*sum, repeats * (c as f64 + 1.0), "channel {c} of {channels}");
            }
        }
    }
}
