//! The run log: one JSON object per line, `log.jsonl`.

use serde::{Deserialize, Serialize};
use slimtau_base::{FileError, read_text, write_atomic};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// One logged step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogLine {
    /// The stage.
    pub stage: String,
    /// The step, from 0.
    pub step: u64,
    /// Loss before the step's update.
    pub loss: f64,
    /// Learning rate.
    pub lr: f64,
    /// Images per second since the last line.
    pub images_per_s: f64,
    /// Seconds spent in the stage, over all of its runs as far as this log knows.
    pub seconds: f64,
    /// Whatever else the stage measures (top1, teacher_loss, temperature, ...).
    #[serde(flatten)]
    pub extra: BTreeMap<String, f64>,
}

/// Reads a log. A last line without its end, as a killed run leaves it, is not read.
///
/// # Errors
/// When the file cannot be read, or another line is damaged: file and line are named.
pub fn read_log(path: &Path) -> Result<Vec<LogLine>, FileError> {
    let text = read_text(path)?;
    let complete = text.rfind('\n').map_or("", |end| &text[..end]);
    let parse = |(i, line): (usize, &str)| {
        serde_json::from_str(line)
            .map_err(|e| FileError::contents(path, format!("line {}: {e}", i + 1)))
    };
    complete.lines().enumerate().map(parse).collect()
}

/// A log that is being written.
pub struct RunLog {
    path: PathBuf,
    file: File,
    seconds: f64,
}

impl RunLog {
    /// Opens a stage's log to go on at `step`: later lines, which a run that was killed after its
    /// last checkpoint had written, are dropped, and so is a torn last line.
    ///
    /// # Errors
    /// When the file cannot be read or written, or holds a damaged line.
    pub fn open(path: &Path, step: u64) -> Result<Self, FileError> {
        let lines = if path.exists() { read_log(path)? } else { Vec::new() };
        let kept: Vec<_> = lines.into_iter().filter(|l| l.step < step).collect();
        write_atomic(path, |out| {
            for line in &kept {
                writeln!(out, "{}", to_json(line)?)?;
            }
            Ok(())
        })?;
        let seconds = kept.last().map_or(0.0, |l| l.seconds);
        let file = OpenOptions::new().append(true).open(path);
        let file = file.map_err(|source| FileError::Write { path: path.into(), source })?;
        Ok(Self { path: path.into(), file, seconds })
    }

    /// Seconds of the lines that were kept.
    pub fn seconds(&self) -> f64 {
        self.seconds
    }

    /// Appends a line.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn push(&mut self, line: &LogLine) -> Result<(), FileError> {
        let fail = |source| FileError::Write { path: self.path.clone(), source };
        // One write per line: a kill leaves a torn line at most at the end.
        let text = to_json(line).map_err(fail)? + "\n";
        self.file.write_all(text.as_bytes()).map_err(fail)
    }
}

fn to_json(line: &LogLine) -> std::io::Result<String> {
    serde_json::to_string(line).map_err(std::io::Error::other)
}
