//! Kendall's tau over pairs within groups only: what is left of a ranking among architectures that are
//! alike in some respect, such as their depth.

use crate::correlation::{Ranked, RankedPairs, StatisticsError, TauParts, check_list};
use std::sync::Arc;

/// Kendall's tau-b over the pairs of architectures that are in one group:
/// (concordant - discordant) / sqrt((pairs not tied in the predictions) (pairs not tied in the
/// truth)), each counted over pairs within groups and summed over the groups. `groups[i]` is any
/// number that architecture i shares with its group and with no other.
///
/// With one group it is tau-b; where every architecture is alone in its group, it is `None`.
///
/// # Errors
/// When the lists differ in length or are not finite.
pub fn kendall_tau_within(
    predictions: &[f64],
    truth: &[f64],
    groups: &[usize],
) -> Result<Option<f64>, StatisticsError> {
    check_list("the predictions", predictions, truth.len())?;
    check_list("the truth", truth, truth.len())?;
    let groups = Groups::new(groups, truth.len())?;
    let pairs = Groups::pairs(&groups.ranked(predictions), &groups.ranked(truth));
    Ok(stratified_tau(&pairs, &groups.gather(&vec![1; truth.len()])))
}

/// The members of every group.
pub(crate) struct Groups(Vec<Vec<usize>>);

impl Groups {
    pub(crate) fn new(groups: &[usize], n: usize) -> Result<Self, StatisticsError> {
        if groups.len() != n {
            let what = "the list of groups".to_owned();
            return Err(StatisticsError::Length { what, expected: n, got: groups.len() });
        }
        let mut members = std::collections::BTreeMap::<usize, Vec<usize>>::new();
        for (i, &group) in groups.iter().enumerate() {
            members.entry(group).or_default().push(i);
        }
        Ok(Self(members.into_values().collect()))
    }

    /// Every group's part of a list that has one entry per architecture.
    pub(crate) fn gather<T: Copy>(&self, list: &[T]) -> Vec<Vec<T>> {
        self.0.iter().map(|members| members.iter().map(|&i| list[i]).collect()).collect()
    }

    /// Every group's part of a finite list, sorted once.
    pub(crate) fn ranked(&self, list: &[f64]) -> Vec<Arc<Ranked>> {
        self.gather(list).iter().map(|part| Arc::new(Ranked::new(part))).collect()
    }

    /// The pairs of two lists, group by group.
    pub(crate) fn pairs(x: &[Arc<Ranked>], y: &[Arc<Ranked>]) -> Vec<RankedPairs> {
        x.iter().zip(y).map(|(x, y)| RankedPairs::of(x.clone(), y.clone())).collect()
    }
}

/// The stratified tau of the list that holds pair i of group g `counts[g][i]` times.
pub(crate) fn stratified_tau(pairs: &[RankedPairs], counts: &[Vec<u32>]) -> Option<f64> {
    let parts = pairs.iter().zip(counts).map(|(pairs, counts)| pairs.tau_parts(counts));
    let sum = parts.fold(TauParts::default(), |sum, parts| TauParts {
        difference: sum.difference + parts.difference,
        x_untied: sum.x_untied + parts.x_untied,
        y_untied: sum.y_untied + parts.y_untied,
    });
    sum.tau()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kendall_tau;
    use proptest::prelude::*;

    #[test]
    fn pairs_across_groups_do_not_count() {
        // Between the groups the order is right, within them it is reversed.
        let truth = [1.0, 2.0, 3.0, 11.0, 12.0, 13.0];
        let predictions = [3.0, 2.0, 1.0, 13.0, 12.0, 11.0];
        let check = |groups: &[usize], expect| {
            assert_eq!(kendall_tau_within(&predictions, &truth, groups).unwrap(), expect);
        };
        check(&[0, 0, 0, 7, 7, 7], Some(-1.0));
        check(&[1; 6], Some(0.2)); // (9 - 6) / 15
        check(&[0, 1, 2, 3, 4, 5], None);
        check(&[0, 1, 2, 0, 1, 2], Some(1.0));
        assert!(kendall_tau_within(&predictions, &truth, &[0]).is_err());
        assert_eq!(kendall_tau_within(&[1.0; 6], &truth, &[0; 6]).unwrap(), None);
    }

    proptest! {
        #[test]
        fn agrees_with_its_definition(
            triples in prop::collection::vec((-3_i32..4, -3_i32..4, 0_usize..3), 0..30),
        ) {
            let x: Vec<f64> = triples.iter().map(|t| f64::from(t.0)).collect();
            let y: Vec<f64> = triples.iter().map(|t| f64::from(t.1)).collect();
            let groups: Vec<usize> = triples.iter().map(|t| t.2).collect();
            let (mut sum, mut x_untied, mut y_untied) = (0.0, 0.0, 0.0);
            for i in 0..x.len() {
                for j in (0..i).filter(|&j| groups[i] == groups[j]) {
                    let sign = |d: f64| if d == 0.0 { 0.0 } else { d.signum() };
                    let (a, b) = (sign(x[i] - x[j]), sign(y[i] - y[j]));
                    sum += a * b;
                    x_untied += a * a;
                    y_untied += b * b;
                }
            }
            let found = kendall_tau_within(&x, &y, &groups).unwrap();
            if x_untied > 0.0 && y_untied > 0.0 {
                prop_assert!((found.unwrap() - sum / f64::sqrt(x_untied * y_untied)).abs() < 1e-12);
            } else {
                prop_assert_eq!(found, None);
            }
            let one = vec![0; x.len()];
            prop_assert_eq!(kendall_tau_within(&x, &y, &one).unwrap(), kendall_tau(&x, &y).unwrap());
        }
    }
}
