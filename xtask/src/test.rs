//! `cargo xtask test`: every test of the workspace.

use crate::cargo;
use anyhow::Result;

/// What to pass on.
#[derive(clap::Args)]
pub struct Args {
    /// Passed on to `cargo test`, such as a filter
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

/// Unit, integration, property, golden and documentation tests, in release mode: they train real
/// networks, and the release build is the one that users run.
pub fn run(args: &Args) -> Result<()> {
    let mut command = cargo::cargo(&["test", "--release", "--workspace", "--no-fail-fast"]);
    command.args(&args.rest);
    cargo::run(command)
}
