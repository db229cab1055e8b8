//! A teacher on synthetic images, then random subnets that learn from it: the class of an image is
//! the direction of its grating.

use slimtau_base::{fill_normal, stream};
use slimtau_distill::{Learner, LearnerConfig, Teacher};
use slimtau_space::SearchSpace;
use slimtau_supernet::{BnMode, Layout, Plan, Weights};
use slimtau_train::Sgd;

const SPACE: &str = r#"
    name = "gratings"
    image_size = 16
    channels = 1
    classes = 4
    ratios = [1.0, 0.75, 0.5]
    block = "basic"
    stem = { width = 16, kernel = 3, stride = 1, max_pool = false, codes = 3 }
    stage = [
        { width = 16, depth = [1, 2], stride = 1, codes = 3 },
        { width = 32, depth = [1, 2], stride = 2, codes = 3 },
    ]
"#;
const BATCH: usize = 32;
const SIDE: usize = 16;

/// Images [N, H, W, 1] and labels of a step.
fn batch(step: u64) -> (Vec<f32>, Vec<u32>) {
    let labels: Vec<u32> = (0..BATCH as u32).map(|i| i % 4).collect();
    let mut phases = [0.0; BATCH];
    fill_normal(&mut stream(0, "phases", step), 3.0, &mut phases);
    let mut pixels = vec![0.0; BATCH * SIDE * SIDE];
    fill_normal(&mut stream(0, "noise", step), 1.5, &mut pixels);
    for ((image, label), phase) in pixels.chunks_exact_mut(SIDE * SIDE).zip(&labels).zip(phases) {
        let (sin, cos) = (*label as f32 * std::f32::consts::FRAC_PI_4).sin_cos();
        for (i, pixel) in image.iter_mut().enumerate() {
            let (x, y) = ((i % SIDE) as f32, (i / SIDE) as f32);
            *pixel += (cos * x + sin * y + phase).sin();
        }
    }
    (pixels, labels)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let space = SearchSpace::from_toml(SPACE, "gratings")?;
    let layout = Layout::supernet(&space)?;
    let largest = Plan::subnet(&space, &layout, &space.largest())?;
    let config = LearnerConfig {
        sgd: Sgd { momentum: 0.9, weight_decay: 1e-4, nesterov: false },
        bn: BnMode::Tracked,
        bn_momentum: 0.1,
        label_weight: 1.0,
        teacher_weight: 1.0,
    };
    let mut learner = Learner::new(config.clone(), layout.clone(), Weights::init(&layout, 0));
    for step in 0..100 {
        let (images, labels) = batch(step);
        let report = learner.step(0.05, [&largest], &images, &labels, None)?;
        if step % 20 == 0 {
            println!("teacher, step {step}: loss {:.3}, top-1 {:.3}", report.loss, report.top1);
        }
    }

    let start = learner.weights().clone();
    let mut teacher = Teacher::new(largest, start.clone(), 1.0);
    let mut learner = Learner::new(config, layout.clone(), start);
    for step in 0..100 {
        let (images, labels) = batch(100 + step);
        let mut rng = stream(0, "subnets", step);
        let plans =
            (0..4).map(|_| Plan::subnet(&space, &layout, &space.sample_uniform(&mut rng, true)));
        let plans = plans.collect::<Result<Vec<_>, _>>()?;
        let soft = teacher.soft_labels(&images)?;
        let report = learner.step(0.02, &plans, &images, &labels, Some(soft))?;
        if step % 20 == 0 {
            println!(
                "4 subnets, step {step}: labels {:.3}, teacher {:.3}, top-1 {:.3}",
                report.label_loss, report.teacher_loss, report.top1
            );
        }
    }
    Ok(())
}
