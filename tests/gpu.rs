//! Whole runs on a GPU, or on the emulator of one (`cargo xtask cuda test`): `SLIMTAU_TEST_GPU` holds the number of a GPU,
//! `SLIMTAU_EMULATOR` the path of the emulator.

mod program;

use program::{Finished, assert_clean, command, files_below, idx_folder, put, run, word};
use serde_json::Value;
use slimtau_base::TensorFile;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

/// The smallest run that has every stage, for a machine that is thousands of times slower than a GPU.
const CONFIG: &str = r#"
name = "tiny"
seed = 3
space = "tiny.toml"
data = { source = "DATA", crop_padding = 1, flip = true }
teacher = { steps = 4, batch = 4, optimizer = { lr = 0.02, warmup_steps = 2 } }
ccfs = { steps = 4, batch = 4, sampler = "ccfs-f", candidates = 8, keep = 2, bn = "recalibrated", optimizer = { lr = 0.01, warmup_steps = 1 } }
subnets = { count = 3 }
inherit = { batch = 15, recalibration_batches = 1 }
standalone = { steps = 2, batch = 4, seeds = 1, optimizer = { lr = 0.02, warmup_steps = 1 } }

[moco]
steps = 3
batch = 4
optimizer = { lr = 0.01, warmup_steps = 1 }
queue = 16
dim = 8
temperature = [0.2, 0.1]
key_momentum = 0.9
bn = "tracked"
"#;

const SPACE: &str = r#"
name = "tiny-gpu"
image_size = 8
channels = 1
classes = 10
ratios = [1.0, 0.5]
divisor = 2
block = "basic"
stem = { width = 8, kernel = 3, stride = 1, max_pool = false, codes = 2 }
stage = [{ width = 8, depth = [1, 2], stride = 2, codes = 2 }]
"#;

struct Case {
    folder: tempfile::TempDir,
}

impl Case {
    fn new() -> Self {
        Self::longer(1)
    }

    /// With so many times more steps of every stage.
    fn longer(times: usize) -> Self {
        let case = Self { folder: tempfile::tempdir().unwrap() };
        idx_folder(&case.at("data"), 8, 40, 30);
        put(case.folder.path(), "tiny.toml", SPACE);
        let mut config = CONFIG.replace("DATA", word(&case.at("data")));
        for steps in [2, 3, 4].map(|n| format!("steps = {n}")) {
            let n: usize = steps[8..].parse().unwrap();
            // Of a line's own, or a table's first key: not `warmup_steps`.
            for before in ["\n", "{ "] {
                let (old, new) =
                    (format!("{before}{steps}"), format!("{before}Steps = {}", n * times));
                config = config.replace(&old, &new);
            }
        }
        put(case.folder.path(), "config.toml", config.replace("Steps", "steps"));
        case
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn words(&self, what: &str, out: &str, more: &[&str]) -> Vec<String> {
        let (config, out) = (self.at("config.toml"), self.at(out));
        let words = [what, "--config", word(&config), "--out", word(&out)];
        words.iter().chain(more).map(|w| (*w).to_owned()).collect()
    }

    fn finish(&self, what: &str, out: &str, more: &[&str]) -> Results {
        run(&self.words(what, out, more)).expect_success();
        assert_clean(&self.at(out));
        Results::read(&self.at(out))
    }
}

/// Where the GPU's stages run.
fn device() -> String {
    if let Ok(number) = std::env::var("SLIMTAU_TEST_GPU") {
        return format!("--device=cuda:{number}");
    }
    let library = std::env::var("SLIMTAU_EMULATOR").expect("run by `cargo xtask cuda test`");
    format!("--device=emulator:{library}")
}

/// Weights, checkpoints and accuracies, by file.
struct Results(BTreeMap<PathBuf, Vec<u8>>);

impl Results {
    fn read(out: &Path) -> Self {
        let kept = |name: &PathBuf| {
            name.extension().is_some_and(|e| e == "safetensors") || name.ends_with("inherited.json")
        };
        let names = files_below(out).into_iter().filter(kept);
        Self(names.map(|name| (name.clone(), fs::read(out.join(name)).unwrap())).collect())
    }

    #[track_caller]
    fn assert_same(&self, other: &Self) {
        assert!(self.0.keys().eq(other.0.keys()), "other files");
        for (name, bytes) in &self.0 {
            assert!(other.0.get(name) == Some(bytes), "{} differs", name.display());
        }
    }
}

/// The largest difference between two files of parameters, in parts of the largest change since the teacher.
fn difference(out: [&Path; 2], start: &Path, name: &str) -> f32 {
    let read = |folder: &Path, name: &str| TensorFile::read(&folder.join(name)).unwrap().tensors;
    let [a, b] = out.map(|folder| read(folder, name));
    let before = read(start, "teacher/weights.safetensors");
    assert!(a.keys().eq(b.keys()) && a.keys().eq(before.keys()));
    let (mut largest, mut change) = (0.0f32, 0.0f32);
    // Statistics change by more than parameters, and would hide them.
    for (key, tensor) in a.iter().filter(|(key, _)| !key.contains("running")) {
        for ((a, b), start) in tensor.data.iter().zip(&b[key].data).zip(&before[key].data) {
            largest = largest.max((a - b).abs());
            change = change.max((a - start).abs());
        }
    }
    assert!(change > 1e-4, "nothing was learned: {change}");
    largest / change
}

fn accuracies(path: &Path) -> Vec<f64> {
    let all: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let entries = all.as_object().unwrap().values();
    entries.map(|entry| entry["acc"].as_f64().unwrap()).collect()
}

/// In f32 the two differ by rounding alone, so that a stage may also go on on the other.
#[test]
fn a_run_on_a_gpu_is_that_on_the_cpu_but_for_rounding() {
    let (case, device) = (Case::new(), device());
    let on_gpu = [device.as_str(), "--precision=f32"];
    case.finish("run", "cpu", &[]);
    case.finish("run", "gpu", &on_gpu);
    // The same teacher, or rounding would be seen through two stages.
    case.finish("teacher", "both", &[]);
    case.finish("run", "both", &on_gpu);
    let [cpu, gpu, both] = ["cpu", "gpu", "both"].map(|out| case.at(out));
    for (stage, most) in [("moco", 1e-4), ("ccfs", 1e-4)] {
        let found = difference([&cpu, &both], &cpu, &format!("{stage}/weights.safetensors"));
        println!("{stage}: {found:e} of the largest change");
        assert!(found < most, "{stage}: {found:e}");
    }
    for out in [&gpu, &both] {
        let [expected, found] = [&cpu, out].map(|out| accuracies(&out.join("inherited.json")));
        assert_eq!((expected.len(), found.len()), (3, 3));
        for (expected, found) in expected.iter().zip(&found) {
            // One of 30 images.
            assert!((expected - found).abs() < 3.4, "{expected} and {found}");
        }
    }
    // The same list by its own command: the same accuracies.
    let codes: Value =
        serde_json::from_str(&fs::read_to_string(gpu.join("inherited.json")).unwrap()).unwrap();
    let codes: Vec<&str> =
        codes.as_object().unwrap().values().map(|entry| entry["arch"].as_str().unwrap()).collect();
    let list = put(case.folder.path(), "codes.txt", codes.join("\n"));
    let (config, again) = (case.at("config.toml"), case.at("again.json"));
    let weights = gpu.join("ccfs/weights.safetensors");
    let files = ["--checkpoint", word(&weights), "--codes", word(&list), "--output", word(&again)];
    let words = [&["rank", "eval", "--config", word(&config)], &files[..], &on_gpu].concat();
    run(&words).expect_success();
    assert_eq!(fs::read(again).unwrap(), fs::read(gpu.join("inherited.json")).unwrap());
    // Parts that were made on different devices are joined, with a word about it.
    let parts = [("1/2", &on_gpu[..]), ("2/2", &[])].map(|(shard, on)| {
        let out = case.at(&format!("part{}.jsonl", &shard[..1]));
        let files =
            ["--checkpoint", word(&weights), "--codes", word(&list), "--output", word(&out)];
        let words =
            [&["rank", "eval", "--config", word(&config), "--shard", shard], &files[..], on];
        run(&words.concat()).expect_success();
        out
    });
    let merged = case.at("merged.json");
    let words = ["rank", "merge", "--config", word(&config), "--codes", word(&list), "--output"];
    let all = [word(&merged), word(&parts[0]), word(&parts[1])];
    let finished = run(&[&words[..], &all].concat());
    assert!(finished.stderr.contains("made with"), "{}", finished.stderr);
    finished.expect_success();
    let bench = ["bench", "eval", "--batch", "4", "--steps", "1", "--json", "--space"];
    let space = case.at("tiny.toml");
    let line = run(&[&bench[..], &[word(&space)], &on_gpu].concat()).expect_success();
    let line: Value = serde_json::from_str(&line).unwrap();
    assert!(line["peak_device_mib"].as_f64().unwrap() > 0.0, "{line}");

    let results = fs::read_to_string(gpu.join("standalone/results.json")).unwrap();
    let results: Vec<Value> = serde_json::from_str(&results).unwrap();
    assert_eq!(results.len(), 3);
    for result in results {
        assert!(result["isa"].as_str().unwrap().ends_with("f32"), "{result}");
    }
    let report = fs::read_to_string(gpu.join("report.json")).unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    assert!(report["versions"]["cpu"].as_str().unwrap().contains(", f32, "), "{report}");
}

/// With bf16, the default, and every kind of interruption that leaves a checkpoint.
#[test]
fn a_run_killed_on_a_gpu_goes_on_exactly() {
    // A GPU is through with so few steps before a kill can come.
    let steps = if std::env::var_os("SLIMTAU_TEST_GPU").is_some() { 200 } else { 1 };
    let (case, device) = (Case::longer(steps), device());
    let expected = case.finish("run", "whole", &[&device]);
    let out = case.at("killed");
    let mut kills = 0;
    for stage in ["teacher", "moco", "ccfs"] {
        let words = case.words("run", "killed", &[&device]);
        let mut child = command(&words).spawn().unwrap();
        let lines = || fs::read_to_string(out.join(stage).join("log.jsonl")).unwrap_or_default();
        while lines().lines().count() < 2 && child.try_wait().unwrap().is_none() {
            sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        let finished: Finished = child.wait_with_output().unwrap().into();
        let over = out.join(stage).join("weights.safetensors").exists();
        kills += usize::from(finished.code.is_none() && !over);
    }
    assert!(kills >= 2, "only {kills} kills came in the midst of a stage");
    case.finish("run", "killed", &[&device]).assert_same(&expected);
}
