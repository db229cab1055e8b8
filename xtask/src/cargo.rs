//! Running other programs from the workspace's root.

use anyhow::{Context, Result};
use std::path::PathBuf;
use std::process::Command;

/// A program that ended with an error of its own.
#[derive(Debug)]
pub struct Failed {
    /// Its exit code, if it was not killed.
    pub code: Option<i32>,
    program: String,
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.code {
            Some(code) => write!(f, "`{}` ended with exit code {code}", self.program),
            None => write!(f, "`{}` was killed", self.program),
        }
    }
}

impl std::error::Error for Failed {}

/// The workspace's root.
pub fn root() -> PathBuf {
    let mut path = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    path.pop();
    path
}

/// A committed file: by its relative name where that leads there, since names end up in reports.
pub fn in_root(name: &str) -> PathBuf {
    let here = std::env::current_dir().is_ok_and(|here| here == root());
    if here { name.into() } else { root().join(name) }
}

/// `cargo` with these words, from the root.
pub fn cargo(words: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(words);
    command
}

/// Runs a program to its end.
pub fn run(mut command: Command) -> Result<()> {
    let words: Vec<_> = command.get_args().map(|a| a.to_string_lossy().into_owned()).collect();
    let name = command.get_program().to_string_lossy().into_owned();
    let program = std::iter::once(name).chain(words).collect::<Vec<_>>().join(" ");
    let status = command.status().with_context(|| format!("cannot start `{program}`"))?;
    if status.success() { Ok(()) } else { Err(Failed { code: status.code(), program }.into()) }
}

/// Where cargo builds.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), Into::into)
}

/// Builds the `slimtau` program in release mode and returns its path.
pub fn build_slimtau() -> Result<PathBuf> {
    run(cargo(&["build", "--release", "--package", "slimtau-driver"]))?;
    Ok(target().join("release").join(format!("slimtau{}", std::env::consts::EXE_SUFFIX)))
}
