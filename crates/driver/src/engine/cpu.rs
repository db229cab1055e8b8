//! Networks on the CPU.

use super::{ContrastiveTraining, CountRight, Judge, Listed, SupervisedTraining, TeacherStart};
use anyhow::Result;
use slimtau_base::TensorFile;
use slimtau_data::Batch;
use slimtau_distill::{Learner, LearnerConfig, StepReport, Teacher};
use slimtau_moco::{Moco, MocoConfig, MocoReport};
use slimtau_parallel::hold;
use slimtau_space::SearchSpace;
use slimtau_supernet::{
    BnMode, Layout, Plan, PrefixTree, Recalibration, Session, Statistics, TreeSession, Weights,
    argmax,
};
use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

struct OnCpu {
    config: LearnerConfig,
    learner: Learner,
    teacher: Option<Teacher>,
}

pub(super) fn supervised(
    config: LearnerConfig,
    layout: Arc<Layout>,
    start: Weights,
    teacher: Option<TeacherStart>,
) -> Box<dyn SupervisedTraining> {
    let teacher = teacher.map(|t| Teacher::new(t.plan, t.weights, t.temperature));
    Box::new(OnCpu { learner: Learner::new(config.clone(), layout, start), config, teacher })
}

impl SupervisedTraining for OnCpu {
    fn step(&mut self, lr: f64, plans: &[Plan], batch: &Batch) -> Result<StepReport> {
        hold(|| {
            let soft = match &mut self.teacher {
                Some(teacher) => Some(teacher.soft_labels(&batch.images)?),
                None => None,
            };
            Ok(self.learner.step(lr, plans, &batch.images, &batch.labels, soft)?)
        })
    }

    fn weights(&self) -> Result<Cow<'_, Weights>> {
        Ok(Cow::Borrowed(self.learner.weights()))
    }

    fn save(&self) -> Result<TensorFile> {
        Ok(self.learner.to_file())
    }

    fn restore(&mut self, path: &Path, state: TensorFile) -> Result<()> {
        let layout = Arc::clone(self.learner.layout());
        self.learner = Learner::from_file(self.config.clone(), layout, path, state)?;
        Ok(())
    }
}

struct MocoOnCpu {
    config: MocoConfig,
    layout: Arc<Layout>,
    moco: Moco,
}

pub(super) fn contrastive(
    config: MocoConfig,
    layout: Arc<Layout>,
    start: Weights,
) -> Box<dyn ContrastiveTraining> {
    let moco = Moco::new(config.clone(), Arc::clone(&layout), start);
    Box::new(MocoOnCpu { config, layout, moco })
}

impl ContrastiveTraining for MocoOnCpu {
    fn step(
        &mut self,
        step: u64,
        lr: f64,
        temperature: f32,
        plan: &Plan,
        views: [&[f32]; 2],
    ) -> Result<MocoReport> {
        hold(|| Ok(self.moco.step(step, lr, temperature, plan, views)?))
    }

    fn encoder(&self) -> Result<Weights> {
        Ok(self.moco.encoder())
    }

    fn save(&self) -> Result<TensorFile> {
        Ok(self.moco.to_file())
    }

    fn restore(&mut self, path: &Path, state: TensorFile) -> Result<()> {
        self.moco = Moco::from_file(self.config.clone(), Arc::clone(&self.layout), path, state)?;
        Ok(())
    }
}

#[derive(Default)]
struct JudgeOnCpu {
    session: Session,
    tree_session: TreeSession,
}

/// Networks say themselves what their images are.
pub(super) fn judge(_: &SearchSpace) -> Box<dyn Judge> {
    Box::new(JudgeOnCpu::default())
}

struct ListedOnCpu<'a> {
    session: &'a mut TreeSession,
    weights: &'a Weights,
    tree: &'a PrefixTree,
    own: Recalibration<'a>,
    bn: BnMode,
}

impl Judge for JudgeOnCpu {
    fn list<'a>(
        &'a mut self,
        weights: &'a Weights,
        tree: &'a PrefixTree,
        bn: BnMode,
    ) -> Result<Box<dyn Listed + 'a>> {
        let (session, own) = (&mut self.tree_session, tree.recalibration());
        Ok(Box::new(ListedOnCpu { session, weights, tree, own, bn }))
    }

    fn alone<'a>(&'a mut self, weights: &'a Weights, plan: &'a Plan) -> Result<CountRight<'a>> {
        let Weights { params, buffers } = weights;
        Ok(Box::new(move |batch, right| {
            let logits = hold(|| self.session.infer(plan, params, buffers, &batch.images))?;
            *right += n_right(logits, &batch.labels);
            Ok(())
        }))
    }
}

impl Listed for ListedOnCpu<'_> {
    fn measure(&mut self, images: &[f32]) -> Result<()> {
        Ok(hold(|| self.own.measure(self.session, &self.weights.params, images))?)
    }

    fn count(&mut self, batch: &Batch, right: &mut [usize]) -> Result<()> {
        let Weights { params, buffers } = self.weights;
        let statistics = match self.bn {
            BnMode::Recalibrated => Statistics::Recalibrated(&self.own),
            BnMode::Tracked | BnMode::Frozen => Statistics::Shared(&buffers[..]),
        };
        let each = |subnet: usize, logits: &[f32]| right[subnet] += n_right(logits, &batch.labels);
        Ok(hold(|| self.tree.infer(self.session, params, statistics, &batch.images, each))?)
    }
}

/// Rows of logits [N, classes] whose largest is the label's.
fn n_right(logits: &[f32], labels: &[u32]) -> usize {
    let rows = logits.chunks_exact(logits.len() / labels.len());
    rows.zip(labels).filter(|(row, label)| argmax(row) == **label as usize).count()
}
