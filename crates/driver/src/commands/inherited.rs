//! What every command needs that evaluates subnets of a supernet: weights, images, treatment of BN statistics.

use crate::config::{Config, Corrupt, CropFraction, Data as DataTable};
use crate::device_arg::DeviceArgs;
use crate::engine::Engine;
use crate::pipeline::{
    EvalSettings, Evaluation, Evaluator, Log, calibration, check_recorded, open_run_data,
    recorded_images, recorded_space,
};
use crate::progress::Bar;
use crate::weights::{self, Of};
use anyhow::{Context, Result, anyhow, bail, ensure};
use slimtau_base::read_text;
use slimtau_data::Data;
use slimtau_space::{Arch, SearchSpace};
use slimtau_supernet::{BnMode, Layout, Plan, Session, Weights, recalibrate};
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A space, its images, and how subnets are evaluated on them.
#[derive(clap::Args)]
pub struct SettingArgs {
    /// Space, images and treatment of BN statistics of this run's stage 3: its configuration, or runs/NAME/config.toml. Beside it,
    /// --space only says where the space's file lies and --data stands for data.source; other options that disagree are refused
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The method of --config's experiment whose tables count
    #[arg(long, value_name = "NAME", requires = "config")]
    method: Option<String>,
    /// `cvpr2022`, `mini`, `tiny`, or a space file
    #[arg(long, value_name = "SPACE", required_unless_present = "config")]
    space: Option<String>,
    /// `embedded`, `auto`, or a folder [default: embedded]
    #[arg(long, value_name = "SOURCE")]
    data: Option<String>,
    /// Side of the centre crop in shorter sides of the resized image, for images of other sizes than the space's
    /// [default: 0.875]
    #[arg(long, value_name = "SHARE")]
    crop_fraction: Option<f32>,
    /// What happens to image files that cannot be decoded [default: fail]
    #[arg(long, value_enum)]
    corrupt: Option<Corrupt>,
    /// tracked, frozen (both: the checkpoint's statistics) or recalibrated per subnet: after a stage 2 with bn = "recalibrated" the
    /// checkpoint's statistics fit no subnet [default: tracked]
    #[arg(long)]
    bn: Option<BnMode>,
    /// Training batches that statistics are measured on [default: 8]
    #[arg(long, value_name = "N")]
    recalibration_batches: Option<usize>,
    /// Images per batch; memory grows with it: the maps of one batch in every block of a subnet [default: 250]
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Threads that load images; 0 = one per core, at most 8. Results do not depend on it [default: data.workers of --config, or 0]
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
}

/// What [`SettingArgs`] and the configuration that they may name come to.
pub struct Setting {
    pub space: SearchSpace,
    pub settings: EvalSettings,
    data: DataTable,
    /// Path and text of the configuration, where the images must be the run's.
    config: Option<(PathBuf, String)>,
}

impl SettingArgs {
    /// Looks at options and configuration: what is wrong with them is said before anything else is read. A configuration
    /// does not say how BN of a network trained alone (`standalone`) is treated: the option does.
    pub fn resolve(&self, standalone: bool) -> Result<Setting> {
        ensure!(self.batch != Some(0), "--batch 0: at least one image");
        ensure!(self.recalibration_batches != Some(0), "--recalibration-batches 0: at least one");
        if let Some(fraction) = self.crop_fraction {
            ensure!(
                (0.1..=1.0).contains(&fraction),
                "--crop-fraction {fraction}: must lie in 0.1..=1.0"
            );
        }
        if let Some(path) = &self.config {
            return self.of_run(path, standalone);
        }
        let mut data = DataTable::of_source(self.data.as_deref().unwrap_or("embedded"));
        data.corrupt = self.corrupt.unwrap_or_default();
        data.crop_fraction = self.crop_fraction.map_or_else(Default::default, CropFraction);
        data.with_workers(self.workers)?;
        let settings = EvalSettings {
            crop: data.evaluation(),
            bn: self.bn.unwrap_or(BnMode::Tracked),
            batch: self.batch.unwrap_or(250),
            recalibration_batches: self.recalibration_batches.unwrap_or(8),
            workers: data.workers,
        };
        let space = self.space.as_deref().context("--space or --config is needed")?;
        Ok(Setting { space: SearchSpace::load(space)?, settings, data, config: None })
    }

    /// What a run's stage 3 has, after a look at the other options.
    fn of_run(&self, path: &Path, standalone: bool) -> Result<Setting> {
        let shown = path.display();
        let (text, mut config) = read_configuration(path)?;
        if let Some(name) = &self.method {
            let method = config.methods.iter().find(|method| method.name == *name);
            let method = method.with_context(|| format!("--method {name}: {shown} has no such"))?;
            config = config.of_method(method)?;
        }
        ensure!(
            config.methods.is_empty(),
            "{shown}: is an experiment of {} methods; --method says which, such as {:?}",
            config.methods.len(),
            config.methods[0].name
        );
        let space = space_of_run(self.space.as_deref(), path, &text, &config)?;
        config.data.with_workers(self.workers)?;
        let mut settings = EvalSettings::of_run(&config);
        if standalone {
            settings.bn = self.bn.unwrap_or(BnMode::Tracked);
        }
        agree("--bn", self.bn, settings.bn, path)?;
        agree("--batch", self.batch, settings.batch, path)?;
        agree(
            "--recalibration-batches",
            self.recalibration_batches,
            settings.recalibration_batches,
            path,
        )?;
        agree("--crop-fraction", self.crop_fraction, settings.crop.crop_fraction, path)?;
        agree("--corrupt", self.corrupt, config.data.corrupt, path)?;
        let mut data = config.data;
        if let Some(source) = &self.data {
            data.source.clone_from(source);
        }
        let config = self.data.is_none().then(|| (path.to_owned(), text));
        Ok(Setting { space, settings, data, config })
    }

    /// Refuses options on images where none are looked at: statistics of BN alone are measured on them.
    pub fn check_for_statistics(&self, bn: BnMode) -> Result<()> {
        match self.given_for_images() {
            Some(option) if bn != BnMode::Recalibrated => {
                bail!("{option}: needs --bn recalibrated; --bn {bn} looks at no images")
            }
            _ => Ok(()),
        }
    }

    /// The first option that was given of those that only images need.
    fn given_for_images(&self) -> Option<&'static str> {
        let options = [
            ("--data", self.data.is_some()),
            ("--recalibration-batches", self.recalibration_batches.is_some()),
            ("--batch", self.batch.is_some()),
            ("--crop-fraction", self.crop_fraction.is_some()),
            ("--corrupt", self.corrupt.is_some()),
            ("--workers", self.workers.is_some()),
        ];
        options.iter().find(|(_, given)| *given).map(|(name, _)| *name)
    }
}

/// A configuration that a command is to go by, with its text.
fn read_configuration(path: &Path) -> Result<(String, Config)> {
    let text = read_text(path)?;
    ensure!(
        text.lines().any(|line| !line.is_empty() && !line.starts_with('#')),
        "{}: holds no configuration; of an experiment, give the file that it was started with",
        path.display()
    );
    let config = Config::parse(&text, path)?;
    Ok((text, config))
}

/// The space of a configuration, which `given` may say where to find, and which must be that of the run where the
/// configuration is a run's.
fn space_of_run(
    given: Option<&str>,
    path: &Path,
    text: &str,
    config: &Config,
) -> Result<SearchSpace> {
    let shown = path.display();
    let own = config.search_space(path.parent().unwrap_or(Path::new(".")));
    let space = match (given, own) {
        (None, own) => own.with_context(|| {
            format!("{shown}: space = {:?}; --space says where its file lies", config.space)
        })?,
        (Some(given), own) => {
            let space = SearchSpace::load(given)?;
            if own.is_ok_and(|own| own != space) {
                bail!("--space {given}: is not the space {:?} of {shown}", config.space);
            }
            space
        }
    };
    check_recorded(text, 0, &recorded_space(&space)).with_context(|| shown.to_string())?;
    Ok(space)
}

/// A space: a run's, or by itself.
#[derive(clap::Args)]
pub struct SpaceOfRun {
    /// The space of this run: its configuration (of an experiment, too: its methods share one space), or runs/NAME/config.toml.
    /// Beside it, --space only says where the space's file lies
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// `cvpr2022`, `mini`, `tiny`, or a space file
    #[arg(long, value_name = "SPACE", required_unless_present = "config")]
    space: Option<String>,
}

impl SpaceOfRun {
    pub fn load(&self) -> Result<SearchSpace> {
        let given = self.space.as_deref();
        match &self.config {
            Some(path) => {
                let (text, config) = read_configuration(path)?;
                space_of_run(given, path, &text, &config)
            }
            None => Ok(SearchSpace::load(given.context("--space or --config is needed")?)?),
        }
    }
}

/// Refuses an option that says something else than the configuration.
fn agree<T: PartialEq + Display>(
    option: &str,
    given: Option<T>,
    own: T,
    config: &Path,
) -> Result<()> {
    match given {
        Some(given) if given != own => {
            Err(anyhow!("{option} {given}: the configuration {} has {own}", config.display()))
        }
        _ => Ok(()),
    }
}

impl Setting {
    /// The images, which must fit the space and be those that the run had.
    pub fn open_data(&self) -> Result<Data> {
        let data = open_run_data(&self.data, &self.space)?;
        if let Some((path, text)) = &self.config {
            for (i, now) in (1..).zip(recorded_images(&data)) {
                check_recorded(text, i, &now).with_context(|| path.display().to_string())?;
            }
        }
        Ok(data)
    }

    /// Where BN is recalibrated, measures a subnet's own statistics and puts them into the weights. Says which the weights
    /// have then.
    pub fn give_statistics(&self, plan: &Plan, weights: &mut Weights) -> Result<String> {
        if self.settings.bn != BnMode::Recalibrated {
            return Ok("the checkpoint's".to_owned());
        }
        let images = calibration(&self.open_data()?, self.settings)?;
        let Weights { params, buffers } = weights;
        let each = images.iter().map(Vec::as_slice);
        recalibrate(&mut Session::new(), plan, params, buffers, each)?;
        let values: usize = images.iter().map(Vec::len).sum();
        let n = values / plan.image_len();
        // Not which images: a source's description may name a folder, and this text goes wherever the file goes.
        Ok(format!("measured on {n} training images ({} batches)", images.len()))
    }
}

/// A supernet, and how accuracies are inherited from it.
#[derive(clap::Args)]
pub struct Inherited {
    #[command(flatten)]
    setting: SettingArgs,
    /// Weights of the supernet (safetensors)
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    #[command(flatten)]
    device: DeviceArgs,
}

/// The weights and images that [`Inherited`] names.
pub struct Supernet {
    pub space: SearchSpace,
    pub layout: Arc<Layout>,
    pub weights: Weights,
    pub data: Data,
    settings: EvalSettings,
    engine: Engine,
}

impl Inherited {
    /// Whether the CPU evaluates.
    pub fn on_cpu(&self) -> bool {
        self.device.is_cpu()
    }

    /// [`SettingArgs::resolve`].
    pub fn resolve(&self) -> Result<Setting> {
        self.setting.resolve(false)
    }

    /// Reads weights and finds the images of the space.
    pub fn open(&self, setting: Setting) -> Result<Supernet> {
        let engine = Engine::open(&self.device)?;
        let layout = Layout::supernet(&setting.space)?;
        let weights = weights::load(&layout, &self.checkpoint, Of::Supernet(&setting.space))?;
        let data = setting.open_data()?;
        let Setting { space, settings, .. } = setting;
        Ok(Supernet { space, layout, weights, data, settings, engine })
    }
}

impl Supernet {
    /// Evaluates on the validation images of `data`, a part of the supernet's own.
    pub fn evaluator(&self, data: &Data) -> Result<Evaluator> {
        Evaluator::new(&self.space, Arc::clone(&self.layout), data, self.settings, &self.engine)
    }

    /// What decides the accuracies on `data`.
    pub fn evaluation(&self, data: &Data) -> Evaluation {
        Evaluation::new(&self.space, &self.weights, data, self.settings, &self.engine)
    }

    /// [`Evaluator::evaluate_missing`], to the end.
    pub fn evaluate_missing<'a>(
        &self,
        evaluator: &mut Evaluator,
        archs: impl ExactSizeIterator<Item = &'a Arch>,
        log: &mut Log,
        bar: &Bar,
    ) -> Result<()> {
        evaluator.evaluate_missing(&self.weights, archs, log, bar, &|| false)?;
        Ok(())
    }
}
