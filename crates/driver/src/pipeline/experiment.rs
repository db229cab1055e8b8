//! Several methods, several supernets each, one ground truth: the paper's tables with error bars.
//!
//! A method is the configuration with some changes. Its stages lie in folders named by a hash of what
//! decides them, so that methods share what is the same: the teacher, the contrastive stage, or a supernet
//! that is only evaluated in another way. Stages go in waves, each stage of a wave on threads of its
//! own: first all teachers, then all contrastive stages, and so on.

use super::data::first;
use super::evaluator::Evaluator;
use super::results::{read_json, read_seconds, save_seconds, subnets, write_json};
use super::standalone::{self, Shard};
use super::{Run, stages};
use crate::Ended;
use crate::config::{Experiment, Method};
use crate::machine::{command, versions};
use crate::progress::Bar;
use crate::report::{Seed, experiment as report};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use slimtau_data::Data;
use slimtau_ranking::Bootstrap;
use slimtau_space::{Arch, CostModel};
use slimtau_supernet::{BnMode, Weights};
use slimtau_train::{Outcome, read_log};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Inherited accuracies of one supernet.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Inherited {
    /// Seconds of evaluation, all points.
    seconds: f64,
    /// Short codes.
    codes: Vec<String>,
    /// By step; the last is the end of training.
    points: Vec<Point>,
}

/// The ranking at a point of stage 2.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Point {
    /// Steps of stage 2 done.
    step: u64,
    /// Validation images.
    images: usize,
    /// Percent, in the order of the codes.
    accuracy: Vec<f64>,
}

/// A stage of a run.
type Work = fn(&Run) -> Result<Outcome>;

/// Runs the main methods, or all of them, and writes the report.
pub fn run(base: &Run, full: bool) -> Result<Ended> {
    let experiment = base.config.experiment.as_ref().context("checked by the caller")?;
    let all = &base.config.methods;
    let full = full || all.iter().all(|method| !method.main);
    let methods: Vec<&Method> = all.iter().filter(|method| full || method.main).collect();
    let seeds = 0..experiment.seeds;
    // Seeds outside: the first seeds of every method come first.
    let runs = seeds.flat_map(|seed| methods.iter().map(move |method| (*method, seed)));
    let runs: Vec<Run> = runs
        .map(|(method, seed)| of_method(base, experiment, method, seed))
        .collect::<Result<_>>()?;
    let waves: [(&str, Work); 4] = [
        ("teacher", stages::teacher),
        ("moco", stages::moco),
        ("ccfs", stages::ccfs),
        ("inherit", inherit),
    ];
    for (stage, work) in waves {
        let mut distinct = BTreeMap::new();
        for (place, run) in runs.iter().enumerate() {
            distinct.entry(run.stage_folder(stage)).or_insert((place, run));
        }
        let mut distinct: Vec<(usize, &Run)> = distinct.into_values().collect();
        distinct.sort_by_key(|(place, _)| *place);
        base.parallel.run(
            &distinct,
            &base.interrupt,
            || Ok(()),
            |(), (_, run)| work(run).map(|_| ()).with_context(|| run.label.clone()),
        )?;
        // After each wave, so that a run that is killed later counts, too.
        add_seconds(base)?;
        if base.interrupted() {
            return Ok(stopped());
        }
    }
    let outcome = standalone::stage(base, Shard::WHOLE)?;
    add_seconds(base)?;
    if let Outcome::Interrupted { .. } = outcome {
        return Ok(stopped());
    }
    let measured = measured(base, experiment, &methods, &runs)?;
    write_json(&base.folder.join("experiment.json"), &measured)?;
    let summary = report::write(&base.folder, &measured)?;
    let html = base.folder.join("report.html");
    writeln!(std::io::stdout(), "{summary}\n{}", html.display())?;
    Ok(Ended::Done)
}

/// Adds the time since the last call to the experiment's.
fn add_seconds(base: &Run) -> Result<()> {
    let mut since = base.begin.lock().unwrap_or_else(PoisonError::into_inner);
    let before = read_seconds(base)?.get("experiment").copied().unwrap_or(0.0);
    save_seconds(base, "experiment", before + since.elapsed().as_secs_f64())?;
    *since = Instant::now();
    Ok(())
}

/// Refuses an experiment of which a method cannot be run or reported, before anything is trained.
pub fn check(base: &Run, fresh: bool) -> Result<()> {
    let Some(experiment) = &base.config.experiment else { return Ok(()) };
    let mut teachers = BTreeSet::new();
    for method in &base.config.methods {
        let run = of_method(base, experiment, method, 0)?;
        if teachers.insert(run.weights_path("teacher")) {
            stages::check_given(&run, fresh)
                .with_context(|| format!("method {:?}", method.name))?;
        }
        if let Some(dynamic) = &run.config.ccfs.dynamic {
            let groups = dynamic.groups(&run.space);
            groups.with_context(|| format!("method {:?}", method.name))?;
        }
    }
    Ok(())
}

/// What the report is made of.
fn measured(
    base: &Run,
    experiment: &Experiment,
    methods: &[&Method],
    runs: &[Run],
) -> Result<report::Experiment> {
    let config = &base.config;
    let model = CostModel::new(&base.space);
    let mut stand_alone: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for training in standalone::known(base)? {
        stand_alone.entry(training.code).or_default().push(training.accuracy);
    }
    let mut architecture = |arch: &Arch| {
        let (code, costs) = (base.space.encode(arch), model.costs(arch));
        report::Architecture {
            params: costs.params,
            macs: costs.macs,
            depth: arch.depth(),
            stage_depths: arch.stages.iter().map(Vec::len).collect(),
            phi_m: costs.phi_m,
            phi_f: costs.phi_f,
            width_sum: model.width_sum(arch),
            stand_alone: stand_alone.remove(&code).unwrap_or_default(),
            code,
        }
    };
    let architectures = subnets(base)?.iter().map(&mut architecture).collect();
    let mut rows = Vec::new();
    for (i, method) in methods.iter().enumerate() {
        // Runs lie seed by seed, each in the order of the methods.
        let own = runs.iter().skip(i).step_by(methods.len());
        rows.push(report::Row {
            name: method.name.clone(),
            group: method.group,
            paper_tau: method.paper,
            about: method.about.clone(),
            seeds: own.map(seed_result).collect::<Result<_>>()?,
        });
    }
    let s = &config.standalone;
    Ok(report::Experiment {
        name: config.name.clone(),
        space: base.space.name.clone(),
        data: base.data_sources(),
        classes: base.data.train.classes(),
        budget: format!(
            "{} images in stages 1 and 2 together, for every method; the number of subnets that learn from an \
             image is the method's own ({} unless it says otherwise). Stand-alone: {} images",
            config.images_seen(),
            config.ccfs.keep,
            s.steps * s.batch as u64
        ),
        config_toml: base.config_toml.clone(),
        command: command(),
        versions: versions(base.engine.hardware()),
        seconds: read_seconds(base)?.get("experiment").copied().unwrap_or(0.0),
        seeds: vec![
            Seed { purpose: "choice of architectures".into(), seed: config.seed },
            Seed { purpose: "first stand-alone replicate".into(), seed: config.seed + 1000 },
        ],
        supernet_seeds: (0..experiment.seeds).map(|k| config.seed + 100 * k).collect(),
        bootstrap: Bootstrap { seed: config.seed, resamples: 10_000, ..Bootstrap::default() },
        architectures,
        rows,
        comparisons: None,
        notes: notes(base, experiment, methods, runs),
    })
}

/// What a reader should know besides.
fn notes(base: &Run, experiment: &Experiment, methods: &[&Method], runs: &[Run]) -> Vec<String> {
    let config = &base.config;
    let mut notes = vec![format!(
        "What a row does not say is as in the configuration: {} contrastive stage, then the sampler {}; BN statistics \
         {} in training, {} in evaluation.",
        if config.moco.is_some() { "a" } else { "no" },
        config.ccfs.sampler,
        BnMode::from(config.ccfs.bn),
        BnMode::from(config.inherit.bn.unwrap_or(config.ccfs.bn))
    )];
    let all = base.data.validation.len();
    if experiment.points > 1 && (1..all).contains(&experiment.point_images) {
        notes.push(format!(
            "Points before the end of training are measured on the first {} of {all} validation images, the \
             end on all: some of the last rise is less noise in the measurement.",
            experiment.point_images
        ));
    }
    // The first seed's runs come first, in the order of the methods.
    let mut by_supernet: BTreeMap<PathBuf, Vec<&str>> = BTreeMap::new();
    for (method, run) in methods.iter().zip(runs) {
        by_supernet.entry(run.stage_folder("ccfs")).or_default().push(&method.name);
    }
    for names in by_supernet.into_values().filter(|names| names.len() > 1) {
        notes.push(format!("{} are the same supernets.", names.join(", ")));
    }
    notes
}

/// A finished supernet.
fn seed_result(run: &Run) -> Result<report::SeedResult> {
    let config = &run.config;
    let inherited: Inherited = read_json(&run.stage_folder("inherit").join("inherited.json"))?;
    let batch = config.ccfs.batch as u64;
    let mut checkpoints: Vec<report::Checkpoint> = Vec::new();
    for Point { step, accuracy, .. } in inherited.points {
        checkpoints.push(report::Checkpoint { images: step * batch, inherited: accuracy });
    }
    let last = checkpoints.last().context("no point was evaluated")?.inherited.clone();
    let seconds = |stage| logged_seconds(&run.stage_folder(stage));
    Ok(report::SeedResult {
        seed: config.seed,
        inherited: last,
        seconds: report::Seconds {
            teacher: seconds("teacher")?,
            moco: if config.moco.is_some() { seconds("moco")? } else { 0.0 },
            stage2: seconds("ccfs")?,
            evaluation: inherited.seconds,
        },
        images: config.ccfs.steps * batch,
        checkpoints,
    })
}

fn stopped() -> Ended {
    eprintln!("stopped; finished stages and checkpoints are kept. Go on with the same command");
    Ended::Interrupted
}

/// One supernet of a method.
fn of_method(base: &Run, experiment: &Experiment, method: &Method, seed: u64) -> Result<Run> {
    let mut config = base.config.of_method(method)?;
    config.seed = base.config.seed + 100 * seed;
    if let (Some(weights), true) = (&mut config.teacher.weights, method.set.contains_key("teacher"))
    {
        *weights = base.config_folder.join(&*weights);
    }
    Ok(Run {
        config_toml: super::table(&config),
        config,
        space: base.space.clone(),
        layout: Arc::clone(&base.layout),
        data: base.data.clone(),
        folder: base.folder.clone(),
        config_folder: base.config_folder.clone(),
        label: format!("{} seed {seed}", method.name),
        stages: Some(base.folder.join("stages")),
        points: experiment.points,
        point_images: experiment.point_images,
        begin: Mutex::new(Instant::now()),
        list_seed: base.list_seed,
        interrupt: Arc::clone(&base.interrupt),
        parallel: base.parallel,
        engine: base.engine.clone(),
    })
}

/// The accuracies that the base's subnets inherit, at every point of stage 2.
fn inherit(run: &Run) -> Result<Outcome> {
    let archs = subnets(run)?;
    let codes: Vec<String> = archs.iter().map(|arch| run.space.encode(arch)).collect();
    let path = run.stage_folder("inherit").join("inherited.json");
    let step = |point| run.config.ccfs.steps * point / run.points;
    let images = |point| match (point == run.points, run.point_images) {
        (false, few) if few > 0 => few,
        _ => run.data.validation.len(),
    };
    if path.is_file() {
        let found = read_json::<Inherited>(&path)?;
        let expected: Vec<_> = (1..=run.points).map(|p| (step(p), images(p))).collect();
        let points: Vec<_> = found.points.iter().map(|p| (p.step, p.images)).collect();
        if found.codes == codes && points == expected {
            return Ok(Outcome::Finished);
        }
    }
    let begin = Instant::now();
    let bar = Bar::new(&format!("inherit, {}", run.label), archs.len() as u64 * run.points);
    let mut points = Vec::new();
    for point in 1..=run.points {
        let data = Data {
            train: Arc::clone(&run.data.train),
            validation: first(Arc::clone(&run.data.validation), images(point))?,
        };
        let mut evaluator = Evaluator::of_run(run, &data)?;
        let weights = Weights::load(&run.layout, &run.point_path(point))?;
        let stop = || run.interrupted();
        let Some(accuracy) = evaluator.accuracies(&weights, &archs, &bar, &stop)? else {
            // Minutes at most; the same command makes it again.
            return Ok(Outcome::Interrupted { step: point });
        };
        points.push(Point { step: step(point), images: data.validation.len(), accuracy });
    }
    bar.finish();
    let seconds = begin.elapsed().as_secs_f64();
    write_json(&path, &Inherited { seconds, codes, points })?;
    Ok(Outcome::Finished)
}

/// Seconds that a stage took, by its log; none where it has none.
fn logged_seconds(folder: &Path) -> Result<f64> {
    let log = folder.join("log.jsonl");
    if !log.is_file() {
        return Ok(0.0);
    }
    Ok(read_log(&log)?.last().map_or(0.0, |line| line.seconds))
}
