//! Training with labels as a [`TrainState`]: teacher, CCFS stage and stand-alone networks differ
//! only in where the subnets of a step come from.

use crate::engine::SupervisedTraining;
use slimtau_base::TensorFile;
use slimtau_ccfs::Sampler;
use slimtau_data::{BatchStream, Loader};
use slimtau_space::SearchSpace;
use slimtau_supernet::{Layout, Plan};
use slimtau_train::{Schedule, StepReport, TrainState};
use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

pub type AnyError = Box<dyn Error + Send + Sync>;

/// Batches by step, prefetched as long as steps follow each other.
pub struct Feed {
    loader: Loader,
    total: u64,
    stream: Option<(u64, BatchStream)>,
}

impl Feed {
    pub fn new(loader: Loader, total: u64) -> Self {
        Self { loader, total, stream: None }
    }

    /// Hands the batch of `step` to `use_batch` and recycles it.
    pub fn with<T>(
        &mut self,
        step: u64,
        use_batch: impl FnOnce(&slimtau_data::Batch) -> Result<T, AnyError>,
    ) -> Result<T, AnyError> {
        if self.stream.as_ref().is_none_or(|(next, _)| *next != step) {
            self.stream = Some((step, self.loader.stream(step, self.total)));
        }
        let batch = match &mut self.stream {
            Some((next, stream)) => {
                *next += 1;
                stream.next().ok_or("the loader ended before the stage did")??
            }
            None => return Err("the loader did not start".into()),
        };
        let out = use_batch(&batch)?;
        self.loader.recycle(batch);
        Ok(out)
    }
}

/// Where a step's subnets come from.
pub enum Subnets {
    /// Always the same one.
    Fixed(Box<Plan>),
    /// A sampler's draw.
    Sampled { space: Box<SearchSpace>, layout: Arc<Layout>, sampler: Box<Sampler> },
}

/// Supervised training in progress.
pub struct Supervised {
    pub training: Box<dyn SupervisedTraining>,
    pub feed: Feed,
    pub schedule: Schedule,
    pub subnets: Subnets,
    /// Whether a teacher teaches, too.
    pub taught: bool,
}

impl TrainState for Supervised {
    fn step(&mut self, step: u64) -> Result<StepReport, AnyError> {
        let drawn;
        let plans: &[Plan] = match &self.subnets {
            Subnets::Fixed(plan) => std::slice::from_ref(plan),
            Subnets::Sampled { space, layout, sampler } => {
                let archs = sampler.draw(step);
                let plans = archs.iter().map(|a| Plan::subnet(space, layout, a));
                drawn = plans.collect::<Result<Vec<_>, _>>()?;
                &drawn
            }
        };
        let lr = self.schedule.lr(step);
        let (training, taught) = (&mut self.training, self.taught);
        self.feed.with(step, |batch| {
            let report = training.step(lr, plans, batch)?;
            let mut extra = BTreeMap::from([("top1".to_owned(), report.top1)]);
            if taught {
                extra.insert("label_loss".into(), report.label_loss);
                extra.insert("teacher_loss".into(), report.teacher_loss);
            }
            Ok(StepReport { loss: report.loss, lr, images: batch.labels.len(), extra })
        })
    }

    fn save(&self) -> Result<TensorFile, AnyError> {
        Ok(self.training.save()?)
    }

    fn restore(&mut self, path: &Path, _step: u64, state: TensorFile) -> Result<(), AnyError> {
        Ok(self.training.restore(path, state)?)
    }
}
