//! What a ranking is for: how good the architectures it picks are, and how good it could be at all.

use crate::correlation::{StatisticsError, check_list, kendall_tau};
use serde::{Deserialize, Serialize};

/// The share of the truly best `k` among the predicted best `k`, in [0, 1].
///
/// Ties at either cut are broken at random and the expectation over that is returned, so the result
/// does not depend on the order of the list: constant predictions score k / n.
///
/// # Errors
/// When the lists differ in length or are not finite, or `k` is not within 1..=n.
pub fn top_k_precision(
    predictions: &[f64],
    truth: &[f64],
    k: usize,
) -> Result<f64, StatisticsError> {
    check_list("the predictions", predictions, truth.len())?;
    check_list("the truth", truth, truth.len())?;
    if k == 0 || k > truth.len() {
        let (what, most) = ("k of the top-k precision", truth.len());
        return Err(StatisticsError::OutOfRange { what, got: k, least: 1, most });
    }
    let (p, q) = (chance_in_top(predictions, k), chance_in_top(truth, k));
    Ok(p.iter().zip(&q).map(|(p, q)| p * q).sum::<f64>() / k as f64)
}

/// The chance of each value to be among the largest `k` (1..=n of them) when ties are broken at random.
fn chance_in_top(values: &[f64], k: usize) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(|a, b| b.total_cmp(a));
    let cut = sorted[k - 1];
    let n_above = values.iter().filter(|v| **v > cut).count();
    let n_at = values.iter().filter(|v| **v == cut).count();
    let at = (k - n_above) as f64 / n_at as f64;
    let chance = |v: &f64| if *v > cut { 1.0 } else { f64::from(*v == cut) * at };
    values.iter().map(chance).collect()
}

/// What picking the best predicted architecture costs: the best truth minus the truth of the argmax
/// of the predictions, in the truth's unit, at least 0; the mean over architectures that tie for the
/// best prediction. `None` for empty lists.
///
/// # Errors
/// When the lists differ in length or are not finite.
pub fn regret(predictions: &[f64], truth: &[f64]) -> Result<Option<f64>, StatisticsError> {
    check_list("the predictions", predictions, truth.len())?;
    check_list("the truth", truth, truth.len())?;
    let max = |list: &[f64]| list.iter().copied().reduce(f64::max);
    let (Some(best_predicted), Some(best)) = (max(predictions), max(truth)) else {
        return Ok(None);
    };
    let picked = predictions.iter().zip(truth).filter(|(p, _)| **p == best_predicted);
    let (sum, count) = picked.fold((0.0, 0.0), |(s, c), (_, t)| (s + (best - t), c + 1.0));
    Ok(Some(sum / count))
}

/// How well replicates of the truth rank each other.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct NoiseCeiling {
    /// The number of replicates (stand-alone training seeds).
    pub n_replicates: usize,
    /// Mean of Kendall's tau-b over all pairs of replicates; `None` with fewer than two, or when one
    /// is constant.
    pub mean_tau: Option<f64>,
    /// The smallest tau of a pair.
    pub min_tau: Option<f64>,
    /// The largest tau of a pair.
    pub max_tau: Option<f64>,
}

/// Kendall's tau between replicates of the truth, [replicates, architectures] with one row per
/// training seed: about what a perfect predictor can reach against a single replicate. Against the
/// mean of several replicates a predictor may exceed it, since the mean is less noisy.
///
/// # Errors
/// When the rows differ in length or are not finite.
pub fn noise_ceiling(replicates: &[Vec<f64>]) -> Result<NoiseCeiling, StatisticsError> {
    let n_replicates = replicates.len();
    let n = replicates.first().map_or(0, Vec::len);
    for (i, row) in replicates.iter().enumerate() {
        check_list(&format!("replicate {i} of the truth"), row, n)?;
    }
    let mut taus = Vec::new();
    for (i, first) in replicates.iter().enumerate() {
        for second in &replicates[..i] {
            taus.push(kendall_tau(first, second)?);
        }
    }
    // One undefined tau makes the whole undefined: leaving it out would flatter the ceiling.
    let taus = taus.into_iter().collect::<Option<Vec<f64>>>().unwrap_or_default();
    let mean = taus.iter().sum::<f64>() / taus.len() as f64;
    Ok(NoiseCeiling {
        n_replicates,
        mean_tau: (!taus.is_empty()).then_some(mean),
        min_tau: taus.iter().copied().reduce(f64::min),
        max_tau: taus.iter().copied().reduce(f64::max),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn top_k_by_hand() {
        let check = |p: &[f64], t: &[f64], k, expect: f64| {
            let found = top_k_precision(p, t, k).unwrap();
            assert!((found - expect).abs() < 1e-12, "{p:?} {t:?} {k}: {found}");
        };
        let truth = [1.0, 2.0, 3.0, 4.0];
        check(&truth, &truth, 2, 1.0);
        check(&[4.0, 3.0, 2.0, 1.0], &truth, 2, 0.0);
        check(&[4.0, 3.0, 2.0, 1.0], &truth, 4, 1.0);
        check(&[1.0, 9.0, 3.0, 8.0], &truth, 2, 0.5);
        // Ties at the cut: the second place goes to one of three, two of which are wrong.
        check(&[5.0, 5.0, 5.0, 9.0], &truth, 2, (1.0 + 1.0 / 3.0) / 2.0);
        check(&[0.0; 4], &truth, 1, 0.25);
        assert!(top_k_precision(&truth, &truth, 0).is_err());
        assert!(top_k_precision(&truth, &truth, 5).is_err());
    }

    #[test]
    fn regret_by_hand() {
        let check = |p: &[f64], t: &[f64], expect| assert_eq!(regret(p, t).unwrap(), expect);
        check(&[1.0, 3.0, 2.0], &[70.0, 72.5, 73.0], Some(0.5));
        check(&[1.0, 2.0, 3.0], &[70.0, 72.5, 73.0], Some(0.0));
        check(&[3.0, 2.0, 3.0], &[70.0, 72.5, 73.0], Some(1.5));
        check(&[], &[], None);
        assert!(regret(&[1.0], &[]).is_err());
    }

    #[test]
    fn the_ceiling_is_the_mean_over_pairs() {
        let a = vec![1.0, 2.0, 3.0];
        let b = vec![1.0, 3.0, 2.0];
        let found = noise_ceiling(&[a.clone(), a.clone(), b]).unwrap();
        let third = 1.0 / 3.0;
        assert!((found.mean_tau.unwrap() - (1.0 + 2.0 * third) / 3.0).abs() < 1e-12);
        assert!((found.min_tau.unwrap() - third).abs() < 1e-12);
        assert_eq!(found.max_tau, Some(1.0));
        assert_eq!(noise_ceiling(std::slice::from_ref(&a)).unwrap().mean_tau, None);
        assert_eq!(noise_ceiling(&[a.clone(), vec![2.0; 3]]).unwrap().mean_tau, None);
        assert!(noise_ceiling(&[a, vec![1.0]]).is_err());
    }
}
