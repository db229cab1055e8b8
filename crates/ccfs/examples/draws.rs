//! Times one step's draw of every sampler (p = 400, K = 4) and shows what it draws.
//!
//! `cargo run --release -p slimtau-ccfs --example draws`

use slimtau_ccfs::{Sampler, SamplerKind};
use slimtau_space::{CostModel, SearchSpace, SpaceError};
use std::time::Instant;

const STEPS: u64 = 300;

fn main() -> Result<(), SpaceError> {
    let space = SearchSpace::preset("cvpr2022")?;
    let model = CostModel::new(&space);
    println!("sampler    median ms/step  mean M parameters  first subnet of step {}", STEPS - 1);
    for kind in SamplerKind::ALL {
        let sampler = Sampler::new(&space, kind, 400, 4, 0).with_total_steps(STEPS);
        let (mut times, mut params, mut subnets) = (Vec::new(), 0, Vec::new());
        let mut n = 0;
        for step in 0..STEPS {
            let start = Instant::now();
            subnets = sampler.draw(step);
            times.push(start.elapsed());
            n += subnets.len();
            params += subnets.iter().map(|a| model.costs(a).params).sum::<u64>();
        }
        times.sort();
        println!(
            "{:<10} {:>14.3}  {:>17.2}  {}",
            kind.name(),
            times[times.len() / 2].as_secs_f64() * 1e3,
            params as f64 / n as f64 / 1e6,
            space.encode(&subnets[0])
        );
    }
    Ok(())
}
