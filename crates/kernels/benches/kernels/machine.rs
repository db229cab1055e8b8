//! What the machine itself can do on the same threads: the roofs that the table compares with.

use crate::measure::{Work, measure};
use criterion::Criterion;
use rayon::prelude::*;
use std::hint::black_box;

/// Side of the matrix product.
const SIDE: usize = 2048;
/// Floats copied, 128 MiB: more than any cache holds.
const FLOATS: usize = 1 << 25;

/// A large f32 matrix product by the `gemm` crate, for arithmetic; a copy, for memory.
///
/// Criterion calls a benchmark anew for every sample, so that buffers are made, and their pages touched,
/// outside of it.
pub fn roofs(criterion: &mut Criterion) {
    let (a, b) = (vec![0.5f32; SIDE * SIDE], vec![0.25f32; SIDE * SIDE]);
    let mut c = vec![1.0f32; SIDE * SIDE];
    let work = Work::Flops(2 * SIDE * SIDE * SIDE);
    measure(criterion, "roofline", "product", "2048x2048x2048 f32", work, |bencher| {
        bencher.iter(|| product(&a, &b, black_box(&mut c)));
        assert!(c.iter().all(|&v| v == SIDE as f32 / 8.0), "the machine's own product is wrong");
    });
    let (from, mut to) = (vec![1.0f32; FLOATS], vec![2.0f32; FLOATS]);
    let work = Work::Bytes(2 * 4 * FLOATS);
    measure(criterion, "roofline", "copy", "128 MiB", work, |bencher| {
        bencher.iter(|| {
            let chunks = black_box(&mut to).par_chunks_mut(1 << 16).zip(from.par_chunks(1 << 16));
            chunks.for_each(|(to, from)| to.copy_from_slice(from));
        });
    });
}

fn product(a: &[f32], b: &[f32], c: &mut [f32]) {
    let (row, column) = (SIDE as isize, 1);
    // SAFETY: the three row-major matrices have SIDE * SIDE floats each, all within their slices,
    // and `c` is borrowed exclusively.
    unsafe {
        gemm::gemm(
            SIDE,
            SIDE,
            SIDE,
            c.as_mut_ptr(),
            column,
            row,
            false,
            a.as_ptr(),
            column,
            row,
            b.as_ptr(),
            column,
            row,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::Rayon(0),
        );
    }
}
