//! A stage that is stopped anywhere, in any way, and run again ends as if it had never been stopped.

use rand::RngExt;
use slimtau_base::{TensorFile, stream};
use slimtau_train::*;
use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

const SIZE: usize = 300;
const STEPS: u64 = 23;

/// Noisy descent on |x|^2 / 2 with momentum: what it holds besides the weights matters, too.
struct Quadratic {
    params: Vec<f32>,
    velocity: Vec<f32>,
    /// The step that never returns.
    dies_at: Option<u64>,
    pause: std::time::Duration,
}

impl Quadratic {
    fn new(dies_at: Option<u64>) -> Self {
        let params = (0..SIZE).map(|i| i as f32 / SIZE as f32 - 0.4).collect();
        Self { params, velocity: vec![0.0; SIZE], dies_at, pause: Default::default() }
    }
}

impl TrainState for Quadratic {
    fn step(&mut self, step: u64) -> Result<StepReport, Box<dyn Error + Send + Sync>> {
        if self.dies_at == Some(step) {
            return Err(format!("died in step {step}").into());
        }
        std::thread::sleep(self.pause);
        let mut noise = stream(5, "noise", step);
        let mut grads: Vec<f32> =
            self.params.iter().map(|w| w + noise.random_range(-0.1..0.1f32)).collect();
        let loss = self.params.iter().map(|w| f64::from(w * w) / 2.0).sum();
        let norm = clip_global_norm(&mut grads, 2.0);
        let (base_lr, total_steps, kind) = (0.1, STEPS, ScheduleKind::Cosine);
        let lr = Schedule { base_lr, warmup_steps: 3, total_steps, kind, final_lr: 0.0 }.lr(step);
        let sgd = Sgd { momentum: 0.9, weight_decay: 1e-3, nesterov: false };
        let all = 0..SIZE;
        sgd.step(lr, &mut self.params, &mut grads, &mut self.velocity, &[all]);
        let extra = BTreeMap::from([("norm".to_owned(), norm), ("tau".to_owned(), f64::NAN)]);
        Ok(StepReport { loss, lr, images: 8, extra })
    }

    fn save(&self) -> Result<TensorFile, Box<dyn Error + Send + Sync>> {
        let mut file = TensorFile::default();
        file.insert("params", &[SIZE], self.params.clone());
        file.insert("velocity", &[SIZE], self.velocity.clone());
        Ok(file)
    }

    fn restore(
        &mut self,
        path: &Path,
        _step: u64,
        mut state: TensorFile,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.params = state.take(path, "params", &[SIZE])?;
        self.velocity = state.take(path, "velocity", &[SIZE])?;
        Ok(())
    }
}

fn settings(folder: &Path, log_every: u64, checkpoint_every: u64) -> StageSettings {
    let (name, config) = ("moco".to_owned(), "c0ffee".to_owned());
    let folder = folder.to_owned();
    StageSettings { name, config, folder, total_steps: STEPS, log_every, checkpoint_every }
}

fn run(settings: &StageSettings, dies_at: Option<u64>) -> Result<Outcome, TrainError> {
    run_stage(settings, &mut Quadratic::new(dies_at), &AtomicBool::new(false), &mut |_| {})
}

/// Everything that must not depend on how the stage came to its end: the checkpoint's bytes, and
/// the log without rates and times. (As text: the log's NaN does not equal itself.)
fn result(settings: &StageSettings) -> (Vec<u8>, String) {
    let mut lines = read_log(&settings.log()).unwrap();
    for line in &mut lines {
        (line.images_per_s, line.seconds) = (0.0, 0.0);
    }
    (fs::read(settings.checkpoint()).unwrap(), format!("{lines:#?}"))
}

fn uninterrupted(log_every: u64, checkpoint_every: u64) -> (Vec<u8>, String) {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path(), log_every, checkpoint_every);
    assert_eq!(run(&settings, None).unwrap(), Outcome::Finished);
    let logged = read_log(&settings.log()).unwrap();
    let expected = (0..STEPS).filter(|s| s % log_every == 0 || s + 1 == STEPS);
    assert!(logged.iter().map(|l| l.step).eq(expected), "which steps are logged");
    result(&settings)
}

/// What a process that is killed while it writes leaves behind.
fn leave_debris(settings: &StageSettings) {
    let dead = u32::MAX;
    for name in ["checkpoint.safetensors", "log.jsonl"] {
        fs::write(settings.folder.join(format!(".{name}.{dead}.tmp")), "half of it").unwrap();
    }
    let mut log = OpenOptions::new().append(true).open(settings.log()).unwrap();
    log.write_all(b"{\"stage\":\"moco\",\"step\":1").unwrap();
}

#[test]
fn killed_in_any_step() {
    for (log_every, checkpoint_every) in [(4, 3), (3, 5), (5, 100)] {
        let expected = uninterrupted(log_every, checkpoint_every);
        for first in 0..STEPS {
            let folder = tempfile::tempdir().unwrap();
            let settings = settings(folder.path(), log_every, checkpoint_every);
            // Killed a second time further on, and finished after that.
            for dies_at in [first, (first + STEPS) / 2] {
                run(&settings, Some(dies_at)).unwrap_err();
                let last = dies_at - dies_at % checkpoint_every;
                let found = settings.checkpoint().exists().then(|| {
                    Checkpoint::load(&settings.checkpoint(), "moco", "c0ffee").unwrap().step
                });
                assert_eq!(
                    found,
                    (last > 0).then_some(last),
                    "the last checkpoint before {dies_at}"
                );
                leave_debris(&settings);
            }
            assert_eq!(run(&settings, None).unwrap(), Outcome::Finished);
            assert_eq!(result(&settings), expected, "killed in {first}");
            if Path::new("/proc").is_dir() {
                assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "debris was left");
            }
        }
    }
}

#[test]
fn interrupted_before_any_step() {
    let expected = uninterrupted(4, 6);
    for at in 0..=STEPS {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(folder.path(), 4, 6);
        let interrupt = AtomicBool::new(at == 0);
        let mut seen = Vec::new();
        let outcome = run_stage(&settings, &mut Quadratic::new(None), &interrupt, &mut |p| {
            interrupt.store(p.done == at, Ordering::Relaxed);
            assert!(p.images_per_s > 0.0 && p.seconds_left >= 0.0 && p.total == STEPS);
            seen.push(p.done);
        });
        // An interrupt in the last step has nothing left to prevent.
        let expected_outcome =
            if at == STEPS { Outcome::Finished } else { Outcome::Interrupted { step: at } };
        assert_eq!(outcome.unwrap(), expected_outcome);
        let mut state = Quadratic::new(None);
        let outcome = run_stage(&settings, &mut state, &AtomicBool::new(false), &mut |p| {
            assert_eq!(p.resumed, at);
            seen.push(p.done);
        });
        assert_eq!(outcome.unwrap(), Outcome::Finished);
        assert!(seen.into_iter().eq(1..=STEPS), "each step is made once");
        assert_eq!(result(&settings), expected, "interrupted at {at}");
    }
}

#[test]
fn a_finished_stage_is_not_run_again() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path(), 4, 6);
    run(&settings, None).unwrap();
    let before = (fs::read(settings.checkpoint()).unwrap(), fs::read(settings.log()).unwrap());
    assert_eq!(run(&settings, Some(0)).unwrap(), Outcome::Finished);
    let after = (fs::read(settings.checkpoint()).unwrap(), fs::read(settings.log()).unwrap());
    assert_eq!(before, after);
}

#[test]
fn a_stage_without_steps_still_leaves_its_state() {
    let folder = tempfile::tempdir().unwrap();
    let settings = StageSettings { total_steps: 0, ..settings(folder.path(), 4, 6) };
    assert_eq!(run(&settings, None).unwrap(), Outcome::Finished);
    assert_eq!(Checkpoint::load(&settings.checkpoint(), "moco", "c0ffee").unwrap().step, 0);
}

#[test]
fn another_run_is_refused_and_nothing_is_touched() {
    let folder = tempfile::tempdir().unwrap();
    let good = settings(folder.path(), 4, 6);
    run(&good, None).unwrap();
    let before = (fs::read(good.checkpoint()).unwrap(), fs::read(good.log()).unwrap());
    let check = |other: StageSettings, expected: &str| {
        let message = run(&other, None).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
        let after = (fs::read(good.checkpoint()).unwrap(), fs::read(good.log()).unwrap());
        assert_eq!(before, after);
    };
    check(StageSettings { name: "ccfs".into(), ..good.clone() }, "this run is stage ccfs");
    check(StageSettings { config: "decade".into(), ..good.clone() }, "configuration decade");
    check(StageSettings { total_steps: 9, ..good.clone() }, "at step 23 of a stage of 9");
}

#[test]
fn a_loss_that_is_not_finite_ends_the_stage_and_keeps_the_last_checkpoint() {
    struct Diverging(Quadratic);
    impl TrainState for Diverging {
        fn step(&mut self, step: u64) -> Result<StepReport, Box<dyn Error + Send + Sync>> {
            let mut report = self.0.step(step)?;
            if step == 7 {
                report.loss = f64::NAN;
            }
            Ok(report)
        }
        fn save(&self) -> Result<TensorFile, Box<dyn Error + Send + Sync>> {
            self.0.save()
        }
        fn restore(
            &mut self,
            path: &Path,
            step: u64,
            state: TensorFile,
        ) -> Result<(), Box<dyn Error + Send + Sync>> {
            self.0.restore(path, step, state)
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path(), 1, 3);
    let mut state = Diverging(Quadratic::new(None));
    let error = run_stage(&settings, &mut state, &AtomicBool::new(false), &mut |_| {}).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("stage moco, step 7: the loss is NaN"), "{message}");
    assert_eq!(Checkpoint::load(&settings.checkpoint(), "moco", "c0ffee").unwrap().step, 6);
}

/// Where [`child`] works; unset in a usual run of the tests.
const CHILD_FOLDER: &str = "SLIMTAU_TRAIN_TEST_FOLDER";

/// Not a test but the process that [`killed_by_the_system`] kills.
#[test]
#[ignore = "started by killed_by_the_system"]
fn child() {
    let Ok(folder) = std::env::var(CHILD_FOLDER) else { return };
    let mut state = Quadratic::new(None);
    state.pause = std::time::Duration::from_millis(2);
    let settings = settings(Path::new(&folder), 1, 1);
    run_stage(&settings, &mut state, &AtomicBool::new(false), &mut |_| {}).unwrap();
}

#[test]
fn killed_by_the_system() {
    let expected = uninterrupted(1, 1);
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path(), 1, 1);
    let start = || {
        std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--ignored"])
            .env(CHILD_FOLDER, folder.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap()
    };
    // Times that fall into starting, stepping and writing alike; whichever they hit must do.
    for milliseconds in [3, 8, 11, 14, 17, 20, 23, 26] {
        let mut running = start();
        std::thread::sleep(std::time::Duration::from_millis(milliseconds));
        running.kill().unwrap();
        running.wait().unwrap();
    }
    assert!(start().wait().unwrap().success());
    assert_eq!(result(&settings), expected);
}
