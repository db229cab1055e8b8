//! What a long evaluation has found so far: a file that only grows, so that a killed one goes on.

use super::evaluator::{EvalSettings, Tally};
use crate::engine::Engine;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use slimtau_base::{FileError, NewFolders, read_text};
use slimtau_data::{Data, Dataset, EvalCrop};
use slimtau_space::SearchSpace;
use slimtau_supernet::{BnMode, Weights};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// What decides an accuracy besides the code, for people to compare.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// Hash of the weights.
    pub checkpoint: String,
    /// Name and hash.
    pub space: String,
    pub training: String,
    pub validation: String,
    /// Validation images.
    pub images: usize,
    pub bn: String,
    /// Training batches that statistics are measured on; `None` where they are not.
    pub recalibration_batches: Option<usize>,
    pub batch: usize,
    /// What rounds: the CPU's instruction set, or a GPU with the precision. Another one may cost an image, in bf16 some.
    pub instruction_set: String,
    /// How inference times are measured, where they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<String>,
}

impl Evaluation {
    /// Of subnets with these weights on the validation images of `data`.
    pub fn new(
        space: &SearchSpace,
        weights: &Weights,
        data: &Data,
        settings: EvalSettings,
        engine: &Engine,
    ) -> Self {
        let EvalSettings { crop, bn, batch, recalibration_batches, workers: _ } = settings;
        let hash = blake3::hash(space.to_toml().as_bytes()).to_hex();
        Self {
            checkpoint: hash_of(weights.params.iter().chain(&weights.buffers)),
            space: format!("{}, {hash}", space.name),
            training: data.train.describe(),
            validation: described(&*data.validation, crop),
            images: data.validation.len(),
            bn: bn.to_string(),
            recalibration_batches: (bn == BnMode::Recalibrated).then_some(recalibration_batches),
            batch,
            instruction_set: engine.arithmetic(),
            latency: None,
        }
    }

    /// The first field in which another evaluation differs, with both values.
    pub fn difference(&self, other: &Self) -> Option<String> {
        let fields = |e: &Self| serde_json::to_value(e).unwrap_or_default();
        let (own, others) = (fields(self), fields(other));
        let (name, value) =
            own.as_object()?.iter().find(|(name, v)| others[name.as_str()] != **v)?;
        Some(format!("{name} {} instead of {value}", others[name.as_str()]))
    }
}

/// The validation images and how they are cropped; an unusual crop alone needs words.
fn described(validation: &dyn Dataset, crop: EvalCrop) -> String {
    let text = validation.describe();
    if crop == EvalCrop::default() {
        return text;
    }
    format!("{text}, crop fraction {}", crop.crop_fraction)
}

/// A hash of numbers.
fn hash_of<'a>(values: impl Iterator<Item = &'a f32>) -> String {
    let mut hasher = blake3::Hasher::new();
    values.for_each(|value| {
        hasher.update(&value.to_le_bytes());
    });
    hasher.finalize().to_hex().to_string()
}

/// A line of the file; the first is the evaluation.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum Line {
    Evaluation(Evaluation),
    /// A short code's right answers: an integer comes back from a file as it was.
    Result {
        code: String,
        right: usize,
    },
    /// A short code's inference time.
    Latency {
        code: String,
        microseconds: u64,
    },
    /// Some codes on the first batches.
    Partial {
        codes: Vec<String>,
        tally: Tally,
    },
}

/// How every log begins.
const HEAD: &str = "{\"evaluation\":";

/// What stands in a log.
pub struct Contents {
    pub evaluation: Evaluation,
    /// By short code.
    pub right: BTreeMap<String, usize>,
    microseconds: BTreeMap<String, u64>,
    partial: Option<(Vec<String>, Tally)>,
    /// Bytes of complete lines.
    len: usize,
}

impl Contents {
    fn new(evaluation: Evaluation) -> Self {
        let (right, microseconds) = (BTreeMap::new(), BTreeMap::new());
        Self { evaluation, right, microseconds, partial: None, len: 0 }
    }

    fn is_empty(&self) -> bool {
        self.right.is_empty() && self.microseconds.is_empty() && self.partial.is_none()
    }

    /// Reads a log that nobody writes to.
    ///
    /// # Errors
    /// When the file is none, or damaged.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(path, &read_text(path)?)?
            .with_context(|| format!("{}: is empty", path.display()))
    }

    /// `None` before the first line is complete.
    fn parse(path: &Path, text: &str) -> Result<Option<Self>> {
        let wrong = |line: usize, problem: String| {
            let problem = format!("line {line}: not a line of an evaluation's log: {problem}");
            Err(FileError::contents(path, problem).into())
        };
        // What follows the last line break is half a line: its process was killed.
        let complete = text.rfind('\n').map_or("", |end| &text[..=end]);
        if complete.is_empty() && !text.starts_with(HEAD) && !HEAD.starts_with(text) {
            return wrong(1, "it does not begin as one".into());
        }
        let mut found: Option<Self> = None;
        for (i, line) in complete.lines().enumerate() {
            let line = match serde_json::from_str(line) {
                Ok(line) => line,
                Err(error) => return wrong(i + 1, error.to_string()),
            };
            match (line, &mut found) {
                (Line::Evaluation(evaluation), found @ None) => {
                    *found = Some(Self { len: complete.len(), ..Self::new(evaluation) });
                }
                (Line::Result { code, right }, Some(found)) => {
                    found.right.insert(code, right);
                }
                (Line::Latency { code, microseconds }, Some(found)) => {
                    found.microseconds.insert(code, microseconds);
                }
                (Line::Partial { codes, tally }, Some(found)) => {
                    found.partial = Some((codes, tally));
                }
                (Line::Evaluation(_), Some(_)) => {
                    return wrong(i + 1, "a second evaluation".into());
                }
                (_, None) => return wrong(i + 1, "no evaluation comes before it".into()),
            }
        }
        Ok(found)
    }
}

/// A log that this process alone writes to.
pub struct Log {
    path: PathBuf,
    file: File,
    contents: Contents,
    /// Where this process has made the file, and found nothing yet.
    new: Option<NewFolders>,
}

impl Drop for Log {
    /// A new file without results is of no use to anybody.
    fn drop(&mut self) {
        if let Some(new) = &self.new {
            let _ = std::fs::remove_file(&self.path);
            new.take_back();
        }
    }
}

impl Log {
    /// The log at `path`, as an earlier process left it, or a new one, which is gone again if nothing is found.
    ///
    /// # Errors
    /// When the file is another evaluation's, another process's, damaged, no log, or cannot be written. It is left as it is.
    pub fn open(path: &Path, evaluation: &Evaluation) -> Result<Self> {
        let shown = || path.display().to_string();
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let folders = NewFolders::make(folder).with_context(|| folder.display().to_string())?;
        let new = (!path.exists()).then_some(folders);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(path).with_context(shown)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("{}: another process writes to it", shown()),
            Err(TryLockError::Error(error)) => return Err(error).with_context(shown),
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).with_context(shown)?;
        // Half a line may end within a character.
        let text = String::from_utf8_lossy(&bytes);
        let found = Contents::parse(path, &text)?;
        let contents = match found {
            Some(found) if found.evaluation == *evaluation => found,
            Some(found) if !found.is_empty() => {
                let what = found.evaluation.difference(evaluation).unwrap_or_default();
                bail!(
                    "{}: is of another evaluation: {what}; delete it, or write elsewhere",
                    shown()
                );
            }
            // Nothing is lost.
            _ => Contents::new(evaluation.clone()),
        };
        file.set_len(contents.len as u64).with_context(shown)?;
        file.seek(SeekFrom::End(0)).with_context(shown)?;
        let begins = contents.len == 0;
        let mut log = Self { path: path.to_owned(), file, contents, new };
        if begins {
            log.write(&[Line::Evaluation(evaluation.clone())])?;
            // A new file is durable only once its folder is.
            File::open(folder).and_then(|folder| folder.sync_all()).with_context(shown)?;
        }
        Ok(log)
    }

    /// Whether nothing was found yet.
    pub fn is_empty(&self) -> bool {
        self.contents.is_empty()
    }

    /// The right answers of a subnet, if it was evaluated.
    pub fn get(&self, code: &str) -> Option<usize> {
        self.contents.right.get(code).copied()
    }

    /// The inference time of a subnet, if it was measured.
    pub fn latency(&self, code: &str) -> Option<u64> {
        self.contents.microseconds.get(code).copied()
    }

    /// Writes down an inference time.
    pub fn add_latency(&mut self, code: &str, microseconds: u64) -> Result<()> {
        self.append(&[Line::Latency { code: code.to_owned(), microseconds }])?;
        self.contents.microseconds.insert(code.to_owned(), microseconds);
        Ok(())
    }

    /// How far the evaluation of exactly these subnets came.
    pub fn tally(&self, codes: &[String]) -> Tally {
        let of_these = |(listed, tally): &&(Vec<String>, Tally)| {
            listed == codes && tally.right.len() == codes.len()
        };
        let same = self.contents.partial.as_ref().filter(of_these);
        same.map(|(_, tally)| tally.clone()).unwrap_or_default()
    }

    /// Writes down results, which are safe when this returns.
    pub fn add(&mut self, codes: &[String], right: &[usize]) -> Result<()> {
        let results = || codes.iter().cloned().zip(right.iter().copied());
        let lines: Vec<Line> =
            results().map(|(code, right)| Line::Result { code, right }).collect();
        self.append(&lines)?;
        self.contents.right.extend(results());
        Ok(())
    }

    /// Writes down how far some subnets are.
    pub fn add_tally(&mut self, codes: &[String], tally: &Tally) -> Result<()> {
        self.append(&[Line::Partial { codes: codes.to_vec(), tally: tally.clone() }])
    }

    fn append(&mut self, lines: &[Line]) -> Result<()> {
        self.new = None;
        self.write(lines)
    }

    fn write(&mut self, lines: &[Line]) -> Result<()> {
        let mut text = String::new();
        for line in lines {
            text += &serde_json::to_string(line)?;
            text.push('\n');
        }
        let written = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_data());
        written.with_context(|| self.path.display().to_string())
    }

    /// Deletes the file, when its results are elsewhere.
    pub fn remove(self) {
        // If it stays, it only takes space: the same command would find everything done.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluation(bn: &str) -> Evaluation {
        Evaluation {
            checkpoint: "abc".into(),
            space: "ü".into(),
            training: "t".into(),
            validation: "v".into(),
            images: 10,
            bn: bn.into(),
            recalibration_batches: None,
            batch: 5,
            instruction_set: "scalar".into(),
            latency: None,
        }
    }

    fn words(codes: &[&str]) -> Vec<String> {
        codes.iter().map(|code| (*code).to_owned()).collect()
    }

    #[test]
    fn what_was_added_is_there_after_a_kill_at_any_byte() {
        let folder = tempfile::tempdir().unwrap();
        // In a folder that is not there yet.
        let path = folder.path().join("new/out.json.partial");
        let mut log = Log::open(&path, &evaluation("tracked")).unwrap();
        let tally = Tally { batches: 1, right: vec![3] };
        log.add_tally(&words(&["12"]), &tally).unwrap();
        log.add(&words(&["11", "12"]), &[5, 0]).unwrap();
        log.add_latency("12", 40).unwrap();
        drop(log);
        let whole = std::fs::read(&path).unwrap();
        let ends: Vec<usize> = (0..whole.len()).filter(|i| whole[*i] == b'\n').collect();
        assert_eq!(ends.len(), 5);
        for cut in 0..=whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let mut log = Log::open(&path, &evaluation("tracked")).unwrap();
            let complete = ends.iter().filter(|end| **end < cut).count();
            let expected = if complete >= 2 { tally.clone() } else { Tally::default() };
            assert_eq!(log.tally(&words(&["12"])), expected, "{cut}");
            assert_eq!(log.tally(&words(&["11"])), Tally::default(), "of other codes");
            assert_eq!(log.get("11"), (complete >= 3).then_some(5), "{cut}");
            assert_eq!(log.get("12"), (complete >= 4).then_some(0), "{cut}");
            assert_eq!(log.latency("12"), (complete >= 5).then_some(40), "{cut}");
            log.add(&words(&["13"]), &[7]).unwrap();
            let kept = log.get("11");
            drop(log);
            let again = Log::open(&path, &evaluation("tracked")).unwrap();
            assert_eq!((again.get("11"), again.get("13")), (kept, Some(7)), "{cut}");
        }
    }

    #[test]
    fn only_one_process_writes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let first = Log::open(&path, &evaluation("tracked")).unwrap();
        let error = Log::open(&path, &evaluation("tracked")).err().unwrap().to_string();
        assert!(error.contains("another process"), "{error}");
        drop(first);
        Log::open(&path, &evaluation("tracked")).unwrap();
    }

    #[test]
    fn other_evaluations_and_other_files_are_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.json.partial");
        let error =
            |evaluation: &Evaluation| Log::open(&path, evaluation).err().unwrap().to_string();
        // Without results there is nothing to lose.
        drop(Log::open(&path, &evaluation("tracked")).unwrap());
        let mut log = Log::open(&path, &evaluation("frozen")).unwrap();
        log.add(&words(&["11"]), &[5]).unwrap();
        drop(log);
        let before = std::fs::read(&path).unwrap();
        let said = error(&evaluation("tracked"));
        assert!(
            said.contains("partial") && said.contains("bn \"tracked\" instead of \"frozen\""),
            "{said}"
        );
        assert_eq!(std::fs::read(&path).unwrap(), before);

        let header = String::from_utf8(before).unwrap().lines().next().unwrap().to_owned();
        for (text, needles) in [
            ("some notes".to_owned(), ["line 1", "begin"]),
            ("some notes\n".to_owned(), ["line 1", "expected"]),
            (
                format!("{header}\n{{\"result\":{{\"code\":\"11\",\"right\":-3}}}}\n"),
                ["line 2", "-3"],
            ),
            (format!("{header}\n{header}\n"), ["line 2", "second"]),
            (
                "{\"result\":{\"code\":\"11\",\"right\":3}}\n".to_owned(),
                ["line 1", "no evaluation"],
            ),
        ] {
            std::fs::write(&path, &text).unwrap();
            let said = error(&evaluation("frozen"));
            assert!(needles.iter().all(|needle| said.contains(needle)), "{said}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }
}
