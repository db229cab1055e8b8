//! Stages 0 to 2: teacher, MoCo, CCFS with distillation.

use super::Run;
use super::adaptive::{Adaptive, Paths};
use super::supervised::{AnyError, Feed, Subnets, Supervised};
use crate::config::Optimizer;
use crate::engine::{ContrastiveTraining, TeacherStart};
use crate::weights;
use anyhow::{Context, Result};
use slimtau_base::TensorFile;
use slimtau_ccfs::{Sampler, SamplerKind};
use slimtau_data::{Dataset, Loader, LoaderConfig, MocoViews, Normalization, Order, Pipeline};
use slimtau_distill::{LearnerConfig, Teacher};
use slimtau_moco::MocoConfig;
use slimtau_supernet::{BnMode, Plan, Weights};
use slimtau_train::{Outcome, Schedule, StepReport, TrainState};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// The normalisation of a dataset: published constants where there are such, else measured.
pub fn normalization(train: &dyn Dataset) -> Result<Normalization> {
    match train.channels() {
        1 if of_fashion_mnist(&train.describe()) => Ok(Normalization::fashion_mnist()),
        3 => Ok(Normalization::imagenet()),
        _ => Ok(Normalization::measure(train, 10_000)?),
    }
}

/// Whether images are Fashion-MNIST's own: images composed of them have another mean.
fn of_fashion_mnist(description: &str) -> bool {
    description.contains("Fashion-MNIST") && !description.contains("composed images (")
}

/// A training loader; `seed` decides order and augmentation. `on_cpu`: whether training takes the threads, too.
pub fn train_loader(run: &Run, on_cpu: bool, batch: usize, seed: u64) -> Result<Loader> {
    let (train, data) = (&run.data.train, &run.config.data);
    let config = LoaderConfig::train(data.training(), normalization(&**train)?, batch, seed);
    let workers = data.training_workers(&**train, on_cpu);
    Ok(Loader::new(Arc::clone(train), LoaderConfig { workers, ..config })?)
}

/// Settings of training with labels.
pub fn learner_config(optimizer: &Optimizer, bn: BnMode, bn_momentum: f32) -> LearnerConfig {
    LearnerConfig { sgd: optimizer.sgd(), bn, bn_momentum, label_weight: 1.0, teacher_weight: 1.0 }
}

/// Refuses `teacher.weights` that cannot be used, where stage 0 is still to use them.
pub fn check_given(run: &Run, fresh: bool) -> Result<()> {
    if let Some(given) = &run.config.teacher.weights
        && (fresh || !run.weights_path("teacher").is_file())
    {
        given_weights(run, given)?;
    }
    Ok(())
}

fn given_weights(run: &Run, path: &Path) -> Result<Weights> {
    let imported = weights::import(&run.layout, path, "space", &run.space);
    Ok(imported.context("teacher.weights")?.weights)
}

/// Stage 0: the largest network with labels.
pub fn teacher(run: &Run) -> Result<Outcome> {
    let (config, layout) = (&run.config, &run.layout);
    let path = run.weights_path("teacher");
    if path.is_file() {
        return Ok(Outcome::Finished);
    }
    if let Some(given) = &config.teacher.weights {
        given_weights(run, given)?.save(layout, &path)?;
        return Ok(Outcome::Finished);
    }
    let stage = &config.teacher;
    let loader = train_loader(run, run.engine.is_cpu(), stage.batch, config.seed)?;
    let settings = learner_config(&stage.optimizer, BnMode::Tracked, 0.1);
    let plan = Plan::subnet(&run.space, layout, &run.space.largest())?;
    let start = Weights::init(layout, config.seed);
    let mut state = Supervised {
        training: run.engine.supervised(settings, layout, start, None)?,
        feed: Feed::new(loader, stage.steps),
        schedule: stage.optimizer.schedule(stage.steps),
        subnets: Subnets::Fixed(Box::new(plan)),
        taught: false,
    };
    let outcome = run.train("teacher", stage.steps, &mut state)?;
    if outcome == Outcome::Finished {
        state.training.weights()?.save(layout, &path)?;
    }
    Ok(outcome)
}

/// Stage 1: MoCo on the largest network, from the teacher's weights.
pub fn moco(run: &Run) -> Result<Outcome> {
    let (config, layout) = (&run.config, &run.layout);
    let path = run.weights_path("moco");
    let Some(stage) = &config.moco else { return Ok(Outcome::Finished) };
    if path.is_file() {
        return Ok(Outcome::Finished);
    }
    let views = MocoViews { scale: (stage.min_scale, 1.0), ..MocoViews::default() };
    let normalization = normalization(&*run.data.train)?;
    let loader = LoaderConfig {
        workers: config.data.training_workers(&*run.data.train, run.engine.is_cpu()),
        order: if stage.shuffle { Order::Shuffled } else { Order::Sequential },
        ..LoaderConfig::train(Pipeline::TwoViews(views), normalization, stage.batch, config.seed)
    };
    let loader = Loader::new(Arc::clone(&run.data.train), loader)?;
    let settings = MocoConfig {
        queue: stage.queue,
        dim: stage.dim,
        key_momentum: stage.key_momentum,
        key_updates: stage.key_updates,
        key_groups: stage.key_groups,
        bn: stage.bn.into(),
        bn_momentum: stage.bn_momentum,
        sgd: stage.optimizer.sgd(),
        seed: config.seed,
    };
    let start = Weights::load(layout, &run.weights_path("teacher"))?;
    let mut state = Contrastive {
        training: run.engine.contrastive(settings, layout, start)?,
        feed: Feed::new(loader, stage.steps),
        schedule: stage.optimizer.schedule(stage.steps),
        temperature: stage.temperature,
        steps: stage.steps,
        plan: Plan::subnet(&run.space, layout, &run.space.largest())?,
    };
    let outcome = run.train("moco", stage.steps, &mut state)?;
    if outcome == Outcome::Finished {
        state.training.encoder()?.save(layout, &path)?;
    }
    Ok(outcome)
}

/// Stage 2: K subnets per batch with labels and the teacher.
pub fn ccfs(run: &Run) -> Result<Outcome> {
    let (config, layout) = (&run.config, &run.layout);
    if run.weights_path("ccfs").is_file() {
        let kept = (1..=run.points).all(|point| run.point_path(point).is_file());
        anyhow::ensure!(
            kept,
            "{}: was trained without {} points; delete it to train it again, or set experiment.points back",
            run.stage_folder("ccfs").display(),
            run.points
        );
        return Ok(Outcome::Finished);
    }
    let stage = &config.ccfs;
    let kind: SamplerKind = stage.sampler.parse().context("ccfs.sampler")?;
    let teacher = Weights::load(layout, &run.weights_path("teacher"))?;
    let start = match &config.moco {
        Some(_) => Weights::load(layout, &run.weights_path("moco"))?,
        None => teacher.clone(),
    };
    let largest = Plan::subnet(&run.space, layout, &run.space.largest())?;
    let adapts = stage.adapts()?;
    // Another seed than stage 0's: the stages see the images in another order.
    let on_cpu = adapts || run.engine.is_cpu();
    let loader = train_loader(run, on_cpu, stage.batch, config.seed + 1)?;
    let settings = LearnerConfig {
        label_weight: stage.label_weight,
        teacher_weight: stage.teacher_weight,
        ..learner_config(&stage.optimizer, stage.bn.into(), stage.bn_momentum)
    };
    let sampler = Sampler::new(&run.space, kind, stage.candidates, stage.keep, config.seed)
        .with_last_candidates(stage.last_candidates.unwrap_or(stage.candidates))
        .with_total_steps(stage.steps);
    let learns = kind == SamplerKind::PaDa;
    if adapts {
        if !run.engine.is_cpu() {
            eprintln!(
                "stage 2 with PA&DA or dynamic training: the CPU does it, whatever --device says"
            );
        }
        let teacher = Teacher::new(largest, teacher, stage.temperature);
        let paths = if learns {
            Paths::learned(run, loader, stage.pa_da.clone().unwrap_or_default())
        } else {
            let feed = Feed::new(loader, stage.steps);
            Paths::Sampled(Box::new(sampler), Box::new(feed))
        };
        let mut state = Adaptive::new(run, settings, start, paths, teacher)?;
        return to_points(run, &mut state, |state| Ok(Cow::Borrowed(state.learner().weights())));
    }
    let teacher = TeacherStart { plan: largest, weights: teacher, temperature: stage.temperature };
    let mut state = Supervised {
        training: run.engine.supervised(settings, layout, start, Some(teacher))?,
        feed: Feed::new(loader, stage.steps),
        schedule: stage.optimizer.schedule(stage.steps),
        subnets: Subnets::Sampled {
            space: Box::new(run.space.clone()),
            layout: Arc::clone(layout),
            sampler: Box::new(sampler),
        },
        taught: true,
    };
    to_points(run, &mut state, |state| state.training.weights())
}

/// Trains stage 2 from point to point, and keeps the weights of each.
fn to_points<S: TrainState>(
    run: &Run,
    state: &mut S,
    weights: impl Fn(&S) -> Result<Cow<'_, Weights>>,
) -> Result<Outcome> {
    let steps = run.config.ccfs.steps;
    for point in 1..=run.points {
        let path = run.point_path(point);
        if path.is_file() {
            continue;
        }
        let outcome = run.train_until("ccfs", steps, steps * point / run.points, state)?;
        if outcome != Outcome::Finished {
            return Ok(outcome);
        }
        weights(state)?.save(&run.layout, &path)?;
    }
    Ok(Outcome::Finished)
}

/// MoCo in progress.
struct Contrastive {
    training: Box<dyn ContrastiveTraining>,
    feed: Feed,
    schedule: Schedule,
    temperature: [f32; 2],
    steps: u64,
    plan: Plan,
}

impl Contrastive {
    /// Falls geometrically from the first temperature to the last.
    fn temperature(&self, step: u64) -> f32 {
        let done = step as f32 / self.steps.saturating_sub(1).max(1) as f32;
        let [first, last] = self.temperature;
        first * (last / first).powf(done)
    }
}

impl TrainState for Contrastive {
    fn step(&mut self, step: u64) -> Result<StepReport, AnyError> {
        let (lr, temperature) = (self.schedule.lr(step), self.temperature(step));
        let Self { training, feed, plan, .. } = self;
        feed.with(step, |batch| {
            let second = batch.second.as_deref().ok_or("the loader made no second view")?;
            let views = [&batch.images[..], second];
            let report = training.step(step, lr, temperature, plan, views)?;
            let extra = BTreeMap::from([
                ("top1".to_owned(), report.top1),
                ("temperature".to_owned(), f64::from(temperature)),
            ]);
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
