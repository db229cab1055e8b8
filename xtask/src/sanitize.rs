//! `cargo xtask sanitize`: the kernels' tests under tools that watch every memory access. Miri runs the
//! plain code paths (it knows no intrinsics), AddressSanitizer those of every instruction set.

use crate::cargo;
use anyhow::{Context, Result, bail};
use std::process::{Command, Stdio};

/// Which tools to run.
#[derive(clap::Args)]
pub struct Args {
    /// Only this one
    #[arg(long, value_enum)]
    only: Option<Tool>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Tool {
    /// Undefined behaviour in the plain code paths; needs the nightly component `miri`
    Miri,
    /// Accesses outside of buffers and after their end, on every instruction set; needs a nightly
    Address,
}

/// Runs every tool that is there; one that is not is named, and is an error if it was asked for.
pub fn run(args: &Args) -> Result<()> {
    let mut ran = 0;
    for (tool, component) in [(Tool::Miri, "miri"), (Tool::Address, "")] {
        if args.only.is_some_and(|only| only != tool) {
            continue;
        }
        if let Some(missing) = missing(component) {
            if args.only.is_some() {
                bail!("{missing}");
            }
            eprintln!("left out: {missing}");
            continue;
        }
        match tool {
            Tool::Miri => miri()?,
            Tool::Address => address()?,
        }
        ran += 1;
    }
    if ran == 0 {
        bail!("neither Miri nor a nightly toolchain is installed: nothing was checked");
    }
    Ok(())
}

/// What has to be installed, if anything.
fn missing(component: &str) -> Option<String> {
    let works = |words: &[&str]| {
        let mut command = nightly(words);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if !works(&["--version"]) {
        return Some("no nightly toolchain: `rustup toolchain install nightly`".into());
    }
    if !component.is_empty() && !works(&[component, "--version"]) {
        return Some(format!(
            "no {component}: `rustup component add --toolchain nightly {component} rust-src`"
        ));
    }
    None
}

fn nightly(words: &[&str]) -> Command {
    // Through rustup's `cargo`, which knows `+nightly`; the `CARGO` of this process does not.
    let mut command = Command::new("cargo");
    command.current_dir(cargo::root()).arg("+nightly").args(words);
    for variable in ["CARGO", "RUSTC", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(variable);
    }
    command
}

fn miri() -> Result<()> {
    // What is small enough for an interpreter: convolutions of every kind on small maps, the matrix
    // product, the cut of element-wise work, tiles of what is normalised.
    let parts: [&[&str]; 2] =
        [&["--test", "narrow"], &["--lib", "--", "product::", "tile::", "winograd::input::"]];
    for part in parts {
        let mut command = nightly(&["miri", "test", "--package", "slimtau-kernels"]);
        command.args(part);
        // crossbeam, under rayon, keeps to Tree Borrows only, and its pools' memory lives to the end.
        // proptest looks for a file of past failures.
        let flags = "-Zmiri-tree-borrows -Zmiri-ignore-leaks -Zmiri-disable-isolation";
        command.env("MIRIFLAGS", flags);
        cargo::run(command)?;
    }
    Ok(())
}

fn address() -> Result<()> {
    let target = host()?;
    let mut command = nightly(&["test", "--target", &target, "--lib", "--tests"]);
    command.args(["--package", "slimtau-kernels", "--package", "slimtau-parallel"]);
    command.env("RUSTFLAGS", "-Zsanitizer=address");
    // Of several panics in a job all but one are forgotten on purpose.
    command.env("ASAN_OPTIONS", "detect_leaks=0");
    cargo::run(command)
}

/// The nightly's own target: naming it keeps build scripts and macros out of the sanitizer.
fn host() -> Result<String> {
    let mut command = Command::new("rustc");
    command.args(["+nightly", "--version", "--verbose"]).env_remove("RUSTUP_TOOLCHAIN");
    let output = command.output().context("cannot start `rustc +nightly`")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).with_context(|| format!("`rustc +nightly` names no host: {text}"))
}
