//! The step with learning rates and momentum by subnet, weights by image, and gradient norms.

use slimtau_base::{fill_normal, stream};
use slimtau_distill::{GradientNorms, LabelledBatch, Learner, LearnerConfig, SubnetTask};
use slimtau_space::SearchSpace;
use slimtau_supernet::{BnMode, Layout, Plan, Session, Weights};
use slimtau_train::Sgd;
use std::path::Path;
use std::sync::Arc;

const SPACE: &str = r#"
    name = "small"
    image_size = 8
    channels = 1
    classes = 5
    ratios = [1.0, 0.75, 0.5]
    divisor = 4
    block = "basic"
    stem = { width = 8, kernel = 3, stride = 1, max_pool = false, codes = 3 }
    stage = [
        { width = 8, depth = [1, 2], stride = 1, codes = 3 },
        { width = 16, depth = [1, 2], stride = 2, codes = 3 },
    ]
"#;
const N: usize = 6;
const CLASSES: usize = 5;

struct Fixture {
    layout: Arc<Layout>,
    start: Weights,
    plans: Vec<Plan>,
    images: Vec<f32>,
    labels: Vec<u32>,
    soft: Vec<f32>,
}

impl Fixture {
    fn new() -> Self {
        let space = SearchSpace::from_toml(SPACE, "test").unwrap();
        let layout = Layout::supernet(&space).unwrap();
        // The smallest, the largest and one between them.
        let plans: Vec<Plan> = ["11333003300", "22111111111", "21212323100"]
            .iter()
            .map(|code| Plan::subnet(&space, &layout, &space.parse(code).unwrap()).unwrap())
            .collect();
        let mut images = vec![0.0; N * plans[0].image_len()];
        fill_normal(&mut stream(1, "images", 0), 1.0, &mut images);
        let mut soft = vec![0.0; N * CLASSES];
        fill_normal(&mut stream(2, "soft", 0), 0.02, &mut soft);
        soft.iter_mut().for_each(|p| *p = p.abs() + 0.1);
        Self {
            start: Weights::init(&layout, 3),
            layout,
            plans,
            images,
            labels: (0..N as u32).map(|i| i * 3 % 5).collect(),
            soft,
        }
    }

    fn learner(&self, momentum: f32, weight_decay: f32, bn: BnMode) -> Learner {
        let sgd = Sgd { momentum, weight_decay, nesterov: false };
        let config =
            LearnerConfig { sgd, bn, bn_momentum: 0.1, label_weight: 1.0, teacher_weight: 0.5 };
        Learner::new(config, self.layout.clone(), self.start.clone())
    }

    fn batch(&self) -> LabelledBatch<'_> {
        let Self { images, labels, soft, .. } = self;
        LabelledBatch { images, labels, soft_labels: Some(soft), weights: None }
    }

    fn tasks(&self, rates: &[f64], groups: &[usize]) -> Vec<SubnetTask<'_>> {
        let rates = rates.iter().zip(groups);
        let task = |(plan, (&lr, &group))| SubnetTask { plan, lr, group };
        self.plans.iter().zip(rates).map(task).collect()
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
}

#[test]
fn one_group_at_one_rate_is_the_ordinary_step() {
    let f = Fixture::new();
    let (mut plain, mut grouped) =
        (f.learner(0.9, 1e-3, BnMode::Tracked), f.learner(0.9, 1e-3, BnMode::Tracked));
    for lr in [0.1, 0.1, 0.07] {
        let soft = Some(&f.soft[..]);
        let expected = plain.step(lr, &f.plans, &f.images, &f.labels, soft).unwrap();
        let found = grouped.step_grouped(&f.tasks(&[lr; 3], &[0; 3]), &f.batch(), None).unwrap();
        assert_eq!(found, expected);
    }
    assert_eq!(bits(&grouped.weights().params), bits(&plain.weights().params));
    assert_eq!(grouped.to_file(), plain.to_file());
}

#[test]
fn weights_of_one_and_norms_change_nothing() {
    let f = Fixture::new();
    let (mut plain, mut weighted) =
        (f.learner(0.9, 1e-3, BnMode::Tracked), f.learner(0.9, 1e-3, BnMode::Tracked));
    let batch = LabelledBatch { weights: Some(&[1.0; N]), ..f.batch() };
    let mut norms = GradientNorms::default();
    for _ in 0..3 {
        let expected = plain.step(0.1, &f.plans[..1], &f.images, &f.labels, Some(&f.soft)).unwrap();
        let found =
            weighted.step_grouped(&f.tasks(&[0.1], &[0]), &batch, Some(&mut norms)).unwrap();
        assert!((found.loss - expected.loss).abs() < 1e-12 && found.top1 == expected.top1);
    }
    assert_eq!(weighted.weights(), plain.weights());
}

/// For their norms, subnets go through stems of their own.
#[test]
fn norms_of_several_subnets_change_an_update_by_rounding_only() {
    let f = Fixture::new();
    let (mut plain, mut measured) =
        (f.learner(0.9, 1e-3, BnMode::Tracked), f.learner(0.9, 1e-3, BnMode::Tracked));
    let tasks = f.tasks(&[0.1, 0.05, 0.1], &[0; 3]);
    let mut norms = GradientNorms::default();
    let expected = plain.step_grouped(&tasks, &f.batch(), None).unwrap();
    let found = measured.step_grouped(&tasks, &f.batch(), Some(&mut norms)).unwrap();
    assert!((found.loss - expected.loss).abs() < 1e-5, "{found:?}, {expected:?}");
    let (plain, measured) = (&plain.weights().params, &measured.weights().params);
    let moved = distance(plain, &f.start.params);
    let apart = distance(plain, measured);
    assert!(apart < 1e-4 * moved, "{apart} apart, {moved} from the start");
}

#[test]
fn each_group_steps_with_its_own_velocity() {
    // By hand: one learner whose velocity is exchanged before each group's turn.
    let f = Fixture::new();
    let wd = 3e-3f32;
    let mut grouped = f.learner(0.9, wd, BnMode::Tracked).with_momentum_groups(3);
    assert_eq!(grouped.momentum_groups(), 3);
    let third = |n: f32| (n / 3.0) * wd;
    let rates = [[0.1, 0.05, 0.1], [0.08, 0.03, 0.08], [0.06, 0.01, 0.06]];
    let path = Path::new("by hand");
    let mut state = grouped.to_file();
    for rates in rates {
        // Subnets 0 and 2 are of group 2, subnet 1 of group 0: group 2 comes first; 1 rests.
        for (group, members) in [(2, &[0, 2][..]), (0, &[1][..])] {
            let name = |g| if g == 0 { "velocity".to_owned() } else { format!("velocity.{g}") };
            let mut own = state.clone();
            let velocity = own.tensors[&name(group)].clone();
            own.tensors.retain(|name, _| !name.starts_with("velocity."));
            own.tensors.insert("velocity".into(), velocity);
            let sgd =
                Sgd { momentum: 0.9, weight_decay: third(members.len() as f32), nesterov: false };
            let config = LearnerConfig {
                sgd,
                bn: BnMode::Tracked,
                bn_momentum: 0.1,
                label_weight: 1.0,
                teacher_weight: 0.5,
            };
            let mut one = Learner::from_file(config, f.layout.clone(), path, own).unwrap();
            let plans = members.iter().map(|&k: &usize| &f.plans[k]);
            one.step(rates[members[0]], plans, &f.images, &f.labels, Some(&f.soft)).unwrap();
            let mut after = one.to_file();
            let velocity = after.tensors.remove("velocity").unwrap();
            state.tensors.extend(after.tensors);
            state.tensors.insert(name(group), velocity);
        }
        grouped.step_grouped(&f.tasks(&rates, &[2, 0, 2]), &f.batch(), None).unwrap();
        assert_eq!(grouped.to_file(), state);
    }
    assert!(state.tensors["velocity.1"].data.iter().all(|&v| v == 0.0), "group 1 rests");
    // A resumed one goes on alike.
    let config = LearnerConfig {
        sgd: Sgd { momentum: 0.9, weight_decay: wd, nesterov: false },
        bn: BnMode::Tracked,
        bn_momentum: 0.1,
        label_weight: 1.0,
        teacher_weight: 0.5,
    };
    let mut resumed = Learner::from_file(config, f.layout.clone(), path, state).unwrap();
    assert_eq!(resumed.momentum_groups(), 3);
    for learner in [&mut resumed, &mut grouped] {
        learner.step_grouped(&f.tasks(&[0.1, 0.2, 0.3], &[0, 1, 2]), &f.batch(), None).unwrap();
    }
    assert_eq!(resumed.to_file(), grouped.to_file());
}

#[test]
fn rates_within_a_group_scale_gradients() {
    // Without momentum and decay the update is sum_k lr_k g_k, at one and the same weights.
    let f = Fixture::new();
    let learner = || f.learner(0.0, 0.0, BnMode::Frozen);
    let update = |tasks: &[SubnetTask<'_>]| -> Vec<f32> {
        let mut learner = learner();
        learner.step_grouped(tasks, &f.batch(), None).unwrap();
        let after = &learner.weights().params;
        after.iter().zip(&f.start.params).map(|(a, b)| a - b).collect()
    };
    let together = update(&f.tasks(&[0.1, 0.02, 0.06], &[0; 3]));
    let mut sum = vec![0.0f32; together.len()];
    for (plan, lr) in f.plans.iter().zip([0.1, 0.02, 0.06]) {
        let alone = update(&[SubnetTask { plan, lr, group: 0 }]);
        sum.iter_mut().zip(alone).for_each(|(s, a)| *s += a);
    }
    let size = distance(&sum, &vec![0.0; sum.len()]);
    assert!(size > 1e-3 && distance(&together, &sum) < 1e-5 * size.max(0.1), "{size}");
}

#[test]
fn norms_are_those_of_the_gradients() {
    let f = Fixture::new();
    let mut learner = f.learner(0.0, 0.0, BnMode::Frozen).with_momentum_groups(2);
    let mut norms = GradientNorms::default();
    let batch = LabelledBatch { soft_labels: None, ..f.batch() };
    // Two subnets at different rates of one group: the norms are of unscaled gradients.
    learner.step_grouped(&f.tasks(&[0.1, 0.3], &[0; 2]), &batch, Some(&mut norms)).unwrap();
    let mut image_norms = vec![0.0f64; N];
    for (k, plan) in f.plans[..2].iter().enumerate() {
        // At rate 1, without momentum, a step is the gradient.
        let mut alone = f.learner(0.0, 0.0, BnMode::Frozen);
        alone.step(1.0, [plan], &f.images, &f.labels, None).unwrap();
        let moved = distance(&alone.weights().params, &f.start.params);
        assert!((norms.subnets[k] - moved).abs() < 1e-3 * moved, "{} {moved}", norms.subnets[k]);
        let mut session = Session::new();
        let Weights { params, buffers } = &f.start;
        let logits = session.infer(plan, params, buffers, &f.images).unwrap();
        for (i, row) in logits.chunks(CLASSES).enumerate() {
            let total: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
            let error = |c: usize| {
                f64::from(row[c]).exp() / total - f64::from(u8::from(c == f.labels[i] as usize))
            };
            image_norms[i] += (0..CLASSES).map(|c| error(c).powi(2)).sum::<f64>().sqrt() / 2.0;
        }
    }
    for (found, expected) in norms.images.iter().zip(&image_norms) {
        assert!((f64::from(*found) - expected).abs() < 1e-4, "{found} for {expected}");
    }
}

#[test]
fn the_gradient_of_the_weighted_loss_is_unbiased() {
    // Expectation over one drawn image, written out: sum_i p_i of the update with weight 1 / (N p_i).
    let f = Fixture::new();
    let probabilities = [0.3, 0.05, 0.1, 0.25, 0.2, 0.1];
    let update = |images: &[f32], labels: &[u32], soft: &[f32], weights: Option<&[f32]>| {
        let mut learner = f.learner(0.0, 0.0, BnMode::Frozen);
        let batch = LabelledBatch { images, labels, soft_labels: Some(soft), weights };
        let report = learner.step_grouped(&f.tasks(&[1.0], &[0]), &batch, None).unwrap();
        let after = &learner.weights().params;
        let moved = after.iter().zip(&f.start.params).map(|(a, b)| f64::from(*a) - f64::from(*b));
        (report.loss, moved.collect::<Vec<f64>>())
    };
    let (loss, plain) = update(&f.images, &f.labels, &f.soft, None);
    let expectation = |weight: &dyn Fn(f64) -> f32| {
        let (mut expected_loss, mut expectation) = (0.0, vec![0.0; plain.len()]);
        let len = f.images.len() / N;
        for (i, p) in probabilities.into_iter().enumerate() {
            let weight = [weight(p)];
            let soft = &f.soft[i * CLASSES..][..CLASSES];
            let (loss, moved) =
                update(&f.images[i * len..][..len], &f.labels[i..=i], soft, Some(&weight));
            expected_loss += p * loss;
            expectation.iter_mut().zip(moved).for_each(|(e, m)| *e += p * m);
        }
        let squares = plain.iter().zip(&expectation).map(|(a, b)| (a - b).powi(2));
        (expected_loss, squares.sum::<f64>().sqrt())
    };
    let size = plain.iter().map(|a| a * a).sum::<f64>().sqrt();
    let (expected_loss, off) = expectation(&|p| (1.0 / (N as f64 * p)) as f32);
    assert!((expected_loss - loss).abs() < 1e-6 * loss, "{expected_loss} {loss}");
    assert!(off < 1e-5 * size, "{off} of {size}");
    // Without the weights it is biased.
    let (_, off) = expectation(&|_| 1.0);
    assert!(off > 0.05 * size, "{off} of {size}");
}
