//! Times reading and costing 45,000 codes, as the competition's list has them, on one core.
//!
//! `cargo run --release -p slimtau-space --example costs [FILE]`: the codes of FILE (separated by
//! commas or white space), or else 45,000 uniform draws.

use slimtau_base::stream;
use slimtau_space::{CostModel, SearchSpace};
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let space = SearchSpace::preset("cvpr2022")?;
    let text = match std::env::args().nth(1) {
        Some(path) => std::fs::read_to_string(path)?,
        None => {
            let mut rng = stream(0, "costs-example", 0);
            let draw = |_| space.encode_long(&space.sample_uniform(&mut rng, true));
            (0..45_000).map(draw).collect::<Vec<_>>().join("\n")
        }
    };
    let is_gap = |c: char| c == ',' || c.is_whitespace();
    let codes: Vec<&str> = text.split(is_gap).filter(|code| !code.is_empty()).collect();

    // The result first: tables must give what the layers give.
    let model = CostModel::new(&space);
    for code in codes.iter().take(1000) {
        let arch = space.parse(code)?;
        let (network, costs) = (space.resolve(&arch)?, model.costs(&arch));
        assert_eq!((network.params(), network.macs()), (costs.params, costs.macs));
        assert_eq!((network.phi_m(), network.phi_f()), (costs.phi_m, costs.phi_f));
    }

    let mut times = Vec::new();
    let mut total = 0;
    for _ in 0..11 {
        let start = Instant::now();
        let model = CostModel::new(&space);
        total = 0;
        for code in &codes {
            total += model.costs(&space.parse(code)?).params;
        }
        times.push(start.elapsed());
    }
    times.sort();
    println!(
        "{} codes, {:.2} M parameters on average",
        codes.len(),
        total as f64 / codes.len() as f64 / 1e6
    );
    println!("decode + parameters + MACs + Phi: median {:.1?}, best {:.1?}", times[5], times[0]);
    Ok(())
}
