//! The experiment's tables as rows of cells, for the page and for Markdown alike.

use super::super::format::{NONE, interval, or_none};
use super::super::{Comparison, Verdict};
use super::findings::plural;
use super::input::{Experiment, Group, Row};
use super::results::{Estimate, Results, Score};

/// One table: its head and its rows. The first column is text, and so are those named in `text`.
pub(super) struct Table {
    pub(super) head: Vec<String>,
    pub(super) text: Vec<usize>,
    pub(super) rows: Vec<Line>,
}

/// A row of a table.
pub(super) enum Line {
    /// A heading over the rows that follow.
    Heading(&'static str),
    /// Cells, each with its small print or none.
    Cells(Vec<(String, String)>),
}

fn plain(text: impl Into<String>) -> (String, String) {
    (text.into(), String::new())
}

/// The rows with their results by group, in the order of the groups; empty groups are left out.
pub(super) fn grouped<'a>(
    experiment: &'a Experiment,
    results: &'a Results,
) -> Vec<(&'static str, Vec<(&'a Row, &'a Score)>)> {
    let rows = |group| {
        let rows = experiment.rows.iter().zip(&results.rows);
        rows.filter(|(row, _)| row.group == group).collect::<Vec<_>>()
    };
    let groups = Group::ALL.into_iter().map(|group| (group.name(), rows(group)));
    groups.filter(|(_, rows)| !rows.is_empty()).collect()
}

/// `0.512` and, small, its interval.
fn with_interval(e: &Estimate) -> (String, String) {
    let small = if e.mean.is_some() { interval(e.interval) } else { String::new() };
    (or_none(e.mean, 3), small)
}

/// Finished of planned seeds.
fn n_seeds(score: &Score, results: &Results) -> String {
    let (n, planned) = (score.seeds.len(), results.n_planned_seeds);
    if n == planned { n.to_string() } else { format!("{n} of {planned}") }
}

/// Heads as a table has them.
fn heads(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// One of the paper's tables with the paper's numbers; `None` without its rows.
pub(super) fn paper(experiment: &Experiment, results: &Results, group: Group) -> Option<Table> {
    let rows = experiment.rows.iter().zip(&results.rows).filter(|(row, _)| row.group == group);
    let line = |(row, score): (&Row, &Score)| {
        Line::Cells(vec![
            plain(&row.name),
            plain(or_none(row.paper_tau, 3)),
            with_interval(&score.tau),
            plain(or_none(score.tau.std, 3)),
            plain(n_seeds(score, results)),
        ])
    };
    let rows: Vec<Line> = rows.map(line).collect();
    let head = heads(&["method", "tau, paper", "tau, here", "std over seeds", "seeds"]);
    (!rows.is_empty()).then_some(Table { head, text: vec![], rows })
}

/// Every row by group, and the quantities that need no training.
pub(super) fn all(experiment: &Experiment, results: &Results) -> Table {
    let cells = |name: (String, String), score: &Score, n: String| {
        let best = results.against_best_baseline.iter().find(|c| c.a == score.name);
        let against = match best {
            Some(c) => (signed(c.difference.difference), verdict(c).to_owned()),
            None => plain(NONE),
        };
        Line::Cells(vec![
            name,
            with_interval(&score.tau),
            (n, score.tau.std.map_or(String::new(), |std| format!("std {std:.3}"))),
            against,
            with_interval(&score.tau_within_depth),
            with_interval(&score.spearman),
            with_interval(&score.pearson),
            plain(score.top_k.map_or(NONE.to_owned(), |t| format!("{:.0} %", 100.0 * t.precision))),
            plain(or_none(score.regret, 2)),
        ])
    };
    let mut rows = Vec::new();
    for (group, members) in grouped(experiment, results) {
        rows.push(Line::Heading(group));
        for (row, score) in members {
            let name = (row.name.clone(), row.about.clone());
            rows.push(cells(name, score, n_seeds(score, results)));
        }
    }
    rows.push(Line::Heading("without training"));
    for score in &results.baselines {
        rows.push(cells(plain(&score.name), score, NONE.to_owned()));
    }
    let head = heads(&[
        "ranked by",
        "Kendall tau",
        "seeds",
        "minus best untrained",
        "tau within depth",
        "Spearman",
        "Pearson",
        "top-k precision",
        "regret, points",
    ]);
    Table { head, text: vec![], rows }
}

/// Tau of every supernet by itself.
pub(super) fn every_seed(experiment: &Experiment, results: &Results) -> Table {
    let mut rows = Vec::new();
    for (group, members) in grouped(experiment, results) {
        rows.push(Line::Heading(group));
        for (row, score) in members {
            let tau = |seed: &u64| score.seeds.iter().find(|s| s.seed == Some(*seed))?.tau;
            let mut cells = vec![plain(&row.name)];
            cells.extend(experiment.supernet_seeds.iter().map(|s| plain(or_none(tau(s), 3))));
            cells.push(plain(or_none(score.tau.mean, 3)));
            cells.push(plain(or_none(score.tau.std, 3)));
            rows.push(Line::Cells(cells));
        }
    }
    let mut head = heads(&["Kendall tau of"]);
    head.extend(experiment.supernet_seeds.iter().map(|seed| format!("seed {seed}")));
    head.extend(heads(&["mean", "std"]));
    Table { head, text: vec![], rows }
}

fn signed(value: Option<f64>) -> String {
    value.map_or(NONE.to_owned(), |v| format!("{v:+.3}"))
}

/// What a comparison with the best baseline establishes, in a word or two.
fn verdict(comparison: &Comparison) -> &'static str {
    match comparison.verdict() {
        Verdict::Better => "beats it",
        Verdict::Worse => "worse",
        Verdict::Open if comparison.difference.difference > Some(0.0) => "higher, not shown",
        Verdict::Open => "not higher",
        Verdict::Undefined => "undefined",
    }
}

/// Comparisons as they are.
pub(super) fn comparisons<'a>(comparisons: impl Iterator<Item = &'a Comparison>) -> Table {
    let line = |c: &Comparison| {
        let d = &c.difference;
        let established = match c.verdict() {
            Verdict::Better => format!("{} better", c.a),
            Verdict::Worse => format!("{} better", c.b),
            Verdict::Open => "no difference shown".to_owned(),
            Verdict::Undefined => "undefined".to_owned(),
        };
        let p = |p: Option<f64>| p.map_or(NONE.to_owned(), p_value);
        Line::Cells(vec![
            plain(&c.a),
            plain(&c.b),
            plain(signed(d.difference)),
            plain(interval(d.interval)),
            plain(p(d.p_value)),
            plain(p(c.adjusted_p_value)),
            plain(d.n_seeds.to_string()),
            plain(established),
        ])
    };
    let head = heads(&[
        "tau of",
        "minus tau of",
        "difference",
        "interval",
        "p",
        "p, Holm",
        "seeds",
        "result",
    ]);
    Table { head, text: vec![1, 7], rows: comparisons.map(line).collect() }
}

fn p_value(p: f64) -> String {
    if p < 0.001 { format!("{p:.4}") } else { format!("{p:.3}") }
}

/// Tau within the groups together and in each by itself.
pub(super) fn within_depth(experiment: &Experiment, results: &Results) -> Table {
    const GROUPS: [&str; 4] = ["1st group", "2nd group", "3rd group", "4th group"];
    let n_groups = results.depth_groups.len().min(GROUPS.len());
    let cells = |score: &Score| {
        let mut cells = vec![
            plain(&score.name),
            with_interval(&score.tau),
            with_interval(&score.tau_within_depth),
        ];
        cells.extend(score.tau_by_depth.iter().take(n_groups).map(|t| plain(or_none(*t, 3))));
        Line::Cells(cells)
    };
    let mut rows = Vec::new();
    for (group, members) in grouped(experiment, results) {
        rows.push(Line::Heading(group));
        rows.extend(members.iter().map(|(_, score)| cells(score)));
    }
    rows.push(Line::Heading("without training"));
    rows.extend(results.baselines.iter().map(cells));
    let mut head = heads(&["ranked by", "tau, all pairs", "tau within groups"]);
    head.extend(heads(&GROUPS[..n_groups]));
    Table { head, text: vec![], rows }
}

/// `1st: 8 to 11 blocks (24 architectures), ...`.
pub(super) fn depth_legend(results: &Results) -> String {
    let groups = results.depth_groups.iter().enumerate();
    let label = |(i, g): (usize, &super::results::CountedGroup)| {
        let ordinal = ["1st", "2nd", "3rd", "4th"].get(i).copied().unwrap_or("next");
        format!("{ordinal}: {} ({} architectures)", g.depths.label(), g.n)
    };
    groups.map(label).collect::<Vec<_>>().join("; ")
}

/// What every interval rests on, in words.
pub(super) fn method_of_intervals(experiment: &Experiment, results: &Results) -> Vec<String> {
    let b = &results.bootstrap;
    let n_replicates = results.truth.reliability.n_replicates;
    let mut sentences = vec![format!(
        "Tau is tau-b, a mean over supernet seeds, against the mean of {} per architecture. Intervals are {:.0} % percentile intervals of {} bootstrap resamples \
         (seed {}). Each resample draws with replacement the {} architectures (the same for all methods) and \
         the supernet seeds of a method (the same for methods with equally many).",
        plural(n_replicates, "stand-alone training"),
        100.0 * b.level,
        b.resamples,
        b.seed,
        experiment.architectures.len()
    )];
    sentences.push(if n_replicates > 1 {
        format!(
            "It also draws, for every architecture by itself, {n_replicates} of its {n_replicates} \
             stand-alone trainings with replacement and ranks against their mean. That alone makes the truth \
             noisier and every tau lower than it is, so its mean effect, measured on the same resamples, is \
             taken off again; what is left of it widens the intervals. Intervals of the noise ceiling draw \
             architectures only, each with all its trainings."
        )
    } else {
        "There is one stand-alone training per architecture and nothing to draw among them; their noise \
         varies with the architectures that are drawn."
            .to_owned()
    });
    sentences.push(
        "A difference counts as shown where its interval excludes 0 and its p-value after Holm's correction \
         is at most 1 - level; the planned comparisons, those with the best untrained quantity, and the \
         paper's pairs are one family each, each held at that by itself. All accuracies are of the same validation \
         images, which are not resampled. Which untrained quantity is best is decided on the same data, \
         which favours it."
            .to_owned(),
    );
    sentences.push(format!(
        "Top-k precision, k = {}: the share of the truly best k among the predicted best k. Regret: by how \
         many percentage points the architecture ranked first lies below the best. Both are means over seeds.",
        results.k
    ));
    sentences
}
