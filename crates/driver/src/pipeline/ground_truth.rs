//! Ground truth as a file: stand-alone accuracies that took hours, together with what made them, so
//! that a ranking experiment need not train them again, and anyone can check some of them.

use super::results::{StandaloneResult, read_json, write_json};
use super::standalone::{self, Shard, Training};
use super::{Run, RunArgs};
use crate::Ended;
use crate::machine::versions;
use crate::report::Versions;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use slimtau_kernels::conv::Isa;
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
    /// The kernels' instruction set there: on another one, rounding makes another replicate of a
    /// training.
    pub isa: String,
    /// Sum over all trainings of their wall-clock seconds, several of which may run at once.
    pub training_seconds: f64,
    /// By replicate, then in the order of the configuration's subnets.
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
    /// Train only every N-th, beginning with the I-th: one share for each of N machines
    #[arg(long, value_name = "I/N", default_value = "1/1")]
    shard: Shard,
    /// Train N of the stored ones again and compare, instead of training what is missing
    #[arg(long, value_name = "N")]
    verify: Option<usize>,
    /// Delete what earlier trainings left in that folder instead of going on with them
    #[arg(long)]
    fresh: bool,
    /// Trainings at once, which share the threads; 0 = one per thread
    #[arg(long, default_value_t = 0, value_name = "N")]
    jobs: usize,
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
    let mut run = Run::open(&RunArgs {
        config: args.config.clone(),
        out: args.out.clone(),
        data: None,
        fresh: args.fresh,
        jobs: args.jobs,
        full: false,
        suffix: if args.verify.is_some() { "-verify" } else { "-truth" },
    })?;
    let Some(path) = run.config.standalone.truth.take() else {
        bail!("{}: standalone.truth names no file to write", args.config.display());
    };
    if let Some(n) = args.verify {
        return verify(&run, &path, n);
    }
    if path.is_file() {
        GroundTruth::read(&path, &run)?;
        run.config.standalone.truth = Some(path.clone());
    }
    if let Outcome::Interrupted { .. } = standalone::stage(&run, args.shard)? {
        eprintln!("stopped; finished trainings are kept. Go on with the same command");
        return Ok(Ended::Interrupted);
    }
    let trainings = standalone::known(&run)?;
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
    let data = [&run.data.train, &run.data.validation].map(|set| set.describe());
    let truth = GroundTruth {
        config: run.truth_hash(),
        data,
        command: std::env::args().skip(1).collect(),
        versions: versions(),
        isa: Isa::best().name().to_owned(),
        training_seconds: trainings.iter().map(|t| t.seconds).sum(),
        trainings,
    };
    write_json(&path, &truth)?;
    let n = truth.trainings.len();
    writeln!(out, "{n} trainings, {:.0} s in all: {}", truth.training_seconds, path.display())?;
    Ok(Ended::Done)
}

/// Trains `n` stored trainings again. On the same instruction set accuracies must agree exactly; on
/// another one they must lie as close as replicates do.
fn verify(run: &Run, path: &Path, n: usize) -> Result<Ended> {
    let truth = GroundTruth::read(path, run)?;
    let stored = &truth.trainings;
    // In the order of a hash: spread over the list, and a failure can be repeated.
    let mut order: Vec<&StandaloneResult> = stored.iter().collect();
    order.sort_by_cached_key(|t| {
        *blake3::hash(format!("{} {}", t.code, t.replicate).as_bytes()).as_bytes()
    });
    let all = standalone::all(run)?;
    let chosen = order.into_iter().take(n).map(|old| {
        let same = |t: &&Training| t.code == old.code && t.replicate == old.replicate;
        let training = all.iter().find(same).cloned();
        training.with_context(|| format!("{}: {} is not of the list", path.display(), old.code))
    });
    let chosen = chosen.collect::<Result<Vec<_>>>()?;
    let exact = truth.isa == Isa::best().name();
    let allowed = if exact { 0.0 } else { 4.0 * 2f64.sqrt() * replicate_deviation(stored) };
    let again = Mutex::new(Vec::new());
    let outcome = standalone::train(run, &chosen, &|result| {
        again.lock().unwrap_or_else(PoisonError::into_inner).push(result);
        Ok(())
    })?;
    let again = again.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut wrong = 0;
    let mut out = std::io::stdout().lock();
    for new in &again {
        let old = stored.iter().find(|t| t.code == new.code && t.replicate == new.replicate);
        let old = old.context("what was chosen is stored")?.accuracy;
        let bad = (new.accuracy - old).abs() > allowed;
        wrong += usize::from(bad);
        let verdict = if bad { "WRONG" } else { "agrees" };
        let (code, k, new) = (&new.code, new.replicate, new.accuracy);
        writeln!(out, "{code} replicate {k}: stored {old:.3} %, now {new:.3} %: {verdict}")?;
    }
    std::fs::remove_dir_all(&run.folder).with_context(|| run.folder.display().to_string())?;
    if let Outcome::Interrupted { .. } = outcome {
        return Ok(Ended::Interrupted);
    }
    if wrong > 0 {
        bail!(
            "{}: {wrong} of {} accuracies differ by more than {allowed:.2} points",
            path.display(),
            again.len()
        );
    }
    let how = if exact {
        "to the last image".to_owned()
    } else {
        format!("within {allowed:.2} points (made with {}, another instruction set)", truth.isa)
    };
    writeln!(out, "{} of {} stored trainings agree, {how}", again.len(), stored.len())?;
    Ok(Ended::Done)
}

/// The standard deviation between replicates of an architecture, pooled over architectures.
fn replicate_deviation(trainings: &[StandaloneResult]) -> f64 {
    let mut by_code: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for t in trainings {
        by_code.entry(&t.code).or_default().push(t.accuracy);
    }
    let (mut squares, mut freedom) = (0.0, 0.0);
    for values in by_code.values() {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        squares += values.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
        freedom += values.len() as f64 - 1.0;
    }
    if freedom > 0.0 { (squares / freedom).sqrt() } else { 0.0 }
}
