//! `cargo xtask tidy`, and the same checks as a test: rules that the compiler does not know.

use crate::cargo::root;
use anyhow::{Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// A file longer than this has two subjects.
const MAX_LINES: usize = 600;

/// Prints every broken rule.
pub fn run() -> Result<()> {
    let broken = check(&root())?;
    for line in &broken {
        eprintln!("{line}");
    }
    if broken.is_empty() {
        println!("tidy: every rule holds");
        return Ok(());
    }
    bail!("{} rule(s) broken", broken.len())
}

/// Every broken rule as `file: what`.
fn check(root: &Path) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    let mut files = Vec::new();
    for folder in ["crates", "xtask", "tests", "scripts", "configs", "docs"] {
        collect(&root.join(folder), &mut files)?;
    }
    files.sort();
    for path in &files {
        let shown = path.strip_prefix(root).unwrap_or(path).display();
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        let source = matches!(extension, "rs" | "py");
        if !source && !matches!(extension, "toml" | "md") {
            continue;
        }
        let text = fs::read_to_string(path)?;
        let head = match extension {
            "rs" => text.starts_with("//!"),
            "py" => text.starts_with("\"\"\"") || text.starts_with("#!"),
            _ => true,
        };
        if !head {
            broken.push(format!("{shown}: does not open with what it is for"));
        }
        let lines = text.lines().count();
        if source && lines > MAX_LINES {
            broken.push(format!("{shown}: {lines} lines, at most {MAX_LINES}"));
        }
        // Paths of one machine mean nothing on another. Split, so that this file passes.
        for place in [concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/wo", "rk/")] {
            if text.contains(place) {
                broken.push(format!("{shown}: names a machine's own path, {place}"));
            }
        }
    }
    for entry in fs::read_dir(root.join("crates"))? {
        let folder = entry?.path();
        for needed in ["README.md", "Cargo.toml"] {
            if !folder.join(needed).is_file() {
                let shown = folder.strip_prefix(root).unwrap_or(&folder).display();
                broken.push(format!("{shown}: has no {needed}"));
            }
        }
    }
    Ok(broken)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_holds() {
        let broken = check(&root()).unwrap();
        assert!(broken.is_empty(), "{}", broken.join("\n"));
    }
}
