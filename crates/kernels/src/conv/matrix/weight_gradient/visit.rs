//! What a task lays out.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{Maps, Plan};
use crate::conv::input::Reading;
use crate::conv::matrix::layout::Images;
use crate::conv::matrix::minimal::{self, OUTPUTS, POINTS};
use crate::conv::matrix::source::Together;
use crate::conv::matrix::split::{split_pair, store, store_transposed};
use crate::conv::matrix::unit::{BLOCK, DEPTH, ROW, SIDE, Step};
use crate::conv::simd::{Job, Simd};
use crate::conv::winograd::Map;

/// Some units of a block of images, and where they are laid out.
pub(super) struct Visit<'a> {
    pub plan: Plan,
    pub block: Range<usize>,
    pub units: Range<usize>,
    pub maps: Maps<'a>,
    /// `[slot][place modulo the stride][tile of channels][step]` blocks of 16 channels by 32 rows.
    pub left: *mut u8,
    /// `[line][columns]` planes, at points `[unit][point][columns]`.
    pub right: *mut u8,
    /// Pairs of tiles of channels that the left operand has.
    pub pairs: Range<usize>,
}

/// Lays out lines of the input, or at points the lines that units' are transformed to, counted from the visit's first.
pub(super) struct Left<'a> {
    pub visit: &'a Visit<'a>,
    pub lines: Range<usize>,
    pub pairs: Range<usize>,
}

impl Job for Left<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: passed on to the caller; only an instruction set with the unit comes here.
        unsafe { self.compute() }
    }
}

impl Left<'_> {
    /// # Safety
    /// The machine has the unit, and the buffers and maps are as the fields say.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
    unsafe fn compute(self) {
        let Self { visit, lines, ref pairs } = self;
        for line in lines {
            // SAFETY: passed on to the caller.
            unsafe {
                if visit.plan.minimal {
                    let unit = visit.units.start + line;
                    let (first, outputs) = (unit * OUTPUTS, visit.plan.outputs(unit));
                    let (slot, used) = (line * POINTS, minimal::used_bits(outputs));
                    visit.lay_out_left(first as isize - 1, slot, pairs, used, |lines| {
                        minimal::input(lines, outputs)
                    });
                } else {
                    let slot = line % visit.plan.slots();
                    visit.lay_out_left(line as isize, slot, pairs, 1, |line: [_; 1]| line);
                }
            }
        }
    }
}

/// Lays out units of the output's gradient.
pub(super) struct Right<'a> {
    pub visit: &'a Visit<'a>,
    pub units: Range<usize>,
    pub columns: Range<usize>,
}

impl Job for Right<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: passed on to the caller; only an instruction set with the unit comes here.
        unsafe { self.compute() }
    }
}

impl Right<'_> {
    /// # Safety
    /// As for [`Left`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
    unsafe fn compute(self) {
        let Self { visit, units, ref columns } = self;
        for unit in units {
            let i = unit - visit.units.start;
            // SAFETY: passed on to the caller.
            unsafe {
                if visit.plan.minimal {
                    let (line, slot, outputs) =
                        (unit * OUTPUTS, i * POINTS, visit.plan.outputs(unit));
                    let used = minimal::used_bits(outputs);
                    visit.lay_out_right(line, slot, columns, used, |lines| {
                        minimal::gradient(lines, outputs)
                    });
                } else {
                    visit.lay_out_right(unit, i, columns, 1, |line: [_; 1]| line);
                }
            }
        }
    }
}

impl Visit<'_> {
    /// Bytes of a line of the left operand.
    fn left_line(&self) -> usize {
        self.plan.stride * self.left_segment()
    }

    /// Bytes of every `stride`-th pixel of one.
    fn left_segment(&self) -> usize {
        2 * self.pairs.len() * self.plan.steps * BLOCK
    }

    /// Writes the steps of a tap, or of a point and a tap of a line, and returns how many there are, without those whose
    /// gradients lie all beside the map.
    pub fn list(&self, tap: usize, to: &mut [Step]) -> usize {
        let Plan { images, output, stride, steps, columns, .. } = self.plan;
        let (vertical, horizontal) = (tap / 3, tap % 3);
        // The output's pixel `o` meets the input's `stride * o + horizontal - 1`, which is number `o + shift` of
        // its segment.
        let (segment, shift) = match horizontal {
            0 => (stride - 1, -1),
            offset => ((offset - 1) % stride, ((offset - 1) / stride) as isize),
        };
        let half = images.images / 2;
        let mut count = 0;
        for (i, unit) in self.units.clone().enumerate() {
            let (slot, right) = if self.plan.minimal {
                if !minimal::used(self.plan.outputs(unit)).contains(&vertical) {
                    continue;
                }
                (i * POINTS + vertical, i * POINTS + vertical)
            } else {
                let from = (unit * stride + vertical).checked_sub(1);
                let Some(from) = from.filter(|&l| l < images.map.height) else { continue };
                (from % self.plan.slots(), i)
            };
            let a = slot * self.left_line() + segment * self.left_segment();
            let b = right * columns * self.plan.right_plane();
            for step in 0..steps {
                let row = step * SIDE + (1 - shift) as usize * half;
                if row + SIDE <= half || row >= half * (output.width + 1) {
                    continue;
                }
                let (a, b) = (a + step * BLOCK, b + row * ROW);
                to[count] = Step { a: a as u32, b: b as u32 };
                count += 1;
            }
        }
        count
    }

    /// The first of the channels at row `row` of a line, which may be off the map and has every `step`-th pixel from `first` on, and how many
    /// images are there from that row's on.
    #[inline(always)]
    fn place(
        &self,
        of: *const f32,
        map: Map,
        line: isize,
        row: usize,
        (first, step): (usize, usize),
        channels: usize,
    ) -> (*const f32, usize) {
        let (x, n) = self.plan.images.place(row);
        let x = x * step + first;
        if x >= map.width || n >= self.block.len() {
            return (of, 0);
        }
        let line = ((self.block.start + n) * map.height) as isize + line;
        let pixel = line * map.width as isize + x as isize;
        (of.wrapping_offset(pixel * channels as isize), self.block.len() - n)
    }

    /// What lines of the input are transformed to (those of the bits), channels by rows, as lines of the left operand from `slot` on.
    ///
    /// # Safety
    /// As in `compute`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
    unsafe fn lay_out_left<const IN: usize, const OUT: usize>(
        &self,
        line: isize,
        slot: usize,
        pairs: &Range<usize>,
        used: u8,
        transform: impl Fn([__m512; IN]) -> [__m512; OUT],
    ) {
        let Plan { images: Images { map, .. }, stride, in_channels, steps, .. } = self.plan;
        let across = map.width * in_channels;
        let image = map.height * across;
        let Reading { values, norm } = self.maps.input;
        let lines = Together::<IN>::new(line, map.height, across, norm);
        let before = 2 * (pairs.start - self.pairs.start) * steps * BLOCK;
        let to = self.left.wrapping_add(slot * self.left_line() + before);
        let first = 2 * pairs.start * SIDE;
        let tiles = (2 * pairs.len()).min((in_channels - first).div_ceil(SIDE));
        for (segment, step) in (0..stride).flat_map(|i| (0..steps).map(move |step| (i, step))) {
            let to = to.wrapping_add(segment * self.left_segment());
            // Pairs of images of this step's pixels and of the next step's, each in a place of its own.
            let place = |row: usize| {
                self.place(values.as_ptr(), map, line, row, (segment, stride), in_channels)
            };
            let rows: [_; SIDE] = std::array::from_fn(|j| place(step * DEPTH + 2 * j));
            for j in 0..SIDE {
                let (next, _) = place((step + 1) * DEPTH + 2 * j);
                let next = next.wrapping_add(first);
                let n = tiles * SIDE;
                lines.fetch(next, n);
                lines.fetch(next.wrapping_add(image), n);
            }
            for tile in 0..tiles {
                let channel = first + tile * SIDE;
                let width = SIDE.min(in_channels - channel);
                let to = to.wrapping_add((tile * steps + step) * BLOCK);
                // SAFETY: only lines (`Together`), images (`place`) and channels that there are are read, and the lines have room.
                unsafe {
                    let mut upper = [[_mm512_setzero_si512(); SIDE]; OUT];
                    let mut lower = upper;
                    for (j, (from, images)) in rows.into_iter().enumerate() {
                        let read = |i: usize| {
                            let from = from.wrapping_add(i * image + channel);
                            let width = if images > i { width } else { 0 };
                            transform(lines.load(from, channel, width))
                        };
                        let (even, odd) = (read(0), read(1));
                        for i in 0..OUT {
                            (upper[i][j], lower[i][j]) = split_pair(even[i], odd[i]);
                        }
                    }
                    for i in (0..OUT).filter(|i| used >> i & 1 == 1) {
                        let to = to.wrapping_add(i * self.left_line());
                        store_transposed(upper[i], lower[i], to);
                    }
                }
            }
        }
    }

    /// What lines of the output's gradient are transformed to (those of the bits), pairs of rows by channels, as lines of the right operand from
    /// `slot` on.
    ///
    /// # Safety
    /// As in `compute`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
    unsafe fn lay_out_right<const IN: usize, const OUT: usize>(
        &self,
        line: usize,
        slot: usize,
        some: &Range<usize>,
        used: u8,
        transform: impl Fn([__m512; IN]) -> [__m512; OUT],
    ) {
        let Plan { images, output, out_channels, columns, .. } = self.plan;
        let plane = self.plan.right_plane();
        let across = output.width * out_channels;
        let image = output.height * across;
        let line = line as isize;
        let lines = Together::<IN>::new(line, output.height, across, None);
        let to = self.right.wrapping_add(slot * columns * plane);
        let half = images.images / 2;
        let (first, end) = (some.start * SIDE, (some.end * SIDE).min(out_channels));
        let width = end - first;
        // SAFETY: only lines (`Together`), images (`place`) and channels that there are are read, and the lines have room.
        unsafe {
            let used = |i: &usize| used >> i & 1 == 1;
            let lines_of = (0..OUT).filter(used);
            for (i, column) in lines_of.flat_map(|i| some.clone().map(move |column| (i, column))) {
                let to = to.wrapping_add((i * columns + column) * plane);
                to.write_bytes(0, half * ROW);
                let end = (half + half * output.width) * ROW;
                to.wrapping_add(end).write_bytes(0, plane - end);
            }
            for j in 0..half * output.width {
                let place = |j| {
                    self.place(self.maps.grad_output, output, line, 2 * j, (0, 1), out_channels)
                };
                // The next pixel of these images is fetched meanwhile.
                let (next, _) = place(j + half);
                let (next, n) = (next.wrapping_add(first), width);
                lines.fetch(next, n);
                lines.fetch(next.wrapping_add(image), n);
                let (from, images) = place(j);
                let to = to.wrapping_add((half + j) * ROW);
                for column in some.clone() {
                    let channel = column * SIDE;
                    let width = SIDE.min(out_channels - channel);
                    let read = |i: usize| {
                        let from = from.wrapping_add(i * image + channel);
                        let width = if images > i { width } else { 0 };
                        transform(lines.load(from, channel, width))
                    };
                    let (even, odd) = (read(0), read(1));
                    for i in (0..OUT).filter(used) {
                        let to = to.wrapping_add((i * columns + column) * plane);
                        store(split_pair(even[i], odd[i]), to);
                    }
                }
            }
        }
    }
}
