//! The folder of a run: one configuration's own, and there only once there is something in it.

use super::inherit;
use anyhow::{Context, Result, bail};
use slimtau_base::{NewFolders, read_text, write_atomic};
use slimtau_train::clean_temporaries;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

/// A folder that is this configuration's own.
pub struct Claim {
    folder: PathBuf,
    /// Where the marker is new.
    new: Option<NewFolders>,
}

impl Claim {
    /// Takes a new folder, one of the same configuration, or, with `fresh`, one of another run that is then emptied.
    pub fn new(folder: &Path, config_toml: &str, fresh: bool) -> Result<Self> {
        let marker = folder.join("config.toml");
        let shown = folder.display();
        if folder.exists() && !folder.is_dir() {
            bail!("{shown}: is a file, not a folder; name another with --out");
        }
        if marker.is_file() {
            if fresh {
                let mut names = fs::read_dir(folder)?.flatten().map(|e| e.file_name());
                if let Some(name) = names.find(|n| !is_of_a_run(n)) {
                    bail!(
                        "{shown}: holds {}, which no run has made; --fresh deletes only what runs leave",
                        name.display()
                    );
                }
                fs::remove_dir_all(folder).with_context(|| shown.to_string())?;
            } else if read_text(&marker)? != config_toml {
                bail!(
                    "{shown}: is of another configuration, space or dataset (see its config.toml); --fresh deletes it, --out names another folder"
                );
            }
        } else if folder.is_dir() {
            // A run that was killed at once leaves no more than its temporary marker.
            let foreign = |name: &OsStr| !name.as_encoded_bytes().starts_with(b".config.toml.");
            if fs::read_dir(folder)?.flatten().any(|entry| foreign(&entry.file_name())) {
                bail!("{shown}: is not empty and not a run's folder; name another with --out");
            }
        }
        let mut claim = Self { folder: folder.to_owned(), new: None };
        if !marker.is_file() {
            let cannot = || format!("cannot write {}", marker.display());
            claim.new = Some(NewFolders::make(folder).with_context(cannot)?);
            write_atomic(&marker, |out| out.write_all(config_toml.as_bytes()))?;
        }
        clean_temporaries(folder);
        for entry in fs::read_dir(folder)?.flatten() {
            clean_temporaries(&entry.path());
        }
        Ok(claim)
    }
}

impl Drop for Claim {
    /// A command that is refused, or fails before there is anything to keep, leaves nothing.
    fn drop(&mut self) {
        let Some(new) = &self.new else { return };
        if holds(&self.folder, &|file| file != self.folder.join("config.toml")) {
            return;
        }
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        }
        new.take_back();
    }
}

/// Whether there is a file below a folder that counts and is not empty.
fn holds(folder: &Path, counts: &dyn Fn(&Path) -> bool) -> bool {
    fs::read_dir(folder).into_iter().flatten().flatten().any(|entry| {
        let path = entry.path();
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => holds(&path, counts),
            Ok(metadata) => metadata.len() > 0 && counts(&path),
            Err(_) => true,
        }
    })
}

/// Whether a run makes a file or folder of this name in its own.
fn is_of_a_run(name: &OsStr) -> bool {
    const NAMES: [&str; 14] = [
        "config.toml",
        "stages",
        "teacher",
        "moco",
        "ccfs",
        "inherited.json",
        inherit::LOG,
        "standalone",
        "truth.csv",
        "seconds.json",
        "experiment.json",
        "results.md",
        "report.json",
        "report.html",
    ];
    let name = name.to_string_lossy();
    NAMES.contains(&&*name) || NAMES.iter().any(|n| name.starts_with(&format!(".{n}.")))
}
