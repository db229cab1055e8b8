//! Where networks are trained and evaluated: the CPU, or a GPU. Stages call the traits here, so that order of work, files and
//! resuming are written once. States are the same everywhere: a stage may go on on another device than it was stopped on.

mod cpu;
#[cfg(feature = "gpu")]
mod gpu;

#[cfg(feature = "gpu")]
pub use gpu::Card;

use crate::device_arg::DeviceArgs;
use crate::machine::cpu_model;
use anyhow::Result;
use slimtau_base::TensorFile;
use slimtau_data::Batch;
use slimtau_distill::{LearnerConfig, StepReport};
use slimtau_kernels::conv::Isa;
use slimtau_moco::{MocoConfig, MocoReport};
use slimtau_space::SearchSpace;
use slimtau_supernet::{BnMode, Layout, Plan, PrefixTree, Weights};
use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

/// What a stage's teacher is made of.
pub struct TeacherStart {
    pub plan: Plan,
    pub weights: Weights,
    pub temperature: f32,
}

/// Training with labels in progress, with a teacher or without.
pub trait SupervisedTraining: Send {
    /// One update from one batch: gradients of all plans, summed.
    fn step(&mut self, lr: f64, plans: &[Plan], batch: &Batch) -> Result<StepReport>;

    /// The weights as they stand.
    fn weights(&self) -> Result<Cow<'_, Weights>>;

    /// Everything that [`SupervisedTraining::restore`] needs.
    fn save(&self) -> Result<TensorFile>;

    /// Goes on from a state that was saved here or on another device; `path` is for messages.
    fn restore(&mut self, path: &Path, state: TensorFile) -> Result<()>;
}

/// MoCo in progress.
pub trait ContrastiveTraining: Send {
    /// One update from two views of the same images.
    fn step(
        &mut self,
        step: u64,
        lr: f64,
        temperature: f32,
        plan: &Plan,
        views: [&[f32]; 2],
    ) -> Result<MocoReport>;

    /// The query encoder without its head.
    fn encoder(&self) -> Result<Weights>;

    /// Everything that [`ContrastiveTraining::restore`] needs.
    fn save(&self) -> Result<TensorFile>;

    /// Goes on from a state that was saved here or on another device; `path` is for messages.
    fn restore(&mut self, path: &Path, state: TensorFile) -> Result<()>;
}

/// Adds a batch's right answers to a number.
pub type CountRight<'a> = Box<dyn FnMut(&Batch, &mut usize) -> Result<()> + 'a>;

/// Memory in which networks are evaluated.
pub trait Judge: Send {
    /// The subnets of a tree, with statistics that all share or that are to be measured.
    fn list<'a>(
        &'a mut self,
        weights: &'a Weights,
        tree: &'a PrefixTree,
        bn: BnMode,
    ) -> Result<Box<dyn Listed + 'a>>;

    /// One network, with the running statistics of its weights.
    fn alone<'a>(&'a mut self, weights: &'a Weights, plan: &'a Plan) -> Result<CountRight<'a>>;
}

/// Subnets that are evaluated together.
pub trait Listed {
    /// Takes images into each subnet's own statistics: before everything else, for [`BnMode::Recalibrated`].
    fn measure(&mut self, images: &[f32]) -> Result<()>;

    /// Adds a batch's right answers to each subnet's number.
    fn count(&mut self, batch: &Batch, right: &mut [usize]) -> Result<()>;
}

/// A device that is ready.
#[derive(Clone)]
pub enum Engine {
    Cpu,
    #[cfg(feature = "gpu")]
    Gpu(Card),
}

impl Engine {
    /// Opens the device that the options name.
    pub fn open(args: &DeviceArgs) -> Result<Self> {
        #[cfg(feature = "gpu")]
        if let Some(card) = Card::open(args)? {
            return Ok(Self::Gpu(card));
        }
        args.only_cpu()?;
        Ok(Self::Cpu)
    }

    /// What rounds, for results that are compared with others: on something else, rounding makes another replicate.
    pub fn arithmetic(&self) -> String {
        match self {
            Self::Cpu => Isa::best().name().to_owned(),
            #[cfg(feature = "gpu")]
            Self::Gpu(card) => card.name(),
        }
    }

    /// The machine's part that does the work, for reports.
    pub fn hardware(&self) -> String {
        match self {
            Self::Cpu => cpu_model(),
            #[cfg(feature = "gpu")]
            Self::Gpu(card) => format!("{}, {}", card.name(), cpu_model()),
        }
    }

    /// The most of a GPU's memory that was used at once, in MiB; none on the CPU.
    pub fn peak_memory_mib(&self) -> Option<f64> {
        match self {
            Self::Cpu => None,
            #[cfg(feature = "gpu")]
            Self::Gpu(card) => Some(card.gpu.peak_memory() as f64 / (1024.0 * 1024.0)),
        }
    }

    /// Whether it is the CPU.
    pub fn is_cpu(&self) -> bool {
        matches!(self, Self::Cpu)
    }

    /// Training with labels from `start`.
    pub fn supervised(
        &self,
        config: LearnerConfig,
        layout: &Arc<Layout>,
        start: Weights,
        teacher: Option<TeacherStart>,
    ) -> Result<Box<dyn SupervisedTraining>> {
        let layout = Arc::clone(layout);
        match self {
            Self::Cpu => Ok(cpu::supervised(config, layout, start, teacher)),
            #[cfg(feature = "gpu")]
            Self::Gpu(card) => card.supervised(config, layout, &start, teacher),
        }
    }

    /// MoCo from `start`.
    pub fn contrastive(
        &self,
        config: MocoConfig,
        layout: &Arc<Layout>,
        start: Weights,
    ) -> Result<Box<dyn ContrastiveTraining>> {
        let layout = Arc::clone(layout);
        match self {
            Self::Cpu => Ok(cpu::contrastive(config, layout, start)),
            #[cfg(feature = "gpu")]
            Self::Gpu(card) => card.contrastive(config, layout, start),
        }
    }

    /// Memory for evaluations of a space's networks.
    pub fn judge(&self, space: &SearchSpace) -> Box<dyn Judge> {
        match self {
            Self::Cpu => cpu::judge(space),
            #[cfg(feature = "gpu")]
            Self::Gpu(card) => card.judge(space),
        }
    }
}
