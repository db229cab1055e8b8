//! Trains a linear regression through the stage loop, resumably: run it, and run it
//! again to see that a finished stage is not repeated; kill it half-way and run it again to see it go on.
//!
//! `cargo run -p slimtau-train --example linear_regression -- FOLDER`

use rand::RngExt;
use slimtau_base::{TensorFile, stream};
use slimtau_train::{
    Outcome, Schedule, ScheduleKind, Sgd, StageSettings, StepReport, TrainState, read_log,
    run_stage,
};
use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

const TRUTH: [f32; 4] = [1.0, -2.0, 0.5, 3.0];
const STEPS: u64 = 200;
const BATCH: usize = 32;
const SEED: u64 = 1;

struct Regression {
    sgd: Sgd,
    schedule: Schedule,
    weights: Vec<f32>,
    velocity: Vec<f32>,
}

impl TrainState for Regression {
    fn step(&mut self, step: u64) -> Result<StepReport, Box<dyn Error + Send + Sync>> {
        // The batch is a function of the step's number: nothing to save, nothing to wind forward.
        let mut draw = stream(SEED, "batch", step);
        let mut grads = vec![0.0; TRUTH.len()];
        let mut loss = 0.0;
        for _ in 0..BATCH {
            let x: [f32; TRUTH.len()] = std::array::from_fn(|_| draw.random_range(-1.0..1.0));
            let error: f32 = (0..x.len()).map(|i| (self.weights[i] - TRUTH[i]) * x[i]).sum();
            loss += f64::from(error * error) / (2 * BATCH) as f64;
            for (g, x) in grads.iter_mut().zip(x) {
                *g += error * x / BATCH as f32;
            }
        }
        let lr = self.schedule.lr(step);
        let all = 0..TRUTH.len();
        self.sgd.step(lr, &mut self.weights, &mut grads, &mut self.velocity, &[all]);
        Ok(StepReport { loss, lr, images: BATCH, extra: BTreeMap::new() })
    }

    fn save(&self) -> Result<TensorFile, Box<dyn Error + Send + Sync>> {
        let mut file = TensorFile::default();
        file.insert("weights", &[TRUTH.len()], self.weights.clone());
        file.insert("velocity", &[TRUTH.len()], self.velocity.clone());
        Ok(file)
    }

    fn restore(
        &mut self,
        path: &Path,
        _step: u64,
        mut state: TensorFile,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.weights = state.take(path, "weights", &[TRUTH.len()])?;
        self.velocity = state.take(path, "velocity", &[TRUTH.len()])?;
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).ok_or("usage: linear_regression FOLDER")?;
    let settings = StageSettings {
        name: "regression".into(),
        config: format!("seed {SEED}, {STEPS} steps"),
        folder: PathBuf::from(folder),
        total_steps: STEPS,
        log_every: 20,
        checkpoint_every: 50,
    };
    let mut state = Regression {
        sgd: Sgd { momentum: 0.9, weight_decay: 0.0, nesterov: true },
        schedule: Schedule {
            base_lr: 0.2,
            warmup_steps: 10,
            total_steps: STEPS,
            kind: ScheduleKind::Cosine,
            final_lr: 0.0,
        },
        weights: vec![0.0; TRUTH.len()],
        velocity: vec![0.0; TRUTH.len()],
    };
    let mut steps = 0;
    let outcome = run_stage(&settings, &mut state, &AtomicBool::new(false), &mut |_| steps += 1)?;
    assert_eq!(outcome, Outcome::Finished);
    println!("{steps} steps made in this run; weights {:?}, truth {TRUTH:?}", state.weights);
    for line in read_log(&settings.log())? {
        println!("step {:3}  loss {:.6}  lr {:.4}", line.step, line.loss, line.lr);
    }
    Ok(())
}
