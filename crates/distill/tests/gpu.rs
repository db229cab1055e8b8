//! Training steps on a GPU, or on the emulator of one, against the CPU's. Runs by `cargo xtask cuda test`.

use half::bf16;
use slimtau_base::{fill_normal, stream};
use slimtau_distill::{
    DeviceBatch, DeviceLearner, DeviceTeacher, Learner, LearnerConfig, StepReport, Teacher,
};
use slimtau_kernels::gpu::{Buffer, Gpu};
use slimtau_space::SearchSpace;
use slimtau_supernet::{BnMode, Layout, Plan, Precision, Weights};
use slimtau_train::Sgd;
use std::path::Path;

#[path = "../../kernels/tests/gpu/place.rs"]
mod place;

const SPACE: &str = r#"
    name = "one-stage"
    image_size = 8
    channels = 3
    classes = 5
    ratios = [1.0, 0.5]
    divisor = 8
    block = "basic"
    stem = { width = 16, kernel = 3, stride = 1, max_pool = false, codes = 2 }
    stage = [{ width = 24, depth = [1, 2], stride = 2, codes = 2 }]
"#;

const STEPS: usize = 3;
const BATCH: usize = 4;

struct Task {
    space: SearchSpace,
    start: Weights,
    images: Vec<f32>,
    labels: Vec<u32>,
    config: LearnerConfig,
}

impl Task {
    fn new(nesterov: bool, bn: BnMode) -> Self {
        let space = SearchSpace::from_toml(SPACE, "test").unwrap();
        let start = Weights::init(&Layout::supernet(&space).unwrap(), 3);
        let mut images = vec![0.0; BATCH * space.image_size.pow(2) * space.channels];
        fill_normal(&mut stream(0, "images", 0), 1.0, &mut images);
        let sgd = Sgd { momentum: 0.9, weight_decay: 1e-2, nesterov };
        let config =
            LearnerConfig { sgd, bn, bn_momentum: 0.1, label_weight: 1.0, teacher_weight: 0.5 };
        Self { space, start, images, labels: vec![3, 0, 4, 1], config }
    }

    /// The same steps, of which the CPU makes the first.
    fn handed_over(&self, gpu: &Gpu) -> Weights {
        let layout = Layout::supernet(&self.space).unwrap();
        let plans = self.plans(&layout);
        let mut teacher = Teacher::new(plans[0].clone(), self.start.clone(), 2.0);
        let mut first = Learner::new(self.config.clone(), layout.clone(), self.start.clone());
        let soft = teacher.soft_labels(&self.images).unwrap();
        first.step(0.05, &plans, &self.images, &self.labels, Some(soft)).unwrap();
        let (config, path) = (self.config.clone(), Path::new("state"));
        let mut learner =
            DeviceLearner::<f32>::from_file(gpu, config, layout.clone(), path, first.to_file())
                .unwrap();
        let soft = Buffer::from_slice(gpu, soft).unwrap();
        let mut batch = DeviceBatch::new(gpu);
        batch.load(3, &self.images, 5, &self.labels).unwrap();
        for _ in 1..STEPS {
            learner.step(0.05, &plans, &batch, Some(soft.view())).unwrap();
        }
        // And back: what the GPU leaves, a CPU takes up.
        let file = learner.to_file().unwrap();
        Learner::from_file(self.config.clone(), layout, path, file).unwrap().weights().clone()
    }

    /// Two subnets a step, of different widths and depths.
    fn plans(&self, layout: &Layout) -> Vec<Plan> {
        let archs = [self.space.largest(), self.space.smallest()];
        archs.iter().map(|arch| Plan::subnet(&self.space, layout, arch).unwrap()).collect()
    }

    fn on_cpu(&self) -> (Weights, Vec<StepReport>) {
        let layout = Layout::supernet(&self.space).unwrap();
        let plans = self.plans(&layout);
        let mut teacher = Teacher::new(plans[0].clone(), self.start.clone(), 2.0);
        let mut learner = Learner::new(self.config.clone(), layout, self.start.clone());
        let reports = (0..STEPS).map(|_| {
            let soft = teacher.soft_labels(&self.images).unwrap();
            learner.step(0.05, &plans, &self.images, &self.labels, Some(soft)).unwrap()
        });
        let reports = reports.collect();
        (learner.weights().clone(), reports)
    }

    fn on_gpu<T: Precision>(&self, gpu: &Gpu) -> (Weights, Vec<StepReport>) {
        let layout = Layout::supernet(&self.space).unwrap();
        let plans = self.plans(&layout);
        let mut teacher = DeviceTeacher::<T>::new(gpu, plans[0].clone(), &self.start, 2.0).unwrap();
        let config = self.config.clone();
        let mut learner = DeviceLearner::<T>::new(gpu, config, layout, &self.start).unwrap();
        let mut batch = DeviceBatch::new(gpu);
        let reports = (0..STEPS).map(|_| {
            batch.load(3, &self.images, 5, &self.labels).unwrap();
            let soft = teacher.soft_labels(batch.images()).unwrap();
            learner.step(0.05, &plans, &batch, Some(soft)).unwrap()
        });
        let reports = reports.collect();
        (learner.weights().unwrap(), reports)
    }
}

/// How far the change of the parameters is from `want`'s, relative to that.
fn distance(start: &[f32], got: &[f32], want: &[f32]) -> f64 {
    let norm = |values: Vec<f64>| values.iter().map(|v| v * v).sum::<f64>().sqrt();
    let pairs = || got.iter().zip(want);
    let apart = norm(pairs().map(|(g, w)| f64::from(*g) - f64::from(*w)).collect());
    let change = want.iter().zip(start).map(|(w, s)| f64::from(*w) - f64::from(*s)).collect();
    apart / norm(change)
}

fn compare<T: Precision>(nesterov: bool, bn: BnMode, tolerance: f64) {
    let task = Task::new(nesterov, bn);
    let (want, reports) = task.on_cpu();
    let (got, reports_gpu) = task.on_gpu::<T>(&place::gpus()[0]);
    let distance = distance(&task.start.params, &got.params, &want.params);
    assert!(distance <= tolerance, "parameters: {distance:.1e} apart");
    for (got, want) in got.buffers.iter().zip(&want.buffers) {
        let near = f64::from((got - want).abs()) <= tolerance * f64::from(want.abs().max(0.1));
        assert!(near, "running statistics: {got} for {want}");
    }
    for (got, want) in reports_gpu.iter().zip(&reports) {
        let pairs = [
            ("loss", got.loss, want.loss),
            ("label loss", got.label_loss, want.label_loss),
            ("teacher's loss", got.teacher_loss, want.teacher_loss),
        ];
        for (what, got, want) in pairs {
            assert!((got - want).abs() <= tolerance * want, "{what}: {got} for {want}");
        }
        // bf16 may turn a close decision.
        let hits = 0.26 * f64::from(u8::from(size_of::<T>() == 2));
        assert!((got.top1 - want.top1).abs() <= hits, "top-1: {} for {}", got.top1, want.top1);
    }
}

#[test]
fn f32_steps_are_those_of_the_cpu() {
    compare::<f32>(false, BnMode::Tracked, 1e-4);
    compare::<f32>(true, BnMode::Frozen, 1e-4);
}

#[test]
fn a_gpu_goes_on_where_the_cpu_stopped() {
    let task = Task::new(false, BnMode::Tracked);
    let (want, _) = task.on_cpu();
    let got = task.handed_over(&place::gpus()[0]);
    let distance = distance(&task.start.params, &got.params, &want.params);
    assert!(distance <= 1e-4, "parameters: {distance:.1e} apart");
}

#[test]
fn bf16_steps_are_near_those_of_the_cpu() {
    compare::<bf16>(false, BnMode::Tracked, 0.1);
}
