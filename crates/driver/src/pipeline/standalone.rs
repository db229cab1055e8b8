//! Stage 4: every subnet alone, from its own initial weights, several times.

use super::Run;
use super::inherit::Evaluator;
use super::results::{StandaloneResult, read_json, subnets, write_json};
use super::stages::{learner_config, train_loader};
use super::supervised::{Feed, Subnets, Supervised};
use crate::progress::Bar;
use anyhow::Result;
use slimtau_distill::Learner;
use slimtau_space::Arch;
use slimtau_supernet::{BnMode, Layout, Plan, Weights};
use slimtau_train::{Outcome, StageSettings, read_log, run_stage};
use std::sync::Arc;

/// Writes `standalone/results.json`, after every training.
pub fn stage(run: &Run) -> Result<Outcome> {
    let config = &run.config.standalone;
    let folder = run.stage_folder("standalone");
    let path = folder.join("results.json");
    let mut results: Vec<StandaloneResult> =
        if path.is_file() { read_json(&path)? } else { Vec::new() };
    let subnets = subnets(run)?;
    let mut evaluator = Evaluator::new(
        &run.space,
        Arc::clone(&run.layout),
        &run.data,
        BnMode::Tracked,
        run.config.inherit.batch,
        1,
    )?;
    let total = subnets.len() as u64 * config.seeds;
    let bar = Bar::new("standalone", total * config.steps);
    // Replicates outside, so that an early stop leaves every subnet trained equally often.
    for replicate in 0..config.seeds {
        for arch in &subnets {
            let code = run.space.encode(arch);
            if results.iter().any(|r| r.code == code && r.replicate == replicate) {
                bar.skip(config.steps);
                continue;
            }
            match train_one(run, arch, &code, replicate, &mut evaluator, &bar)? {
                Ok(result) => results.push(result),
                Err(step) => return Ok(Outcome::Interrupted { step }),
            }
            write_json(&path, &results)?;
        }
    }
    bar.finish();
    Ok(Outcome::Finished)
}

/// Trains and evaluates one subnet alone; `Err` carries the step of an interruption.
fn train_one(
    run: &Run,
    arch: &Arch,
    code: &str,
    replicate: u64,
    evaluator: &mut Evaluator,
    bar: &Bar,
) -> Result<Result<StandaloneResult, u64>> {
    let stage = &run.config.standalone;
    let network = run.space.resolve(arch)?;
    let layout = Layout::standalone(&network);
    let plan = Plan::new(&network, &layout)?;
    // Replicates differ in initial weights, order and augmentation; subnets share the latter two.
    let seed = run.config.seed + 1000 * (replicate + 1);
    let loader = train_loader(&run.data.train, &run.config.data, stage.batch, seed)?;
    let settings = learner_config(&stage.optimizer, BnMode::Tracked, 0.1);
    let start = Weights::init(&layout, seed);
    let mut state = Supervised {
        learner: Learner::new(settings.clone(), Arc::clone(&layout), start),
        config: settings,
        feed: Feed::new(loader, stage.steps),
        schedule: stage.optimizer.schedule(stage.steps),
        subnets: Subnets::Fixed(Box::new(plan.clone())),
        teacher: None,
    };
    let folder = run.stage_folder("standalone").join(format!("{code}-{replicate}"));
    let settings = StageSettings {
        name: "standalone".into(),
        config: run.hash(&format!("standalone {code} {replicate}")),
        folder,
        total_steps: stage.steps,
        log_every: (stage.steps / 50).max(1),
        checkpoint_every: (stage.steps / 2).max(1),
    };
    let outcome = run_stage(&settings, &mut state, &run.interrupt, &mut |p| {
        if p.done == p.resumed + 1 {
            bar.skip(p.resumed);
        }
        bar.advance(1, &format!("{code} loss {:.4}", p.report.loss));
    })?;
    if let Outcome::Interrupted { step } = outcome {
        return Ok(Err(step));
    }
    state.learner.weights().save(&layout, &settings.folder.join("weights.safetensors"))?;
    let accuracy = evaluator.plan_accuracy(state.learner.weights(), &plan)?;
    let seconds = read_log(&settings.log())?.last().map_or(0.0, |l| l.seconds);
    // The weights are the result; momentum is not needed any more.
    let _ = std::fs::remove_file(settings.checkpoint());
    Ok(Ok(StandaloneResult { code: code.to_owned(), replicate, accuracy, seconds }))
}
