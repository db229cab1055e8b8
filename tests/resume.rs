//! A run that is killed or interrupted anywhere, as often as one likes, ends in the same bytes as
//! one that never was; and so does one with another number of threads, to compute or to load images.

mod program;

use program::{Finished, command, config, files_below, idx_folder, narrow_space, put, run, word};
use serde_json::Value;
use slimtau_base::TensorFile;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::Duration;

/// Data, space and configuration of a run, in a folder that goes when this does.
struct Case {
    folder: tempfile::TempDir,
}

impl Case {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        idx_folder(&at.join("data"), 16, 300, 200);
        put(at, "narrow.toml", narrow_space(16, 1));
        put(at, "config.toml", config(&at.join("data"), "narrow.toml"));
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The command line of the whole run into the folder `out`.
    fn words(&self, out: &str, more: &[&str]) -> Vec<String> {
        let (config, out) = (self.path("config.toml"), self.path(out));
        let words = ["run", "--config", word(&config), "--out", word(&out)];
        words.iter().chain(more).map(|w| (*w).to_owned()).collect()
    }

    /// Runs to the end and returns the results.
    fn finish(&self, out: &str, more: &[&str]) -> Results {
        run(&self.words(out, more)).expect_success();
        Results::read(&self.path(out))
    }
}

/// All of a run that the clock does not decide.
#[derive(PartialEq)]
struct Results {
    /// Bytes of weights, checkpoints, accuracies.
    files: BTreeMap<PathBuf, Vec<u8>>,
    /// Logs without rates and times, stand-alone accuracies without seconds.
    records: BTreeMap<PathBuf, Vec<Value>>,
    /// Everything there is.
    names: BTreeSet<PathBuf>,
}

impl Results {
    fn read(out: &Path) -> Self {
        let (mut files, mut records) = (BTreeMap::new(), BTreeMap::new());
        let names: BTreeSet<PathBuf> = files_below(out).into_iter().collect();
        for name in &names {
            let bytes = fs::read(out.join(name)).unwrap();
            let text = || String::from_utf8(bytes.clone()).unwrap();
            match name.file_name().and_then(|n| n.to_str()).unwrap() {
                "log.jsonl" => {
                    let lines = text().lines().map(|l| timeless(l.parse().unwrap())).collect();
                    records.insert(name.clone(), lines);
                }
                "results.json" => {
                    let all: Vec<Value> = serde_json::from_str(&text()).unwrap();
                    records.insert(name.clone(), all.into_iter().map(timeless).collect());
                }
                "report.html" | "report.json" | "seconds.json" => {}
                _ => {
                    files.insert(name.clone(), bytes);
                }
            }
        }
        Self { files, records, names }
    }
}

fn timeless(mut record: Value) -> Value {
    let fields = record.as_object_mut().expect("every record is an object");
    fields.retain(|key, _| key != "seconds" && key != "images_per_s");
    record
}

#[track_caller]
fn assert_same(got: &Results, expected: &Results) {
    assert_eq!(got.names, expected.names, "other files, or temporary ones left");
    for (name, bytes) in &expected.files {
        assert!(got.files.get(name) == Some(bytes), "{} differs", name.display());
    }
    assert_eq!(got.records, expected.records);
    let weights = got.files.keys().filter(|n| n.ends_with("weights.safetensors")).count();
    assert_eq!(weights, 3 + 3 * 2, "three stages, three subnets trained alone twice");
    assert!(got.files.contains_key(Path::new("inherited.json")));
    assert!(got.files.contains_key(Path::new("truth.csv")));
}

/// A moment in a run: this file has this many lines.
#[derive(Clone, Copy)]
struct Moment {
    stage: &'static str,
    file: &'static str,
    lines: usize,
}

const fn moment(stage: &'static str, file: &'static str, lines: usize) -> Moment {
    Moment { stage, file, lines }
}

/// Beginning, middle and end of every stage. A subnet's stand-alone result has six lines of JSON.
const MOMENTS: [Moment; 16] = [
    moment("teacher", "teacher/log.jsonl", 1),
    moment("teacher", "teacher/log.jsonl", 21),
    moment("teacher", "teacher/log.jsonl", 45),
    moment("moco", "moco/log.jsonl", 1),
    moment("moco", "moco/log.jsonl", 17),
    moment("moco", "moco/log.jsonl", 33),
    moment("ccfs", "ccfs/log.jsonl", 1),
    moment("ccfs", "ccfs/log.jsonl", 17),
    moment("ccfs", "ccfs/log.jsonl", 33),
    moment("inherit", "ccfs/weights.safetensors", 0),
    moment("inherit", "inherited.json.partial", 1),
    moment("standalone", "inherited.json", 1),
    moment("standalone", "standalone/22111111111-0/log.jsonl", 3),
    moment("standalone", "standalone/22111111111-0/log.jsonl", 20),
    moment("standalone", "standalone/results.json", 10),
    moment("standalone", "standalone/results.json", 26),
];

impl Moment {
    fn has_come(self, out: &Path) -> bool {
        let bytes = fs::read(out.join(self.file));
        bytes.is_ok_and(|b| b.iter().filter(|&&b| b == b'\n').count() >= self.lines)
    }

    /// Whether the stage has ended: it is too late to disturb it.
    fn is_over(self, out: &Path) -> bool {
        match self.stage {
            "inherit" => out.join("inherited.json").exists(),
            "standalone" => out.join("truth.csv").exists(),
            stage => out.join(stage).join("weights.safetensors").exists(),
        }
    }

    /// Waits for it; false if the program ended first.
    fn wait(self, child: &mut Child, out: &Path) -> bool {
        while !self.has_come(out) {
            if child.try_wait().unwrap().is_some() {
                return false;
            }
            sleep(Duration::from_micros(200));
        }
        true
    }
}

#[test]
fn a_run_killed_in_every_stage_ends_as_if_it_never_was() {
    let case = Case::new();
    let expected = case.finish("whole", &[]);
    let out = case.path("killed");
    let mut hit = BTreeSet::new();
    // Every start loads images in another way than the one before.
    for (moment, workers) in MOMENTS.iter().zip(["1", "2", "4", "0", "3"].iter().cycle()) {
        let words = case.words("killed", &["--workers", workers]);
        let mut child = command(&words).spawn().unwrap();
        let came = moment.wait(&mut child, &out);
        child.kill().unwrap();
        let finished: Finished = child.wait_with_output().unwrap().into();
        if came && finished.code.is_none() && !moment.is_over(&out) {
            hit.insert(moment.stage);
        } else if let Some(code) = finished.code {
            assert_eq!(code, 0, "{}", finished.stderr);
        }
    }
    let missed: Vec<&str> = ["teacher", "moco", "ccfs", "standalone"]
        .into_iter()
        .filter(|stage| !hit.contains(stage))
        .collect();
    assert!(missed.is_empty(), "no kill came in the midst of {missed:?}");
    assert_same(&case.finish("killed", &[]), &expected);
}

#[test]
fn a_run_killed_at_any_time_ends_as_if_it_never_was() {
    let case = Case::new();
    let expected = case.finish("whole", &[]);
    // Writes take a good part of such a small run, so many of these kills come in the midst of one.
    let mut kills = 0;
    for attempt in 0.. {
        let mut child = command(&case.words("killed", &[])).spawn().unwrap();
        sleep(Duration::from_millis(5 + 7 * attempt));
        child.kill().unwrap();
        let finished: Finished = child.wait_with_output().unwrap().into();
        match finished.code {
            None => kills += 1,
            Some(code) => {
                assert_eq!(code, 0, "after {kills} kills: {}", finished.stderr);
                break;
            }
        }
    }
    assert!(kills >= 5, "only {kills} kills");
    assert_same(&case.finish("killed", &[]), &expected);
}

#[test]
#[cfg(unix)]
fn an_interrupted_run_saves_says_how_to_go_on_and_does() {
    let case = Case::new();
    let expected = case.finish("whole", &[]);
    let out = case.path("stopped");
    let mut stopped_in = BTreeSet::new();
    let mut last: Option<(String, usize)> = None;
    for moment in MOMENTS {
        if moment.has_come(&out) {
            continue;
        }
        let mut child = command(&case.words("stopped", &[])).spawn().unwrap();
        if moment.wait(&mut child, &out) {
            // Ctrl-C in a terminal, SIGTERM from a scheduler.
            let signal = if moment.lines % 2 == 0 { "-TERM" } else { "-INT" };
            let _ = Command::new("kill").args([signal, &child.id().to_string()]).output();
        }
        let finished: Finished = child.wait_with_output().unwrap().into();
        if let Some((stage, step)) = last.take().filter(|(stage, _)| stage != "standalone") {
            // It goes on with the next step, not from the beginning.
            let next = format!(" {stage} {}/", step + 1);
            let shown = finished.stderr.lines().find(|line| line.contains(&format!(" {stage} ")));
            assert!(shown.is_none_or(|line| line.contains(&next)), "{next}: {}", finished.stderr);
        }
        if finished.code == Some(0) {
            continue;
        }
        assert_eq!(finished.code, Some(130), "{}", finished.stderr);
        let (_, message) = finished.stderr.split_once("stopped in stage ").unwrap();
        let stage = message.split_whitespace().next().unwrap().to_lowercase();
        let go_on = message.lines().nth(1).unwrap();
        assert!(go_on.contains("run --config") && go_on.contains(word(&out)), "{message}");
        if let Some(step) = message.split_once("after step ").map(|(_, rest)| rest) {
            let step: usize = step.split([';', ' ']).next().unwrap().parse().unwrap();
            // A line is logged at every step of so short a stage: nothing that was done is lost.
            let log = out.join(&stage).join("log.jsonl");
            if stage != "inherit" && log.exists() {
                let lines = fs::read_to_string(log).unwrap().lines().count();
                assert_eq!(lines, step, "stage {stage}");
            }
            if stage != "inherit" {
                last = Some((stage.clone(), step));
            }
        }
        stopped_in.insert(stage);
    }
    for stage in ["teacher", "moco", "ccfs", "standalone"] {
        assert!(stopped_in.contains(stage), "stopped only in {stopped_in:?}");
    }
    assert_same(&case.finish("stopped", &[]), &expected);
}

/// PA&DA and dynamic training have a state beyond weights: running norms, probabilities in force, the
/// images drawn for the period, a velocity for every group.
#[test]
#[cfg(unix)]
fn learned_sampling_and_separate_momenta_go_on_exactly() {
    const METHODS: &str = r#""pa-da"
pa_da = { update_steps = 5 }
dynamic = { max_decay = 4.0, split = "depth-2" }"#;
    let case = Case::new();
    let text = fs::read_to_string(case.path("config.toml")).unwrap();
    let text = text.replace("\"ccfs-f\"", METHODS).replace("keep = 2", "keep = 3");
    put(case.folder.path(), "config.toml", text);
    let words = |out: &str, more: &[&str]| {
        let mut words = case.words(out, more);
        "ccfs".clone_into(&mut words[0]);
        words
    };
    let finish = |out: &str, more: &[&str]| {
        run(&words(out, more)).expect_success();
        Results::read(&case.path(out))
    };
    let expected = finish("whole", &[]);

    let out = case.path("stopped");
    let mut stopped_at = BTreeSet::new();
    for lines in (1..36).step_by(3) {
        let moment = moment("ccfs", "ccfs/log.jsonl", lines);
        if moment.has_come(&out) {
            continue;
        }
        let mut child = command(&words("stopped", &[])).spawn().unwrap();
        if moment.wait(&mut child, &out) {
            let _ = Command::new("kill").args(["-TERM", &child.id().to_string()]).output();
        }
        let finished: Finished = child.wait_with_output().unwrap().into();
        if let Some((_, step)) = finished.stderr.split_once("stopped in stage Ccfs after step ") {
            let step: u64 = step.split(';').next().unwrap().parse().unwrap();
            stopped_at.insert(step);
        }
    }
    assert!(stopped_at.len() >= 3, "stopped only at {stopped_at:?}");
    assert!(stopped_at.iter().any(|step| step % 5 != 0), "never within a period: {stopped_at:?}");
    let same = |got: &Results| {
        assert_eq!(got.names, expected.names);
        for (name, bytes) in &expected.files {
            assert!(got.files.get(name) == Some(bytes), "{} differs", name.display());
        }
        assert_eq!(got.records, expected.records);
    };
    same(&finish("stopped", &[]));
    for threads in ["1", "3"] {
        same(&finish(threads, &["--threads", threads]));
    }

    // And there was something to lose.
    let state = TensorFile::read(&case.path("whole/ccfs/checkpoint.safetensors")).unwrap();
    for velocity in ["velocity", "velocity.1"] {
        assert!(state.tensors[velocity].data.iter().any(|&v| v != 0.0), "{velocity}");
    }
    for (what, n) in [("images", 300), ("paths", 3 + 2 + 6 + 3 + 2 + 6)] {
        let probabilities = &state.tensors[&format!("{what}.probabilities")].data;
        assert_eq!(probabilities.len(), n, "{what}");
        let all = |values: &[f32]| values.iter().all(|v| *v == values[0]);
        assert!(!all(probabilities), "{what} are uniform");
        assert_ne!(state.tensors[&format!("{what}.norms")].data, *probabilities);
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let case = Case::new();
    // Wide enough that the work is shared out.
    let wide =
        narrow_space(16, 1).replace("width = 16", "width = 64").replace("width = 8", "width = 32");
    put(case.folder.path(), "narrow.toml", wide);
    let one = case.finish("one", &["--threads", "1"]);
    for threads in ["2", "3"] {
        assert_same(&case.finish(threads, &["--threads", threads]), &one);
    }
}

#[test]
fn stages_one_by_one_are_the_same_as_all_in_one() {
    let case = Case::new();
    let expected = case.finish("whole", &[]);
    for stage in ["standalone", "teacher", "moco", "ccfs", "inherit"] {
        let mut words = case.words("steps", &[]);
        stage.clone_into(&mut words[0]);
        run(&words).expect_success();
        let done = case.path("steps").join(if stage == "inherit" {
            "inherited.json".to_owned()
        } else if stage == "standalone" {
            "standalone/results.json".to_owned()
        } else {
            format!("{stage}/weights.safetensors")
        });
        assert!(done.is_file(), "{stage} left no {}", done.display());
    }
    assert_same(&case.finish("steps", &[]), &expected);
}

#[test]
fn fresh_starts_anew() {
    let case = Case::new();
    let expected = case.finish("whole", &[]);
    // Another configuration's run in the same folder, then this one's over it.
    let text = fs::read_to_string(case.path("config.toml")).unwrap();
    put(case.folder.path(), "config.toml", text.replace("seed = 7", "seed = 8"));
    let other = case.finish("again", &[]);
    assert!(other != expected, "the seed decides the result");
    put(case.folder.path(), "config.toml", text);
    assert_same(&case.finish("again", &["--fresh"]), &expected);
}
