//! What every command needs that evaluates subnets of a supernet: weights, images, treatment of BN statistics.

use super::log::{Evaluation, Log};
use crate::SpaceArg;
use crate::config::Corrupt;
use crate::pipeline::{CHUNK, Evaluator, Tally, open_data};
use crate::progress::Bar;
use anyhow::{Result, ensure};
use slimtau_data::{Data, Dataset, EvalCrop};
use slimtau_kernels::conv::Isa;
use slimtau_space::{Arch, SearchSpace};
use slimtau_supernet::{BnMode, Layout, Weights};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a kill may lose, besides the batch in progress and the measurement of BN statistics.
const LOG_EVERY: Duration = Duration::from_secs(20);

/// What becomes of image files.
#[derive(clap::Args)]
pub struct Reading {
    /// Side of the centre crop in shorter sides of the resized image, for images of other sizes than the space's
    /// [default: 0.875]
    #[arg(long, value_name = "SHARE")]
    crop_fraction: Option<f32>,
    /// What happens to image files that cannot be decoded [default: fail]
    #[arg(long, value_enum)]
    corrupt: Option<Corrupt>,
}

impl Reading {
    /// The images of a source, which must fit the space.
    pub fn open(&self, source: &str, space: &SearchSpace) -> Result<Data> {
        let fraction = self.crop().crop_fraction;
        ensure!(
            (0.1..=1.0).contains(&fraction),
            "--crop-fraction {fraction}: must lie in 0.1..=1.0"
        );
        open_data(source, self.corrupt.unwrap_or_default(), space)
    }

    /// What evaluation sees of an image.
    pub fn crop(&self) -> EvalCrop {
        let crop_fraction = self.crop_fraction.unwrap_or(EvalCrop::default().crop_fraction);
        EvalCrop { crop_fraction }
    }

    /// The first of these options that was given.
    pub fn given(&self) -> Option<&'static str> {
        let options = [
            ("--crop-fraction", self.crop_fraction.is_some()),
            ("--corrupt", self.corrupt.is_some()),
        ];
        options.iter().find(|(_, given)| *given).map(|(name, _)| *name)
    }
}

/// A supernet, and how accuracies are inherited from it.
#[derive(clap::Args)]
pub struct Inherited {
    #[command(flatten)]
    space: SpaceArg,
    /// Weights of the supernet (safetensors)
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    /// `embedded`, `auto`, or a folder
    #[arg(long, default_value = "embedded", value_name = "SOURCE")]
    data: String,
    #[command(flatten)]
    reading: Reading,
    /// tracked, frozen (both: the checkpoint's statistics) or recalibrated per subnet. Take what the run's configuration has as
    /// inherit.bn, else ccfs.bn: after "recalibrated" the checkpoint's statistics fit no subnet
    #[arg(long, default_value_t = BnMode::Tracked)]
    bn: BnMode,
    /// Training batches that statistics are measured on
    #[arg(long, default_value_t = 8)]
    recalibration_batches: usize,
    /// Images per batch; memory grows with it: the maps of one batch in every block of a subnet
    #[arg(long, default_value_t = 250)]
    batch: usize,
}

/// The weights and images that [`Inherited`] names.
pub struct Supernet<'a> {
    args: &'a Inherited,
    pub space: SearchSpace,
    pub layout: Arc<Layout>,
    pub weights: Weights,
    pub data: Data,
}

impl Inherited {
    /// The space, after a look at the options: what is wrong with them is said before anything is read.
    pub fn space(&self) -> Result<SearchSpace> {
        ensure!(self.batch >= 1, "--batch 0: at least one image");
        ensure!(self.recalibration_batches >= 1, "--recalibration-batches 0: at least one");
        self.space.load()
    }

    /// Reads weights and finds the images of the space.
    pub fn open(&self, space: SearchSpace) -> Result<Supernet<'_>> {
        let layout = Layout::supernet(&space)?;
        let weights = Weights::load(&layout, &self.checkpoint)?;
        let data = self.reading.open(&self.data, &space)?;
        Ok(Supernet { args: self, space, layout, weights, data })
    }
}

impl Supernet<'_> {
    /// Evaluates on the validation images of `data`, a part of the supernet's own.
    pub fn evaluator(&self, data: &Data) -> Result<Evaluator> {
        let Inherited { bn, batch, recalibration_batches, .. } = *self.args;
        let (layout, crop) = (Arc::clone(&self.layout), self.args.reading.crop());
        Evaluator::new(&self.space, layout, data, crop, bn, batch, recalibration_batches)
    }

    /// What decides the accuracies on `data`.
    pub fn evaluation(&self, data: &Data) -> Evaluation {
        let Inherited { bn, batch, recalibration_batches, .. } = *self.args;
        let Self { space, weights, .. } = self;
        let hash = blake3::hash(space.to_toml().as_bytes()).to_hex();
        Evaluation {
            checkpoint: hash_of(weights.params.iter().chain(&weights.buffers)),
            space: format!("{}, {hash}", space.name),
            training: data.train.describe(),
            validation: described(&*data.validation, self.args.reading.crop()),
            images: data.validation.len(),
            bn: bn.to_string(),
            recalibration_batches: (bn == BnMode::Recalibrated).then_some(recalibration_batches),
            batch,
            instruction_set: Isa::best().name().to_owned(),
            latency: None,
        }
    }

    /// Evaluates the subnets that a log lacks, and writes their right answers there as they come. They go through prefix
    /// trees in the order given, which should be [`Evaluator::order`]'s.
    pub fn evaluate_missing<'a>(
        &self,
        evaluator: &mut Evaluator,
        archs: impl ExactSizeIterator<Item = &'a Arch>,
        log: &mut Log,
        bar: &Bar,
    ) -> Result<()> {
        let n = archs.len();
        let missing: Vec<(String, &Arch)> = archs
            .map(|arch| (self.space.encode(arch), arch))
            .filter(|(code, _)| log.get(code).is_none())
            .collect();
        if missing.len() < n {
            bar.skip((n - missing.len()) as u64);
        }
        for chunk in missing.chunks(CHUNK) {
            let (codes, subnets): (Vec<String>, Vec<&Arch>) = chunk.iter().cloned().unzip();
            let tally = log.tally(&codes);
            let mut written = Instant::now();
            let mut keep = |tally: &Tally| -> Result<bool> {
                if written.elapsed() >= LOG_EVERY && tally.batches > 0 {
                    log.add_tally(&codes, tally)?;
                    written = Instant::now();
                }
                Ok(true)
            };
            let right = evaluator.count_right(&self.weights, &subnets, tally, bar, &mut keep)?;
            log.add(&codes, &right.expect("it is never told to stop"))?;
        }
        Ok(())
    }
}

/// The validation images and how they are cropped; an unusual crop alone needs words.
fn described(validation: &dyn Dataset, crop: EvalCrop) -> String {
    let text = validation.describe();
    if crop == EvalCrop::default() {
        return text;
    }
    format!("{text}, crop fraction {}", crop.crop_fraction)
}

/// A hash of numbers.
fn hash_of<'a>(values: impl Iterator<Item = &'a f32>) -> String {
    let mut hasher = blake3::Hasher::new();
    values.for_each(|value| {
        hasher.update(&value.to_le_bytes());
    });
    hasher.finalize().to_hex().to_string()
}
