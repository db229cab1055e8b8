//! The operations on NVIDIA GPUs: CUDA C++ in this crate's `cuda/` folder, compiled at run time by NVRTC and launched
//! through cudarc. Driver and compiler are loaded when a [`Gpu`] is opened; a build needs neither.
//!
//! Shapes and meanings are those of the functions of the same names for the CPU. Activations are f32 or bf16
//! ([`Activation`]); what stays f32 in mixed precision: parameters and their gradients, batch statistics, pooled features,
//! the classifier, losses. A convolution multiplies bf16 on tensor cores and adds up in f32, or computes in f32
//! throughout. All sums have one order: the same inputs give the same bits on every run and every card of one generation.
//!
//! Calls return when the work is queued, and it runs in the order of the calls; [`Buffer::to_vec`] waits for it. Losses,
//! norms and counts are therefore written into one number of the caller's, who reads it when there is time.
//!
//! The same sources run in tests on a CPU ([`Gpu::emulated`]), one block after the other.

mod arguments;
mod cache;
mod conv;
mod cuda;
mod driver;
mod emulator;
mod error;
mod linear;
mod loss;
mod memory;
mod norm;
mod nvrtc;
mod optimiser;
mod pool;
mod rows;
mod staging;

pub use cache::load_or_compile;
pub use conv::{
    Epilogue, conv_backward_input, conv_backward_weight, conv_forward, conv_forward_statistics,
    stored_channels,
};
pub use driver::Gpu;
pub use error::GpuError;
pub use linear::{linear_backward, linear_forward};
pub use loss::{
    InfoNceMemory, Labels, Target, cross_entropy, info_nce, l2_normalize, l2_normalize_backward,
    mean, relu_backward, relu_forward, softmax, top1,
};
pub use memory::{Activation, Buffer, Element, View, ViewMut};
pub use norm::{
    Norm, Running, batch_statistics, fold, merge_moments, moments_len, norm_backward, norm_forward,
};
pub use nvrtc::{Compiled, KernelResources, compile, modules};
pub use optimiser::{Sgd, WorkTable, drain_into, ema_update, sgd_step};
pub use pool::{
    average_pool_backward, average_pool_forward, convert, max_pool_backward, max_pool_forward,
};
pub use rows::{Permutation, store_images};
