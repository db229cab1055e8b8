//! The report of an experiment: several methods, each under several supernet seeds, against one
//! stand-alone truth. Written as `report.json`, `report.html` (one file that opens offline) and
//! `results.md`, all from the same values.
//!
//! Accuracies are in percent, regret in percentage points, times in seconds.

mod analysis;
mod compared;
mod comparisons;
mod findings;
mod forest;
mod html;
mod input;
mod markdown;
mod plots;
mod results;
mod sections;
mod tables;
#[cfg(test)]
mod tests;

#[allow(unused_imports, reason = "whoever fills an experiment needs every part of it")]
pub use input::{
    Architecture, Checkpoint, Experiment, Group, Planned, Row, Seconds, SeedResult, check_row,
};
pub use results::Results;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use slimtau_base::write_atomic;
use slimtau_ranking::Interval;
use std::fmt;
use std::path::Path;

/// `report.json`: what went in and what came out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// The data, as they can be given to `slimtau report` again.
    pub experiment: Experiment,
    /// Every statistic.
    pub results: Results,
    /// The findings in plain words, sentence by sentence.
    pub findings: Vec<String>,
}

/// Computes the statistics of an experiment and writes `report.json`, `report.html` and `results.md`
/// into `folder`, each atomically. The same data in another order of rows or architectures give the
/// same statistics.
///
/// # Errors
/// When the data contradict themselves (the message names row, seed or architecture, and value), or a
/// file cannot be written.
pub fn write(folder: &Path, experiment: &Experiment) -> anyhow::Result<Summary> {
    experiment.check()?;
    let results = Results::new(experiment)?;
    let findings = findings::findings(experiment, &results);
    let html = html::page(experiment, &results, &findings)?;
    let markdown = markdown::page(experiment, &results, &findings);
    let summary = Summary::new(&results);
    let document = Document { experiment: experiment.clone(), results, findings };
    let json = serde_json::to_string(&document).context("cannot turn the report into JSON")?;
    serde_json::from_str::<Document>(&json)
        .context("the report holds a number that is not finite, which JSON cannot say")?;
    write_atomic(&folder.join("report.json"), |out| writeln!(out, "{json}"))?;
    write_atomic(&folder.join("report.html"), |out| out.write_all(html.as_bytes()))?;
    write_atomic(&folder.join("results.md"), |out| out.write_all(markdown.as_bytes()))?;
    Ok(summary)
}

/// What a command prints at its end.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// One line per row, in the order of the experiment.
    pub rows: Vec<SummaryLine>,
    /// Mean tau between single stand-alone trainings.
    pub ceiling: Option<f64>,
    /// The best quantity that needs no training, and its tau.
    pub best_baseline: Option<(String, f64)>,
}

/// One row's result.
#[derive(Clone, Debug, PartialEq)]
pub struct SummaryLine {
    /// The row.
    pub name: String,
    /// Mean tau-b over seeds.
    pub tau: Option<f64>,
    /// Its interval.
    pub interval: Option<Interval>,
    /// Finished and planned supernet seeds.
    pub n_seeds: (usize, usize),
}

impl Summary {
    fn new(results: &Results) -> Self {
        let line = |row: &results::Score| SummaryLine {
            name: row.name.clone(),
            tau: row.tau.mean,
            interval: row.tau.interval,
            n_seeds: (row.seeds.len(), results.n_planned_seeds),
        };
        let best = results.best_baseline.and_then(|i| {
            let baseline = results.baselines.get(i)?;
            Some((baseline.name.clone(), baseline.tau.mean?))
        });
        Self {
            rows: results.rows.iter().map(line).collect(),
            ceiling: results.truth.between_replicates.mean_tau,
            best_baseline: best,
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
        for SummaryLine { name, tau, interval, n_seeds: (n, planned) } in &self.rows {
            write!(f, "{name:width$}  ")?;
            match (tau, interval) {
                (Some(tau), Some(i)) => write!(f, "tau {tau:6.3} [{:6.3}, {:6.3}]", i.low, i.high)?,
                (Some(tau), None) => write!(f, "tau {tau:6.3}")?,
                (None, _) => write!(f, "tau undefined")?,
            }
            writeln!(f, "  {n} of {planned} seeds")?;
        }
        match self.ceiling {
            Some(tau) => writeln!(f, "noise ceiling: tau {tau:.3} between single trainings")?,
            None => writeln!(f, "noise ceiling: unknown")?,
        }
        match &self.best_baseline {
            Some((name, tau)) => write!(f, "best without training: {name}, tau {tau:.3}"),
            None => write!(f, "best without training: none defined"),
        }
    }
}
