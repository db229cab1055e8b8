//! What a long evaluation has found so far: a file that only grows, so that a killed one goes on.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use slimtau_base::FileError;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The first line: what the results are of.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    evaluation: String,
}

/// Any further line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    code: String,
    /// Right answers: an integer comes back from a file as it was.
    right: usize,
}

/// Results by short code, in memory and in a file.
pub struct Log {
    path: PathBuf,
    file: File,
    right: BTreeMap<String, usize>,
}

impl Log {
    /// The log at `path`, as an earlier process left it, or a new one. `evaluation` names everything that decides a
    /// result besides its code.
    ///
    /// # Errors
    /// When the file is another evaluation's, damaged, or cannot be written.
    pub fn open(path: &Path, evaluation: &str) -> Result<Self> {
        let shown = path.display();
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(path);
        let mut file = file.with_context(|| shown.to_string())?;
        let mut right = BTreeMap::new();
        let (mut complete, mut lines) = (0, 0);
        let mut reader = BufReader::new(&file);
        let mut line = String::new();
        while reader.read_line(&mut line).with_context(|| shown.to_string())? > 0 {
            // The last line may be half of one: its process was killed.
            if !line.ends_with('\n') {
                break;
            }
            lines += 1;
            let wrong = |e: serde_json::Error| {
                FileError::contents(
                    path,
                    format!("line {lines}: not a line of an evaluation's log: {e}"),
                )
            };
            if lines == 1 {
                let header: Header = serde_json::from_str(&line).map_err(wrong)?;
                if header.evaluation != evaluation {
                    bail!(
                        "{shown}: is of another checkpoint, space, dataset or setting; delete it, or write to another --output"
                    );
                }
            } else {
                let Entry { code, right: n } = serde_json::from_str(&line).map_err(wrong)?;
                right.insert(code, n);
            }
            complete += line.len() as u64;
            line.clear();
        }
        file.set_len(complete).with_context(|| shown.to_string())?;
        file.seek(SeekFrom::End(0)).with_context(|| shown.to_string())?;
        let mut log = Self { path: path.to_owned(), file, right };
        if lines == 0 {
            log.append(&[Header { evaluation: evaluation.to_owned() }])?;
        }
        Ok(log)
    }

    /// The right answers of a subnet, if it was evaluated.
    pub fn get(&self, code: &str) -> Option<usize> {
        self.right.get(code).copied()
    }

    /// Writes down results, which are safe when this returns.
    pub fn add(&mut self, results: Vec<(String, usize)>) -> Result<()> {
        let entry = |(code, right): &(String, usize)| Entry { code: code.clone(), right: *right };
        let entries: Vec<Entry> = results.iter().map(entry).collect();
        self.append(&entries)?;
        self.right.extend(results);
        Ok(())
    }

    fn append(&mut self, lines: &[impl Serialize]) -> Result<()> {
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

    #[test]
    fn what_was_added_is_there_after_a_kill_in_the_middle_of_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.json.partial");
        let mut log = Log::open(&path, "x").unwrap();
        log.add(vec![("11".into(), 5), ("12".into(), 0)]).unwrap();
        drop(log);
        let whole = std::fs::read_to_string(&path).unwrap();
        assert_eq!(whole.lines().count(), 3, "{whole}");
        // At whatever byte it was cut: complete lines count, and new ones follow on lines of their own.
        for cut in 0..=whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let mut log = Log::open(&path, "x").unwrap();
            let complete = whole[..cut].matches('\n').count();
            assert_eq!(log.get("11"), (complete >= 2).then_some(5), "{cut}");
            assert_eq!(log.get("12"), (complete >= 3).then_some(0), "{cut}");
            log.add(vec![("13".into(), 7)]).unwrap();
            let again = Log::open(&path, "x").unwrap();
            assert_eq!((again.get("11"), again.get("13")), (log.get("11"), Some(7)), "{cut}");
        }
    }

    #[test]
    fn other_evaluations_and_other_files_are_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.json.partial");
        drop(Log::open(&path, "x").unwrap());
        let before = std::fs::read(&path).unwrap();
        let error = Log::open(&path, "y").err().unwrap().to_string();
        assert!(error.contains("another checkpoint") && error.contains("partial"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), before);

        let text = "{\"evaluation\":\"x\"}\n{\"code\":\"11\",\"right\":-3}\n";
        std::fs::write(&path, text).unwrap();
        let error = Log::open(&path, "x").err().unwrap().to_string();
        assert!(error.contains("line 2") && error.contains("-3"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
}
