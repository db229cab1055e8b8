//! Training checkpoints: everything that a stage needs to go on exactly where it stopped.

use crate::TrainError;
use slimtau_base::{FileError, TensorFile};
use std::path::Path;

const STAGE: &str = "checkpoint.stage";
const STEP: &str = "checkpoint.step";
const CONFIG: &str = "checkpoint.config";

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
    /// The state's own tensors and metadata; keys that begin with `checkpoint.` are this file's.
    pub state: TensorFile,
}

impl Checkpoint {
    /// Writes the checkpoint atomically, with a checksum.
    ///
    /// # Errors
    /// When it cannot be written; the one before then still stands.
    pub fn save(mut self, path: &Path) -> Result<(), TrainError> {
        let meta = &mut self.state.meta;
        meta.insert(STAGE.into(), self.stage);
        meta.insert(STEP.into(), self.step.to_string());
        meta.insert(CONFIG.into(), self.config);
        Ok(self.state.write(path)?)
    }

    /// Reads a checkpoint of this stage and configuration.
    ///
    /// # Errors
    /// When it is damaged, not a checkpoint, or of another stage or configuration.
    pub fn load(path: &Path, stage: &str, config: &str) -> Result<Self, TrainError> {
        let mut state = TensorFile::read(path)?;
        if !state.meta.contains_key(STAGE) {
            let problem = format!(
                "it holds {} tensors but no training state: weights alone can start a stage, not resume one",
                state.tensors.len()
            );
            return Err(FileError::contents(path, problem).into());
        }
        let mut take = |key: &str| {
            state.meta.remove(key).ok_or_else(|| {
                FileError::contents(path, format!("`{key}` is missing from the checkpoint"))
            })
        };
        let found_stage = take(STAGE)?;
        let step = take(STEP)?;
        let found_config = take(CONFIG)?;
        let step = step.parse().map_err(|_| {
            FileError::contents(path, format!("`{STEP}` is `{step}`, not a number"))
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
/// `slimtau_base::write_atomic` names them, of processes that no longer run. Files under this
/// process's own number go too: it has begun no writing yet, and in a container the killed run
/// often had the same number. A file that cannot be removed does no harm and stays.
///
/// Whether another process runs is read from `/proc`; where there is none its files stay.
pub fn clean_temporaries(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let proc = Path::new("/proc");
    for entry in entries.flatten() {
        let Some(process) = writer(&entry.file_name().to_string_lossy()) else { continue };
        let own = process == std::process::id();
        if own || (proc.is_dir() && !proc.join(process.to_string()).exists()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// The process that wrote a temporary file, if the name is that of one.
fn writer(name: &str) -> Option<u32> {
    let (of, process) = name.strip_prefix('.')?.strip_suffix(".tmp")?.rsplit_once('.')?;
    let digits = process.bytes().all(|b| b.is_ascii_digit());
    (digits && !of.is_empty()).then(|| process.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Checkpoint {
        let mut state = TensorFile::default();
        state.insert("params", &[2], vec![1.0, -2.0]);
        state.meta.insert("queue.next".into(), "17".into());
        Checkpoint { stage: "moco".into(), step: 40, config: "c0ffee".into(), state }
    }

    #[test]
    fn round_trip() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.safetensors");
        sample().save(&path).unwrap();
        assert_eq!(Checkpoint::load(&path, "moco", "c0ffee").unwrap(), sample());
    }

    #[test]
    fn what_is_refused_and_how() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.safetensors");
        let check = |stage, config, expected: &[&str]| {
            let message = Checkpoint::load(&path, stage, config).unwrap_err().to_string();
            for part in expected.iter().chain(&["c.safetensors"]) {
                assert!(message.contains(part), "`{part}` is not in: {message}");
            }
        };
        check("moco", "c0ffee", &["cannot read"]);
        sample().save(&path).unwrap();
        check("ccfs", "c0ffee", &["stage moco", "stage ccfs"]);
        check("moco", "decade", &["configuration c0ffee", "configuration decade"]);

        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        check("moco", "c0ffee", &["checksum"]);

        let mut weights = TensorFile::default();
        weights.insert("params", &[1], vec![0.0]);
        weights.write(&path).unwrap();
        check("moco", "c0ffee", &["1 tensors but no training state"]);
        weights.meta.insert(STAGE.into(), "moco".into());
        weights.write(&path).unwrap();
        check("moco", "c0ffee", &["`checkpoint.step` is missing"]);
        weights.meta.extend([(STEP.into(), "-3".into()), (CONFIG.into(), "c0ffee".into())]);
        weights.write(&path).unwrap();
        check("moco", "c0ffee", &["`-3`, not a number"]);
    }

    #[test]
    fn only_orphaned_temporaries_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let (own, running) = (std::process::id(), child.id());
        // Above any process number that a system hands out.
        let dead = u32::MAX;
        let orphaned = [format!(".log.jsonl.{dead}.tmp"), format!(".c.safetensors.{own}.tmp")];
        let others = [
            format!(".log.jsonl.{running}.tmp"),
            format!("log.jsonl.{dead}.tmp"),
            format!(".{dead}.tmp"),
            format!(".log.jsonl.+{dead}.tmp"),
            format!(".log.jsonl.{dead}.tmp.bak"),
            ".editor.swp.tmp".to_owned(),
            "log.jsonl".to_owned(),
        ];
        for name in orphaned.iter().chain(&others) {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        clean_temporaries(folder.path());
        child.kill().unwrap();
        child.wait().unwrap();
        for name in &others {
            assert!(folder.path().join(name).exists(), "{name} is not ours to remove");
        }
        if Path::new("/proc").is_dir() {
            for name in &orphaned {
                assert!(!folder.path().join(name).exists(), "{name} was left");
            }
        }
        clean_temporaries(&folder.path().join("not there"));
    }
}
