//! Random draws: uniform, and around a given depth and width.

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

    /// A tied architecture of about the given depth and width, each from 0 (fewest blocks, narrowest)
    /// to 1 (most, widest; the restricted ranges'), for lists that cover a space: with many layers,
    /// the sums over uniform draws crowd in the middle. Every choice is made by itself, at the given
    /// level plus a uniform shift of up to a quarter of the range, cut at its ends.
    pub fn sample_near(&self, rng: &mut impl Rng, depth: f64, width: f64) -> Arch {
        let mut option = |level: f64, options: usize| {
            let shift = 0.5 * f64::from(rng.random_range(0..=1u32 << 20)) / f64::from(1u32 << 20);
            let level = (level + shift - 0.25).clamp(0.0, 1.0);
            ((level * options as f64) as usize).min(options - 1)
        };
        // Codes count from the widest.
        let mut code = |options: usize| (options - option(width, options)) as u8;
        let stem = code(self.shared_codes(None));
        let mut out = stem;
        let mut widths = Vec::with_capacity(self.stages.len());
        for (i, stage) in self.stages.iter().enumerate() {
            if self.projects(i) {
                out = code(self.shared_codes(Some(i)));
            }
            let block = |_| BlockCode { mid: code(stage.codes), out };
            widths.push((0..stage.depth.1).map(block).collect::<Vec<_>>());
        }
        for (stage, blocks) in self.stages.iter().zip(&mut widths) {
            let (low, high) = stage.depth;
            blocks.truncate(low + option(depth, high - low + 1));
        }
        Arch { stem, stages: widths }
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
