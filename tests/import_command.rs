//! `slimtau import` as a user runs it: Paddle's file to Paddle's logits, and what is said of files that do
//! not fit. Formats and names are tested with the library, `crates/supernet/tests/import.rs`.

mod program;

use program::{Case, assert_clean, assert_refused, narrow_space, put, run, word};
use slimtau_base::TensorFile;
use slimtau_space::SearchSpace;
use slimtau_supernet::{Layout, Weights};
use std::fs;
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../supernet/tests/goldens").join(name)
}

/// The command's arguments for the goldens' space.
fn import<'a>(input: &'a Path, output: &'a Path, space: &'a Path) -> Vec<&'a str> {
    vec!["import", "--space", word(space), "--input", word(input), "--output", word(output)]
}

#[test]
fn paddles_file_becomes_a_checkpoint_with_paddles_logits() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (space, input) = (golden("four-stages.toml"), golden("protocol2.pdparams"));
    let said = run(&import(&input, &at("plain.st"), &space)).expect_success();
    for needle in ["Paddle", "`_layers.`", "`fn.`", "67 tensors", "StructuredToParameterName@@"] {
        assert!(said.contains(needle), "`{needle}` in {said}");
    }
    assert!(!said.contains("sorted"), "{said}");
    let sorted = at("sorted.st");
    let mut arguments = import(&input, &sorted, &space);
    arguments.push("--reorder");
    assert!(run(&arguments).expect_success().contains("sorted"));

    let logits = |checkpoint: &str, code: &str| {
        let (images, output) = (golden("paddle_logits.safetensors"), at("logits.st"));
        run(&[
            "forward",
            "--space",
            word(&space),
            "--checkpoint",
            word(&at(checkpoint)),
            "--arch",
            code,
            "--input",
            word(&images),
            "--output",
            word(&output),
        ])
        .expect_success();
        TensorFile::read(&output).unwrap().tensors["logits"].data.clone()
    };
    let largest_difference = |a: &[f32], b: &[f32]| {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()))
    };
    let golden_file = TensorFile::read(&golden("paddle_logits.safetensors")).unwrap();
    let paddles = &golden_file.tensors["logits"].data;
    // Depths, stem, then inner and outer widths by stage; half of 8 channels inside the last two blocks.
    let (largest, narrow) = ("121111111111111", "121111111113131");
    for checkpoint in ["plain.st", "sorted.st"] {
        let difference = largest_difference(paddles, &logits(checkpoint, largest));
        assert!(difference < 5e-5, "{checkpoint} is off by {difference}");
    }
    // Other channels come first, which narrower networks show.
    assert!(largest_difference(&logits("plain.st", narrow), &logits("sorted.st", narrow)) > 1e-2);
    assert_clean(folder.path());
}

#[test]
fn files_that_do_not_fit() {
    let folder = tempfile::tempdir().unwrap();
    let output = put(folder.path(), "w.safetensors", "what stood here");
    let refused = |input: &Path, space: &Path, needles: &[&str]| {
        assert_refused(&run(&import(input, &output, space)), needles);
        assert_eq!(fs::read(&output).unwrap(), b"what stood here");
        assert_clean(folder.path());
    };
    let space = golden("four-stages.toml");
    let evil = put(folder.path(), "evil.pdparams", b"\x80\x02cos\nsystem\nX\x04\0\0\0true\x85R.");
    refused(&evil, &space, &["evil.pdparams", "byte 2", "`os.system`", "refused"]);
    refused(&golden("old.pth"), &space, &["old.pth", "before 1.6", "save it again"]);
    refused(&space, &space, &["four-stages.toml", "neither a safetensors file"]);
    refused(&folder.path().join("none.pth"), &space, &["none.pth", "cannot read"]);
    let cut = fs::read(golden("protocol4.pdparams")).unwrap();
    let cut = put(folder.path(), "cut.pdparams", &cut[..9000]);
    refused(&cut, &space, &["cut.pdparams", "truncated"]);
    let narrow = put(folder.path(), "narrow.toml", narrow_space(12, 3));
    let wrong = [
        "plain.pth",
        "no place for `blocks.2.downsample.0.weight` and 21 more",
        "`blocks.0` to `blocks.5`",
        "another --space than narrow",
    ];
    refused(&golden("plain.pth"), &narrow, &wrong);
}

/// The teacher of a run may come from elsewhere.
#[test]
fn a_runs_teacher() {
    let case = Case::new();
    let space = SearchSpace::load(word(&case.at("narrow.toml"))).unwrap();
    let layout = Layout::supernet(&space).unwrap();
    let weights = Weights::init(&layout, 4);
    let mut theirs = TensorFile::default();
    for (name, tensor) in weights.to_file(&layout).tensors {
        theirs.tensors.insert(format!("module.{name}"), tensor);
    }
    theirs.write(&case.at("theirs.safetensors")).unwrap();
    let with_weights = |name: &str| {
        let config =
            case.config().replace("[teacher]", &format!("[teacher]\nweights = \"{name}\""));
        put(case.folder.path(), "config.toml", config);
        let (config, out) = (case.at("config.toml"), case.at(name).with_extension("out"));
        let finished = run(&["teacher", "--config", word(&config), "--out", word(&out)]);
        (finished, out.join("teacher/weights.safetensors"))
    };
    let (finished, path) = with_weights("theirs.safetensors");
    finished.expect_success();
    assert_eq!(Weights::load(&layout, &path).unwrap(), weights);
    put(case.folder.path(), "bad.pth", "PK\x03\x04 and no more");
    let (finished, _) = with_weights("bad.pth");
    assert_refused(&finished, &["bad.pth", "damaged"]);
    let wider = narrow_space(16, 1).replace("width = 16", "width = 24");
    put(case.folder.path(), "narrow.toml", wider);
    let (finished, _) = with_weights("theirs.safetensors");
    assert_refused(&finished, &["another configuration"]);
    std::fs::remove_dir_all(case.at("theirs.out")).unwrap();
    let (finished, _) = with_weights("theirs.safetensors");
    let likely = "another space than narrow";
    assert_refused(&finished, &["teacher.weights", "theirs.safetensors", "has shape [16", likely]);
}
