//! The samplers by name.

use std::fmt;
use std::str::FromStr;

/// How a step's subnets are chosen. All draw tied subnets in the space's restricted ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SamplerKind {
    /// `uniform`: K independent uniform draws.
    Uniform,
    /// `ccfs-m`: the K of p uniform draws with the most parameters (Phi with every alpha 1).
    CcfsM,
    /// `ccfs-f`: the K of p uniform draws with the largest stage-weighted Phi (alpha 1, 1, 0.55,
    /// 0.43, 0.24, or others by [`crate::Sampler::with_alphas`]).
    CcfsF,
    /// `width-sum`, what the authors' code does: the K of p uniform draws with the largest width
    /// sum, and in every third step (2, 5, 8, ...) one unfiltered uniform draw besides.
    WidthSum,
    /// `fairnas`, strict fairness (Chu et al., FairNAS): every choice with n options takes each
    /// of them once in every n consecutive draws, in an order of its own. A middle width beyond
    /// the drawn depth goes untrained that time, so fairness over *trained* middle widths is exact
    /// only in the blocks that every depth has.
    FairNas,
    /// `ofa`, progressive shrinking (Cai et al., Once-for-All): a third of the run the largest
    /// network alone; a third with depths opening from the deepest, at full width; a third with
    /// widths opening from the widest. It needs the run's length: see
    /// [`crate::Sampler::with_total_steps`].
    ProgressiveShrinking,
    /// `sandwich`, the sandwich rule (Yu and Huang, Universally Slimmable Networks): the largest,
    /// the smallest, and K - 2 uniform draws.
    Sandwich,
    /// `pa-da`, PA&DA's path importance (Lu et al.). It learns in training: a [`crate::Sampler`],
    /// which sees no gradients, draws what [`crate::PathImportance`] draws before it has seen any,
    /// every choice uniform.
    PaDa,
}

impl SamplerKind {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::Uniform,
        Self::CcfsM,
        Self::CcfsF,
        Self::WidthSum,
        Self::FairNas,
        Self::ProgressiveShrinking,
        Self::Sandwich,
        Self::PaDa,
    ];

    /// The name in configurations and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::CcfsM => "ccfs-m",
            Self::CcfsF => "ccfs-f",
            Self::WidthSum => "width-sum",
            Self::FairNas => "fairnas",
            Self::ProgressiveShrinking => "ofa",
            Self::Sandwich => "sandwich",
            Self::PaDa => "pa-da",
        }
    }
}

impl fmt::Display for SamplerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that no sampler has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no sampler `{name}`; there are {}", SamplerKind::ALL.map(SamplerKind::name).join(", "))]
pub struct UnknownSampler {
    /// What was asked for.
    pub name: String,
}

impl FromStr for SamplerKind {
    type Err = UnknownSampler;

    fn from_str(name: &str) -> Result<Self, UnknownSampler> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| UnknownSampler { name: name.to_owned() })
    }
}
