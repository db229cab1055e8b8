//! Slices cut into chunks of equal length that threads share out.

use std::marker::PhantomData;

use super::for_each;

/// Something that is cut into chunks: a slice ([`chunks`], [`chunks_mut`]), or several of them side by
/// side in a tuple of two or three, as many chunks as the shortest has.
///
/// # Safety
/// The chunks `0..count()` may be used by different threads at the same time.
pub unsafe trait Chunks: Sync {
    /// One chunk, or one of each.
    type Chunk;

    /// Chunks, the last one possibly shorter than the others.
    fn count(&self) -> usize;

    /// Chunk `i`.
    ///
    /// # Safety
    /// `i < count()`, and it is called once for each `i`.
    unsafe fn chunk(&self, i: usize) -> Self::Chunk;
}

/// Chunks of `len` of a slice.
///
/// # Panics
/// When `len` is 0.
pub fn chunks<T: Sync>(slice: &[T], len: usize) -> Shared<'_, T> {
    assert!(len > 0, "chunks of no elements");
    Shared { slice, len }
}

/// Chunks of `len` of a slice, to be written.
///
/// # Panics
/// When `len` is 0.
pub fn chunks_mut<T: Send>(slice: &mut [T], len: usize) -> Exclusive<'_, T> {
    assert!(len > 0, "chunks of no elements");
    Exclusive { start: slice.as_mut_ptr(), total: slice.len(), len, slice: PhantomData }
}

/// Runs `task(i, chunk)` for every chunk on the threads of the ambient rayon pool, each of which starts
/// with a stretch of neighbours of its own.
pub fn for_each_chunk<C: Chunks>(of: C, task: impl Fn(usize, C::Chunk) + Sync) {
    for_each(of.count(), |i| {
        // SAFETY: `for_each` hands out each number once.
        task(i, unsafe { of.chunk(i) });
    });
}

/// Most chunks of [`sum_over_chunks`].
pub const MOST_SUMS: usize = 256;

/// The sum of `task(i, chunk)` over all chunks, at most [`MOST_SUMS`]. They are added in their order, so that
/// the sum has the same bits on any number of threads. Allocates nothing on a thread of the pool.
///
/// # Panics
/// When there are more chunks.
pub fn sum_over_chunks<C: Chunks>(of: C, task: impl Fn(usize, C::Chunk) -> f64 + Sync) -> f64 {
    assert!(of.count() <= MOST_SUMS, "{} sums, of at most {MOST_SUMS}", of.count());
    let mut sums = [0.0; MOST_SUMS];
    for_each_chunk((of, chunks_mut(&mut sums, 1)), |i, (chunk, sum)| sum[0] = task(i, chunk));
    sums.iter().sum()
}

/// See [`chunks`].
pub struct Shared<'s, T> {
    slice: &'s [T],
    len: usize,
}

// SAFETY: nothing is mutable.
unsafe impl<'s, T: Sync> Chunks for Shared<'s, T> {
    type Chunk = &'s [T];

    fn count(&self) -> usize {
        self.slice.len().div_ceil(self.len)
    }

    unsafe fn chunk(&self, i: usize) -> &'s [T] {
        let start = i * self.len;
        &self.slice[start..(start + self.len).min(self.slice.len())]
    }
}

/// See [`chunks_mut`].
pub struct Exclusive<'s, T> {
    start: *mut T,
    total: usize,
    len: usize,
    slice: PhantomData<&'s mut [T]>,
}

// SAFETY: it is a `&mut [T]` of which threads get parts that do not overlap.
unsafe impl<T: Send> Sync for Exclusive<'_, T> {}

// SAFETY: chunk `i` is `i * len..(i + 1) * len`, cut at the slice's end.
unsafe impl<'s, T: Send> Chunks for Exclusive<'s, T> {
    type Chunk = &'s mut [T];

    fn count(&self) -> usize {
        self.total.div_ceil(self.len)
    }

    unsafe fn chunk(&self, i: usize) -> &'s mut [T] {
        let start = i * self.len;
        let len = self.len.min(self.total - start);
        // SAFETY: within the slice, since `i < count()`; the caller takes each chunk once.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}

macro_rules! side_by_side {
    ($($name:ident $at:tt),+) => {
        // SAFETY: as for each of them.
        unsafe impl<$($name: Chunks),+> Chunks for ($($name,)+) {
            type Chunk = ($($name::Chunk,)+);

            fn count(&self) -> usize {
                [$(self.$at.count()),+].into_iter().min().unwrap_or(0)
            }

            unsafe fn chunk(&self, i: usize) -> Self::Chunk {
                // SAFETY: passed on to the caller.
                unsafe { ($(self.$at.chunk(i),)+) }
            }
        }
    };
}
side_by_side!(A 0, B 1);
side_by_side!(A 0, B 1, C 2);
