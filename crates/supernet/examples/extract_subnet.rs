//! Writes one subnet of a supernet's checkpoint as a network of its own.
//!
//! `extract_subnet SPACE CHECKPOINT CODE OUTPUT`

use slimtau_space::SearchSpace;
use slimtau_supernet::{Layout, Plan, Weights};
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [space, checkpoint, code, output] = &words[..] else {
        return Err("four arguments, please: SPACE CHECKPOINT CODE OUTPUT".into());
    };
    let space = SearchSpace::load(space)?;
    let layout = Layout::supernet(&space)?;
    let plan = Plan::subnet(&space, &layout, &space.parse(code)?)?;
    let own = Layout::standalone(plan.network());
    let weights = Weights::load(&layout, Path::new(checkpoint))?.extract(&plan, &own);
    weights.save(&own, Path::new(output))?;
    println!("{} of {} parameters in {output}", own.params(), layout.params());
    Ok(())
}
