//! Networks on an NVIDIA GPU.

use super::{ContrastiveTraining, CountRight, Judge, Listed, SupervisedTraining, TeacherStart};
use crate::device_arg::{DeviceArg, DeviceArgs, PrecisionArg};
use anyhow::Result;
use half::bf16;
use slimtau_base::TensorFile;
use slimtau_data::Batch;
use slimtau_distill::{DeviceBatch, DeviceLearner, DeviceTeacher, LearnerConfig, StepReport};
use slimtau_kernels::gpu::{Buffer, Gpu, GpuError, top1};
use slimtau_moco::{DeviceMoco, MocoConfig, MocoReport};
use slimtau_space::SearchSpace;
use slimtau_supernet::{
    BnMode, Device, DeviceImages, DeviceWeights, Layout, Plan, Precision, PrefixTree,
    Recalibration, Session, Statistics, TreeSession, Weights,
};
use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

/// A GPU, and what activations are made of there.
#[derive(Clone)]
pub struct Card {
    pub gpu: Gpu,
    pub precision: PrecisionArg,
}

impl Card {
    /// The GPU that the options name; none for the CPU.
    pub(super) fn open(args: &DeviceArgs) -> Result<Option<Self>> {
        let gpu = match &args.device {
            DeviceArg::Cpu => return Ok(None),
            DeviceArg::Cuda(ordinal) => Gpu::open(*ordinal)?,
            DeviceArg::Emulator(library) => Gpu::emulated(library, false)?,
        };
        Ok(Some(Self { gpu, precision: args.precision() }))
    }

    /// What the driver calls it, and the precision.
    pub fn name(&self) -> String {
        format!("{}, {}", self.gpu.name(), self.precision)
    }

    pub(super) fn supervised(
        &self,
        config: LearnerConfig,
        layout: Arc<Layout>,
        start: &Weights,
        teacher: Option<TeacherStart>,
    ) -> Result<Box<dyn SupervisedTraining>> {
        let gpu = &self.gpu;
        Ok(match self.precision {
            PrecisionArg::Bf16 => {
                Box::new(OnGpu::<bf16>::new(gpu, config, layout, start, teacher)?)
            }
            PrecisionArg::F32 => Box::new(OnGpu::<f32>::new(gpu, config, layout, start, teacher)?),
        })
    }

    pub(super) fn contrastive(
        &self,
        config: MocoConfig,
        layout: Arc<Layout>,
        start: Weights,
    ) -> Result<Box<dyn ContrastiveTraining>> {
        let gpu = &self.gpu;
        Ok(match self.precision {
            PrecisionArg::Bf16 => Box::new(MocoOnGpu::<bf16>::new(gpu, config, layout, start)?),
            PrecisionArg::F32 => Box::new(MocoOnGpu::<f32>::new(gpu, config, layout, start)?),
        })
    }

    pub(super) fn judge(&self, space: &SearchSpace) -> Box<dyn Judge> {
        match self.precision {
            PrecisionArg::Bf16 => Box::new(JudgeOnGpu::<bf16>::new(&self.gpu, space)),
            PrecisionArg::F32 => Box::new(JudgeOnGpu::<f32>::new(&self.gpu, space)),
        }
    }
}

struct OnGpu<T: Precision> {
    gpu: Gpu,
    config: LearnerConfig,
    layout: Arc<Layout>,
    learner: DeviceLearner<T>,
    teacher: Option<DeviceTeacher<T>>,
    batch: DeviceBatch<T>,
}

impl<T: Precision> OnGpu<T> {
    fn new(
        gpu: &Gpu,
        config: LearnerConfig,
        layout: Arc<Layout>,
        start: &Weights,
        teacher: Option<TeacherStart>,
    ) -> Result<Self> {
        let teacher = teacher
            .map(|t| DeviceTeacher::new(gpu, t.plan, &t.weights, t.temperature))
            .transpose()?;
        let learner = DeviceLearner::new(gpu, config.clone(), Arc::clone(&layout), start)?;
        let (gpu, batch) = (gpu.clone(), DeviceBatch::new(gpu));
        Ok(Self { gpu, config, layout, learner, teacher, batch })
    }
}

impl<T: Precision> SupervisedTraining for OnGpu<T> {
    fn step(&mut self, lr: f64, plans: &[Plan], batch: &Batch) -> Result<StepReport> {
        let (channels, classes) = (batch.shape[3], self.layout.classes());
        self.batch.load(channels, &batch.images, classes, &batch.labels)?;
        let soft = match &mut self.teacher {
            Some(teacher) => Some(teacher.soft_labels(self.batch.images())?),
            None => None,
        };
        Ok(self.learner.step(lr, plans, &self.batch, soft)?)
    }

    fn weights(&self) -> Result<Cow<'_, Weights>> {
        Ok(Cow::Owned(self.learner.weights()?))
    }

    fn save(&self) -> Result<TensorFile> {
        Ok(self.learner.to_file()?)
    }

    fn restore(&mut self, path: &Path, state: TensorFile) -> Result<()> {
        let (config, layout) = (self.config.clone(), Arc::clone(&self.layout));
        self.learner = DeviceLearner::from_file(&self.gpu, config, layout, path, state)?;
        Ok(())
    }
}

struct MocoOnGpu<T: Precision> {
    gpu: Gpu,
    config: MocoConfig,
    layout: Arc<Layout>,
    moco: DeviceMoco<T>,
    views: [DeviceImages<T>; 2],
}

impl<T: Precision> MocoOnGpu<T> {
    fn new(gpu: &Gpu, config: MocoConfig, layout: Arc<Layout>, start: Weights) -> Result<Self> {
        let moco = DeviceMoco::new(gpu, config.clone(), Arc::clone(&layout), start)?;
        let views = [DeviceImages::new(gpu), DeviceImages::new(gpu)];
        Ok(Self { gpu: gpu.clone(), config, layout, moco, views })
    }
}

impl<T: Precision> ContrastiveTraining for MocoOnGpu<T> {
    fn step(
        &mut self,
        step: u64,
        lr: f64,
        temperature: f32,
        plan: &Plan,
        views: [&[f32]; 2],
    ) -> Result<MocoReport> {
        for (view, images) in self.views.iter_mut().zip(views) {
            view.load(plan.network().channels, images)?;
        }
        let views = [self.views[0].view(), self.views[1].view()];
        Ok(self.moco.step(step, lr, temperature, plan, views)?)
    }

    fn encoder(&self) -> Result<Weights> {
        Ok(self.moco.encoder()?)
    }

    fn save(&self) -> Result<TensorFile> {
        Ok(self.moco.to_file()?)
    }

    fn restore(&mut self, path: &Path, state: TensorFile) -> Result<()> {
        let (config, layout) = (self.config.clone(), Arc::clone(&self.layout));
        self.moco = DeviceMoco::from_file(&self.gpu, config, layout, path, state)?;
        Ok(())
    }
}

struct JudgeOnGpu<T: Precision> {
    session: Session<Device<T>>,
    tree_session: TreeSession<Device<T>>,
    memory: Memory<T>,
}

/// A batch, and the right answers to it.
struct Memory<T: Precision> {
    gpu: Gpu,
    /// Of an image.
    channels: usize,
    classes: usize,
    batch: DeviceBatch<T>,
    /// 0 or 1 for each image.
    hits: Buffer<f32>,
    /// A number for each subnet.
    right: Buffer<f32>,
}

impl<T: Precision> JudgeOnGpu<T> {
    fn new(gpu: &Gpu, space: &SearchSpace) -> Self {
        Self {
            session: Session::on(Device::new(gpu)),
            tree_session: TreeSession::on(Device::new(gpu)),
            memory: Memory {
                gpu: gpu.clone(),
                channels: space.channels,
                classes: space.classes,
                batch: DeviceBatch::new(gpu),
                hits: Buffer::new(gpu),
                right: Buffer::new(gpu),
            },
        }
    }
}

struct ListedOnGpu<'a, T: Precision> {
    session: &'a mut TreeSession<Device<T>>,
    memory: &'a mut Memory<T>,
    weights: DeviceWeights<T>,
    tree: &'a PrefixTree,
    own: Recalibration<'a, Device<T>>,
    bn: BnMode,
}

impl<T: Precision> Judge for JudgeOnGpu<T> {
    fn list<'a>(
        &'a mut self,
        weights: &'a Weights,
        tree: &'a PrefixTree,
        bn: BnMode,
    ) -> Result<Box<dyn Listed + 'a>> {
        let Self { tree_session: session, memory, .. } = self;
        let (weights, own) = (DeviceWeights::new(&memory.gpu, weights)?, tree.recalibration());
        Ok(Box::new(ListedOnGpu { session, memory, weights, tree, own, bn }))
    }

    fn alone<'a>(&'a mut self, weights: &'a Weights, plan: &'a Plan) -> Result<CountRight<'a>> {
        let Self { session, memory, .. } = self;
        let DeviceWeights { params, buffers } = DeviceWeights::<T>::new(&memory.gpu, weights)?;
        Ok(Box::new(move |images, right| {
            let Memory { gpu, channels, classes, batch, hits, right: found } = &mut *memory;
            batch.load(*channels, &images.images, *classes, &images.labels)?;
            let logits = session.infer(plan, &params, &buffers, batch.images())?;
            top1(gpu, *classes, logits, batch.labels(), found.reserve(1)?, hits)?;
            // Counts are whole numbers below 2^24.
            *right += found.to_vec()?[0] as usize;
            Ok(())
        }))
    }
}

impl<T: Precision> Listed for ListedOnGpu<'_, T> {
    fn measure(&mut self, images: &[f32]) -> Result<()> {
        let Memory { channels, batch, .. } = &mut *self.memory;
        batch.load_images(*channels, images)?;
        Ok(self.own.measure(self.session, &self.weights.params, batch.images())?)
    }

    fn count(&mut self, batch: &Batch, right: &mut [usize]) -> Result<()> {
        let DeviceWeights { params, buffers } = &self.weights;
        let Memory { gpu, channels, classes, batch: uploaded, hits, right: found } =
            &mut *self.memory;
        uploaded.load(*channels, &batch.images, *classes, &batch.labels)?;
        let statistics = match self.bn {
            BnMode::Recalibrated => Statistics::Recalibrated(&self.own),
            BnMode::Tracked | BnMode::Frozen => Statistics::Shared(buffers),
        };
        let mut places = found.reserve(right.len())?;
        let mut failed: Result<(), GpuError> = Ok(());
        let labels = uploaded.labels();
        self.tree.infer(
            self.session,
            params,
            statistics,
            uploaded.images(),
            |subnet, logits| {
                let place = places.reborrow().range(subnet..subnet + 1);
                let counted = top1(gpu, *classes, logits, labels, place, hits);
                if failed.is_ok() {
                    failed = counted;
                }
            },
        )?;
        failed?;
        // The only wait for the GPU in a batch.
        for (right, found) in right.iter_mut().zip(found.to_vec()?) {
            *right += found as usize;
        }
        Ok(())
    }
}
