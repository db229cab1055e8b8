//! Every statistic of an experiment.

use super::super::depth::{DepthGroup, depth_groups, group_of};
use super::super::{TopK, correct};
use super::comparisons::{Lists, compare, default_pairs, is_repeated, paper_order, planned};
use super::input::{Architecture, Experiment, Row, Seconds};
use super::results::{CountedGroup, Estimate, Results, Score, SeedScore, Truth};
use slimtau_ranking::{
    Bootstrap, JointBootstrap, Statistic, StatisticsError, agreement_between_replicates,
    agreement_with_the_rest, kendall_tau, kendall_tau_within, mean_of_replicates, quantile, regret,
    reliability, top_k_precision,
};

/// The quantities that need no training, by name.
pub(super) const BASELINES: [&str; 6] =
    ["parameters", "MACs", "depth", "Phi_M", "Phi_F", "width sum"];

/// One list of predictions in canonical order.
struct List {
    seed: Option<u64>,
    values: Vec<f64>,
    training: Vec<(u64, Option<f64>)>,
}

/// What every list is judged against, architectures sorted by code: so neither draws nor sums depend
/// on the order in which they are given.
struct Bench {
    truth: Vec<f64>,
    groups: Vec<usize>,
    n_groups: usize,
    k: usize,
}

impl Results {
    /// Computes everything; `experiment` is checked already.
    ///
    /// # Errors
    /// When the bootstrap's options are out of range.
    pub fn new(experiment: &Experiment) -> Result<Self, StatisticsError> {
        let mut order: Vec<usize> = (0..experiment.architectures.len()).collect();
        order.sort_by(|&i, &j| {
            experiment.architectures[i].code.cmp(&experiment.architectures[j].code)
        });
        let archs: Vec<&Architecture> =
            order.iter().map(|&i| &experiment.architectures[i]).collect();
        let n_replicates = archs.first().map_or(0, |a| a.stand_alone.len());
        let replicates: Vec<Vec<f64>> =
            (0..n_replicates).map(|r| archs.iter().map(|a| a.stand_alone[r]).collect()).collect();
        let depths = depth_groups(archs.iter().map(|a| a.depth));
        let bench = Bench {
            truth: mean_of_replicates(&replicates)?,
            groups: archs.iter().map(|a| group_of(&depths, a.depth)).collect(),
            n_groups: depths.len(),
            k: archs.len().div_ceil(10),
        };
        let options = &experiment.bootstrap;

        let sorted = |values: &[f64]| order.iter().map(|&i| values[i]).collect::<Vec<f64>>();
        let mut methods: Vec<(String, Option<&Row>, Vec<List>)> = Vec::new();
        for row in &experiment.rows {
            let mut lists = Vec::new();
            for result in &row.seeds {
                let tau = |list: &[f64]| kendall_tau(&sorted(list), &bench.truth);
                let training: Result<Vec<_>, StatisticsError> =
                    result.checkpoints.iter().map(|c| Ok((c.images, tau(&c.inherited)?))).collect();
                let values = sorted(&result.inherited);
                lists.push(List { seed: Some(result.seed), values, training: training? });
            }
            lists.sort_by_key(|list| list.seed);
            methods.push((row.name.clone(), Some(row), lists));
        }
        for (name, values) in BASELINES.iter().zip(baselines(&archs)) {
            let list = List { seed: None, values, training: Vec::new() };
            methods.push(((*name).to_owned(), None, vec![list]));
        }
        let all = methods.iter().flat_map(|(_, _, lists)| lists.iter().map(|l| l.values.clone()));
        let joint =
            JointBootstrap::new(&all.collect::<Vec<_>>(), &replicates, &bench.groups, options)?;

        let (mut rankings, mut scores, mut next) = (Vec::new(), Vec::new(), 0);
        for (name, row, lists) in &methods {
            let ids: Vec<usize> = (next..next + lists.len()).collect();
            next += lists.len();
            let seeds = lists.iter().map(|l| l.seed).zip(ids.iter().copied()).collect();
            rankings.push(Lists { name: name.clone(), lists: seeds });
            scores.push(score(name, *row, lists, &ids, &joint, &bench)?);
        }
        let baselines = scores.split_off(experiment.rows.len());
        let mut best_baseline: Option<usize> = None;
        for (i, baseline) in baselines.iter().enumerate() {
            // The first of equals, so that the result is one.
            let best = best_baseline.and_then(|b| baselines[b].tau.mean);
            if baseline.tau.mean.is_some_and(|tau| best.is_none_or(|best| tau > best)) {
                best_baseline = Some(i);
            }
        }
        let mut against_best_baseline = Vec::new();
        let (row_lists, baseline_lists) = rankings.split_at(experiment.rows.len());
        for (i, lists) in row_lists.iter().enumerate() {
            let Some(best) = best_baseline.filter(|_| !is_repeated(&experiment.rows, i)) else {
                continue;
            };
            against_best_baseline.extend(compare(&joint, lists, &baseline_lists[best])?);
        }
        correct(&mut against_best_baseline)?;
        let pairs = experiment.comparisons.clone();
        let pairs = pairs.unwrap_or_else(|| default_pairs(&experiment.rows));
        let (comparisons, not_compared) = planned(&joint, &rankings, &pairs)?;
        Ok(Self {
            bootstrap: *options,
            n_planned_seeds: experiment.supernet_seeds.len(),
            k: bench.k,
            depth_groups: counted(&depths, &bench.groups),
            truth: truth(&bench.truth, &replicates, options)?,
            rows: scores,
            baselines,
            best_baseline,
            comparisons,
            not_compared,
            against_best_baseline,
            paper_order: paper_order(&joint, &rankings, experiment)?,
        })
    }
}

fn baselines(archs: &[&Architecture]) -> [Vec<f64>; 6] {
    let column = |f: fn(&Architecture) -> f64| archs.iter().map(|a| f(a)).collect();
    [
        column(|a| a.params as f64),
        column(|a| a.macs as f64),
        column(|a| a.depth as f64),
        column(|a| a.phi_m),
        column(|a| a.phi_f),
        column(|a| a.width_sum),
    ]
}

fn counted(depths: &[DepthGroup], groups: &[usize]) -> Vec<CountedGroup> {
    let count = |i: usize| groups.iter().filter(|g| **g == i).count();
    let group = |(i, &depths): (usize, &DepthGroup)| CountedGroup { depths, n: count(i) };
    depths.iter().enumerate().map(group).collect()
}

fn truth(
    means: &[f64],
    replicates: &[Vec<f64>],
    options: &Bootstrap,
) -> Result<Truth, StatisticsError> {
    // Not empty: an experiment without architectures is refused.
    let at = |q| quantile(means, q).map(|v| v.unwrap_or(0.0));
    let percentiles = [at(0.05)?, at(0.5)?, at(0.95)?];
    Ok(Truth {
        n_architectures: means.len(),
        percentiles,
        spread: percentiles[2] - percentiles[0],
        reliability: reliability(replicates)?,
        between_replicates: agreement_between_replicates(replicates, options)?,
        with_the_rest: agreement_with_the_rest(replicates, options)?,
    })
}

fn score(
    name: &str,
    row: Option<&Row>,
    lists: &[List],
    ids: &[usize],
    joint: &JointBootstrap,
    bench: &Bench,
) -> Result<Score, StatisticsError> {
    let mut seeds = Vec::new();
    for (list, &id) in lists.iter().zip(ids) {
        seeds.push(SeedScore {
            seed: list.seed,
            tau: joint.point(id, Statistic::KendallTau),
            tau_within_depth: joint.point(id, Statistic::TauWithinGroups),
            pearson: joint.point(id, Statistic::Pearson),
            spearman: joint.point(id, Statistic::Spearman),
            top_k: top_k_precision(&list.values, &bench.truth, bench.k)?,
            regret: regret(&list.values, &bench.truth)?,
            training: list.training.clone(),
        });
    }
    let estimate = |statistic, values: Vec<Option<f64>>| {
        let (interval, degenerate) = joint.interval(ids, statistic);
        let (mean, std) = mean_and_std(&values);
        Estimate { mean, std, interval, degenerate }
    };
    let column = |f: fn(&SeedScore) -> Option<f64>| seeds.iter().map(f).collect::<Vec<_>>();
    let n = seeds.len() as f64;
    let top_k = mean_and_std(&column(|s| Some(s.top_k))).0;
    let mut tau_by_depth = Vec::new();
    for group in 0..bench.n_groups {
        let mut taus = Vec::new();
        for list in lists {
            let inside = |values: &[f64]| {
                let members = values.iter().zip(&bench.groups).filter(|(_, g)| **g == group);
                members.map(|(v, _)| *v).collect::<Vec<f64>>()
            };
            let truth = inside(&bench.truth);
            taus.push(kendall_tau_within(&inside(&list.values), &truth, &vec![0; truth.len()])?);
        }
        tau_by_depth.push(mean_and_std(&taus).0);
    }
    // By ascending seed, so that sums do not depend on the order given.
    let mut results: Vec<_> = row.map_or(&[][..], |row| &row.seeds).iter().collect();
    results.sort_by_key(|result| result.seed);
    let mean = |f: &dyn Fn(&Seconds) -> f64| results.iter().map(|r| f(&r.seconds)).sum::<f64>() / n;
    let seconds = Seconds {
        teacher: mean(&|s| s.teacher),
        moco: mean(&|s| s.moco),
        stage2: mean(&|s| s.stage2),
        evaluation: mean(&|s| s.evaluation),
    };
    let images = results.iter().map(|r| r.images as f64).sum::<f64>() / n;
    Ok(Score {
        name: name.to_owned(),
        tau: estimate(Statistic::KendallTau, column(|s| s.tau)),
        tau_within_depth: estimate(Statistic::TauWithinGroups, column(|s| s.tau_within_depth)),
        tau_by_depth,
        pearson: estimate(Statistic::Pearson, column(|s| s.pearson)),
        spearman: estimate(Statistic::Spearman, column(|s| s.spearman)),
        top_k: top_k.map(|precision| TopK { k: bench.k, precision }),
        regret: mean_and_std(&column(|s| s.regret)).0,
        seconds: (!results.is_empty()).then_some(seconds),
        images: (!results.is_empty()).then_some(images),
        seeds,
    })
}

/// Mean, and standard deviation over seeds; `None` where there is none or a value is undefined.
fn mean_and_std(values: &[Option<f64>]) -> (Option<f64>, Option<f64>) {
    let Some(values) = values.iter().copied().collect::<Option<Vec<f64>>>() else {
        return (None, None);
    };
    if values.is_empty() {
        return (None, None);
    }
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
    (Some(mean), (n > 1.0).then(|| (squares / (n - 1.0)).sqrt()))
}
