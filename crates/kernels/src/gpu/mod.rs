//! The operations on NVIDIA GPUs: CUDA C++ in this crate's `cuda/` folder, compiled at run time by NVRTC and launched
//! through cudarc. Driver and compiler are loaded when a [`Gpu`] is opened; a build needs neither.
//!
//! Shapes and meanings are those of the functions of the same names for the CPU. Activations are f32 or bf16
//! ([`Activation`]); what stays f32 in mixed precision: parameters and their gradients, batch statistics, pooled features,
//! the classifier, losses. A convolution multiplies bf16 on tensor cores and adds up in f32, or computes in f32
//! throughout. All sums have one order: the same inputs give the same bits on every run and every card of one generation.
//!
//! Calls return when the work is queued, and it runs in the order of the calls; [`Buffer::to_vec`] waits for it.
//!
//! The same sources run in tests on a CPU ([`Gpu::emulated`]), one block after the other.

mod arguments;
mod conv;
mod cuda;
mod driver;
mod emulator;
mod error;
mod memory;
mod norm;
mod nvrtc;
mod pool;

pub use conv::{Epilogue, conv_backward_input, conv_backward_weight, conv_forward};
pub use driver::Gpu;
pub use error::GpuError;
pub use memory::{Activation, Buffer, Element, View, ViewMut};
pub use norm::{Norm, Running, batch_statistics, merge_moments, norm_backward, norm_forward};
pub use nvrtc::{Compiled, KernelResources, compile, modules};
pub use pool::{
    average_pool_backward, average_pool_forward, convert, max_pool_backward, max_pool_forward,
};
