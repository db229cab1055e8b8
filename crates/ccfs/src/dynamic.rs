//! Dynamic supernet training: how fast a subnet's learning rate decays, and whose momentum it shares.

use slimtau_space::{Arch, CostModel, SearchSpace};

/// The complexity-aware decay of learning rates (Jeon et al., Subnet-Aware Dynamic Supernet Training
/// for Neural Architecture Search, CVPR 2025): large subnets converge later and keep a large learning
/// rate for longer. In step t of T the rate of a subnet a is
///
/// lr(a, t) = lr (1 - t / T)^gamma(a),
/// gamma(a) = gamma_min + (gamma_max - gamma_min) (ln C_max - ln C(a)) / (ln C_max - ln C_min),
///
/// with gamma_min = 1 / gamma_max and C the number of parameters: gamma_max for the smallest subnet,
/// gamma_min for the largest, as in the authors' code.
pub struct ComplexityDecay {
    model: CostModel,
    log_least: f64,
    log_most: f64,
    max_decay: f64,
}

impl ComplexityDecay {
    /// For a space's restricted ranges. `max_decay` is gamma_max, at least 1; the authors' default
    /// for NAS-Bench-201 is 4.
    pub fn new(space: &SearchSpace, max_decay: f64) -> Self {
        let model = CostModel::new(space);
        let log = |arch| (model.costs(&arch).params as f64).ln();
        let (log_least, log_most) = (log(space.smallest()), log(space.largest()));
        Self { model, log_least, log_most, max_decay }
    }

    /// gamma(a), the exponent of the subnet's decay. In a space of one size it is 1.
    ///
    /// # Panics
    /// When the architecture is not one of the space.
    pub fn decay(&self, arch: &Arch) -> f64 {
        let range = self.log_most - self.log_least;
        if range <= 0.0 {
            return 1.0;
        }
        let least = 1.0 / self.max_decay;
        let log = (self.model.costs(arch).params as f64).ln();
        // A subnet outside the restricted ranges may be smaller than the smallest in them.
        let smallness = ((self.log_most - log) / range).clamp(0.0, 1.0);
        least + (self.max_decay - least) * smallness
    }
}

/// Groups of subnets that share a momentum buffer (momentum separation of the same paper): those that
/// take the same option at one choice of the space.
///
/// The authors split by the operation on one edge of the cell, drawn at random before training. The
/// choices of a slimmable ResNet that change every subnet's structure, and that every subnet makes, are
/// its tied output widths and its depths; which of them splits is a setting here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MomentumGroups {
    split: Split,
    groups: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Split {
    Stem,
    /// The depth of a stage, whose least is the second number.
    Depth(usize, usize),
    Width(usize),
}

impl MomentumGroups {
    /// The groups by name: `stem` (its width), `depth-N` or `width-N` (depth or output width of
    /// stage N, from 1), in a space's restricted ranges.
    ///
    /// # Errors
    /// When the name is none of these, or the space has no such stage.
    pub fn parse(space: &SearchSpace, name: &str) -> Result<Self, UnknownSplit> {
        let unknown = || UnknownSplit { name: name.to_owned(), stages: space.stages.len() };
        if name == "stem" {
            return Ok(Self { split: Split::Stem, groups: space.shared_codes(None) });
        }
        let (what, number) = name.split_once('-').ok_or_else(unknown)?;
        let stage = number.parse::<usize>().ok().and_then(|n| n.checked_sub(1));
        let stage = stage.filter(|&s| s < space.stages.len()).ok_or_else(unknown)?;
        match what {
            "depth" => {
                let (low, high) = space.stages[stage].depth;
                Ok(Self { split: Split::Depth(stage, low), groups: high - low + 1 })
            }
            "width" => {
                // A stage without a projection has the width of the last one before it that has one.
                let owner = (0..=stage).rev().find(|&s| space.projects(s));
                Ok(Self { split: Split::Width(stage), groups: space.shared_codes(owner) })
            }
            _ => Err(unknown()),
        }
    }

    /// How many groups there are.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// The group of a subnet, from 0.
    ///
    /// # Panics
    /// When the architecture has no such stage.
    pub fn group(&self, arch: &Arch) -> usize {
        match self.split {
            Split::Stem => usize::from(arch.stem) - 1,
            Split::Depth(stage, least) => arch.stages[stage].len() - least,
            Split::Width(stage) => usize::from(arch.stages[stage][0].out) - 1,
        }
    }
}

/// A name that no split of a space has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no split `{name}`; there are stem, depth-1 to depth-{stages} and width-1 to width-{stages}"
)]
pub struct UnknownSplit {
    /// What was asked for.
    pub name: String,
    /// Stages of the space.
    pub stages: usize,
}
