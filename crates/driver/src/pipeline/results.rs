//! Small result files of a run.

use super::Run;
use crate::commands::{Listed, read_tied_codes};
use crate::config;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use slimtau_base::{FileError, read_text, stream, write_atomic};
use slimtau_space::{Arch, SearchSpace};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The subnets that the run ranks.
pub fn subnets(run: &Run) -> Result<Vec<Arch>> {
    listed_subnets(&run.space, &run.config.subnets, run.list_seed)
}

/// The subnets of a `[subnets]` table: the file's, or the largest, the smallest, stratified and
/// uniform draws.
pub fn listed_subnets(
    space: &SearchSpace,
    config: &config::Subnets,
    list_seed: u64,
) -> Result<Vec<Arch>> {
    if let Some(path) = &config.codes {
        let codes = read_tied_codes(path, space)?;
        let mut seen = BTreeSet::new();
        for Listed { line, code, arch } in &codes {
            let shown = path.display();
            anyhow::ensure!(seen.insert(arch), "{shown}, line {line}: {code} is there twice");
        }
        return Ok(codes.into_iter().map(|listed| listed.arch).collect());
    }
    let mut seen = BTreeSet::new();
    let mut subnets: Vec<Arch> = [space.largest(), space.smallest()]
        .into_iter()
        .filter(|arch| seen.insert(arch.clone()))
        .collect();
    for cell in 0..config.stratified as u64 {
        // Depth and width each take evenly spread levels, in orders without a relation: the second
        // is the van der Corput sequence, so that any run of them is spread, too.
        let depth = (cell as f64 + 0.5) / config.stratified as f64;
        let width = f64::from((cell as u32).reverse_bits()) / 2f64.powi(32);
        let mut rng = stream(list_seed, "stratified subnets", cell);
        let arch = space.sample_near(&mut rng, depth, width);
        if subnets.len() < config.count && seen.insert(arch.clone()) {
            subnets.push(arch);
        }
    }
    // Small spaces may not have so many; the bound on draws ends the search.
    for draw in 0..100 * config.count as u64 {
        if subnets.len() >= config.count {
            break;
        }
        let mut rng = stream(list_seed, "subnets", draw);
        let arch = space.sample_uniform(&mut rng, true);
        if seen.insert(arch.clone()) {
            subnets.push(arch);
        }
    }
    Ok(subnets)
}

/// One stand-alone training.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StandaloneResult {
    /// Short code.
    pub code: String,
    /// Which of the independent trainings.
    pub replicate: u64,
    /// Top-1 on the validation set after the last step, in percent.
    pub accuracy: f64,
    /// Wall-clock seconds.
    pub seconds: f64,
    /// The kernels' instruction set: on another one, rounding makes another replicate of it.
    pub isa: String,
}

/// Reads a JSON file of our own.
pub fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T> {
    let text = read_text(path)?;
    Ok(serde_json::from_str(&text).map_err(|e| FileError::contents(path, e.to_string()))?)
}

/// Writes a JSON file atomically.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    Ok(write_atomic(path, |out| writeln!(out, "{text}"))?)
}

/// Seconds by stage, for stages without a log.
pub fn read_seconds(run: &Run) -> Result<BTreeMap<String, f64>> {
    let path = run.folder.join("seconds.json");
    if path.is_file() { read_json(&path) } else { Ok(BTreeMap::new()) }
}

/// Adds a stage's seconds.
pub fn save_seconds(run: &Run, stage: &str, seconds: f64) -> Result<()> {
    let mut all = read_seconds(run)?;
    all.insert(stage.to_owned(), seconds);
    write_json(&run.folder.join("seconds.json"), &all)
}
