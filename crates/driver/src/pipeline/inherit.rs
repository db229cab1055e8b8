//! Stage 3: the accuracy that a subnet inherits from the supernet.

use super::Run;
use super::evaluator::{EvalSettings, Evaluator, percent};
use super::log::{Evaluation, Log};
use super::results::{read_seconds, save_seconds, subnets};
use crate::progress::Bar;
use anyhow::{Context, Result};
use slimtau_ranking::{Score, write_competition_json};
use slimtau_supernet::Weights;
use slimtau_train::Outcome;
use std::time::Instant;

/// What was found before the stage was stopped.
pub const LOG: &str = "inherited.json.partial";

/// Writes `inherited.json`, in the competition's format.
pub fn stage(run: &Run) -> Result<Outcome> {
    let path = run.folder.join("inherited.json");
    if path.is_file() {
        // A kill may have come between the two.
        let _ = std::fs::remove_file(run.folder.join(LOG));
        return Ok(Outcome::Finished);
    }
    let subnets = subnets(run)?;
    let weights = Weights::load(&run.layout, &run.weights_path("ccfs"))?;
    let mut evaluator = Evaluator::of_run(run, &run.data)?;
    let settings = EvalSettings::of_run(&run.config);
    let evaluation = Evaluation::new(&run.space, &weights, &run.data, settings, &run.engine);
    let mut log = Log::open(&run.folder.join(LOG), &evaluation)?;
    let before =
        if log.is_empty() { 0.0 } else { *read_seconds(run)?.get("inherit").unwrap_or(&0.0) };
    let order = evaluator.order(&subnets)?;
    let ordered = order.iter().map(|place| &subnets[*place]);
    let bar = Bar::new("inherit", subnets.len() as u64);
    let begin = Instant::now();
    let stop = || run.interrupted();
    let finished = evaluator.evaluate_missing(&weights, ordered, &mut log, &bar, &stop)?;
    save_seconds(run, "inherit", before + begin.elapsed().as_secs_f64())?;
    if !finished {
        let done = subnets.iter().filter(|arch| log.get(&run.space.encode(arch)).is_some());
        return Ok(Outcome::Interrupted { step: done.count() as u64 });
    }
    bar.finish();
    let score = |arch| -> Result<Score> {
        let right = log.get(&run.space.encode(arch)).context("a subnet was not evaluated")?;
        let accuracy = percent(right, evaluator.images());
        Ok(Score { code: run.space.encode_long(arch), accuracy })
    };
    write_competition_json(&path, &subnets.iter().map(score).collect::<Result<Vec<_>>>()?)?;
    log.remove();
    Ok(Outcome::Finished)
}
