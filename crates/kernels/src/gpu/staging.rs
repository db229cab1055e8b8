//! Page-locked memory through which large uploads go. The driver copies from other memory through a small buffer of its own, on
//! one thread; from page-locked memory the GPU reads by itself, at the speed of its bus.

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;
use rayon::prelude::*;

/// Below this the driver's way is as good.
pub(super) const LEAST: usize = 1 << 20;

/// Bytes that a task copies.
const PIECE: usize = 1 << 20;

/// One upload's place, used again and again. Calls need the GPU's context to be current.
#[derive(Default)]
pub(super) struct Staging {
    memory: Option<Memory>,
}

struct Memory {
    start: *mut u8,
    len: usize,
    /// When the last upload has left the memory.
    copied: sys::CUevent,
}

// SAFETY: page-locked memory and events of a context may be used from every thread that has it current.
unsafe impl Send for Memory {}

impl Staging {
    /// Queues a copy of `from` to `to`, which has room for it, and returns when `from` is no longer needed.
    ///
    /// # Errors
    /// When the driver refuses, or there is not so much memory to lock.
    ///
    /// # Safety
    /// The context of `stream` is current, and `to` is the address of as much memory of its GPU.
    pub unsafe fn upload(
        &mut self,
        from: &[u8],
        to: u64,
        stream: sys::CUstream,
    ) -> Result<(), DriverError> {
        // SAFETY: the caller's, for all calls; memory and event live until `release`. The memory is `len` bytes that nobody else
        // has an address of, and the GPU is done with the last upload from them after `synchronize`.
        unsafe {
            if let Some(memory) = &self.memory {
                result::event::synchronize(memory.copied)?;
                if memory.len < from.len() {
                    self.release();
                }
            }
            let memory = match &self.memory {
                Some(memory) => memory,
                None => self.memory.insert(Memory::new(from.len().next_multiple_of(PIECE))?),
            };
            // Written through the pointer: what is in there may never have been.
            let start = Start(memory.start);
            from.par_chunks(PIECE).enumerate().for_each(|(i, piece)| {
                let to = start.at(i * PIECE);
                std::ptr::copy_nonoverlapping(piece.as_ptr(), to, piece.len());
            });
            let staged = std::slice::from_raw_parts(memory.start, from.len());
            result::memcpy_htod_async(to, staged, stream)?;
            result::event::record(memory.copied, stream).inspect_err(|_| {
                // The event is an older upload's then: this one must not be in flight when the memory is written again.
                let _ = result::stream::synchronize(stream);
            })
        }
    }

    /// Gives the memory back. The GPU must be done with it.
    ///
    /// # Safety
    /// The context is current.
    pub unsafe fn release(&mut self) {
        if let Some(memory) = self.memory.take() {
            // SAFETY: allocated in `Memory::new`, and forgotten here. There is nothing to do about an error.
            unsafe {
                let _ = result::event::destroy(memory.copied);
                let _ = result::free_host(memory.start.cast());
            }
        }
    }
}

impl Memory {
    /// # Safety
    /// The context is current.
    unsafe fn new(len: usize) -> Result<Self, DriverError> {
        let copied = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)?;
        // SAFETY: the caller's.
        match unsafe { result::malloc_host(len, 0) } {
            Ok(start) => Ok(Self { start: start.cast(), len, copied }),
            Err(error) => {
                // SAFETY: just created, and not used.
                let _ = unsafe { result::event::destroy(copied) };
                Err(error)
            }
        }
    }
}

/// The memory's start for the tasks that fill it, each its own piece.
#[derive(Clone, Copy)]
struct Start(*mut u8);
// SAFETY: tasks write disjoint pieces of memory that outlives them.
unsafe impl Send for Start {}
// SAFETY: as above.
unsafe impl Sync for Start {}

impl Start {
    /// # Safety
    /// `offset` lies in the memory.
    unsafe fn at(self, offset: usize) -> *mut u8 {
        // SAFETY: the caller's.
        unsafe { self.0.add(offset) }
    }
}
