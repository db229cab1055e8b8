//! `slimtau search`: within limits, resumable, and its front is one.

mod program;

use program::{Finished, assert_clean, assert_refused, idx_folder, narrow_space, put, run, word};
use slimtau_space::{CostModel, SearchSpace};
use slimtau_supernet::{Layout, Weights};
use std::path::{Path, PathBuf};

/// A supernet of random weights, and small images.
struct Case {
    folder: tempfile::TempDir,
    space: SearchSpace,
}

impl Case {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        idx_folder(&root.join("data"), 16, 60, 41);
        let space = put(root, "narrow.toml", narrow_space(16, 1));
        let space = SearchSpace::load(word(&space)).unwrap();
        let layout = Layout::supernet(&space).unwrap();
        Weights::init(&layout, 5).save(&layout, &root.join("w.safetensors")).unwrap();
        Self { folder, space }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn search(&self, output: &str, more: &[&str]) -> Finished {
        let (space, checkpoint) = (self.at("narrow.toml"), self.at("w.safetensors"));
        let (data, output) = (self.at("data"), self.at(output));
        let mut words = vec!["search", "--space", word(&space), "--checkpoint", word(&checkpoint)];
        words.extend(["--data", word(&data), "--output", word(&output), "--batch", "16"]);
        words.extend(["--population", "12", "--generations", "3"]);
        words.extend(more);
        run(&words)
    }
}

/// A line of search.csv.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    code: String,
    params: u64,
    macs: u64,
    latency_ms: Option<f64>,
    accuracy: f64,
    on_other_images: Option<f64>,
    rank: usize,
}

fn rows(folder: &Path) -> Vec<Row> {
    let text = std::fs::read_to_string(folder.join("search.csv")).unwrap();
    let mut lines = text.lines();
    let head =
        "code,params,macs,latency_ms,accuracy,accuracy_on_other_images,generation,pareto_rank";
    assert_eq!(lines.next(), Some(head));
    let row = |line: &str| {
        let fields: Vec<&str> = line.split(',').collect();
        let number = |i: usize| fields[i].parse::<f64>().ok();
        Row {
            code: fields[0].to_owned(),
            params: fields[1].parse().unwrap(),
            macs: fields[2].parse().unwrap(),
            latency_ms: number(3),
            accuracy: number(4).unwrap(),
            on_other_images: number(5),
            rank: fields[7].parse().unwrap(),
        }
    };
    lines.map(row).collect()
}

#[test]
fn a_search_stays_within_its_limits_and_finds_a_front() {
    let case = Case::new();
    let costs = CostModel::new(&case.space);
    let limit = costs.costs(&case.space.largest()).macs / 2;
    let found = case.search("out", &["--bn", "recalibrated", "--max-macs", &limit.to_string()]);
    let said = found.stderr.clone();
    let table = found.expect_success();
    let rows = rows(&case.at("out"));
    assert!(rows.len() > 30, "{}", rows.len());
    for row in &rows {
        let arch = case.space.parse(&row.code).unwrap();
        case.space.check_tied(&arch).unwrap();
        assert_eq!((row.params, row.macs), {
            let costs = costs.costs(&arch);
            (costs.params, costs.macs)
        });
        assert!(row.macs <= limit, "{row:?}");
        assert_eq!(row.latency_ms, None);
        let dominated = rows.iter().any(|other| {
            other.macs <= row.macs
                && other.accuracy >= row.accuracy
                && (other.macs, other.accuracy) != (row.macs, row.accuracy)
        });
        assert_eq!(dominated, row.rank > 0, "{row:?}");
        assert_eq!(row.on_other_images.is_some(), row.rank == 0, "{row:?}");
        // 21 of the 41 images are searched on, 20 are the others.
        let whole = |accuracy: f64, n: f64| {
            let right = accuracy * n / 100.0;
            (right - right.round()).abs() < 1e-9
        };
        assert!(whole(row.accuracy, 21.0), "{row:?}");
        assert!(row.on_other_images.is_none_or(|a| whole(a, 20.0)), "{row:?}");
    }
    assert!(rows.is_sorted_by_key(|row| row.macs));
    let front = rows.iter().filter(|row| row.rank == 0).count();
    assert_eq!(table.lines().count(), 1 + front, "{table}");
    assert!(said.contains(&format!("{front} of {} subnets", rows.len())), "{said}");
    let page = std::fs::read_to_string(case.at("out/search.html")).unwrap();
    assert!(rows.iter().filter(|row| row.rank == 0).all(|row| page.contains(&row.code)));
    assert_clean(case.folder.path());

    // The accuracies are those of `rank eval` on the same images: all images are these two halves.
    let best = rows.iter().rfind(|row| row.rank == 0).unwrap();
    let codes = put(case.folder.path(), "best.txt", &best.code);
    let (space, checkpoint) = (case.at("narrow.toml"), case.at("w.safetensors"));
    let (data, json) = (case.at("data"), case.at("best.json"));
    let mut words = vec!["rank", "eval", "--space", word(&space), "--data", word(&data)];
    words.extend(["--checkpoint", word(&checkpoint), "--codes", word(&codes), "--batch", "16"]);
    words.extend(["--bn", "recalibrated", "--output", word(&json)]);
    run(&words).expect_success();
    let whole = slimtau_ranking::Scores::read(&json).unwrap().entries()[0].accuracy;
    let right = best.accuracy * 21.0 / 100.0 + best.on_other_images.unwrap() * 20.0 / 100.0;
    assert!((whole - 100.0 * right / 41.0).abs() < 1e-9, "{whole} {best:?}");
}

#[test]
fn the_same_command_goes_on_and_measured_times_are_kept() {
    let case = Case::new();
    let timed = ["--cost", "latency", "--max-latency", "1000"];
    case.search("timed", &timed).expect_success();
    let log = case.at("timed/evaluations.jsonl");
    let (first, whole) = (rows(&case.at("timed")), std::fs::read(&log).unwrap());
    assert!(first.iter().all(|row| row.latency_ms.is_some_and(|t| t > 0.0)));
    assert!(first.is_sorted_by(|a, b| a.latency_ms <= b.latency_ms));
    // Everything is in the log: nothing is measured again.
    case.search("timed", &timed).expect_success();
    assert_eq!(std::fs::read(&log).unwrap(), whole);
    assert_eq!(rows(&case.at("timed")), first);

    // A killed search leaves some of the log.
    case.search("whole", &[]).expect_success();
    let (log, expected) = (case.at("whole/evaluations.jsonl"), rows(&case.at("whole")));
    let whole = std::fs::read(&log).unwrap();
    for cut in [whole.len() / 3, whole.len() / 2] {
        std::fs::write(&log, &whole[..cut]).unwrap();
        case.search("whole", &[]).expect_success();
        assert_eq!(rows(&case.at("whole")), expected);
        assert_eq!(std::fs::read(&log).unwrap(), whole, "the same evaluations in the same order");
    }
    // Another treatment of BN is another evaluation.
    let other = case.search("whole", &["--bn", "recalibrated"]);
    assert_refused(&other, &["evaluations.jsonl", "bn"]);
}

#[test]
fn senseless_searches_are_refused() {
    let case = Case::new();
    for (words, needles) in [
        (&["--max-params", "10"][..], &["--max-params 10", "the smallest"][..]),
        (&["--max-macs", "0"], &["--max-macs 0", "the smallest"]),
        (&["--mutation", "1.5"], &["--mutation 1.5"]),
        (&["--population", "1"], &["--population 1"]),
        (&["--max-latency", "0"], &["--max-latency 0"]),
        (&["--max-latency", "0.0001"], &["--max-latency 0.0001", "the smallest network"]),
        (&["--latency-batch", "0"], &["--latency-batch 0"]),
    ] {
        // clap takes an option once.
        let finished = if words[0] == "--population" {
            let (space, checkpoint) = (case.at("narrow.toml"), case.at("w.safetensors"));
            let out = case.at("none");
            let mut all = vec!["search", "--space", word(&space), "--output", word(&out)];
            all.extend(["--checkpoint", word(&checkpoint)]);
            all.extend(words);
            run(&all)
        } else {
            case.search("none", words)
        };
        assert_refused(&finished, needles);
        assert!(!case.at("none").exists(), "{words:?}");
    }
}
