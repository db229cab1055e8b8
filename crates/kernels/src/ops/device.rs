//! Candle's tensors on a GPU, as the views that the kernels take. Work goes into candle's own stream.

use crate::Error;
use crate::gpu::{Activation, Buffer, Element, Gpu, GpuError, View, ViewMut, convert};
use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::{CudaDType, CudaDevice};
use candle_core::{CudaStorage, DType, Layout, Result};
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DevicePtrMut, DeviceRepr, SyncOnDrop};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

/// An element that candle, cudarc and the kernels know.
pub(super) trait OnDevice: Element + CudaDType + DeviceRepr {}
impl<T: Element + CudaDType + DeviceRepr> OnDevice for T {}

/// What an activation on a GPU may be made of.
pub(super) trait Operand: Activation + OnDevice {}
impl<T: Activation + OnDevice> Operand for T {}

/// Calls a generic method for the element type of an operation's first argument: f32 or bf16.
macro_rules! for_activation {
    ($on:expr, $self:ident.$method:ident) => {
        match $on.dtype(0) {
            candle_core::DType::BF16 => $self.$method::<half::bf16>($on),
            _ => $self.$method::<f32>($on), // anything else is refused with the first argument
        }
    };
}
pub(super) use for_activation;

/// An operation's arguments on a GPU.
pub(super) struct OnGpu<'a, const N: usize> {
    name: &'static str,
    pub gpu: Gpu,
    device: &'a CudaDevice,
    stream: Arc<CudaStream>,
    arguments: [(&'a CudaStorage, &'a Layout); N],
}

impl<'a, const N: usize> OnGpu<'a, N> {
    pub fn new(name: &'static str, arguments: [(&'a CudaStorage, &'a Layout); N]) -> Result<Self> {
        let device = arguments[0].0.device();
        let stream = device.cuda_stream();
        Ok(Self { name, gpu: gpu(&stream)?, device, stream, arguments })
    }

    /// The element type of an argument.
    pub fn dtype(&self, argument: usize) -> DType {
        self.arguments[argument].0.dtype()
    }

    /// A contiguous argument of `T`.
    pub fn argument<T: OnDevice>(&self, argument: usize) -> Result<Argument<'_, T>> {
        let (storage, layout) = self.arguments[argument];
        let slice = storage.as_cuda_slice::<T>()?;
        let (start, end) = layout.contiguous_offsets().ok_or_else(|| Error::ShapeMismatch {
            op: self.name,
            expected: "elements in row-major order".into(),
            got: layout.dims().to_vec(),
        })?;
        let (address, used) = slice.device_ptr(&self.stream);
        // SAFETY: the slice's memory, which is borrowed as long as the view.
        let view = unsafe { View::from_address(&self.gpu, address, slice.len()) };
        Ok(Argument { view: view.range(start..end), _used: used })
    }

    /// Fresh memory for `len` elements of unspecified contents, all of which `write` is to write.
    pub fn write<T: OnDevice>(
        &self,
        len: usize,
        write: impl FnOnce(ViewMut<'_, T>) -> std::result::Result<(), GpuError>,
    ) -> Result<CudaStorage> {
        // SAFETY: `write` fills it before anybody reads it.
        let mut slice: CudaSlice<T> = unsafe { self.device.alloc::<T>(len)? };
        {
            let (address, _used) = slice.device_ptr_mut(&self.stream);
            // SAFETY: the slice's memory, borrowed until the work is queued.
            let view = unsafe { ViewMut::from_address(&self.gpu, address, len) };
            write(view).map_err(candle_core::Error::wrap)?;
        }
        Ok(CudaStorage::wrap_cuda_slice(slice, self.device.clone()))
    }

    /// A gradient that `add` adds to, in f32 whatever the element type: `len` zeros at first.
    pub fn write_gradient<T: Operand>(
        &self,
        len: usize,
        add: impl FnOnce(ViewMut<'_, f32>) -> std::result::Result<(), GpuError>,
    ) -> Result<CudaStorage> {
        let mut sums = Buffer::zeros(&self.gpu, len).map_err(candle_core::Error::wrap)?;
        add(sums.view_mut()).map_err(candle_core::Error::wrap)?;
        self.write::<T>(len, |gradient| convert(&self.gpu, sums.view(), gradient))
    }
}

/// An argument's elements. Candle's record of who uses the memory is kept when this is dropped, after the launch.
pub(super) struct Argument<'a, T: OnDevice> {
    pub view: View<'a, T>,
    _used: SyncOnDrop<'a>,
}

/// One per GPU and stream, so that the kernels are compiled once.
static GPUS: LazyLock<Mutex<HashMap<(usize, usize), Gpu>>> = LazyLock::new(Mutex::default);

/// The kernels in candle's stream.
fn gpu(stream: &Arc<CudaStream>) -> Result<Gpu> {
    let key = (stream.context().ordinal(), stream.cu_stream() as usize);
    let mut gpus = GPUS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(gpu) = gpus.get(&key) {
        return Ok(gpu.clone());
    }
    let gpu = Gpu::on_stream(stream.clone()).map_err(candle_core::Error::wrap)?;
    gpus.insert(key, gpu.clone());
    Ok(gpu)
}
