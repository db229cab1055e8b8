//! Stage 3: the accuracy that a subnet inherits from the supernet.

use super::Run;
use super::evaluator::Evaluator;
use super::results::{save_seconds, subnets};
use crate::progress::Bar;
use anyhow::Result;
use slimtau_ranking::{Score, write_competition_json};
use slimtau_supernet::Weights;
use slimtau_train::Outcome;
use std::time::Instant;

/// Writes `inherited.json`, in the competition's format.
pub fn stage(run: &Run) -> Result<Outcome> {
    let path = run.folder.join("inherited.json");
    if path.is_file() {
        return Ok(Outcome::Finished);
    }
    let subnets = subnets(run)?;
    let weights = Weights::load(&run.layout, &run.weights_path("ccfs"))?;
    let mut evaluator = Evaluator::of_run(run, &run.data)?;
    let bar = Bar::new("inherit", subnets.len() as u64);
    let begin = Instant::now();
    let stop = || run.interrupted();
    let Some(accuracies) = evaluator.accuracies(&weights, &subnets, &bar, &stop)? else {
        // For lists that take long there is `rank eval`, which goes on where it was stopped.
        return Ok(Outcome::Interrupted { step: 0 });
    };
    bar.finish();
    save_seconds(run, "inherit", begin.elapsed().as_secs_f64())?;
    let scores = subnets.iter().zip(accuracies);
    let scores =
        scores.map(|(arch, accuracy)| Score { code: run.space.encode_long(arch), accuracy });
    write_competition_json(&path, &scores.collect::<Vec<_>>())?;
    Ok(Outcome::Finished)
}
