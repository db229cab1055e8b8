//! Subnet samplers: which subnets of the supernet a training step trains.
//!
//! A [`Sampler`] is a pure function of its settings and the step's number: a resumed run needs no
//! sampler state to draw what an uninterrupted one would have drawn. What learns from gradients as
//! training goes on, [`PathImportance`] and [`ImageImportance`], is a state of its own that the owner
//! of the training state saves and restores; its draws are a function of that state and a number.
//!
//! ```
//! use slimtau_ccfs::{Sampler, SamplerKind};
//! use slimtau_space::SearchSpace;
//!
//! let space = SearchSpace::preset("cvpr2022")?;
//! let sampler = Sampler::new(&space, SamplerKind::CcfsF, 400, 4, 7);
//! let subnets = sampler.draw(0); // the 4 of 400 uniform draws with the largest Phi_F
//! assert_eq!(subnets.len(), 4);
//! assert_eq!(subnets, sampler.draw(0));
//! # Ok::<(), slimtau_space::SpaceError>(())
//! ```
#![deny(missing_docs)]

mod dynamic;
mod fair;
mod images;
mod importance;
mod kind;
mod paths;
mod sampler;
mod shrinking;

/// The README's example, run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use dynamic::{ComplexityDecay, MomentumGroups, UnknownSplit};
pub use images::ImageImportance;
pub use kind::{SamplerKind, UnknownSampler};
pub use paths::PathImportance;
pub use sampler::Sampler;
