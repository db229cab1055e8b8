//! What every command needs that evaluates subnets of a supernet: weights, images, treatment of BN statistics.

use crate::SpaceArg;
use crate::config::Corrupt;
use crate::pipeline::{Evaluation, Evaluator, Log, open_data};
use crate::progress::Bar;
use anyhow::{Result, ensure};
use slimtau_data::{Data, EvalCrop};
use slimtau_space::{Arch, SearchSpace};
use slimtau_supernet::{BnMode, Layout, Weights};
use std::path::PathBuf;
use std::sync::Arc;

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
        let crop = self.args.reading.crop();
        Evaluation::new(space, weights, data, crop, bn, batch, recalibration_batches)
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
