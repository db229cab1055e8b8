//! `slimtau report`: an experiment's report from its data.

use crate::report::experiment::{self, Experiment};
use anyhow::Result;
use std::io::Write;
use std::path::PathBuf;

/// Make the report of an experiment again from its data
///
/// Writes report.json, report.html (opens offline) and results.md, and prints one line per method.
#[derive(clap::Args)]
pub struct Report {
    /// The experiment's data: experiment.json of its run's folder
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// The folder that the three files go to; made where it is missing
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
}

/// Runs the command.
pub fn run(args: &Report) -> Result<()> {
    let experiment = Experiment::read(&args.input)?;
    let summary = experiment::write(&args.out, &experiment)?;
    Ok(writeln!(std::io::stdout(), "{summary}\n{}", args.out.join("report.html").display())?)
}
