//! `cargo xtask bench`: runs the criterion benches of the kernels and makes one table of what they
//! measured: ours beside the reference, candle and the machine's own roofs.

mod results;
mod table;

use crate::cargo::{self, root};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use table::Report;

/// What to measure, and how thoroughly.
#[derive(clap::Args)]
pub struct Args {
    /// A third of a second per entry instead of more than one: noisier
    #[arg(long)]
    quick: bool,
    /// Only entries whose `OPERATION/IMPLEMENTATION/SHAPE` matches this regular expression, such as
    /// `conv.*mini` (the machine's roofs are always measured)
    #[arg(long, value_name = "REGEX")]
    filter: Option<String>,
    /// Threads; default: as many as the machine has
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Where to write the numbers; default: runs/bench.json
    #[arg(long, value_name = "PATH")]
    json: Option<PathBuf>,
}

/// Measures, prints the table, writes the JSON.
pub fn run(args: &Args) -> Result<()> {
    let threads = match args.threads {
        Some(0) => bail!("--threads 0: at least one thread has to do the work"),
        Some(threads) => threads,
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    // Emptied first: what an earlier run measured is not part of this one.
    let folder = cargo::target().join("bench");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    }
    measure(args, threads, &folder)?;
    let report = Report {
        machine: machine(),
        threads,
        commit: commit(),
        date: table::utc(std::time::SystemTime::now()),
        quick: args.quick,
        entries: results::read(&folder)?,
    };
    print!("{}", report.text());
    let path = args.json.clone().unwrap_or_else(|| root().join("runs/bench.json"));
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
    }
    let json = serde_json::to_string_pretty(&report.json())?;
    std::fs::write(&path, json + "\n").with_context(|| path.display().to_string())?;
    println!("written to {}", path.display());
    Ok(())
}

/// One after the other: every benchmark uses all threads itself.
fn measure(args: &Args, threads: usize, folder: &Path) -> Result<()> {
    let words = ["bench", "--package", "slimtau-kernels", "--bench", "kernels", "--"];
    let mut command = cargo::cargo(&words);
    // Both are how criterion and rayon's global pool, which candle uses too, are told.
    command.env("CRITERION_HOME", folder).env("RAYON_NUM_THREADS", threads.to_string());
    command.arg("--noplot");
    if args.quick {
        for (option, value) in [
            ("--warm-up-time", "0.05"),
            ("--measurement-time", "0.25"),
            ("--sample-size", "10"),
            ("--nresamples", "2000"),
        ] {
            command.args([option, value]);
        }
    }
    if let Some(filter) = &args.filter {
        command.arg(format!("^roofline/|{filter}"));
    }
    cargo::run(command)
}

/// The processor's name, where the system tells, and its architecture.
fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": "));
    let name = name.map_or("unknown processor", |(_, name)| name.trim());
    format!("{name} ({})", std::env::consts::ARCH)
}

/// The commit, with `-dirty` where files differ from it; `unknown` outside of a checkout.
fn commit() -> String {
    let mut git = Command::new("git");
    git.current_dir(root()).args(["describe", "--always", "--dirty", "--abbrev=12"]);
    let output = git.output().ok().filter(|o| o.status.success());
    output.map_or("unknown".into(), |o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
}
