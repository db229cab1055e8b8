//! Stage 4: every subnet alone, from its own initial weights, several times.

use super::Run;
use super::evaluator::{EvalSettings, Evaluator};
use super::ground_truth::GroundTruth;
use super::results::{StandaloneResult, read_json, subnets, write_json};
use super::stages::{learner_config, train_loader};
use super::supervised::{Feed, Subnets, Supervised};
use crate::progress::Bar;
use anyhow::Result;
use slimtau_space::Arch;
use slimtau_supernet::{BnMode, Layout, Plan, Weights};
use slimtau_train::{Outcome, StageSettings, read_log, run_stage};
use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// How files with the results of one architecture begin.
const ARCH: &str = "arch-";

/// One training to be done.
#[derive(Clone, Debug)]
pub struct Training {
    pub arch: Arch,
    /// Short code.
    pub code: String,
    pub replicate: u64,
}

/// One of `of` parts of a list, number `index` (from 0); `1/4` in words. Of trainings every `of`-th, of codes a run of
/// neighbours ([`Shard::range`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    index: usize,
    of: usize,
}

impl Shard {
    /// All of it.
    pub const WHOLE: Self = Self { index: 0, of: 1 };

    /// Its part of a list of `n`, where parts are runs of neighbours as equal as can be.
    pub fn range(self, n: usize) -> std::ops::Range<usize> {
        let begin = |index| (n as u128 * index as u128 / self.of as u128) as usize;
        begin(self.index)..begin(self.index + 1)
    }

    /// What its results are called: by `hash` in what is copied from machine to machine, so that
    /// those of another recipe are not taken for this one's.
    fn file(self, hash: &str) -> String {
        match self.of {
            1 => "results.json".to_owned(),
            of => format!("results-{hash}-{}-of-{of}.json", self.index + 1),
        }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index + 1, self.of)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/').map(|(i, of)| (i.parse::<usize>(), of.parse::<usize>()));
        match parts {
            Some((Ok(i), Ok(of))) if 1 <= i && i <= of => Ok(Self { index: i - 1, of }),
            _ => Err("expected I/N with 1 <= I <= N, such as 2/4".to_owned()),
        }
    }
}

/// The run's trainings. Replicates outside, so that an early stop leaves every subnet trained
/// equally often.
pub fn all(run: &Run) -> Result<Vec<Training>> {
    let subnets = subnets(run)?;
    let of_replicate = |replicate| {
        let training = move |arch: &Arch| Training {
            arch: arch.clone(),
            code: run.space.encode(arch),
            replicate,
        };
        subnets.iter().map(training)
    };
    Ok((0..run.config.standalone.seeds).flat_map(of_replicate).collect())
}

/// Results of the run's trainings that there are already, of every shard and of the stored truth,
/// in the order of [`all`].
pub fn known(run: &Run) -> Result<Vec<StandaloneResult>> {
    let mut known = BTreeMap::new();
    let mut add = |results: Vec<StandaloneResult>| {
        known.extend(results.into_iter().map(|r| ((r.code.clone(), r.replicate), r)));
    };
    let shards = format!("results-{}-", run.truth_hash());
    for entry in std::fs::read_dir(run.stage_folder("standalone")).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let of_run = name == "results.json" || name.starts_with(&shards) || name.starts_with(ARCH);
        if of_run && name.ends_with(".json") {
            add(read_json(&entry.path())?);
        }
    }
    // Last: of two results for one training, the stored one counts.
    if let Some(path) = &run.config.standalone.truth {
        add(GroundTruth::read(path, run)?.trainings);
    }
    Ok(all(run)?.into_iter().filter_map(|t| known.remove(&(t.code, t.replicate))).collect())
}

/// Trains what is missing and writes `standalone/results.json` (or its shard's part) after every
/// training.
pub fn stage(run: &Run, shard: Shard) -> Result<Outcome> {
    let path = run.stage_folder("standalone").join(shard.file(&run.truth_hash()));
    let known = known(run)?;
    let is_known =
        |t: &Training| known.iter().any(|r| r.code == t.code && r.replicate == t.replicate);
    let all = all(run)?;
    // A process that was killed may have written a result and left its checkpoint.
    all.iter().filter(|t| is_known(t)).for_each(|t| forget(run, t));
    let missing: Vec<Training> = (all.iter().enumerate())
        .filter(|(i, t)| i % shard.of == shard.index && !is_known(t))
        .map(|(_, t)| t.clone())
        .collect();
    // Not what other shards have: each file holds what its own process writes.
    let own: Vec<StandaloneResult> = match shard {
        Shard::WHOLE => known,
        _ if path.is_file() => read_json(&path)?,
        _ => Vec::new(),
    };
    let place = |r: &StandaloneResult| {
        all.iter().position(|t| t.code == r.code && t.replicate == r.replicate)
    };
    let own = Mutex::new(own);
    let outcome = train(run, &missing, &|result| {
        let mut own = own.lock().unwrap_or_else(PoisonError::into_inner);
        own.push(result);
        // The same file whatever was done first.
        own.sort_by_key(place);
        write_json(&path, &*own)
    })?;
    if outcome == Outcome::Finished {
        write_json(&path, &*own.lock().unwrap_or_else(PoisonError::into_inner))?;
    }
    Ok(outcome)
}

/// Trains one architecture alone, whatever the run's list is, by the recipe of `[standalone]`; its results are in a file
/// of its own. A code that breaks ties is a network, too.
pub fn one(run: &Run, arch: &Arch) -> Result<Outcome> {
    let code = run.space.encode(arch);
    let path = run.stage_folder("standalone").join(format!("{ARCH}{code}.json"));
    let mut results: Vec<StandaloneResult> =
        if path.is_file() { read_json(&path)? } else { Vec::new() };
    // What the run's list or a stored truth has is not trained again.
    for result in known(run)?.into_iter().filter(|r| r.code == code) {
        if results.iter().all(|r| r.replicate != result.replicate) {
            results.push(result);
        }
    }
    results.sort_by_key(|r| r.replicate);
    let missing: Vec<Training> = (0..run.config.standalone.seeds)
        .filter(|replicate| !results.iter().any(|r| r.replicate == *replicate))
        .map(|replicate| Training { arch: arch.clone(), code: code.clone(), replicate })
        .collect();
    let results = Mutex::new(results);
    let outcome = train(run, &missing, &|result| {
        let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
        results.push(result);
        results.sort_by_key(|r| r.replicate);
        write_json(&path, &*results)
    })?;
    if outcome == Outcome::Finished {
        let network = run.space.resolve(arch)?;
        let mut out = std::io::stdout().lock();
        let (params, macs) = (network.params(), network.macs());
        writeln!(out, "{code}: {params} parameters, {macs} MACs")?;
        for r in results.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let StandaloneResult { replicate, accuracy, seconds, .. } = r;
            write!(out, "replicate {replicate}: {accuracy:.2} %, {seconds:.0} s")?;
            let weights = folder(run, &code, *replicate).join("weights.safetensors");
            if weights.is_file() {
                writeln!(out, ", {}", weights.display())?;
            } else {
                writeln!(out, ", a stored result: there are no weights")?;
            }
        }
    }
    Ok(outcome)
}

/// Trains, several at once, and hands each result to `done`.
pub fn train(
    run: &Run,
    trainings: &[Training],
    done: &(dyn Fn(StandaloneResult) -> Result<()> + Sync),
) -> Result<Outcome> {
    if trainings.is_empty() {
        return Ok(Outcome::Finished);
    }
    let bar = Bar::new("standalone", trainings.len() as u64 * run.config.standalone.steps);
    let evaluator = || {
        let settings = EvalSettings { bn: BnMode::Tracked, ..EvalSettings::of_run(&run.config) };
        Evaluator::new(&run.space, Arc::clone(&run.layout), &run.data, settings, &run.engine)
    };
    let finished = AtomicU64::new(0);
    let stopped = AtomicU64::new(0);
    run.parallel.run(
        trainings,
        &run.interrupt,
        evaluator,
        |evaluator, training| match train_one(run, training, evaluator, &bar)? {
            Ok(result) => {
                finished.fetch_add(1, Ordering::Relaxed);
                done(result)?;
                forget(run, training);
                Ok(())
            }
            Err(step) => {
                stopped.store(step, Ordering::Relaxed);
                Ok(())
            }
        },
    )?;
    if finished.into_inner() < trainings.len() as u64 {
        return Ok(Outcome::Interrupted { step: stopped.into_inner() });
    }
    bar.finish();
    Ok(Outcome::Finished)
}

/// Removes a checkpoint that is not needed any more, once weights and result are kept.
fn forget(run: &Run, training: &Training) {
    // If it stays, it only takes space.
    let folder = folder(run, &training.code, training.replicate);
    let _ = std::fs::remove_file(folder.join("checkpoint.safetensors"));
}

/// Where a training lies.
fn folder(run: &Run, code: &str, replicate: u64) -> PathBuf {
    run.stage_folder("standalone").join(format!("{code}-{replicate}"))
}

/// Trains and evaluates one subnet alone; `Err` carries the step of an interruption.
fn train_one(
    run: &Run,
    training: &Training,
    evaluator: &mut Evaluator,
    bar: &Bar,
) -> Result<Result<StandaloneResult, u64>> {
    let Training { arch, code, replicate } = training;
    let stage = &run.config.standalone;
    let network = run.space.resolve(arch)?;
    let layout = Layout::standalone(&network);
    let plan = Plan::new(&network, &layout)?;
    // Replicates differ in initial weights, order and augmentation; subnets share the latter two.
    let seed = run.config.seed + 1000 * (replicate + 1);
    let loader = train_loader(run, run.engine.is_cpu(), stage.batch, seed)?;
    let settings = learner_config(&stage.optimizer, BnMode::Tracked, 0.1);
    let start = Weights::init(&layout, seed);
    let mut state = Supervised {
        training: run.engine.supervised(settings, &layout, start, None)?,
        feed: Feed::new(loader, stage.steps),
        schedule: stage.optimizer.schedule(stage.steps),
        subnets: Subnets::Fixed(Box::new(plan.clone())),
        taught: false,
    };
    let settings = StageSettings {
        name: "standalone".into(),
        config: format!("{} {code} {replicate}", run.truth_hash()),
        folder: folder(run, code, *replicate),
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
    let weights = state.training.weights()?;
    weights.save(&layout, &settings.folder.join("weights.safetensors"))?;
    let accuracy = evaluator.plan_accuracy(&weights, &plan)?;
    let seconds = read_log(&settings.log())?.last().map_or(0.0, |l| l.seconds);
    let isa = run.engine.arithmetic();
    Ok(Ok(StandaloneResult { code: code.clone(), replicate: *replicate, accuracy, seconds, isa }))
}
