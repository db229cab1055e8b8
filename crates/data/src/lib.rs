//! Image datasets, augmentation and a deterministic parallel loader.
//!
//! A batch is a pure function of (dataset, configuration, seed, step): neither the number of
//! worker threads nor a resumed run changes a bit of it.
//!
//! ```
//! use slimtau_data::{CropFlip, Loader, LoaderConfig, Normalization, Pipeline, Source, open};
//!
//! let data = open(&Source::Embedded)?;
//! assert_eq!((data.train.len(), data.validation.len()), (12_000, 4_000));
//!
//! let config = LoaderConfig::train(
//!     Pipeline::CropFlip(CropFlip::default()),
//!     Normalization::fashion_mnist(),
//!     64,
//!     42, // seed
//! );
//! let loader = Loader::new(data.train, config)?;
//! for batch in loader.stream(0, 3) {
//!     let batch = batch?;
//!     assert_eq!(batch.shape, [64, 28, 28, 1]);
//!     assert_eq!(batch.images.len(), 64 * 28 * 28);
//!     loader.recycle(batch); // its buffers serve a later batch
//! }
//! // Batch 1000 needs no batch before it.
//! let later = loader.batch(1000)?;
//! assert_eq!(later.labels.len(), 64);
//! # Ok::<(), slimtau_data::DataError>(())
//! ```
//!
//! | to | use |
//! | --- | --- |
//! | get training and validation images | [`open`], [`Source`] |
//! | bring images of your own | [`Dataset`], [`IdxDataset`], [`ImageFolder`] |
//! | hold out training images for tuning | [`Subset`], [`hold_out`] |
//! | make a harder task of an easy one | [`Composed`] |
//! | go on without files that cannot be decoded | [`Replaced`], [`readable`] |
//! | keep decoded or composed images in memory | [`InMemory`] |
//! | augment | [`Pipeline`], [`CropFlip`], [`ResizedCropFlip`], [`MocoViews`], [`EvalCrop`] |
//! | load | [`Loader`], [`LoaderConfig`], [`Batch`] |
#![deny(missing_docs)]

mod dataset;
mod error;
mod loader;
mod normalization;
mod pipeline;
mod transform;

pub use dataset::{
    Composed, ComposedConfig, Data, Dataset, DecodeError, FASHION_MNIST_FOLDER, IdxDataset,
    ImageFolder, InMemory, PACKED_MAGIC, PackedImages, Replaced, Source, Subset, VALIDATION_LABELS,
    hold_out, image_folder, open, pack, readable,
};
pub use error::DataError;
pub use loader::{Batch, BatchStream, LastBatch, Loader, LoaderConfig, Order};
pub use normalization::Normalization;
pub use pipeline::{Pipeline, Scratch};
pub use transform::{
    ColourJitter, CropBox, CropFlip, EvalCrop, MocoViews, Pixels, ResizedCropFlip,
    adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation, flip_horizontal,
    gaussian_blur, greyscale, random_crop_box, resize,
};

/// Runs the README's example.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
