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
    let (config, out) = (root.join("config.toml"), root.join(out));
    let (config, out) = (word(&config), word(&out));
    run(&["inherit", "--config", config, "--out", out, "--threads", threads])
}

#[test]
fn damaged_files_are_skipped_in_the_same_way_by_any_number_of_threads() {
    let root = case("skip");
    let mut results = Vec::new();
    for (out, threads) in [("one", "1"), ("two", "2")] {
        let finished = inherit(root.path(), out, threads);
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
}

#[test]
fn damaged_files_end_a_run_that_says_nothing_of_them() {
    let root = case("fail");
    let needles = ["cannot decode image", "half.jpg", "the file ends before the image does"];
    assert_refused(&inherit(root.path(), "out", "2"), &needles);
}
