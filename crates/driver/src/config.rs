//! A run's configuration: everything that decides its result, in one TOML file that refuses
//! unknown keys.

mod data;
mod methods;

pub use data::{Composed, Corrupt, CropFraction, Data};
pub use methods::{Dynamic, PaDa};

use crate::report::experiment::check_row;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use slimtau_base::read_text;
use slimtau_ccfs::SamplerKind;
use slimtau_space::SearchSpace;
use slimtau_supernet::BnMode;
use slimtau_train::{Schedule, ScheduleKind, Sgd};
use std::path::{Path, PathBuf};

/// The whole configuration. `docs/config.md` explains every key; `configs/` has examples.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Names the run's folder under `runs/`.
    pub name: String,
    /// Seed of every stream of the run.
    pub seed: u64,
    /// A preset, or a space file's path (relative to the configuration's folder).
    pub space: String,
    pub data: Data,
    pub teacher: Teacher,
    /// Left out: stage 2 starts from the teacher's weights ("vanilla" in the paper).
    pub moco: Option<Moco>,
    pub ccfs: Ccfs,
    pub subnets: Subnets,
    pub inherit: Inherit,
    pub standalone: Standalone,
    /// With `method`: how the methods are compared.
    #[serde(default)]
    pub experiment: Option<Experiment>,
    /// Left out: one run of the tables above. Otherwise each method is them with some changes, trained
    /// several times, and all are compared.
    #[serde(default, rename = "method")]
    pub methods: Vec<Method>,
}

/// How methods are compared.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// Supernets trained per method.
    pub seeds: u64,
    /// At how many evenly spaced points of stage 2 the ranking is measured, the end included.
    #[serde(default = "default_points")]
    pub points: u64,
    /// Validation images for the points before the end (0 = all).
    #[serde(default)]
    pub point_images: usize,
}

fn default_points() -> u64 {
    4
}

/// A method of an experiment.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Method {
    pub name: String,
    /// The part of the report that it stands in.
    pub group: crate::report::experiment::Group,
    /// One sentence for readers.
    pub about: String,
    /// The paper's Kendall tau.
    #[serde(default)]
    pub paper: Option<f64>,
    /// Whether it is trained without `--full`, too; where no method is, all are.
    #[serde(default)]
    pub main: bool,
    /// Whole tables to leave out, such as `moco`.
    #[serde(default)]
    pub without: Vec<String>,
    /// Keys to change, in the tables they stand in.
    #[serde(default)]
    pub set: toml::Table,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Optimizer {
    pub lr: f64,
    #[serde(default)]
    pub warmup_steps: u64,
    #[serde(default = "default_momentum")]
    pub momentum: f32,
    #[serde(default = "default_weight_decay")]
    pub weight_decay: f32,
    #[serde(default)]
    pub nesterov: bool,
}

fn default_momentum() -> f32 {
    0.9
}

fn default_weight_decay() -> f32 {
    1e-4
}

fn default_bn_momentum() -> f32 {
    0.1
}

fn default_one() -> f32 {
    1.0
}

/// Stage 0: the largest network, trained alone.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Teacher {
    pub steps: u64,
    pub batch: usize,
    pub optimizer: Optimizer,
    /// Start from these weights instead of training them.
    #[serde(default)]
    pub weights: Option<PathBuf>,
}

/// Stage 1: MoCo on the supernet.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moco {
    pub steps: u64,
    pub batch: usize,
    pub optimizer: Optimizer,
    /// Whether each epoch has an order of its own, or that of the dataset.
    // What a configuration of before has no word for is not written: hashes are of the text.
    #[serde(default = "default_true", skip_serializing_if = "is_true")]
    pub shuffle: bool,
    pub queue: usize,
    pub dim: usize,
    /// First and last temperature; it falls geometrically over the stage.
    pub temperature: [f32; 2],
    pub key_momentum: f32,
    #[serde(default = "default_key_updates")]
    pub key_updates: u32,
    /// Shuffled-BN groups of the key pass; 1 = off.
    #[serde(default = "default_key_groups")]
    pub key_groups: usize,
    pub bn: Bn,
    #[serde(default = "default_bn_momentum")]
    pub bn_momentum: f32,
    /// Smallest share of the image's area that a view may show.
    #[serde(default = "default_min_scale")]
    pub min_scale: f32,
}

fn default_true() -> bool {
    true
}

fn is_true(value: &bool) -> bool {
    *value
}

fn default_key_updates() -> u32 {
    1
}

fn default_key_groups() -> usize {
    1
}

fn default_min_scale() -> f32 {
    0.2
}

/// Stage 2: subnets with labels and a teacher.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ccfs {
    pub steps: u64,
    pub batch: usize,
    pub optimizer: Optimizer,
    /// `uniform`, `ccfs-m`, `ccfs-f`, `width-sum`, `fairnas`, `ofa`, `sandwich` or `pa-da`.
    pub sampler: String,
    /// Subnets drawn per step (p).
    pub candidates: usize,
    /// In the last step, where the number changes geometrically over the stage.
    #[serde(default)]
    pub last_candidates: Option<usize>,
    /// Subnets kept and trained per step (K).
    pub keep: usize,
    pub bn: Bn,
    #[serde(default = "default_bn_momentum")]
    pub bn_momentum: f32,
    #[serde(default = "default_one")]
    pub label_weight: f32,
    #[serde(default = "default_one")]
    pub teacher_weight: f32,
    #[serde(default = "default_one")]
    pub temperature: f32,
    /// Settings of `sampler = "pa-da"`, and only of that; the defaults where left out.
    #[serde(default)]
    pub pa_da: Option<PaDa>,
    /// Left out: one schedule and one momentum for all subnets.
    #[serde(default)]
    pub dynamic: Option<Dynamic>,
}

/// Which subnets are ranked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subnets {
    /// How many to draw (the largest and the smallest are always the first two).
    pub count: usize,
    /// How many of them to draw around evenly spread depths and widths; the others are uniform.
    #[serde(default)]
    pub stratified: usize,
    /// A file of codes to use instead.
    #[serde(default)]
    pub codes: Option<PathBuf>,
}

/// Stage 3: inherited accuracy.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inherit {
    pub batch: usize,
    /// Training batches that a subnet's BN statistics are measured on (`bn = "recalibrated"`).
    #[serde(default = "default_recalibration")]
    pub recalibration_batches: usize,
    /// Another treatment of BN statistics than in training.
    #[serde(default)]
    pub bn: Option<Bn>,
}

fn default_recalibration() -> usize {
    8
}

/// Stage 4: the same subnets, each alone from its own initial weights.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standalone {
    pub steps: u64,
    pub batch: usize,
    pub optimizer: Optimizer,
    /// Independent trainings per subnet.
    pub seeds: u64,
    /// A file of stored results, so that they need not be trained again.
    #[serde(default)]
    pub truth: Option<PathBuf>,
}

/// [`BnMode`] as a configuration word.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bn {
    Tracked,
    Frozen,
    Recalibrated,
}

impl From<Bn> for BnMode {
    fn from(bn: Bn) -> Self {
        match bn {
            Bn::Tracked => BnMode::Tracked,
            Bn::Frozen => BnMode::Frozen,
            Bn::Recalibrated => BnMode::Recalibrated,
        }
    }
}

impl Optimizer {
    pub fn sgd(&self) -> Sgd {
        Sgd { momentum: self.momentum, weight_decay: self.weight_decay, nesterov: self.nesterov }
    }

    /// Warm-up, then cosine to 0 at `steps`.
    pub fn schedule(&self, steps: u64) -> Schedule {
        Schedule {
            base_lr: self.lr,
            warmup_steps: self.warmup_steps,
            total_steps: steps,
            kind: ScheduleKind::Cosine,
            final_lr: 0.0,
        }
    }
}

impl Ccfs {
    /// Whether subnets or images are treated unequally (PA&DA, dynamic training): that step exists on the CPU only.
    pub fn adapts(&self) -> Result<bool> {
        let kind: SamplerKind = self.sampler.parse().context("ccfs.sampler")?;
        Ok(kind == SamplerKind::PaDa || self.dynamic.is_some())
    }
}

impl Config {
    /// Reads and checks a configuration file.
    pub fn load(path: &Path) -> Result<Self> {
        let text = read_text(path)?;
        Self::parse(&text, path)
    }

    /// Checks a configuration's text; `path` is where it came from.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let config: Self = toml::from_str(text).map_err(|e| {
            let before = text.as_bytes().iter().take(e.span().map_or(0, |s| s.start));
            let line = 1 + before.filter(|b| **b == b'\n').count();
            anyhow::anyhow!("{}, line {line}: {}", path.display(), e.message())
        })?;
        config.check().with_context(|| path.display().to_string())?;
        Ok(config)
    }

    /// The configuration of one method: the tables of this one with the method's changes, and without
    /// experiment and methods.
    pub fn of_method(&self, method: &Method) -> Result<Self> {
        const TABLES: [&str; 4] = ["teacher", "moco", "ccfs", "inherit"];
        let named = || format!("method {:?}", method.name);
        for key in method.set.keys().chain(&method.without) {
            anyhow::ensure!(
                TABLES.contains(&key.as_str()),
                "{}: `{key}`: methods may differ in {} only, or they could not be compared",
                named(),
                TABLES.join(", ")
            );
        }
        let base = Self { experiment: None, methods: Vec::new(), ..self.clone() };
        let mut table = toml::Table::try_from(base).with_context(named)?;
        for name in &method.without {
            let known = table.remove(name).is_some();
            anyhow::ensure!(known, "{}: without: there is no table `{name}`", named());
        }
        merge(&mut table, &method.set);
        let mut config: Self = table
            .try_into()
            .map_err(|e: toml::de::Error| anyhow::anyhow!("{}: {}", named(), e.message()))?;
        config.data.workers = self.data.workers; // never written
        config.check().with_context(named)?;
        Ok(config)
    }

    /// Images that stages 1 and 2 see in training.
    pub fn images_seen(&self) -> u64 {
        let moco = self.moco.as_ref().map_or(0, |m| m.steps * m.batch as u64);
        moco + self.ccfs.steps * self.ccfs.batch as u64
    }

    /// The search space, its path taken relative to `folder`.
    pub fn search_space(&self, folder: &Path) -> Result<SearchSpace> {
        Ok(SearchSpace::load(&self.space_source(folder))?)
    }

    /// The preset or path of the search space, relative to where the program runs.
    pub fn space_source(&self, folder: &Path) -> String {
        let relative = folder.join(&self.space);
        if relative.is_file() {
            relative.to_string_lossy().into_owned()
        } else {
            self.space.clone()
        }
    }

    fn check(&self) -> Result<()> {
        let name_ok = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if self.name.is_empty() || self.name.starts_with('.') || !self.name.chars().all(name_ok) {
            bail!("name = {:?}: letters, digits, `-`, `_` and `.` only, please", self.name);
        }
        self.data.check()?;
        let (teacher, ccfs, alone) = (&self.teacher, &self.ccfs, &self.standalone);
        check_stage("teacher", teacher.steps, teacher.batch, &teacher.optimizer)?;
        check_stage("ccfs", ccfs.steps, ccfs.batch, &ccfs.optimizer)?;
        check_stage("standalone", alone.steps, alone.batch, &alone.optimizer)?;
        if let Some(moco) = &self.moco {
            check_stage("moco", moco.steps, moco.batch, &moco.optimizer)?;
            at_least("moco.queue", moco.queue, 1)?;
            at_least("moco.dim", moco.dim, 1)?;
            at_least("moco.key_groups", moco.key_groups, 1)?;
            if moco.batch / moco.key_groups < 2 {
                bail!(
                    "moco.key_groups = {}: fewer than two of {} images per group have no batch statistics",
                    moco.key_groups,
                    moco.batch
                );
            }
            for t in moco.temperature {
                in_range("moco.temperature", t, f32::MIN_POSITIVE, 100.0)?;
            }
            in_range("moco.key_momentum", moco.key_momentum, 0.0, 1.0)?;
            in_range("moco.bn_momentum", moco.bn_momentum, 0.0, 1.0)?;
            in_range("moco.min_scale", moco.min_scale, 0.01, 1.0)?;
        }
        let sampler = self.ccfs.sampler.parse::<SamplerKind>().context("ccfs.sampler")?;
        methods::check(sampler, self.ccfs.pa_da.as_ref(), self.ccfs.dynamic.as_ref())?;
        at_least("ccfs.keep", self.ccfs.keep, 1)?;
        at_least("ccfs.candidates", self.ccfs.candidates, self.ccfs.keep)?;
        if let Some(last) = self.ccfs.last_candidates {
            at_least("ccfs.last_candidates", last, self.ccfs.keep)?;
            let sampler = &self.ccfs.sampler;
            if !matches!(&**sampler, "ccfs-m" | "ccfs-f" | "width-sum") {
                bail!("ccfs.last_candidates = {last}: the sampler {sampler:?} has no candidates");
            }
        }
        in_range("ccfs.temperature", self.ccfs.temperature, 0.01, 100.0)?;
        in_range("ccfs.label_weight", self.ccfs.label_weight, 0.0, 1e3)?;
        in_range("ccfs.teacher_weight", self.ccfs.teacher_weight, 0.0, 1e3)?;
        in_range("ccfs.bn_momentum", self.ccfs.bn_momentum, 0.0, 1.0)?;
        at_least("subnets.count", self.subnets.count, 3)?;
        if self.subnets.stratified + 2 > self.subnets.count {
            let (stratified, count) = (self.subnets.stratified, self.subnets.count);
            bail!(
                "subnets.stratified = {stratified}: with the largest and the smallest, more than count = {count}"
            );
        }
        at_least("inherit.batch", self.inherit.batch, 1)?;
        at_least("inherit.recalibration_batches", self.inherit.recalibration_batches, 1)?;
        at_least("standalone.seeds", self.standalone.seeds as usize, 1)?;
        match (&self.experiment, self.methods.is_empty()) {
            (None, true) => return Ok(()),
            (None, false) => {
                bail!("[[method]]: an [experiment] table must say how to compare them")
            }
            (Some(_), true) => bail!("[experiment]: there is no [[method]] to compare"),
            (Some(experiment), false) => {
                at_least("experiment.seeds", experiment.seeds as usize, 1)?;
                at_least("experiment.points", experiment.points as usize, 1)?;
                // Supernet k has seed + 100 k; the first stand-alone replicate has seed + 1000.
                if experiment.seeds > 10 {
                    bail!("experiment.seeds = {}: at most 10", experiment.seeds);
                }
            }
        }
        let mut names = std::collections::BTreeSet::new();
        for method in &self.methods {
            let name = &method.name;
            anyhow::ensure!(names.insert(name), "method {name:?}: there are two of that name");
            check_row(name, method.paper)?;
            let config = self.of_method(method)?;
            let points = self.experiment.as_ref().map_or(1, |e| e.points);
            anyhow::ensure!(
                points <= config.ccfs.steps,
                "method {name:?}: experiment.points = {points}: stage 2 has only {} steps",
                config.ccfs.steps
            );
            let images = config.images_seen();
            let expected = self.images_seen();
            anyhow::ensure!(
                images == expected,
                "method {name:?}: trains on {images} images, the others on {expected}; methods share one \
                 budget (steps x batch over stages 1 and 2)"
            );
        }
        Ok(())
    }
}

/// Overwrites what `changes` has, table by table.
fn merge(table: &mut toml::Table, changes: &toml::Table) {
    for (key, change) in changes {
        match (table.get_mut(key), change) {
            (Some(toml::Value::Table(inner)), toml::Value::Table(change)) => merge(inner, change),
            _ => {
                table.insert(key.clone(), change.clone());
            }
        }
    }
}

fn check_stage(stage: &str, steps: u64, batch: usize, optimizer: &Optimizer) -> Result<()> {
    if optimizer.warmup_steps > steps {
        let warmup = optimizer.warmup_steps;
        bail!("{stage}.optimizer.warmup_steps = {warmup}: the stage has only {steps} steps");
    }
    at_least(&format!("{stage}.batch"), batch, 2)?;
    in_range(&format!("{stage}.optimizer.lr"), optimizer.lr as f32, f32::MIN_POSITIVE, 1e3)?;
    in_range(&format!("{stage}.optimizer.momentum"), optimizer.momentum, 0.0, 1.0)?;
    in_range(&format!("{stage}.optimizer.weight_decay"), optimizer.weight_decay, 0.0, 1e3)
}

fn at_least(key: &str, value: usize, least: usize) -> Result<()> {
    if value < least {
        bail!("{key} = {value}: must be at least {least}");
    }
    Ok(())
}

fn in_range(key: &str, value: f32, low: f32, high: f32) -> Result<()> {
    if !(low..=high).contains(&value) {
        bail!("{key} = {value}: must lie in {low:?}..={high:?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn committed_configurations_are_valid() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
        let mut n_methods = 0;
        for name in ["quick.toml", "reproduce.toml", "cvpr2022.toml", "cvpr2022-authors.toml"] {
            let config = Config::load(&folder.join(name)).unwrap();
            config.search_space(&folder).unwrap();
            n_methods += config.methods.len();
        }
        assert!(n_methods >= 12, "{n_methods}");
    }

    #[test]
    fn methods_load_images_as_the_experiment_does() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
        let mut config = Config::load(&folder.join("reproduce.toml")).unwrap();
        config.data.workers = 3;
        assert_eq!(config.of_method(&config.methods[0]).unwrap().data.workers, 3);
    }
}
