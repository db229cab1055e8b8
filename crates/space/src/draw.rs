//! Uniform draws.

use crate::{Arch, BlockCode, SearchSpace};
use rand::{Rng, RngExt};

impl SearchSpace {
    /// A tied architecture with every choice uniform and independent: each stage's depth, each
    /// tied group's output, each block's middle width. (Uniform per choice, as supernet training
    /// draws; over the set, deeper networks would be far likelier, since there are more of them.)
    ///
    /// `restricted` keeps to the first `codes` ratios of stem and stages.
    pub fn sample_uniform(&self, rng: &mut impl Rng, restricted: bool) -> Arch {
        let all = self.ratios.len();
        let mut arch = Arch { stem: 1, stages: Vec::with_capacity(self.stages.len()) };
        for stage in &self.stages {
            let depth = rng.random_range(stage.depth.0..=stage.depth.1);
            let codes = if restricted { stage.codes } else { all };
            let block = |_| BlockCode { mid: rng.random_range(1..=codes) as u8, out: 1 };
            arch.stages.push((0..depth).map(block).collect());
        }
        for group in self.tie_groups() {
            let codes = if restricted { self.group_codes(&group) } else { all };
            let code = rng.random_range(1..=codes) as u8;
            self.set_output(&mut arch, &group, code);
        }
        arch
    }
}
