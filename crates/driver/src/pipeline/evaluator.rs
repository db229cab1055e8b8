//! Top-1 accuracies on a validation set that is kept in memory.

use super::Run;
use super::stages::normalization;
use crate::progress::Bar;
use anyhow::Result;
use slimtau_data::{Data, Dataset, Loader, LoaderConfig};
use slimtau_space::{Arch, SearchSpace};
use slimtau_supernet::{
    BnMode, Layout, Plan, PrefixTree, Session, Statistics, TreeSession, Weights, argmax,
};
use std::sync::Arc;

/// Subnets that go through a prefix tree together. In prefix order, a hundred share nearly all that the whole list
/// would (the competition's 45,000 codes: 1.86 times fewer operations than one by one, of 1.87), while their
/// statistics take little memory and an interruption loses little.
pub const CHUNK: usize = 100;

/// Measures subnets of one supernet.
pub struct Evaluator {
    space: SearchSpace,
    layout: Arc<Layout>,
    bn: BnMode,
    validation: Vec<(Vec<f32>, Vec<u32>)>,
    calibration: Vec<Vec<f32>>,
    session: Session,
    tree_session: TreeSession,
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
        let load = |set: &Arc<dyn Dataset>, most: u64| {
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
            tree_session: TreeSession::default(),
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

    /// The number of validation images.
    pub fn images(&self) -> usize {
        self.validation.iter().map(|(_, labels)| labels.len()).sum()
    }

    /// A number of right answers as top-1 accuracy in percent.
    pub fn percent(&self, right: usize) -> f64 {
        100.0 * right as f64 / self.images() as f64
    }

    /// Top-1 accuracy of any plan of these weights, with their own running statistics, in percent.
    pub fn plan_accuracy(&mut self, weights: &Weights, plan: &Plan) -> Result<f64> {
        let Weights { params, buffers } = weights;
        let mut right = 0;
        for (images, labels) in &self.validation {
            right += n_right(self.session.infer(plan, params, buffers, images)?, labels);
        }
        Ok(self.percent(right))
    }

    /// Top-1 accuracies of subnets in percent, in their order; `None` once `stop` says so.
    pub fn accuracies(
        &mut self,
        weights: &Weights,
        archs: &[Arch],
        bar: &Bar,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<Vec<f64>>> {
        let mut accuracies = vec![0.0; archs.len()];
        for chunk in self.order(archs)?.chunks(CHUNK) {
            let subnets: Vec<&Arch> = chunk.iter().map(|i| &archs[*i]).collect();
            let Some(right) = self.count_right(weights, &subnets, bar, stop)? else {
                return Ok(None);
            };
            for (place, right) in chunk.iter().zip(right) {
                accuracies[*place] = self.percent(right);
            }
        }
        Ok(Some(accuracies))
    }

    /// The places of `archs` in an order in which neighbours share their first blocks.
    pub fn order(&self, archs: &[Arch]) -> Result<Vec<usize>> {
        let key = |arch| Ok(self.plan(arch)?.prefix_key());
        let keys: Vec<_> = archs.iter().map(key).collect::<Result<_>>()?;
        let mut order: Vec<usize> = (0..archs.len()).collect();
        order.sort_by(|a, b| keys[*a].cmp(&keys[*b]));
        Ok(order)
    }

    /// Right answers of every subnet, together in one prefix tree; `None` once `stop` says so, which is asked after
    /// every batch. The bar advances by the number of subnets.
    pub fn count_right(
        &mut self,
        weights: &Weights,
        archs: &[&Arch],
        bar: &Bar,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<Vec<usize>>> {
        let plans = archs.iter().map(|arch| self.plan(arch)).collect::<Result<_>>()?;
        let tree = PrefixTree::new(plans);
        let Self { validation, calibration, tree_session: session, bn, .. } = self;
        let Weights { params, buffers } = weights;
        let batches = calibration.len() + validation.len();
        let mut done = 0;
        let mut go_on = || {
            // Of this chunk's subnets, as many as the share of the batches that is done.
            done += 1;
            let subnets = |batches_done| (archs.len() * batches_done / batches) as u64;
            bar.advance(subnets(done) - subnets(done - 1), "");
            !stop()
        };
        let mut going = true;
        let own = if *bn == BnMode::Recalibrated {
            // A batch counts when the next one is asked for.
            let batches = calibration.iter().enumerate().map_while(|(i, batch)| {
                going = going && (i == 0 || go_on());
                going.then_some(batch.as_slice())
            });
            let own = tree.recalibrate(session, params, batches)?;
            going = going && go_on();
            Some(own)
        } else {
            None
        };
        let statistics = match &own {
            Some(own) => Statistics::Recalibrated(own),
            None => Statistics::Shared(buffers),
        };
        let mut right = vec![0; archs.len()];
        for (images, labels) in validation.iter() {
            if !going {
                return Ok(None);
            }
            tree.infer(session, params, statistics, images, |subnet, logits| {
                right[subnet] += n_right(logits, labels);
            })?;
            going = go_on();
        }
        Ok(Some(right))
    }

    fn plan(&self, arch: &Arch) -> Result<Plan> {
        Ok(Plan::subnet(&self.space, &self.layout, arch)?)
    }
}

/// Rows of logits [N, classes] whose largest is the label's.
fn n_right(logits: &[f32], labels: &[u32]) -> usize {
    let rows = logits.chunks_exact(logits.len() / labels.len());
    rows.zip(labels).filter(|(row, label)| argmax(row) == **label as usize).count()
}
