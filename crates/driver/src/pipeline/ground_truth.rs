//! Ground truth as a file: stand-alone accuracies that took hours, together with what made them, so
//! that a ranking experiment need not train them again, and anyone can check some of them.

use super::results::{StandaloneResult, read_json, write_json};
use super::standalone::{self, Shard, Training};
use super::{Purpose, Run, RunArgs};
use crate::Ended;
use crate::device_arg::DeviceArgs;
use crate::machine::{command, versions};
use crate::report::Versions;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use slimtau_ranking::reliability;
use slimtau_train::Outcome;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Stand-alone accuracies as they are stored.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroundTruth {
    /// Hash of what decides a training: see [`Run::truth_hash`].
    pub config: String,
    /// Where the images came from: training and validation set.
    pub data: [String; 2],
    /// The command that wrote the file.
    pub command: Vec<String>,
    /// The program and the machine that trained last.
    pub versions: Versions,
    /// Sum over all trainings of their wall-clock seconds, several of which may run at once.
    pub training_seconds: f64,
    /// By replicate, then in the order of the configuration's subnets; last those that it does not
    /// list any more.
    pub trainings: Vec<StandaloneResult>,
}

/// Which ground truth, and what to do with it.
#[derive(clap::Args)]
pub struct GroundTruthArgs {
    /// The configuration whose `standalone.truth` is made
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Folder of the trainings in progress; default: runs/NAME-truth
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Train only every N-th, beginning with the I-th: one share for each of N machines, each with
    /// a folder of its own
    #[arg(long, value_name = "I/N", default_value = "1/1", conflicts_with = "verify")]
    shard: Shard,
    /// Train N of the stored ones again and compare, instead of training what is missing
    #[arg(long, value_name = "N")]
    verify: Option<usize>,
    /// Delete what earlier trainings left in that folder instead of going on with them
    #[arg(long)]
    fresh: bool,
    /// Trainings at once, which share the threads; 0 = one per thread, on a GPU one
    #[arg(long, default_value_t = 0, value_name = "N")]
    jobs: usize,
    /// Instead of the configuration's data.workers: threads that prepare batches; 0 = as many as are of use
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    #[command(flatten)]
    device: DeviceArgs,
}

impl GroundTruth {
    /// Reads a file that must be of this run's configuration.
    pub fn read(path: &Path, run: &Run) -> Result<Self> {
        let truth: Self = read_json(path)
            .context("standalone.truth (`cargo xtask ground-truth` makes the file)")?;
        let expected = run.truth_hash();
        if truth.config != expected {
            bail!(
                "{}: is the truth of configuration {}, not of this one's space, images and [standalone] \
                 ({expected}); name another file in standalone.truth, or delete this one and make it anew \
                 with `cargo xtask ground-truth`",
                path.display(),
                truth.config
            );
        }
        Ok(truth)
    }
}

/// Makes or checks the ground truth.
pub fn run(args: &GroundTruthArgs) -> Result<Ended> {
    let run_args = RunArgs {
        config: args.config.clone(),
        out: args.out.clone(),
        data: None,
        workers: args.workers,
        fresh: args.fresh,
        jobs: args.jobs,
        device: args.device.clone(),
        full: false,
        purpose: if args.verify.is_some() { Purpose::Check } else { Purpose::Truth },
    };
    let mut run = Run::open(&run_args)?;
    let Some(path) = run.config.standalone.truth.take() else {
        bail!(
            "{}: standalone.truth is not set; it names the file that this command writes, such as \"truth.json\"",
            args.config.display()
        );
    };
    if let Some(n) = args.verify {
        let truth = GroundTruth::read(&path, &run)?;
        let _claim = run.claim(&run_args)?;
        return verify(&run, &path, &truth, n);
    }
    let stored = if path.is_file() {
        let stored = GroundTruth::read(&path, &run)?.trainings;
        run.config.standalone.truth = Some(path.clone());
        stored
    } else {
        Vec::new()
    };
    let _claim = run.claim(&run_args)?;
    if let Outcome::Interrupted { .. } = standalone::stage(&run, args.shard)? {
        eprintln!("stopped; finished trainings are kept. Go on with the same command");
        return Ok(Ended::Interrupted);
    }
    let mut trainings = standalone::known(&run)?;
    let missing = standalone::all(&run)?.len() - trainings.len();
    let mut out = std::io::stdout().lock();
    if missing > 0 {
        let folder = run.stage_folder("standalone");
        writeln!(
            out,
            "shard {} is done; {missing} trainings are missing. Copy the other shards' results-*.json to {}, and \
             run the command without --shard",
            args.shard,
            folder.display()
        )?;
        return Ok(Ended::Done);
    }
    let is_in = |list: &[StandaloneResult], t: &StandaloneResult| {
        list.iter().any(|other| other.code == t.code && other.replicate == t.replicate)
    };
    let n_new = trainings.iter().filter(|t| !is_in(&stored, t)).count();
    if n_new == 0 {
        writeln!(out, "nothing is missing: {} trainings in {}", trainings.len(), path.display())?;
        return Ok(Ended::Done);
    }
    // What another list or fewer replicates do not ask for took as long to make.
    let others: Vec<_> = stored.into_iter().filter(|t| !is_in(&trainings, t)).collect();
    trainings.extend(others);
    let data = [&run.data.train, &run.data.validation].map(|set| set.describe());
    let truth = GroundTruth {
        config: run.truth_hash(),
        data,
        command: command(),
        versions: versions(run.engine.hardware()),
        training_seconds: trainings.iter().map(|t| t.seconds).sum(),
        trainings,
    };
    write_json(&path, &truth)?;
    let n = truth.trainings.len();
    writeln!(
        out,
        "{n_new} new trainings, {n} in all, which took {:.0} s: {}",
        truth.training_seconds,
        path.display()
    )?;
    Ok(Ended::Done)
}

/// Trains `n` stored trainings again. On the same instruction set accuracies must agree exactly; on
/// another one they must lie as close as replicates do.
fn verify(run: &Run, path: &Path, truth: &GroundTruth, n: usize) -> Result<Ended> {
    let stored = &truth.trainings;
    let all = standalone::all(run)?;
    let training = |old: &StandaloneResult| {
        all.iter().find(|t| t.code == old.code && t.replicate == old.replicate).cloned()
    };
    // In the order of a hash: spread over the list, and a failure can be repeated.
    let mut order: Vec<Training> = stored.iter().filter_map(training).collect();
    order.sort_by_cached_key(|t| {
        *blake3::hash(format!("{} {}", t.code, t.replicate).as_bytes()).as_bytes()
    });
    order.truncate(n);
    // On another instruction set, as close as two replicates are in all but one of 10,000 cases.
    let replicates = by_replicate(stored);
    let apart = 4.0 * 2f64.sqrt() * reliability(&replicates)?.noise.unwrap_or(0.0);
    let again = Mutex::new(Vec::new());
    let outcome = standalone::train(run, &order, &|result| {
        again.lock().unwrap_or_else(PoisonError::into_inner).push(result);
        Ok(())
    })?;
    let again = again.into_inner().unwrap_or_else(PoisonError::into_inner);
    let (mut wrong, mut exact) = (0, 0);
    let mut out = std::io::stdout().lock();
    for new in &again {
        let old = stored.iter().find(|t| t.code == new.code && t.replicate == new.replicate);
        let old = old.context("what was chosen is stored")?;
        // On a GPU the compiler's version counts, too, and is not stored.
        let same_isa = old.isa == new.isa && run.engine.is_cpu();
        let bad = (new.accuracy - old.accuracy).abs() > if same_isa { 0.0 } else { apart };
        wrong += usize::from(bad);
        exact += usize::from(same_isa);
        let verdict = match (bad, same_isa) {
            (true, _) => "WRONG".to_owned(),
            (false, true) => "agrees to the last image".to_owned(),
            (false, false) => format!("agrees within {apart:.2} points (made with {})", old.isa),
        };
        let (code, k, old, new) = (&new.code, new.replicate, old.accuracy, new.accuracy);
        writeln!(out, "{code} replicate {k}: stored {old:.3} %, now {new:.3} %: {verdict}")?;
    }
    std::fs::remove_dir_all(&run.folder).with_context(|| run.folder.display().to_string())?;
    if let Outcome::Interrupted { .. } = outcome {
        return Ok(Ended::Interrupted);
    }
    let (n, all) = (again.len(), stored.len());
    if wrong > 0 {
        bail!("{}: {wrong} of {n} accuracies are not what training gives", path.display());
    }
    writeln!(out, "{n} of {all} stored trainings agree, {exact} of them to the last image")?;
    Ok(Ended::Done)
}

/// [replicates, architectures], for those architectures that have all of the replicates.
fn by_replicate(trainings: &[StandaloneResult]) -> Vec<Vec<f64>> {
    let n = 1 + trainings.iter().map(|t| t.replicate).max().unwrap_or(0) as usize;
    let mut by_code: BTreeMap<&str, BTreeMap<u64, f64>> = BTreeMap::new();
    for t in trainings {
        by_code.entry(&t.code).or_default().insert(t.replicate, t.accuracy);
    }
    by_code.retain(|_, replicates| replicates.len() == n);
    let of =
        |k: u64| by_code.values().filter_map(|replicates| replicates.get(&k).copied()).collect();
    (0..n as u64).map(of).collect()
}
