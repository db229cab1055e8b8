//! What criterion left in its folder: for every benchmark a `new/benchmark.json` with its names and
//! its work, and a `new/estimates.json` with its times.

use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What one benchmark computes in one call.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
pub enum Work {
    /// Floating-point operations (criterion calls them elements).
    Elements(u64),
    /// Bytes read and written.
    Bytes(u64),
}

/// One operation at one shape: median seconds of each implementation that was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub operation: String,
    pub shape: String,
    pub work: Work,
    pub seconds: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
struct Benchmark {
    group_id: String,
    function_id: String,
    value_str: String,
    throughput: Work,
}

#[derive(Deserialize)]
struct Estimates {
    median: Estimate,
}

#[derive(Deserialize)]
struct Estimate {
    /// Nanoseconds.
    point_estimate: f64,
}

/// Every entry under a folder of criterion's, by operation and shape.
///
/// # Errors
/// When the folder or a file cannot be read, or is not what criterion writes.
pub fn read(folder: &Path) -> Result<Vec<Entry>> {
    let mut found = Vec::new();
    benchmarks(folder, &mut found)?;
    let mut entries: BTreeMap<(String, String), Entry> = BTreeMap::new();
    for path in found {
        let benchmark: Benchmark = json(&path.join("benchmark.json"))?;
        let estimates: Estimates = json(&path.join("estimates.json"))?;
        let Benchmark { group_id: operation, function_id, value_str: shape, throughput: work } =
            benchmark;
        let entry = entries.entry((operation.clone(), shape.clone())).or_insert_with(|| Entry {
            operation,
            shape,
            work,
            seconds: BTreeMap::new(),
        });
        entry.seconds.insert(function_id, estimates.median.point_estimate * 1e-9);
    }
    Ok(entries.into_values().collect())
}

/// Every `new` folder that holds a benchmark.
fn benchmarks(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if !path.is_dir() {
            continue;
        }
        if path.ends_with("new") && path.join("benchmark.json").is_file() {
            found.push(path);
        } else {
            benchmarks(&path, found)?;
        }
    }
    Ok(())
}

fn json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cargo::root;

    /// Folders as criterion 0.8 wrote them.
    #[test]
    fn a_folder_of_criterions() {
        let entries = read(&root().join("xtask/src/bench/sample")).unwrap();
        let names: Vec<_> = entries.iter().map(|e| (&e.operation[..], &e.shape[..])).collect();
        assert_eq!(
            names,
            [
                ("average pool forward", "mini 64x4x4x256"),
                ("conv forward", "mini 2x28x28 32-32 3x3 s1"),
                ("roofline", "128 MiB"),
                ("roofline", "2048x2048x2048 f32"),
            ]
        );
        assert_eq!(entries[0].work, Work::Bytes(1_114_112));
        assert_eq!(entries[1].work, Work::Elements(28_901_376));
        let seconds = &entries[1].seconds;
        assert_eq!(
            seconds.keys().map(String::as_str).collect::<Vec<_>>(),
            ["candle", "ours", "reference"]
        );
        assert!(seconds.values().all(|s| (1e-6..1.0).contains(s)), "{seconds:?}");
    }

    #[test]
    fn a_damaged_file_is_named() {
        let folder = std::env::temp_dir().join(format!("slimtau-bench-{}", std::process::id()));
        let new = folder.join("a/new");
        std::fs::create_dir_all(&new).unwrap();
        std::fs::write(new.join("benchmark.json"), "{}").unwrap();
        let error = format!("{:#}", read(&folder).unwrap_err());
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(error.contains("benchmark.json") && error.contains("group_id"), "{error}");
    }
}
