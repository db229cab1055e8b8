//! Inherited accuracies of lists: in parts, after a failure, and joined.

mod program;

use program::{
    Finished, NARROW_CODES, assert_clean, assert_refused, idx_folder, narrow_space, put, run, word,
};
use slimtau_base::stream;
use slimtau_space::SearchSpace;
use slimtau_supernet::{Layout, Weights};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A list of codes for a supernet of random weights, and small images.
struct Case {
    folder: tempfile::TempDir,
    codes: Vec<String>,
}

impl Case {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        idx_folder(&root.join("data"), 16, 60, 40);
        let space = put(root, "narrow.toml", narrow_space(16, 1));
        let space = SearchSpace::load(word(&space)).unwrap();
        let layout = Layout::supernet(&space).unwrap();
        for (name, seed) in [("w.safetensors", 5), ("other.safetensors", 6)] {
            Weights::init(&layout, seed).save(&layout, &root.join(name)).unwrap();
        }
        // More than go through one tree, in no order, in the longer form.
        let mut seen = BTreeSet::new();
        let mut codes: Vec<String> = NARROW_CODES.map(|code| format!("1{code}")).to_vec();
        seen.extend(codes.clone());
        for draw in 0.. {
            let arch = space.sample_uniform(&mut stream(1, "codes", draw), true);
            if codes.len() == 230 {
                break;
            }
            if seen.insert(space.encode_long(&arch)) {
                codes.push(space.encode_long(&arch));
            }
        }
        put(root, "codes.txt", codes.join("\n"));
        Self { folder, codes }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn eval(&self, output: &str, more: &[&str]) -> Finished {
        let (space, checkpoint, codes) =
            (self.at("narrow.toml"), self.at("w.safetensors"), self.at("codes.txt"));
        let (data, output) = (self.at("data"), self.at(output));
        let mut words = vec!["rank", "eval", "--space", word(&space)];
        words.extend(["--data", word(&data), "--codes", word(&codes), "--output", word(&output)]);
        words.extend(["--bn", "recalibrated", "--recalibration-batches", "2", "--batch", "16"]);
        if !more.contains(&"--checkpoint") {
            words.extend(["--checkpoint", word(&checkpoint)]);
        }
        words.extend(more);
        run(&words)
    }

    fn merge(&self, output: &str, parts: &[&str]) -> Finished {
        let (codes, output) = (self.at("codes.txt"), self.at(output));
        let parts: Vec<PathBuf> = parts.iter().map(|part| self.at(part)).collect();
        let space = self.at("narrow.toml");
        let mut words = vec!["rank", "merge", "--space", word(&space)];
        words.extend(["--codes", word(&codes), "--output", word(&output)]);
        words.extend(parts.iter().map(|part| word(part)));
        run(&words)
    }
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

/// Codes and accuracies, in the order of the file.
fn entries(path: &Path) -> Vec<(String, f64)> {
    let scores = slimtau_ranking::Scores::read(path).unwrap();
    scores.entries().iter().map(|score| (score.code.clone(), score.accuracy)).collect()
}

#[test]
fn parts_of_a_list_join_to_the_whole() {
    let case = Case::new();
    case.eval("whole.json", &[]).expect_success();
    let whole = entries(&case.at("whole.json"));
    let codes: Vec<&String> = whole.iter().map(|(code, _)| code).collect();
    assert_eq!(codes, case.codes.iter().collect::<Vec<_>>(), "in the list's order and form");
    let distinct: BTreeSet<u64> = whole.iter().map(|(_, a)| a.to_bits()).collect();
    assert!(distinct.len() > 3, "230 subnets of random weights differ: {distinct:?}");

    for shard in ["1/3", "2/3", "3/3"] {
        let output = format!("part{}", &shard[..1]);
        case.eval(&output, &["--shard", shard]).expect_success();
        let lines = text(&case.at(&output)).lines().count();
        assert!((77..=78).contains(&lines), "{shard}: {lines} with the first");
    }
    // Once more: there is nothing left to do, and nothing is lost.
    let part = text(&case.at("part1"));
    case.eval("part1", &["--shard", "1/3"]).expect_success();
    assert_eq!(text(&case.at("part1")), part);
    case.merge("joined.json", &["part2", "part3", "part1", "part2"]).expect_success();
    assert_eq!(text(&case.at("joined.json")), text(&case.at("whole.json")));
    // Several parts may go into one file.
    for shard in ["1/2", "2/2"] {
        case.eval("parts", &["--shard", shard]).expect_success();
    }
    case.merge("again.json", &["parts"]).expect_success();
    assert_eq!(text(&case.at("again.json")), text(&case.at("whole.json")));

    let less = case.merge("less.json", &["part1", "part3"]);
    assert_refused(&less, &["codes.txt", "of 230 codes", "none of the parts"]);
    let (right, other) = ("\"right\":", "\"right\":1");
    put(case.folder.path(), "changed", text(&case.at("part1")).replacen(right, other, 1));
    let two_values = case.merge("less.json", &["part1", "changed"]);
    assert_refused(&two_values, &["changed", "right answers"]);
    let checkpoint = case.at("other.safetensors");
    case.eval("foreign", &["--shard", "1/3", "--checkpoint", word(&checkpoint)]).expect_success();
    let foreign = case.merge("less.json", &["part2", "foreign"]);
    assert_refused(&foreign, &["foreign", "part2", "checkpoint"]);
    assert_refused(&case.merge("less.json", &["whole.json"]), &["whole.json", "line 1"]);
    let machine =
        text(&case.at("part1")).replacen("\"instruction_set\":\"", "\"instruction_set\":\"not ", 1);
    put(case.folder.path(), "machine", machine);
    let machines = case.merge("machines.json", &["machine", "part2", "part3"]);
    assert!(machines.stderr.contains("may cost an image"), "{}", machines.stderr);
    machines.expect_success();
    let empty = case.eval("empty", &["--shard", "1/1000"]);
    assert_refused(&empty, &["--shard 1/1000", "230 codes"]);
    assert!(!case.at("empty").exists());
    put(case.folder.path(), "codes.txt", case.codes[1..].join("\n"));
    let foreign = case.merge("less.json", &["parts"]);
    assert_refused(&foreign, &["codes.txt", &case.codes[0][1..]]);
    put(case.folder.path(), "codes.txt", format!("{} {}", case.codes[0], NARROW_CODES[1]));
    let mixed = case.eval("less.json", &[]);
    assert_refused(&mixed, &["codes.txt, line 1", NARROW_CODES[1], "11 digits"]);
    // Stage 1 has the stem's width, but for its second block.
    put(case.folder.path(), "codes.txt", format!("{}\n22111121111\n", NARROW_CODES[0]));
    let untied = case.eval("less.json", &[]);
    assert_refused(&untied, &["codes.txt, line 2", "22111121111"]);
    assert!(!case.at("less.json").exists());
    assert_clean(case.folder.path());
}

#[test]
fn what_a_failed_evaluation_found_is_used_by_the_next() {
    let case = Case::new();
    case.eval("whole.json", &[]).expect_success();
    // It cannot write its result over a folder, but what it found is in the log.
    std::fs::create_dir_all(case.at("again.json/in the way")).unwrap();
    assert_refused(&case.eval("again.json", &[]), &["again.json"]);
    let log = case.at("again.json.partial");
    let found = text(&log);
    assert_eq!(found.lines().count(), 1 + case.codes.len());
    std::fs::remove_dir_all(case.at("again.json")).unwrap();

    // Another checkpoint has nothing to do with it.
    let other = case.at("other.safetensors");
    let refused = case.eval("again.json", &["--checkpoint", word(&other)]);
    assert_refused(&refused, &["again.json.partial", "checkpoint"]);
    assert_eq!(text(&log), found, "a refusal leaves it");

    // As a kill leaves it: a third of the lines, the last of them in half. One entry is changed, to see that it is read.
    let third = found.lines().take(75).collect::<Vec<_>>().join("\n");
    let (before, last) = third.rsplit_once('\n').unwrap();
    let (before, changed) = before.rsplit_once('\n').unwrap();
    let code = changed.split('"').nth(5).unwrap();
    put(
        case.folder.path(),
        "again.json.partial",
        format!(
            "{before}\n{{\"result\":{{\"code\":\"{code}\",\"right\":39}}}}\n{}",
            &last[..last.len() / 2]
        ),
    );
    case.eval("again.json", &[]).expect_success();
    assert!(!log.exists(), "not needed any more");
    for (expected, found) in
        entries(&case.at("whole.json")).iter().zip(entries(&case.at("again.json")))
    {
        if found.0.strip_prefix('1') == Some(code) && found.1 == 97.5 {
            continue;
        }
        assert_eq!(*expected, found);
    }
    let changed = entries(&case.at("again.json")).into_iter().filter(|(_, acc)| *acc == 97.5);
    assert_eq!(changed.count(), 1, "39 of 40");
}
