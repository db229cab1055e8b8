//! Working memory that a caller keeps across steps, so that the steady state allocates nothing.

/// One cache line, and one AVX-512 vector.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// A grow-only, 64-byte-aligned buffer. One kernel call uses it at a time.
#[derive(Default)]
pub struct Scratch {
    lines: Vec<Line>,
    /// What a kernel keeps while the kernels that it calls use the rest.
    kept: Option<Box<Scratch>>,
}

impl Scratch {
    /// An empty buffer; it grows to the largest request it has seen.
    pub fn new() -> Self {
        Self::default()
    }

    /// `len` floats of unspecified contents (whatever the previous call left).
    pub fn floats(&mut self, len: usize) -> &mut [f32] {
        let lines = len.div_ceil(16);
        if self.lines.len() < lines {
            if self.lines.capacity() < lines {
                // Not grown in place: that would copy what nobody may ask for. Room to spare costs addresses, not memory.
                let capacity = lines.max(2 * self.lines.capacity());
                self.lines = Vec::new();
                self.lines.reserve_exact(capacity);
            }
            // Nor may anybody count on zeros.
            self.lines.resize(lines, Line([f32::NAN; 16]));
        }
        let start = self.lines.as_mut_ptr().cast::<f32>();
        // SAFETY: `Line` is exactly 16 f32 (repr(C), size 64 = align 64, no padding), so `lines`
        // contiguous lines are `16 * lines >= len` initialised floats, borrowed from `self` for as
        // long as the returned slice lives.
        unsafe { std::slice::from_raw_parts_mut(start, len) }
    }

    /// The first `len` floats, as they are.
    ///
    /// # Panics
    /// When the buffer has not grown to `len` yet.
    pub fn first(&self, len: usize) -> &[f32] {
        assert!(len <= 16 * self.lines.len(), "{len} floats of {}", 16 * self.lines.len());
        // SAFETY: as in `floats`; `len` floats are there, borrowed from `self`.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast::<f32>(), len) }
    }

    /// `shared` floats for all threads and `lane` floats for each thread of the ambient pool, of
    /// unspecified contents.
    pub(crate) fn split(&mut self, shared: usize, lane: usize) -> (&mut [f32], &mut [f32]) {
        let shared = shared.next_multiple_of(16);
        let lanes = rayon::current_num_threads() * lane;
        let (all, lanes) = self.floats(shared + lanes).split_at_mut(shared);
        (all, lanes)
    }

    /// Runs `body` with another buffer beside this one.
    pub(crate) fn with_kept<R>(&mut self, body: impl FnOnce(&mut Scratch, &mut Scratch) -> R) -> R {
        let mut kept = self.kept.take().unwrap_or_default();
        let result = body(self, &mut kept);
        self.kept = Some(kept);
        result
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        let kept = self.kept.as_ref().map_or(0, |kept| kept.bytes());
        self.lines.capacity() * size_of::<Line>() + kept
    }
}
