//! `cargo xtask ground-truth`: makes or checks the benchmark's stored stand-alone accuracies.

use crate::cargo::{self, build_slimtau};
use anyhow::Result;
use std::path::PathBuf;
use std::process::Command;

/// Which ground truth, and which part of it.
#[derive(clap::Args)]
pub struct Args {
    /// Another configuration than the default experiment's
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Train only every N-th, beginning with the I-th: one share for each of N machines
    #[arg(long, value_name = "I/N")]
    shard: Option<String>,
    /// Train N of the stored ones again and compare
    #[arg(long, value_name = "N")]
    verify: Option<usize>,
    /// Trainings at once; default: one per core
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
}

/// Runs `slimtau ground-truth` with a committed configuration.
pub fn run(args: &Args) -> Result<()> {
    let mut command = Command::new(build_slimtau()?);
    let default = || cargo::in_root("configs/reproduce.toml");
    command.arg("ground-truth").arg("--config").arg(args.config.clone().unwrap_or_else(default));
    if let Some(shard) = &args.shard {
        command.arg("--shard").arg(shard);
    }
    if let Some(n) = args.verify {
        command.arg("--verify").arg(n.to_string());
    }
    if let Some(jobs) = args.jobs {
        command.arg("--jobs").arg(jobs.to_string());
    }
    cargo::run(command)
}
