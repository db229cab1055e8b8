//! Memory of a GPU: typed buffers, and views of parts of them.

use super::{Gpu, GpuError};
use half::bf16;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::bf16 {}
    impl Sealed for u32 {}
    impl Sealed for u8 {}
}

/// What GPU buffers hold: plain numbers, for which any bits are a value.
pub trait Element: sealed::Sealed + Copy + Default + Send + Sync + 'static {}
impl Element for f32 {}
impl Element for bf16 {}
impl Element for u32 {}
impl Element for u8 {}

/// What activations and the weights that meet them are made of.
pub trait Activation: Element {
    /// How kernels for it are named.
    #[doc(hidden)]
    const NAME: &'static str;
    /// Elements of a 16-byte access.
    #[doc(hidden)]
    const VECTOR: usize = 16 / size_of::<Self>();
    /// The nearest value.
    fn from_f32(value: f32) -> Self;
    /// The value.
    fn to_f32(self) -> f32;
}

impl Activation for f32 {
    const NAME: &'static str = "f32";
    fn from_f32(value: f32) -> Self {
        value
    }
    fn to_f32(self) -> f32 {
        self
    }
}

impl Activation for bf16 {
    const NAME: &'static str = "bf16";
    fn from_f32(value: f32) -> Self {
        bf16::from_f32(value)
    }
    fn to_f32(self) -> f32 {
        self.to_f32()
    }
}

/// A grow-only buffer, handed out at the length that was last asked for.
pub struct Buffer<T: Element> {
    gpu: Gpu,
    address: u64,
    len: usize,
    capacity: usize,
    elements: PhantomData<T>,
}

impl<T: Element> Buffer<T> {
    /// An empty buffer.
    pub fn new(gpu: &Gpu) -> Self {
        Self { gpu: gpu.clone(), address: 0, len: 0, capacity: 0, elements: PhantomData }
    }

    /// A copy of `values`.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn from_slice(gpu: &Gpu, values: &[T]) -> Result<Self, GpuError> {
        let mut buffer = Self::new(gpu);
        buffer.upload(values)?;
        Ok(buffer)
    }

    /// `len` zeros.
    ///
    /// # Errors
    /// When they do not fit.
    pub fn zeros(gpu: &Gpu, len: usize) -> Result<Self, GpuError> {
        let mut buffer = Self::new(gpu);
        buffer.reserve(len)?.clear()?;
        Ok(buffer)
    }

    /// Sets the length; contents are unspecified.
    ///
    /// # Errors
    /// When it does not fit. The buffer is then empty.
    pub fn reserve(&mut self, len: usize) -> Result<ViewMut<'_, T>, GpuError> {
        if len > self.capacity {
            self.release();
            // No element is read before something is written there: that is each kernel's contract.
            self.address = self.gpu.allocate(len * size_of::<T>())?;
            self.capacity = len;
        }
        self.len = len;
        Ok(self.view_mut())
    }

    /// Becomes a copy of `values`.
    ///
    /// # Errors
    /// When they do not fit.
    pub fn upload(&mut self, values: &[T]) -> Result<(), GpuError> {
        self.reserve(values.len())?.upload(values)
    }

    fn release(&mut self) {
        if self.capacity > 0 {
            self.gpu.free(self.address, self.capacity * size_of::<T>());
        }
        (self.address, self.len, self.capacity) = (0, 0, 0);
    }

    /// All of it.
    pub fn view(&self) -> View<'_, T> {
        View { gpu: &self.gpu, address: self.address, len: self.len, elements: PhantomData }
    }

    /// All of it, to be written.
    pub fn view_mut(&mut self) -> ViewMut<'_, T> {
        ViewMut(View {
            gpu: &self.gpu,
            address: self.address,
            len: self.len,
            elements: PhantomData,
        })
    }

    /// Its values, once all work before is done.
    ///
    /// # Errors
    /// When some of that failed.
    pub fn to_vec(&self) -> Result<Vec<T>, GpuError> {
        self.view().to_vec()
    }

    /// The GPU that it is on.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }
}

impl<T: Element> Drop for Buffer<T> {
    fn drop(&mut self) {
        self.release();
    }
}

/// Elements of a buffer that are read.
#[derive(Clone, Copy)]
pub struct View<'a, T: Element> {
    gpu: &'a Gpu,
    address: u64,
    len: usize,
    elements: PhantomData<&'a T>,
}

impl<'a, T: Element> View<'a, T> {
    /// How many.
    pub fn len(self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// Some of them.
    ///
    /// # Panics
    /// When the range goes beyond the end.
    pub fn range(self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        let address = self.address + (range.start * size_of::<T>()) as u64;
        Self { address, len: range.len(), ..self }
    }

    /// The GPU that they are on.
    pub fn gpu(self) -> &'a Gpu {
        self.gpu
    }

    /// The values, once all work before is done.
    ///
    /// # Errors
    /// When some of that failed.
    pub fn to_vec(self) -> Result<Vec<T>, GpuError> {
        let mut values = vec![T::default(); self.len];
        if self.len > 0 {
            // SAFETY: the bytes of initialised plain numbers, borrowed mutably; any bits are values.
            let bytes = unsafe {
                std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(&values[..]))
            };
            self.gpu.driver.download(self.address, bytes)?;
        }
        Ok(values)
    }

    /// The address, for work on `gpu`.
    ///
    /// # Panics
    /// When they are on another one.
    pub(super) fn on(self, gpu: &Gpu) -> u64 {
        let same = Arc::ptr_eq(&self.gpu.driver, &gpu.driver);
        assert!(same, "a buffer on another GPU: {} for work on {}", self.gpu.name(), gpu.name());
        self.address
    }

    /// # Safety
    /// `len` elements are there as long as the view.
    #[cfg(feature = "cuda")]
    pub(crate) unsafe fn from_address(gpu: &'a Gpu, address: u64, len: usize) -> Self {
        Self { gpu, address, len, elements: PhantomData }
    }
}

/// Elements of a buffer that are written, or read and written.
pub struct ViewMut<'a, T: Element>(View<'a, T>);

impl<'a, T: Element> ViewMut<'a, T> {
    /// The same for a shorter time.
    pub fn reborrow(&mut self) -> ViewMut<'_, T> {
        ViewMut(self.0)
    }

    /// To be read only.
    pub fn view(&self) -> View<'_, T> {
        self.0
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// Some of them.
    ///
    /// # Panics
    /// When the range goes beyond the end.
    pub fn range(self, range: Range<usize>) -> Self {
        Self(self.0.range(range))
    }

    /// Those before `at` and those from there on.
    ///
    /// # Panics
    /// When `at` lies beyond the end.
    pub fn split_at(self, at: usize) -> (Self, Self) {
        (Self(self.0.range(0..at)), Self(self.0.range(at..self.0.len)))
    }

    /// Overwrites them with as many values.
    ///
    /// # Errors
    /// When the driver refuses.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn upload(&mut self, values: &[T]) -> Result<(), GpuError> {
        assert_eq!(values.len(), self.0.len, "values for a buffer");
        if values.is_empty() {
            return Ok(()); // perhaps at no address
        }
        // SAFETY: the bytes of initialised plain numbers, borrowed.
        let bytes =
            unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) };
        self.0.gpu.driver.upload(bytes, self.0.address)
    }

    /// Overwrites them with others of a GPU.
    ///
    /// # Errors
    /// When the driver refuses.
    ///
    /// # Panics
    /// When the lengths differ, or they are on another GPU.
    pub fn copy_from(&mut self, from: View<'_, T>) -> Result<(), GpuError> {
        assert_eq!(from.len, self.0.len, "values for a buffer");
        let address = from.on(self.0.gpu);
        if from.is_empty() {
            return Ok(());
        }
        self.0.gpu.driver.copy(address, self.0.address, from.len * size_of::<T>())
    }

    /// Zeroes them.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn clear(&mut self) -> Result<(), GpuError> {
        if self.is_empty() {
            return Ok(());
        }
        self.0.gpu.driver.clear(self.0.address, self.0.len * size_of::<T>())
    }

    /// As [`View::on`].
    pub(super) fn on(&self, gpu: &Gpu) -> u64 {
        self.0.on(gpu)
    }

    /// # Safety
    /// There is room for `len` elements as long as the view, and nobody else uses it.
    #[cfg(feature = "cuda")]
    pub(crate) unsafe fn from_address(gpu: &'a Gpu, address: u64, len: usize) -> Self {
        // SAFETY: the caller's.
        Self(unsafe { View::from_address(gpu, address, len) })
    }
}
