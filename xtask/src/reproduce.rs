//! `cargo xtask reproduce`: builds `slimtau` and runs the whole pipeline with it.

use crate::cargo::{self, build_slimtau};
use anyhow::Result;
use std::path::PathBuf;
use std::process::Command;

/// What to reproduce.
#[derive(clap::Args)]
pub struct Args {
    /// A small version of everything, within 4 minutes on 2 cores
    #[arg(long, conflicts_with = "config")]
    quick: bool,
    /// Every method of the experiment, not only the paper's two tables
    #[arg(long, conflicts_with = "quick")]
    full: bool,
    /// Supernets and networks trained at once; default: one per core
    #[arg(long, value_name = "N", default_value_t = 0)]
    jobs: usize,
    /// Another configuration than the default one
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// `embedded`, `auto`, or a folder with the dataset; default: what the configuration says
    #[arg(long, value_name = "SOURCE")]
    data: Option<String>,
    /// Where to write; default: runs/NAME, the name in the configuration
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Where networks are trained and evaluated: `cpu`, `cuda` or `cuda:N`; default: cpu
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// What activations are made of on a GPU: bf16 (default) or f32
    #[arg(long, value_name = "PRECISION", requires = "device")]
    precision: Option<String>,
    /// Delete what an earlier run left in that folder instead of going on with it
    #[arg(long)]
    fresh: bool,
}

/// Runs `slimtau run` with a committed configuration.
pub fn run(args: &Args) -> Result<()> {
    let default = if args.quick { "configs/quick.toml" } else { "configs/reproduce.toml" };
    let config = args.config.clone().unwrap_or_else(|| cargo::in_root(default));
    let mut command = Command::new(build_slimtau()?);
    command.arg("run").arg("--config").arg(config).arg("--jobs").arg(args.jobs.to_string());
    if args.full {
        command.arg("--full");
    }
    if let Some(data) = &args.data {
        command.arg("--data").arg(data);
    }
    if let Some(out) = &args.out {
        command.arg("--out").arg(out);
    }
    if let Some(device) = &args.device {
        command.arg("--device").arg(device);
    }
    if let Some(precision) = &args.precision {
        command.arg("--precision").arg(precision);
    }
    if args.fresh {
        command.arg("--fresh");
    }
    cargo::run(command)
}
