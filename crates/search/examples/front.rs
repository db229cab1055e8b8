//! Searches the competition's space for a function of the architecture that stands in for a supernet, under a limit of
//! parameters.
//!
//! `cargo run --release -p slimtau-search --example front`

use slimtau_search::{Problem, Settings, evolve, pareto_ranks, points};
use slimtau_space::{Arch, CostModel, SearchSpace, SpaceError};

/// Accuracy grows with the logarithm of Phi_F, most at the first blocks.
struct StandIn(CostModel);

impl Problem for StandIn {
    type Cost = u64;
    type Error = SpaceError;

    fn admit(&mut self, arch: &Arch) -> Result<Option<u64>, SpaceError> {
        let params = self.0.costs(arch).params;
        Ok((params <= 20_000_000).then_some(params))
    }

    fn objective(&self, params: &u64) -> f64 {
        *params as f64
    }

    fn accuracies(&mut self, _: usize, archs: &[Arch]) -> Result<Vec<f64>, SpaceError> {
        let accuracy = |arch: &Arch| 10.0 * self.0.costs(arch).phi_f.log10();
        Ok(archs.iter().map(accuracy).collect())
    }
}

fn main() -> Result<(), SpaceError> {
    let space = SearchSpace::preset("cvpr2022")?;
    let mut problem = StandIn(CostModel::new(&space));
    let settings = Settings { seed: 0, population: 50, generations: 20, mutation: 0.1 };
    let found = evolve(&space, &settings, &mut problem)?;
    let ranks = pareto_ranks(&points(&problem, &found));
    let mut front: Vec<_> =
        found.iter().zip(ranks).filter(|(_, rank)| *rank == 0).map(|(c, _)| c).collect();
    front.sort_by_key(|c| c.cost);
    println!("{} of {} evaluated architectures are on the front", front.len(), found.len());
    let worst = front.first().map_or(0.0, |c| c.accuracy);
    for candidate in front.iter().step_by(front.len().div_ceil(20)) {
        let bar = "#".repeat((10.0 * (candidate.accuracy - worst)) as usize + 1);
        println!("{:>6.2} M  {:.2}  {bar}", candidate.cost as f64 / 1e6, candidate.accuracy);
    }
    Ok(())
}
