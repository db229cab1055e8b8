//! Many rankings judged on the same resamples, so that every interval and every difference between two
//! of them comes from one set of draws.

use crate::bootstrap::{Bootstrap, Interval, draw_counts, percentile_interval, resample};
use crate::correlation::{Ranked, RankedPairs, StatisticsError, check_list};
use crate::paired::PairedDifference;
use crate::reliability::{check_replicates, mean_of_replicates, rounded};
use crate::stratified::{Groups, stratified_tau};
use rand::RngExt;
use slimtau_base::Stream;
use std::sync::Arc;

/// What is asked of a ranking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistic {
    /// Kendall's tau-b.
    KendallTau,
    /// Pearson's correlation.
    Pearson,
    /// Spearman's correlation.
    Spearman,
    /// [`crate::kendall_tau_within`] the groups.
    TauWithinGroups,
}

const N_STATISTICS: usize = 4;

/// The four statistics of one list, by [`Statistic`]; `None` where undefined.
type Values = [Option<f64>; N_STATISTICS];

/// The bootstrap of many lists of predictions against one truth that was measured several times.
///
/// Every resample draws, with replacement,
/// 1. architectures, as many as there are, the same for all lists;
/// 2. for every architecture, as many of its replicates as it has; their mean is its truth there, the
///    same for all lists;
/// 3. for a method that was trained under several seeds, seeds, as many as it has. Methods with
///    equally many seeds get the same draw, so that lists trained under the same seed pair up.
///
/// A statistic of a method is its mean over (drawn) seeds, and its interval cuts (1 - level) / 2 off
/// either end of the resampled values. Drawing replicates makes the resampled truth noisier than the
/// truth is, and with it every correlation lower; the mean of that effect, measured on the same
/// resamples with the replicates kept, is therefore taken off. Since training noise differs from
/// architecture to architecture, draws of architectures already vary it; the intervals are wide rather
/// than narrow. Draws of very few seeds, however, understate how far other seeds may lie.
pub struct JointBootstrap {
    n_architectures: usize,
    points: Vec<Values>,
    /// By resample, then by list.
    drawn: Vec<Vec<Values>>,
    /// Mean effect of drawing replicates, by list.
    shift: Vec<[f64; N_STATISTICS]>,
    options: Bootstrap,
}

impl JointBootstrap {
    /// Computes all resamples of `lists`, [lists, architectures], against `replicates`,
    /// [replicates, architectures]. `groups[i]` is architecture i's group for
    /// [`Statistic::TauWithinGroups`].
    ///
    /// # Errors
    /// When there is no replicate, a row's length is not the number of architectures, a value is not
    /// finite, or `options` are out of range.
    pub fn new(
        lists: &[Vec<f64>],
        replicates: &[Vec<f64>],
        groups: &[usize],
        options: &Bootstrap,
    ) -> Result<Self, StatisticsError> {
        options.check()?;
        let n = check_replicates(replicates)?;
        for (i, list) in lists.iter().enumerate() {
            check_list(&format!("list {i} of predictions"), list, n)?;
        }
        let groups = Groups::new(groups, n)?;
        let truth = List::new(&mean_of_replicates(replicates)?, &groups);
        let lists: Vec<List> = lists.iter().map(|list| List::new(list, &groups)).collect();
        let kept: Vec<Pairs> = lists.iter().map(|list| list.with(&truth)).collect();
        let every = Counts::new(vec![1; n], &groups);
        let points = kept.iter().map(|pairs| pairs.values(&every)).collect();
        // A resample's values, and by how much drawing the replicates moved them.
        let resamples = resample(options, "joint bootstrap", |stream| {
            let counts = Counts::new(draw_counts(stream, n), &groups);
            let values: Vec<Values> = kept.iter().map(|pairs| pairs.values(&counts)).collect();
            if replicates.len() == 1 {
                return (values, None);
            }
            let truth = List::new(&drawn_truth(stream, replicates), &groups);
            let both = lists.iter().zip(values).map(|(list, kept)| {
                let drawn = list.with(&truth).values(&counts);
                let moved: Values = std::array::from_fn(|s| Some(drawn[s]? - kept[s]?));
                (drawn, moved)
            });
            let (drawn, moved): (Vec<_>, Vec<_>) = both.unzip();
            (drawn, Some(moved))
        });
        let mean_moved = |list_idx: usize| {
            std::array::from_fn(|s| {
                let moved = resamples.iter().filter_map(|(_, m)| m.as_ref()?[list_idx][s]);
                let (sum, count) = moved.fold((0.0, 0.0), |(sum, count), m| (sum + m, count + 1.0));
                if count > 0.0 { sum / count } else { 0.0 }
            })
        };
        let shift = (0..lists.len()).map(mean_moved).collect();
        let drawn = resamples.into_iter().map(|(drawn, _)| drawn).collect();
        Ok(Self { n_architectures: n, points, drawn, shift, options: *options })
    }

    /// A statistic of one list; `None` where it is undefined.
    ///
    /// # Panics
    /// When there is no such list.
    pub fn point(&self, list_idx: usize, statistic: Statistic) -> Option<f64> {
        self.points[list_idx][statistic as usize]
    }

    /// The mean of a statistic over the lists of a method, one per seed; `None` without a list or
    /// where one of them has none.
    ///
    /// # Panics
    /// When there is no such list.
    pub fn mean(&self, lists: &[usize], statistic: Statistic) -> Option<f64> {
        let sum = lists.iter().map(|&l| self.point(l, statistic)).sum::<Option<f64>>()?;
        (!lists.is_empty()).then(|| sum / lists.len() as f64)
    }

    /// The interval of [`JointBootstrap::mean`], and how many resamples were degenerate and left out.
    ///
    /// # Panics
    /// When there is no such list.
    pub fn interval(&self, lists: &[usize], statistic: Statistic) -> (Option<Interval>, usize) {
        let values: Vec<f64> = self.resampled(lists, statistic).flatten().collect();
        let degenerate = self.drawn.len() - values.len();
        let interval = percentile_interval(values, self.options.level);
        // The shift may carry an end past what a correlation can be.
        let within = |i: Interval| Interval { low: i.low.max(-1.0), high: i.high.min(1.0) };
        (interval.map(within), degenerate)
    }

    /// tau(a) - tau(b), each the mean over its lists. `a[s]` and `b[s]` are the lists of seed s; a
    /// ranking that has no seeds is given as often as the other has.
    ///
    /// # Errors
    /// When `a` and `b` are not equally many, or none.
    ///
    /// # Panics
    /// When there is no such list.
    pub fn difference(
        &self,
        a: &[usize],
        b: &[usize],
    ) -> Result<PairedDifference, StatisticsError> {
        if a.is_empty() || a.len() != b.len() {
            let what = "the number of the second method's seeds, which the first's must equal,";
            let least = a.len().max(1);
            return Err(StatisticsError::OutOfRange { what, got: b.len(), least, most: least });
        }
        let tau = Statistic::KendallTau;
        let resampled = self.resampled(a, tau).zip(self.resampled(b, tau));
        let values = resampled.filter_map(|(a, b)| Some(a? - b?)).collect();
        let taus = (self.mean(a, tau), self.mean(b, tau));
        Ok(PairedDifference::from_resamples(
            self.n_architectures,
            a.len(),
            taus,
            values,
            &self.options,
        ))
    }

    /// The resampled means over seeds of a statistic, free of the shift; `None` where degenerate.
    fn resampled(
        &self,
        lists: &[usize],
        statistic: Statistic,
    ) -> impl Iterator<Item = Option<f64>> {
        let s = statistic as usize;
        let n = lists.len() as f64;
        let shift = lists.iter().map(|&l| self.shift[l][s]).sum::<f64>() / n.max(1.0);
        let mean = move |(b, values): (usize, &Vec<Values>)| {
            let mut stream = slimtau_base::stream(self.options.seed, "supernet seeds", b as u64);
            let seeds = draw_counts(&mut stream, lists.len());
            let drawn = lists.iter().zip(seeds).filter(|(_, count)| *count > 0);
            let sum = drawn.map(|(&l, count)| Some(f64::from(count) * values[l][s]?));
            Some(sum.sum::<Option<f64>>()? / n - shift)
        };
        self.drawn.iter().filter(move |_| n > 0.0).enumerate().map(mean)
    }
}

/// One list sorted once, as a whole and by group.
struct List {
    whole: Arc<Ranked>,
    groups: Vec<Arc<Ranked>>,
}

impl List {
    fn new(list: &[f64], groups: &Groups) -> Self {
        Self { whole: Arc::new(Ranked::new(list)), groups: groups.ranked(list) }
    }

    fn with(&self, truth: &Self) -> Pairs {
        Pairs {
            whole: RankedPairs::of(self.whole.clone(), truth.whole.clone()),
            groups: Groups::pairs(&self.groups, &truth.groups),
        }
    }
}

/// A list paired with the truth.
struct Pairs {
    whole: RankedPairs,
    groups: Vec<RankedPairs>,
}

impl Pairs {
    fn values(&self, counts: &Counts) -> Values {
        let all = self.whole.correlations(&counts.whole);
        let within = stratified_tau(&self.groups, &counts.groups);
        [all.kendall_tau, all.pearson, all.spearman, within]
    }
}

/// How often every architecture counts.
struct Counts {
    whole: Vec<u32>,
    groups: Vec<Vec<u32>>,
}

impl Counts {
    fn new(whole: Vec<u32>, groups: &Groups) -> Self {
        let by_group = groups.gather(&whole);
        Self { whole, groups: by_group }
    }
}

/// For every architecture the mean of as many of its replicates as it has, drawn with replacement.
fn drawn_truth(stream: &mut Stream, replicates: &[Vec<f64>]) -> Vec<f64> {
    let k = replicates.len();
    let mean = |i: usize| {
        let sum: f64 = (0..k).map(|_| replicates[stream.random_range(0..k)][i]).sum();
        rounded(sum / k as f64)
    };
    (0..replicates[0].len()).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bootstrap, correlations, kendall_tau_within, paired_bootstrap};

    const N: usize = 60;

    /// A fixed sequence in [-1, 1) that looks random.
    fn jitter(i: usize, j: usize) -> f64 {
        ((i * 7919 + j * 104_729 + i * j * 31) % 1009) as f64 / 504.5 - 1.0
    }

    fn noisy(noise: f64, seed: usize) -> Vec<f64> {
        (0..N).map(|i| i as f64 / 6.0 + noise * jitter(i, seed)).collect()
    }

    fn groups() -> Vec<usize> {
        (0..N).map(|i| i / 20).collect()
    }

    const OPTIONS: Bootstrap = Bootstrap { resamples: 2000, level: 0.95, seed: 5 };

    #[test]
    fn points_are_those_of_the_single_statistics() {
        let replicates = [noisy(1.0, 1), noisy(1.0, 2)];
        let truth = mean_of_replicates(&replicates).unwrap();
        let lists = [noisy(2.0, 3), noisy(4.0, 4), vec![1.0; N]];
        let joint = JointBootstrap::new(&lists, &replicates, &groups(), &OPTIONS).unwrap();
        for (i, list) in lists.iter().enumerate() {
            let expect = correlations(list, &truth).unwrap();
            assert_eq!(joint.point(i, Statistic::KendallTau), expect.kendall_tau);
            assert_eq!(joint.point(i, Statistic::Pearson), expect.pearson);
            assert_eq!(joint.point(i, Statistic::Spearman), expect.spearman);
            let within = kendall_tau_within(list, &truth, &groups()).unwrap();
            assert_eq!(joint.point(i, Statistic::TauWithinGroups), within);
        }
        assert_eq!(joint.interval(&[2], Statistic::KendallTau), (None, 2000));
        assert_eq!(joint.mean(&[0, 2], Statistic::KendallTau), None);
        assert_eq!(joint.mean(&[], Statistic::KendallTau), None);
        assert_eq!(joint.interval(&[], Statistic::KendallTau), (None, 2000));
    }

    /// Without replicates and seeds there is nothing to draw but architectures.
    #[test]
    fn agrees_with_the_simple_bootstraps_where_they_apply() {
        let truth = noisy(1.0, 1);
        let lists = [noisy(3.0, 2), noisy(6.0, 3)];
        let options = Bootstrap { resamples: 8000, ..OPTIONS };
        let joint = JointBootstrap::new(&lists, std::slice::from_ref(&truth), &groups(), &options);
        let joint = joint.unwrap();
        let close = |a: Interval, b: Interval| {
            // Monte Carlo error of either end is about 0.003.
            assert!(
                (a.low - b.low).abs() < 0.015 && (a.high - b.high).abs() < 0.015,
                "{a:?} {b:?}"
            );
        };
        let single = bootstrap(&lists[0], &truth, &options).unwrap();
        close(joint.interval(&[0], Statistic::KendallTau).0.unwrap(), single.kendall_tau.unwrap());
        close(joint.interval(&[0], Statistic::Pearson).0.unwrap(), single.pearson.unwrap());
        let pair = paired_bootstrap(&lists[..1], &lists[1..], &truth, &options).unwrap();
        let found = joint.difference(&[0], &[1]).unwrap();
        assert_eq!(found.difference, pair.difference);
        close(found.interval.unwrap(), pair.interval.unwrap());
    }

    #[test]
    fn drawing_replicates_widens_but_does_not_move_intervals() {
        let replicates = [noisy(2.0, 1), noisy(2.0, 2), noisy(2.0, 3)];
        let mean = mean_of_replicates(&replicates).unwrap();
        let list = vec![noisy(2.0, 9)];
        let run = |replicates: &[Vec<f64>]| {
            let joint = JointBootstrap::new(&list, replicates, &groups(), &OPTIONS).unwrap();
            joint.interval(&[0], Statistic::KendallTau).0.unwrap()
        };
        let (drawn, kept) = (run(&replicates), run(std::slice::from_ref(&mean)));
        assert!(drawn.high - drawn.low >= kept.high - kept.low, "{drawn:?} {kept:?}");
        let middle = |i: Interval| (i.low + i.high) / 2.0;
        assert!((middle(drawn) - middle(kept)).abs() < 0.01, "{drawn:?} {kept:?}");
    }

    #[test]
    fn seeds_that_disagree_widen_the_interval() {
        let truth = noisy(0.0, 0);
        let reversed: Vec<f64> = truth.iter().rev().copied().collect();
        let joint =
            JointBootstrap::new(&[truth.clone(), reversed], &[truth], &groups(), &OPTIONS).unwrap();
        let wide = joint.interval(&[0, 1], Statistic::KendallTau).0.unwrap();
        assert_eq!((wide.low, wide.high), (-1.0, 1.0));
        let narrow = joint.interval(&[0, 0], Statistic::KendallTau).0.unwrap();
        assert_eq!((narrow.low, narrow.high), (1.0, 1.0));
        let same = joint.difference(&[0, 1], &[0, 1]).unwrap();
        assert_eq!((same.difference, same.p_value), (Some(0.0), Some(1.0)));
        let clear = joint.difference(&[0, 0], &[1, 1]).unwrap();
        assert!(clear.p_value.unwrap() < 0.002, "{clear:?}");
        assert!(joint.difference(&[0], &[0, 1]).is_err() && joint.difference(&[], &[]).is_err());
    }

    #[test]
    fn bad_lists_are_refused() {
        let check =
            |lists: &[Vec<f64>], replicates: &[Vec<f64>], groups: &[usize], needle: &str| {
                let found = JointBootstrap::new(lists, replicates, groups, &OPTIONS).err().unwrap();
                assert!(found.to_string().contains(needle), "{found}");
            };
        check(&[], &[], &[], "replicates of the truth is 0");
        check(&[vec![1.0]], &[vec![1.0, 2.0]], &[0, 0], "list 0 of predictions holds 1");
        check(&[], &[vec![1.0, 2.0], vec![1.0]], &[0, 0], "replicate 1");
        check(&[], &[vec![1.0, f64::NAN]], &[0, 0], "NaN");
        check(&[], &[vec![1.0, 2.0]], &[0], "groups");
    }
}
