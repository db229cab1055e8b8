//! What must hold of a MoCo step: it learns, it resumes to the same bits, the key encoder follows by
//! momentum, and shuffled BN touches batch statistics only.

use slimtau_base::{TensorFile, fill_normal, stream};
use slimtau_moco::{Moco, MocoConfig, MocoReport};
use slimtau_space::SearchSpace;
use slimtau_supernet::{BnMode, Layout, Plan, Weights};
use slimtau_train::Sgd;
use std::path::Path;
use std::sync::Arc;

const SPACE: &str = r#"
    name = "two-stages"
    image_size = 8
    channels = 1
    classes = 4
    ratios = [1.0, 0.5]
    divisor = 4
    block = "basic"
    stem = { width = 8, kernel = 3, stride = 1, max_pool = false, codes = 2 }
    stage = [
        { width = 8, depth = [1, 2], stride = 1, codes = 2 },
        { width = 16, depth = [1, 2], stride = 2, codes = 2 },
    ]
"#;
const BATCH: usize = 8;

fn config() -> MocoConfig {
    MocoConfig {
        queue: 256,
        dim: 16,
        key_momentum: 0.9,
        key_updates: 1,
        key_groups: 1,
        bn: BnMode::Tracked,
        bn_momentum: 0.1,
        sgd: Sgd { momentum: 0.9, weight_decay: 1e-4, nesterov: false },
        seed: 5,
    }
}

/// The largest subnet of a small supernet, and two noisy views of one batch.
struct Fixture {
    space: SearchSpace,
    layout: Arc<Layout>,
    plan: Plan,
    views: [Vec<f32>; 2],
}

impl Fixture {
    fn new() -> Self {
        let space = SearchSpace::from_toml(SPACE, "test").unwrap();
        let layout = Layout::supernet(&space).unwrap();
        let plan = Plan::subnet(&space, &layout, &space.largest()).unwrap();
        let mut images = vec![0.0; BATCH * plan.image_len()];
        fill_normal(&mut stream(0, "images", 0), 1.0, &mut images);
        let views = [0, 1].map(|view| {
            let mut noise = vec![0.0; images.len()];
            fill_normal(&mut stream(0, "noise", view), 1.0, &mut noise);
            images.iter().zip(noise).map(|(a, b)| a + b).collect()
        });
        Self { space, layout, plan, views }
    }

    fn start(&self, config: MocoConfig) -> Moco {
        Moco::new(config, self.layout.clone(), Weights::init(&self.layout, 1))
    }

    fn step(&self, moco: &mut Moco, step: u64, lr: f64) -> MocoReport {
        moco.step(step, lr, 0.2, &self.plan, [&self.views[0], &self.views[1]]).unwrap()
    }

    fn resume(&self, config: MocoConfig, file: TensorFile) -> Moco {
        Moco::from_file(config, self.layout.clone(), Path::new("moco"), file).unwrap()
    }
}

fn tensor<'a>(file: &'a TensorFile, name: &str) -> &'a [f32] {
    &file.tensors[name].data
}

#[test]
fn the_loss_on_a_fixed_batch_falls() {
    let f = Fixture::new();
    let start = f.start(config()).to_file();
    let mut file = start.clone();
    let mut reports = Vec::new();
    for step in 0..20 {
        // The queue as it was at first: the keys that later enter it are the batch's own, whose
        // presence among the negatives bounds the loss of a fixed batch from below.
        file.tensors.insert("queue".into(), start.tensors["queue"].clone());
        let mut moco = f.resume(config(), file);
        reports.push(f.step(&mut moco, step, 0.05));
        file = moco.to_file();
    }
    let (first, last) = (reports[0], reports[19]);
    assert!(last.loss < 0.7 * first.loss, "{first:?} to {last:?}");
    assert!(last.top1 >= first.top1 && last.top1 > 0.9, "{first:?} to {last:?}");
}

#[test]
fn a_learning_rate_of_zero_changes_only_keys_and_statistics() {
    let f = Fixture::new();
    let mut moco = f.start(config());
    let before = moco.to_file();
    f.step(&mut moco, 0, 0.0);
    let after = moco.to_file();
    assert_eq!(tensor(&before, "query.params"), tensor(&after, "query.params"));
    assert_ne!(tensor(&before, "query.buffers"), tensor(&after, "query.buffers"));
    let (old, new) = (tensor(&before, "queue"), tensor(&after, "queue"));
    let pushed = BATCH * config().dim;
    assert_eq!(old[pushed..], new[pushed..]);
    assert_ne!(old[..pushed], new[..pushed]);
    for key in new[..pushed].chunks(config().dim) {
        let norm: f32 = key.iter().map(|v| v * v).sum();
        assert!((norm - 1.0).abs() < 1e-5, "a key of squared length {norm}");
    }
}

#[test]
fn a_resumed_run_has_the_bits_of_an_uninterrupted_one() {
    let f = Fixture::new();
    for bn in [BnMode::Tracked, BnMode::Frozen, BnMode::Recalibrated] {
        let config = MocoConfig { key_groups: 2, bn, ..config() };
        let mut whole = f.start(config.clone());
        for step in 0..3 {
            f.step(&mut whole, step, 0.05);
        }
        let mut resumed = f.resume(config, whole.to_file());
        assert_eq!(resumed.to_file(), whole.to_file());
        for step in 3..6 {
            let reports = [&mut resumed, &mut whole].map(|moco| f.step(moco, step, 0.05));
            assert_eq!(reports[0], reports[1], "{bn}, step {step}");
        }
        assert_eq!(resumed.to_file(), whole.to_file(), "{bn}");
        assert_eq!(resumed.encoder(), whole.encoder());
    }
}

#[test]
fn shuffled_key_groups_are_deterministic_and_change_batch_statistics_only() {
    let f = Fixture::new();
    let queue = |bn, key_groups, step| {
        let mut moco = f.start(MocoConfig { bn, key_groups, ..config() });
        f.step(&mut moco, step, 0.05);
        tensor(&moco.to_file(), "queue")[..BATCH * config().dim].to_vec()
    };
    let plain = queue(BnMode::Recalibrated, 1, 0);
    let grouped = queue(BnMode::Recalibrated, 4, 0);
    assert_eq!(grouped, queue(BnMode::Recalibrated, 4, 0));
    assert_ne!(grouped, plain);
    assert_ne!(grouped, queue(BnMode::Recalibrated, 4, 1), "each step shuffles anew");
    assert_eq!(plain, queue(BnMode::Recalibrated, 1, 1), "one group needs no shuffle");

    // Constant statistics leave nothing to leak: every image has its key, in its own place.
    let (plain, grouped) = (queue(BnMode::Frozen, 1, 0), queue(BnMode::Frozen, 4, 0));
    for (i, (a, b)) in plain.iter().zip(&grouped).enumerate() {
        assert!((a - b).abs() < 1e-5, "key value {i}: {a} and {b}");
    }
}

#[test]
fn the_key_encoder_follows_by_momentum() {
    let f = Fixture::new();
    for (momentum, updates) in [(0.9f32, 1u32), (0.9, 2), (0.999, 1), (0.0, 1), (1.0, 3)] {
        let config = MocoConfig { key_momentum: momentum, key_updates: updates, ..config() };
        let mut moco = f.start(config);
        f.step(&mut moco, 0, 0.05);
        let before = moco.to_file();
        f.step(&mut moco, 1, 0.05);
        let after = moco.to_file();
        let (old, query) = (tensor(&before, "key.params"), tensor(&before, "query.params"));
        assert_ne!(old, query, "the query encoder has moved away");
        let kept = f64::from(momentum).powi(updates as i32);
        for (i, got) in tensor(&after, "key.params").iter().enumerate() {
            let expected = kept * f64::from(old[i]) + (1.0 - kept) * f64::from(query[i]);
            assert!(
                (f64::from(*got) - expected).abs() <= 1e-6 * expected.abs().max(1e-2),
                "momentum {momentum}, {updates} update(s), value {i}: {got}, not {expected}"
            );
        }
    }
}

#[test]
fn a_narrow_subnet_trains_too_and_leaves_the_rest_alone() {
    let f = Fixture::new();
    let smallest = Plan::subnet(&f.space, &f.layout, &f.space.smallest()).unwrap();
    let sgd = Sgd { momentum: 0.9, weight_decay: 0.0, nesterov: false };
    let mut moco = f.start(MocoConfig { sgd, ..config() });
    let before = moco.encoder();
    moco.step(0, 0.05, 0.2, &smallest, [&f.views[0], &f.views[1]]).unwrap();
    let after = moco.encoder();
    let moved = before.params.iter().zip(&after.params).filter(|(a, b)| a != b).count() as u64;
    assert!(moved > 0 && moved <= smallest.network().params(), "{moved} values moved");
    assert_eq!(after.params.len(), f.layout.params(), "the head is not part of the encoder");
}

#[test]
fn a_file_of_other_settings_is_refused() {
    let f = Fixture::new();
    let file = f.start(config()).to_file();
    let check = |config: MocoConfig, file: TensorFile, expect: &str| {
        let found = Moco::from_file(config, f.layout.clone(), Path::new("m.safetensors"), file);
        let error = found.err().expect("it does not fit").to_string();
        assert!(error.contains("m.safetensors") && error.contains(expect), "{error}");
    };
    check(MocoConfig { queue: 128, ..config() }, file.clone(), "`queue`");
    check(MocoConfig { dim: 8, ..config() }, file.clone(), "`query.params`");
    let mut missing = file.clone();
    missing.meta.clear();
    check(config(), missing, "queue.position");
    let mut outside = file;
    outside.meta.insert("queue.position".into(), "256".into());
    check(config(), outside, "256");
}
