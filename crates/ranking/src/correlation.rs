//! Kendall's tau-b, Pearson's and Spearman's correlation of paired lists.
//!
//! All three are computed from one preparation of the lists and a multiplicity per pair, so that a
//! bootstrap resample (which is nothing but multiplicities) needs no sorting again.

use crate::inversions::sort_counting_inversions;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Lists that no statistic can be computed from.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum StatisticsError {
    /// Two lists that should pair up do not.
    #[error("{what} holds {got} values where {expected} are expected, one for each architecture")]
    Length {
        /// Which list.
        what: String,
        /// The length of the list it is paired with.
        expected: usize,
        /// Its own length.
        got: usize,
    },
    /// A value is NaN or infinite: it has no rank.
    #[error("value {index} of {what} is {value}; only finite numbers can be ranked")]
    NotFinite {
        /// Which list.
        what: String,
        /// The position in the list, from 0.
        index: usize,
        /// The value.
        value: f64,
    },
    /// A list is longer than a 32-bit index reaches.
    #[error("{n} architectures are more than the 4294967295 that can be ranked at once")]
    TooMany {
        /// The length of the list.
        n: usize,
    },
    /// A count that must lie within a range does not.
    #[error("{what} is {got}, expected {least} to {most}")]
    OutOfRange {
        /// Which count.
        what: &'static str,
        /// Its value.
        got: usize,
        /// The smallest that makes sense.
        least: usize,
        /// The largest that makes sense.
        most: usize,
    },
    /// A confidence level or a p-value outside its range.
    #[error("{what} is {value}, expected a number between 0 and 1")]
    NotAProbability {
        /// Which number.
        what: &'static str,
        /// Its value.
        value: f64,
    },
}

/// How well predictions rank and predict the truth. A statistic is `None` (`null` in JSON) where it
/// is undefined: fewer than two pairs, or one of the lists constant. It is never NaN.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Correlations {
    /// The number of pairs.
    pub n: usize,
    /// Kendall's tau-b, in [-1, 1]: (concordant - discordant pairs) / sqrt((pairs not tied in the
    /// predictions) (pairs not tied in the truth)).
    pub kendall_tau: Option<f64>,
    /// Pearson's correlation, in [-1, 1].
    pub pearson: Option<f64>,
    /// Spearman's correlation, in [-1, 1]: Pearson's of the ranks, tied values sharing their average.
    pub spearman: Option<f64>,
}

/// The three correlations of `predictions` with `truth`, paired by position, in O(n log n).
///
/// # Errors
/// When the lists differ in length or hold a value that is not finite.
pub fn correlations(predictions: &[f64], truth: &[f64]) -> Result<Correlations, StatisticsError> {
    let pairs = RankedPairs::new(predictions, truth)?;
    Ok(pairs.correlations(&vec![1; pairs.n()]))
}

/// Kendall's tau-b alone, by Knight's algorithm in O(n log n); `None` where it is undefined.
///
/// # Errors
/// As [`correlations`].
pub fn kendall_tau(predictions: &[f64], truth: &[f64]) -> Result<Option<f64>, StatisticsError> {
    let pairs = RankedPairs::new(predictions, truth)?;
    Ok(pairs.kendall_tau(&vec![1; pairs.n()]))
}

/// Refuses a list that is not of length `n` or not finite.
pub(crate) fn check_list(what: &str, list: &[f64], n: usize) -> Result<(), StatisticsError> {
    if list.len() != n {
        let what = what.to_owned();
        return Err(StatisticsError::Length { what, expected: n, got: list.len() });
    }
    if n > u32::MAX as usize {
        return Err(StatisticsError::TooMany { n });
    }
    match list.iter().position(|v| !v.is_finite()) {
        Some(index) => {
            Err(StatisticsError::NotFinite { what: what.to_owned(), index, value: list[index] })
        }
        None => Ok(()),
    }
}

/// Two paired lists, sorted once.
pub(crate) struct RankedPairs {
    x: Arc<Ranked>,
    y: Arc<Ranked>,
    /// Pair indices by rank of x, ties by rank of y.
    order: Vec<u32>,
}

/// One list: its values scaled into (-4, 4) and their dense ranks (0-based; ties share one).
pub(crate) struct Ranked {
    scaled: Vec<f64>,
    rank: Vec<u32>,
    n_distinct: usize,
    /// Indices by ascending value.
    order: Vec<u32>,
}

impl Ranked {
    /// `values` must be finite and fewer than 2^32.
    pub(crate) fn new(values: &[f64]) -> Self {
        // Adding 0.0 turns -0.0 into 0.0: the two are one value and must tie.
        let mut keyed: Vec<(u64, u32)> =
            values.iter().zip(0..).map(|(v, i)| (sortable(v + 0.0), i)).collect();
        keyed.sort_unstable();
        let mut rank = vec![0; values.len()];
        let mut n_distinct = 0;
        let mut last = None;
        for &(key, i) in &keyed {
            n_distinct += usize::from(last != Some(key));
            last = Some(key);
            rank[i as usize] = n_distinct as u32 - 1;
        }
        let largest = values.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
        let scale = power_of_two_near_reciprocal(largest);
        Self {
            scaled: values.iter().map(|v| v * scale).collect(),
            rank,
            n_distinct,
            order: keyed.into_iter().map(|(_, i)| i).collect(),
        }
    }

    /// How many of the counted values have each rank.
    fn histogram(&self, counts: &[u32]) -> Vec<u32> {
        let mut histogram = vec![0; self.n_distinct];
        for (&rank, &count) in self.rank.iter().zip(counts) {
            histogram[rank as usize] += count;
        }
        histogram
    }

    /// Deviation of every rank's average position from the mean position, exact in halves.
    fn rank_deviations(&self, counts: &[u32], total: u64) -> Vec<f64> {
        let mut below = 0;
        let mut deviations = self.histogram(counts);
        let deviations = deviations.iter_mut().map(|count| {
            let count = u64::from(*count);
            let twice = (2 * below + count) as f64 - total as f64;
            below += count;
            twice / 2.0
        });
        deviations.collect()
    }

    /// Deviations of the counted values from their mean, scaled to a largest of 1.
    fn deviations(&self, counts: &[u32], total: u64) -> Vec<f64> {
        let weighted = self.scaled.iter().zip(counts).map(|(v, &c)| v * f64::from(c));
        let mean = weighted.sum::<f64>() / total as f64;
        let largest = self.scaled.iter().zip(counts).filter(|(_, c)| **c > 0);
        // Not 0 unless the values are constant, which the caller excludes: then one differs from
        // the mean, whatever the mean's rounding. The scale keeps squares from underflowing.
        let largest = largest.fold(0.0_f64, |m, (v, _)| m.max((v - mean).abs()));
        let mut deviations: Vec<f64> = self.scaled.iter().map(|v| (v - mean) / largest).collect();
        // Far from 0 the mean is rounded coarsely; what that left in the deviations is taken out.
        let weighted = deviations.iter().zip(counts).map(|(d, &c)| d * f64::from(c));
        let left = weighted.sum::<f64>() / total as f64;
        deviations.iter_mut().for_each(|d| *d -= left);
        deviations
    }
}

/// A key that orders finite floats as unsigned integers.
fn sortable(value: f64) -> u64 {
    let bits = value.to_bits();
    bits ^ if bits >> 63 == 1 { u64::MAX } else { 1 << 63 }
}

/// The power of two that brings `largest` near 1: scaling by it neither rounds nor, later, overflows.
fn power_of_two_near_reciprocal(largest: f64) -> f64 {
    let exponent = largest.to_bits() >> 52;
    f64::from_bits((2046 - exponent.min(2045)) << 52)
}

fn n_pairs(n: u64) -> u64 {
    n * n.saturating_sub(1) / 2
}

impl RankedPairs {
    pub(crate) fn new(predictions: &[f64], truth: &[f64]) -> Result<Self, StatisticsError> {
        check_list("the predictions", predictions, truth.len())?;
        check_list("the truth", truth, truth.len())?;
        Ok(Self::of(Arc::new(Ranked::new(predictions)), Arc::new(Ranked::new(truth))))
    }

    /// The pairs of two lists of one length that are sorted already, in O(n).
    pub(crate) fn of(x: Arc<Ranked>, y: Arc<Ranked>) -> Self {
        // Spreading the indices, already in the order of y, stably over the ranks of x sorts by both.
        let mut next = vec![0_u32; x.n_distinct + 1];
        for &rank in &x.rank {
            next[rank as usize + 1] += 1;
        }
        for rank in 1..next.len() {
            next[rank] += next[rank - 1];
        }
        let mut order = vec![0; y.order.len()];
        for &i in &y.order {
            let slot = &mut next[x.rank[i as usize] as usize];
            order[*slot as usize] = i;
            *slot += 1;
        }
        Self { x, y, order }
    }

    pub(crate) fn n(&self) -> usize {
        self.order.len()
    }

    /// The statistics of the list that holds pair i `counts[i]` times.
    pub(crate) fn correlations(&self, counts: &[u32]) -> Correlations {
        let total = counts.iter().map(|&c| u64::from(c)).sum::<u64>();
        let (pearson, spearman) = if self.varies(counts) {
            let (dx, dy) = (self.x.deviations(counts, total), self.y.deviations(counts, total));
            let pearson = cosine(counts.iter().zip(&dx).zip(&dy).map(|((&c, &x), &y)| (c, x, y)));
            let rx = self.x.rank_deviations(counts, total);
            let ry = self.y.rank_deviations(counts, total);
            let ranks = self.x.rank.iter().zip(&self.y.rank).zip(counts);
            let spearman = cosine(ranks.map(|((&i, &j), &c)| (c, rx[i as usize], ry[j as usize])));
            (Some(pearson), Some(spearman))
        } else {
            (None, None)
        };
        let n = total as usize;
        Correlations { n, kendall_tau: self.kendall_tau(counts), pearson, spearman }
    }

    /// Whether neither list is constant: every statistic is defined exactly then.
    fn varies(&self, counts: &[u32]) -> bool {
        let several = |ranks: &[u32]| {
            let mut seen = ranks.iter().zip(counts).filter(|(_, c)| **c > 0).map(|(r, _)| r);
            seen.next().is_some_and(|first| seen.any(|r| r != first))
        };
        several(&self.x.rank) && several(&self.y.rank)
    }

    /// Kendall's tau-b of the list that holds pair i `counts[i]` times.
    pub(crate) fn kendall_tau(&self, counts: &[u32]) -> Option<f64> {
        self.tau_parts(counts).tau()
    }

    /// What tau-b is made of, of the list that holds pair i `counts[i]` times.
    pub(crate) fn tau_parts(&self, counts: &[u32]) -> TauParts {
        let total = counts.iter().map(|&c| u64::from(c)).sum::<u64>();
        // y in the order of x (ties in the order of y): its inversions are the discordant pairs.
        let mut sequence = Vec::with_capacity(total as usize);
        let (mut x_tied, mut both_tied) = (0, 0);
        let (mut x_run, mut both_run) = (0_u64, 0_u64);
        let mut last = None;
        for &i in &self.order {
            let (i, count) = (i as usize, counts[i as usize]);
            if count == 0 {
                continue;
            }
            let (x, y) = (self.x.rank[i], self.y.rank[i]);
            if last != Some((x, y)) {
                both_tied += n_pairs(std::mem::take(&mut both_run));
                if last.is_none_or(|(last_x, _)| last_x != x) {
                    x_tied += n_pairs(std::mem::take(&mut x_run));
                }
                last = Some((x, y));
            }
            x_run += u64::from(count);
            both_run += u64::from(count);
            sequence.extend(std::iter::repeat_n(y, count as usize));
        }
        x_tied += n_pairs(x_run);
        both_tied += n_pairs(both_run);
        let y_tied: u64 = self.y.histogram(counts).iter().map(|&c| n_pairs(u64::from(c))).sum();
        let pairs = n_pairs(total);
        let (x_untied, y_untied) = (pairs - x_tied, pairs - y_tied);
        let discordant = sort_counting_inversions(&mut sequence);
        // Untied in both = all - tied in x - tied in y + tied in both.
        let untied = x_untied + both_tied - y_tied;
        TauParts { difference: untied as f64 - 2.0 * discordant as f64, x_untied, y_untied }
    }
}

/// What tau-b is made of. Parts of several groups of pairs may be summed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TauParts {
    /// Concordant minus discordant pairs.
    pub(crate) difference: f64,
    /// Pairs not tied in the predictions.
    pub(crate) x_untied: u64,
    /// Pairs not tied in the truth.
    pub(crate) y_untied: u64,
}

impl TauParts {
    pub(crate) fn tau(self) -> Option<f64> {
        if self.x_untied == 0 || self.y_untied == 0 {
            return None;
        }
        // The root of the product, not the product of roots: the root of a square is exact, so that
        // lists without ties give exactly 1 and -1 at the ends.
        let tau = self.difference / (self.x_untied as f64 * self.y_untied as f64).sqrt();
        Some(tau.clamp(-1.0, 1.0))
    }
}

/// Sum c x y / sqrt(sum c x^2 sum c y^2), within [-1, 1] whatever the rounding.
fn cosine(terms: impl Iterator<Item = (u32, f64, f64)>) -> f64 {
    let (xx, yy, xy) = terms.fold((0.0, 0.0, 0.0), |(xx, yy, xy), (c, x, y)| {
        let c = f64::from(c);
        (xx + c * x * x, yy + c * y * y, xy + c * x * y)
    });
    (xy / (xx * yy).sqrt()).clamp(-1.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Tau-b by its definition over all pairs.
    fn naive_tau(x: &[f64], y: &[f64]) -> Option<f64> {
        let (mut sum, mut x_untied, mut y_untied) = (0.0, 0.0, 0.0);
        for i in 0..x.len() {
            for j in 0..i {
                let sign = |d: f64| if d == 0.0 { 0.0 } else { d.signum() };
                let (a, b) = (sign(x[i] - x[j]), sign(y[i] - y[j]));
                sum += a * b;
                x_untied += a * a;
                y_untied += b * b;
            }
        }
        (x_untied > 0.0 && y_untied > 0.0).then(|| sum / f64::sqrt(x_untied * y_untied))
    }

    fn close(a: Option<f64>, b: Option<f64>) -> bool {
        match (a, b) {
            (Some(a), Some(b)) => (a - b).abs() < 1e-12,
            (a, b) => a == b,
        }
    }

    fn tied_lists() -> impl Strategy<Value = Vec<(f64, f64, u32)>> {
        let value = || (-4_i32..5).prop_map(|v| f64::from(v) / 2.0);
        prop::collection::vec((value(), value(), 0_u32..4), 0..40)
    }

    proptest! {
        #[test]
        fn tau_agrees_with_its_definition(triples in tied_lists()) {
            let (x, y): (Vec<f64>, Vec<f64>) = triples.iter().map(|t| (t.0, t.1)).unzip();
            prop_assert!(close(kendall_tau(&x, &y).unwrap(), naive_tau(&x, &y)));
        }

        #[test]
        fn counts_mean_repeated_pairs(triples in tied_lists()) {
            let (x, y): (Vec<f64>, Vec<f64>) = triples.iter().map(|t| (t.0, t.1)).unzip();
            let counts: Vec<u32> = triples.iter().map(|t| t.2).collect();
            let repeat = |list: &[f64]| -> Vec<f64> {
                let runs = list.iter().zip(&counts);
                runs.flat_map(|(&v, &c)| std::iter::repeat_n(v, c as usize)).collect()
            };
            let counted = RankedPairs::new(&x, &y).unwrap().correlations(&counts);
            let repeated = correlations(&repeat(&x), &repeat(&y)).unwrap();
            prop_assert_eq!(counted.n, repeated.n);
            prop_assert!(close(counted.kendall_tau, repeated.kendall_tau));
            prop_assert!(close(counted.pearson, repeated.pearson));
            prop_assert!(close(counted.spearman, repeated.spearman));
        }

        #[test]
        fn symmetric_and_odd(triples in tied_lists()) {
            let (x, y): (Vec<f64>, Vec<f64>) = triples.iter().map(|t| (t.0, t.1)).unzip();
            let minus: Vec<f64> = y.iter().map(|v| -v).collect();
            let a = correlations(&x, &y).unwrap();
            let b = correlations(&y, &x).unwrap();
            let c = correlations(&x, &minus).unwrap();
            for (a, b, c) in [
                (a.kendall_tau, b.kendall_tau, c.kendall_tau),
                (a.pearson, b.pearson, c.pearson),
                (a.spearman, b.spearman, c.spearman),
            ] {
                prop_assert!(close(a, b) && close(a, c.map(|v| -v)));
            }
        }
    }

    #[test]
    fn undefined_is_none_and_null_in_json() {
        let check = |x: &[f64], y: &[f64]| {
            let found = correlations(x, y).unwrap();
            let all = [found.kendall_tau, found.pearson, found.spearman];
            assert_eq!(all, [None; 3], "{x:?} {y:?}");
            let json = serde_json::to_string(&found).unwrap();
            assert!(json.contains("\"pearson\":null"), "{json}");
        };
        check(&[], &[]);
        check(&[1.0], &[2.0]);
        check(&[3.0; 5], &[1.0, 2.0, 3.0, 4.0, 5.0]);
        check(&[1.0, 2.0, 3.0, 4.0, 5.0], &[3.1; 5]);
        // The mean of three 0.1 is not 0.1 in floating point; constant all the same.
        check(&[0.1; 3], &[0.1, 0.2, 0.3]);
        check(&[0.0, -0.0], &[1.0, 2.0]);
    }

    #[test]
    fn extreme_magnitudes_are_ranked_as_any_other() {
        for scale in [1e-300, f64::MIN_POSITIVE, 1.0, 4e307] {
            let x = [1.0, 2.0, 4.0, 3.0].map(|v| v * scale);
            let found = correlations(&x, &[1.0, 2.0, 3.0, 4.0]).unwrap();
            for value in [found.pearson, found.spearman] {
                assert!((value.unwrap() - 0.8).abs() < 1e-12, "{scale}: {value:?}");
            }
            assert!((found.kendall_tau.unwrap() - 2.0 / 3.0).abs() < 1e-12);
        }
        let far = [1e300, 1e300 * (1.0 + f64::EPSILON), -1e-300];
        assert!(correlations(&far, &[1.0, 2.0, 3.0]).unwrap().pearson.unwrap().is_finite());
    }

    #[test]
    fn bad_lists_are_refused_with_the_numbers() {
        let check = |x: &[f64], y: &[f64], needles: &[&str]| {
            let message = correlations(x, y).unwrap_err().to_string();
            for needle in needles {
                assert!(message.contains(needle), "{message}");
            }
        };
        check(&[1.0], &[1.0, 2.0], &["predictions", "1 values", "2 are expected"]);
        check(&[1.0, f64::NAN], &[1.0, 2.0], &["predictions", "value 1", "NaN"]);
        check(&[1.0, 2.0], &[f64::NEG_INFINITY, 2.0], &["truth", "value 0", "-inf"]);
    }
}
