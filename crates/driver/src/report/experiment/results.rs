//! What an experiment's analysis finds, as it stands in `report.json`.

use super::super::depth::DepthGroup;
use super::super::{Comparison, TopK};
use super::comparisons::PaperPair;
use super::input::{Planned, Seconds};
use serde::{Deserialize, Serialize};
use slimtau_ranking::{Agreement, Bootstrap, Interval, Reliability};

/// Everything that was computed. All taus are tau-b against the mean of the replicates of the truth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Results {
    /// How the resampling was done.
    pub bootstrap: Bootstrap,
    /// Supernet seeds that every row was to have.
    pub n_planned_seeds: usize,
    /// k of the top-k precision: a tenth of the architectures, rounded up.
    pub k: usize,
    /// The groups of similar depth, shallow first.
    pub depth_groups: Vec<CountedGroup>,
    /// The truth and how reliable it is.
    pub truth: Truth,
    /// One entry per row, in the order of the experiment.
    pub rows: Vec<Score>,
    /// One entry per quantity that needs no training.
    pub baselines: Vec<Score>,
    /// Which of them has the highest tau.
    pub best_baseline: Option<usize>,
    /// The planned comparisons, Holm-corrected together.
    pub comparisons: Vec<Comparison>,
    /// Planned comparisons without a seed that both rows have.
    pub not_compared: Vec<Planned>,
    /// Every row against the best baseline, Holm-corrected together.
    pub against_best_baseline: Vec<Comparison>,
    /// Pairs of rows that the paper orders, Holm-corrected together.
    pub paper_order: Vec<PaperPair>,
}

/// A group of similar depth.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CountedGroup {
    /// Its depths.
    pub depths: DepthGroup,
    /// The number of architectures.
    pub n: usize,
}

/// The truth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Truth {
    /// The number of architectures.
    pub n_architectures: usize,
    /// 5th, 50th and 95th percentile of mean stand-alone accuracy, in percent.
    pub percentiles: [f64; 3],
    /// 95th minus 5th percentile, in points.
    pub spread: f64,
    /// Intraclass correlations.
    pub reliability: Reliability,
    /// The noise ceiling: tau between single replicates.
    pub between_replicates: Agreement,
    /// Tau of a single replicate with the mean of the others.
    pub with_the_rest: Agreement,
}

/// A statistic's mean over supernet seeds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Estimate {
    /// The mean; `None` without a seed or where one of the values is undefined.
    pub mean: Option<f64>,
    /// Standard deviation over seeds (n - 1 in the denominator); `None` with fewer than two.
    pub std: Option<f64>,
    /// The interval of the mean, see [`slimtau_ranking::JointBootstrap`].
    pub interval: Option<Interval>,
    /// Resamples that were degenerate and are left out of the interval.
    pub degenerate: usize,
}

/// How well a row or a baseline ranks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Score {
    /// Its name.
    pub name: String,
    /// Kendall's tau-b.
    pub tau: Estimate,
    /// Tau-b over pairs of architectures within one depth group.
    pub tau_within_depth: Estimate,
    /// Tau-b in every depth group by itself, mean over seeds.
    pub tau_by_depth: Vec<Option<f64>>,
    /// Pearson's correlation.
    pub pearson: Estimate,
    /// Spearman's correlation.
    pub spearman: Estimate,
    /// Mean top-k precision.
    pub top_k: Option<TopK>,
    /// Mean regret of the architecture ranked first, in points.
    pub regret: Option<f64>,
    /// Each seed by itself, by ascending seed; one entry without a seed for a baseline.
    pub seeds: Vec<SeedScore>,
    /// Mean seconds over seeds; `None` for a baseline or without a seed.
    pub seconds: Option<Seconds>,
    /// Mean number of images that stage 2 read.
    pub images: Option<f64>,
}

/// How well one supernet ranks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeedScore {
    /// Its seed.
    pub seed: Option<u64>,
    /// Kendall's tau-b.
    pub tau: Option<f64>,
    /// Within depth groups.
    pub tau_within_depth: Option<f64>,
    /// Pearson's correlation.
    pub pearson: Option<f64>,
    /// Spearman's correlation.
    pub spearman: Option<f64>,
    /// The share of the truly best k among its best k, in [0, 1].
    pub top_k: f64,
    /// Points lost by taking its best architecture.
    pub regret: Option<f64>,
    /// Tau during stage 2: images read and tau-b.
    pub training: Vec<(u64, Option<f64>)>,
}

impl Results {
    /// The best quantity that needs no training.
    pub fn best(&self) -> Option<&Score> {
        self.baselines.get(self.best_baseline?)
    }
}
