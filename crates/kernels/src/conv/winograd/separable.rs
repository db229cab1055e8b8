//! The two dimensions of a transform, one after the other.

use std::mem::MaybeUninit;

use super::points::{self, MOST_POINTS, points};
use crate::conv::product::CHUNK;
use crate::conv::simd::{Access, Vector};

/// A transform of one dimension, of `read(m)` values to `written(m)` for a tile of `m` outputs: to and from its
/// points, unless it says otherwise.
pub(super) trait Transform {
    /// Lines of the result in the two goes of [`in_registers`]: those together that share subexpressions,
    /// and 7 for none.
    const LINES_OF_4: [[usize; 3]; 2] = [[0, 2, 3], [4, 5, 1]];
    #[inline(always)]
    fn read(m: usize) -> usize {
        points(m)
    }
    #[inline(always)]
    fn written(m: usize) -> usize {
        points(m)
    }
    fn apply<V: Vector, const M: usize>(values: [V; MOST_POINTS]) -> [V; MOST_POINTS];
}

/// `B^T d`.
pub(super) struct Input;

impl Transform for Input {
    #[inline(always)]
    fn apply<V: Vector, const M: usize>(d: [V; MOST_POINTS]) -> [V; MOST_POINTS] {
        points::input::<V, M>(d)
    }
}

/// `A dy`.
pub(super) struct Gradient;

impl Transform for Gradient {
    #[inline(always)]
    fn read(m: usize) -> usize {
        m
    }
    #[inline(always)]
    fn apply<V: Vector, const M: usize>(y: [V; MOST_POINTS]) -> [V; MOST_POINTS] {
        points::gradient::<V, M>(y)
    }
}

/// `A^T m`.
pub(super) struct Output;

impl Transform for Output {
    const LINES_OF_4: [[usize; 3]; 2] = [[0, 2, 7], [1, 3, 7]];
    #[inline(always)]
    fn written(m: usize) -> usize {
        m
    }
    #[inline(always)]
    fn apply<V: Vector, const M: usize>(m: [V; MOST_POINTS]) -> [V; MOST_POINTS] {
        points::output::<V, M>(m)
    }
}

/// A column of what is read: its values are `line` apart, except that the first and the last may be
/// somewhere else.
#[derive(Clone, Copy)]
pub(super) struct Column {
    pub first: *const f32,
    /// Where the first would be.
    pub start: *const f32,
    pub line: usize,
    pub last: *const f32,
}

impl Column {
    /// `values` values, all where they belong.
    #[inline(always)]
    pub(super) fn new(start: *const f32, line: usize, values: usize) -> Self {
        let last = start.wrapping_add((values - 1) * line);
        Self { first: start, start, line, last }
    }
}

/// Where the lines of the result go. Not a closure, which would be compiled without the instruction set.
pub(super) trait Sink<V: Vector>: Copy {
    /// # Safety
    /// The first `n` values of line `i` may be written.
    unsafe fn line(self, i: usize, n: usize, values: [V; MOST_POINTS]);
}

/// The half-transformed tile, on whole lines of the stack: to keep it in registers would take as many
/// functions as there are heights times widths, and the pixels read more than once.
#[repr(align(64))]
struct Between {
    _floats: [f32; MOST_POINTS * MOST_POINTS * CHUNK],
}

/// Calls a generic function with the outputs of a tile, in one dimension, as its last constant.
macro_rules! by_outputs {
    ($outputs:expr, $f:ident :: <$($generic:ty),+> $args:tt) => {
        match $outputs {
            6 => $f::<$($generic,)+ 6> $args,
            5 => $f::<$($generic,)+ 5> $args,
            4 => $f::<$($generic,)+ 4> $args,
            3 => $f::<$($generic,)+ 3> $args,
            2 => $f::<$($generic,)+ 2> $args,
            1 => $f::<$($generic,)+ 1> $args,
            _ => unreachable!("a tile has 1 to 6 outputs a side"),
        }
    };
}

/// One vector of channels of a tile of `height` x `width` outputs: reads columns, writes lines.
///
/// # Safety
/// The instruction set is available, `access` may read `T::read(height)` values of
/// `T::read(width)` columns, and `sink` may take `T::written(width)` values of `T::written(height)`
/// lines.
#[inline(always)]
pub(super) unsafe fn transform<V: Vector, T: Transform>(
    [height, width]: [usize; 2],
    access: impl Access,
    column: impl Fn(usize) -> Column,
    sink: impl Sink<V>,
) {
    const { assert!(V::LANES <= CHUNK, "a half-transformed tile has room") };
    let mut between = MaybeUninit::<Between>::uninit();
    let between = between.as_mut_ptr().cast::<f32>();
    // SAFETY: passed on to the caller; the lines read what the columns have written.
    unsafe {
        match (height, width) {
            (4, 4) => return in_registers::<V, T, 4, 4>(access, column, sink),
            (4, 3) => return in_registers::<V, T, 4, 3>(access, column, sink),
            (3, 4) => return in_registers::<V, T, 3, 4>(access, column, sink),
            (3, 3) => return in_registers::<V, T, 3, 3>(access, column, sink),
            _ => {}
        }
        by_outputs!(height, columns::<V, T, _, _>(T::read(width), access, column, between));
        by_outputs!(width, lines::<V, T, _>(T::written(height), between, sink));
    }
}

/// A tile of `H` x `W` outputs, at most 4 a side, a few lines of the result at a time: so their half-transformed
/// values stay in registers, and what is read is read twice.
#[inline(always)]
unsafe fn in_registers<V: Vector, T: Transform, const H: usize, const W: usize>(
    access: impl Access,
    column: impl Fn(usize) -> Column,
    sink: impl Sink<V>,
) {
    // SAFETY: passed on to the caller.
    unsafe {
        some_lines::<V, T, H, W>(access, &column, sink, T::LINES_OF_4[0]);
        some_lines::<V, T, H, W>(access, &column, sink, T::LINES_OF_4[1]);
    }
}

/// Those of `lines` that there are.
#[inline(always)]
unsafe fn some_lines<V: Vector, T: Transform, const H: usize, const W: usize>(
    access: impl Access,
    column: impl Fn(usize) -> Column,
    sink: impl Sink<V>,
    lines: [usize; 3],
) {
    // SAFETY: passed on to the caller.
    unsafe {
        let mut halves = [[V::splat(0.0); MOST_POINTS]; 3];
        for j in 0..T::read(W) {
            let values = half::<V, T, H>(access, column(j));
            for (half, line) in halves.iter_mut().zip(lines) {
                half[j] = values[line];
            }
        }
        for (half, line) in halves.into_iter().zip(lines) {
            if line < T::written(H) {
                sink.line(line, T::written(W), T::apply::<V, W>(half));
            }
        }
    }
}

/// One column, transformed.
#[inline(always)]
unsafe fn half<V: Vector, T: Transform, const M: usize>(
    access: impl Access,
    column: Column,
) -> [V; MOST_POINTS] {
    let Column { first, start, line, last } = column;
    // SAFETY: passed on to the caller.
    unsafe {
        let mut values = [V::splat(0.0); MOST_POINTS];
        for (i, value) in values.iter_mut().enumerate().take(T::read(M)) {
            *value = access.load(if i == 0 {
                first
            } else if i + 1 == T::read(M) {
                last
            } else {
                start.wrapping_add(i * line)
            });
        }
        T::apply::<V, M>(values)
    }
}

#[inline(always)]
fn place<V: Vector>(between: *mut f32, i: usize, j: usize) -> *mut f32 {
    between.wrapping_add((i * MOST_POINTS + j) * V::LANES)
}

#[inline(always)]
unsafe fn columns<V: Vector, T: Transform, A: Access, C: Fn(usize) -> Column, const M: usize>(
    count: usize,
    access: A,
    column: C,
    between: *mut f32,
) {
    for j in 0..count {
        // SAFETY: passed on to the caller.
        unsafe {
            let values = half::<V, T, M>(access, column(j));
            for (i, value) in values.into_iter().enumerate().take(T::written(M)) {
                value.store(place::<V>(between, i, j));
            }
        }
    }
}

#[inline(always)]
unsafe fn lines<V: Vector, T: Transform, K: Sink<V>, const M: usize>(
    count: usize,
    between: *mut f32,
    sink: K,
) {
    for i in 0..count {
        // SAFETY: passed on to the caller.
        unsafe {
            let mut values = [V::splat(0.0); MOST_POINTS];
            for (j, value) in values.iter_mut().enumerate().take(T::read(M)) {
                *value = V::load(place::<V>(between, i, j));
            }
            sink.line(i, T::written(M), T::apply::<V, M>(values));
        }
    }
}
