//! How kernels share out their work to the threads of the ambient rayon pool
//! (`rayon::ThreadPool::install` chooses it).
//!
//! rayon's own parallel iterators split a range again and again, and every split may wake a thread. A
//! training step is a thousand kernels and more, of a millisecond or less. Here a kernel is one fork and one
//! join: each thread goes through a stretch of neighbouring tasks of its own, and helps with the others' when it is
//! done. On two threads that made training steps 7 % faster (`docs/performance.md`).
//!
//! Which thread takes which task is left to chance; what a task computes is not. Where the partition of a
//! sum depends on the shape alone, the result has the same bits on any number of threads.
//!
//! ```
//! use slimtau_parallel::{chunks, chunks_mut, for_each_chunk};
//!
//! let (x, mut y) = ([1.0, 2.0, 3.0, 4.0, 5.0], [0.0; 5]);
//! for_each_chunk((chunks_mut(&mut y, 2), chunks(&x, 2)), |i, (y, x)| {
//!     for (y, x) in y.iter_mut().zip(x) {
//!         *y = 10.0 * x + i as f32;
//!     }
//! });
//! assert_eq!(y, [10.0, 20.0, 31.0, 41.0, 52.0]);
//! ```
#![deny(missing_docs)]

/// The README's example, run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod chunks;
mod stretches;
mod team;

pub use chunks::{
    Chunks, Exclusive, MOST_SUMS, Shared, chunks, chunks_mut, for_each_chunk, sum_over_chunks,
};
pub use stretches::{Stretches, Walk};
pub use team::{hold, run};

/// Runs `task(i)` for every `i < tasks`.
pub fn for_each(tasks: usize, task: impl Fn(usize) + Sync) {
    let stretches = Stretches::new(rayon::current_num_threads(), 1, tasks);
    run(stretches.threads(), |thread| stretches.walk(thread).for_each(|(_, i)| task(i)));
}
