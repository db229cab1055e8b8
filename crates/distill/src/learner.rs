//! One network (or supernet) in supervised training.

mod grouped;

pub use grouped::{GradientNorms, LabelledBatch, SubnetTask};

use slimtau_base::{FileError, TensorFile};
use slimtau_kernels::loss::{Target, cross_entropy};
use slimtau_supernet::{BnMode, Layout, Plan, Session, Siblings, SupernetError, Weights};
use slimtau_train::{Sgd, zeros};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// The settings of supervised training that are not a schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct LearnerConfig {
    /// SGD momentum, weight decay.
    pub sgd: Sgd,
    /// Treatment of BN statistics.
    pub bn: BnMode,
    /// Weight of a new batch in tracked statistics; 0.1.
    pub bn_momentum: f32,
    /// Weight of CE(student, label); 1.
    pub label_weight: f32,
    /// Weight of soft-label CE(student, teacher); 1. Without effect where there is no teacher.
    pub teacher_weight: f32,
}

/// What one step found, as means over its subnets.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepReport {
    /// The weighted sum of both losses.
    pub loss: f64,
    /// CE against the labels.
    pub label_loss: f64,
    /// CE against the teacher's soft labels; 0 without a teacher.
    pub teacher_loss: f64,
    /// Share of images whose label scored highest.
    pub top1: f64,
}

/// Weights, optimiser state and memory of a network in training.
pub struct Learner {
    config: LearnerConfig,
    layout: Arc<Layout>,
    weights: Weights,
    /// One per momentum group; without groups, one.
    velocities: Vec<Vec<f32>>,
    grads: Vec<f32>,
    /// Where subnets' gradients add up when each one's norm is wanted; empty until then.
    total: Vec<f32>,
    session: Session,
    grad_logits: Vec<f32>,
    active: Vec<Range<usize>>,
}

impl Learner {
    /// Training from `start`, with the optimiser at rest.
    pub fn new(config: LearnerConfig, layout: Arc<Layout>, start: Weights) -> Self {
        let velocities = vec![zeros(start.params.len())];
        Self::assemble(config, layout, start, velocities)
    }

    /// The same with so many momentum buffers, all at rest, for [`Learner::step_grouped`];
    /// [`Learner::step`] uses the first. Each is as long as the parameters. 0 counts as 1.
    pub fn with_momentum_groups(mut self, groups: usize) -> Self {
        let len = self.weights.params.len();
        self.velocities = std::iter::repeat_with(|| zeros(len)).take(groups.max(1)).collect();
        self
    }

    /// How many momentum buffers there are.
    pub fn momentum_groups(&self) -> usize {
        self.velocities.len()
    }

    fn assemble(
        config: LearnerConfig,
        layout: Arc<Layout>,
        weights: Weights,
        velocities: Vec<Vec<f32>>,
    ) -> Self {
        Self {
            config,
            layout,
            velocities,
            grads: zeros(weights.params.len()),
            weights,
            total: Vec::new(),
            session: Session::new(),
            grad_logits: Vec::new(),
            active: Vec::new(),
        }
    }

    /// The weights as they stand.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Where they lie.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// One update from one batch: forward and backward through every plan, gradients summed.
    ///
    /// `images` is [N, H, W, C], `labels` `[N]`, `soft_labels` the teacher's [N, classes]. With
    /// several plans the report is their mean; the update is that of the sum, as in the paper. The plans are gone through
    /// more than once, hence an iterator that can be cloned; their stems are computed once ([`Session::siblings`]).
    ///
    /// # Errors
    /// When `images` is not a whole number of images.
    ///
    /// # Panics
    /// When a label is not below the number of classes, or the lengths disagree.
    pub fn step<'p>(
        &mut self,
        lr: f64,
        plans: impl IntoIterator<Item = &'p Plan, IntoIter: Clone>,
        images: &[f32],
        labels: &[u32],
        soft_labels: Option<&[f32]>,
    ) -> Result<StepReport, SupernetError> {
        let plans = plans.into_iter();
        let mut report = StepReport::default();
        let mut count = 0.0;
        let mut passes = self.passes(plans.clone(), images, labels)?;
        for plan in plans.clone() {
            report.add(passes.add(plan, |config, classes, logits, grad| {
                mean_losses(config, classes, logits, labels, soft_labels, grad)
            })?);
            count += 1.0;
        }
        passes.finish()?;
        self.active.clear();
        plans.for_each(|plan| plan.add_active_ranges(true, &mut self.active));
        slimtau_supernet::merge_ranges(&mut self.active);
        let Self { weights, grads, velocities, active, .. } = self;
        self.config.sgd.step(lr, &mut weights.params, grads, &mut velocities[0], active);
        report.divide(f64::max(count, 1.0));
        Ok(report)
    }

    /// Begins the passes of some subnets on the same images; their gradients add up in `grads`.
    fn passes<'s, 'p: 's>(
        &'s mut self,
        plans: impl Iterator<Item = &'p Plan>,
        images: &'s [f32],
        labels: &'s [u32],
    ) -> Result<Passes<'s>, SupernetError> {
        let Self { config, layout, weights, grads, session, grad_logits, .. } = self;
        let Weights { params, buffers } = weights;
        let siblings = match plans.max_by_key(|plan| plan.stem_channels()) {
            None => None,
            Some(widest) => {
                session.reserve(layout, widest.batch(images)?)?;
                let norms = config.bn.training(&mut buffers[..], config.bn_momentum);
                Some(session.siblings(widest, params, &norms, images)?)
            }
        };
        Ok(Passes { config, siblings, buffers, grads, grad_logits, labels })
    }

    /// Everything that a later [`Learner::from_file`] needs to go on exactly.
    pub fn to_file(&self) -> TensorFile {
        let mut file = TensorFile::default();
        let Weights { params, buffers } = &self.weights;
        file.insert("params", &[params.len()], params.clone());
        file.insert("buffers", &[buffers.len()], buffers.clone());
        for (group, velocity) in self.velocities.iter().enumerate() {
            file.insert(velocity_name(group), &[velocity.len()], velocity.clone());
        }
        file
    }

    /// Goes on from [`Learner::to_file`], with as many momentum groups as it had. `path` is where
    /// the tensors came from, for messages.
    ///
    /// # Errors
    /// When a tensor is missing or does not fit the layout.
    pub fn from_file(
        config: LearnerConfig,
        layout: Arc<Layout>,
        path: &Path,
        mut file: TensorFile,
    ) -> Result<Self, FileError> {
        let params = file.take(path, "params", &[layout.params()])?;
        let buffers = file.take(path, "buffers", &[layout.buffers()])?;
        let mut velocities = vec![file.take(path, &velocity_name(0), &[layout.params()])?];
        while file.tensors.contains_key(&velocity_name(velocities.len())) {
            velocities.push(file.take(
                path,
                &velocity_name(velocities.len()),
                &[layout.params()],
            )?);
        }
        Ok(Self::assemble(config, layout, Weights { params, buffers }, velocities))
    }
}

/// Forward and backward passes of a step's subnets.
struct Passes<'s> {
    config: &'s LearnerConfig,
    /// None without subnets.
    siblings: Option<Siblings<'s>>,
    buffers: &'s mut [f32],
    grads: &'s mut [f32],
    grad_logits: &'s mut Vec<f32>,
    labels: &'s [u32],
}

impl Passes<'_> {
    /// Adds one subnet's gradients. `losses` of (settings, classes, logits, their gradient, which is
    /// zero) returns the unweighted losses against labels and teacher and adds their gradient.
    fn add(
        &mut self,
        plan: &Plan,
        losses: impl FnOnce(&LearnerConfig, usize, &[f32], &mut [f32]) -> (f64, f64),
    ) -> Result<StepReport, SupernetError> {
        let Self { config, siblings, buffers, grads, grad_logits, labels } = self;
        let siblings = siblings.as_mut().expect("begun with this subnet");
        let norms = config.bn.training(&mut buffers[..], config.bn_momentum);
        let logits = siblings.forward(plan, norms)?;
        let classes = plan.network().classes;
        assert_eq!(logits.len(), labels.len() * classes, "one label per image");
        grad_logits.clear();
        grad_logits.resize(logits.len(), 0.0);
        let (label_loss, teacher_loss) = losses(config, classes, logits, grad_logits);
        let (label, teacher) = (config.label_weight, config.teacher_weight);
        let top1 = top1_share(classes, logits, labels);
        siblings.backward(plan, grad_logits, grads)?;
        let loss = f64::from(label) * label_loss + f64::from(teacher) * teacher_loss;
        Ok(StepReport { loss, label_loss, teacher_loss, top1 })
    }

    /// Adds the gradients of what they share.
    fn finish(self) -> Result<(), SupernetError> {
        let Self { siblings, grads, .. } = self;
        siblings.map_or(Ok(()), |siblings| siblings.finish(grads))
    }
}

impl StepReport {
    fn add(&mut self, other: Self) {
        self.loss += other.loss;
        self.label_loss += other.label_loss;
        self.teacher_loss += other.teacher_loss;
        self.top1 += other.top1;
    }

    fn divide(&mut self, count: f64) {
        for sum in [&mut self.loss, &mut self.label_loss, &mut self.teacher_loss, &mut self.top1] {
            *sum /= count;
        }
    }
}

fn velocity_name(group: usize) -> String {
    if group == 0 { "velocity".into() } else { format!("velocity.{group}") }
}

/// Both losses as plain means over the batch; adds their weighted gradients.
fn mean_losses(
    config: &LearnerConfig,
    classes: usize,
    logits: &[f32],
    labels: &[u32],
    soft_labels: Option<&[f32]>,
    grad: &mut [f32],
) -> (f64, f64) {
    let (label, teacher) = (config.label_weight, config.teacher_weight);
    let label_loss = cross_entropy(classes, logits, Target::Hard(labels), label, grad);
    let teacher_loss =
        soft_labels.map_or(0.0, |p| cross_entropy(classes, logits, Target::Soft(p), teacher, grad));
    (label_loss, teacher_loss)
}

/// Share of rows whose label has the highest logit; of equal logits the first counts.
fn top1_share(classes: usize, logits: &[f32], labels: &[u32]) -> f64 {
    let hits = logits
        .chunks_exact(classes)
        .zip(labels)
        .filter(|(row, label)| slimtau_supernet::argmax(row) == **label as usize);
    hits.count() as f64 / labels.len() as f64
}
