//! Reproducibility primitives that every other crate shares: one seeded stream scheme, one way
//! to write a file, one checksummed tensor file.
//!
//! ```
//! use rand::RngExt;
//! // The stream of step 7 does not depend on whether steps 0..7 were drawn in this process.
//! let a: u64 = slimtau_base::stream(42, "ccfs", 7).random();
//! let b: u64 = slimtau_base::stream(42, "ccfs", 7).random();
//! assert_eq!(a, b);
//! ```
#![deny(missing_docs)]

mod files;
mod streams;
mod tensors;

/// The README's example, run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use files::{FileError, NewFolders, read_bytes, read_text, write_atomic};
pub use streams::{Stream, fill_normal, stream};
pub use tensors::{NamedTensor, TensorFile};
