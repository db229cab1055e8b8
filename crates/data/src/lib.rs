//! Image datasets, augmentation and a deterministic parallel loader.
