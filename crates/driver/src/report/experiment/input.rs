//! What an experiment hands to its report, and how it is read and checked.

use super::super::{DataSource, Seed, Versions};
use super::analysis::BASELINES;
use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};
use slimtau_base::{FileError, read_text};
use slimtau_ranking::Bootstrap;
use std::collections::BTreeSet;
use std::path::Path;

/// Everything an experiment measured, and what is needed to measure it again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// The headline.
    pub name: String,
    /// The search space's name.
    pub space: String,
    /// Where the images came from.
    pub data: Vec<DataSource>,
    /// The number of classes.
    pub classes: usize,
    /// What every method may spend, in words, such as `stage 2: 40 epochs of 10,000 images`.
    pub budget: String,
    /// The complete configuration, defaults included, as TOML.
    pub config_toml: String,
    /// The command line, program first.
    pub command: Vec<String>,
    /// The program, its commit and the machine.
    pub versions: Versions,
    /// Wall-clock seconds of the whole experiment.
    pub seconds: f64,
    /// Seeds besides the supernets', such as those of the stand-alone trainings.
    pub seeds: Vec<Seed>,
    /// The supernet seeds that every row was to be trained under.
    pub supernet_seeds: Vec<u64>,
    /// How to resample.
    pub bootstrap: Bootstrap,
    /// The architectures that are ranked, each with its truth.
    pub architectures: Vec<Architecture>,
    /// The methods.
    pub rows: Vec<Row>,
    /// The comparisons that were planned; left out: those that the names of the rows suggest.
    #[serde(default)]
    pub comparisons: Option<Vec<Planned>>,
    /// What a reader should know besides: limits, deviations from the paper, interruptions.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// One architecture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// Its code.
    pub code: String,
    /// Trainable parameters of the stand-alone network.
    pub params: u64,
    /// Multiply-accumulates for one image.
    pub macs: u64,
    /// Blocks over all stages.
    pub depth: usize,
    /// Blocks of each stage.
    pub stage_depths: Vec<usize>,
    /// CCFS-M's score.
    pub phi_m: f64,
    /// CCFS-F's score.
    pub phi_f: f64,
    /// The authors' width sum.
    pub width_sum: f64,
    /// Stand-alone accuracy in percent, one value per replicate; all architectures have equally many.
    pub stand_alone: Vec<f64>,
}

/// Where a method comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Group {
    /// With and without contrastive learning.
    #[serde(rename = "Table 1")]
    Table1,
    /// The paper's samplers.
    #[serde(rename = "Table 2")]
    Table2,
    /// Samplers that the paper does not compare.
    #[serde(rename = "Further samplers")]
    FurtherSamplers,
    /// Methods of later papers.
    #[serde(rename = "Published since")]
    PublishedSince,
    /// Other ways with batch norm's statistics.
    #[serde(rename = "BN treatment")]
    BnTreatment,
    /// This project's own.
    #[serde(rename = "Beyond the paper")]
    BeyondThePaper,
}

impl Group {
    /// All groups in the order of the report.
    pub const ALL: [Self; 6] = [
        Self::Table1,
        Self::Table2,
        Self::FurtherSamplers,
        Self::PublishedSince,
        Self::BnTreatment,
        Self::BeyondThePaper,
    ];

    /// The name in reports and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Table1 => "Table 1",
            Self::Table2 => "Table 2",
            Self::FurtherSamplers => "Further samplers",
            Self::PublishedSince => "Published since",
            Self::BnTreatment => "BN treatment",
            Self::BeyondThePaper => "Beyond the paper",
        }
    }
}

/// One method.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Its name, unlike any other row's.
    pub name: String,
    /// Where it comes from.
    pub group: Group,
    /// The paper's Kendall tau, where it has one.
    #[serde(default)]
    pub paper_tau: Option<f64>,
    /// What it is, in one sentence.
    pub about: String,
    /// What was measured, one entry per finished supernet seed.
    pub seeds: Vec<SeedResult>,
}

/// One supernet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeedResult {
    /// Its seed.
    pub seed: u64,
    /// Inherited accuracy in percent (or another score: only ranks and correlations count), in the
    /// order of the architectures.
    pub inherited: Vec<f64>,
    /// What it took.
    pub seconds: Seconds,
    /// Images that stage 2 read, each counted as often as it was read.
    pub images: u64,
    /// Inherited accuracies during stage 2, by ascending images; may be empty.
    #[serde(default)]
    pub checkpoints: Vec<Checkpoint>,
}

/// Wall-clock seconds by stage; 0 for a stage that the method has not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seconds {
    /// Training the largest network.
    pub teacher: f64,
    /// Contrastive learning.
    pub moco: f64,
    /// Training the subnets.
    pub stage2: f64,
    /// Evaluating every architecture.
    pub evaluation: f64,
}

impl Seconds {
    /// The stages in their order, by name.
    pub fn stages(&self) -> [(&'static str, f64); 4] {
        [
            ("teacher", self.teacher),
            ("MoCo", self.moco),
            ("stage 2", self.stage2),
            ("evaluation", self.evaluation),
        ]
    }
}

/// The ranking at one moment of stage 2.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Images read until then.
    pub images: u64,
    /// As [`SeedResult::inherited`].
    pub inherited: Vec<f64>,
}

/// Two rankings to be compared, by name: rows, or baselines such as `parameters`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Planned {
    /// The one expected to rank better.
    pub a: String,
    /// The other.
    pub b: String,
}

impl Experiment {
    /// Reads and checks an experiment's JSON.
    ///
    /// # Errors
    /// When the file cannot be read, is not such JSON (with the line), or contradicts itself (with the
    /// row, seed or architecture, and the value).
    pub fn read(path: &Path) -> Result<Self> {
        let text = read_text(path)?;
        let experiment: Self = serde_json::from_str(&text).map_err(|e| {
            // serde says the place at the end; people look for it behind the file.
            let message = e.to_string();
            let place = format!(" at line {} column {}", e.line(), e.column());
            let problem = message.strip_suffix(&place).unwrap_or(&message);
            anyhow::anyhow!("{}, line {}: {problem}", path.display(), e.line())
        })?;
        experiment
            .check()
            .map_err(|e| anyhow::Error::from(FileError::contents(path, e.to_string())))?;
        Ok(experiment)
    }

    /// Refuses data that contradict themselves.
    ///
    /// # Errors
    /// Names row, seed or architecture, and the value.
    pub fn check(&self) -> Result<()> {
        ensure!(!self.architectures.is_empty(), "no architectures");
        let (mut codes, mut names) = (BTreeSet::new(), BTreeSet::new());
        let n_replicates = self.architectures[0].stand_alone.len();
        ensure!(n_replicates > 0, "architecture {} has no truth", self.architectures[0].code);
        for arch in &self.architectures {
            let code = &arch.code;
            ensure!(codes.insert(code), "architecture {code} occurs twice");
            let n = arch.stand_alone.len();
            ensure!(
                n == n_replicates,
                "architecture {code} has {n} stand-alone accuracies, the first has {n_replicates}"
            );
            finite(&arch.stand_alone, || format!("architecture {code}: a stand-alone accuracy"))?;
            finite(&[arch.phi_m, arch.phi_f, arch.width_sum], || {
                format!("architecture {code}: a score")
            })?;
            let sum = arch.stage_depths.iter().sum::<usize>();
            let depth = arch.depth;
            ensure!(
                sum == depth,
                "architecture {code}: its stages have {sum} blocks together, its depth is {depth}"
            );
        }
        let distinct = self.supernet_seeds.iter().collect::<BTreeSet<_>>().len();
        ensure!(distinct == self.supernet_seeds.len(), "a supernet seed is listed twice");
        finite(&[self.seconds], || "the experiment's seconds".to_owned())?;
        for row in &self.rows {
            let name = &row.name;
            ensure!(names.insert(name.as_str()), "row `{name}` occurs twice");
            check_row(name, row.paper_tau)?;
            let mut seeds = BTreeSet::new();
            for result in &row.seeds {
                let seed = result.seed;
                ensure!(seeds.insert(seed), "row `{name}` has seed {seed} twice");
                ensure!(
                    self.supernet_seeds.contains(&seed),
                    "row `{name}` has seed {seed}, which is not among the supernet seeds"
                );
                self.check_result(result)
                    .map_err(|e| anyhow::anyhow!("row `{name}`, seed {seed}: {e}"))?;
            }
        }
        names.extend(BASELINES);
        for Planned { a, b } in self.comparisons.iter().flatten() {
            ensure!(a != b, "a comparison of `{a}` with itself");
            for name in [a, b] {
                ensure!(
                    names.contains(name.as_str()),
                    "a comparison names `{name}`, which is no row"
                );
            }
        }
        Ok(())
    }

    fn check_result(&self, result: &SeedResult) -> Result<()> {
        let n = self.architectures.len();
        let lists = result.checkpoints.iter().map(|c| (&c.inherited, c.images));
        for (list, images) in lists.chain([(&result.inherited, result.images)]) {
            let got = list.len();
            ensure!(got == n, "{got} inherited accuracies at {images} images, {n} architectures");
            finite(list, || format!("an inherited accuracy at {images} images"))?;
        }
        for (stage, seconds) in result.seconds.stages() {
            if !(seconds.is_finite() && seconds >= 0.0) {
                bail!("{stage} took {seconds} s");
            }
        }
        let ascending = result.checkpoints.is_sorted_by(|a, b| a.images < b.images);
        ensure!(ascending, "its checkpoints do not ascend in images");
        Ok(())
    }
}

/// Refuses a row's name or the paper's value for it, which are known before anything is measured.
///
/// # Errors
/// Names the row and the value.
pub fn check_row(name: &str, paper_tau: Option<f64>) -> Result<()> {
    ensure!(!BASELINES.contains(&name), "row `{name}` has a baseline's name");
    finite(paper_tau.as_slice(), || format!("row `{name}`: the paper's tau"))
}

fn finite(values: &[f64], what: impl Fn() -> String) -> Result<()> {
    match values.iter().find(|v| !v.is_finite()) {
        Some(value) => bail!("{} is {value}", what()),
        None => Ok(()),
    }
}
