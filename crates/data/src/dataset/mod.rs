//! What a dataset is, and the datasets there are.

mod composed;
mod decode;
mod embedded;
mod folder;
mod idx;
mod memory;
mod packed;
mod readable;
mod source;
mod subset;

pub use composed::{Composed, ComposedConfig};
pub use decode::DecodeError;
pub use folder::{ImageFolder, VALIDATION_LABELS};
pub use idx::IdxDataset;
pub use memory::InMemory;
pub use packed::{MAGIC as PACKED_MAGIC, PackedImages, pack};
pub use readable::{Replaced, readable};
pub use source::{Data, FASHION_MNIST_FOLDER, Source, image_folder, open};
pub use subset::{Subset, hold_out};

pub(crate) use subset::shuffle;

use crate::DataError;

/// Labelled images, addressed by index.
///
/// An implementation must be pure: the same index always gives the same label and pixels, from
/// any thread. Everything random belongs to the loader.
pub trait Dataset: Send + Sync {
    /// How many images there are; at most `u32::MAX`.
    fn len(&self) -> usize;

    /// Whether there are none. The constructors of this crate refuse empty sets.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many classes there are; every label is below it.
    fn classes(&self) -> usize;

    /// Channels of every image: 1 (grey) or 3 (red, green, blue).
    fn channels(&self) -> usize;

    /// Side in pixels of the square that a pipeline makes of an image of this set.
    fn size(&self) -> usize;

    /// The class of image `i`.
    ///
    /// # Panics
    /// May panic when `i >= len()`.
    fn label(&self, i: usize) -> u32;

    /// Replaces the contents of `pixels` by image `i`, `[height, width, channels]` in u8, and
    /// returns (height, width): those of the stored image, not necessarily [`Dataset::size`].
    ///
    /// # Errors
    /// When a file cannot be read or decoded; the message names it.
    ///
    /// # Panics
    /// May panic when `i >= len()`.
    fn image(&self, i: usize, pixels: &mut Vec<u8>) -> Result<(usize, usize), DataError>;

    /// Whether [`Dataset::image`] decodes a file. That takes milliseconds, where other images take microseconds, so
    /// several threads may have to do it to keep up with training.
    fn decodes(&self) -> bool {
        false
    }

    /// One line for logs and reports: which data this is, and how much of it.
    fn describe(&self) -> String;
}
