//! The loop around a stage's steps: resume, log, save, stop.

use crate::checkpoint::clean_temporaries;
use crate::log::{LogLine, RunLog};
use crate::{Checkpoint, TrainError};
use slimtau_base::TensorFile;
use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
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
    /// Further measurements for the log, under other names than [`LogLine`]'s own fields.
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

    /// Everything that [`TrainState::restore`] needs, and nothing that depends on the clock: equal
    /// states must give equal files.
    ///
    /// # Errors
    /// When the state cannot be read, such as from a GPU that failed; the stage then ends, its last checkpoint kept.
    fn save(&self) -> Result<TensorFile, Box<dyn Error + Send + Sync>>;

    /// Goes on from a saved state that has made `step` steps; `path` is for messages.
    ///
    /// # Errors
    /// When the tensors do not fit.
    fn restore(
        &mut self,
        path: &Path,
        step: u64,
        state: TensorFile,
    ) -> Result<(), Box<dyn Error + Send + Sync>>;
}

/// How a stage is run.
#[derive(Clone, Debug)]
pub struct StageSettings {
    /// Its name.
    pub name: String,
    /// Hash of whatever decides its result, the seed included. A checkpoint of another is refused.
    pub config: String,
    /// Folder of `checkpoint.safetensors` and `log.jsonl`.
    pub folder: PathBuf,
    /// Steps in all.
    pub total_steps: u64,
    /// Steps between log lines; the last step has one in any case. 0 counts as 1.
    pub log_every: u64,
    /// Steps between checkpoints; the last step makes one in any case. 0 counts as 1.
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
    /// Images per second since this process began the stage, checkpoints included.
    pub images_per_s: f64,
    /// Seconds to the end at the mean pace since this process began the stage.
    pub seconds_left: f64,
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
/// However often and wherever the process is killed on the way, the last run leaves the same
/// checkpoint, to the byte, and the same log but for rates and times. `interrupt` is looked at
/// before every step; when it is set the state is saved and the stage ends. `watch` is called after
/// every step. A folder belongs to one running process at a time.
///
/// # Errors
/// When a file cannot be used, a step fails, or the loss is not finite. The last checkpoint then
/// still stands.
pub fn run_stage<S: TrainState + ?Sized>(
    settings: &StageSettings,
    state: &mut S,
    interrupt: &AtomicBool,
    watch: &mut dyn FnMut(&Progress<'_>),
) -> Result<Outcome, TrainError> {
    let path = settings.checkpoint();
    let total = settings.total_steps;
    clean_temporaries(&settings.folder);
    let mut done = 0;
    // What the file holds, so that no state is written twice.
    let mut saved = None;
    if path.exists() {
        let checkpoint = Checkpoint::load(&path, &settings.name, &settings.config)?;
        done = checkpoint.step;
        if done > total {
            return Err(TrainError::TooFar { path, found: done, total });
        }
        state.restore(&path, done, checkpoint.state).map_err(TrainError::Step)?;
        saved = Some(done);
    }
    let resumed = done;
    let mut log = RunLog::open(&settings.log(), &settings.name, done)?;
    let (begin, seconds_before) = (Instant::now(), log.seconds());
    let (mut images, mut window_images, mut window) = (0, 0, begin);
    loop {
        let finished = done == total;
        let stop = interrupt.load(Ordering::Relaxed);
        let due = done > 0 && done.is_multiple_of(settings.checkpoint_every.max(1));
        if (finished || stop || due) && saved != Some(done) {
            log.sync()?;
            let (stage, config) = (settings.name.clone(), settings.config.clone());
            let state = state.save().map_err(TrainError::Step)?;
            Checkpoint { stage, step: done, config, state }.save(&path)?;
            saved = Some(done);
        }
        if finished {
            return Ok(Outcome::Finished);
        }
        if stop {
            return Ok(Outcome::Interrupted { step: done });
        }
        let report = state.step(done).map_err(TrainError::Step)?;
        if !report.loss.is_finite() {
            let (stage, loss) = (settings.name.clone(), report.loss);
            return Err(TrainError::NotFinite { stage, step: done, loss });
        }
        images += report.images;
        window_images += report.images;
        if done.is_multiple_of(settings.log_every.max(1)) || done + 1 == total {
            log.push(&LogLine {
                stage: settings.name.clone(),
                step: done,
                loss: report.loss,
                lr: report.lr,
                images_per_s: window_images as f64 / seconds_since(window),
                seconds: seconds_before + seconds_since(begin),
                extra: report.extra.clone(),
            })?;
            (window_images, window) = (0, Instant::now());
        }
        done += 1;
        let elapsed = seconds_since(begin);
        watch(&Progress {
            stage: &settings.name,
            done,
            total,
            resumed,
            report: &report,
            images_per_s: images as f64 / elapsed,
            seconds_left: elapsed / (done - resumed) as f64 * (total - done) as f64,
        });
    }
}

/// Never 0, so that a rate is a number also where the clock is coarse.
fn seconds_since(then: Instant) -> f64 {
    then.elapsed().as_secs_f64().max(1e-9)
}
