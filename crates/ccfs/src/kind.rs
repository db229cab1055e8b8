//! The names of the samplers.

use std::fmt;
use std::str::FromStr;

/// How a step's subnets are chosen. All draw tied subnets in the space's restricted ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SamplerKind {
    /// K independent uniform draws.
    Uniform,
    /// The K of p uniform draws with the most parameters (Phi with every alpha 1).
    CcfsM,
    /// The K of p uniform draws with the largest stage-weighted Phi (alpha 1, 1, 0.55, 0.43, 0.24).
    CcfsF,
    /// What the authors' code does: the K of p with the largest width sum, and in every third step
    /// one of them replaced by an unfiltered draw.
    WidthSum,
}

impl SamplerKind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Uniform, Self::CcfsM, Self::CcfsF, Self::WidthSum];

    /// The name in configurations and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::CcfsM => "ccfs-m",
            Self::CcfsF => "ccfs-f",
            Self::WidthSum => "width-sum",
        }
    }
}

impl fmt::Display for SamplerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for SamplerKind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|k| k.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("no sampler `{name}`; there are {names}")
        })
    }
}
