//! Reliability, stratified tau, quantiles and the joint bootstrap against NumPy's and SciPy's
//! (`goldens_joint.json`, made by `scripts/goldens_joint.py`).

use serde::Deserialize;
use slimtau_ranking::{
    Bootstrap, Interval, JointBootstrap, Statistic, agreement_between_replicates,
    agreement_with_the_rest, kendall_tau_within, quantile, reliability,
};

#[derive(Deserialize)]
struct Goldens {
    stratified: Vec<Stratified>,
    replicates: Vec<Replicates>,
    quantiles: Vec<Quantile>,
    joint: Joint,
}

#[derive(Deserialize)]
struct Stratified {
    name: String,
    x: Vec<f64>,
    y: Vec<f64>,
    groups: Vec<usize>,
    tau: Option<f64>,
}

#[derive(Deserialize)]
struct Replicates {
    name: String,
    replicates: Vec<Vec<f64>>,
    single: Option<f64>,
    mean: Option<f64>,
    noise: Option<f64>,
    between_replicates: Option<f64>,
    with_the_rest: Option<f64>,
}

#[derive(Deserialize)]
struct Quantile {
    values: Vec<f64>,
    q: f64,
    quantile: f64,
}

#[derive(Deserialize)]
struct Joint {
    lists: Vec<Vec<f64>>,
    replicates: Vec<Vec<f64>>,
    mean_interval: [f64; 2],
    difference_interval: [f64; 2],
}

fn goldens() -> Goldens {
    serde_json::from_str(include_str!("goldens_joint.json")).unwrap()
}

#[track_caller]
fn check(what: &str, found: Option<f64>, expected: Option<f64>) {
    let close = match (found, expected) {
        (Some(found), Some(expected)) => (found - expected).abs() < 1e-9,
        (found, expected) => found == expected,
    };
    assert!(close, "{what} is {found:?}, the golden {expected:?}");
}

#[test]
fn stratified_tau_agrees() {
    let cases = goldens().stratified;
    assert_eq!(cases.len(), 6);
    for case in cases {
        let found = kendall_tau_within(&case.x, &case.y, &case.groups).unwrap();
        check(&case.name, found, case.tau);
    }
}

#[test]
fn reliability_and_ceilings_agree() {
    let options = Bootstrap { resamples: 10, ..Bootstrap::default() };
    let cases = goldens().replicates;
    assert_eq!(cases.len(), 7);
    for case in cases {
        let found = reliability(&case.replicates).unwrap();
        check(&format!("{}: single", case.name), found.single, case.single);
        check(&format!("{}: mean", case.name), found.mean, case.mean);
        check(&format!("{}: noise", case.name), found.noise, case.noise);
        let between = agreement_between_replicates(&case.replicates, &options).unwrap();
        check(&format!("{}: between", case.name), between.mean_tau, case.between_replicates);
        let rest = agreement_with_the_rest(&case.replicates, &options).unwrap();
        check(&format!("{}: rest", case.name), rest.mean_tau, case.with_the_rest);
    }
}

#[test]
fn quantiles_agree() {
    for case in goldens().quantiles {
        check("quantile", quantile(&case.values, case.q).unwrap(), Some(case.quantile));
    }
}

#[test]
fn joint_intervals_agree_within_monte_carlo_error() {
    let Joint { lists, replicates, mean_interval, difference_interval } = goldens().joint;
    let options = Bootstrap { resamples: 10_000, ..Bootstrap::default() };
    let groups = vec![0; replicates[0].len()];
    let joint = JointBootstrap::new(&lists, &replicates, &groups, &options).unwrap();
    let check = |found: Interval, expected: [f64; 2]| {
        // The standard error of such an end is about 0.003 here, on either side.
        assert!((found.low - expected[0]).abs() < 0.015, "{found:?} {expected:?}");
        assert!((found.high - expected[1]).abs() < 0.015, "{found:?} {expected:?}");
    };
    check(joint.interval(&[0, 1, 2], Statistic::KendallTau).0.unwrap(), mean_interval);
    check(joint.difference(&[0], &[1]).unwrap().interval.unwrap(), difference_interval);
}
