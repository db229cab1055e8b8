//! Training checkpoints: everything that a stage needs to go on exactly where it stopped.

use crate::TrainError;
use slimtau_base::{FileError, TensorFile};
use std::path::Path;

/// A stage's state after `step` steps.
///
/// Holds no time and no path, so equal states give equal bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// The stage.
    pub stage: String,
    /// Steps done.
    pub step: u64,
    /// Hash of whatever decides the stage's result.
    pub config: String,
    /// The state's own tensors and metadata.
    pub state: TensorFile,
}

impl Checkpoint {
    /// Writes the checkpoint atomically, with a checksum.
    ///
    /// # Errors
    /// When it cannot be written; the one before then still stands.
    pub fn save(mut self, path: &Path) -> Result<(), TrainError> {
        let meta = &mut self.state.meta;
        meta.insert("checkpoint.stage".into(), self.stage);
        meta.insert("checkpoint.step".into(), self.step.to_string());
        meta.insert("checkpoint.config".into(), self.config);
        Ok(self.state.write(path)?)
    }

    /// Reads a checkpoint of this stage and configuration.
    ///
    /// # Errors
    /// When it is damaged, not a checkpoint, or of another stage or configuration.
    pub fn load(path: &Path, stage: &str, config: &str) -> Result<Self, TrainError> {
        let mut state = TensorFile::read(path)?;
        let mut take = |key: &str| {
            state.meta.remove(key).ok_or_else(|| {
                let problem = format!("no `{key}`: not a training checkpoint (weights alone?)");
                FileError::contents(path, problem)
            })
        };
        let found_stage = take("checkpoint.stage")?;
        let step = take("checkpoint.step")?;
        let found_config = take("checkpoint.config")?;
        let step = step.parse().map_err(|_| {
            FileError::contents(path, format!("checkpoint.step = `{step}` is not a number"))
        })?;
        if (found_stage.as_str(), found_config.as_str()) != (stage, config) {
            let say = |s: &str, c: &str| format!("stage {s} under configuration {c}");
            return Err(TrainError::OtherRun {
                path: path.into(),
                found: say(&found_stage, &found_config),
                expected: say(stage, config),
            });
        }
        Ok(Self { stage: found_stage, step, config: found_config, state })
    }
}

/// Removes temporary files that a killed writer left in a folder: `.{name}.{process}.tmp`, as
/// `slimtau_base::write_atomic` names them, of processes that no longer run.
pub fn clean_temporaries(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let process = name
            .strip_prefix('.')
            .and_then(|n| n.strip_suffix(".tmp"))
            .and_then(|n| n.rsplit_once('.'))
            .and_then(|(_, process)| process.parse::<u32>().ok());
        let Some(process) = process else { continue };
        // Where /proc does not exist nothing can be said about other processes: leave their files.
        let proc = Path::new("/proc");
        let dead = proc.is_dir() && !proc.join(process.to_string()).exists();
        if dead {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
