//! Drawing a step's subnets.

use crate::{PathImportance, SamplerKind, fair, shrinking};
use slimtau_base::stream;
use slimtau_space::{Arch, CostModel, SearchSpace, SpaceError};

/// Draws the subnets of training steps.
pub struct Sampler {
    space: SearchSpace,
    model: CostModel,
    kind: SamplerKind,
    candidates: usize,
    last_candidates: usize,
    keep: usize,
    seed: u64,
    total_steps: Option<u64>,
}

impl Sampler {
    /// A sampler of `keep` subnets per step (K; 4 in the paper). Kinds that rank keep them of
    /// `candidates` uniform draws (p; 400 in the paper; never fewer than `keep`); the others draw
    /// no candidates.
    pub fn new(
        space: &SearchSpace,
        kind: SamplerKind,
        candidates: usize,
        keep: usize,
        seed: u64,
    ) -> Self {
        let (space, model) = (space.clone(), CostModel::new(space));
        let candidates = candidates.max(keep);
        let last_candidates = candidates;
        Self { space, model, kind, candidates, last_candidates, keep, seed, total_steps: None }
    }

    /// Lets the number of candidates go geometrically from p in the run's first step to `last` (never fewer than
    /// K) in its last, for kinds that rank: with `last` = K, from a filter for subnets that converge
    /// fast to uniform draws. It needs [`Sampler::with_total_steps`]; without, the number is `last` throughout.
    pub fn with_last_candidates(mut self, last: usize) -> Self {
        self.last_candidates = last.max(self.keep);
        self
    }

    /// Other stage weights (stem first) for the score of [`SamplerKind::CcfsF`].
    ///
    /// # Errors
    /// Unless there is one finite weight for the stem and one per stage.
    pub fn with_alphas(mut self, alphas: &[f64]) -> Result<Self, SpaceError> {
        self.model = self.model.with_alphas(alphas)?;
        Ok(self)
    }

    /// The run's length, over which [`SamplerKind::ProgressiveShrinking`] opens the space and the number of candidates
    /// may change. Without it they are where they end up: everything is open.
    pub fn with_total_steps(mut self, total_steps: u64) -> Self {
        self.total_steps = Some(total_steps);
        self
    }

    /// The subnets of a step: `keep`, except that [`SamplerKind::WidthSum`] adds one in every third
    /// step and [`SamplerKind::ProgressiveShrinking`] starts with the largest network alone.
    ///
    /// Kinds that rank give the best score first; of equal scores the earlier draw wins.
    pub fn draw(&self, step: u64) -> Vec<Arch> {
        let mut rng = stream(self.seed, "ccfs", step);
        match self.kind {
            SamplerKind::Uniform => self.uniform(&self.space, self.keep, step),
            SamplerKind::CcfsM | SamplerKind::CcfsF | SamplerKind::WidthSum => {
                let mut kept = self.ranked(&mut rng, self.candidates_at(step));
                if self.kind == SamplerKind::WidthSum && step % 3 == 2 {
                    kept.push(self.space.sample_uniform(&mut rng, true));
                }
                kept
            }
            SamplerKind::FairNas => (0..self.keep as u64)
                .map(|i| fair::draw(&self.space, self.seed, step * self.keep as u64 + i))
                .collect(),
            SamplerKind::ProgressiveShrinking => {
                let total = self.total_steps.unwrap_or(0);
                match shrinking::opened(&self.space, step, total) {
                    None => vec![self.space.largest()],
                    Some(opened) => self.uniform(&opened, self.keep, step),
                }
            }
            SamplerKind::Sandwich => {
                let mut subnets = vec![self.space.largest(), self.space.smallest()];
                let more = self.keep.saturating_sub(subnets.len());
                subnets.extend(self.uniform(&self.space, more, step));
                subnets.truncate(self.keep);
                subnets
            }
            SamplerKind::PaDa => {
                PathImportance::new(&self.space, 0.0).draw(self.seed, step, self.keep)
            }
        }
    }

    /// What the sampler ranks by; `None` for kinds that do not rank.
    ///
    /// # Panics
    /// When the architecture is not one of the space.
    pub fn score(&self, arch: &Arch) -> Option<f64> {
        match self.kind {
            SamplerKind::CcfsM => Some(self.model.costs(arch).phi_m),
            SamplerKind::CcfsF => Some(self.model.costs(arch).phi_f),
            SamplerKind::WidthSum => Some(self.model.width_sum(arch)),
            SamplerKind::Uniform
            | SamplerKind::FairNas
            | SamplerKind::ProgressiveShrinking
            | SamplerKind::Sandwich
            | SamplerKind::PaDa => None,
        }
    }

    fn uniform(&self, space: &SearchSpace, n: usize, step: u64) -> Vec<Arch> {
        let mut rng = stream(self.seed, "ccfs", step);
        (0..n).map(|_| space.sample_uniform(&mut rng, true)).collect()
    }

    /// The number of candidates of a step.
    fn candidates_at(&self, step: u64) -> usize {
        let (first, last) = (self.candidates as f64, self.last_candidates as f64);
        let done = match self.total_steps {
            Some(total) if total > 1 => (step as f64 / (total - 1) as f64).min(1.0),
            _ => 1.0,
        };
        (first * (last / first).powf(done)).round() as usize
    }

    /// The `keep` best of `candidates` uniform draws. All are drawn into one architecture, which
    /// is copied only while it is among the best: an allocation per candidate would cost more
    /// than its score.
    fn ranked(&self, rng: &mut slimtau_base::Stream, candidates: usize) -> Vec<Arch> {
        let mut best: Vec<(f64, Arch)> = Vec::with_capacity(self.keep + 1);
        let mut arch = self.space.largest();
        for _ in 0..candidates {
            self.space.redraw_uniform(rng, true, &mut arch);
            let score = self.score(&arch).unwrap_or_default();
            if best.len() == self.keep && best.last().is_none_or(|(worst, _)| score <= *worst) {
                continue;
            }
            let place = best.partition_point(|(other, _)| *other >= score);
            best.insert(place, (score, arch.clone()));
            best.truncate(self.keep);
        }
        best.into_iter().map(|(_, arch)| arch).collect()
    }
}
