//! How reliable the truth is: what repeated stand-alone trainings say about each other.

use crate::bootstrap::{
    Bootstrap, Interval, draw_counts, percentile_interval, quantile_of_sorted, resample,
};
use crate::correlation::{RankedPairs, StatisticsError, check_list};
use serde::{Deserialize, Serialize};

/// Mean of every architecture over its replicates, `replicates` being [replicates, architectures].
///
/// Means are rounded to 2^-30 (1e-9), far below what one image counts in an accuracy in percent:
/// architectures whose accuracies have the same sum stay tied, whatever the rounding of the sum.
///
/// # Errors
/// When there is no replicate, rows differ in length, or a value is not finite.
pub fn mean_of_replicates(replicates: &[Vec<f64>]) -> Result<Vec<f64>, StatisticsError> {
    let n = check_replicates(replicates)?;
    let mean = |i: usize| {
        let sum = replicates.iter().map(|row| row[i]).sum::<f64>();
        rounded(sum / replicates.len() as f64)
    };
    Ok((0..n).map(mean).collect())
}

pub(crate) fn rounded(mean: f64) -> f64 {
    const UNIT: f64 = (1_u64 << 30) as f64;
    (mean * UNIT).round() / UNIT
}

/// The number of architectures, after checking the rows.
pub(crate) fn check_replicates(replicates: &[Vec<f64>]) -> Result<usize, StatisticsError> {
    let Some(first) = replicates.first() else {
        let what = "the number of replicates of the truth";
        return Err(StatisticsError::OutOfRange { what, got: 0, least: 1, most: usize::MAX });
    };
    for (i, row) in replicates.iter().enumerate() {
        check_list(&format!("replicate {i} of the truth"), row, first.len())?;
    }
    Ok(first.len())
}

/// The quantile `q` in [0, 1] of finite values in any order, interpolated linearly between order
/// statistics; `None` for an empty list.
///
/// # Errors
/// When `q` is not within [0, 1], or a value is not finite.
pub fn quantile(values: &[f64], q: f64) -> Result<Option<f64>, StatisticsError> {
    check_list("the list", values, values.len())?;
    if !(0.0..=1.0).contains(&q) {
        return Err(StatisticsError::NotAProbability { what: "a quantile's level", value: q });
    }
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    Ok(quantile_of_sorted(&sorted, q))
}

/// Intraclass correlations of the one-way random-effects model (P. E. Shrout and J. L. Fleiss,
/// "Intraclass Correlations: Uses in Assessing Rater Reliability", 1979): which share of the
/// variance of accuracies is between architectures rather than between trainings of one. Estimates; they
/// may be negative where there is no difference between architectures. `None` with fewer than two
/// replicates or architectures, or when all values are equal.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reliability {
    /// The number of replicates, k.
    pub n_replicates: usize,
    /// Of one training, ICC(1,1) = (MSB - MSW) / (MSB + (k - 1) MSW), with the mean squares between
    /// and within architectures.
    pub single: Option<f64>,
    /// Of the mean of k trainings, ICC(1,k) = (MSB - MSW) / MSB.
    pub mean: Option<f64>,
    /// Standard deviation of one training of the same architecture, sqrt(MSW), in the values' unit.
    pub noise: Option<f64>,
}

/// The reliability of `replicates`, [replicates, architectures].
///
/// # Errors
/// As [`mean_of_replicates`].
pub fn reliability(replicates: &[Vec<f64>]) -> Result<Reliability, StatisticsError> {
    let n = check_replicates(replicates)?;
    let k = replicates.len();
    let (n_f, k_f) = (n as f64, k as f64);
    if n < 2 || k < 2 {
        return Ok(Reliability { n_replicates: k, single: None, mean: None, noise: None });
    }
    let means: Vec<f64> =
        (0..n).map(|i| replicates.iter().map(|row| row[i]).sum::<f64>() / k_f).collect();
    let grand = means.iter().sum::<f64>() / n_f;
    let between = k_f * means.iter().map(|m| (m - grand).powi(2)).sum::<f64>() / (n_f - 1.0);
    let squares =
        |row: &Vec<f64>| row.iter().zip(&means).map(|(v, m)| (v - m).powi(2)).sum::<f64>();
    let within = replicates.iter().map(squares).sum::<f64>() / (n_f * (k_f - 1.0));
    // The mean of equal numbers may be off in the last place: equality is asked of the values.
    let first = replicates[0][0];
    let constant = replicates.iter().flatten().all(|v| *v == first);
    let ratio = |below: f64| (!constant && below > 0.0).then(|| (between - within) / below);
    Ok(Reliability {
        n_replicates: k,
        single: ratio(between + (k_f - 1.0) * within),
        mean: ratio(between),
        noise: Some(if constant { 0.0 } else { within.sqrt() }),
    })
}

/// How well replicates rank each other, with an interval over architectures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agreement {
    /// The number of pairs of lists that the mean is over.
    pub n_pairs: usize,
    /// Mean of Kendall's tau-b over them; `None` without a pair or when a list is constant.
    pub mean_tau: Option<f64>,
    /// Its interval when architectures are drawn with replacement, all their replicates with them.
    pub interval: Option<Interval>,
}

/// Every replicate against every other: what a perfect predictor can reach against one training.
///
/// # Errors
/// As [`mean_of_replicates`], or when `options` are out of range.
pub fn agreement_between_replicates(
    replicates: &[Vec<f64>],
    options: &Bootstrap,
) -> Result<Agreement, StatisticsError> {
    check_replicates(replicates)?;
    let mut pairs = Vec::new();
    for (i, first) in replicates.iter().enumerate() {
        for second in &replicates[..i] {
            pairs.push(RankedPairs::new(first, second)?);
        }
    }
    agreement(&pairs, options)
}

/// Every replicate against the mean of the others: what one training reaches as a predictor of a truth
/// that is nearly as good as the one in use.
///
/// # Errors
/// As [`agreement_between_replicates`].
pub fn agreement_with_the_rest(
    replicates: &[Vec<f64>],
    options: &Bootstrap,
) -> Result<Agreement, StatisticsError> {
    check_replicates(replicates)?;
    let mut pairs = Vec::new();
    for (i, one) in replicates.iter().enumerate().filter(|_| replicates.len() > 1) {
        let others = replicates.iter().enumerate().filter(|(j, _)| *j != i);
        let others: Vec<Vec<f64>> = others.map(|(_, row)| row.clone()).collect();
        pairs.push(RankedPairs::new(one, &mean_of_replicates(&others)?)?);
    }
    agreement(&pairs, options)
}

fn agreement(pairs: &[RankedPairs], options: &Bootstrap) -> Result<Agreement, StatisticsError> {
    options.check()?;
    let Some(first) = pairs.first() else {
        return Ok(Agreement { n_pairs: 0, mean_tau: None, interval: None });
    };
    let n = first.n();
    let mean = |counts: &[u32]| {
        let taus = pairs.iter().map(|p| p.kendall_tau(counts));
        // One undefined tau makes the whole undefined: leaving it out would flatter the ceiling.
        Some(taus.sum::<Option<f64>>()? / pairs.len() as f64)
    };
    let drawn = resample(options, "replicates", |stream| mean(&draw_counts(stream, n)));
    Ok(Agreement {
        n_pairs: pairs.len(),
        mean_tau: mean(&vec![1; n]),
        interval: percentile_interval(drawn.into_iter().flatten().collect(), options.level),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_noiseless_truth_is_wholly_reliable() {
        let row = vec![70.0, 71.0, 73.0, 72.0];
        let found = reliability(&vec![row.clone(); 3]).unwrap();
        assert_eq!((found.single, found.mean, found.noise), (Some(1.0), Some(1.0), Some(0.0)));
        let options = Bootstrap { resamples: 200, ..Bootstrap::default() };
        for found in [
            agreement_between_replicates(&vec![row.clone(); 3], &options).unwrap(),
            agreement_with_the_rest(&vec![row.clone(); 3], &options).unwrap(),
        ] {
            assert_eq!((found.n_pairs, found.mean_tau), (3, Some(1.0)));
            assert_eq!(found.interval, Some(Interval { low: 1.0, high: 1.0 }));
        }
        assert_eq!(reliability(std::slice::from_ref(&row)).unwrap().single, None);
        assert_eq!(agreement_with_the_rest(&[row], &options).unwrap().mean_tau, None);
        let constant = reliability(&[vec![0.1; 3], vec![0.1; 3], vec![0.1; 3]]).unwrap();
        assert_eq!((constant.single, constant.mean, constant.noise), (None, None, Some(0.0)));
        assert!(reliability(&[]).is_err() && reliability(&[vec![1.0], vec![]]).is_err());
    }

    #[test]
    fn means_of_equal_sums_tie() {
        // 80.1 + 80.2 + 80.6 and 80.3 + 80.3 + 80.3 differ in the last place in floating point.
        let rows = [vec![80.1, 80.3, 80.6], vec![80.2, 80.3, 80.1], vec![80.6, 80.3, 80.2]];
        let means = mean_of_replicates(&rows).unwrap();
        assert!(means[0] == means[1] && means[1] == means[2], "{means:?}");
        assert!((means[0] - 80.3).abs() < 1e-9);
    }

    #[test]
    fn quantiles_out_of_range_are_refused() {
        assert_eq!(quantile(&[3.0, 1.0, 2.0], 0.5).unwrap(), Some(2.0));
        assert_eq!(quantile(&[], 0.5).unwrap(), None);
        assert!(quantile(&[1.0], 1.5).is_err() && quantile(&[f64::NAN], 0.5).is_err());
    }
}
