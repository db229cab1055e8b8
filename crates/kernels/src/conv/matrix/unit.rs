//! The matrix unit: tiles of 16 rows of 64 bytes, and `C[16, 16] += A[16, 32] * B[32, 16]` of bf16
//! operands with sums in f32 as one instruction (Intel's AMX, `TDPBF16PS`).
//!
//! Rust has no stable intrinsics for it, hence assembly. A whole sum is one piece of it, so that no tile
//! has to live from one piece to the next.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::marker::PhantomData;
use std::sync::OnceLock;

/// Rows of a tile, and f32 columns.
pub(super) const SIDE: usize = 16;
/// Depth of one instruction.
pub(super) const DEPTH: usize = 32;
/// Bytes of a row of an operand: the upper halves of 32 numbers, then the lower ones.
pub(super) const ROW: usize = 128;
/// Bytes of an operand's 16 rows.
pub(super) const BLOCK: usize = SIDE * ROW;
/// Floats of a tile of sums.
pub(super) const SUMS: usize = SIDE * SIDE;

/// Whether this machine has the unit, and the process may use it.
pub(in crate::conv) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| !cfg!(miri) && detected() && permitted())
}

fn detected() -> bool {
    const BF16: u32 = 1 << 22;
    const TILES: u32 = 1 << 24;
    let vectors = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512bf16")
        && is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma");
    // With AVX-512 there is a leaf 7.
    vectors && __cpuid_count(7, 0).edx & (BF16 | TILES) == BF16 | TILES
}

/// Linux gives the state of 8 KiB that tiles are to processes that ask for it.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const REQUEST: libc::c_long = 0x1023; // ARCH_REQ_XCOMP_PERM
    const TILE_DATA: libc::c_long = 18;
    // SAFETY: the call changes nothing but what this process may do, and that signal stacks have to have room
    // for tiles; it is refused where one has not, or by kernels that do not know it.
    unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST, TILE_DATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// How `LDTILECFG` reads it: palette 1, and of every tile the bytes of a row and the rows.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// The unit of the core that this thread runs on, set up. Tiles that are not given back make every
/// change of threads dearer, so a task sets it up and drops it at its end.
pub(super) struct Unit(PhantomData<*mut ()>);

impl Unit {
    /// # Safety
    /// It is [`available`], and the thread has no other.
    pub(super) unsafe fn new() -> Self {
        let mut of = Configuration {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        of.row_bytes[..8].fill(64);
        of.rows[..8].fill(SIDE as u8);
        // SAFETY: the caller has the unit, and the configuration is a valid one.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const of, options(nostack, readonly)) };
        Self(PhantomData)
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        // SAFETY: that it exists proves that the unit is there.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// Where a step of a sum finds its operands, in bytes: 32 of the sum's terms.
#[derive(Clone, Copy)]
#[repr(C)]
#[allow(dead_code, reason = "only the assembly reads them")]
pub(super) struct Step {
    pub a: u32,
    pub b: u32,
}

/// Memory that is brought to a core's own cache while a sum is made: [`FETCHED`] floats for each of its steps, `apart` bytes
/// from one step's to the next one's. A few of them at a time do not keep the unit's own loads waiting.
#[derive(Clone, Copy)]
pub(super) struct Fetch {
    pub from: *const f32,
    pub apart: usize,
}

/// Floats of the four lines of memory that a step fetches, as the assembly of [`Unit::pair`] counts them.
pub(super) const FETCHED: usize = 64;

/// A step's products on two rows of tiles: three each, of both upper halves, and of either lower one with the
/// other's upper. The order is for cores whose other hardware thread is at work: these have few tiles to rename, and a
/// loop that uses four takes half the time of one that uses eight, although it loads more; on a core of
/// its own, either takes the time of the products.
macro_rules! pair {
    () => {
        concat!(
            "tileloadd tmm3, [{q} + {stride}*1 + 64]\n",
            "tileloadd tmm2, [{p} + {stride}*1]\n",
            "tdpbf16ps tmm0, tmm2, tmm3\n",
            "tileloadd tmm2, [{r} + {stride}*1]\n",
            "tdpbf16ps tmm1, tmm2, tmm3\n",
            "tileloadd tmm3, [{q} + {stride}*1]\n",
            "tdpbf16ps tmm1, tmm2, tmm3\n",
            "tileloadd tmm2, [{r} + {stride}*1 + 64]\n",
            "tdpbf16ps tmm1, tmm2, tmm3\n",
            "tileloadd tmm2, [{p} + {stride}*1 + 64]\n",
            "tdpbf16ps tmm0, tmm2, tmm3\n",
            "tileloadd tmm2, [{p} + {stride}*1]\n",
            "tdpbf16ps tmm0, tmm2, tmm3\n",
        )
    };
}

/// The same on one row of tiles.
macro_rules! single {
    () => {
        concat!(
            "tileloadd tmm3, [{q} + {stride}*1 + 64]\n",
            "tileloadd tmm2, [{p} + {stride}*1]\n",
            "tdpbf16ps tmm0, tmm2, tmm3\n",
            "tileloadd tmm3, [{q} + {stride}*1]\n",
            "tdpbf16ps tmm0, tmm2, tmm3\n",
            "tileloadd tmm2, [{p} + {stride}*1 + 64]\n",
            "tdpbf16ps tmm0, tmm2, tmm3\n",
        )
    };
}

impl Unit {
    /// `C[32, 16] = A[32, k] * B[k, 16]`, or `+=` with `accumulate`, summed over the steps. Rows of `A` and
    /// `B` are [`ROW`] bytes; the lower 16 rows of `A` follow `second` bytes after the upper ones, and
    /// those of `C` directly. Meanwhile memory is fetched for what comes `next`.
    ///
    /// # Safety
    /// At every step's place there is a block of each operand, and `C` has room for `2 * SUMS` floats, which
    /// are numbers if they are added to.
    #[inline]
    pub(super) unsafe fn pair(
        &self,
        steps: &[Step],
        a: *const u8,
        second: usize,
        b: *const u8,
        c: *mut f32,
        accumulate: bool,
        next: Option<Fetch>,
    ) {
        if steps.is_empty() {
            // SAFETY: passed on to the caller.
            unsafe { nothing(c, 2 * SUMS, accumulate) };
            return;
        }
        let steps = steps.as_ptr_range();
        macro_rules! sum {
            ($($fetch:literal,)* ; $($operand:tt)*) => {
                asm!(
                    "mov {stride:e}, 64",
                    "test {p:e}, {p:e}",
                    "jnz 2f",
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "jmp 3f",
                    "2:",
                    "tileloadd tmm0, [{c} + {stride}*1]",
                    "tileloadd tmm1, [{c} + {stride}*1 + 1024]",
                    "3:",
                    "mov {stride:e}, 128",
                    "4:",
                    "mov {p:e}, dword ptr [{step}]",
                    "mov {q:e}, dword ptr [{step} + 4]",
                    "add {p}, {a}",
                    "add {q}, {b}",
                    "lea {r}, [{p} + {second}]",
                    "add {step}, 8",
                    $($fetch,)*
                    pair!(),
                    "cmp {step}, {end}",
                    "jne 4b",
                    "mov {stride:e}, 64",
                    "tilestored [{c} + {stride}*1], tmm0",
                    "tilestored [{c} + {stride}*1 + 1024], tmm1",
                    step = inout(reg) steps.start => _,
                    end = in(reg) steps.end,
                    a = in(reg) a,
                    second = in(reg) second,
                    b = in(reg) b,
                    c = in(reg) c,
                    stride = out(reg) _,
                    p = inout(reg) usize::from(accumulate) => _,
                    q = out(reg) _,
                    r = out(reg) _,
                    $($operand)*
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    options(nostack),
                )
            };
        }
        // SAFETY: the tiles are set up, the caller lends what is read and written, and the loop ends with
        // the steps. What is fetched is not accessed.
        unsafe {
            match next {
                None => sum!(;),
                Some(Fetch { from, apart }) => sum!(
                    "prefetcht1 [{from}]",
                    "prefetcht1 [{from} + 64]",
                    "prefetcht1 [{from} + 128]",
                    "prefetcht1 [{from} + 192]",
                    "add {from}, {apart}",
                    ;
                    from = inout(reg) from => _,
                    apart = in(reg) apart,
                ),
            }
        }
    }

    /// [`Unit::pair`] of the upper rows alone.
    ///
    /// # Safety
    /// As there; `C` has room for `SUMS` floats.
    #[inline]
    pub(super) unsafe fn single(
        &self,
        steps: &[Step],
        a: *const u8,
        b: *const u8,
        c: *mut f32,
        accumulate: bool,
    ) {
        if steps.is_empty() {
            // SAFETY: passed on to the caller.
            unsafe { nothing(c, SUMS, accumulate) };
            return;
        }
        let steps = steps.as_ptr_range();
        // SAFETY: as in `pair`.
        unsafe {
            asm!(
                "mov {stride:e}, 64",
                "test {p:e}, {p:e}",
                "jnz 2f",
                "tilezero tmm0",
                "jmp 3f",
                "2:",
                "tileloadd tmm0, [{c} + {stride}*1]",
                "3:",
                "mov {stride:e}, 128",
                "4:",
                "mov {p:e}, dword ptr [{step}]",
                "mov {q:e}, dword ptr [{step} + 4]",
                "add {p}, {a}",
                "add {q}, {b}",
                "add {step}, 8",
                single!(),
                "cmp {step}, {end}",
                "jne 4b",
                "mov {stride:e}, 64",
                "tilestored [{c} + {stride}*1], tmm0",
                step = inout(reg) steps.start => _,
                end = in(reg) steps.end,
                a = in(reg) a,
                b = in(reg) b,
                c = in(reg) c,
                stride = out(reg) _,
                p = inout(reg) usize::from(accumulate) => _,
                q = out(reg) _,
                out("tmm0") _, out("tmm2") _, out("tmm3") _,
                options(nostack),
            );
        }
    }
}

/// The sum of no terms.
///
/// # Safety
/// `len` floats can be written at `c`.
unsafe fn nothing(c: *mut f32, len: usize, accumulate: bool) {
    if !accumulate {
        // SAFETY: passed on to the caller.
        unsafe { c.write_bytes(0, len) };
    }
}
