//! The findings in plain words, made from the numbers and from nothing else. They claim no more than the
//! intervals allow.

use super::super::findings::{FEW_ARCHITECTURES, with_interval};
use super::compared;
use super::input::Experiment;
use super::results::{Estimate, Results, Score};

/// Draws of fewer seeds than this say little about others.
const FEW_SEEDS: usize = 5;

/// The findings, sentence by sentence.
pub(super) fn findings(experiment: &Experiment, results: &Results) -> Vec<String> {
    let mut sentences = vec![setup(experiment, results)];
    sentences.extend(truth(results));
    sentences.extend(baseline(results));
    sentences.extend(highest(results));
    sentences.extend(not_above_zero(results));
    sentences.extend(compared::against_best_baseline(results));
    sentences.extend(compared::paper_order(experiment, results));
    sentences.extend(compared::planned(results));
    sentences.extend(within_depth(results));
    sentences.extend(cautions(experiment, results));
    sentences
}

/// `1 seed`, `3 seeds`.
pub(super) fn plural(n: usize, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") }
}

/// `a`, `a and b`, `a, b and c`.
pub(super) fn listed(names: &[&str]) -> String {
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
             others with {} (both lists are noisy there; what is judged against the mean of all may exceed it).",
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
    Some(format!(
        "Of the quantities that need no training none ranks better than {}, tau {tau}.",
        best.name
    ))
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

/// Supernets that give most architectures one accuracy, and whose tau comes from the few others.
fn collapsed(experiment: &Experiment, results: &Results) -> Vec<String> {
    let mut sentences = Vec::new();
    for (row, score) in experiment.rows.iter().zip(&results.rows) {
        for seed in &row.seeds {
            let mut sorted = seed.inherited.clone();
            sorted.sort_by(f64::total_cmp);
            let runs = sorted.chunk_by(|a, b| a == b);
            let Some(longest) = runs.max_by_key(|run| run.len()) else { continue };
            let (n, of) = (longest.len(), sorted.len());
            if 2 * n <= of {
                continue;
            }
            let tau = score.seeds.iter().find(|s| s.seed == Some(seed.seed)).and_then(|s| s.tau);
            let tau = tau.map_or_else(
                || "it has no tau, and neither has the mean".to_owned(),
                |tau| format!("its tau, {tau:.3}, comes from the others, and is in the mean"),
            );
            sentences.push(format!(
                "A supernet of {} (seed {}) has collapsed: {n} of its {of} subnets have the same accuracy, \
                 {:.2} %; {tau}.",
                row.name, seed.seed, longest[0]
            ));
        }
    }
    sentences
}

fn cautions(experiment: &Experiment, results: &Results) -> Vec<String> {
    let mut cautions = collapsed(experiment, results);
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
