//! Puts the commit and the compiler into the program, for reports.

use std::process::Command;

fn main() {
    let output = |program: &str, words: &[&str]| {
        let out = Command::new(program).args(words).output().ok().filter(|o| o.status.success())?;
        Some(String::from_utf8(out.stdout).ok()?.trim().to_owned())
    };
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    println!(
        "cargo::rustc-env=SLIMTAU_RUSTC={}",
        output(&rustc, &["--version"]).unwrap_or_else(|| "unknown".into())
    );
    if let Some(commit) = output("git", &["rev-parse", "HEAD"]) {
        let dirty = output("git", &["status", "--porcelain"]).is_some_and(|s| !s.is_empty());
        println!(
            "cargo::rustc-env=SLIMTAU_COMMIT={commit}{}",
            if dirty { " with changes" } else { "" }
        );
    }
    // A new commit is a new version.
    println!("cargo::rerun-if-changed=../../.git/HEAD");
    println!("cargo::rerun-if-changed=../../.git/logs/HEAD");
    println!("cargo::rerun-if-changed=src");
}
