//! The commands around the pipeline: search spaces, single forward passes, ranking, reports.

pub mod forward;
pub mod rank;
pub mod report;
pub mod space;

use slimtau_space::{Arch, SearchSpace};
use std::path::Path;

/// Codes of a file (or `-`), separated by commas or white space, each with its line.
pub fn read_codes(path: &Path, space: &SearchSpace) -> anyhow::Result<Vec<(String, Arch)>> {
    let text = crate::read_input(path)?;
    let shown = match path.to_str() {
        Some("-") => "standard input".into(),
        _ => path.display().to_string(),
    };
    let mut codes = Vec::new();
    for (i, line) in text.lines().enumerate() {
        for code in line.split([',', ' ', '\t']).map(str::trim).filter(|c| !c.is_empty()) {
            let arch =
                space.parse(code).map_err(|e| anyhow::anyhow!("{shown}, line {}: {e}", i + 1))?;
            codes.push((code.to_owned(), arch));
        }
    }
    if codes.is_empty() {
        anyhow::bail!("{shown}: no codes in it");
    }
    Ok(codes)
}
