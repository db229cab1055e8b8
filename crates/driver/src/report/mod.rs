//! The report of a run: one structure, written as `report.json` and, from the same values, as
//! `report.html`, a single file that opens offline. [`experiment`] is the report of many runs.
//!
//! Accuracies are in percent everywhere, times in seconds.

mod depth;
pub mod experiment;
mod findings;
mod format;
mod html;
mod plots;
pub mod search;
#[cfg(test)]
mod tests;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use slimtau_base::write_atomic;
use slimtau_ranking::{
    Bootstrap, Correlations, Intervals, NoiseCeiling, PairedDifference, StatisticsError, bootstrap,
    correlations, holm, regret, top_k_precision,
};
use std::path::Path;

/// Everything a run found, and what is needed to find it again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The headline, such as `CCFS-F on Fashion-MNIST, space mini`.
    pub title: String,
    /// How well each supernet's inherited accuracy ranks: the first is the one the run is about.
    pub methods: Vec<Ranking>,
    /// How well quantities rank that need no training: parameters, MACs, depth, Phi_M, Phi_F, ...
    pub baselines: Vec<Ranking>,
    /// Paired comparisons between rankings, p-values Holm-corrected over this list.
    pub comparisons: Vec<Comparison>,
    /// How well stand-alone training ranks itself, where it was repeated with other seeds.
    pub noise_ceiling: Option<NoiseCeiling>,
    /// The architectures that were ranked.
    pub subnets: Vec<Subnet>,
    /// What training logged, in the order of the stages.
    pub curves: Vec<Curve>,
    /// Where the time went, in the order of the stages.
    pub timings: Vec<Timing>,
    /// Where the images came from.
    pub data: Vec<DataSource>,
    /// The complete configuration, defaults included, as TOML.
    pub config_toml: String,
    /// The command line, program first.
    pub command: Vec<String>,
    /// Every seed that went in.
    pub seeds: Vec<Seed>,
    /// The program and the machine.
    pub versions: Versions,
    /// What a reader should know besides: limits, deviations from the paper, interruptions.
    pub notes: Vec<String>,
}

/// How well one quantity ranks the architectures by their stand-alone accuracy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ranking {
    /// What ranks: `CCFS-F`, `parameters`, ...
    pub name: String,
    /// The point estimates.
    pub correlations: Correlations,
    /// Their bootstrap intervals over architectures.
    pub intervals: Intervals,
    /// The share of the truly best among the predicted best, where there are enough architectures.
    pub top_k: Option<TopK>,
    /// Percentage points lost by taking the best predicted architecture instead of the best.
    pub regret: Option<f64>,
}

/// Top-k precision together with its k.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TopK {
    /// The number of architectures picked.
    pub k: usize,
    /// The share of the truly best `k` among them, in [0, 1].
    pub precision: f64,
}

impl Ranking {
    /// Everything about how `predictions` rank `truth` (percent), paired by position. The k of the
    /// top-k precision is a tenth of the architectures, at least 1.
    ///
    /// # Errors
    /// When the lists differ in length or are not finite, or `options` are out of range.
    pub fn new(
        name: impl Into<String>,
        predictions: &[f64],
        truth: &[f64],
        options: &Bootstrap,
    ) -> Result<Self, StatisticsError> {
        let k = truth.len().div_ceil(10);
        let top_k = match k {
            0 => None,
            k => Some(TopK { k, precision: top_k_precision(predictions, truth, k)? }),
        };
        Ok(Self {
            name: name.into(),
            correlations: correlations(predictions, truth)?,
            intervals: bootstrap(predictions, truth, options)?,
            top_k,
            regret: regret(predictions, truth)?,
        })
    }
}

/// Whether one ranking is better than another on the same architectures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The name of the first ranking.
    pub a: String,
    /// The name of the second.
    pub b: String,
    /// tau(a) - tau(b) with its interval.
    pub difference: PairedDifference,
    /// The p-value after Holm's correction over all comparisons of the report.
    pub adjusted_p_value: Option<f64>,
}

/// What a comparison establishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The first ranks better.
    Better,
    /// The second ranks better.
    Worse,
    /// No difference is established.
    Open,
    /// A tau is undefined.
    Undefined,
}

impl Comparison {
    /// A difference is established where the interval excludes 0 and the adjusted p-value is at most
    /// 1 - level.
    pub fn verdict(&self) -> Verdict {
        let Some(value) = self.difference.difference else { return Verdict::Undefined };
        let alpha = 1.0 - self.difference.bootstrap.level;
        let open = self.difference.interval.is_none_or(|interval| interval.contains(0.0))
            || self.adjusted_p_value.is_none_or(|p| p > alpha);
        match value {
            _ if open => Verdict::Open,
            v if v > 0.0 => Verdict::Better,
            _ => Verdict::Worse,
        }
    }
}

/// Holm's correction over `comparisons`; those without a p-value do not count among them.
///
/// # Errors
/// When a p-value is not within [0, 1].
pub fn correct(comparisons: &mut [Comparison]) -> Result<(), StatisticsError> {
    let p_values: Vec<f64> = comparisons.iter().filter_map(|c| c.difference.p_value).collect();
    let with_p = comparisons.iter_mut().filter(|c| c.difference.p_value.is_some());
    for (comparison, p) in with_p.zip(holm(&p_values)?) {
        comparison.adjusted_p_value = Some(p);
    }
    Ok(())
}

/// One architecture and what was measured on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Subnet {
    /// Its architecture code.
    pub code: String,
    /// Trainable parameters of the stand-alone network.
    pub params: u64,
    /// Multiply-accumulates for one image.
    pub macs: u64,
    /// The number of blocks over all stages.
    pub depth: usize,
    /// Inherited accuracy in percent under each of [`Report::methods`], in their order.
    pub inherited: Vec<f64>,
    /// Stand-alone accuracy in percent, one value per training seed.
    pub stand_alone: Vec<f64>,
}

impl Subnet {
    /// Mean stand-alone accuracy in percent; `None` without a value.
    pub fn stand_alone_mean(&self) -> Option<f64> {
        let n = self.stand_alone.len();
        (n > 0).then(|| self.stand_alone.iter().sum::<f64>() / n as f64)
    }

    /// Standard deviation over seeds (n - 1 in the denominator); `None` with fewer than two.
    pub fn stand_alone_std(&self) -> Option<f64> {
        let (n, mean) = (self.stand_alone.len(), self.stand_alone_mean()?);
        let squares = self.stand_alone.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
        (n > 1).then(|| (squares / (n - 1) as f64).sqrt())
    }
}

/// What one training run logged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// The stage it belongs to: `teacher`, `moco`, `ccfs`, `standalone`, ...; curves of one stage
    /// share a chart.
    pub stage: String,
    /// What tells it from others of its stage, such as an architecture code and a seed.
    pub label: String,
    /// Its points by ascending step.
    pub points: Vec<CurvePoint>,
}

/// One logged step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// The optimiser step, from 0.
    pub step: u64,
    /// The training loss; `None` where it was not finite.
    pub loss: Option<f64>,
    /// The learning rate.
    pub learning_rate: f64,
}

/// How long a stage took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// The stage.
    pub stage: String,
    /// Wall-clock seconds.
    pub seconds: f64,
    /// What was done in that time, such as `5 epochs of 10,000 images`.
    pub work: String,
}

/// A set of images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSource {
    /// What it is, such as `training set` or `validation set`.
    pub name: String,
    /// Where it came from: a file, a published data set, a generator.
    pub origin: String,
    /// The number of images used.
    pub n_images: u64,
    /// A checksum of the bytes, where one was taken.
    pub checksum: Option<String>,
}

/// A seed and what it determines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Seed {
    /// What it determines: `supernet`, `stand-alone 1`, `bootstrap`, ...
    pub purpose: String,
    /// Its value.
    pub seed: u64,
}

/// The program and the machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Versions {
    /// The version of slimtau.
    pub slimtau: String,
    /// The commit it was built from, if known.
    pub git_commit: Option<String>,
    /// The compiler, as `rustc --version` says.
    pub rustc: String,
    /// The processor's model, or the accelerator's.
    pub cpu: String,
    /// Threads used.
    pub threads: usize,
    /// The operating system and architecture.
    pub system: String,
}

/// Writes `report.json` and `report.html` into `folder`, each atomically.
///
/// # Errors
/// When a file cannot be written, or the report holds a number that is not finite: JSON has none, and
/// what is written must read back.
pub fn write(folder: &Path, report: &Report) -> anyhow::Result<()> {
    let json = serde_json::to_string_pretty(report).context("cannot turn the report into JSON")?;
    serde_json::from_str::<Report>(&json)
        .context("the report holds a number that is not finite, which JSON cannot say")?;
    let html = html::page(report)?;
    write_atomic(&folder.join("report.json"), |out| writeln!(out, "{json}"))?;
    write_atomic(&folder.join("report.html"), |out| out.write_all(html.as_bytes()))?;
    Ok(())
}
