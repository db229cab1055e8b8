//! The commands around the pipeline: search spaces, single forward passes, ranking.

pub mod forward;
pub mod rank;
pub mod space;

use slimtau_space::{Arch, SearchSpace};
use std::path::PathBuf;

/// Codes of a file (or `-`), separated by commas or white space, each with its line.
pub fn read_codes(path: &PathBuf, space: &SearchSpace) -> anyhow::Result<Vec<(String, Arch)>> {
    let text = crate::read_input(path)?;
    let mut codes = Vec::new();
    for (i, line) in text.lines().enumerate() {
        for code in line.split([',', ' ', '\t']).map(str::trim).filter(|c| !c.is_empty()) {
            let arch = space
                .parse(code)
                .map_err(|e| anyhow::anyhow!("{}, line {}: {e}", path.display(), i + 1))?;
            codes.push((code.to_owned(), arch));
        }
    }
    if codes.is_empty() {
        anyhow::bail!("{}: no codes in it", path.display());
    }
    Ok(codes)
}
