//! Kernels on the CPU: a library of the same sources, compiled with `cuda/host`.

use super::GpuError;
use super::driver::{Driver, Launch};
use libloading::{Library, Symbol};
use std::ffi::c_void;
use std::path::Path;
use std::sync::Mutex;

type Allocate = unsafe extern "C" fn(usize) -> *mut c_void;
type Free = unsafe extern "C" fn(*mut c_void);
type Order = unsafe extern "C" fn(i32);
type Emulate = unsafe extern "C" fn(*const u32, u32, usize, *const c_void, usize) -> i32;

pub(super) struct Emulator {
    library: Library,
    allocate: Allocate,
    free: Free,
    order: Order,
    reversed: bool,
    path: std::path::PathBuf,
}

/// The library runs one block at a time, in whatever thread.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

impl Emulator {
    pub fn load(path: &Path, reversed: bool) -> Result<Self, GpuError> {
        let problem =
            |e: libloading::Error| GpuError::Emulator { path: path.into(), problem: e.to_string() };
        // SAFETY: the library's constructors do nothing but set up its sanitizer; the symbols have these types in
        // `cuda/host/emulator.cpp`.
        unsafe {
            let library = Library::new(path).map_err(problem)?;
            let allocate = *library.get::<Allocate>(b"emulator_allocate\0").map_err(problem)?;
            let free = *library.get::<Free>(b"emulator_free\0").map_err(problem)?;
            let order = *library.get::<Order>(b"emulator_order\0").map_err(problem)?;
            Ok(Self { library, allocate, free, order, reversed, path: path.into() })
        }
    }

    fn problem(&self, problem: String) -> GpuError {
        GpuError::Emulator { path: self.path.clone(), problem }
    }
}

impl Driver for Emulator {
    fn name(&self) -> &str {
        "emulator"
    }

    fn allocate(&self, bytes: usize) -> Result<u64, GpuError> {
        // SAFETY: any size may be asked for.
        let memory = unsafe { (self.allocate)(bytes) };
        if memory.is_null() {
            return Err(GpuError::OutOfMemory { bytes, free: 0 });
        }
        Ok(memory as u64)
    }

    fn free(&self, address: u64) {
        // SAFETY: a buffer frees once what it allocated.
        unsafe { (self.free)(address as *mut c_void) }
    }

    fn upload(&self, from: &[u8], to: u64) -> Result<(), GpuError> {
        // SAFETY: views are in bounds of their buffers, which are memory of this process.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to as *mut u8, from.len()) }
        Ok(())
    }

    fn download(&self, from: u64, to: &mut [u8]) -> Result<(), GpuError> {
        // SAFETY: as in `upload`.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to.as_mut_ptr(), to.len()) }
        Ok(())
    }

    fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<(), GpuError> {
        // SAFETY: as in `upload`.
        unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) }
        Ok(())
    }

    fn clear(&self, at: u64, bytes: usize) -> Result<(), GpuError> {
        // SAFETY: as in `upload`.
        unsafe { std::ptr::write_bytes(at as *mut u8, 0, bytes) }
        Ok(())
    }

    fn launch(&self, launch: &Launch, arguments: &[u8]) -> Result<(), GpuError> {
        let symbol = format!("emulate_{}\0", launch.kernel);
        let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // SAFETY: every kernel is exported with this type; the callers of `Gpu::launch` answer for the arguments.
        let answer = unsafe {
            let kernel: Symbol<'_, Emulate> =
                self.library.get(symbol.as_bytes()).map_err(|e| self.problem(e.to_string()))?;
            (self.order)(i32::from(self.reversed));
            let Launch { grid, threads, shared, .. } = launch;
            kernel(grid.as_ptr(), *threads, *shared, arguments.as_ptr().cast(), arguments.len())
        };
        if answer != 0 {
            let problem = format!("{} does not take {} bytes", launch.kernel, arguments.len());
            return Err(self.problem(problem));
        }
        Ok(())
    }

    fn synchronize(&self) -> Result<(), GpuError> {
        Ok(())
    }
}
