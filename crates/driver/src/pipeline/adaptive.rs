//! Stage 2 with methods that treat subnets and images unequally: PA&DA's importance sampling, which
//! learns from the gradients as training goes on, and dynamic supernet training.

use super::Run;
use super::supervised::{AnyError, Feed};
use crate::config::PaDa;
use anyhow::Result;
use slimtau_base::TensorFile;
use slimtau_ccfs::{ComplexityDecay, ImageImportance, MomentumGroups, PathImportance, Sampler};
use slimtau_data::Loader;
use slimtau_distill::{GradientNorms, LabelledBatch, Learner, LearnerConfig, SubnetTask, Teacher};
use slimtau_parallel::hold;
use slimtau_space::{Arch, SearchSpace};
use slimtau_supernet::{Layout, Plan, Weights};
use slimtau_train::{Schedule, ScheduleKind, StepReport, TrainState};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Where subnets and images come from.
pub enum Paths {
    /// A sampler without state, and the loader's own order.
    Sampled(Box<Sampler>, Box<Feed>),
    /// PA&DA.
    Learned(Box<Learned>),
}

/// PA&DA's state. A period is the steps between two updates of the probabilities.
pub struct Learned {
    settings: PaDa,
    paths: PathImportance,
    images: ImageImportance,
    loader: Loader,
    seed: u64,
    keep: usize,
    total: u64,
    period_steps: u64,
    /// The period whose batches the feed gives.
    period: Option<(u64, Feed)>,
    norms: GradientNorms,
    weights: Vec<f32>,
}

impl Paths {
    /// PA&DA with nothing learned yet.
    pub fn learned(run: &Run, loader: Loader, settings: PaDa) -> Self {
        let stage = &run.config.ccfs;
        let period_steps = match settings.update_steps {
            0 => loader.steps_per_epoch(),
            steps => steps,
        };
        Self::Learned(Box::new(Learned {
            paths: PathImportance::new(&run.space, settings.path_momentum),
            images: ImageImportance::new(loader.dataset().len(), settings.data_momentum),
            settings,
            loader,
            seed: run.config.seed,
            keep: stage.keep,
            total: stage.steps,
            period_steps,
            period: None,
            norms: GradientNorms::default(),
            weights: Vec::new(),
        }))
    }
}

impl Learned {
    /// Linear over the periods: the first has the first value, and one after the last the last.
    fn smoothing(&self, [first, last]: [f32; 2], period: u64) -> f32 {
        let periods = self.total.div_ceil(self.period_steps);
        first + (last - first) * (period as f64 / periods as f64) as f32
    }

    /// Whether a period's images are drawn by importance; if not, the loader's own order shows each
    /// equally often, without the noise of draws. Before the first update there is nothing to draw by.
    fn draws_images(&self, period: u64) -> bool {
        period > 0 && self.smoothing(self.settings.data_smoothing, period) > 0.0
    }

    /// Updates the probabilities where a period begins, and has the feed give its batches.
    fn begin(&mut self, step: u64) -> Result<(), AnyError> {
        let period = step / self.period_steps;
        let first = period * self.period_steps;
        if step == first && period > 0 {
            self.paths.update(self.smoothing(self.settings.path_smoothing, period));
            self.images.update(self.smoothing(self.settings.data_smoothing, period));
        }
        if self.period.as_ref().is_some_and(|(fed, _)| *fed == period) {
            return Ok(());
        }
        let end = self.total.min(first + self.period_steps);
        let loader = if self.draws_images(period) {
            let n = (end - first) as usize * self.loader.config().batch;
            self.loader.drawn(first, self.images.draw(self.seed, period, n).into())?
        } else {
            self.loader.clone()
        };
        self.period = Some((period, Feed::new(loader, end)));
        Ok(())
    }
}

/// The stage in progress.
pub struct Adaptive {
    config: LearnerConfig,
    learner: Learner,
    space: SearchSpace,
    layout: Arc<Layout>,
    schedule: Schedule,
    decay: Option<ComplexityDecay>,
    groups: Option<MomentumGroups>,
    paths: Paths,
    teacher: Teacher,
}

impl Adaptive {
    pub fn new(
        run: &Run,
        config: LearnerConfig,
        start: Weights,
        paths: Paths,
        teacher: Teacher,
    ) -> Result<Self> {
        let stage = &run.config.ccfs;
        let dynamic = stage.dynamic.as_ref();
        let groups = dynamic.map(|d| d.groups(&run.space)).transpose()?.flatten();
        let count = groups.as_ref().map_or(1, MomentumGroups::groups);
        let learner = Learner::new(config.clone(), Arc::clone(&run.layout), start);
        Ok(Self {
            config,
            learner: learner.with_momentum_groups(count),
            space: run.space.clone(),
            layout: Arc::clone(&run.layout),
            schedule: stage.optimizer.schedule(stage.steps),
            decay: dynamic
                .and_then(|d| d.max_decay)
                .map(|max_decay| ComplexityDecay::new(&run.space, max_decay)),
            groups,
            paths,
            teacher,
        })
    }

    pub fn learner(&self) -> &Learner {
        &self.learner
    }

    /// A subnet's learning rate: the stage's schedule, or the subnet's own decay after its warm-up.
    fn rate(&self, arch: &Arch, step: u64) -> f64 {
        let kind = match &self.decay {
            Some(decay) => ScheduleKind::Polynomial { power: decay.decay(arch) },
            None => self.schedule.kind,
        };
        Schedule { kind, ..self.schedule }.lr(step)
    }
}

impl TrainState for Adaptive {
    fn step(&mut self, step: u64) -> Result<StepReport, AnyError> {
        let archs = match &mut self.paths {
            Paths::Sampled(sampler, _) => sampler.draw(step),
            Paths::Learned(learned) => {
                learned.begin(step)?;
                learned.paths.draw(learned.seed, step, learned.keep)
            }
        };
        let plans = archs.iter().map(|arch| Plan::subnet(&self.space, &self.layout, arch));
        let plans = plans.collect::<Result<Vec<_>, _>>()?;
        let tasks: Vec<SubnetTask<'_>> = archs
            .iter()
            .zip(&plans)
            .map(|(arch, plan)| SubnetTask {
                plan,
                lr: self.rate(arch, step),
                group: self.groups.as_ref().map_or(0, |groups| groups.group(arch)),
            })
            .collect();
        let lr = tasks.iter().map(|task| task.lr).sum::<f64>() / tasks.len() as f64;
        let (learner, teacher) = (&mut self.learner, &mut self.teacher);
        let mut make = |batch: &slimtau_data::Batch, weights, norms: Option<&mut GradientNorms>| {
            let report = hold(|| {
                let soft_labels = Some(teacher.soft_labels(&batch.images)?);
                let (images, labels) = (&batch.images[..], &batch.labels[..]);
                let labelled = LabelledBatch { images, labels, soft_labels, weights };
                learner.step_grouped(&tasks, &labelled, norms)
            })?;
            let extra = BTreeMap::from([
                ("top1".to_owned(), report.top1),
                ("label_loss".into(), report.label_loss),
                ("teacher_loss".into(), report.teacher_loss),
            ]);
            Ok(StepReport { loss: report.loss, lr, images: batch.labels.len(), extra })
        };
        let learned = match &mut self.paths {
            Paths::Sampled(_, feed) => return feed.with(step, |batch| make(batch, None, None)),
            Paths::Learned(learned) => &mut **learned,
        };
        let weigh = learned.settings.unbiased && learned.draws_images(step / learned.period_steps);
        let Learned { paths, images, period, norms, weights, .. } = learned;
        let (_, feed) = period.as_mut().ok_or("the period has not begun")?;
        feed.with(step, |batch| {
            if weigh {
                images.weights(&batch.indices, weights);
            } else {
                weights.clear();
                weights.resize(batch.indices.len(), 1.0);
            }
            let mut report = make(batch, Some(weights), Some(norms))?;
            archs.iter().zip(&norms.subnets).for_each(|(arch, &norm)| paths.observe(arch, norm));
            images.observe(&batch.indices, &norms.images);
            let mean = norms.subnets.iter().sum::<f64>() / norms.subnets.len() as f64;
            report.extra.insert("gradient_norm".into(), mean);
            Ok(report)
        })
    }

    fn save(&self) -> Result<TensorFile, AnyError> {
        let mut file = self.learner.to_file();
        if let Paths::Learned(learned) = &self.paths {
            learned.paths.save("paths", &mut file);
            learned.images.save("images", &mut file);
        }
        Ok(file)
    }

    fn restore(&mut self, path: &Path, _step: u64, mut state: TensorFile) -> Result<(), AnyError> {
        if let Paths::Learned(learned) = &mut self.paths {
            learned.paths.restore(path, "paths", &mut state)?;
            learned.images.restore(path, "images", &mut state)?;
            learned.period = None;
        }
        let layout = Arc::clone(self.learner.layout());
        let groups = self.learner.momentum_groups();
        let learner = Learner::from_file(self.config.clone(), layout, path, state)?;
        if learner.momentum_groups() != groups {
            let found = learner.momentum_groups();
            return Err(format!("{}: {found} momentum groups, not {groups}", path.display()).into());
        }
        self.learner = learner;
        Ok(())
    }
}
