//! The run log: one JSON object per line, `log.jsonl`.

use serde::{Deserialize, Deserializer, Serialize};
use slimtau_base::{FileError, read_bytes, write_atomic};
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
    ///
    /// JSON has no NaN and no infinities: they are written as `null` and read back as NaN.
    #[serde(flatten, deserialize_with = "null_is_nan")]
    pub extra: BTreeMap<String, f64>,
}

/// What [`LogLine::extra`] must not name: the line would have the key twice.
const OWN_KEYS: [&str; 6] = ["stage", "step", "loss", "lr", "images_per_s", "seconds"];

fn null_is_nan<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, f64>, D::Error> {
    let values = BTreeMap::<String, Option<f64>>::deserialize(from)?;
    Ok(values.into_iter().map(|(key, value)| (key, value.unwrap_or(f64::NAN))).collect())
}

/// Reads a log. A last line without its end, as a killed run leaves it, is not read.
///
/// # Errors
/// When the file cannot be read, or another line is damaged: file and line are named.
pub fn read_log(path: &Path) -> Result<Vec<LogLine>, FileError> {
    parse(path, complete_lines(&read_bytes(path)?)).map(|line| line.map(|(_, line)| line)).collect()
}

/// The bytes up to the last line's end. What follows may be torn anywhere, even inside a character.
fn complete_lines(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |last| last + 1);
    &bytes[..end]
}

/// Each line as it stands, its end included, and what it says.
fn parse<'a>(
    path: &'a Path,
    complete: &'a [u8],
) -> impl Iterator<Item = Result<(&'a [u8], LogLine), FileError>> + 'a {
    complete.split_inclusive(|&b| b == b'\n').enumerate().map(move |(i, text)| {
        let line = serde_json::from_slice(text)
            .map_err(|e| FileError::contents(path, format!("line {} is damaged: {e}", i + 1)))?;
        Ok((text, line))
    })
}

/// A log that is being written.
#[derive(Debug)]
pub struct RunLog {
    path: PathBuf,
    file: File,
    seconds: f64,
}

impl RunLog {
    /// Opens the log for `stage` to go on at `step`. That stage's lines of `step` and later, which
    /// a run that was killed after its last checkpoint had written, are dropped, and so is a torn
    /// last line; every other line stays as it is, to the byte.
    ///
    /// # Errors
    /// When the file cannot be read or written, or holds a damaged line.
    pub fn open(path: &Path, stage: &str, step: u64) -> Result<Self, FileError> {
        let bytes = if path.exists() { read_bytes(path)? } else { Vec::new() };
        let (mut kept, mut seconds) = (Vec::with_capacity(bytes.len()), 0.0);
        for line in parse(path, complete_lines(&bytes)) {
            let (text, line) = line?;
            if line.stage != stage {
                kept.extend_from_slice(text);
            } else if line.step < step {
                kept.extend_from_slice(text);
                seconds = line.seconds;
            }
        }
        if kept != bytes || !path.exists() {
            write_atomic(path, |out| out.write_all(&kept))?;
        }
        let file = OpenOptions::new().append(true).open(path);
        let file = file.map_err(|source| FileError::Write { path: path.into(), source })?;
        Ok(Self { path: path.into(), file, seconds })
    }

    /// The `seconds` of the stage's last line that was kept; 0 without one.
    pub fn seconds(&self) -> f64 {
        self.seconds
    }

    /// Appends a line.
    ///
    /// # Errors
    /// When it cannot be written, or an extra has the name of one of the line's own fields.
    pub fn push(&mut self, line: &LogLine) -> Result<(), FileError> {
        if let Some(key) = OWN_KEYS.iter().find(|key| line.extra.contains_key(**key)) {
            let problem = format!(
                "stage {}, step {}: the measurement `{key}` has the name of a field of every line",
                line.stage, line.step
            );
            return Err(FileError::contents(&self.path, problem));
        }
        let mut text = serde_json::to_string(line).expect("strings and numbers are valid JSON");
        text.push('\n');
        // One write per line: a kill leaves a torn line at most at the end.
        self.file.write_all(text.as_bytes()).map_err(|source| self.fail(source))
    }

    /// Returns when what was appended is on the disk. Called before a checkpoint is written, so that
    /// even after a power cut the log holds every step that the checkpoint holds.
    ///
    /// # Errors
    /// When the system reports that it could not be written.
    pub fn sync(&self) -> Result<(), FileError> {
        self.file.sync_data().map_err(|source| self.fail(source))
    }

    fn fail(&self, source: std::io::Error) -> FileError {
        FileError::Write { path: self.path.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(stage: &str, step: u64) -> LogLine {
        let extra = BTreeMap::from([("top1".to_owned(), 1.0 / 3.0), ("tau".to_owned(), 0.5)]);
        let (loss, lr, seconds) = (0.1 + step as f64, 1e-3, step as f64 * 1.5);
        LogLine { stage: stage.into(), step, loss, lr, images_per_s: 7.25, seconds, extra }
    }

    fn write(path: &Path, lines: &[LogLine]) {
        let mut log = RunLog::open(path, "none", 0).unwrap();
        lines.iter().for_each(|l| log.push(l).unwrap());
        log.sync().unwrap();
    }

    #[test]
    fn reopening_keeps_what_is_before_the_step_and_all_of_other_stages() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let all = [line("moco", 0), line("moco", 10), line("ccfs", 0), line("ccfs", 10)];
        let check = |torn: &[u8], stage, step, kept: &[LogLine], seconds| {
            let _ = std::fs::remove_file(&path);
            write(&path, &all);
            let whole = std::fs::read(&path).unwrap();
            std::fs::write(&path, [whole.as_slice(), torn].concat()).unwrap();
            let log = RunLog::open(&path, stage, step).unwrap();
            assert_eq!(log.seconds(), seconds);
            assert_eq!(read_log(&path).unwrap(), kept);
            let now = std::fs::read(&path).unwrap();
            let before = |l: &&[u8]| !now.split_inclusive(|&b| b == b'\n').any(|n| n == *l);
            let lost = whole.split_inclusive(|&b| b == b'\n').filter(before).count();
            assert_eq!(lost, all.len() - kept.len(), "a kept line changed its bytes");
        };
        let torn = &b"{\"stage\":\"ccfs\",\"st\xc3"[..];
        check(b"", "ccfs", 11, &all, 15.0);
        check(torn, "ccfs", 11, &all, 15.0);
        check(torn, "ccfs", 10, &all[..3], 0.0);
        check(torn, "ccfs", 0, &all[..2], 0.0);
        check(torn, "moco", 5, &[all[0].clone(), all[2].clone(), all[3].clone()], 0.0);
        check(torn, "new", 0, &all, 0.0);
    }

    #[test]
    fn undefined_measurements_survive_as_nan() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let mut odd = line("ccfs", 3);
        odd.extra.insert("tau".into(), f64::NAN);
        odd.extra.insert("ratio".into(), f64::INFINITY);
        write(&path, &[odd]);
        let read = read_log(&path).unwrap().remove(0).extra;
        assert!(read["tau"].is_nan() && read["ratio"].is_nan());
        assert_eq!(read["top1"], 1.0 / 3.0);
    }

    #[test]
    fn damage_is_named_by_file_and_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        write(&path, &[line("moco", 0), line("moco", 1)]);
        let text = std::fs::read_to_string(&path).unwrap();
        let check = |contents: String, expected: &str| {
            std::fs::write(&path, contents).unwrap();
            let open = RunLog::open(&path, "moco", 0).unwrap_err();
            for message in [read_log(&path).unwrap_err().to_string(), open.to_string()] {
                assert!(message.contains("log.jsonl: ") && message.contains(expected), "{message}");
            }
        };
        check(text.replacen("\"lr\"", "\"rl\"", 1), "line 1 is damaged: missing field `lr`");
        check(format!("{text}\n"), "line 3 is damaged");
        check(format!("{text}{{\"stage\":\"moco\"\n"), "line 3 is damaged");
    }

    #[test]
    fn a_measurement_must_not_shadow_a_field() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = RunLog::open(&folder.path().join("l"), "moco", 0).unwrap();
        let mut bad = line("moco", 4);
        bad.extra.insert("loss".into(), 1.0);
        let message = log.push(&bad).unwrap_err().to_string();
        assert!(message.contains("step 4") && message.contains("`loss`"), "{message}");
    }
}
