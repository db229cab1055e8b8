//! The loop around a stage's steps: resume, log, save, stop.

use crate::checkpoint::clean_temporaries;
use crate::log::{LogLine, RunLog};
use crate::{Checkpoint, TrainError};
use slimtau_base::TensorFile;
use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// What one step reports.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepReport {
    /// Loss before the update.
    pub loss: f64,
    /// Learning rate.
    pub lr: f64,
    /// Images seen (a batch counts once, whatever the number of subnets).
    pub images: usize,
    /// Further measurements for the log.
    pub extra: BTreeMap<String, f64>,
}

/// Something that is trained step by step.
///
/// A step must depend only on the state and the step's number: then a resumed run equals one that
/// was never stopped, bit for bit.
pub trait TrainState {
    /// Makes step number `step`, counted from 0.
    ///
    /// # Errors
    /// Whatever keeps the step from being made; the stage then ends, its last checkpoint kept.
    fn step(&mut self, step: u64) -> Result<StepReport, Box<dyn Error + Send + Sync>>;

    /// Everything that [`TrainState::restore`] needs.
    fn save(&self) -> TensorFile;

    /// Goes on from a saved state that has made `step` steps; `path` is for messages.
    ///
    /// # Errors
    /// When the tensors do not fit.
    fn restore(
        &mut self,
        path: &std::path::Path,
        step: u64,
        state: TensorFile,
    ) -> Result<(), Box<dyn Error + Send + Sync>>;
}

/// How a stage is run.
#[derive(Clone, Debug)]
pub struct StageSettings {
    /// Its name.
    pub name: String,
    /// Hash of whatever decides its result.
    pub config: String,
    /// Folder of `checkpoint.safetensors` and `log.jsonl`.
    pub folder: PathBuf,
    /// Steps in all.
    pub total_steps: u64,
    /// Steps between log lines.
    pub log_every: u64,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
}

impl StageSettings {
    /// The stage's checkpoint.
    pub fn checkpoint(&self) -> PathBuf {
        self.folder.join("checkpoint.safetensors")
    }

    /// The stage's log.
    pub fn log(&self) -> PathBuf {
        self.folder.join("log.jsonl")
    }
}

/// Where a stage stands, for whoever watches.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The stage.
    pub stage: &'a str,
    /// Steps done.
    pub done: u64,
    /// Steps in all.
    pub total: u64,
    /// Steps that were already done when this process began.
    pub resumed: u64,
    /// The last step's report.
    pub report: &'a StepReport,
    /// Images per second since this process began the stage.
    pub images_per_s: f64,
}

/// How a stage ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are done and saved.
    Finished,
    /// The interrupt flag was seen; the state after `step` steps is saved.
    Interrupted {
        /// Steps done.
        step: u64,
    },
}

/// Runs a stage from its checkpoint, or from the beginning if there is none, to its end.
///
/// `interrupt` is looked at after every step; when it is set the state is saved and the stage
/// ends. `watch` is called after every step.
///
/// # Errors
/// When a file cannot be used, a step fails, or the loss is not finite.
pub fn run_stage(
    settings: &StageSettings,
    state: &mut impl TrainState,
    interrupt: &AtomicBool,
    watch: &mut dyn FnMut(&Progress<'_>),
) -> Result<Outcome, TrainError> {
    let path = settings.checkpoint();
    clean_temporaries(&settings.folder);
    let mut done = 0;
    if path.exists() {
        let checkpoint = Checkpoint::load(&path, &settings.name, &settings.config)?;
        done = checkpoint.step;
        state.restore(&path, done, checkpoint.state).map_err(TrainError::Step)?;
    }
    let resumed = done;
    let mut log = RunLog::open(&settings.log(), done)?;
    let (begin, seconds_before) = (Instant::now(), log.seconds());
    let (mut images, mut window_images, mut window) = (0, 0, Instant::now());
    let save = |state: &dyn SaveState, done: u64| {
        let (stage, config) = (settings.name.clone(), settings.config.clone());
        Checkpoint { stage, step: done, config, state: state.tensors() }.save(&path)
    };
    while done < settings.total_steps {
        let report = state.step(done).map_err(TrainError::Step)?;
        if !report.loss.is_finite() {
            let (stage, loss) = (settings.name.clone(), report.loss);
            return Err(TrainError::NotFinite { stage, step: done, loss });
        }
        images += report.images;
        window_images += report.images;
        let last = done + 1 == settings.total_steps;
        if done.is_multiple_of(settings.log_every.max(1)) || last {
            log.push(&LogLine {
                stage: settings.name.clone(),
                step: done,
                loss: report.loss,
                lr: report.lr,
                images_per_s: window_images as f64 / window.elapsed().as_secs_f64().max(1e-9),
                seconds: seconds_before + begin.elapsed().as_secs_f64(),
                extra: report.extra.clone(),
            })?;
            (window_images, window) = (0, Instant::now());
        }
        done += 1;
        watch(&Progress {
            stage: &settings.name,
            done,
            total: settings.total_steps,
            resumed,
            report: &report,
            images_per_s: images as f64 / begin.elapsed().as_secs_f64().max(1e-9),
        });
        let stop = interrupt.load(Ordering::Relaxed);
        if last || stop || done.is_multiple_of(settings.checkpoint_every.max(1)) {
            save(&*state, done)?;
        }
        if stop && !last {
            return Ok(Outcome::Interrupted { step: done });
        }
    }
    Ok(Outcome::Finished)
}

/// The half of [`TrainState`] that saving needs, so that the closure is not generic.
trait SaveState {
    fn tensors(&self) -> TensorFile;
}

impl<T: TrainState> SaveState for T {
    fn tensors(&self) -> TensorFile {
        self.save()
    }
}
