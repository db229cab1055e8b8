//! Which pixels of a convolution read which, and through which taps.

use super::ConvShape;

/// In one dimension, the taps that a row reads: for `i < count` the weight's tap `first_tap + i *
/// tap_step` at source position `step * row + offset + i`.
#[derive(Clone, Copy)]
pub(super) struct Taps {
    pub step: usize,
    pub offset: isize,
    pub count: usize,
    first_tap: usize,
    tap_step: isize,
}

impl Taps {
    /// Those of an output position.
    pub(super) fn forward(kernel: usize, stride: usize) -> Self {
        Self {
            step: stride,
            offset: -((kernel / 2) as isize),
            count: kernel,
            first_tap: 0,
            tap_step: 1,
        }
    }

    /// Those of the input positions `stride * row + class`. Output `y` reads input
    /// `y * stride + tap - padding`, so that position is read by output
    /// `row + (class + padding - tap) / stride` through every tap for which that is whole.
    pub(super) fn backward(kernel: usize, stride: usize, class: usize) -> Self {
        let shifted = class + kernel / 2;
        let least = shifted % stride;
        let count = if least < kernel { (kernel - 1 - least) / stride + 1 } else { 0 };
        // The last of them reads the first position.
        let last = least + count.saturating_sub(1) * stride;
        Self {
            step: 1,
            offset: (shifted as isize - last as isize) / stride as isize,
            count,
            first_tap: last,
            tap_step: -(stride as isize),
        }
    }

    /// The weight's tap.
    pub(super) fn tap(&self, i: usize) -> usize {
        self.first_tap.wrapping_add_signed(i as isize * self.tap_step)
    }

    /// One past the last source position that `rows` rows read.
    pub(super) fn end(&self, rows: usize) -> isize {
        (self.step * rows.saturating_sub(1) + self.count) as isize + self.offset
    }
}

/// The destinations that read alike: positions `spacing * i + first` in each dimension.
#[derive(Clone, Copy)]
pub(super) struct Class {
    pub vertical: Taps,
    pub horizontal: Taps,
    pub spacing: usize,
    pub first_line: usize,
    pub first_position: usize,
    pub lines: usize,
    pub positions: usize,
    /// Floats that a destination reads.
    pub depth: usize,
}

impl Class {
    /// All outputs.
    pub(super) fn forward(shape: &ConvShape) -> Self {
        let taps = Taps::forward(shape.kernel, shape.stride);
        Self {
            vertical: taps,
            horizontal: taps,
            spacing: 1,
            first_line: 0,
            first_position: 0,
            lines: shape.out_height(),
            positions: shape.out_width(),
            depth: taps.count * taps.count * shape.in_channels,
        }
    }

    /// Inputs of class `i` of `stride * stride`.
    pub(super) fn backward(shape: &ConvShape, i: usize) -> Self {
        let (kernel, stride) = (shape.kernel, shape.stride);
        let (y, x) = (i / stride, i % stride);
        let vertical = Taps::backward(kernel, stride, y);
        let horizontal = Taps::backward(kernel, stride, x);
        Self {
            vertical,
            horizontal,
            spacing: stride,
            first_line: y,
            first_position: x,
            lines: shape.height.saturating_sub(y).div_ceil(stride),
            positions: shape.width.saturating_sub(x).div_ceil(stride),
            depth: vertical.count * horizontal.count * shape.out_channels,
        }
    }
}
