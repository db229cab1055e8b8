//! `cargo xtask bench`: the criterion benches of the kernels.

use crate::cargo;
use anyhow::Result;

/// What to pass on.
#[derive(clap::Args)]
pub struct Args {
    /// Passed on to criterion, such as a filter
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

/// Runs the benches one after the other: they use every core themselves.
pub fn run(args: &Args) -> Result<()> {
    let mut command = cargo::cargo(&["bench", "--package", "slimtau-kernels", "--bench", "conv"]);
    command.arg("--").args(&args.rest);
    cargo::run(command)
}
