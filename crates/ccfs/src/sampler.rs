//! Drawing a step's subnets.

use crate::SamplerKind;
use slimtau_base::stream;
use slimtau_space::{Arch, CostModel, SearchSpace};

/// Draws `keep` subnets per step.
pub struct Sampler {
    space: SearchSpace,
    model: CostModel,
    kind: SamplerKind,
    candidates: usize,
    keep: usize,
    seed: u64,
}

impl Sampler {
    /// A sampler that ranks `candidates` draws (p; 400 in the paper) and keeps `keep` (K; 4).
    /// [`SamplerKind::Uniform`] draws just `keep`.
    pub fn new(
        space: &SearchSpace,
        kind: SamplerKind,
        candidates: usize,
        keep: usize,
        seed: u64,
    ) -> Self {
        let (space, model) = (space.clone(), CostModel::new(space));
        Self { space, model, kind, candidates: candidates.max(keep), keep, seed }
    }

    /// The subnets of a step, best score first; draws of equal score keep their order.
    pub fn draw(&self, step: u64) -> Vec<Arch> {
        let mut rng = stream(self.seed, "ccfs", step);
        let mut one = || self.space.sample_uniform(&mut rng, true);
        if self.kind == SamplerKind::Uniform {
            return (0..self.keep).map(|_| one()).collect();
        }
        let mut scored: Vec<(f64, Arch)> = (0..self.candidates)
            .map(|_| {
                let arch = one();
                (self.score(&arch), arch)
            })
            .collect();
        // Stable, so equal scores cannot make two machines differ.
        scored.sort_by(|a, b| b.0.total_cmp(&a.0));
        scored.truncate(self.keep);
        let mut kept: Vec<Arch> = scored.into_iter().map(|(_, arch)| arch).collect();
        if self.kind == SamplerKind::WidthSum
            && step % 3 == 2
            && let Some(last) = kept.last_mut()
        {
            *last = one();
        }
        kept
    }

    /// What the sampler ranks by; 0 for uniform draws.
    pub fn score(&self, arch: &Arch) -> f64 {
        match self.kind {
            SamplerKind::Uniform => 0.0,
            SamplerKind::CcfsM => self.model.costs(arch).phi_m,
            SamplerKind::CcfsF => self.model.costs(arch).phi_f,
            SamplerKind::WidthSum => self.model.width_sum(arch),
        }
    }
}
