//! The method from images to a Kendall tau: which stages, in which order, in which files.
//!
//! A run's folder holds `config.toml` (as used), one folder per stage with its checkpoint, log and
//! weights, `inherited.json`, `standalone/results.json`, `truth.csv`, and the report. Every
//! file is written atomically and a stage whose result is there is not run again, so the same
//! command always goes on where the last one stopped.

mod adaptive;
mod data;
mod evaluator;
mod experiment;
mod folder;
mod ground_truth;
mod inherit;
mod jobs;
mod log;
mod results;
mod stages;
mod standalone;
mod summary;
mod supervised;

pub use data::{check_recorded, of_run as open_run_data, recorded_images, recorded_space};
pub use evaluator::{CHUNK, EvalSettings, Evaluator, KEPT_BYTES, calibration, percent};
use ground_truth::GroundTruth;
pub use ground_truth::{GroundTruthArgs, run as ground_truth};
use jobs::Parallel;
pub use log::{Contents, Evaluation, Log};
pub use results::listed_subnets;
pub use standalone::Shard;

use crate::Ended;
use crate::config::{Config, Standalone};
use crate::device_arg::DeviceArgs;
use crate::engine::Engine;
use crate::machine::command;
use crate::progress::Bar;
use crate::report::DataSource;
use anyhow::{Context, Result, bail};
use folder::Claim;
use slimtau_data::Data;
use slimtau_space::SearchSpace;
use slimtau_supernet::Layout;
use slimtau_train::{Outcome, StageSettings, TrainState, run_stage};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Which run.
#[derive(clap::Args)]
pub struct RunArgs {
    /// The configuration (TOML); see `configs/` and docs/config.md
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Where everything goes; default: runs/NAME, the name in the configuration
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Instead of the configuration's data.source: `embedded`, `auto`, or a folder
    #[arg(long, value_name = "SOURCE")]
    data: Option<String>,
    /// Instead of the configuration's data.workers: threads that prepare batches; 0 = as many as are of use. Results do
    /// not depend on it
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// Delete what an earlier run left there instead of going on with it
    #[arg(long)]
    fresh: bool,
    /// Stand-alone networks, and supernets of an experiment, that are trained at once and share the
    /// threads; 0 = one per thread, which small networks are fastest with, or on a GPU one
    #[arg(long, default_value_t = 1, value_name = "N")]
    jobs: usize,
    #[command(flatten)]
    device: DeviceArgs,
    /// Only for `run`, where the configuration is an experiment: every method, not only the main rows
    #[arg(long)]
    full: bool,
    #[arg(skip)]
    purpose: Purpose,
}

/// What to train alone.
#[derive(clap::Args)]
pub struct StandaloneArgs {
    #[command(flatten)]
    run: RunArgs,
    /// Only this architecture, whether it is on the run's list or not, and has a place in the supernet or not
    #[arg(long, value_name = "CODE")]
    arch: Option<String>,
}

/// What a folder is for. Its default name ends accordingly, and it is not taken for another purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Purpose {
    /// A run or an experiment.
    #[default]
    Run,
    /// Stand-alone trainings that become a ground truth.
    Truth,
    /// Trainings that are compared with a ground truth, and deleted.
    Check,
}

/// The stages, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Teacher,
    Moco,
    Ccfs,
    Inherit,
    Standalone,
    Report,
}

/// What the stages share.
pub struct Run {
    config: Config,
    config_toml: String,
    space: SearchSpace,
    layout: Arc<Layout>,
    data: Data,
    folder: PathBuf,
    /// Where the configuration lies.
    config_folder: PathBuf,
    /// Empty for a run by itself; a method and seed of an experiment.
    label: String,
    /// Of an experiment: where stages lie that several of its runs may share.
    stages: Option<PathBuf>,
    /// At how many evenly spaced points of stage 2 weights are kept, the end included.
    points: u64,
    /// Validation images at the points before the end; 0 = all.
    point_images: usize,
    /// Decides which subnets are drawn: the seed, or in an experiment that of the whole.
    list_seed: u64,
    /// When the command began, or time was last written down.
    begin: Mutex<Instant>,
    interrupt: Arc<AtomicBool>,
    parallel: Parallel,
    engine: Engine,
}

/// Runs the stages up to `until` (all of them for `None`); `Standalone` needs none before it.
pub fn run(args: &RunArgs, until: Option<Stage>) -> Result<Ended> {
    let run = Run::open(args)?;
    if args.full && (until.is_some() || run.config.experiment.is_none()) {
        bail!("{}: --full is for whole experiments, and has no effect here", args.config.display());
    }
    if until != Some(Stage::Standalone) && run.config.experiment.is_none() {
        stages::check_given(&run, args.fresh)?;
    }
    let _claim = run.claim(args)?;
    if until.is_none() && run.config.experiment.is_some() {
        return experiment::run(&run, args.full);
    }
    let all = [
        Stage::Teacher,
        Stage::Moco,
        Stage::Ccfs,
        Stage::Inherit,
        Stage::Standalone,
        Stage::Report,
    ];
    let wanted: Vec<Stage> = match until {
        None => all.to_vec(),
        Some(Stage::Standalone) => vec![Stage::Standalone],
        Some(last) => all.into_iter().take_while(|s| *s != last).chain([last]).collect(),
    };
    for stage in wanted {
        let outcome = match stage {
            Stage::Teacher => stages::teacher(&run)?,
            Stage::Moco => stages::moco(&run)?,
            Stage::Ccfs => stages::ccfs(&run)?,
            Stage::Inherit => inherit::stage(&run)?,
            Stage::Standalone => standalone::stage(&run, Shard::WHOLE)?,
            Stage::Report => {
                summary::stage(&run)?;
                Outcome::Finished
            }
        };
        if let Outcome::Interrupted { step } = outcome {
            return Ok(stopped(stage, step));
        }
    }
    Ok(Ended::Done)
}

/// Stage 4 of the run's list, or of one architecture.
pub fn run_standalone(args: &StandaloneArgs) -> Result<Ended> {
    let Some(code) = &args.arch else { return run(&args.run, Some(Stage::Standalone)) };
    let run = Run::open(&args.run)?;
    let arch = run.space.parse(code).with_context(|| format!("--arch {code}"))?;
    let _claim = run.claim(&args.run)?;
    Ok(match standalone::one(&run, &arch)? {
        Outcome::Finished => Ended::Done,
        Outcome::Interrupted { step } => stopped(Stage::Standalone, step),
    })
}

/// Says how to go on.
fn stopped(stage: Stage, step: u64) -> Ended {
    let words: Vec<String> = command().into_iter().filter(|a| a != "--fresh").collect();
    let kept = match stage {
        Stage::Inherit => format!(" with {step} subnets done; all of it is saved"),
        _ => format!(" after step {step}; all of it is saved"),
    };
    eprintln!("stopped in stage {stage:?}{kept}. Go on with:\n  {}", words.join(" "));
    Ended::Interrupted
}

impl Run {
    /// Reads and checks what a run is made of. It has no folder yet.
    fn open(args: &RunArgs) -> Result<Self> {
        let mut config = Config::load(&args.config)?;
        if let Some(source) = &args.data {
            config.data.source.clone_from(source);
        }
        config.data.with_workers(args.workers)?;
        let config_folder = args.config.parent().unwrap_or(Path::new("."));
        let space = config
            .search_space(config_folder)
            .with_context(|| format!("{}: space", args.config.display()))?;
        if let Some(dynamic) = &config.ccfs.dynamic {
            // A wrong split is found now, not after the teacher is trained.
            dynamic.groups(&space).with_context(|| args.config.display().to_string())?;
        }
        let layout = Layout::supernet(&space)?;
        // Before paths are joined: what a configuration says does not depend on where one stands.
        let config_toml = table(&config);
        let paths =
            [&mut config.teacher.weights, &mut config.subnets.codes, &mut config.standalone.truth];
        for path in paths.into_iter().flatten() {
            *path = config_folder.join(&*path);
        }
        // Before images are looked for, which may take minutes.
        let engine = Engine::open(&args.device)?;
        let data = data::of_run(&config.data, &space)?;
        let end = match args.purpose {
            Purpose::Run => "",
            Purpose::Truth => "-truth",
            Purpose::Check => "-check",
        };
        let default = || Path::new("runs").join(format!("{}{end}", config.name));
        let folder = args.out.clone().unwrap_or_else(default);
        let interrupt = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&interrupt);
        ctrlc::set_handler(move || {
            if flag.swap(true, Ordering::Relaxed) {
                // The second time: at once. Checkpoints are atomic, so nothing breaks.
                std::process::exit(130);
            }
            eprintln!("\nsaving after this step; once more to stop at once");
        })
        .context("cannot catch Ctrl-C")?;
        // A GPU does one thing after the other, and each training has memory of its own there.
        let own_jobs = if engine.is_cpu() { rayon::current_num_threads() } else { 1 };
        let parallel = Parallel::new(args.jobs, own_jobs);
        let (label, stages, list_seed) = (String::new(), None, config.seed);
        let run = Self {
            config,
            config_toml,
            space,
            layout,
            data,
            folder,
            config_folder: config_folder.to_owned(),
            label,
            stages,
            points: 1,
            point_images: 0,
            list_seed,
            begin: Mutex::new(Instant::now()),
            interrupt,
            parallel,
            engine,
        };
        // A wrong code or ground truth is found now, not after the supernet is trained.
        results::subnets(&run)?;
        if args.purpose == Purpose::Run {
            if let Some(truth) = &run.config.standalone.truth {
                GroundTruth::read(truth, &run)?;
            }
            experiment::check(&run, args.fresh)?;
        }
        if args.fresh
            && args.config.canonicalize().ok() == run.folder.join("config.toml").canonicalize().ok()
        {
            bail!("{}: --fresh would delete it with its folder", args.config.display());
        }
        Ok(run)
    }

    /// Makes the folder the run's own. Whatever can be refused is refused before, lest it cost an earlier run.
    fn claim(&self, args: &RunArgs) -> Result<Claim> {
        let identity = match args.purpose {
            Purpose::Run if self.config.experiment.is_none() => self.identity(&self.config_toml),
            // Stages lie under hashes of what decides them: another method or base recipe leaves them as
            // they are.
            Purpose::Run => {
                self.identity(&format!("# experiment on truth {}\n", self.truth_hash()))
            }
            // Other subnets or replicates leave finished trainings as they are.
            Purpose::Truth => format!("# stand-alone trainings of {}\n", self.truth_hash()),
            Purpose::Check => format!("# check of {}\n", self.truth_hash()),
        };
        Claim::new(&self.folder, &identity, args.fresh)
    }

    /// What `config.toml` in the run's folder says: `configuration`, and as comments what it
    /// names but does not hold, so that a space file or a dataset that changed since is noticed.
    fn identity(&self, configuration: &str) -> String {
        let [training, validation] = recorded_images(&self.data);
        format!("{}\n{training}\n{validation}\n\n{configuration}", recorded_space(&self.space))
    }

    /// The folder of a stage: its own, or one that all runs of an experiment share whose results
    /// would be the same.
    fn stage_folder(&self, stage: &str) -> PathBuf {
        match &self.stages {
            None => self.folder.join(stage),
            Some(stages) => {
                stages.join(format!("{stage}-seed{}-{}", self.config.seed, self.hash(stage)))
            }
        }
    }

    /// The weights that a stage ends with.
    fn weights_path(&self, stage: &str) -> PathBuf {
        self.stage_folder(stage).join("weights.safetensors")
    }

    /// The weights kept at a point of stage 2, from 1 to `points`.
    fn point_path(&self, point: u64) -> PathBuf {
        if point == self.points {
            return self.weights_path("ccfs");
        }
        self.stage_folder("ccfs").join(format!("weights-{point}-of-{}.safetensors", self.points))
    }

    /// Runs a training stage with a progress bar.
    fn train(&self, name: &str, steps: u64, state: &mut impl TrainState) -> Result<Outcome> {
        self.train_until(name, steps, steps, state)
    }

    /// The first `until` of a stage's `steps`; a later call goes on from there.
    fn train_until(
        &self,
        name: &str,
        steps: u64,
        until: u64,
        state: &mut impl TrainState,
    ) -> Result<Outcome> {
        let settings = StageSettings {
            name: name.to_owned(),
            config: self.hash(name),
            folder: self.stage_folder(name),
            total_steps: until,
            log_every: (steps / 200).clamp(1, 50),
            checkpoint_every: (steps / 10).clamp(1, 500),
        };
        let shown =
            if self.label.is_empty() { name.into() } else { format!("{name}, {}", self.label) };
        let bar = Bar::new(&shown, steps);
        let outcome = run_stage(&settings, state, &self.interrupt, &mut |progress| {
            if progress.done == progress.resumed + 1 {
                bar.skip(progress.resumed);
            }
            let r = progress.report;
            let message = format!("loss {:.4}  {:.0} images/s", r.loss, progress.images_per_s);
            bar.advance(1, &message);
        })?;
        bar.finish();
        Ok(outcome)
    }

    /// A hash of what decides a stage's result: seed, images, space, and the tables of this stage and
    /// of those before it.
    fn hash(&self, stage: &str) -> String {
        let config = &self.config;
        let mut text = format!("{stage}\n{}\n{}", self.images(), table(&config.teacher));
        if let ("moco" | "ccfs" | "inherit", Some(moco)) = (stage, &config.moco) {
            text += &table(moco);
        }
        if let "ccfs" | "inherit" = stage {
            text += &table(&config.ccfs);
        }
        if stage == "inherit" {
            text += &table(&config.inherit);
        }
        short_hash(&text)
    }

    /// What decides which images every stage with labels sees, and in which order.
    fn images(&self) -> String {
        format!(
            "{} {}\n{}\n{}\n{}",
            self.config.data.identity(),
            self.config.seed,
            self.space.to_toml(),
            self.data.train.describe(),
            self.data.validation.describe()
        )
    }

    /// A hash of what decides a stand-alone training, but for its code and replicate: space, images,
    /// seed and `[standalone]`; not which subnets are trained, nor how often.
    fn truth_hash(&self) -> String {
        let Standalone { steps, batch, optimizer, seeds: _, truth: _ } = &self.config.standalone;
        short_hash(&format!("{steps} {batch} {}\n{}", table(optimizer), self.images()))
    }

    /// Both sets of images, for a report.
    fn data_sources(&self) -> Vec<DataSource> {
        [("training set", &self.data.train), ("validation set", &self.data.validation)]
            .map(|(name, set)| DataSource {
                name: name.into(),
                origin: set.describe(),
                n_images: set.len() as u64,
                checksum: None,
            })
            .to_vec()
    }

    fn interrupted(&self) -> bool {
        self.interrupt.load(Ordering::Relaxed)
    }
}

/// A part of the configuration as text.
fn table(part: &impl serde::Serialize) -> String {
    toml::to_string(part).expect("every part of a configuration was read from TOML")
}

/// The first 16 hexadecimal digits of a text's hash.
fn short_hash(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex()[..16].to_owned()
}
