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
        self.count_with(|stage| self.stages[stage].codes, |group| self.group_codes(group))
    }

    fn count_with(
        &self,
        mid: impl Fn(usize) -> usize,
        out: impl Fn(&[Option<usize>]) -> usize,
    ) -> BigUint {
        let outs = self.tie_groups().into_iter().map(|group| BigUint::from(out(&group)));
        let mids = self.stages.iter().enumerate().map(|(i, s)| powers(mid(i), s.depth));
        outs.product::<BigUint>() * mids.product::<BigUint>()
    }
}

/// Sum of base^d over d in low..=high.
fn powers(base: usize, (low, high): (usize, usize)) -> BigUint {
    (low..=high).map(|d| BigUint::from(base).pow(d as u32)).sum()
}
