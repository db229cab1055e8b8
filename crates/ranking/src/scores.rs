//! Lists of architecture codes with accuracies: what they hold, what can be wrong with them, and how
//! they are written.

use crate::read;
use slimtau_base::{FileError, write_atomic};
use std::fmt;
use std::path::{Path, PathBuf};

/// An architecture's accuracy.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// The architecture code: ASCII digits, as given.
    pub code: String,
    /// Its accuracy: any finite number, in whatever unit the file uses (percent, usually).
    pub accuracy: f64,
}

/// The scores of one file or run, in its order.
///
/// All codes are of one length and no code occurs twice.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    path: PathBuf,
    entries: Vec<Score>,
}

/// Where in a file an entry stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    /// A line of a CSV file, from 1.
    Line(u64),
    /// A key of a JSON object.
    Key(String),
    /// A position in a list that came from no file, from 0.
    Index(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "line {line}"),
            Self::Key(key) => write!(f, "key `{key}`"),
            Self::Index(index) => write!(f, "entry {index}"),
        }
    }
}

/// A score file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ScoresError {
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// An entry is not a code with an accuracy.
    #[error("{}, {place}: {problem}", path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// The entry.
        place: Place,
        /// What is wrong, with the offending value.
        problem: String,
    },
    /// The file as a whole is neither JSON of a known form nor CSV.
    #[error("{}: {problem}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// One code has two accuracies.
    #[error(
        "{}: code {code} has accuracy {} at {} and {} at {}",
        path.display(), first.1, first.0, second.1, second.0
    )]
    Conflict {
        /// The file.
        path: PathBuf,
        /// The code.
        code: String,
        /// Where it stands first, and with which accuracy.
        first: (Place, f64),
        /// Where it stands again, and with which accuracy.
        second: (Place, f64),
    },
    /// The codes of two files cannot be of one space.
    #[error(
        "codes of {} have {predictions_length} digits and codes of {} have {truth_length}; \
         they must agree or differ by the one leading image-size digit",
        predictions.display(), truth.display()
    )]
    CodeLengths {
        /// The predictions' file.
        predictions: PathBuf,
        /// The number of digits of its codes.
        predictions_length: usize,
        /// The truth's file.
        truth: PathBuf,
        /// The number of digits of its codes.
        truth_length: usize,
    },
}

impl Scores {
    /// Reads a score file, whose form is recognised by its contents:
    ///
    /// - the competition's JSON, `{"arch1": {"acc": 70.4, "arch": "1252..."}, ...}` (other fields of
    ///   an entry are ignored);
    /// - plain JSON, `{"1252...": 70.4, ...}`;
    /// - CSV with the header `code,acc` (any order, other columns are ignored), or with no header
    ///   and exactly the two columns code and accuracy.
    ///
    /// A code is one or more ASCII digits, and all codes of a file have equally many. An accuracy is
    /// a finite number. The same code may occur again with the same accuracy and then counts once.
    ///
    /// # Errors
    /// When the file cannot be read, holds no score, or holds an entry that breaks these rules; the
    /// message names file, line or key, and value.
    pub fn read(path: &Path) -> Result<Self, ScoresError> {
        let text = slimtau_base::read_text(path)?;
        Self::parse(path, &text)
    }

    /// As [`Scores::read`], from text already in memory; `path` is only what messages call it.
    ///
    /// # Errors
    /// As [`Scores::read`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ScoresError> {
        Self::collect(path.into(), read::entries(path, text)?)
    }

    /// Scores that come from no file; `name` is what messages call them.
    ///
    /// # Errors
    /// When there is none, a code is not digits or of another length than the first, an accuracy is
    /// not finite, or a code has two accuracies.
    pub fn new(name: &str, entries: Vec<Score>) -> Result<Self, ScoresError> {
        let placed = entries.into_iter().enumerate().map(|(i, score)| (Place::Index(i), score));
        Self::collect(name.into(), placed.collect())
    }

    fn collect(path: PathBuf, placed: Vec<(Place, Score)>) -> Result<Self, ScoresError> {
        let Some((first_place, first)) = placed.first() else {
            return Err(ScoresError::Format { path, problem: "it holds no scores".into() });
        };
        let entry_error = |place: &Place, problem| {
            Err(ScoresError::Entry { path: path.clone(), place: place.clone(), problem })
        };
        for (place, Score { code, accuracy }) in &placed {
            if code.is_empty() || !code.bytes().all(|b| b.is_ascii_digit()) {
                return entry_error(place, format!("`{code}` is not a code, which is digits only"));
            }
            if code.len() != first.code.len() {
                let problem = format!(
                    "code {code} has {} digits, but the code at {first_place} has {}",
                    code.len(),
                    first.code.len()
                );
                return entry_error(place, problem);
            }
            if !accuracy.is_finite() {
                return entry_error(place, format!("accuracy {accuracy} is not a finite number"));
            }
        }
        let mut seen = std::collections::HashMap::with_capacity(placed.len());
        let mut kept = Vec::with_capacity(placed.len());
        for (i, (place, score)) in placed.iter().enumerate() {
            let first: usize = *seen.entry(&score.code).or_insert(i);
            let (first_place, accuracy) = (&placed[first].0, placed[first].1.accuracy);
            if first == i {
                kept.push(i);
            } else if accuracy != score.accuracy {
                return Err(ScoresError::Conflict {
                    path,
                    code: score.code.clone(),
                    first: (first_place.clone(), accuracy),
                    second: (place.clone(), score.accuracy),
                });
            }
        }
        drop(seen);
        let mut kept = kept.into_iter().peekable();
        let entries = placed.into_iter().enumerate();
        let entries = entries.filter(|(i, _)| kept.next_if_eq(i).is_some());
        Ok(Self { path, entries: entries.map(|(_, (_, score))| score).collect() })
    }

    /// The file, or the name given to [`Scores::new`].
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The scores in the order of the file.
    pub fn entries(&self) -> &[Score] {
        &self.entries
    }

    /// The number of digits of every code.
    pub fn code_length(&self) -> usize {
        // Every constructor refuses an empty list.
        self.entries.first().map_or(0, |score| score.code.len())
    }
}

/// Writes the competition's JSON atomically: `arch1`, `arch2`, ... in the order of the list, codes as
/// they are given (the competition's have 52 digits).
///
/// # Errors
/// As [`Scores::new`] for the contents, except that codes may repeat and the list may be empty; when
/// the file cannot be written.
pub fn write_competition_json(path: &Path, scores: &[Score]) -> Result<(), ScoresError> {
    check_writable(path, scores)?;
    Ok(write_atomic(path, |out| {
        out.write_all(b"{")?;
        for (i, score) in scores.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            let (number, Score { code, accuracy }) = (i + 1, score);
            // A code is digits: it needs no escaping. `{:?}` of a finite f64 is valid JSON, and reads
            // back as the same number.
            write!(
                out,
                "{comma}\n    \"arch{number}\": {{\n        \"acc\": {accuracy:?},\n        \
                 \"arch\": \"{code}\"\n    }}"
            )?;
        }
        out.write_all(b"\n}\n")
    })?)
}

/// Writes CSV with the header `code,acc` atomically, in the order of the list.
///
/// # Errors
/// As [`write_competition_json`].
pub fn write_csv(path: &Path, scores: &[Score]) -> Result<(), ScoresError> {
    check_writable(path, scores)?;
    Ok(write_atomic(path, |out| {
        out.write_all(b"code,acc\n")?;
        scores.iter().try_for_each(|s| writeln!(out, "{},{}", s.code, s.accuracy))
    })?)
}

fn check_writable(path: &Path, scores: &[Score]) -> Result<(), ScoresError> {
    let code_of_digits =
        |s: &Score| !s.code.is_empty() && s.code.bytes().all(|b| b.is_ascii_digit());
    let bad = |s: &Score| !s.accuracy.is_finite() || !code_of_digits(s);
    match scores.iter().position(bad) {
        None => Ok(()),
        Some(index) => {
            let Score { code, accuracy } = &scores[index];
            let problem = format!("code `{code}` with accuracy {accuracy} cannot be written");
            Err(ScoresError::Entry { path: path.into(), place: Place::Index(index), problem })
        }
    }
}
