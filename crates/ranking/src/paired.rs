//! Does one method rank better than another? A paired bootstrap over architectures and training
//! seeds, and Holm's correction when several such questions are asked at once.

use crate::bootstrap::{Bootstrap, Interval, draw_counts, percentile_interval, resample};
use crate::correlation::{RankedPairs, StatisticsError, check_list};
use serde::{Deserialize, Serialize};

/// The difference of two methods' Kendall taus on the same architectures. Statistics are `None`
/// where they are undefined (a constant list).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairedDifference {
    /// The number of architectures.
    pub n_architectures: usize,
    /// The number of training seeds of either method.
    pub n_seeds: usize,
    /// Mean over seeds of the first method's tau.
    pub tau_a: Option<f64>,
    /// Mean over seeds of the second method's tau.
    pub tau_b: Option<f64>,
    /// `tau_a - tau_b`.
    pub difference: Option<f64>,
    /// The bootstrap interval of the difference.
    pub interval: Option<Interval>,
    /// Two-sided: 2 (1 + resamples on the rarer side of 0) / (1 + resamples), at most 1. It is never
    /// 0: a bootstrap of B resamples cannot show less than about 2 / B.
    pub p_value: Option<f64>,
    /// Resamples in which a tau was undefined; they are left out.
    pub degenerate: usize,
    /// How the resampling was done.
    pub bootstrap: Bootstrap,
}

/// Bootstraps tau(a, truth) - tau(b, truth), both averaged over seeds.
///
/// `a` and `b` are [seeds, architectures]: row s holds what the method predicts when trained under
/// seed s, in the order of `truth`. Every resample draws seeds with replacement, then architectures
/// with replacement, and uses the same draw for both methods: what makes a draw easy or hard
/// cancels in the difference. With a single seed the interval covers the choice of architectures
/// only, and says nothing about another training run.
///
/// # Errors
/// When the methods differ in their number of seeds or have none, when a row's length is not that
/// of `truth`, when a value is not finite, or `options` are out of range.
pub fn paired_bootstrap(
    a: &[Vec<f64>],
    b: &[Vec<f64>],
    truth: &[f64],
    options: &Bootstrap,
) -> Result<PairedDifference, StatisticsError> {
    options.check()?;
    check_list("the truth", truth, truth.len())?;
    let n_seeds = a.len();
    if n_seeds == 0 || b.len() != n_seeds {
        let most = n_seeds.max(1);
        let what = "the number of the second method's seeds, which the first's must equal,";
        return Err(StatisticsError::OutOfRange { what, got: b.len(), least: most, most });
    }
    let prepare = |name: &str, rows: &[Vec<f64>]| -> Result<Vec<RankedPairs>, StatisticsError> {
        let row = |(seed_idx, row): (usize, &Vec<f64>)| {
            check_list(&format!("row {seed_idx} of the {name} method"), row, truth.len())?;
            RankedPairs::new(row, truth)
        };
        rows.iter().enumerate().map(row).collect()
    };
    let (a, b) = (prepare("first", a)?, prepare("second", b)?);
    let (every_seed, every_architecture) = (vec![1; n_seeds], vec![1; truth.len()]);
    let tau_a = mean_tau(&a, &every_seed, &every_architecture);
    let tau_b = mean_tau(&b, &every_seed, &every_architecture);
    let drawn = resample(options, "paired bootstrap", |stream| {
        let seeds = draw_counts(stream, n_seeds);
        let architectures = draw_counts(stream, truth.len());
        Some(mean_tau(&a, &seeds, &architectures)? - mean_tau(&b, &seeds, &architectures)?)
    });
    let values: Vec<f64> = drawn.into_iter().flatten().collect();
    Ok(PairedDifference::from_resamples(truth.len(), n_seeds, (tau_a, tau_b), values, options))
}

impl PairedDifference {
    /// From the resampled differences; those that are missing were degenerate.
    pub(crate) fn from_resamples(
        n_architectures: usize,
        n_seeds: usize,
        (tau_a, tau_b): (Option<f64>, Option<f64>),
        values: Vec<f64>,
        options: &Bootstrap,
    ) -> Self {
        let at_most = values.iter().filter(|v| **v <= 0.0).count();
        let at_least = values.iter().filter(|v| **v >= 0.0).count();
        let rarer = at_most.min(at_least) as f64;
        let p_value = 2.0 * (1.0 + rarer) / (1.0 + values.len() as f64);
        Self {
            n_architectures,
            n_seeds,
            tau_a,
            tau_b,
            difference: tau_a.zip(tau_b).map(|(a, b)| a - b),
            p_value: (!values.is_empty()).then_some(p_value.min(1.0)),
            degenerate: options.resamples - values.len(),
            interval: percentile_interval(values, options.level),
            bootstrap: *options,
        }
    }
}

/// Mean of tau over seeds that are counted `seeds[s]` times; `None` when one of them has none.
fn mean_tau(rows: &[RankedPairs], seeds: &[u32], architectures: &[u32]) -> Option<f64> {
    let (mut sum, mut total) = (0.0, 0.0);
    for (row, &count) in rows.iter().zip(seeds).filter(|(_, count)| **count > 0) {
        sum += f64::from(count) * row.kendall_tau(architectures)?;
        total += f64::from(count);
    }
    Some(sum / total)
}

/// Holm's step-down adjustment of p-values (S. Holm, 1979): rejecting where the adjusted value is at
/// most alpha errs anywhere with probability at most alpha, whatever the dependence. In the order given.
///
/// # Errors
/// When a p-value is not within [0, 1].
pub fn holm(p_values: &[f64]) -> Result<Vec<f64>, StatisticsError> {
    if let Some(&value) = p_values.iter().find(|p| !(0.0..=1.0).contains(*p)) {
        return Err(StatisticsError::NotAProbability { what: "a p-value", value });
    }
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&i, &j| p_values[i].total_cmp(&p_values[j]));
    let mut adjusted = vec![0.0; p_values.len()];
    let mut largest = 0.0_f64;
    for (step, &i) in order.iter().enumerate() {
        largest = largest.max((p_values.len() - step) as f64 * p_values[i]).min(1.0);
        adjusted[i] = largest;
    }
    Ok(adjusted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn holm_by_hand() {
        let check = |p: &[f64], expect: &[f64]| {
            let found = holm(p).unwrap();
            for (found, expect) in found.iter().zip(expect) {
                assert!((found - expect).abs() < 1e-12, "{p:?}: {found} {expect}");
            }
        };
        check(&[], &[]);
        check(&[0.03], &[0.03]);
        check(&[0.01, 0.04, 0.03], &[0.03, 0.06, 0.06]);
        check(&[0.5, 0.9, 0.001], &[1.0, 1.0, 0.003]);
        assert!(holm(&[0.1, f64::NAN]).is_err() && holm(&[1.1]).is_err());
    }

    proptest! {
        #[test]
        fn holm_lies_between_nothing_and_bonferroni(p in prop::collection::vec(0.0..=1.0, 0..12)) {
            for (p_value, adjusted) in p.iter().zip(holm(&p).unwrap()) {
                prop_assert!(*p_value <= adjusted);
                prop_assert!(adjusted <= (p_value * p.len() as f64).min(1.0) + 1e-12);
            }
        }
    }

    /// Truth 0..n, and rows that swap `n_swaps` neighbours, other ones for every seed.
    fn rows(n: usize, n_seeds: usize, n_swaps: usize) -> Vec<Vec<f64>> {
        let row = |seed_idx: usize| {
            let mut row: Vec<f64> = (0..n).map(|v| v as f64).collect();
            (0..n_swaps).for_each(|k| row.swap((3 * k + seed_idx) % (n - 1), (7 * k) % n));
            row
        };
        (0..n_seeds).map(row).collect()
    }

    #[test]
    fn a_clear_difference_is_found_and_none_is_not() {
        let truth: Vec<f64> = (0..40).map(f64::from).collect();
        let (good, bad) = (rows(40, 3, 1), rows(40, 3, 40));
        let options = Bootstrap::default();
        let found = paired_bootstrap(&good, &bad, &truth, &options).unwrap();
        let interval = found.interval.unwrap();
        assert!(interval.low > 0.0 && interval.contains(found.difference.unwrap()), "{found:?}");
        assert!(found.p_value.unwrap() < 0.01 && found.degenerate == 0);
        let turned = paired_bootstrap(&bad, &good, &truth, &options).unwrap();
        assert_eq!(turned.difference.unwrap(), -found.difference.unwrap());
        let same = paired_bootstrap(&bad, &bad, &truth, &options).unwrap();
        assert_eq!(same.interval, Some(Interval { low: 0.0, high: 0.0 }));
        assert_eq!(same.p_value, Some(1.0));
        assert_eq!(found, paired_bootstrap(&good, &bad, &truth, &options).unwrap());
    }

    #[test]
    fn seeds_that_disagree_widen_the_interval() {
        let truth: Vec<f64> = (0..40).map(f64::from).collect();
        let reversed: Vec<f64> = truth.iter().rev().copied().collect();
        let base = vec![rows(40, 1, 40).remove(0); 2];
        let options = Bootstrap::default();
        let width = |a: &[Vec<f64>]| {
            let interval = paired_bootstrap(a, &base, &truth, &options).unwrap().interval.unwrap();
            interval.high - interval.low
        };
        assert!(width(&[truth.clone(), reversed]) > 1.9);
        assert!(width(&[truth.clone(), truth.clone()]) < 1.0);
    }

    #[test]
    fn mismatched_matrices_are_refused() {
        let truth = [1.0, 2.0];
        let check = |a: &[Vec<f64>], b: &[Vec<f64>], needle: &str| {
            let found = paired_bootstrap(a, b, &truth, &Bootstrap::default());
            let message = found.unwrap_err().to_string();
            assert!(message.contains(needle), "{message}");
        };
        let row = vec![1.0, 2.0];
        check(&[], &[], "is 0, expected 1 to 1");
        check(&[row.clone(), row.clone()], std::slice::from_ref(&row), "is 1, expected 2");
        check(std::slice::from_ref(&row), &[vec![1.0]], "row 0 of the second method holds 1");
        check(&[vec![f64::NAN, 0.0]], &[row], "row 0 of the first method is NaN");
    }
}
