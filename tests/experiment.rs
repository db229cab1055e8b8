//! Ground truth in shards and the ranking experiment, in miniature: what is shared, what is stored, what an
//! interruption may not change.

mod program;

use program::{
    Finished, assert_clean, command, config, files_below, idx_folder, narrow_space, put, run, word,
};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

const METHODS: &str = r#"
[experiment]
seeds = 2
points = 2
point_images = 50

[[method]]
name = "contrastive"
group = "Table 1"
paper = 0.858
about = "MoCo, then CCFS-F"
main = true

[[method]]
name = "vanilla"
group = "Table 1"
about = "no contrastive stage"
main = true
without = ["moco"]
set.ccfs.steps = 72

[[method]]
name = "tracked"
group = "BN treatment"
about = "the same supernets, shared statistics"
set.inherit.bn = "tracked"

[[method]]
name = "dynamic"
group = "Published since"
about = "with state of its own"
[method.set.ccfs]
sampler = "uniform"
dynamic = { max_decay = 2.0, split = "depth-1" }
"#;

/// Data, space, configuration and ground truth.
struct Case {
    folder: tempfile::TempDir,
}

impl Case {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let case = Self { folder };
        idx_folder(&case.at("data"), 16, 300, 100);
        put(case.folder.path(), "narrow.toml", narrow_space(16, 1));
        let text = config(&case.at("data"), "narrow.toml");
        let text = text.replace("count = 3", "count = 6\nstratified = 2");
        let text = text.replace("[standalone]", "[standalone]\ntruth = \"truth.json\"");
        put(case.folder.path(), "config.toml", text + METHODS);
        case
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, words: &[&str], out: &str) -> Finished {
        run(&self.words(words, out))
    }

    fn words(&self, words: &[&str], out: &str) -> Vec<String> {
        let (config, out) = (self.at("config.toml"), self.at(out));
        let all = [words[0], "--config", word(&config), "--out", word(&out)];
        all.iter().chain(&words[1..]).map(|w| (*w).to_owned()).collect()
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.at(name)).unwrap()).unwrap()
    }

    /// What an experiment measured, without times.
    fn measured(&self, out: &str) -> Value {
        let mut all = self.json(&format!("{out}/experiment.json"));
        for key in ["seconds", "command", "versions"] {
            all[key] = Value::Null;
        }
        for row in all["rows"].as_array_mut().unwrap() {
            for seed in row["seeds"].as_array_mut().unwrap() {
                seed["seconds"] = Value::Null;
            }
        }
        all
    }

    /// The accuracies of a ground truth.
    fn accuracies(&self) -> Vec<(Value, Value, Value)> {
        let truth = self.json("truth.json");
        let trainings = truth["trainings"].as_array().unwrap().iter();
        trainings
            .map(|t| (t["code"].clone(), t["replicate"].clone(), t["accuracy"].clone()))
            .collect()
    }
}

#[test]
fn ground_truth_comes_out_the_same_in_shards_and_is_checked() {
    let case = Case::new();
    case.run(&["ground-truth"], "whole").expect_success();
    let whole = case.accuracies();
    assert_eq!(whole.len(), 6 * 2);
    fs::remove_file(case.at("truth.json")).unwrap();

    let first = case.run(&["ground-truth", "--shard", "1/2"], "shards").expect_success();
    assert!(
        first.contains("6 trainings are missing") && !case.at("truth.json").exists(),
        "{first}"
    );
    case.run(&["ground-truth", "--shard", "2/2", "--jobs", "2"], "shards").expect_success();
    assert!(case.accuracies() == whole, "shards make other results");

    // More replicates: the stored ones are kept, also without the folder they were made in.
    let path = case.at("config.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("seeds = 2\noptimizer", "seeds = 3\noptimizer")).unwrap();
    case.run(&["ground-truth"], "more").expect_success();
    assert_eq!(case.accuracies()[..12], whole[..]);
    assert_eq!(case.accuracies().len(), 18);
    let trained = files_below(&case.at("more/standalone"));
    let weights = trained.iter().filter(|f| f.ends_with("weights.safetensors")).count();
    assert_eq!(weights, 6, "only the third replicates were missing");

    // Fewer replicates asked for: the others stay; and what is complete is not written again.
    let before = fs::read(case.at("truth.json")).unwrap();
    fs::write(&path, &text).unwrap();
    let nothing = case.run(&["ground-truth"], "more").expect_success();
    assert!(nothing.contains("nothing is missing"), "{nothing}");
    assert!(fs::read(case.at("truth.json")).unwrap() == before);
    fs::write(
        &path,
        text.replace("count = 6", "count = 7").replace("seeds = 2\nopt", "seeds = 1\nopt"),
    )
    .unwrap();
    case.run(&["ground-truth"], "seven").expect_success();
    assert_eq!(case.accuracies().len(), 19, "one new architecture, nothing lost");
    fs::write(&path, text.replace("seeds = 2\noptimizer", "seeds = 3\noptimizer")).unwrap();

    // A check does not touch the trainings.
    let refused = case.run(&["ground-truth", "--verify", "1"], "more");
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("is of another"), "{}", refused.stderr);
    let verified = case.run(&["ground-truth", "--verify", "4"], "verify").expect_success();
    assert!(verified.contains("4 of 19 stored trainings agree"), "{verified}");
    assert!(!case.at("verify").exists(), "what only checks leaves nothing");
    let mut truth = case.json("truth.json");
    for training in truth["trainings"].as_array_mut().unwrap() {
        training["accuracy"] = json!(training["accuracy"].as_f64().unwrap() + 1.0);
    }
    put(case.folder.path(), "truth.json", truth.to_string());
    let wrong = case.run(&["ground-truth", "--verify", "2"], "verify");
    assert_eq!(wrong.code, Some(2));
    assert!(wrong.stderr.contains("2 of 2 accuracies are not"), "{}", wrong.stderr);
    assert!(wrong.stdout.contains("WRONG"), "{}", wrong.stdout);

    // Another training recipe is another truth.
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("steps = 30", "steps = 31")).unwrap();
    for words in [&["ground-truth"][..], &["run"]] {
        let refused = case.run(words, "other");
        assert_eq!(refused.code, Some(2));
        assert!(refused.stderr.contains("truth.json: is the truth of"), "{}", refused.stderr);
    }
}

#[test]
fn an_experiment_shares_stages_and_survives_being_killed() {
    let case = Case::new();
    case.run(&["ground-truth"], "truth").expect_success();
    let main = case.run(&["run"], "whole").expect_success();
    assert!(main.contains("contrastive") && main.contains("2 of 2 seeds"), "{main}");
    assert!(!main.contains("dynamic"), "not a main row: {main}");
    let stages = |stage: &str| {
        let folders = fs::read_dir(case.at("whole/stages")).unwrap().flatten();
        folders.filter(|f| f.file_name().to_string_lossy().starts_with(stage)).count()
    };
    assert_eq!(["teacher", "moco", "ccfs", "inherit"].map(stages), [2, 2, 4, 4]);
    case.run(&["run", "--full", "--jobs", "2"], "whole").expect_success();
    assert_eq!(["teacher", "moco", "ccfs", "inherit"].map(stages), [2, 2, 6, 8]);
    assert_clean(&case.at("whole"));
    let trained = files_below(&case.at("whole/standalone"));
    assert!(trained.iter().all(|f| !f.ends_with("weights.safetensors")), "the truth was stored");
    for file in ["report.html", "report.json", "results.md"] {
        assert!(case.at("whole").join(file).is_file(), "{file}");
    }

    let expected = case.measured("whole");
    let rows = expected["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 4);
    let images = |row: &Value| row["seeds"][0]["images"].as_u64().unwrap();
    assert_eq!((images(&rows[0]), images(&rows[1])), (36 * 16, 72 * 16), "one budget");
    let checkpoints = rows[0]["seeds"][0]["checkpoints"].as_array().unwrap();
    assert_eq!(checkpoints.len(), 2);
    assert_eq!(checkpoints[1]["inherited"], rows[0]["seeds"][0]["inherited"]);
    assert_ne!(rows[0]["seeds"][0]["inherited"], rows[0]["seeds"][1]["inherited"]);
    let stored = case.accuracies();
    for architecture in expected["architectures"].as_array().unwrap() {
        let own = stored.iter().filter(|(code, ..)| *code == architecture["code"]);
        let own: Vec<Value> = own.map(|(.., accuracy)| accuracy.clone()).collect();
        assert_eq!(architecture["stand_alone"], json!(own));
    }

    let words = case.words(&["run", "--full", "--jobs", "2"], "killed");
    let mut kills = 0;
    for attempt in 0.. {
        let mut child = command(&words).spawn().unwrap();
        sleep(Duration::from_millis(20 + 60 * attempt));
        child.kill().unwrap();
        let finished: Finished = child.wait_with_output().unwrap().into();
        match finished.code {
            None => kills += 1,
            Some(code) => {
                assert_eq!(code, 0, "{}", finished.stderr);
                break;
            }
        }
    }
    assert!(kills >= 3, "{kills} kills");
    assert!(case.measured("killed") == expected, "a killed experiment has other results");
}
