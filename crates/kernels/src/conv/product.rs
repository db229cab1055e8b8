//! The matrix product under every convolution: `C[m, n] (+)= sum over k of A[m, k] * B[k, n]`.
//!
//! `A` is read in place, one broadcast at a time, through a row stride and a step along `k`: the
//! weight gradients read it transposed by swapping the two. `B` comes in panels, `[k][width]`
//! contiguous, each as wide as a register tile. Widths are multiples of [`LANES`].

use super::simd::{LANES, Simd, Vector};

/// How the columns of a product, in units of [`LANES`], are cut into panels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Panels {
    units: usize,
    base: usize,
    count: usize,
}

impl Panels {
    /// `base` units each, except that the last one takes in a rest of up to `joined` units.
    pub(super) fn new(channels: usize, base: usize, joined: usize) -> Self {
        let units = channels.div_ceil(LANES);
        let whole = units / base;
        let count = if whole > 0 && units % base <= joined { whole } else { units.div_ceil(base) };
        Self { units, base, count }
    }

    pub(super) fn count(self) -> usize {
        self.count
    }

    /// Columns with their padding.
    pub(super) fn columns(self) -> usize {
        self.units * LANES
    }

    /// First column and width in units of panel `i`.
    #[inline(always)]
    pub(super) fn get(self, i: usize) -> (usize, usize) {
        let start = i * self.base;
        let units = if i + 1 == self.count { self.units - start } else { self.base };
        (start * LANES, units)
    }

    /// `(first column, units)` of every panel.
    #[inline(always)]
    pub(super) fn iter(self) -> impl Iterator<Item = (usize, usize)> {
        (0..self.count).map(move |i| self.get(i))
    }
}

/// Floats of a chunk: what the operands keep together, a cache line.
pub(super) const CHUNK: usize = 16;

/// One panel's product. All three operands may be cut into chunks of [`CHUNK`] floats: `A` along `k`,
/// `B` and `C` along their columns.
#[derive(Clone, Copy)]
pub(super) struct Product {
    /// Depth of the sum.
    pub k: usize,
    /// `A[m, k]` is at `a + m * row + k / CHUNK * jump + k % CHUNK * step`.
    pub a: *const f32,
    pub row: usize,
    pub step: usize,
    pub jump: usize,
    /// `B[k, n]` is at `b + k * b_step + n / CHUNK * b_jump + n % CHUNK`.
    pub b: *const f32,
    pub b_step: usize,
    pub b_jump: usize,
    /// `C[m, n]` is at `c + m * c_row + n / CHUNK * c_jump + n % CHUNK`.
    pub c: *mut f32,
    pub c_row: usize,
    pub c_jump: usize,
    /// Add to `C` instead of overwriting it.
    pub accumulate: bool,
    /// What to fetch meanwhile, or null.
    pub fetch: *mut Fetch,
}

/// Cache lines to fetch ahead: some stretches of `run` neighbouring lines.
#[derive(Clone, Copy)]
pub(super) struct Stream {
    at: *const f32,
    /// From the start of a stretch to that of the next, in floats.
    pitch: usize,
    run: usize,
    /// The next line of the stretch at `at`, and the lines left in all.
    line: usize,
    left: usize,
}

impl Stream {
    /// One stretch.
    pub(super) fn new(at: *const f32, floats: usize) -> Self {
        Self::stretches(at, 1, floats, 0)
    }

    /// Stretches of `floats`, each starting `pitch` floats after the last.
    pub(super) fn stretches(at: *const f32, count: usize, floats: usize, pitch: usize) -> Self {
        let run = floats.div_ceil(CHUNK);
        Self { at, pitch, run, line: 0, left: count * run }
    }

    /// Nothing.
    pub(super) fn none() -> Self {
        Self::new(std::ptr::null(), 0)
    }

    #[inline(always)]
    fn advance(&mut self, lines: usize, fetch: impl Fn(*const f32)) {
        let lines = lines.min(self.left);
        self.left -= lines;
        for _ in 0..lines {
            fetch(self.at.wrapping_add(self.line * CHUNK));
            self.line += 1;
            if self.line == self.run {
                self.line = 0;
                self.at = self.at.wrapping_add(self.pitch);
            }
        }
    }
}

/// Memory to fetch ahead in the course of some products, a few lines at a step, which is [`CHUNK`]
/// deep in a register tile.
pub(super) struct Fetch {
    read: Ahead,
    also: Ahead,
    other: Ahead,
    /// Whether `other` will be overwritten.
    write: bool,
    steps: usize,
}

/// So many lines of a stream at each step.
struct Ahead {
    stream: Stream,
    lines: usize,
}

impl Ahead {
    fn new(stream: Stream, steps: usize) -> Self {
        Self { stream, lines: stream.left.div_ceil(steps) }
    }

    #[inline(always)]
    fn step(&mut self, fetch: impl Fn(*const f32)) {
        self.stream.advance(self.lines, fetch);
    }
}

impl Fetch {
    /// Both streams in about `steps` steps.
    pub(super) fn new(read: Stream, other: Stream, write: bool, steps: usize) -> Self {
        let steps = steps.max(1);
        let [read, also, other] = [read, Stream::none(), other].map(|s| Ahead::new(s, steps));
        Self { read, also, other, write, steps }
    }

    /// One more to read.
    pub(super) fn also(self, stream: Stream) -> Self {
        Self { also: Ahead::new(stream, self.steps), ..self }
    }

    /// Another stream instead of the one to read besides, in so many steps, at least one.
    pub(super) fn replace_also(&mut self, stream: Stream, steps: usize) {
        self.also = Ahead::new(stream, steps);
    }

    #[inline(always)]
    pub(super) fn step<S: Simd>(&mut self) {
        self.read.step(S::prefetch);
        self.also.step(S::prefetch);
        if self.write {
            self.other.step(S::prefetch_to_write);
        } else {
            self.other.step(S::prefetch);
        }
    }
}

/// A vector of sums on its way to `C`.
///
/// # Safety
/// `V::LANES` floats can be read and written at `to`.
#[inline(always)]
pub(super) unsafe fn put<V: Vector>(sum: V, to: *mut f32, accumulate: bool) {
    // SAFETY: passed on to the caller; the sum proves the instruction set.
    unsafe { if accumulate { sum.add(V::load(to)) } else { sum }.store(to) };
}

/// `blocks` tiles of the same number of rows, one below the other.
pub(super) type Kernel = unsafe fn(blocks: usize, product: &Product);

/// `rows` rows over a panel of `units` columns units.
///
/// # Safety
/// `S` is available, the three operands of `product` are valid for the sizes given, and `fetch` is
/// null or valid.
#[inline(always)]
pub(super) unsafe fn multiply<S: Simd>(rows: usize, units: usize, mut product: Product) {
    if rows == 0 {
        return;
    }
    // Even tiles: 9 rows are 5 + 4, never 8 + 1.
    let blocks = rows.div_ceil(S::rows(units));
    let (height, taller) = (rows / blocks, rows % blocks);
    // SAFETY: `taller * (height + 1) + (blocks - taller) * height` is `rows`, so the tiles stay
    // within the operands.
    unsafe {
        if taller > 0 {
            S::kernel(height + 1, units)(taller, &product);
            product.a = product.a.add(taller * (height + 1) * product.row);
            product.c = product.c.add(taller * (height + 1) * product.c_row);
        }
        S::kernel(height, units)(blocks - taller, &product);
    }
}

/// The register tile: `ROWS` x (`WIDE` wide vectors and `NARROW` narrow ones).
///
/// # Safety
/// As for [`multiply`], with `blocks * ROWS` rows.
#[inline(always)]
pub(super) unsafe fn tile<S: Simd, const ROWS: usize, const WIDE: usize, const NARROW: usize>(
    blocks: usize,
    product: &Product,
) {
    let Product {
        k,
        mut a,
        row,
        step,
        jump,
        b,
        b_step,
        b_jump,
        mut c,
        c_row,
        c_jump,
        accumulate,
        fetch,
    } = *product;
    let wide_at =
        |j: usize, jump: usize| j * S::Wide::LANES / CHUNK * jump + j * S::Wide::LANES % CHUNK;
    let narrow_at = |j: usize, jump: usize| {
        let n = WIDE * S::Wide::LANES + j * LANES;
        n / CHUNK * jump + n % CHUNK
    };
    for _ in 0..blocks {
        // SAFETY: row `i < ROWS` of block `blocks - 1` is among the rows promised, and so are the
        // columns.
        unsafe {
            if accumulate {
                // `C` comes from a cache further away; it is wanted when the sums are done.
                for i in 0..ROWS {
                    for j in 0..WIDE {
                        S::prefetch(c.add(i * c_row + wide_at(j, c_jump)));
                    }
                    for j in 0..NARROW {
                        S::prefetch(c.add(i * c_row + narrow_at(j, c_jump)));
                    }
                }
            }
            let mut w = [[S::Wide::splat(0.0); WIDE]; ROWS];
            let mut n = [[S::Narrow::splat(0.0); NARROW]; ROWS];
            let mut b = b;
            let mut chunk = a;
            let mut left = k;
            while left > 0 {
                let steps = left.min(CHUNK);
                left -= steps;
                if let Some(fetch) = fetch.as_mut() {
                    fetch.step::<S>();
                }
                // Rows are addressed in threes, `base + {0, 1, 2} * row`: x86 scales an index by 1
                // and 2 for free, so 8 rows take three pointers instead of eight.
                let mut base: [*const f32; 5] =
                    std::array::from_fn(|i| chunk.wrapping_add(3 * i * row));
                for _ in 0..steps {
                    let bw: [S::Wide; WIDE] =
                        std::array::from_fn(|j| S::Wide::load(b.add(wide_at(j, b_jump))));
                    let bn: [S::Narrow; NARROW] =
                        std::array::from_fn(|j| S::Narrow::load(b.add(narrow_at(j, b_jump))));
                    for i in 0..ROWS {
                        let x = *base[i / 3].add(i % 3 * row);
                        let (xw, xn) = (S::Wide::splat(x), S::Narrow::splat(x));
                        for j in 0..WIDE {
                            w[i][j] = xw.mul_add(bw[j], w[i][j]);
                        }
                        for j in 0..NARROW {
                            n[i][j] = xn.mul_add(bn[j], n[i][j]);
                        }
                    }
                    for p in &mut base {
                        *p = p.wrapping_add(step);
                    }
                    b = b.wrapping_add(b_step);
                }
                chunk = chunk.wrapping_add(jump);
            }
            for i in 0..ROWS {
                let c = c.add(i * c_row);
                for j in 0..WIDE {
                    put(w[i][j], c.add(wide_at(j, c_jump)), accumulate);
                }
                for j in 0..NARROW {
                    put(n[i][j], c.add(narrow_at(j, c_jump)), accumulate);
                }
            }
        }
        a = a.wrapping_add(ROWS * row);
        c = c.wrapping_add(ROWS * c_row);
    }
}

/// The kernels of one instruction set, as functions from a tile's rows and units to its [`Kernel`]
/// and to its [indirect one](super::indirect::Kernel).
macro_rules! kernels {
    ($simd:ty, $features:literal, $( $units:literal => ($wide:literal, $narrow:literal) [$($rows:literal)*] ),*) => {
        #[inline(always)]
        fn kernel(rows: usize, units: usize) -> $crate::conv::product::Kernel {
            #[target_feature(enable = $features)]
            unsafe fn tile<const ROWS: usize, const WIDE: usize, const NARROW: usize>(
                blocks: usize,
                product: &$crate::conv::product::Product,
            ) {
                // SAFETY: passed on to the caller.
                unsafe {
                    $crate::conv::product::tile::<$simd, ROWS, WIDE, NARROW>(blocks, product)
                }
            }
            match (units, rows) {
                $( $( ($units, $rows) => tile::<$rows, $wide, $narrow>, )* )*
                _ => unreachable!("no tile of {rows} rows and {units} units"),
            }
        }

        #[inline(always)]
        fn indirect_kernel(rows: usize, units: usize) -> $crate::conv::indirect::Kernel {
            use $crate::conv::indirect::MOST_ROWS;

            #[target_feature(enable = $features)]
            unsafe fn tile<const ROWS: usize, const WIDE: usize, const NARROW: usize>(
                rows: &$crate::conv::indirect::Rows,
                product: &$crate::conv::indirect::Indirect,
            ) {
                // SAFETY: passed on to the caller.
                unsafe {
                    $crate::conv::indirect::tile::<$simd, ROWS, WIDE, NARROW>(rows, product)
                }
            }
            match (units, rows) {
                $( $( ($units, $rows) => {
                    tile::<{ if $rows < MOST_ROWS { $rows } else { MOST_ROWS } }, $wide, $narrow>
                } )* )*
                _ => unreachable!("no tile of {rows} rows and {units} units"),
            }
        }
    };
}
pub(super) use kernels;
