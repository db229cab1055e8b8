//! SGD, schedules, clipping and averaging against PyTorch's (`goldens.json`, made by
//! `scripts/goldens_train.py`).

use serde::Deserialize;
use slimtau_train::{Schedule, ScheduleKind, Sgd, clip_global_norm, ema_update};
use std::ops::Range;

#[derive(Deserialize)]
struct Goldens {
    sgd: Vec<SgdCase>,
    schedules: Vec<ScheduleCase>,
    clipping: Vec<ClipCase>,
    averages: Vec<AverageCase>,
}

#[derive(Deserialize)]
struct SgdCase {
    momentum: f32,
    weight_decay: f32,
    nesterov: bool,
    no_decay: Vec<usize>,
    sizes: Vec<usize>,
    start: Vec<f32>,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    lr: f64,
    /// By tensor; none where PyTorch skipped it.
    grads: Vec<Option<Vec<f32>>>,
    /// What must be there after the step.
    params: Vec<f32>,
}

#[derive(Deserialize)]
struct ScheduleCase {
    kind: String,
    base_lr: f64,
    warmup: u64,
    total: u64,
    final_lr: f64,
    every: u64,
    factor: f64,
    rates: Vec<f64>,
}

#[derive(Deserialize)]
struct ClipCase {
    max_norm: f64,
    before: Vec<f32>,
    norm: f64,
    after: Vec<f32>,
}

#[derive(Deserialize)]
struct AverageCase {
    decay: f32,
    start: Vec<f32>,
    currents: Vec<Vec<f32>>,
    average: Vec<f32>,
}

fn goldens() -> Goldens {
    serde_json::from_str(include_str!("goldens.json")).expect("the script wrote it")
}

/// PyTorch fuses some of its multiplications and additions: equal but for the last bits.
fn assert_close(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= 1e-6 * e.abs().max(1.0), "{what}, value {i}: {f}, PyTorch {e}");
    }
}

#[test]
fn sgd() {
    for (n, case) in goldens().sgd.into_iter().enumerate() {
        let SgdCase { momentum, weight_decay, nesterov, .. } = case;
        let sgd = Sgd { momentum, weight_decay, nesterov };
        let mut end = 0;
        let tensors: Vec<Range<usize>> = case
            .sizes
            .iter()
            .map(|size| {
                end += size;
                end - size..end
            })
            .collect();
        let no_decay: Vec<_> = case.no_decay.iter().map(|&t| tensors[t].clone()).collect();
        let mut params = case.start;
        let (mut grads, mut velocity) = (vec![0.0; end], vec![0.0; end]);
        for (s, step) in case.steps.iter().enumerate() {
            let mut active = Vec::new();
            for (tensor, given) in tensors.iter().zip(&step.grads) {
                if let Some(given) = given {
                    grads[tensor.clone()].copy_from_slice(given);
                    active.push(tensor.clone());
                }
            }
            sgd.step_excluding(step.lr, &mut params, &mut grads, &mut velocity, &active, &no_decay);
            assert_close(&format!("case {n}, step {s}"), &params, &step.params);
            assert!(grads.iter().all(|&g| g == 0.0), "gradients are ready for the next step");
        }
    }
}

#[test]
fn schedules() {
    for case in goldens().schedules {
        let kind = match case.kind.as_str() {
            "cosine" => ScheduleKind::Cosine,
            "step" => ScheduleKind::Step { every: case.every, factor: case.factor },
            "constant" => ScheduleKind::Constant,
            other => panic!("unknown kind {other}"),
        };
        let schedule = Schedule {
            base_lr: case.base_lr,
            warmup_steps: case.warmup,
            total_steps: case.total,
            kind,
            final_lr: case.final_lr,
        };
        for (step, expected) in case.rates.iter().enumerate() {
            let found = schedule.lr(step as u64);
            assert!(
                (found - expected).abs() <= 1e-12 * case.base_lr,
                "{kind:?}, step {step}: {found}, PyTorch {expected}"
            );
        }
    }
}

#[test]
fn clipping() {
    for case in goldens().clipping {
        let mut grads = case.before;
        let norm = clip_global_norm(&mut grads, case.max_norm);
        assert!((norm - case.norm).abs() <= 1e-6 * case.norm, "{norm}, PyTorch {}", case.norm);
        assert_close("clipped", &grads, &case.after);
    }
}

#[test]
fn averages() {
    for case in goldens().averages {
        let mut average = case.start;
        for current in &case.currents {
            ema_update(case.decay, &mut average, current);
        }
        assert_close("average", &average, &case.average);
    }
}
