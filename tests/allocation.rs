//! Whole steps of every kind allocate nothing once their memory has grown: not one byte, on any
//! thread.
//!
//! A step starts with its batch in memory and its plans made, and ends with the weights updated (or the
//! logits there). Drawing subnets and planning them comes before: that makes some small lists of
//! layers, whose number and size depend on the depth of the networks alone; the end of the test bounds
//! them. Loading images is the loader's.
//!
//! Everything runs inside the pool, as the program does it, so that rayon has nothing to hand over
//! between its queues. What rayon allocates besides, when a queue overflows, would count too: the
//! counter knows no exceptions.

use slimtau_base::{fill_normal, stream};
use slimtau_ccfs::{Sampler, SamplerKind};
use slimtau_distill::{GradientNorms, LabelledBatch, Learner, LearnerConfig, SubnetTask, Teacher};
use slimtau_moco::{Moco, MocoConfig};
use slimtau_space::SearchSpace;
use slimtau_supernet::{
    BnMode, Layout, Plan, PrefixTree, Session, Statistics, TreeSession, Weights,
};
use slimtau_train::Sgd;
use std::alloc::{GlobalAlloc, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Calls of the allocator, and the bytes that they asked for.
static CALLS: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);

struct Counting;

fn count(bytes: usize) {
    CALLS.fetch_add(1, Ordering::Relaxed);
    BYTES.fetch_add(bytes, Ordering::Relaxed);
}

// SAFETY: every call is passed on to the system's allocator unchanged, which keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: std::alloc::Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's obligations are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: std::alloc::Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: std::alloc::Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: as above; `old` came from this allocator, hence from `System`, with this layout.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: std::alloc::Layout) {
        // SAFETY: `pointer` came from this allocator, hence from `System`, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Calls and bytes of the allocator while something runs.
fn allocated<R>(run: impl FnOnce() -> R) -> (R, usize, usize) {
    let before = (CALLS.load(Ordering::SeqCst), BYTES.load(Ordering::SeqCst));
    let result = run();
    let after = (CALLS.load(Ordering::SeqCst), BYTES.load(Ordering::SeqCst));
    (result, after.0 - before.0, after.1 - before.1)
}

/// Subnets of a step.
const KEEP: usize = 4;
/// Enough for a matrix unit, where there is one.
const BATCH: usize = 8;

/// A small network with everything in it: a max pool, projections, several stages.
const SPACE: &str = r#"
    name = "pooled"
    image_size = 36
    channels = 3
    classes = 12
    ratios = [1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7]
    divisor = 8
    block = "basic"
    stem = { width = 32, kernel = 7, stride = 2, max_pool = true, codes = 7 }
    stage = [
        { width = 40, depth = [1, 2], stride = 1, codes = 7 },
        { width = 64, depth = [1, 3], stride = 2, codes = 7 },
        { width = 136, depth = [1, 2], stride = 2, codes = 7 },
    ]
"#;

struct Fixture {
    space: SearchSpace,
    layout: Arc<Layout>,
    weights: Weights,
    largest: Plan,
    images: Vec<f32>,
    labels: Vec<u32>,
    sampler: Sampler,
}

impl Fixture {
    fn new(space: SearchSpace) -> Self {
        let layout = Layout::supernet(&space).unwrap();
        let largest = Plan::subnet(&space, &layout, &space.largest()).unwrap();
        let mut images = vec![0.0; BATCH * largest.image_len()];
        fill_normal(&mut stream(0, "images", 0), 1.0, &mut images);
        Self {
            weights: Weights::init(&layout, 0),
            labels: (0..BATCH as u32).map(|i| i % space.classes as u32).collect(),
            sampler: Sampler::new(&space, SamplerKind::Uniform, KEEP, KEEP, 0),
            space,
            layout,
            largest,
            images,
        }
    }

    fn sgd(&self) -> Sgd {
        Sgd { momentum: 0.9, weight_decay: 1e-4, nesterov: false }
    }

    fn learner(&self, bn: BnMode) -> Learner {
        let config = LearnerConfig {
            sgd: self.sgd(),
            bn,
            bn_momentum: 0.1,
            label_weight: 1.0,
            teacher_weight: 1.0,
        };
        Learner::new(config, self.layout.clone(), self.weights.clone())
    }

    fn plans(&self, step: u64) -> Vec<Plan> {
        let archs = self.sampler.draw(step);
        archs.iter().map(|a| Plan::subnet(&self.space, &self.layout, a).unwrap()).collect()
    }
}

/// Steps of random subnets before those that are counted, and these.
const WARM_UP: u64 = 3;
const COUNTED: u64 = 8;

/// The widest network at every depth that moves a later stage to another place among the blocks.
fn widest(f: &Fixture) -> Vec<Plan> {
    let mut arch = f.space.largest();
    let mut archs = vec![arch.clone()];
    for (i, stage) in f.space.stages.iter().enumerate() {
        while arch.stages[i].len() > stage.depth.0 {
            arch.stages[i].pop();
            archs.push(arch.clone());
        }
    }
    archs.iter().map(|a| Plan::subnet(&f.space, &f.layout, a).unwrap()).collect()
}

/// Holds `step` to allocating nothing once its memory has grown. Its plans are made beforehand.
fn steady(what: &str, f: &Fixture, mut step: impl FnMut(u64, &[Plan])) {
    // `KEEP` times the largest: no later list of tensors is longer.
    step(0, &vec![f.largest.clone(); KEEP]);
    for i in 1..=WARM_UP {
        step(i, &f.plans(i));
    }
    for i in WARM_UP + 1..=WARM_UP + COUNTED {
        let plans = f.plans(i);
        let ((), calls, bytes) = allocated(|| step(i, &plans));
        let threads = rayon::current_num_threads();
        assert_eq!(
            (calls, bytes),
            (0, 0),
            "{what}, step {i}, {threads} threads: allocations and their bytes"
        );
    }
}

fn check_all(f: &Fixture, modes: &[BnMode]) {
    let Fixture { images, labels, largest, .. } = f;
    for &bn in modes {
        let mut teacher = Teacher::new(largest.clone(), f.weights.clone(), 1.0);
        let mut learner = f.learner(bn);
        steady("step2", f, |_, plans| {
            let soft = teacher.soft_labels(images).unwrap();
            learner.step(5e-4, plans, images, labels, Some(soft)).unwrap();
        });
        // Every second subnet in another momentum group and at another rate; images weighted, norms
        // measured. The list of tasks is the caller's.
        let mut learner = f.learner(bn).with_momentum_groups(2);
        let (weights, mut norms) = ([0.5; BATCH], GradientNorms::default());
        steady("step2, grouped", f, |_, plans| {
            let soft = teacher.soft_labels(images).unwrap();
            let (soft_labels, weights) = (Some(soft), Some(&weights[..]));
            let batch = LabelledBatch { images, labels, soft_labels, weights };
            // As many tasks as a step has, whatever the number of plans.
            for plans in plans.chunks(KEEP) {
                let tasks: [_; KEEP] = std::array::from_fn(|i| SubnetTask {
                    plan: &plans[i % plans.len()],
                    lr: 5e-4 / (1 + i) as f64,
                    group: i % 2,
                });
                learner.step_grouped(&tasks, &batch, Some(&mut norms)).unwrap();
            }
        });
        let mut learner = f.learner(bn);
        steady("standalone", f, |_, _| {
            learner.step(5e-4, [largest], images, labels, None).unwrap();
        });
    }
    for key_groups in [1, 2] {
        let config = MocoConfig {
            queue: 1500,
            dim: 40,
            key_momentum: 0.999,
            key_updates: 1,
            key_groups,
            bn: BnMode::Tracked,
            bn_momentum: 0.1,
            sgd: f.sgd(),
            seed: 0,
        };
        let mut moco = Moco::new(config, f.layout.clone(), f.weights.clone());
        steady("step1", f, |step, _| {
            moco.step(step, 5e-4, 0.1, largest, [images, images]).unwrap();
        });
    }
    let (mut session, Weights { params, buffers }) = (Session::new(), &f.weights);
    steady("eval", f, |_, plans| {
        for plan in plans {
            session.infer(plan, params, buffers, images).unwrap();
        }
    });
    let tree = PrefixTree::new(widest(f));
    let (mut session, mut own) = (TreeSession::default(), tree.recalibration());
    let mut list = || {
        own.measure(&mut session, params, images).unwrap();
        for statistics in [Statistics::Shared(&buffers[..]), Statistics::Recalibrated(&own)] {
            tree.infer(&mut session, params, statistics, images, |_, _| ()).unwrap();
        }
    };
    list();
    let ((), calls, bytes) = allocated(list);
    assert_eq!((calls, bytes), (0, 0), "a list of subnets: allocations and their bytes");
}

/// One test for all: tests of a program run at the same time, and would count each other.
#[test]
fn steps_allocate_nothing_and_plans_little() {
    let pooled = SearchSpace::from_toml(SPACE, "test").unwrap();
    let (pooled, mini) = (Fixture::new(pooled), Fixture::new(SearchSpace::preset("mini").unwrap()));
    let modes = [BnMode::Tracked, BnMode::Frozen, BnMode::Recalibrated];
    for threads in [1, 2, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| check_all(&pooled, &modes));
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    pool.install(|| check_all(&mini, &modes[..1]));

    // A run's first step takes the memory of all, were its subnet the shallowest.
    let (images, labels) = (&mini.images[..], &mini.labels[..]);
    let steps = || {
        let mut learner = mini.learner(BnMode::Tracked);
        move |plans: &[Plan]| {
            learner.step(5e-4, plans, images, labels, None).unwrap();
        }
    };
    let mut step = steps();
    let plans = widest(&mini);
    let ((), _, first) = allocated(|| step(&plans[plans.len() - 1..]));
    let ((), _, later) = allocated(|| step(&plans));
    assert!(later < first / 10, "{first} bytes at the first step, {later} at another");

    // Of several subnets, those with narrower stems take no map that the first step did not.
    let mut step = steps();
    let narrow = (1..).flat_map(|i| mini.plans(i));
    let stem = mini.largest.stem_channels();
    let mut narrow: Vec<_> = narrow.filter(|p| p.stem_channels() < stem).take(KEEP - 1).collect();
    narrow.push(mini.largest.clone());
    step(&vec![mini.largest.clone(); KEEP]);
    let ((), _, bytes) = allocated(|| step(&narrow));
    // Its resolution is that of the images.
    let map = size_of_val(images) / mini.space.channels * stem;
    assert!(bytes < map / 2, "{bytes} bytes for narrower stems, whose maps have {map}");

    // An evaluation takes all of its memory in its first pass, be its blocks even or odd in number: each map keeps its place.
    pool.install(|| {
        let Fixture { weights: Weights { params, buffers }, images, .. } = &pooled;
        for plan in &widest(&pooled) {
            let mut session = Session::new();
            let mut pass = || {
                session.infer(plan, params, buffers, images).unwrap();
            };
            pass();
            let ((), calls, bytes) = allocated(pass);
            assert_eq!((calls, bytes), (0, 0), "a second evaluation: allocations and their bytes");
        }
    });

    // What a step's subnets take before it: a fraction of one image's activations.
    let (_, calls, bytes) = allocated(|| mini.plans(1));
    assert!(calls <= 400 && bytes <= 128 << 10, "{calls} allocations, {bytes} bytes for the plans");
}
