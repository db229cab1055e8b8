//! `cargo xtask golden`: makes the committed goldens anew from the outside implementations.

use crate::cargo::{root, run};
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::process::Command;

/// Which Python to use.
#[derive(clap::Args)]
pub struct Args {
    /// A Python that has torch, torchvision, pillow, paddlepaddle, numpy, scipy and safetensors
    #[arg(long, default_value = "python3")]
    python: PathBuf,
}

/// Runs every `scripts/goldens_*.py`; a changed file then shows in `git diff`.
pub fn run_all(args: &Args) -> Result<()> {
    let folder = root().join("scripts");
    let mut scripts = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if name.starts_with("goldens_") && name.ends_with(".py") {
            scripts.push(path);
        }
    }
    scripts.sort();
    for script in scripts {
        println!("{}", script.display());
        let mut command = Command::new(&args.python);
        command.arg(&script);
        run(command)?;
    }
    Ok(())
}
