//! Rows on their way to where other kernels read them: images, and rows in another order. See `cuda/rows.cu`.

use super::GpuError;
use super::arguments::{FastDivision, THREADS, arguments, int};
use super::conv::stored_channels;
use super::driver::{Gpu, Launch};
use super::memory::{Activation, Buffer, View, ViewMut};

arguments! {
    /// `StoreImagesArguments`.
    struct StoreImages {
        from: u64,
        to: u64,
        count: u32,
        channels: i32,
        by_pieces: FastDivision,
        unused: u32,
    }
}

arguments! {
    /// `PermuteRowsArguments`.
    struct PermuteRows {
        from: u64,
        to: u64,
        order: u64,
        count: u32,
        inverse: i32,
        by_units: FastDivision,
        unused: u32,
    }
}

fn launch(kernel: &'static str, count: usize) -> Launch {
    let grid = [count.div_ceil(THREADS) as u32, 1, 1];
    Launch { kernel, grid, threads: THREADS as u32, shared: 0 }
}

/// Images `[pixels, channels]` as convolutions read them best: `[pixels, stored_channels(channels)]` of `T`, the additional
/// channels zero.
///
/// # Errors
/// When the GPU fails.
///
/// # Panics
/// When a length is wrong, or `to` does not start at a multiple of 16 bytes.
pub fn store_images<T: Activation>(
    gpu: &Gpu,
    channels: usize,
    from: View<'_, f32>,
    to: ViewMut<'_, T>,
) -> Result<(), GpuError> {
    assert!(channels > 0 && from.len().is_multiple_of(channels), "whole pixels of {channels}");
    let (pixels, stored) = (from.len() / channels, stored_channels::<T>(channels));
    assert_eq!(to.len(), pixels * stored, "length of the stored images");
    assert!(to.on(gpu).is_multiple_of(16), "images at an address of no 16-byte accesses");
    if pixels == 0 {
        return Ok(());
    }
    let count = pixels * stored / T::VECTOR;
    let arguments = StoreImages {
        from: from.on(gpu),
        to: to.on(gpu),
        count: int(count) as u32,
        channels: int(channels),
        by_pieces: FastDivision::new(stored / T::VECTOR),
        unused: 0,
    };
    let bf16 = size_of::<T>() == 2;
    let kernel = if bf16 { "store_images_bf16" } else { "store_images_f32" };
    gpu.launch(launch(kernel, count), &arguments)
}

/// An order of rows on a GPU, known to be a permutation.
pub struct Permutation(Buffer<u32>);

impl Permutation {
    /// Of no rows.
    pub fn new(gpu: &Gpu) -> Self {
        Self(Buffer::new(gpu))
    }

    /// Becomes a copy of `order`.
    ///
    /// # Errors
    /// When it does not fit.
    ///
    /// # Panics
    /// When it is no permutation of 0, 1, ....
    pub fn upload(&mut self, order: &[usize]) -> Result<(), GpuError> {
        let mut seen = vec![false; order.len()];
        for &row in order {
            assert!(row < seen.len() && !std::mem::replace(&mut seen[row], true), "no permutation");
        }
        let order: Vec<u32> = order.iter().map(|row| int(*row) as u32).collect();
        self.0.upload(&order)
    }

    /// Row number i of `to` becomes row number `order[i]` of `from`.
    ///
    /// # Errors
    /// When the GPU fails.
    ///
    /// # Panics
    /// When the lengths differ or are no whole rows.
    pub fn gather<T: Activation>(
        &self,
        from: View<'_, T>,
        to: ViewMut<'_, T>,
    ) -> Result<(), GpuError> {
        self.copy(from, to, false)
    }

    /// The inverse: row number `order[i]` of `to` becomes row number i of `from`.
    ///
    /// # Errors
    /// When the GPU fails.
    ///
    /// # Panics
    /// When the lengths differ or are no whole rows.
    pub fn scatter<T: Activation>(
        &self,
        from: View<'_, T>,
        to: ViewMut<'_, T>,
    ) -> Result<(), GpuError> {
        self.copy(from, to, true)
    }

    fn copy<T: Activation>(
        &self,
        from: View<'_, T>,
        to: ViewMut<'_, T>,
        inverse: bool,
    ) -> Result<(), GpuError> {
        let (gpu, order) = (self.0.gpu(), self.0.view());
        let rows = order.len();
        assert_eq!(from.len(), to.len(), "lengths of the rows and their copies");
        if from.is_empty() {
            return Ok(());
        }
        assert!(
            rows > 0 && from.len().is_multiple_of(rows),
            "{} values in {rows} rows",
            from.len()
        );
        let bytes = from.len() / rows * size_of::<T>();
        let wide = [from.on(gpu), to.on(gpu), bytes as u64].iter().all(|n| n % 16 == 0);
        let (unit, kernel) = match (wide, size_of::<T>()) {
            (true, _) => (16, "permute_rows_16"),
            (false, 4) => (4, "permute_rows_4"),
            (false, _) => (2, "permute_rows_2"),
        };
        let count = rows * (bytes / unit);
        let arguments = PermuteRows {
            from: from.on(gpu),
            to: to.on(gpu),
            order: order.on(gpu),
            count: int(count) as u32,
            inverse: inverse.into(),
            by_units: FastDivision::new(bytes / unit),
            unused: 0,
        };
        gpu.launch(launch(kernel, count), &arguments)
    }
}
