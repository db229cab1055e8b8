//! The commands around the pipeline: search spaces, single forward passes, ranking, reports.

pub mod data;
pub mod export;
pub mod forward;
pub mod import;
mod inherited;
pub mod plan;
pub mod rank;
pub mod report;
pub mod search;
pub mod space;

use anyhow::Context;
use slimtau_space::{Arch, SearchSpace};
use std::path::Path;

/// A code of a list.
pub struct Listed {
    /// Where it stands, from 1.
    pub line: usize,
    /// As it is written there.
    pub code: String,
    pub arch: Arch,
}

/// Codes of a file (or `-`), separated by commas or white space.
pub fn read_codes(path: &Path, space: &SearchSpace) -> anyhow::Result<Vec<Listed>> {
    let text = crate::read_input(path)?;
    let shown = shown(path);
    let mut codes = Vec::new();
    for (i, text) in text.lines().enumerate() {
        let line = i + 1;
        for code in text.split([',', ' ', '\t']).map(str::trim).filter(|c| !c.is_empty()) {
            let arch =
                space.parse(code).map_err(|e| anyhow::anyhow!("{shown}, line {line}: {e}"))?;
            codes.push(Listed { line, code: code.to_owned(), arch });
        }
    }
    if codes.is_empty() {
        anyhow::bail!("{shown}: no codes in it");
    }
    Ok(codes)
}

/// The same, of subnets that have a place in the supernet, all in one of the two forms.
pub fn read_tied_codes(path: &Path, space: &SearchSpace) -> anyhow::Result<Vec<Listed>> {
    let codes = read_codes(path, space)?;
    let shown = shown(path);
    for Listed { line, code, arch } in &codes {
        space.check_tied(arch).with_context(|| format!("{shown}, line {line}: {code}"))?;
        anyhow::ensure!(
            code.len() == codes[0].code.len(),
            "{shown}, line {line}: code {code} has {} digits, but the first has {}; a list has one form",
            code.len(),
            codes[0].code.len()
        );
    }
    Ok(codes)
}

fn shown(path: &Path) -> String {
    match path.to_str() {
        Some("-") => "standard input".into(),
        _ => path.display().to_string(),
    }
}
