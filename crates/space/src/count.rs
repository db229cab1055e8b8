//! Exact numbers of architectures.

use crate::SearchSpace;
use num_bigint::BigUint;

impl SearchSpace {
    /// All codes, residual ties ignored: every digit free.
    pub fn count_untied(&self) -> BigUint {
        let n = self.ratios.len();
        let stages = self.stages.iter().map(|s| powers(n * n, s.depth));
        BigUint::from(n) * stages.product::<BigUint>()
    }

    /// Codes that keep the ties: the supernet's subnets.
    pub fn count_tied(&self) -> BigUint {
        let n = self.ratios.len();
        self.count_with(|_| n, |_| n)
    }

    /// Tied codes within the ranges that samplers draw from (`codes` of stem and stages).
    pub fn count_restricted(&self) -> BigUint {
        self.count_with(|stage| self.stages[stage].codes, |first| self.shared_codes(first))
    }

    /// One free output for the stem and for each stage that projects, one free middle per block.
    fn count_with(
        &self,
        middles: impl Fn(usize) -> usize,
        outputs: impl Fn(Option<usize>) -> usize,
    ) -> BigUint {
        let stages = self.stages.iter().enumerate().map(|(i, stage)| {
            let output = if self.projects(i) { outputs(Some(i)) } else { 1 };
            powers(middles(i), stage.depth) * output
        });
        stages.product::<BigUint>() * outputs(None)
    }
}

/// Sum of base^d over d in low..=high.
fn powers(base: usize, (low, high): (usize, usize)) -> BigUint {
    (low..=high).map(|d| BigUint::from(base).pow(d as u32)).sum()
}
