//! Score files on disk: the competition's real one where it is at hand, and what is written reads back.

use proptest::prelude::*;
use slimtau_ranking::{
    Bootstrap, Score, Scores, bootstrap, correlations, match_scores, write_competition_json,
    write_csv,
};
use std::fs;
use std::path::Path;

#[test]
fn the_competitions_truth_is_read_and_matched_in_either_length() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path = root.join("../shared/competition/gt_arch30.json");
    if !path.exists() {
        eprintln!("skipped: the competition's gt_arch30.json is not beside the repository");
        return;
    }
    let truth = Scores::read(&path).unwrap();
    assert_eq!((truth.entries().len(), truth.code_length()), (30, 52));
    assert!(truth.entries().iter().all(|s| (69.0..75.0).contains(&s.accuracy)));
    // The same architectures, short, in another order, scored by depth (the first four digits).
    let by_depth = truth.entries().iter().rev().map(|s| Score {
        code: s.code[1..].to_owned(),
        accuracy: s.code[1..5].bytes().map(|b| f64::from(b - b'0')).sum(),
    });
    let predictions = Scores::new("depth", by_depth.collect()).unwrap();
    let matched = match_scores(&predictions, &truth).unwrap();
    assert_eq!(matched.pairs.len(), 30);
    assert!(matched.only_in_predictions.is_empty() && matched.only_in_truth.is_empty());
    let (predicted, true_values) = (matched.predictions(), matched.truths());
    let tau = correlations(&predicted, &true_values).unwrap().kendall_tau.unwrap();
    let intervals = bootstrap(&predicted, &true_values, &Bootstrap::default()).unwrap();
    // Deeper networks are better, but depth alone is no complete ranking.
    assert!(tau > 0.3 && tau < 0.95, "{tau}");
    assert!(intervals.kendall_tau.unwrap().contains(tau));
}

#[test]
fn written_files_read_back_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let score = |code: &str, accuracy| Score { code: code.to_owned(), accuracy };
    let scores = [
        score("132", 0.1 + 0.2),
        score("121", 72.0),
        score("111", 1e-9),
        score("112", 71.640000390625),
    ];
    for name in ["s.json", "s.csv"] {
        let path = folder.path().join(name);
        if name.ends_with("json") {
            write_competition_json(&path, &scores).unwrap();
        } else {
            write_csv(&path, &scores).unwrap();
        }
        assert_eq!(Scores::read(&path).unwrap().entries(), scores, "{name}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(folder.path().join("s.json")).unwrap()).unwrap();
    assert_eq!(json["arch2"], serde_json::json!({"acc": 72.0, "arch": "121"}));
    assert_eq!(json.as_object().unwrap().len(), 4);
}

proptest! {
    // Every case syncs two files to the disk.
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_accuracy_survives_both_formats_to_the_last_bit(
        accuracies in prop::collection::vec(prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL, 1..20),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let (json, csv) = (folder.path().join("s.json"), folder.path().join("s.csv"));
        let codes = (100..).map(|code: u32| code.to_string());
        let scores: Vec<Score> =
            codes.zip(accuracies).map(|(code, accuracy)| Score { code, accuracy }).collect();
        write_competition_json(&json, &scores).unwrap();
        write_csv(&csv, &scores).unwrap();
        for path in [json, csv] {
            let read = Scores::read(&path).unwrap();
            prop_assert_eq!(read.entries(), &scores);
        }
    }
}

#[test]
fn what_would_not_read_back_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.json");
    for (code, accuracy) in [("12", f64::NAN), ("1\"2", 1.0), ("", 1.0)] {
        let scores = [Score { code: code.to_owned(), accuracy }];
        let message = write_competition_json(&path, &scores).unwrap_err().to_string();
        assert!(message.contains("s.json") && message.contains("entry 0"), "{message}");
        assert!(write_csv(&path, &scores).is_err());
    }
    assert!(!path.exists());
}

#[test]
fn a_missing_file_is_named() {
    let message = Scores::read(Path::new("no/such.csv")).unwrap_err().to_string();
    assert!(message.contains("no/such.csv"), "{message}");
}
