//! Whole-file reading and atomic writing with errors that name the file.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// A file that could not be used, with its path and the reason.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file could not be written; whatever stood there before still stands.
    #[error("cannot write {}: {source}; nothing was changed", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The contents are not what they should be.
    #[error("{}: {problem}", path.display())]
    Contents {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A tensor is not in a file.
    #[error("{}: tensor `{name}` {expected:?} is missing", path.display())]
    MissingTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The shape that it should have.
        expected: Vec<usize>,
    },
    /// A tensor in a file has another shape than it should.
    #[error("{}: tensor `{name}` has shape {got:?}, expected {expected:?}", path.display())]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The file's.
        got: Vec<usize>,
        /// The shape that it should have.
        expected: Vec<usize>,
    },
}

impl FileError {
    /// The contents of `path` are wrong: `problem` says how.
    pub fn contents(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Self::Contents { path: path.into(), problem: problem.into() }
    }
}

/// The bytes of a file.
///
/// # Errors
/// [`FileError::Read`] when it cannot be opened or read.
pub fn read_bytes(path: &Path) -> Result<Vec<u8>, FileError> {
    fs::read(path).map_err(|source| FileError::Read { path: path.into(), source })
}

/// A UTF-8 text file.
///
/// # Errors
/// [`FileError::Read`] when it cannot be read, [`FileError::Contents`] when it is not UTF-8.
pub fn read_text(path: &Path) -> Result<String, FileError> {
    String::from_utf8(read_bytes(path)?).map_err(|e| {
        FileError::contents(
            path,
            format!("not UTF-8 text at byte {}", e.utf8_error().valid_up_to()),
        )
    })
}

/// The folders on the way to one that a command has made, for it to take back when it has nothing to put there.
#[derive(Debug)]
pub struct NewFolders(Vec<PathBuf>);

impl NewFolders {
    /// Makes a folder and those above it, as far as they are missing.
    ///
    /// # Errors
    /// The system's reason; nothing new is left then.
    pub fn make(folder: &Path) -> io::Result<Self> {
        let on_the_way = folder.ancestors().filter(|f| !f.as_os_str().is_empty());
        let missing = on_the_way.take_while(|f| !f.exists()).map(Path::to_path_buf);
        let new = Self(missing.collect());
        match fs::create_dir_all(folder) {
            Ok(()) => Ok(new),
            Err(error) => {
                new.take_back();
                Err(error)
            }
        }
    }

    /// Removes those that are empty.
    pub fn take_back(&self) {
        // Innermost first; the first that somebody has put something into ends it.
        let _ = self.0.iter().try_for_each(fs::remove_dir);
    }
}

/// Writes `path` so that at every moment it holds either its old or its new contents: a temporary
/// file beside it is filled by `fill`, synced, renamed over it, and the folder synced.
///
/// Missing parent folders are made. After an error (a full disk, say) they and the temporary file are gone.
///
/// # Errors
/// [`FileError::Write`] with the system's reason.
pub fn write_atomic(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), FileError> {
    let fail = |source| FileError::Write { path: path.into(), source };
    let folder = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    let name = path
        .file_name()
        .ok_or_else(|| fail(io::Error::new(io::ErrorKind::InvalidInput, "not a file name")))?;
    let new_folders = NewFolders::make(folder).map_err(fail)?;
    // The process id keeps two programs that write the same file from sharing a temporary one.
    let mut temporary_name = std::ffi::OsString::from(".");
    temporary_name.push(name);
    temporary_name.push(format!(".{}.tmp", std::process::id()));
    let temporary = folder.join(temporary_name);
    let written = (|| {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(&temporary)?);
        fill(&mut out)?;
        out.flush()?;
        out.get_ref().sync_all()?;
        fs::rename(&temporary, path)?;
        // The rename itself is durable only once the folder is.
        File::open(folder)?.sync_all()
    })();
    written.map_err(|source| {
        let _ = fs::remove_file(&temporary);
        new_folders.take_back();
        fail(source)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_keeps_the_old_file_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        write_atomic(&path, |w| w.write_all(b"old")).unwrap();
        let error = write_atomic(&path, |w| {
            w.write_all(b"half of the new")?;
            Err(io::Error::other("disk full"))
        })
        .unwrap_err();
        assert!(error.to_string().contains("a.txt") && error.to_string().contains("disk full"));
        assert_eq!(read_text(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn folders_are_made_and_go_with_what_failed() {
        let folder = tempfile::tempdir().unwrap();
        let fails = |path: &str| {
            write_atomic(&folder.path().join(path), |_| Err(io::Error::other("no"))).unwrap_err();
        };
        fails("x/y/z.bin");
        assert!(!folder.path().join("x").exists());
        fs::write(folder.path().join("file"), "").unwrap();
        assert!(NewFolders::make(&folder.path().join("file/x")).is_err());
        assert!(NewFolders::make(&folder.path().join("file")).is_err());
        let path = folder.path().join("x/y/z.bin");
        write_atomic(&path, |w| w.write_all(&[1, 2])).unwrap();
        assert_eq!(read_bytes(&path).unwrap(), [1, 2]);
        fails("x/y/other/z.bin");
        assert!(path.is_file() && !folder.path().join("x/y/other").exists());
    }
}
