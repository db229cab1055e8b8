//! The findings in plain words, made from the numbers and from nothing else. They claim no more than
//! the intervals allow, and say so when a quantity that needs no training ranks as well.

use super::{Comparison, Ranking, Report, Verdict};
use slimtau_ranking::Interval;

/// Below this many architectures intervals by resampling are themselves unreliable.
pub(super) const FEW_ARCHITECTURES: usize = 20;

/// The paragraph of findings, sentence by sentence.
pub(super) fn findings(report: &Report) -> Vec<String> {
    let mut sentences = Vec::new();
    match report.methods.first() {
        None => sentences.push("This run ranked no architectures.".to_owned()),
        Some(method) => {
            sentences.push(ranks(method));
            sentences.extend(picks(method));
            sentences.extend(baseline(report, method));
        }
    }
    sentences.extend(report.methods.iter().skip(1).map(ranks));
    sentences.extend(compared(&report.comparisons));
    sentences.extend(ceiling(report));
    sentences.extend(cautions(report));
    sentences
}

/// A number with its interval.
pub(super) fn with_interval(value: f64, interval: Option<Interval>, level: f64) -> String {
    let level = 100.0 * level;
    match interval {
        Some(Interval { low, high }) => {
            format!("{value:.3} ({level:.0} % interval {low:.3} to {high:.3})")
        }
        None => format!("{value:.3} (no interval: every resample was degenerate)"),
    }
}

fn tau_with_interval(ranking: &Ranking) -> Option<String> {
    let tau = ranking.correlations.kendall_tau?;
    let intervals = &ranking.intervals;
    Some(with_interval(tau, intervals.kendall_tau, intervals.bootstrap.level))
}

fn ranks(method: &Ranking) -> String {
    let (name, n) = (&method.name, method.correlations.n);
    let Some(tau) = tau_with_interval(method) else {
        return format!(
            "How well {name} ranks cannot be said: with {n} architectures, or with one of the lists \
             constant, Kendall's tau is undefined."
        );
    };
    let mut text = format!(
        "Over {n} architectures, the accuracy inherited under {name} ranks stand-alone accuracy with a \
         Kendall tau of {tau}."
    );
    if method.intervals.kendall_tau.is_some_and(|interval| interval.contains(0.0)) {
        text +=
            " The interval contains 0: these architectures do not show that it ranks them at all.";
    }
    text
}

fn picks(method: &Ranking) -> Option<String> {
    let regret = method.regret?;
    let top = method.top_k.map_or(String::new(), |top| {
        format!(
            ", and {:.0} % of its best {} are among the truly best {}",
            100.0 * top.precision,
            top.k,
            top.k
        )
    });
    Some(if regret > 0.0 {
        format!(
            "The architecture it puts first is {regret:.2} percentage points below the best one{top}."
        )
    } else {
        format!("The architecture it puts first is the best one{top}.")
    })
}

/// The best quantity that needs no training, set against the method.
fn baseline(report: &Report, method: &Ranking) -> Option<String> {
    let tau = |ranking: &Ranking| ranking.correlations.kendall_tau;
    let defined = report.baselines.iter().filter(|b| tau(b).is_some());
    let best = defined.max_by(|a, b| tau(a).partial_cmp(&tau(b)).expect("both are defined"))?;
    let (value, interval) = (tau(best)?, tau_with_interval(best)?);
    let n_as_good = report.baselines.iter().filter(|b| tau(b) >= tau(method)).count();
    let name = &best.name;
    Some(match tau(method) {
        Some(own) if value < own => format!(
            "The best of the baselines that need no training, {name}, reaches {interval}, {:.3} less.",
            own - value
        ),
        _ => format!(
            "{} of {} baselines that need no training rank as well or better: the best, {name}, reaches \
             {interval}. On these architectures the supernet adds nothing to it.",
            n_as_good,
            report.baselines.len()
        ),
    })
}

/// What the paired comparisons establish, one sentence each, and what they leave open, in one.
fn compared(comparisons: &[Comparison]) -> Vec<String> {
    let (mut sentences, mut open) = (Vec::new(), Vec::new());
    for comparison in comparisons {
        let Comparison { a, b, difference, adjusted_p_value } = comparison;
        let p = adjusted_p_value.map_or(String::new(), |p| format!("p = {p:.3}"));
        let (better, worse) = match comparison.verdict() {
            Verdict::Better => (a, b),
            Verdict::Worse => (b, a),
            Verdict::Open => {
                open.push(format!("{a} and {b} ({p})").replace(" ()", ""));
                continue;
            }
            Verdict::Undefined => {
                sentences.push(format!("{a} and {b} cannot be compared: a tau is undefined."));
                continue;
            }
        };
        let (value, level) = (difference.difference.unwrap_or(0.0), difference.bootstrap.level);
        sentences.push(format!(
            "{better} ranks better than {worse}: the tau of {a} minus that of {b} is {}, {p} after Holm's \
             correction.",
            with_interval(value, difference.interval, level)
        ));
    }
    if !open.is_empty() {
        sentences.push(format!(
            "The paired comparisons do not establish a difference, after Holm's correction, between {}.",
            open.join(", ")
        ));
    }
    if comparisons.iter().any(|c| c.difference.n_seeds == 1) {
        sentences.push(
            "Comparisons rest on one training run of each, so they say nothing about other seeds."
                .to_owned(),
        );
    }
    sentences
}

fn ceiling(report: &Report) -> Option<String> {
    if report.subnets.is_empty() {
        return None;
    }
    let repeated = report.noise_ceiling.filter(|c| c.n_replicates > 1);
    let Some(ceiling) = repeated else {
        return Some(
            "Every architecture was trained alone once, so how far its own training noise limits any \
             ranking is not known."
                .to_owned(),
        );
    };
    let n = ceiling.n_replicates;
    Some(match ceiling.mean_tau {
        Some(tau) => format!(
            "Stand-alone training ranks itself with a tau of {tau:.3} from one seed to another (mean over \
             {n} seeds): about what a perfect predictor could reach against a single seed."
        ),
        None => "How well stand-alone training ranks itself is undefined: a replicate is constant."
            .to_owned(),
    })
}

fn cautions(report: &Report) -> Vec<String> {
    let mut cautions = Vec::new();
    let n = report.methods.first().map_or(0, |m| m.correlations.n);
    if (1..FEW_ARCHITECTURES).contains(&n) {
        cautions.push(format!(
            "{n} architectures are few: the intervals are wide, and approximate themselves."
        ));
    }
    for ranking in report.methods.iter().chain(&report.baselines) {
        let (degenerate, all) =
            (ranking.intervals.degenerate, ranking.intervals.bootstrap.resamples);
        // A baseline that is constant altogether has its own row of dashes; that is no news here.
        if degenerate > 0 && ranking.correlations.kendall_tau.is_some() {
            cautions.push(format!(
                "{degenerate} of {all} resamples for {} were constant and are left out of its intervals.",
                ranking.name
            ));
        }
    }
    cautions
}
