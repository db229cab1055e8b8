//! A real GPU, through cudarc: the primary context, one stream, modules of our own sources.

use super::GpuError;
use super::driver::{Driver, Launch};
use super::staging::{self, Staging};
use super::{cache, nvrtc};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::{CudaContext, CudaStream, sys};
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::{Arc, Mutex};

/// The first generation with bf16 tensor cores and asynchronous copies.
const LEAST_CAPABILITY: (i32, i32) = (8, 0);

/// Shared memory that every kernel may use without asking.
const PLAIN_SHARED: usize = 48 * 1024;

pub(super) struct Cuda {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    modules: Vec<sys::CUmodule>,
    functions: Mutex<HashMap<&'static str, Function>>,
    staging: Mutex<Staging>,
    name: String,
    reads_pageable_memory: bool,
}

#[derive(Clone, Copy)]
struct Function {
    handle: sys::CUfunction,
    /// The shared memory that it may use.
    shared: usize,
}

// SAFETY: handles of modules and functions are those of the context and may be used from every thread that has it current,
// which each call sees to; the table of functions is behind a lock.
unsafe impl Send for Cuda {}
// SAFETY: as above.
unsafe impl Sync for Cuda {}

impl Cuda {
    pub fn open(ordinal: usize) -> Result<Self, GpuError> {
        // Linked in, where candle's CUDA backend is built: then it is there.
        #[cfg(not(feature = "cuda"))]
        // SAFETY: looks for the library and loads it, whose constructors have no conditions.
        if !unsafe { sys::is_culib_present() } {
            return Err(GpuError::NoDriver);
        }
        let count = CudaContext::device_count().map_err(|e| failed("counting the GPUs", e))?;
        if ordinal >= count as usize {
            return Err(GpuError::NoDevice { ordinal, count: count as usize });
        }
        let open = |e| failed(&format!("opening GPU {ordinal}"), e);
        let context = CudaContext::new(ordinal).map_err(open)?;
        if context.has_async_alloc() {
            keep_freed_memory(&context).map_err(open)?;
        }
        let stream = context.new_stream().map_err(open)?;
        Self::on(context, stream)
    }

    /// A GPU whose work is queued in a stream that others may use, too.
    pub fn on(context: Arc<CudaContext>, stream: Arc<CudaStream>) -> Result<Self, GpuError> {
        let ordinal = context.ordinal();
        let open = |e| failed(&format!("opening GPU {ordinal}"), e);
        let name = context.name().map_err(open)?;
        let (major, minor) = context.compute_capability().map_err(open)?;
        if (major, minor) < LEAST_CAPABILITY {
            return Err(GpuError::TooOld { ordinal, name, major, minor });
        }
        context.bind_to_thread().map_err(open)?;
        let pageable = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS;
        let reads_pageable_memory = context.attribute(pageable).map_err(open)? != 0;
        let mut gpu = Self {
            context,
            stream,
            modules: Vec::new(),
            functions: Mutex::default(),
            staging: Mutex::default(),
            name,
            reads_pageable_memory,
        };
        let folder = cache::folder();
        for module in nvrtc::modules() {
            let target = format!("sm_{major}{minor}");
            let code = cache::load_or_compile(folder.as_deref(), module, &target)?;
            // SAFETY: the code is a cubin that NVRTC made for this GPU.
            let loaded = unsafe { result::module::load_data(code.as_ptr().cast()) };
            gpu.modules.push(loaded.map_err(|e| not_loaded(module.name, e))?);
        }
        Ok(gpu)
    }

    fn bind(&self) -> Result<(), GpuError> {
        // Not `bind_to_thread`, which would report, and forget, an error that somebody else left in the context.
        // SAFETY: the context lives as long as `self`.
        unsafe { result::ctx::set_current(self.context.cu_ctx()) }
            .map_err(|e| failed("using the GPU", e))
    }

    /// The kernel, allowed to use as much shared memory.
    fn function(&self, kernel: &'static str, shared: usize) -> Result<sys::CUfunction, GpuError> {
        let mut functions = self.functions.lock().unwrap_or_else(|p| p.into_inner());
        let function = match functions.entry(kernel) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                let name = CString::new(kernel).expect("kernel names have no zero bytes");
                let mut answer = Err(DriverError(sys::CUresult::CUDA_ERROR_NOT_FOUND));
                for module in &self.modules {
                    // SAFETY: the module is loaded until `self` is dropped.
                    answer = unsafe { result::module::get_function(*module, name.clone()) };
                    if answer.is_ok() {
                        break;
                    }
                }
                let handle = answer.map_err(|e| failed(&format!("looking for {kernel}"), e))?;
                entry.insert(Function { handle, shared: PLAIN_SHARED })
            }
        };
        if shared > function.shared {
            let attribute =
                sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: a function of a loaded module.
            let answer = unsafe {
                result::function::set_function_attribute(function.handle, attribute, shared as i32)
            };
            answer
                .map_err(|e| failed(&format!("{shared} bytes of shared memory for {kernel}"), e))?;
            function.shared = shared;
        }
        Ok(function.handle)
    }
}

impl Driver for Cuda {
    fn name(&self) -> &str {
        &self.name
    }

    fn allocate(&self, bytes: usize) -> Result<u64, GpuError> {
        self.bind()?;
        // SAFETY: the context is current; all work on the memory goes into the stream.
        let answer = unsafe {
            if self.context.has_async_alloc() {
                result::malloc_async(self.stream.cu_stream(), bytes)
            } else {
                result::malloc_sync(bytes)
            }
        };
        answer.map_err(|e| match e.0 {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                let free = self.context.mem_get_info().map_or(0, |(free, _)| free);
                GpuError::OutOfMemory { bytes, free }
            }
            _ => failed(&format!("allocating {bytes} bytes"), e),
        })
    }

    fn free(&self, address: u64) {
        if self.bind().is_ok() {
            // SAFETY: a buffer frees once what it allocated, after the work that is queued. Nothing can be done about an
            // error.
            let _ = unsafe {
                if self.context.has_async_alloc() {
                    result::free_async(address, self.stream.cu_stream())
                } else {
                    let _ = self.stream.synchronize();
                    result::free_sync(address)
                }
            };
        }
    }

    fn upload(&self, from: &[u8], to: u64) -> Result<(), GpuError> {
        self.bind()?;
        let call = format!("copying {} bytes to the GPU", from.len());
        if from.len() >= staging::LEAST {
            // Whoever finds it in use takes the driver's way. Waiting would be a deadlock where the holder, which fills it on
            // several threads, takes up another task of the pool meanwhile that uploads, too.
            if let Ok(mut staging) = self.staging.try_lock() {
                // SAFETY: the context is current, and the view is in bounds.
                let staged = unsafe { staging.upload(from, to, self.stream.cu_stream()) };
                if staged.is_ok() {
                    return Ok(());
                }
                // There may be no more memory that can be locked; the driver's way needs none.
            }
        }
        // SAFETY: the view is in bounds, and `from` is borrowed until the driver has a copy of its own: it makes one of
        // pageable memory before it returns, unless the GPU reads that by itself.
        unsafe { result::memcpy_htod_async(to, from, self.stream.cu_stream()) }
            .map_err(|e| failed(&call, e))?;
        if self.reads_pageable_memory {
            self.stream.synchronize().map_err(|e| failed(&call, e))?;
        }
        Ok(())
    }

    fn download(&self, from: u64, to: &mut [u8]) -> Result<(), GpuError> {
        self.bind()?;
        let call = format!("copying {} bytes from the GPU", to.len());
        // SAFETY: the view is in bounds, and `to` is borrowed until the stream is through.
        unsafe { result::memcpy_dtoh_async(to, from, self.stream.cu_stream()) }
            .map_err(|e| failed(&call, e))?;
        self.stream.synchronize().map_err(|e| failed(&call, e))
    }

    fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<(), GpuError> {
        self.bind()?;
        // SAFETY: both views are in bounds, of different buffers or parts.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream.cu_stream()) }
            .map_err(|e| failed(&format!("copying {bytes} bytes on the GPU"), e))
    }

    fn clear(&self, at: u64, bytes: usize) -> Result<(), GpuError> {
        self.bind()?;
        // SAFETY: the view is in bounds.
        unsafe { result::memset_d8_async(at, 0, bytes, self.stream.cu_stream()) }
            .map_err(|e| failed(&format!("clearing {bytes} bytes"), e))
    }

    fn launch(&self, launch: &Launch, arguments: &[u8]) -> Result<(), GpuError> {
        let Launch { kernel, grid, threads, shared } = *launch;
        self.bind()?;
        let function = self.function(kernel, shared)?;
        let mut parameters = [arguments.as_ptr().cast_mut().cast::<c_void>()];
        // SAFETY: the function is loaded, and takes one structure, which the driver copies; the callers of `Gpu::launch`
        // answer for its contents.
        let answer = unsafe {
            result::launch_kernel(
                function,
                grid.into(),
                (threads, 1, 1),
                shared as u32,
                self.stream.cu_stream(),
                &mut parameters,
            )
        };
        answer.map_err(|e| {
            failed(&format!("{kernel}, {grid:?} blocks of {threads} threads, {shared} bytes"), e)
        })
    }

    fn synchronize(&self) -> Result<(), GpuError> {
        self.bind()?;
        self.stream.synchronize().map_err(|e| failed("waiting for the GPU", e))
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        if self.bind().is_err() || self.stream.synchronize().is_err() {
            return; // a broken context takes its modules along
        }
        let staging = self.staging.get_mut().unwrap_or_else(|p| p.into_inner());
        // SAFETY: the context is current, and all work is done.
        unsafe { staging.release() };
        for module in self.modules.drain(..) {
            // SAFETY: loaded in `on`, and no work uses it any more.
            let _ = unsafe { result::module::unload(module) };
        }
    }
}

/// The pool of freed memory would be given back to the system whenever somebody waits for the GPU, only to be asked for again
/// by the next subnet's larger buffers.
fn keep_freed_memory(context: &CudaContext) -> Result<(), DriverError> {
    let mut most = u64::MAX;
    // SAFETY: the device is the context's; the attribute is a 64-bit number, which is read in the call.
    unsafe {
        let pool = result::device::get_default_mem_pool(context.cu_device())?;
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        sys::cuMemPoolSetAttribute(pool, attribute, (&raw mut most).cast()).result()
    }
}

/// Code for the GPU itself, as here, loads with drivers of the compiler's version, later ones, and mostly those of the same
/// major version. What the driver answers otherwise does not say so.
fn not_loaded(module: &str, error: DriverError) -> GpuError {
    let failure = failed(&format!("loading {module}"), error);
    let mut version = 0; // 13000 is 13.0
    // SAFETY: writes a number.
    let answer = unsafe { sys::cuDriverGetVersion(&raw mut version) };
    let driver = (version / 1000, version % 1000 / 10);
    match nvrtc::version() {
        Ok(compiler) if answer.result().is_ok() && compiler > driver => {
            GpuError::OldDriver { compiler, driver, answer: failure.to_string() }
        }
        _ => failure,
    }
}

fn failed(call: &str, error: DriverError) -> GpuError {
    let text = |s: Result<&std::ffi::CStr, DriverError>| {
        s.map_or_else(|_| "?".into(), |s| s.to_string_lossy().into_owned())
    };
    let answer = format!("{} ({})", text(error.error_name()), text(error.error_string()));
    GpuError::Driver { call: call.into(), answer }
}
