//! Which rankings are set against each other: the planned comparisons, every row against the best
//! baseline, and the pairs whose order the paper gives.

use super::super::{Comparison, correct};
use super::analysis::BASELINES;
use super::input::{Experiment, Group, Planned, Row};
use serde::{Deserialize, Serialize};
use slimtau_ranking::{JointBootstrap, StatisticsError};

/// The lists of a ranking in the joint bootstrap, each with its supernet seed; one without for a
/// baseline.
#[derive(Clone, Debug)]
pub(super) struct Lists {
    pub(super) name: String,
    pub(super) lists: Vec<(Option<u64>, usize)>,
}

/// Two rows of one of the paper's tables, of which the paper puts one higher.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PaperPair {
    /// The table.
    pub group: Group,
    /// By how much the paper's tau of the first is above that of the second.
    pub paper_difference: f64,
    /// The two here, the paper's higher one first.
    pub comparison: Comparison,
}

/// The comparison of two rankings over the seeds that both have; `None` without one.
pub(super) fn compare(
    joint: &JointBootstrap,
    a: &Lists,
    b: &Lists,
) -> Result<Option<Comparison>, StatisticsError> {
    let mut pairs = Vec::new();
    for &(seed_a, list_a) in &a.lists {
        for &(seed_b, list_b) in &b.lists {
            // A baseline is the same under every seed.
            if seed_a == seed_b || seed_a.is_none() || seed_b.is_none() {
                pairs.push((list_a, list_b));
            }
        }
    }
    let (lists_a, lists_b): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
    if lists_a.is_empty() {
        return Ok(None);
    }
    let difference = joint.difference(&lists_a, &lists_b)?;
    let (a, b) = (a.name.clone(), b.name.clone());
    Ok(Some(Comparison { a, b, difference, adjusted_p_value: None }))
}

/// Compares the named pairs, Holm-corrected over those that can be compared; the second list is the
/// others: a row of theirs has no result, or the two have no seed in common.
pub(super) fn planned(
    joint: &JointBootstrap,
    rankings: &[Lists],
    pairs: &[Planned],
) -> Result<(Vec<Comparison>, Vec<Planned>), StatisticsError> {
    let (mut done, mut left) = (Vec::new(), Vec::new());
    let find = |name: &str| rankings.iter().find(|r| r.name == name);
    for pair in pairs {
        let compared = match find(&pair.a).zip(find(&pair.b)) {
            Some((a, b)) => compare(joint, a, b)?,
            None => None,
        };
        match compared {
            Some(comparison) => done.push(comparison),
            None => left.push(pair.clone()),
        }
    }
    correct(&mut done)?;
    Ok((done, left))
}

/// Whether a row's data are an earlier row's, under another name: the supernets of the whole method stand
/// in both of the paper's tables. Such a row is not compared a second time.
pub(super) fn is_repeated(rows: &[Row], i: usize) -> bool {
    let data = |row: &Row| {
        let mut data: Vec<(u64, Vec<f64>)> =
            row.seeds.iter().map(|s| (s.seed, s.inherited.clone())).collect();
        data.sort_by_key(|(seed, _)| *seed);
        data
    };
    !rows[i].seeds.is_empty() && rows[..i].iter().any(|row| data(row) == data(&rows[i]))
}

/// The pairs that the names of the rows suggest: the paper's claims (where [`paper_order`], a family of
/// its own, does not have them), every further row against CCFS-F, and every row against the number of
/// parameters. A pair occurs once.
pub(super) fn default_pairs(rows: &[Row]) -> Vec<Planned> {
    const CLAIMS: [(&str, &str); 6] = [
        ("contrastive", "vanilla"),
        ("ccfs-f", "ccfs-m"),
        ("ccfs-m", "ofa"),
        ("ofa", "fairnas"),
        ("ccfs-f", "fairnas"),
        ("ccfs-f", "uniform"),
    ];
    let find = |name: &str| rows.iter().find(|row| row.name.eq_ignore_ascii_case(name));
    let mut pairs: Vec<(&str, &str)> = Vec::new();
    let mut add = |a, b| {
        if a != b && !pairs.contains(&(a, b)) && !pairs.contains(&(b, a)) {
            pairs.push((a, b));
        }
    };
    for (a, b) in CLAIMS {
        if let Some((a, b)) = find(a).zip(find(b)) {
            let in_paper = a.group == b.group && a.paper_tau.is_some() && b.paper_tau.is_some();
            if !in_paper {
                add(&a.name, &b.name);
            }
        }
    }
    if let Some(ccfs_f) = find("ccfs-f") {
        let further = rows.iter().filter(|row| !matches!(row.group, Group::Table1 | Group::Table2));
        further.for_each(|row| add(&row.name, &ccfs_f.name));
    }
    for (i, row) in rows.iter().enumerate() {
        if !is_repeated(rows, i) {
            add(&row.name, BASELINES[0]);
        }
    }
    let owned = |(a, b): (&str, &str)| Planned { a: a.to_owned(), b: b.to_owned() };
    pairs.into_iter().map(owned).collect()
}

/// Every pair of rows of one table to which the paper gives different taus, Holm-corrected together.
pub(super) fn paper_order(
    joint: &JointBootstrap,
    rankings: &[Lists],
    experiment: &Experiment,
) -> Result<Vec<PaperPair>, StatisticsError> {
    let mut pairs: Vec<PaperPair> = Vec::new();
    for group in [Group::Table1, Group::Table2] {
        let rows = experiment.rows.iter().filter(|row| row.group == group);
        let rows: Vec<(&str, f64)> =
            rows.filter_map(|row| Some((row.name.as_str(), row.paper_tau?))).collect();
        for &(a, tau_a) in &rows {
            for &(b, tau_b) in rows.iter().filter(|(_, tau_b)| *tau_b < tau_a) {
                let find = |name: &str| rankings.iter().find(|r| r.name == name);
                let Some((a, b)) = find(a).zip(find(b)) else { continue };
                if let Some(comparison) = compare(joint, a, b)? {
                    pairs.push(PaperPair { group, paper_difference: tau_a - tau_b, comparison });
                }
            }
        }
    }
    let mut comparisons: Vec<Comparison> = pairs.iter().map(|p| p.comparison.clone()).collect();
    correct(&mut comparisons)?;
    for (pair, comparison) in pairs.iter_mut().zip(comparisons) {
        pair.comparison = comparison;
    }
    Ok(pairs)
}
