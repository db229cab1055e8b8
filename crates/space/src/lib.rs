//! Slimmable search spaces: codes, counts, costs and uniform draws. No tensors.
//!
//! A [`SearchSpace`] says which networks there are, an [`Arch`] is one of them as its code's
//! digits, a [`Network`] is that one's layers at their widths.
//!
//! ```
//! use slimtau_space::SearchSpace;
//!
//! let space = SearchSpace::preset("cvpr2022")?;
//! let arch = space.parse("1252233313000000223212122253130000000000006515000000")?; // or 51 digits
//! space.check_tied(&arch)?; // has a place in the weight-sharing supernet
//! let network = space.resolve(&arch)?;
//! println!("{} M parameters, {} MMAC", network.params() / 1_000_000, network.macs() / 1_000_000);
//! assert_eq!(space.encode(&arch), "252233313000000223212122253130000000000006515000000");
//! # Ok::<(), slimtau_space::SpaceError>(())
//! ```
#![deny(missing_docs)]

mod arch;
mod code;
mod cost;
mod count;
mod draw;
mod error;
mod file;
mod network;
mod spec;
mod validate;

/// The README's example, run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use arch::{Arch, BlockCode};
pub use cost::{CostModel, Costs};
pub use error::SpaceError;
pub use network::{ALPHA_F, BlockLayers, ConvLayer, Network, alphas_f};
pub use spec::{Block, SearchSpace, Stage, Stem};
