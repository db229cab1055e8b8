//! One GPU, real or emulated: memory and launches.

use super::arguments::Arguments;
use super::{GpuError, cuda, emulator};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a machine that runs kernels can do. Addresses are bytes in its memory; work runs in the order of the calls.
pub(super) trait Driver: Send + Sync {
    fn name(&self) -> &str;
    /// Unspecified contents, at an address that is a multiple of 256.
    fn allocate(&self, bytes: usize) -> Result<u64, GpuError>;
    fn free(&self, address: u64);
    fn upload(&self, from: &[u8], to: u64) -> Result<(), GpuError>;
    /// Waits for all work before.
    fn download(&self, from: u64, to: &mut [u8]) -> Result<(), GpuError>;
    fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<(), GpuError>;
    fn clear(&self, at: u64, bytes: usize) -> Result<(), GpuError>;
    fn launch(&self, launch: &Launch, arguments: &[u8]) -> Result<(), GpuError>;
    fn synchronize(&self) -> Result<(), GpuError>;
}

/// A kernel and how many threads run it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Launch {
    pub kernel: &'static str,
    pub grid: [u32; 3],
    /// Per block: whole warps, as many as the kernel was compiled for.
    pub threads: u32,
    /// Bytes of shared memory per block.
    pub shared: usize,
}

/// A GPU on which the operations of this module run. Clones are the same GPU.
#[derive(Clone)]
pub struct Gpu {
    pub(super) driver: Arc<dyn Driver>,
    memory: Arc<Memory>,
}

/// Bytes in buffers.
#[derive(Default)]
struct Memory {
    now: AtomicUsize,
    peak: AtomicUsize,
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Gpu").field(&self.name()).finish()
    }
}

impl Gpu {
    /// The GPU with this number, from 0. Compiles the kernels for it, which takes some seconds, unless their code is in the user's
    /// cache folder (`$XDG_CACHE_HOME/slimtau` or `~/.cache/slimtau`).
    ///
    /// # Errors
    /// When driver or compiler are not installed, there is no such GPU, or it is older than compute capability 8.0.
    pub fn open(ordinal: usize) -> Result<Self, GpuError> {
        Ok(Self::on(Arc::new(cuda::Cuda::open(ordinal)?)))
    }

    /// The GPU of a stream that others queue work in, too, such as candle's.
    #[cfg(feature = "cuda")]
    pub(crate) fn on_stream(stream: Arc<cudarc::driver::CudaStream>) -> Result<Self, GpuError> {
        let context = stream.context().clone();
        Ok(Self::on(Arc::new(cuda::Cuda::on(context, stream)?)))
    }

    /// A CPU that runs the kernels' sources thread by thread, thousands of times slower than a GPU: for tests. `library` is
    /// what `cargo xtask cuda emulator` builds. With `reversed`, a block's threads run from last to first between
    /// barriers: results that differ say that a barrier is missing.
    ///
    /// # Errors
    /// When the library cannot be loaded.
    pub fn emulated(library: &Path, reversed: bool) -> Result<Self, GpuError> {
        Ok(Self::on(Arc::new(emulator::Emulator::load(library, reversed)?)))
    }

    fn on(driver: Arc<dyn Driver>) -> Self {
        Self { driver, memory: Arc::default() }
    }

    /// Memory that nobody else has, of unspecified contents.
    pub(super) fn allocate(&self, bytes: usize) -> Result<u64, GpuError> {
        let address = self.driver.allocate(bytes)?;
        let now = self.memory.now.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.memory.peak.fetch_max(now, Ordering::Relaxed);
        Ok(address)
    }

    /// Gives back what [`Gpu::allocate`] gave.
    pub(super) fn free(&self, address: u64, bytes: usize) {
        self.memory.now.fetch_sub(bytes, Ordering::Relaxed);
        self.driver.free(address);
    }

    /// The most bytes that buffers of this GPU, of all clones together, have had at once.
    pub fn peak_memory(&self) -> usize {
        self.memory.peak.load(Ordering::Relaxed)
    }

    /// What the driver calls it.
    pub fn name(&self) -> &str {
        self.driver.name()
    }

    /// Waits for all queued work.
    ///
    /// # Errors
    /// When some of it failed.
    pub fn synchronize(&self) -> Result<(), GpuError> {
        self.driver.synchronize()
    }

    /// Queues a kernel. The caller answers for `arguments` being those of the kernel, with addresses in bounds.
    pub(super) fn launch<A: Arguments>(
        &self,
        launch: Launch,
        arguments: &A,
    ) -> Result<(), GpuError> {
        self.driver.launch(&launch, arguments.bytes())
    }
}
