//! The method from images to a Kendall tau: which stages, in which order, in which files.
//!
//! A run's folder holds `config.toml` (as used), one folder per stage with its checkpoint, log and
//! weights, `subnets.txt`, `inherited.json`, `standalone/results.json`, `truth.csv`, and the report. Every
//! file is written atomically and a stage whose result is there is not run again, so the same
//! command always goes on where the last one stopped.

mod adaptive;
mod inherit;
mod results;
mod stages;
mod standalone;
mod summary;
mod supervised;

pub use inherit::Evaluator;

use crate::Ended;
use crate::config::Config;
use crate::progress::Bar;
use anyhow::{Context, Result, bail};
use slimtau_base::{read_text, write_atomic};
use slimtau_data::{Data, Source, Subset};
use slimtau_space::SearchSpace;
use slimtau_supernet::Layout;
use slimtau_train::{Outcome, StageSettings, TrainState, clean_temporaries, run_stage};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
    /// Delete what an earlier run left there instead of going on with it
    #[arg(long)]
    fresh: bool,
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
    interrupt: Arc<AtomicBool>,
}

/// Runs the stages up to `until` (all of them for `None`); `Standalone` needs none before it.
pub fn run(args: &RunArgs, until: Option<Stage>) -> Result<Ended> {
    let run = Run::open(args)?;
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
            Stage::Standalone => standalone::stage(&run)?,
            Stage::Report => {
                summary::stage(&run)?;
                Outcome::Finished
            }
        };
        if let Outcome::Interrupted { step } = outcome {
            let words: Vec<String> = std::env::args().filter(|a| a != "--fresh").collect();
            eprintln!(
                "stopped in stage {stage:?} after step {step}; all of it is saved. Go on with:\n  {}",
                words.join(" ")
            );
            return Ok(Ended::Interrupted);
        }
    }
    Ok(Ended::Done)
}

impl Run {
    fn open(args: &RunArgs) -> Result<Self> {
        let mut config = Config::load(&args.config)?;
        if let Some(source) = &args.data {
            config.data.source.clone_from(source);
        }
        let config_folder = args.config.parent().unwrap_or(Path::new("."));
        let space = config
            .search_space(config_folder)
            .with_context(|| format!("{}: space", args.config.display()))?;
        if let Some(dynamic) = &config.ccfs.dynamic {
            // A wrong split is found now, not after the teacher is trained.
            dynamic.groups(&space).with_context(|| args.config.display().to_string())?;
        }
        let layout = Layout::supernet(&space)?;
        for path in [&mut config.teacher.weights, &mut config.subnets.codes].into_iter().flatten() {
            *path = config_folder.join(&*path);
        }
        let data = open_data(&config.data.source, &space)?;
        let data = Data {
            train: first(data.train, config.data.train_images)?,
            validation: first(data.validation, config.data.validation_images)?,
        };
        let folder = args.out.clone().unwrap_or_else(|| Path::new("runs").join(&config.name));
        let config_toml = toml::to_string(&config).context("the configuration as TOML")?;
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
        let run = Self { config, config_toml, space, layout, data, folder, interrupt };
        // A wrong code is found now, not after the supernet is trained.
        results::subnets(&run)?;
        if args.fresh
            && args.config.canonicalize().ok() == run.folder.join("config.toml").canonicalize().ok()
        {
            bail!("{}: --fresh would delete it with its folder", args.config.display());
        }
        claim(&run.folder, &run.identity(), args.fresh)?;
        Ok(run)
    }

    /// What `config.toml` in the run's folder says: the configuration, and as comments what it
    /// names but does not hold, so that a space file or a dataset that changed since is noticed.
    fn identity(&self) -> String {
        let space = blake3::hash(self.space.to_toml().as_bytes()).to_hex();
        format!(
            "# space {}: {}\n# training: {}\n# validation: {}\n\n{}",
            self.space.name,
            &space[..16],
            self.data.train.describe(),
            self.data.validation.describe(),
            self.config_toml
        )
    }

    /// The folder of a stage.
    fn stage_folder(&self, stage: &str) -> PathBuf {
        self.folder.join(stage)
    }

    /// The weights that a stage ends with.
    fn weights_path(&self, stage: &str) -> PathBuf {
        self.folder.join(stage).join("weights.safetensors")
    }

    /// Runs a training stage with a progress bar.
    fn train(&self, name: &str, steps: u64, state: &mut impl TrainState) -> Result<Outcome> {
        let settings = StageSettings {
            name: name.to_owned(),
            config: self.hash(name),
            folder: self.stage_folder(name),
            total_steps: steps,
            log_every: (steps / 200).clamp(1, 50),
            checkpoint_every: (steps / 10).clamp(1, 500),
        };
        let bar = Bar::new(name, steps);
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

    /// A hash of what decides a stage's result: the whole configuration but its name, the data and
    /// the space, since later stages depend on earlier ones.
    fn hash(&self, stage: &str) -> String {
        let mut config = self.config.clone();
        config.name.clear();
        let text = format!(
            "{stage}\n{}\n{}\n{}\n{}",
            toml::to_string(&config).unwrap_or_default(),
            self.space.to_toml(),
            self.data.train.describe(),
            self.data.validation.describe()
        );
        blake3::hash(text.as_bytes()).to_hex()[..16].to_owned()
    }

    fn interrupted(&self) -> bool {
        self.interrupt.load(Ordering::Relaxed)
    }
}

/// Makes the folder this configuration's own: a new one, one of the same configuration, or, with
/// `fresh`, one of another run that is then emptied.
fn claim(folder: &Path, config_toml: &str, fresh: bool) -> Result<()> {
    let marker = folder.join("config.toml");
    if folder.exists() && !folder.is_dir() {
        bail!("{}: is a file, not a folder; name another with --out", folder.display());
    }
    if marker.is_file() {
        if fresh {
            if let Some(name) = std::fs::read_dir(folder)?
                .flatten()
                .map(|e| e.file_name())
                .find(|n| !is_of_a_run(n))
            {
                bail!(
                    "{}: holds {}, which no run has made; --fresh deletes only what runs leave",
                    folder.display(),
                    name.display()
                );
            }
            std::fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
        } else if read_text(&marker)? != config_toml {
            bail!(
                "{}: is of another configuration, space or dataset (see its config.toml); --fresh deletes it, --out names another folder",
                folder.display()
            );
        }
    } else if folder.is_dir() {
        // A run that was killed at once leaves no more than its temporary marker.
        let foreign =
            |name: &std::ffi::OsStr| !name.as_encoded_bytes().starts_with(b".config.toml.");
        if std::fs::read_dir(folder)?.flatten().any(|entry| foreign(&entry.file_name())) {
            let shown = folder.display();
            bail!("{shown}: is not empty and not a run's folder; name another with --out");
        }
    }
    if !marker.is_file() {
        write_atomic(&marker, |out| out.write_all(config_toml.as_bytes()))?;
    }
    clean_temporaries(folder);
    for entry in std::fs::read_dir(folder)?.flatten() {
        clean_temporaries(&entry.path());
    }
    Ok(())
}

/// Whether a run makes a file or folder of this name in its own.
fn is_of_a_run(name: &std::ffi::OsStr) -> bool {
    const NAMES: [&str; 11] = [
        "config.toml",
        "teacher",
        "moco",
        "ccfs",
        "inherited.json",
        "standalone",
        "truth.csv",
        "seconds.json",
        "report.json",
        "report.html",
        "subnets.txt",
    ];
    let name = name.to_string_lossy();
    NAMES.contains(&&*name) || NAMES.iter().any(|n| name.starts_with(&format!(".{n}.")))
}

/// Opens a source by name: `embedded`, `auto`, `kind:FOLDER`, or a folder whose kind its files tell.
pub fn open_data(source: &str, space: &SearchSpace) -> Result<Data> {
    let folder = Path::new(source);
    let source: Source = if folder.is_dir() {
        if folder.join("train").is_dir() {
            let (size, channels) = (space.image_size, space.channels);
            Source::ImageFolder { folder: folder.into(), size, channels }
        } else {
            Source::IdxFolder(folder.into())
        }
    } else if source.contains(['/', '\\']) && !source.contains(':') {
        bail!("data source {source}: no such folder");
    } else {
        source.parse()?
    };
    let data = slimtau_data::open(&source)?;
    for (part, set) in [("training", &data.train), ("validation", &data.validation)] {
        let got = (set.size(), set.channels());
        let needed = (space.image_size, space.channels);
        if got != needed || set.classes() > space.classes {
            bail!(
                "space {} takes {}x{}x{} images of {} classes, the {part} set has {}x{}x{} of {}: {}",
                space.name,
                needed.0,
                needed.0,
                needed.1,
                space.classes,
                got.0,
                got.0,
                got.1,
                set.classes(),
                set.describe()
            );
        }
    }
    Ok(data)
}

/// The first `n` images of a set; all of them for 0.
fn first(set: Arc<dyn slimtau_data::Dataset>, n: usize) -> Result<Arc<dyn slimtau_data::Dataset>> {
    if n == 0 || n == set.len() {
        return Ok(set);
    }
    if n > set.len() {
        bail!("data: {n} images asked for, {} has {}", set.describe(), set.len());
    }
    let indices = (0..n as u32).collect();
    Ok(Arc::new(Subset::new(set, indices, format!("the first {n}"))?))
}
