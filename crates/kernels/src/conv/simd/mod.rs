//! One vector vocabulary for every instruction set, and the one place where it is chosen.
//!
//! An algorithm is a [`Job`]: written once over [`Simd`], marked `#[inline(always)]` down to the
//! intrinsics. [`Simd::vectorize`] is the only function that carries `#[target_feature]`; the whole
//! job is inlined into it and compiled for that instruction set.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

#[cfg(target_arch = "x86_64")]
pub(super) use avx512::Zmm as Sixteen;

use super::indirect;
use super::parallel::Shares;
use super::product::{Kernel, Panels};

/// Lanes of [`Simd::Narrow`], on every instruction set. Buffers between the phases of a kernel pad
/// their channels with zeros to a multiple of this.
pub(super) const LANES: usize = 8;

/// A register (or a few) of `f32` lanes.
///
/// The constructors are `unsafe`: they may only run where the instruction set is available. The
/// arithmetic is safe, since a value in hand proves that one of them ran.
pub(super) trait Vector: Copy {
    /// Lanes.
    const LANES: usize;

    /// # Safety
    /// The instruction set is available.
    unsafe fn splat(x: f32) -> Self;

    /// # Safety
    /// The instruction set is available, and `LANES` floats can be read at `from`.
    unsafe fn load(from: *const f32) -> Self;

    /// The first `n <= LANES` lanes from memory, zero in the others.
    ///
    /// # Safety
    /// The instruction set is available, and `n` floats can be read at `from`.
    unsafe fn load_partial(from: *const f32, n: usize) -> Self;

    /// # Safety
    /// `LANES` floats can be written at `to`.
    unsafe fn store(self, to: *mut f32);

    /// Writes the first `n <= LANES` lanes.
    ///
    /// # Safety
    /// `n` floats can be written at `to`.
    unsafe fn store_partial(self, to: *mut f32, n: usize);

    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn max(self, other: Self) -> Self;
    /// 0 where `mask <= 0`, and `self` elsewhere, also where the mask is no number.
    fn gate(self, mask: Self) -> Self;
    /// `self * factor + term`.
    fn mul_add(self, factor: Self, term: Self) -> Self;
    /// `term - self * factor`.
    fn neg_mul_add(self, factor: Self, term: Self) -> Self;
}

/// How a vector of channels meets memory: whole, or, past the last whole one, the first few lanes.
pub(super) trait Access: Copy {
    /// # Safety
    /// The instruction set is available, and the lanes can be read.
    unsafe fn load<V: Vector>(self, from: *const f32) -> V;
    /// # Safety
    /// The lanes can be written.
    unsafe fn store<V: Vector>(self, value: V, to: *mut f32);
}

/// All lanes.
#[derive(Clone, Copy)]
pub(super) struct Whole;

impl Access for Whole {
    #[inline(always)]
    unsafe fn load<V: Vector>(self, from: *const f32) -> V {
        // SAFETY: passed on.
        unsafe { V::load(from) }
    }
    #[inline(always)]
    unsafe fn store<V: Vector>(self, value: V, to: *mut f32) {
        // SAFETY: passed on.
        unsafe { value.store(to) }
    }
}

/// The first few lanes; the others load as zeros.
#[derive(Clone, Copy)]
pub(super) struct First(pub usize);

impl Access for First {
    #[inline(always)]
    unsafe fn load<V: Vector>(self, from: *const f32) -> V {
        // SAFETY: passed on.
        unsafe { V::load_partial(from, self.0) }
    }
    #[inline(always)]
    unsafe fn store<V: Vector>(self, value: V, to: *mut f32) {
        // SAFETY: passed on.
        unsafe { value.store_partial(to, self.0) }
    }
}

/// An instruction set.
pub(super) trait Simd: Copy + 'static {
    /// The widest register.
    type Wide: Vector;
    /// [`LANES`] floats, for what the wide ones leave over.
    type Narrow: Vector;
    /// Columns of a micro-kernel tile, in units of [`LANES`].
    const PANEL: usize;
    /// Units left over by whole panels that the last one takes in, rather than that they make a
    /// panel too narrow to hide its broadcasts.
    const JOINED: usize;

    /// Rows of a micro-kernel tile over `units` columns: as many as the registers hold.
    fn rows(units: usize) -> usize;

    /// The micro-kernel for tiles of `rows <= Self::rows(units)`.
    fn kernel(rows: usize, units: usize) -> Kernel;

    /// The same for a product whose rows are addressed one by one, of at most
    /// [`MOST_ROWS`](super::indirect::MOST_ROWS) rows.
    fn indirect_kernel(rows: usize, units: usize) -> indirect::Kernel;

    /// The transpose of an 8 x 8 block.
    fn transpose(rows: [Self::Narrow; LANES]) -> [Self::Narrow; LANES];

    /// Asks for the cache line at an address, which need not be valid: in a core's own cache.
    #[inline(always)]
    fn prefetch(_at: *const f32) {}

    /// The same for a line that will be overwritten.
    #[inline(always)]
    fn prefetch_to_write(_at: *const f32) {}

    /// The same for a line that is read soon: in the first cache.
    #[inline(always)]
    fn prefetch_near(_at: *const f32) {}

    /// Runs the job compiled for this instruction set.
    ///
    /// # Safety
    /// The instruction set is available, and the job's own conditions hold.
    unsafe fn vectorize<J: Job>(job: J);
}

/// Work that is generic over the instruction set.
pub(super) trait Job {
    /// # Safety
    /// `S` is available, and the conditions that the job states hold.
    unsafe fn run<S: Simd>(self);
}

/// An instruction set that this machine was found to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX-512 with bf16, and the matrix unit.
    #[cfg(target_arch = "x86_64")]
    Amx,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Isa {
    /// Those that this machine has, the best one last. Under Miri, which knows few intrinsics, that
    /// is plain code alone.
    pub fn available() -> impl DoubleEndedIterator<Item = Isa> {
        let intrinsics = !cfg!(miri);
        [
            Some(Kind::Scalar),
            #[cfg(target_arch = "x86_64")]
            (intrinsics && is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"))
                .then_some(Kind::Avx2),
            #[cfg(target_arch = "x86_64")]
            (intrinsics
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma"))
            .then_some(Kind::Avx512),
            #[cfg(target_arch = "x86_64")]
            super::matrix::available().then_some(Kind::Amx),
            #[cfg(target_arch = "aarch64")]
            (intrinsics && std::arch::is_aarch64_feature_detected!("neon")).then_some(Kind::Neon),
        ]
        .into_iter()
        .flatten()
        .map(Isa)
    }

    /// The best one that this machine has.
    pub fn best() -> Isa {
        Isa::available().next_back().expect("scalar is always there")
    }

    /// Its usual name.
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Kind::Amx => "amx",
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => "neon",
        }
    }

    /// Whether it has a matrix unit.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn has_matrix_unit(self) -> bool {
        self.0 == Kind::Amx
    }

    /// How the columns of a product over `channels` are cut.
    pub(super) fn panels(self, channels: usize) -> Panels {
        let (base, joined, _) = self.panel_units();
        Panels::new(channels, base, joined)
    }

    /// How they are cut where each panel is a task: a panel to a share, as wide as there are kernels for.
    pub(super) fn panel_shares(self, channels: usize) -> Shares {
        let (base, joined, vector) = self.panel_units();
        Shares::for_threads(channels, base + joined, vector)
    }

    /// Units of a panel, those that it takes in, and those of a wide vector.
    fn panel_units(self) -> (usize, usize, usize) {
        fn of<S: Simd>() -> (usize, usize, usize) {
            (S::PANEL, S::JOINED, S::Wide::LANES / LANES)
        }
        match self.0 {
            Kind::Scalar => of::<scalar::Scalar>(),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => of::<avx2::Avx2>(),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 | Kind::Amx => of::<avx512::Avx512>(),
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => of::<neon::Neon>(),
        }
    }

    /// # Safety
    /// The conditions that the job states hold.
    pub(super) unsafe fn run<J: Job>(self, job: J) {
        // SAFETY: an `Isa` only comes from `available`, which found the instruction set; the
        // caller answers for the job.
        unsafe {
            match self.0 {
                Kind::Scalar => scalar::Scalar::vectorize(job),
                #[cfg(target_arch = "x86_64")]
                Kind::Avx2 => avx2::Avx2::vectorize(job),
                #[cfg(target_arch = "x86_64")]
                Kind::Avx512 | Kind::Amx => avx512::Avx512::vectorize(job),
                #[cfg(target_arch = "aarch64")]
                Kind::Neon => neon::Neon::vectorize(job),
            }
        }
    }
}
