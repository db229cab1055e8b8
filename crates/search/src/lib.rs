//! Evolutionary search for the architectures of a space that are best at their cost. No tensors: how accurate an
//! architecture is, and what it costs, the caller says.
//!
//! [`evolve`] draws a random generation and then children of the best so far, in the order of NSGA-II
//! ([`pareto_order`]); children are made by [`mix`].
//!
//! ```
//! use slimtau_search::{Problem, Settings, evolve, pareto_ranks, points};
//! use slimtau_space::{Arch, CostModel, SearchSpace};
//!
//! struct Toy(CostModel);
//! impl Problem for Toy {
//!     type Cost = u64;
//!     type Error = std::convert::Infallible;
//!     fn admit(&mut self, arch: &Arch) -> Result<Option<u64>, Self::Error> {
//!         let macs = self.0.costs(arch).macs;
//!         Ok((macs <= 60_000_000).then_some(macs)) // a limit
//!     }
//!     fn objective(&self, macs: &u64) -> f64 {
//!         *macs as f64
//!     }
//!     fn accuracies(&mut self, _: usize, archs: &[Arch]) -> Result<Vec<f64>, Self::Error> {
//!         Ok(archs.iter().map(|arch| arch.depth() as f64).collect()) // of a supernet, in earnest
//!     }
//! }
//!
//! let space = SearchSpace::preset("mini").unwrap();
//! let mut toy = Toy(CostModel::new(&space));
//! let settings = Settings { seed: 0, population: 20, generations: 5, mutation: 0.1 };
//! let found = evolve(&space, &settings, &mut toy)?;
//! let ranks = pareto_ranks(&points(&toy, &found));
//! for (candidate, _) in found.iter().zip(&ranks).filter(|(_, rank)| **rank == 0) {
//!     println!("{} {} MAC {}", space.encode(&candidate.arch), candidate.cost, candidate.accuracy);
//! }
//! # Ok::<(), std::convert::Infallible>(())
//! ```
#![deny(missing_docs)]

mod evolution;
mod mix;
mod pareto;

/// The README's example, run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use evolution::{Candidate, Problem, Settings, evolve, points};
pub use mix::mix;
pub use pareto::{Point, pareto_order, pareto_ranks};
