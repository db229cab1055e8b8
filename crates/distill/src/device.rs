//! Supervised training on a GPU: one batch for all subnets of a step, everything between its images and its losses in the
//! GPU's memory.

use crate::{LearnerConfig, StepReport};
use slimtau_base::TensorFile;
use slimtau_kernels::gpu::{
    Buffer, Gpu, Labels, Sgd, Target, View, WorkTable, cross_entropy, mean, sgd_step, softmax, top1,
};
use slimtau_supernet::{
    Device, DeviceImages, DeviceWeights, Layout, Plan, Precision, Session, SupernetError, Weights,
    merge_ranges,
};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// Images with labels on a GPU.
pub struct DeviceBatch<T: Precision> {
    images: DeviceImages<T>,
    labels: Labels,
}

impl<T: Precision> DeviceBatch<T> {
    /// No images.
    pub fn new(gpu: &Gpu) -> Self {
        Self { images: DeviceImages::new(gpu), labels: Labels::new(gpu) }
    }

    /// Becomes these images [N, H, W, `channels`] with their labels `[N]`.
    ///
    /// # Errors
    /// When they do not fit.
    ///
    /// # Panics
    /// When the images are not whole pixels, or a label is not below `classes`.
    pub fn load(
        &mut self,
        channels: usize,
        images: &[f32],
        classes: usize,
        labels: &[u32],
    ) -> Result<(), SupernetError> {
        self.load_images(channels, images)?;
        Ok(self.labels.upload(classes, labels)?)
    }

    /// Becomes these images; the labels stay those of the batch before.
    ///
    /// # Errors
    /// When they do not fit.
    ///
    /// # Panics
    /// When they are not whole pixels.
    pub fn load_images(&mut self, channels: usize, images: &[f32]) -> Result<(), SupernetError> {
        self.images.load(channels, images)
    }

    /// The images, as networks read them.
    pub fn images(&self) -> View<'_, T> {
        self.images.view()
    }

    /// Their labels.
    pub fn labels(&self) -> &Labels {
        &self.labels
    }
}

/// [`crate::Teacher`] on a GPU.
pub struct DeviceTeacher<T: Precision> {
    gpu: Gpu,
    plan: Plan,
    weights: DeviceWeights<T>,
    temperature: f32,
    session: Session<Device<T>>,
    probabilities: Buffer<f32>,
}

impl<T: Precision> DeviceTeacher<T> {
    /// A teacher; `temperature` divides its logits (1 in the paper).
    ///
    /// # Errors
    /// When the weights do not fit.
    pub fn new(
        gpu: &Gpu,
        plan: Plan,
        weights: &Weights,
        temperature: f32,
    ) -> Result<Self, SupernetError> {
        Ok(Self {
            gpu: gpu.clone(),
            plan,
            weights: DeviceWeights::new(gpu, weights)?,
            temperature,
            session: Session::on(Device::new(gpu)),
            probabilities: Buffer::new(gpu),
        })
    }

    /// softmax(logits / temperature) [N, classes] of images as [`DeviceImages`] holds them.
    ///
    /// # Errors
    /// When `images` is not a whole number of images, or the GPU fails.
    pub fn soft_labels(&mut self, images: View<'_, T>) -> Result<View<'_, f32>, SupernetError> {
        let Self { gpu, plan, weights, temperature, session, probabilities } = self;
        let logits = session.infer(plan, &weights.params, &weights.buffers, images)?;
        let into = probabilities.reserve(logits.len())?;
        softmax(gpu, plan.network().classes, *temperature, logits, into)?;
        Ok(self.probabilities.view())
    }
}

/// [`crate::Learner`] on a GPU, with activations of `T`; parameters, gradients and the optimiser's state are f32.
pub struct DeviceLearner<T: Precision> {
    gpu: Gpu,
    config: LearnerConfig,
    layout: Arc<Layout>,
    weights: DeviceWeights<T>,
    velocity: Buffer<f32>,
    grads: Buffer<f32>,
    session: Session<Device<T>>,
    grad_logits: Buffer<f32>,
    losses: Buffer<f32>,
    hits: Buffer<f32>,
    /// Of each subnet of a step: its loss against labels, against the teacher, and its hits.
    results: Buffer<f32>,
    work: WorkTable,
    active: Vec<Range<usize>>,
}

/// Numbers of a subnet among the results of a step.
const RESULTS: usize = 3;

impl<T: Precision> DeviceLearner<T> {
    /// Training from `start`, with the optimiser at rest.
    ///
    /// # Errors
    /// When the weights do not fit.
    pub fn new(
        gpu: &Gpu,
        config: LearnerConfig,
        layout: Arc<Layout>,
        start: &Weights,
    ) -> Result<Self, SupernetError> {
        let zeros = || Buffer::zeros(gpu, layout.params());
        Ok(Self {
            weights: DeviceWeights::new(gpu, start)?,
            velocity: zeros()?,
            grads: zeros()?,
            session: Session::on(Device::new(gpu)),
            grad_logits: Buffer::new(gpu),
            losses: Buffer::new(gpu),
            hits: Buffer::new(gpu),
            results: Buffer::new(gpu),
            work: WorkTable::new(gpu),
            active: Vec::new(),
            gpu: gpu.clone(),
            config,
            layout,
        })
    }

    /// The weights as they stand, in main memory.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn weights(&self) -> Result<Weights, SupernetError> {
        self.weights.to_host()
    }

    /// Everything that a later [`DeviceLearner::from_file`] needs to go on, as [`crate::Learner::to_file`] writes it: either
    /// goes on where the other stopped.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn to_file(&self) -> Result<TensorFile, SupernetError> {
        let mut file = TensorFile::default();
        let Weights { params, buffers } = self.weights.to_host()?;
        file.insert("params", &[params.len()], params);
        file.insert("buffers", &[buffers.len()], buffers);
        file.insert("velocity", &[self.layout.params()], self.velocity.to_vec()?);
        Ok(file)
    }

    /// Goes on from [`DeviceLearner::to_file`] or [`crate::Learner::to_file`] of one momentum group. `path` is where the tensors
    /// came from, for messages.
    ///
    /// # Errors
    /// When a tensor is missing or does not fit the layout, or the GPU fails.
    pub fn from_file(
        gpu: &Gpu,
        config: LearnerConfig,
        layout: Arc<Layout>,
        path: &Path,
        mut file: TensorFile,
    ) -> Result<Self, SupernetError> {
        let params = file.take(path, "params", &[layout.params()])?;
        let buffers = file.take(path, "buffers", &[layout.buffers()])?;
        let velocity = file.take(path, "velocity", &[layout.params()])?;
        let mut learner = Self::new(gpu, config, layout, &Weights { params, buffers })?;
        learner.velocity.upload(&velocity)?;
        Ok(learner)
    }

    /// One update from one batch, as [`crate::Learner::step`]: forward and backward through every plan, gradients summed.
    /// `soft_labels` is the teacher's [N, classes]. Waits for the GPU once, at the end.
    ///
    /// # Errors
    /// When the batch is not a whole number of images, or the GPU fails.
    ///
    /// # Panics
    /// When the lengths disagree.
    pub fn step(
        &mut self,
        lr: f64,
        plans: &[Plan],
        batch: &DeviceBatch<T>,
        soft_labels: Option<View<'_, f32>>,
    ) -> Result<StepReport, SupernetError> {
        self.results.reserve(RESULTS * plans.len())?.clear()?;
        self.active.clear();
        for (subnet, plan) in plans.iter().enumerate() {
            self.accumulate(subnet, plan, batch, soft_labels)?;
            plan.add_active_ranges(true, &mut self.active);
        }
        merge_ranges(&mut self.active);
        self.work.set(self.layout.params(), &self.active, &[])?;
        let settings = self.config.sgd;
        let sgd = Sgd {
            lr: lr as f32,
            momentum: settings.momentum,
            weight_decay: settings.weight_decay,
            nesterov: settings.nesterov,
        };
        let (params, copy) = self.weights.params.both_mut();
        let (grads, velocity) = (self.grads.view_mut(), self.velocity.view_mut());
        sgd_step(&self.gpu, &sgd, &self.work, params, grads, velocity, copy)?;

        let mut report = StepReport::default();
        let count = f64::max(plans.len() as f64, 1.0);
        for own in self.results.to_vec()?.chunks_exact(RESULTS) {
            report.label_loss += f64::from(own[0]) / count;
            report.teacher_loss += f64::from(own[1]) / count;
            report.top1 += f64::from(own[2]) / batch.labels.len() as f64 / count;
        }
        let (label, teacher) = (self.config.label_weight, self.config.teacher_weight);
        report.loss =
            f64::from(label) * report.label_loss + f64::from(teacher) * report.teacher_loss;
        Ok(report)
    }

    /// Adds one subnet's gradients, and leaves its losses and hits among the results.
    fn accumulate(
        &mut self,
        subnet: usize,
        plan: &Plan,
        batch: &DeviceBatch<T>,
        soft_labels: Option<View<'_, f32>>,
    ) -> Result<(), SupernetError> {
        let Self {
            gpu, config, layout, weights, grads, session, grad_logits, losses, hits, ..
        } = self;
        session.reserve(layout, batch.labels.len())?;
        let DeviceWeights { params, buffers } = weights;
        let norms = config.bn.training(buffers, config.bn_momentum);
        let logits = session.forward(plan, params, norms, batch.images())?;
        let (classes, labels) = (plan.network().classes, &batch.labels);
        assert_eq!(logits.len(), labels.len() * classes, "one label per image");
        grad_logits.reserve(logits.len())?.clear()?;
        losses.reserve(labels.len())?;
        let own = self.results.view_mut().range(RESULTS * subnet..RESULTS * (subnet + 1));
        let (of_label, own) = own.split_at(1);
        let (of_teacher, of_hits) = own.split_at(1);

        let (grad, each) = (grad_logits.view_mut(), losses.view_mut());
        let target = Target::Hard(labels);
        cross_entropy(gpu, classes, logits, target, config.label_weight, grad, each)?;
        mean(gpu, losses.view(), of_label)?;
        if let Some(soft) = soft_labels {
            let (grad, each) = (grad_logits.view_mut(), losses.view_mut());
            let target = Target::Soft(soft);
            cross_entropy(gpu, classes, logits, target, config.teacher_weight, grad, each)?;
            mean(gpu, losses.view(), of_teacher)?;
        }
        top1(gpu, classes, logits, labels, of_hits, hits)?;
        session.try_backward(plan, params, batch.images(), grad_logits.view(), grads)
    }
}
