//! Stage 3: the accuracy that a subnet inherits from the supernet.

use super::Run;
use super::results::subnets;
use super::stages::normalization;
use crate::progress::Bar;
use anyhow::Result;
use slimtau_data::{Data, Loader, LoaderConfig};
use slimtau_ranking::{Score, write_competition_json};
use slimtau_space::{Arch, SearchSpace};
use slimtau_supernet::{BnMode, Layout, Plan, Session, Weights, argmax, recalibrate};
use slimtau_train::Outcome;
use std::sync::Arc;

/// Measures top-1 accuracies on a validation set that it keeps in memory.
pub struct Evaluator {
    space: SearchSpace,
    layout: Arc<Layout>,
    bn: BnMode,
    validation: Vec<(Vec<f32>, Vec<u32>)>,
    calibration: Vec<Vec<f32>>,
    session: Session,
}

impl Evaluator {
    /// Loads the validation set, and for [`BnMode::Recalibrated`] `calibration_batches` batches of
    /// training images (always the same, without augmentation).
    pub fn new(
        space: &SearchSpace,
        layout: Arc<Layout>,
        data: &Data,
        bn: BnMode,
        batch: usize,
        calibration_batches: usize,
    ) -> Result<Self> {
        let normalization = normalization(&*data.train)?;
        let config = LoaderConfig::eval(normalization, batch);
        let load = |set: &Arc<dyn slimtau_data::Dataset>, most: u64| {
            let loader = Loader::new(Arc::clone(set), config.clone())?;
            let steps = loader.steps_per_epoch().min(most);
            loader.stream(0, steps).collect::<Result<Vec<_>, _>>()
        };
        let validation = load(&data.validation, u64::MAX)?;
        let wanted = if bn == BnMode::Recalibrated { calibration_batches } else { 0 };
        let calibration = load(&data.train, wanted as u64)?;
        Ok(Self {
            space: space.clone(),
            layout,
            bn,
            validation: validation.into_iter().map(|b| (b.images, b.labels)).collect(),
            calibration: calibration.into_iter().map(|b| b.images).collect(),
            session: Session::new(),
        })
    }

    /// With the run's treatment of BN statistics in evaluation, on `data`.
    pub fn of_run(run: &Run, data: &Data) -> Result<Self> {
        let config = &run.config;
        Self::new(
            &run.space,
            Arc::clone(&run.layout),
            data,
            config.inherit.bn.unwrap_or(config.ccfs.bn).into(),
            config.inherit.batch,
            config.inherit.recalibration_batches,
        )
    }

    /// Top-1 accuracy of a subnet in percent.
    pub fn accuracy(&mut self, weights: &Weights, arch: &Arch) -> Result<f64> {
        let plan = Plan::subnet(&self.space, &self.layout, arch)?;
        self.plan_accuracy(weights, &plan)
    }

    /// Top-1 accuracy of any plan of these weights in percent.
    pub fn plan_accuracy(&mut self, weights: &Weights, plan: &Plan) -> Result<f64> {
        let mut own;
        let buffers = if self.bn == BnMode::Recalibrated {
            own = weights.buffers.clone();
            let batches = self.calibration.iter().map(Vec::as_slice);
            recalibrate(&mut self.session, plan, &weights.params, &mut own, batches)?;
            &own
        } else {
            &weights.buffers
        };
        let (mut hits, mut images) = (0, 0);
        for (batch, labels) in &self.validation {
            let logits = self.session.infer(plan, &weights.params, buffers, batch)?;
            let rows = logits.chunks_exact(plan.network().classes);
            hits += rows.zip(labels).filter(|(row, l)| argmax(row) == **l as usize).count();
            images += labels.len();
        }
        Ok(100.0 * hits as f64 / images as f64)
    }
}

/// Writes `inherited.json`, in the competition's format.
pub fn stage(run: &Run) -> Result<Outcome> {
    let path = run.folder.join("inherited.json");
    if path.is_file() {
        return Ok(Outcome::Finished);
    }
    let subnets = subnets(run)?;
    let weights = Weights::load(&run.layout, &run.weights_path("ccfs"))?;
    let mut evaluator = Evaluator::of_run(run, &run.data)?;
    let bar = Bar::new("inherit", subnets.len() as u64);
    let begin = std::time::Instant::now();
    let mut scores = Vec::with_capacity(subnets.len());
    for arch in &subnets {
        let accuracy = evaluator.accuracy(&weights, arch)?;
        let code = run.space.encode_long(arch);
        bar.advance(1, &format!("{code} {accuracy:.2} %"));
        scores.push(Score { code, accuracy });
        if run.interrupted() {
            // Nothing is lost that does not take seconds to make again.
            return Ok(Outcome::Interrupted { step: scores.len() as u64 });
        }
    }
    bar.finish();
    super::results::save_seconds(run, "inherit", begin.elapsed().as_secs_f64())?;
    write_competition_json(&path, &scores)?;
    Ok(Outcome::Finished)
}
