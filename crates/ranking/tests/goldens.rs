//! The statistics against SciPy's (`goldens.json`, made by `scripts/goldens_ranking.py`).

use serde::Deserialize;
use slimtau_ranking::{Bootstrap, Interval, bootstrap, correlations, holm, kendall_tau};

#[derive(Deserialize)]
struct Goldens {
    correlations: Vec<Case>,
    intervals_of_thirty: Expected<[f64; 2]>,
    holm: Holm,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    x: Option<Vec<f64>>,
    y: Option<Vec<f64>>,
    generated: Option<Generated>,
    #[serde(flatten)]
    expected: Expected<Option<f64>>,
}

#[derive(Deserialize)]
struct Expected<T> {
    kendall_tau: T,
    pearson: T,
    spearman: T,
}

#[derive(Deserialize)]
struct Generated {
    n: usize,
    seed: u64,
    n_values: u64,
}

#[derive(Deserialize)]
struct Holm {
    p_values: Vec<f64>,
    adjusted: Vec<f64>,
}

fn goldens() -> Goldens {
    serde_json::from_str(include_str!("goldens.json")).unwrap()
}

impl Generated {
    fn lists(&self) -> (Vec<f64>, Vec<f64>) {
        let mut state = self.seed;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % self.n_values
        };
        let pair = |_| {
            let (a, b) = (next(), next());
            (a as f64, ((a + b) / 2) as f64)
        };
        (0..self.n).map(pair).unzip()
    }
}

impl Case {
    fn lists(&self) -> (Vec<f64>, Vec<f64>) {
        match &self.generated {
            Some(generated) => generated.lists(),
            None => (self.x.clone().unwrap(), self.y.clone().unwrap()),
        }
    }
}

#[test]
fn correlations_agree_with_scipy() {
    let cases = goldens().correlations;
    assert!(cases.len() >= 15);
    for case in cases {
        let (x, y) = case.lists();
        let found = correlations(&x, &y).unwrap();
        assert_eq!(found.n, x.len());
        assert_eq!(kendall_tau(&x, &y).unwrap(), found.kendall_tau);
        let expected = case.expected;
        for (what, found, expected) in [
            ("kendall_tau", found.kendall_tau, expected.kendall_tau),
            ("pearson", found.pearson, expected.pearson),
            ("spearman", found.spearman, expected.spearman),
        ] {
            let close = match (found, expected) {
                (Some(found), Some(expected)) => (found - expected).abs() < 1e-12,
                (found, expected) => found == expected,
            };
            assert!(close, "{}: {what} is {found:?}, SciPy says {expected:?}", case.name);
        }
    }
}

#[test]
fn intervals_agree_with_scipy_within_monte_carlo_error() {
    let goldens = goldens();
    let thirty = goldens.correlations.iter().find(|case| case.name == "thirty").unwrap();
    let (x, y) = thirty.lists();
    let options = Bootstrap { resamples: 20_000, ..Bootstrap::default() };
    let found = bootstrap(&x, &y, &options).unwrap();
    assert_eq!(found.degenerate, 0);
    let check = |found: Option<Interval>, expected: [f64; 2]| {
        let found = found.unwrap();
        // The standard error of such an end is about 0.002 here, on either side.
        assert!((found.low - expected[0]).abs() < 0.012, "{found:?} {expected:?}");
        assert!((found.high - expected[1]).abs() < 0.012, "{found:?} {expected:?}");
    };
    check(found.kendall_tau, goldens.intervals_of_thirty.kendall_tau);
    check(found.pearson, goldens.intervals_of_thirty.pearson);
    check(found.spearman, goldens.intervals_of_thirty.spearman);
}

#[test]
fn holm_agrees() {
    let Holm { p_values, adjusted } = goldens().holm;
    for (found, expected) in holm(&p_values).unwrap().iter().zip(&adjusted) {
        assert!((found - expected).abs() < 1e-12);
    }
}
