//! Percentile bootstrap intervals over architectures (B. Efron, "Bootstrap Methods: Another Look at
//! the Jackknife", 1979): which values the statistics would take on other architectures drawn alike.

use crate::correlation::{Correlations, RankedPairs, StatisticsError};
use rand::RngExt;
use serde::{Deserialize, Serialize};
use slimtau_base::Stream;
use std::thread;

/// How to resample.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bootstrap {
    /// The number of resamples, 1 to 10,000,000.
    pub resamples: usize,
    /// The share of resamples inside an interval, strictly between 0 and 1.
    pub level: f64,
    /// The seed: resample b uses the stream (seed, purpose, b), so the result depends neither on the
    /// number of threads nor on the machine.
    pub seed: u64,
}

impl Default for Bootstrap {
    /// 2,000 resamples, 95 %, seed 0.
    fn default() -> Self {
        Self { resamples: 2000, level: 0.95, seed: 0 }
    }
}

/// Where the middle share of the resampled values lies.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

impl Interval {
    /// Whether `value` lies inside, ends included.
    pub fn contains(&self, value: f64) -> bool {
        self.low <= value && value <= self.high
    }
}

/// Bootstrap intervals of the three correlations; `None` where every resample was degenerate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Intervals {
    /// The interval of Kendall's tau-b.
    pub kendall_tau: Option<Interval>,
    /// The interval of Pearson's correlation.
    pub pearson: Option<Interval>,
    /// The interval of Spearman's correlation.
    pub spearman: Option<Interval>,
    /// Resamples in which a list was constant, so that no statistic exists; they are left out of
    /// the intervals, which are to be distrusted when these are more than a few.
    pub degenerate: usize,
    /// How the resampling was done.
    pub bootstrap: Bootstrap,
}

/// Percentile intervals of the correlations: architectures are drawn with replacement, as many as
/// there are, and the intervals cut (1 - level) / 2 of the resampled statistics off either end.
///
/// # Errors
/// When the lists differ in length or are not finite, or `options` are out of range.
pub fn bootstrap(
    predictions: &[f64],
    truth: &[f64],
    options: &Bootstrap,
) -> Result<Intervals, StatisticsError> {
    options.check()?;
    let pairs = RankedPairs::new(predictions, truth)?;
    let drawn = resample(options, "bootstrap", |stream| {
        pairs.correlations(&draw_counts(stream, pairs.n()))
    });
    let interval = |statistic: fn(&Correlations) -> Option<f64>| {
        percentile_interval(drawn.iter().filter_map(statistic).collect(), options.level)
    };
    Ok(Intervals {
        kendall_tau: interval(|c| c.kendall_tau),
        pearson: interval(|c| c.pearson),
        spearman: interval(|c| c.spearman),
        degenerate: drawn.iter().filter(|c| c.kendall_tau.is_none()).count(),
        bootstrap: *options,
    })
}

impl Bootstrap {
    pub(crate) fn check(&self) -> Result<(), StatisticsError> {
        const MOST: usize = 10_000_000;
        if self.resamples == 0 || self.resamples > MOST {
            let (what, got) = ("the number of bootstrap resamples", self.resamples);
            return Err(StatisticsError::OutOfRange { what, got, least: 1, most: MOST });
        }
        if self.level > 0.0 && self.level < 1.0 {
            return Ok(());
        }
        Err(StatisticsError::NotAProbability {
            what: "the level of an interval",
            value: self.level,
        })
    }
}

/// How often each of `n` things is drawn in `n` draws with replacement.
pub(crate) fn draw_counts(stream: &mut Stream, n: usize) -> Vec<u32> {
    let mut counts = vec![0; n];
    for _ in 0..n {
        counts[stream.random_range(0..n)] += 1;
    }
    counts
}

/// `statistic` of every resample, in order, on all cores. Each has its own stream, so the split
/// over threads does not show.
pub(crate) fn resample<T: Send>(
    options: &Bootstrap,
    purpose: &str,
    statistic: impl Fn(&mut Stream) -> T + Sync,
) -> Vec<T> {
    let n_threads = thread::available_parallelism().map_or(1, usize::from).min(options.resamples);
    let share = options.resamples.div_ceil(n_threads);
    let part = |thread_idx: usize| -> Vec<T> {
        let end = options.resamples.min((thread_idx + 1) * share);
        let resamples = thread_idx * share..end;
        let draw = |b| statistic(&mut slimtau_base::stream(options.seed, purpose, b as u64));
        resamples.map(draw).collect()
    };
    thread::scope(|scope| {
        let part = &part;
        let threads: Vec<_> = (0..n_threads).map(|t| scope.spawn(move || part(t))).collect();
        let parts = threads.into_iter().map(|t| t.join());
        // A panic in `statistic` is a bug of ours; it is passed on, not swallowed.
        parts.flat_map(|p| p.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

/// The middle `level` of `values`, quantiles interpolated linearly between order statistics.
pub(crate) fn percentile_interval(mut values: Vec<f64>, level: f64) -> Option<Interval> {
    values.sort_unstable_by(f64::total_cmp);
    let quantile = |q| quantile_of_sorted(&values, q);
    Some(Interval { low: quantile((1.0 - level) / 2.0)?, high: quantile((1.0 + level) / 2.0)? })
}

/// The quantile `q` in [0, 1] of ascending values, interpolated linearly between order statistics.
pub(crate) fn quantile_of_sorted(values: &[f64], q: f64) -> Option<f64> {
    let last = values.len().checked_sub(1)?;
    let position = q * last as f64;
    let below = position.floor() as usize;
    let above = (below + 1).min(last);
    Some(values[below] + (values[above] - values[below]) * (position - below as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_interpolate() {
        let check = |n: usize, level, low: f64, high: f64| {
            let values = (0..n).rev().map(|v| v as f64).collect();
            let found = percentile_interval(values, level).unwrap();
            assert!((found.low - low).abs() < 1e-9 && (found.high - high).abs() < 1e-9);
        };
        check(101, 0.9, 5.0, 95.0);
        check(5, 0.95, 0.1, 3.9);
        check(1, 0.5, 0.0, 0.0);
        assert_eq!(percentile_interval(vec![], 0.95), None);
    }

    #[test]
    fn equal_seeds_give_equal_intervals_and_others_do_not() {
        let x = [1.0, 2.0, 3.0, 5.0, 4.0, 7.0, 6.0, 9.0];
        let y = [2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 8.0, 7.0];
        let run = |seed| bootstrap(&x, &y, &Bootstrap { seed, ..Bootstrap::default() }).unwrap();
        assert_eq!(run(3), run(3));
        // Tau of eight takes few values; Pearson's many, so that other draws show.
        assert_ne!(run(3).pearson, run(4).pearson);
    }

    #[test]
    fn degenerate_resamples_are_counted() {
        // Two pairs: half of all resamples draw one of them twice.
        let found = bootstrap(&[1.0, 2.0], &[5.0, 6.0], &Bootstrap::default()).unwrap();
        assert!((found.degenerate as f64 - 1000.0).abs() < 5.0 * f64::sqrt(500.0));
        assert_eq!(found.kendall_tau, Some(Interval { low: 1.0, high: 1.0 }));
        let constant = bootstrap(&[1.0; 4], &[1.0, 2.0, 3.0, 4.0], &Bootstrap::default()).unwrap();
        assert_eq!((constant.degenerate, constant.pearson), (2000, None));
        assert_eq!(bootstrap(&[], &[], &Bootstrap::default()).unwrap().degenerate, 2000);
    }

    #[test]
    fn options_out_of_range_are_refused() {
        let check = |options: Bootstrap, needle: &str| {
            let message = bootstrap(&[1.0], &[1.0], &options).unwrap_err().to_string();
            assert!(message.contains(needle), "{message}");
        };
        check(Bootstrap { resamples: 0, ..Bootstrap::default() }, "is 0");
        check(Bootstrap { level: 95.0, ..Bootstrap::default() }, "is 95");
        check(Bootstrap { level: f64::NAN, ..Bootstrap::default() }, "NaN");
    }
}
