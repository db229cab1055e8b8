//! How well one score file ranks another.
//!
//! `cargo run -p slimtau-ranking --example compare_two_files -- PREDICTIONS TRUTH`; without arguments it
//! compares two small built-in lists.

use slimtau_ranking::{
    Bootstrap, Scores, ScoresError, bootstrap, correlations, match_scores, regret, top_k_precision,
};
use std::error::Error;
use std::path::Path;

const INHERITED: &str = "code,acc\n1112,61.0\n1121,64.5\n1211,63.0\n1221,66.0\n1222,68.5\n";
const STAND_ALONE: &str = r#"{
    "arch1": {"acc": 70.1, "arch": "11112"}, "arch2": {"acc": 71.0, "arch": "11121"},
    "arch3": {"acc": 71.3, "arch": "11211"}, "arch4": {"acc": 72.0, "arch": "11221"},
    "arch5": {"acc": 73.4, "arch": "11222"}, "arch6": {"acc": 73.9, "arch": "12222"}
}"#;

fn main() -> Result<(), Box<dyn Error>> {
    let files: Vec<String> = std::env::args().skip(1).collect();
    let read = |index: usize, built_in: &str| -> Result<Scores, ScoresError> {
        match files.get(index) {
            Some(file) => Scores::read(Path::new(file)),
            None => Scores::parse(Path::new("built-in"), built_in),
        }
    };
    let matched = match_scores(&read(0, INHERITED)?, &read(1, STAND_ALONE)?)?;
    for code in &matched.only_in_predictions {
        println!("{code} has no truth");
    }
    for code in &matched.only_in_truth {
        println!("{code} has no prediction");
    }
    let (predictions, truth) = (matched.predictions(), matched.truths());
    let found = correlations(&predictions, &truth)?;
    let intervals = bootstrap(&predictions, &truth, &Bootstrap::default())?;
    println!("n {}", found.n);
    for (name, value, interval) in [
        ("kendall_tau", found.kendall_tau, intervals.kendall_tau),
        ("pearson", found.pearson, intervals.pearson),
        ("spearman", found.spearman, intervals.spearman),
    ] {
        match (value, interval) {
            (Some(v), Some(i)) => println!("{name} {v:.3} [{:.3}, {:.3}]", i.low, i.high),
            _ => println!("{name} undefined"),
        }
    }
    println!("degenerate resamples {}", intervals.degenerate);
    if found.n > 0 {
        println!("top-1 precision {:.2}", top_k_precision(&predictions, &truth, 1)?);
    }
    if let Some(regret) = regret(&predictions, &truth)? {
        println!("regret {regret:.2}");
    }
    Ok(())
}
