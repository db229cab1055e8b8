//! The findings in plain words, made from the numbers and from nothing else. They claim no more than the
//! intervals allow.

use super::super::findings::{FEW_ARCHITECTURES, with_interval};
use super::super::{Comparison, Verdict};
use super::analysis::{Estimate, Results, Score};
use super::input::{Experiment, Group};

/// Draws of fewer seeds than this say little about others.
const FEW_SEEDS: usize = 5;

/// The findings, sentence by sentence.
pub(super) fn findings(experiment: &Experiment, results: &Results) -> Vec<String> {
    let mut sentences = vec![setup(experiment, results)];
    sentences.extend(truth(results));
    sentences.extend(baseline(results));
    sentences.extend(highest(results));
    sentences.extend(not_above_zero(results));
    sentences.extend(against_best_baseline(results));
    sentences.extend(paper_order(experiment, results));
    sentences.extend(planned(results));
    sentences.extend(within_depth(results));
    sentences.extend(cautions(results));
    sentences
}

/// `1 seed`, `3 seeds`.
pub(super) fn plural(n: usize, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") }
}

/// `a`, `a and b`, `a, b and c`.
fn listed(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

fn estimate(estimate: &Estimate, level: f64) -> Option<String> {
    Some(with_interval(estimate.mean?, estimate.interval, level))
}

fn setup(experiment: &Experiment, results: &Results) -> String {
    format!(
        "{}, each trained alone {}, judge {} under up to {}.",
        plural(results.truth.n_architectures, "architecture"),
        match results.truth.reliability.n_replicates {
            1 => "once".to_owned(),
            n => format!("{n} times"),
        },
        plural(experiment.rows.len(), "method"),
        plural(results.n_planned_seeds, "supernet seed")
    )
}

fn truth(results: &Results) -> Vec<String> {
    let truth = &results.truth;
    let mut sentences = vec![format!(
        "Between the 5th and the 95th percentile their stand-alone accuracy differs by {:.2} percentage \
         points (median {:.2} %).",
        truth.spread, truth.percentiles[1]
    )];
    let reliability = &truth.reliability;
    if reliability.n_replicates < 2 {
        sentences.push(
            "Every architecture was trained alone once, so how far its own training noise limits any \
             ranking is not known."
                .to_owned(),
        );
        return sentences;
    }
    if let (Some(noise), Some(single), Some(mean)) =
        (reliability.noise, reliability.single, reliability.mean)
    {
        sentences.push(format!(
            "One training of an architecture strays from the next by a standard deviation of {noise:.2} \
             points; the estimated reliability is {single:.2} of a single training and {mean:.2} of the \
             mean of {}.",
            reliability.n_replicates
        ));
    }
    let level = results.bootstrap.level;
    let (between, rest) = (&truth.between_replicates, &truth.with_the_rest);
    sentences.push(match (between.mean_tau, rest.mean_tau) {
        (Some(tau), Some(rest_tau)) => format!(
            "The noise ceiling: one training ranks like another with a tau of {}, and like the mean of the \
             others with {}.",
            with_interval(tau, between.interval, level),
            with_interval(rest_tau, rest.interval, level)
        ),
        _ => "How well stand-alone training ranks itself is undefined: a replicate is constant."
            .to_owned(),
    });
    sentences
}

fn baseline(results: &Results) -> Option<String> {
    let Some(best) = results.best() else {
        return Some("No quantity that needs no training has a tau.".to_owned());
    };
    let tau = estimate(&best.tau, results.bootstrap.level)?;
    Some(format!("Of the quantities that need no training, {} ranks best, tau {tau}.", best.name))
}

fn highest(results: &Results) -> Option<String> {
    let defined = results.rows.iter().filter_map(|row| Some((row, row.tau.mean?)));
    let highest = defined.map(|(_, tau)| tau).max_by(f64::total_cmp);
    let Some(highest) = highest else {
        return Some("No method has a tau.".to_owned());
    };
    let best: Vec<&Score> =
        results.rows.iter().filter(|row| row.tau.mean == Some(highest)).collect();
    let mut names: Vec<&str> = best.iter().map(|row| row.name.as_str()).collect();
    names.sort_unstable();
    let tau = estimate(&best[0].tau, results.bootstrap.level)?;
    let verb = if names.len() == 1 { "has" } else { "have" };
    let caution = if results.rows.len() > 1 {
        "; which methods differ, only the paired comparisons say"
    } else {
        ""
    };
    Some(format!("Of the methods, {} {verb} the highest mean tau, {tau}{caution}.", listed(&names)))
}

fn not_above_zero(results: &Results) -> Option<String> {
    let unshown = |row: &&Score| row.tau.interval.is_some_and(|i| i.contains(0.0));
    let names: Vec<&str> =
        results.rows.iter().filter(unshown).map(|row| row.name.as_str()).collect();
    match names[..] {
        [] => None,
        [name] => Some(format!(
            "The interval of {name} contains 0: these data do not show that it ranks at all."
        )),
        _ => Some(format!(
            "The intervals of {} contain 0: these data do not show that any of them ranks at all.",
            listed(&names)
        )),
    }
}

fn names(comparisons: &[Comparison], verdict: Verdict) -> Vec<&str> {
    let found = comparisons.iter().filter(|c| c.verdict() == verdict);
    found.map(|c| c.a.as_str()).collect()
}

fn against_best_baseline(results: &Results) -> Vec<String> {
    let Some(best) = results.best() else { return Vec::new() };
    let comparisons = &results.against_best_baseline;
    let mut sentences = Vec::new();
    let better = names(comparisons, Verdict::Better);
    if !better.is_empty() {
        sentences.push(format!(
            "{} {} better than {} (paired, after Holm's correction).",
            listed(&better),
            if better.len() == 1 { "ranks" } else { "rank" },
            best.name
        ));
    }
    let below = |c: &&Comparison| c.difference.difference.is_some_and(|d| d <= 0.0);
    let open = |at_most: bool| {
        let open = comparisons.iter().filter(|c| c.verdict() == Verdict::Open);
        open.filter(|c| below(c) == at_most).map(|c| c.a.as_str()).collect::<Vec<_>>()
    };
    let (not_shown, not_even) = (open(false), open(true));
    if !not_shown.is_empty() {
        sentences.push(format!(
            "{} {} a higher tau than {}, but the data do not show that {} it.",
            listed(&not_shown),
            if not_shown.len() == 1 { "has" } else { "have" },
            best.name,
            if not_shown.len() == 1 { "it beats" } else { "they beat" }
        ));
    }
    if !not_even.is_empty() {
        sentences.push(format!(
            "{} {} not beat {}, which needs no training: here such a supernet adds nothing to it.",
            listed(&not_even),
            if not_even.len() == 1 { "does" } else { "do" },
            best.name
        ));
    }
    let worse = names(comparisons, Verdict::Worse);
    if !worse.is_empty() {
        sentences.push(format!(
            "{} {} worse than {}, which needs no training (paired, after Holm's correction).",
            listed(&worse),
            if worse.len() == 1 { "ranks" } else { "rank" },
            best.name
        ));
    }
    sentences
}

/// Where the paper's order of its tables does not hold here, and whether that is more than chance.
fn paper_order(experiment: &Experiment, results: &Results) -> Vec<String> {
    let mut sentences = Vec::new();
    for group in [Group::Table1, Group::Table2] {
        let pairs: Vec<_> = results.paper_order.iter().filter(|p| p.group == group).collect();
        let defined = pairs.iter().filter(|p| p.comparison.difference.difference.is_some());
        let n = defined.clone().count();
        if n == 0 {
            continue;
        }
        let mut rows: Vec<_> = experiment.rows.iter().filter(|r| r.group == group).collect();
        rows.retain(|row| row.paper_tau.is_some());
        rows.sort_by(|a, b| {
            b.paper_tau.partial_cmp(&a.paper_tau).unwrap_or(std::cmp::Ordering::Equal)
        });
        let order: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        let table = format!("The paper's order of {} ({})", group.name(), order.join(", "));
        let broken: Vec<_> = defined
            .filter(|p| p.comparison.difference.difference.is_some_and(|d| d <= 0.0))
            .collect();
        let established =
            pairs.iter().filter(|p| p.comparison.verdict() == Verdict::Better).count();
        if broken.is_empty() {
            sentences.push(format!(
                "{table} is also the order of the mean taus here; {} after Holm's correction.",
                match (established, n) {
                    (0, 1) => "the difference is not established".to_owned(),
                    (1, 1) => "the difference is established".to_owned(),
                    (e, n) => format!("{e} of its {n} pairs are established"),
                }
            ));
            continue;
        }
        let said: Vec<String> = broken
            .iter()
            .map(|pair| {
                let c = &pair.comparison;
                let d = &c.difference;
                let value =
                    with_interval(d.difference.unwrap_or(0.0), d.interval, d.bootstrap.level);
                let verdict = match c.verdict() {
                    Verdict::Worse => "the reverse is established",
                    _ => "not established either way",
                };
                format!("{} minus {} is {value}, {verdict}", c.a, c.b)
            })
            .collect();
        let pairs =
            if n == 1 { "".to_owned() } else { format!(" in {} of {n} pairs", broken.len()) };
        sentences.push(format!("{table} does not hold here{pairs}: {}.", said.join("; ")));
    }
    sentences
}

/// What the planned comparisons establish, one sentence, and what they leave open, in another.
fn planned(results: &Results) -> Vec<String> {
    let (mut shown, mut open) = (Vec::new(), Vec::new());
    let mut undefined = Vec::new();
    for c in &results.comparisons {
        let value = c.difference.difference.unwrap_or(0.0);
        match c.verdict() {
            Verdict::Better => shown.push(format!("{} over {} (by {value:.3})", c.a, c.b)),
            Verdict::Worse => shown.push(format!("{} over {} (by {:.3})", c.b, c.a, -value)),
            Verdict::Open => open.push(format!("{} and {}", c.a, c.b)),
            Verdict::Undefined => undefined.push(format!("{} and {}", c.a, c.b)),
        }
    }
    let mut sentences = Vec::new();
    let n = results.comparisons.len();
    if n > 0 {
        sentences.push(match shown.len() {
            0 => format!(
                "Of the {} none establishes a difference after Holm's correction.",
                plural(n, "planned comparison")
            ),
            _ => format!(
                "Of the {}, {} establish a difference after Holm's correction: {}.",
                plural(n, "planned comparison"),
                shown.len(),
                shown.join(", ")
            ),
        });
    }
    if !open.is_empty() && !shown.is_empty() {
        sentences.push(format!("They leave open which ranks better of {}.", open.join(", ")));
    }
    if !undefined.is_empty() {
        sentences
            .push(format!("A tau is undefined in the comparisons of {}.", undefined.join(", ")));
    }
    if !results.not_compared.is_empty() {
        let pairs = results.not_compared.iter().map(|p| format!("{} and {}", p.a, p.b));
        sentences.push(format!(
            "Not compared, since no supernet seed of both is finished: {}.",
            pairs.collect::<Vec<_>>().join(", ")
        ));
    }
    sentences
}

fn within_depth(results: &Results) -> Vec<String> {
    let mut sentences = Vec::new();
    if results.depth_groups.len() < 2 {
        return sentences;
    }
    let clear = |row: &&Score| row.tau.interval.is_some_and(|i| i.low > 0.0);
    let lost = |row: &&Score| row.tau_within_depth.interval.is_some_and(|i| i.contains(0.0));
    let names: Vec<&str> =
        results.rows.iter().filter(clear).filter(lost).map(|row| row.name.as_str()).collect();
    if !names.is_empty() {
        sentences.push(format!(
            "Among architectures of similar depth {} no longer shown to rank: {} interval within depth \
             groups contains 0.",
            if names.len() == 1 {
                format!("{} is", names[0])
            } else {
                format!("{} are", listed(&names))
            },
            if names.len() == 1 { "its" } else { "their" }
        ));
    }
    let within = results.rows.iter().filter_map(|r| Some((r, r.tau_within_depth.mean?)));
    if let Some((row, tau)) =
        within.max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.name.cmp(&a.0.name)))
    {
        let interval = row.tau_within_depth.interval;
        sentences.push(format!(
            "Within depth groups the highest mean tau is that of {}, {}.",
            row.name,
            with_interval(tau, interval, results.bootstrap.level)
        ));
    }
    sentences
}

fn cautions(results: &Results) -> Vec<String> {
    let mut cautions = Vec::new();
    let planned = results.n_planned_seeds;
    let unfinished: Vec<String> = results
        .rows
        .iter()
        .filter(|row| row.seeds.len() < planned)
        .map(|row| format!("{} ({} of {planned})", row.name, row.seeds.len()))
        .collect();
    if !unfinished.is_empty() {
        cautions.push(format!("Not all supernet seeds are finished: {}.", unfinished.join(", ")));
    }
    let undefined = results.rows.iter().filter(|r| !r.seeds.is_empty() && r.tau.mean.is_none());
    let undefined: Vec<&str> = undefined.map(|row| row.name.as_str()).collect();
    if !undefined.is_empty() {
        cautions.push(format!(
            "The tau of {} is undefined: a list of inherited accuracies, or the truth, is constant.",
            listed(&undefined)
        ));
    }
    let most = results.rows.iter().map(|row| row.seeds.len()).max().unwrap_or(0);
    if most == 1 {
        cautions.push(
            "With one supernet seed the intervals say nothing about other training runs."
                .to_owned(),
        );
    } else if (2..FEW_SEEDS).contains(&most) {
        cautions.push(format!(
            "Resampling {most} supernet seeds understates how far other seeds may lie; the standard \
             deviations over seeds stand beside the intervals."
        ));
    }
    let n = results.truth.n_architectures;
    if n < FEW_ARCHITECTURES {
        cautions.push(format!(
            "{n} architectures are few: the intervals are wide, and approximate themselves."
        ));
    }
    cautions
}
