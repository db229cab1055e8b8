//! Runs on folders of image files of any size: JPEG and PNG, a flat validation folder with a label file, and files that
//! cannot be decoded.

mod program;

use program::{Finished, assert_refused, config, narrow_space, put, run, word};
use std::fs;
use std::path::Path;

const GOLDENS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/tests/goldens");

/// A folder with 2 classes of photographs, a damaged one on each side, space and configuration.
fn case(corrupt: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("photographs");
    let copy = |name: &str, to: &str| {
        let bytes = fs::read(Path::new(GOLDENS).join(name)).unwrap();
        put(&data, to, bytes);
    };
    for (class, names) in [
        ("ant", ["baseline420.jpg", "cmyk.jpg", "large.jpg", "alpha.png"]),
        ("bee", ["grey.jpg", "odd444.jpg", "portrait.jpg", "wide.png"]),
    ] {
        names.iter().for_each(|name| copy(name, &format!("train/{class}/{name}")));
    }
    for name in ["turned.jpg", "palette.png", "progressive420.jpg"] {
        copy(name, &format!("val/{name}"));
    }
    for damaged in ["train/bee/half.jpg", "val/half.jpg"] {
        let bytes = fs::read(Path::new(GOLDENS).join("large.jpg")).unwrap();
        put(&data, damaged, &bytes[..bytes.len() / 2]);
    }
    let labels = "half.jpg bee\nturned.jpg ant\npalette.png bee\nprogressive420.jpg ant\n";
    put(&data, "val_labels.txt", labels);
    put(root.path(), "narrow.toml", narrow_space(16, 3));
    let mut text = config(&data, "narrow.toml")
        .replace("crop_padding = 1", &format!("crop = \"random-resized\"\ncorrupt = \"{corrupt}\""))
        .replace("key_momentum", "min_scale = 0.3\nkey_momentum");
    for (steps, few) in [
        ("steps = 48", "steps = 5"),
        ("steps = 36", "steps = 5"),
        ("warmup_steps = 4", "warmup_steps = 1"),
    ] {
        text = text.replace(steps, few);
    }
    put(root.path(), "config.toml", text);
    root
}

fn inherit(root: &Path, out: &str, threads: &str) -> Finished {
    inherit_with(root, out, &["--threads", threads])
}

fn inherit_with(root: &Path, out: &str, more: &[&str]) -> Finished {
    let (config, out) = (root.join("config.toml"), root.join(out));
    let words = ["inherit", "--config", word(&config), "--out", word(&out)];
    run(&[&words, more].concat())
}

#[test]
fn damaged_files_are_skipped_in_the_same_way_by_any_number_of_threads() {
    let root = case("skip");
    let mut results = Vec::new();
    for (out, threads, workers) in [("one", "1", "1"), ("two", "2", "2"), ("four", "2", "4")] {
        let more = ["--threads", threads, "--workers", workers];
        let finished = inherit_with(root.path(), out, &more);
        let stderr = finished.stderr.clone();
        finished.expect_success();
        let lines = |needle: &str| stderr.lines().filter(|line| line.contains(needle)).count();
        assert_eq!(lines("half.jpg"), 2, "each is named once: {stderr}");
        assert_eq!(lines("the next of its class takes its place (1 so far)"), 1, "{stderr}");
        assert_eq!(lines("left out of validation (1 so far)"), 1, "{stderr}");
        let inherited = fs::read_to_string(root.path().join(out).join("inherited.json")).unwrap();
        let weights = fs::read(root.path().join(out).join("ccfs/weights.safetensors")).unwrap();
        results.push((inherited, weights));
        // Accuracies are of the three images left.
        let text = fs::read_to_string(root.path().join(out).join("config.toml")).unwrap();
        assert!(text.contains("# validation: 3 images (all but 1 that"), "{text}");
    }
    assert!(results[0] == results[1], "one thread and two");
    assert!(results[0] == results[2], "two threads that load images and four");
}

#[test]
fn threads_that_load_are_not_part_of_a_run() {
    let root = case("skip");
    let config = root.path().join("config.toml");
    let text = fs::read_to_string(&config).unwrap();
    let with = |key: &str| {
        put(
            root.path(),
            "config.toml",
            text.replace("flip = true", &format!("flip = true\n{key}")),
        );
    };
    with("workers = 2");
    inherit_with(root.path(), "out", &[]).expect_success();
    let out = root.path().join("out");
    let kept = fs::read_to_string(out.join("config.toml")).unwrap();
    assert!(!kept.contains("workers"), "{kept}");
    // Stage 3 alone is done again, by the run's configuration as it was, with other threads, and without the key.
    for key in ["workers = 3", ""] {
        let inherited = fs::read(out.join("inherited.json")).unwrap();
        fs::remove_file(out.join("inherited.json")).unwrap();
        with(key);
        inherit_with(root.path(), "out", &[]).expect_success();
        assert_eq!(fs::read(out.join("inherited.json")).unwrap(), inherited, "{key}");
        assert_eq!(fs::read_to_string(out.join("config.toml")).unwrap(), kept);
    }
    let many = inherit_with(root.path(), "out", &["--workers", "5000"]);
    assert_refused(&many, &["--workers 5000: at most 1024 threads"]);
    with("workers = 5000");
    let many = inherit_with(root.path(), "out", &[]);
    assert_refused(&many, &["config.toml", "data.workers = 5000: at most 1024 threads"]);
}

#[test]
fn damaged_files_end_a_run_that_says_nothing_of_them() {
    let root = case("fail");
    let needles = ["cannot decode image", "half.jpg", "the file ends before the image does"];
    assert_refused(&inherit(root.path(), "out", "2"), &needles);
}
