//! Uniform draws.

use crate::{Arch, BlockCode, SearchSpace};
use rand::{Rng, RngExt};

impl SearchSpace {
    /// A tied architecture with every choice uniform and independent: each stage's depth, each
    /// tied group's output, each block's middle width. (Uniform per choice, as supernet training
    /// draws; over the set, deeper networks would be far likelier, since there are more of them.)
    ///
    /// `restricted` keeps to the first `codes` ratios of stem and stages; a tied group to the
    /// fewest of its members.
    pub fn sample_uniform(&self, rng: &mut impl Rng, restricted: bool) -> Arch {
        let mut arch = Arch { stem: 1, stages: Vec::new() };
        self.redraw_uniform(rng, restricted, &mut arch);
        arch
    }

    /// [`SearchSpace::sample_uniform`] into an existing architecture, whose memory it reuses: the
    /// same stream gives the same draw. For samplers that look at hundreds of draws per step.
    pub fn redraw_uniform(&self, rng: &mut impl Rng, restricted: bool, arch: &mut Arch) {
        let mut between =
            |low: usize, high: usize| rng.random_range(low as u32..=high as u32) as usize;
        let codes = |codes: usize| if restricted { codes } else { self.ratios.len() };
        arch.stem = between(1, codes(self.shared_codes(None))) as u8;
        arch.stages.resize_with(self.stages.len(), Vec::new);
        let mut out = arch.stem;
        for (i, (stage, blocks)) in self.stages.iter().zip(&mut arch.stages).enumerate() {
            if self.projects(i) {
                out = between(1, codes(self.shared_codes(Some(i)))) as u8;
            }
            let (depth, widths) = (between(stage.depth.0, stage.depth.1), codes(stage.codes));
            blocks.clear();
            blocks.extend((0..depth).map(|_| BlockCode { mid: between(1, widths) as u8, out }));
        }
    }

    /// How many codes a sampler may draw for the output of the stem (`None`) or of a stage that
    /// projects: the fewest that it or the stages tied to it allow.
    pub fn shared_codes(&self, first: Option<usize>) -> usize {
        let (own, next) = match first {
            None => (self.stem.codes, 0),
            Some(stage) => (self.stages[stage].codes, stage + 1),
        };
        let tied = (next..self.stages.len()).take_while(|&stage| !self.projects(stage));
        tied.map(|stage| self.stages[stage].codes).fold(own, usize::min)
    }
}
