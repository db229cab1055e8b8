//! The findings of paired comparisons, in plain words.

use super::super::findings::with_interval;
use super::super::{Comparison, Verdict};
use super::findings::{listed, plural};
use super::input::{Experiment, Group};
use super::results::Results;

fn names(comparisons: &[Comparison], verdict: Verdict) -> Vec<&str> {
    let found = comparisons.iter().filter(|c| c.verdict() == verdict);
    found.map(|c| c.a.as_str()).collect()
}

/// Who beats the best quantity that needs no training, who is not shown to, and who does not.
pub(super) fn against_best_baseline(results: &Results) -> Vec<String> {
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
            "{} {} not beat {}, which needs no training: {} mean tau is no higher.",
            listed(&not_even),
            if not_even.len() == 1 { "does" } else { "do" },
            best.name,
            if not_even.len() == 1 { "its" } else { "their" }
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
pub(super) fn paper_order(experiment: &Experiment, results: &Results) -> Vec<String> {
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
        let said = broken.iter().map(|pair| {
            let (c, d) = (&pair.comparison, &pair.comparison.difference);
            let value = with_interval(d.difference.unwrap_or(0.0), d.interval, d.bootstrap.level);
            format!("{} minus {} is {value}", c.a, c.b)
        });
        let said: Vec<String> = said.collect();
        let reversed = broken.iter().filter(|p| p.comparison.verdict() == Verdict::Worse);
        let reversed: Vec<String> =
            reversed.map(|p| format!("{} over {}", p.comparison.b, p.comparison.a)).collect();
        sentences.push(format!(
            "{table} does not hold here{}: {}. Of what is the other way round, {}.",
            if n == 1 { String::new() } else { format!(" in {} of {n} pairs", broken.len()) },
            said.join("; "),
            if reversed.is_empty() {
                "nothing is established after Holm's correction".to_owned()
            } else {
                format!("established after Holm's correction: {}", reversed.join(", "))
            }
        ));
    }
    sentences
}

/// What the planned comparisons establish, one sentence, and what they leave open, in another.
pub(super) fn planned(results: &Results) -> Vec<String> {
    let (mut shown, mut undefined) = (Vec::new(), Vec::new());
    let mut n_open = 0;
    for c in &results.comparisons {
        let value = c.difference.difference.unwrap_or(0.0);
        match c.verdict() {
            Verdict::Better => shown.push(format!("{} over {} (by {value:.3})", c.a, c.b)),
            Verdict::Worse => shown.push(format!("{} over {} (by {:.3})", c.b, c.a, -value)),
            Verdict::Open => n_open += 1,
            Verdict::Undefined => undefined.push(format!("{} and {}", c.a, c.b)),
        }
    }
    let mut sentences = Vec::new();
    let n = plural(results.comparisons.len(), "planned comparison");
    if !shown.is_empty() {
        let rest = match n_open {
            0 => String::new(),
            n => format!("; {n} leave open which ranks better"),
        };
        sentences.push(format!(
            "Of {n}, {} establish a difference after Holm's correction: {}{rest}.",
            shown.len(),
            shown.join(", ")
        ));
    } else if n_open > 0 {
        sentences.push(format!("Of {n}, none establishes a difference after Holm's correction."));
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
