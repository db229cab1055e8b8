//! What the program says about input that it cannot use: exit code 2, one line that names the file,
//! the line and the value, and nothing half-written.

mod program;

use program::{
    Case, Finished, NARROW_CODES, assert_clean, assert_refused, command, files_below, narrow_space,
    put, run, word,
};
use slimtau_base::TensorFile;
use slimtau_space::SearchSpace;
use slimtau_supernet::{Layout, Weights};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

#[test]
fn space_files() {
    let folder = tempfile::tempdir().unwrap();
    let cases: [(&str, &str, &[&str]); 7] = [
        ("depth = [1, 2]", "deep = [1, 2]", &["s.toml: line ", "`deep`"]),
        ("depth = [1, 2]", "depth = [2, 1]", &["s.toml: line 11", "stage 1.depth = [2, 1]"]),
        ("depth = [1, 2]", "depth = [1, 10]", &["s.toml: line 11", "[1, 10]"]),
        ("kernel = 3", "kernel = 4", &["s.toml: line 8", "stem.kernel = 4", "odd"]),
        ("0.75, 0.5", "0.75, 0.8", &["s.toml: line 5", "[0.75, 0.8]"]),
        ("codes = 3 }", "codes = 4 }", &["s.toml: line 8", "stem.codes = 4"]),
        ("\"basic\"", "\"basique\"", &["s.toml: line 7", "`basique`"]),
    ];
    for (old, new, needles) in cases {
        let text = narrow_space(28, 1);
        assert!(text.contains(old), "{old}");
        let path = put(folder.path(), "s.toml", text.replacen(old, new, 1));
        assert_refused(&run(&["space", "count", "--space", word(&path)]), needles);
    }
    let unknown = run(&["space", "count", "--space", "cvpr2023"]);
    assert_refused(&unknown, &["`cvpr2023`", "cvpr2022, mini, tiny"]);
}

#[test]
fn codes() {
    let folder = tempfile::tempdir().unwrap();
    let space = put(folder.path(), "narrow.toml", narrow_space(12, 3));
    let good = NARROW_CODES[0];
    // (the file's text, what the message must hold)
    let cases: [(&str, &[&str]); 9] = [
        ("", &["codes.txt", "no codes"]),
        ("22111111111\n2211111111\n", &["codes.txt, line 2", "10 digits", "11, or 12"]),
        ("22111111111\n\n22111111411", &["line 3", "`22111111411`, digit 9", "`4`", "1 to 3"]),
        ("122111111111,222111111111", &["line 1", "digit 1 (image size)", "`2`"]),
        ("32111111111", &["digit 1 (depth of stage 1)", "`3`", "1 to 2"]),
        ("12111111111", &["digit 6 (padding of stage 1", "`1`", "0"]),
        ("22011111111", &["digit 3 (width of the stem)", "`0`"]),
        ("221x1111111", &["digit 4 (middle width of stage 1, block 1)", "`x`"]),
        ("22１11111111", &["digit 3", "`１`"]),
    ];
    for (text, needles) in cases {
        let list = put(folder.path(), "codes.txt", text);
        let arguments = ["space", "stats", "--space", word(&space), "--codes", word(&list)];
        assert_refused(&run(&arguments), needles);
    }
    let none = ["space", "stats", "--space", word(&space), "--codes", "none.txt"];
    assert_refused(&run(&none), &["none.txt", "No such file or directory"]);
    let piped = Command::new("sh")
        .arg("-c")
        .arg(format!("echo {good}x | \"$0\" space stats --space \"$1\" --codes -"))
        .args([env!("CARGO_BIN_EXE_slimtau"), word(&space)])
        .output()
        .unwrap();
    assert_refused(&piped.into(), &["standard input, line 1", "`22111111111x`"]);
}

/// Everything that `forward` needs, in a folder.
struct ForwardCase {
    folder: tempfile::TempDir,
    code: &'static str,
    space: SearchSpace,
}

impl ForwardCase {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = put(folder.path(), "narrow.toml", narrow_space(12, 3));
        let space = SearchSpace::load(word(&file)).unwrap();
        let layout = Layout::supernet(&space).unwrap();
        Weights::init(&layout, 1).save(&layout, &folder.path().join("w.safetensors")).unwrap();
        let case = Self { folder, code: NARROW_CODES[2], space };
        case.images(&[2, 3, 12, 12], "images");
        put(case.folder.path(), "y.safetensors", "what stood here");
        case
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn images(&self, shape: &[usize], name: &str) {
        let mut file = TensorFile::default();
        file.insert(name, shape, vec![0.5; shape.iter().product()]);
        file.write(&self.at("x.safetensors")).unwrap();
    }

    fn words(&self) -> Vec<String> {
        let at = |name| word(&self.at(name)).to_owned();
        let pairs = [
            ("--space", at("narrow.toml")),
            ("--checkpoint", at("w.safetensors")),
            ("--arch", self.code.to_owned()),
            ("--input", at("x.safetensors")),
            ("--output", at("y.safetensors")),
        ];
        let words = pairs.into_iter().flat_map(|(key, value)| [key.to_owned(), value]);
        std::iter::once("forward".to_owned()).chain(words).collect()
    }

    /// The command fails, and what stood at the output still stands.
    #[track_caller]
    fn refused(&self, needles: &[&str]) {
        assert_refused(&run(&self.words()), needles);
        assert_eq!(fs::read(self.at("y.safetensors")).unwrap(), b"what stood here");
        assert_clean(self.folder.path());
    }
}

#[test]
fn forward_codes_and_images() {
    let mut case = ForwardCase::new();
    case.code = "22111121111";
    case.refused(&["`22111121111`", "stage 1, block 2", "digit 7 is 2 where 1 is needed", "alone"]);
    case.code = "22111111311";
    case.refused(&["`22111111311`", "stage 2, block 2", "digit 11 is 1 where 3 is needed"]);
    case.code = "22111111110";
    case.refused(&["`22111111110`, digit 11", "`0`", "1 to 3"]);
    case.code = "2211";
    case.refused(&["`2211`", "4 digits", "11, or 12"]);
    case.code = NARROW_CODES[2];
    let takes = "[N, 3, 12, 12]";
    for shape in
        [&[2, 12, 12, 3][..], &[2, 1, 12, 12], &[2, 3, 13, 13], &[3, 12, 12], &[0, 3, 12, 12]]
    {
        case.images(shape, "images");
        case.refused(&["x.safetensors", &format!("{shape:?}"), takes]);
    }
    case.images(&[2, 3, 12, 12], "image");
    case.refused(&["x.safetensors", "`images`"]);
    put(case.folder.path(), "x.safetensors", "not a tensor file");
    case.refused(&["x.safetensors", "damaged or truncated"]);
    fs::remove_file(case.at("x.safetensors")).unwrap();
    case.refused(&["x.safetensors", "No such file or directory"]);
}

#[test]
fn forward_checkpoints() {
    let case = ForwardCase::new();
    let path = case.at("w.safetensors");
    let good = fs::read(&path).unwrap();
    for kept in [0, 7, 100, good.len() / 2, good.len() - 1] {
        fs::write(&path, &good[..kept]).unwrap();
        case.refused(&["w.safetensors", "damaged or truncated"]);
    }
    for at in [good.len() / 2, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        fs::write(&path, bad).unwrap();
        case.refused(&["w.safetensors", "checksum"]);
    }
    // A number that is none, in a file whose checksum is right.
    let layout = Layout::supernet(&case.space).unwrap();
    let mut weights = Weights::init(&layout, 1);
    weights.params[0] = f32::NAN;
    weights.save(&layout, &path).unwrap();
    case.refused(&["w.safetensors", "NaN", "tensor `blocks."]);
    // Other networks: more channels, and none of the tensors.
    let other = narrow_space(12, 3).replace("width = 16", "width = 24");
    let other = SearchSpace::from_toml(&other, "other").unwrap();
    let other = Layout::supernet(&other).unwrap();
    Weights::init(&other, 1).save(&other, &path).unwrap();
    let likely = "another --space than narrow, or of a network trained alone";
    case.refused(&["w.safetensors", "tensor `blocks.3.", "has shape [24", "expected [16", likely]);
    let mut file = TensorFile::default();
    file.insert("layer1.0.weight", &[1], vec![0.0]);
    file.write(&path).unwrap();
    case.refused(&["w.safetensors", "tensor `blocks.0.", "is missing", likely]);
    fs::remove_file(&path).unwrap();
    case.refused(&["w.safetensors", "No such file or directory"]);
}

#[test]
fn forward_outputs() {
    let case = ForwardCase::new();
    let mut words = case.words();
    let last = words.len() - 1;
    // Below a file, and a folder itself.
    words[last] = word(&case.at("narrow.toml/y.safetensors")).to_owned();
    assert_refused(&run(&words), &["cannot write", "narrow.toml/y.safetensors"]);
    fs::create_dir(case.at("folder")).unwrap();
    put(&case.at("folder"), "inside", "");
    words[last] = word(&case.at("folder")).to_owned();
    assert_refused(&run(&words), &["cannot write", "folder", "directory"]);
    assert_clean(case.folder.path());
}

#[test]
fn scores() {
    let folder = tempfile::tempdir().unwrap();
    let good = put(folder.path(), "truth.csv", "code,acc\n11,70\n12,71\n13,72\n");
    // (the predictions' text, what the message must hold)
    let cases: [(&str, &[&str]); 15] = [
        ("", &["p.txt", "empty"]),
        ("{\"11\": 1, \"12\"", &["p.txt", "line 1"]),
        ("{\"11\": 1,\n \"12\": \"x\"}", &["p.txt", "`12`", "\"x\"", "line 2"]),
        ("{\"a1\": {\"acc\": 70}}", &["p.txt", "`a1`", "`arch` is missing"]),
        ("[1, 2]", &["p.txt", "JSON list"]),
        ("code,acc\n11,70\n12,seventy\n", &["p.txt, line 3", "`seventy`"]),
        ("code,acc\n11,70\n12\n", &["p.txt, line 3", "2 columns"]),
        ("code,acc\n11,NaN\n", &["p.txt, line 2", "NaN"]),
        ("arch,top1\n11,70\n", &["p.txt, line 1", "`code,acc`", "`arch,top1`"]),
        ("11,1\n12,2\n11,3\n", &["p.txt", "code 11", "1 at line 1", "3 at line 3"]),
        (
            "{\"a\": {\"acc\": 1, \"arch\": \"11\"}, \"b\": {\"acc\": 2, \"arch\": \"11\"}}",
            &["p.txt", "code 11", "key `a`", "key `b`"],
        ),
        ("11,1\n1x,2\n", &["p.txt, line 2", "`1x`"]),
        ("1111,1\n1112,2\n", &["p.txt", "4 digits", "truth.csv", "2"]),
        ("21,1\n22,2\n", &["p.txt", "truth.csv", "0 codes in common"]),
        ("11,1\n22,2\n", &["p.txt", "truth.csv", "1 codes in common"]),
    ];
    for (text, needles) in cases {
        let bad = put(folder.path(), "p.txt", text);
        let words = ["rank", "score", "--predictions", word(&bad), "--truth", word(&good)];
        assert_refused(&run(&words), needles);
        let json: Vec<&str> = words.into_iter().chain(["--json"]).collect();
        assert_refused(&run(&json), needles);
    }
    let (p, t) = (word(&good), "none.csv");
    let none = run(&["rank", "score", "--predictions", p, "--truth", t]);
    assert_refused(&none, &["none.csv", "No such file or directory"]);
    let zero = run(&["rank", "score", "--predictions", p, "--truth", p, "--resamples", "0"]);
    assert_refused(&zero, &["resamples", "0"]);
}

#[test]
fn data_folders() {
    let case = Case::new();
    let images = case.at("data/train-images-idx3-ubyte");
    let labels = case.at("data/t10k-labels-idx1-ubyte");
    let (good_images, good_labels) = (fs::read(&images).unwrap(), fs::read(&labels).unwrap());
    let refused = |needles: &[&str]| {
        assert_refused(&case.run("out"), needles);
        assert!(!case.at("out").exists());
    };
    fs::write(&images, &good_images[..good_images.len() - 1]).unwrap();
    refused(&["train-images-idx3-ubyte"]);
    fs::write(&images, [&good_images[..], &[0]].concat()).unwrap();
    refused(&["train-images-idx3-ubyte"]);
    fs::write(&images, &good_images[..10]).unwrap();
    refused(&["train-images-idx3-ubyte"]);
    let mut magic = good_images.clone();
    magic[3] = 9;
    fs::write(&images, magic).unwrap();
    refused(&["train-images-idx3-ubyte", "809"]);
    fs::write(&images, b"\x1f\x8bnot really gzip").unwrap();
    refused(&["train-images-idx3-ubyte", "gzip"]);
    fs::remove_file(&images).unwrap();
    refused(&["data", "neither train-images-idx3-ubyte nor train-images-idx3-ubyte.gz"]);
    fs::write(&images, &good_images).unwrap();
    let mut label = good_labels.clone();
    label[8 + 5] = 77;
    fs::write(&labels, label).unwrap();
    refused(&["t10k-labels-idx1-ubyte", "label 77 of item 5"]);
    fs::write(&labels, &good_labels).unwrap();
    // Images of another size than the space's.
    put(case.folder.path(), "narrow.toml", narrow_space(28, 1));
    refused(&["space narrow takes 28x28x1", "16x16x1"]);
    put(case.folder.path(), "narrow.toml", narrow_space(16, 3));
    refused(&["space narrow takes 16x16x3", "16x16x1"]);
}

#[test]
fn image_folders() {
    let case = Case::new();
    let folder = case.at("images");
    let config = case.config().replace("/data\"", "/images\"");
    put(case.folder.path(), "config.toml", config);
    fs::create_dir_all(folder.join("train")).unwrap();
    assert_refused(&case.run("out"), &["images/train", "no class folders"]);
    // A name does not make a picture.
    put(&folder, "train/cat/1.png", "not a picture");
    assert_refused(&case.run("out"), &["images/val", "No such file or directory"]);
    put(&folder, "val/dog/1.png", "not a picture");
    assert_refused(&case.run("out"), &["images/val/dog", "class `dog`"]);
    fs::rename(folder.join("val/dog"), folder.join("val/cat")).unwrap();
    let finished = case.run("out");
    assert_refused(&finished, &["images/train/cat/1.png", "decode"]);
    assert!(!case.at("out").exists());
    // A folder that was there before stays.
    fs::create_dir(case.at("out")).unwrap();
    assert_refused(&case.run("out"), &["images/train/cat/1.png", "decode"]);
    assert_eq!(fs::read_dir(case.at("out")).unwrap().count(), 0);
    assert_clean(case.folder.path());
}

#[test]
fn output_folders() {
    let case = Case::new();
    put(case.folder.path(), "file", "mine");
    assert_refused(&case.run("file"), &["file", "not a folder"]);
    assert_refused(&case.run("file/below"), &["file/below", "cannot write"]);
    assert_eq!(fs::read(case.at("file")).unwrap(), b"mine");
    put(case.folder.path(), "theirs/precious.txt", "theirs");
    let not_ours = ["theirs", "not empty and not a run's folder", "--out"];
    assert_refused(&case.run("theirs"), &not_ours);
    // `--fresh` must not delete what no run has made.
    let (config, theirs) = (case.at("config.toml"), case.at("theirs"));
    let fresh = run(&["run", "--config", word(&config), "--out", word(&theirs), "--fresh"]);
    assert_refused(&fresh, &not_ours);
    assert_eq!(files_below(&theirs), [Path::new("precious.txt")]);
    let teach = |out| {
        let (config, out) = (case.at("config.toml"), case.at(out));
        run(&["teacher", "--config", word(&config), "--out", word(&out)])
    };
    teach("out").expect_success();
    let before = fs::read(case.at("out/teacher/weights.safetensors")).unwrap();
    put(case.folder.path(), "config.toml", case.config().replace("seed = 7", "seed = 8"));
    assert_refused(&case.run("out"), &["out", "another configuration", "--fresh", "--out"]);
    assert_eq!(fs::read(case.at("out/teacher/weights.safetensors")).unwrap(), before);
    // Nor does `--fresh` delete what someone put beside a run's files, or the configuration itself.
    let fresh = |config: &Path| {
        run(&["run", "--config", word(config), "--out", word(&case.at("out")), "--fresh"])
    };
    put(&case.at("out"), "notes.txt", "mine");
    assert_refused(&fresh(&case.at("config.toml")), &["out", "notes.txt", "--fresh"]);
    fs::remove_file(case.at("out/notes.txt")).unwrap();
    put(&case.at("out"), "config.toml", case.config().replace("narrow", "../narrow"));
    assert_refused(&fresh(&case.at("out/config.toml")), &["out/config.toml", "--fresh"]);
    assert_eq!(fs::read(case.at("out/teacher/weights.safetensors")).unwrap(), before);
}

#[test]
fn a_refused_command_leaves_nothing() {
    let case = Case::new();
    let config = case.at("config.toml");
    let refused = |words: &[&str], needles: &[&str]| {
        let (out, config) = (case.at("new/out"), word(&config));
        let given = ["--config", config, "--out", word(&out)];
        assert_refused(&run(&[&words[..1], &given, &words[1..]].concat()), needles);
        assert!(!case.at("new").exists(), "{words:?}");
    };
    refused(&["teacher", "--full"], &["config.toml", "--full"]);
    refused(&["standalone", "--arch", "2211"], &["--arch 2211", "4 digits"]);
    refused(&["ground-truth"], &["config.toml", "standalone.truth is not set"]);
    refused(&["run", "--precision", "bf16"], &["--precision bf16", "--device cuda"]);
    // No machine has so many; without a driver it is that which is missing.
    refused(&["run", "--device", "cuda:4096"], &[]);
    refused(&["run", "--device", "emulator:none.so"], &["none.so"]);
    let change = |old: &str, new: &str| {
        put(case.folder.path(), "config.toml", case.config().replace(old, new))
    };
    change("seeds = 2", "seeds = 2\ntruth = \"none.json\"");
    refused(&["ground-truth", "--verify", "1"], &["none.json", "No such file"]);
    put(case.folder.path(), "none.json", "[]");
    refused(&["ground-truth"], &["none.json", "line 1"]);
    change("[teacher]", "[teacher]\nweights = \"none.pth\"");
    refused(&["run"], &["none.pth", "No such file"]);

    // Nor does a refused `--fresh` cost an earlier run.
    put(case.folder.path(), "config.toml", case.config());
    let words = |more: &[&str]| {
        let (config, out) = (word(&config).to_owned(), word(&case.at("out")).to_owned());
        let words = ["teacher", "--config", &config, "--out", &out];
        run(&[&words, more].concat())
    };
    words(&[]).expect_success();
    let before = files_below(&case.at("out"));
    assert_refused(&words(&["--fresh", "--full"]), &["--full"]);
    change("[teacher]", "[teacher]\nweights = \"none.pth\"");
    assert_refused(&words(&["--fresh"]), &["none.pth"]);
    assert_eq!(files_below(&case.at("out")), before);
}

#[test]
fn damaged_runs() {
    let case = Case::new();
    let done = case.run("out");
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    // (file, bytes kept of it or which to flip, files to remove first, what the message must hold)
    let flip = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        let at = bytes.len() - 9;
        bytes[at] ^= 4;
        bytes
    };
    let cut = |bytes: &[u8]| bytes[..bytes.len() / 2].to_vec();
    type Damage<'a> = &'a dyn Fn(&[u8]) -> Vec<u8>;
    let cases: [(&str, Damage, &[&str], &str); 9] = [
        ("teacher/checkpoint.safetensors", &flip, &["teacher/weights.safetensors"], "checksum"),
        ("teacher/checkpoint.safetensors", &cut, &["teacher/weights.safetensors"], "truncated"),
        ("moco/checkpoint.safetensors", &flip, &["moco/weights.safetensors"], "checksum"),
        ("ccfs/checkpoint.safetensors", &flip, &["ccfs/weights.safetensors"], "checksum"),
        ("teacher/weights.safetensors", &flip, &["ccfs/weights.safetensors"], "checksum"),
        ("ccfs/weights.safetensors", &cut, &["inherited.json"], "truncated"),
        ("inherited.json", &cut, &[], "line "),
        ("standalone/results.json", &cut, &[], "line "),
        ("ccfs/log.jsonl", &|b| [b"{}\n", b].concat(), &["ccfs/weights.safetensors"], "line 1"),
    ];
    for (file, damage, removed, needle) in cases {
        let path = case.at("out").join(file);
        let good = fs::read(&path).unwrap();
        let saved: Vec<Vec<u8>> =
            removed.iter().map(|name| fs::read(case.at("out").join(name)).unwrap()).collect();
        removed.iter().for_each(|name| fs::remove_file(case.at("out").join(name)).unwrap());
        let bad = damage(&good);
        fs::write(&path, &bad).unwrap();
        assert_refused(&case.run("out"), &[file, needle]);
        assert_eq!(fs::read(&path).unwrap(), bad, "{file}: the evidence was changed");
        assert_clean(&case.at("out"));
        fs::write(&path, &good).unwrap();
        for (name, bytes) in removed.iter().zip(saved) {
            fs::write(case.at("out").join(name), bytes).unwrap();
        }
    }
    // A checkpoint of another stage.
    fs::remove_file(case.at("out/ccfs/weights.safetensors")).unwrap();
    let (teacher, ccfs) = (case.at("out/teacher"), case.at("out/ccfs"));
    fs::copy(teacher.join("checkpoint.safetensors"), ccfs.join("checkpoint.safetensors")).unwrap();
    assert_refused(
        &case.run("out"),
        &["ccfs/checkpoint.safetensors", "stage teacher", "stage ccfs"],
    );
}

#[test]
fn arguments() {
    let folder = tempfile::tempdir().unwrap();
    let space = put(folder.path(), "narrow.toml", narrow_space(12, 3));
    let space = word(&space);
    let cases: [(&[&str], &[&str]); 7] = [
        (&["data", "pack", "--data", "nowhere", "--output", "o"], &["--data nowhere", "no such"]),
        (&["bench", "eval", "--space", space, "--batch", "1"], &["--batch 1"]),
        (&["bench", "eval", "--space", space, "--steps", "0"], &["--steps 0"]),
        (&["bench", "eval", "--space", "mega"], &["`mega`"]),
        (&["space", "sample", "--space", space, "-n", "1", "--keep", "0"], &["--keep 0"]),
        (
            &["space", "sample", "--space", space, "-n", "1", "--candidates", "2"],
            &["--candidates 2", "4"],
        ),
        (
            &[
                "rank",
                "eval",
                "--space",
                space,
                "--checkpoint",
                "w",
                "--codes",
                "c",
                "--output",
                "o",
                "--batch",
                "0",
            ],
            &["--batch 0"],
        ),
    ];
    for (words, needles) in cases {
        assert_refused(&run(words), needles);
    }
    // What clap refuses has its own form: a first line that says it all, then the usage.
    let cases: [(&[&str], &[&str]); 5] = [
        (&["space", "sample", "--space", space, "-n", "x"], &["'x'", "-n"]),
        (
            &["space", "sample", "--space", space, "-n", "1", "--sampler", "best"],
            &["'best'", "--sampler", "ccfs-f"],
        ),
        (&["bench", "step3", "--space", space], &["'step3'"]),
        (&["bench", "eval", "--space", space, "--thread", "2"], &["'--thread'"]),
        (&["trane"], &["'trane'"]),
    ];
    for (words, needles) in cases {
        let finished = run(words);
        assert_eq!(finished.code, Some(2), "{}", finished.stderr);
        let first = finished.stderr.lines().next().unwrap();
        assert!(first.starts_with("error: "), "{first}");
        needles.iter().for_each(|n| assert!(first.contains(n), "{n} is not in: {first}"));
    }
}

/// Every write to this device fails as on a full disk.
#[cfg(target_os = "linux")]
#[test]
fn a_full_standard_output() {
    let folder = tempfile::tempdir().unwrap();
    let space = put(folder.path(), "narrow.toml", narrow_space(12, 3));
    let scores = put(folder.path(), "s.csv", "11,1\n12,2\n13,3\n");
    let (space, scores) = (word(&space), word(&scores));
    let cases: [&[&str]; 5] = [
        &["space", "count", "--space", space],
        &["space", "sample", "--space", space, "-n", "100000"],
        &["rank", "score", "--predictions", scores, "--truth", scores],
        &["rank", "score", "--predictions", scores, "--truth", scores, "--json"],
        &["bench", "eval", "--space", space, "--batch", "2", "--steps", "1", "--json"],
    ];
    for words in cases {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let finished = command(words).stdout(Stdio::from(full)).output().unwrap().into();
        assert_refused(&finished, &["No space left on device"]);
    }
}

/// A bound on the size of files stands in for a full disk: it needs no rights. The system would end
/// the program by a signal unless told to let the write fail.
#[cfg(target_os = "linux")]
fn run_with_files_of_at_most(blocks: usize, words: &[&str]) -> Finished {
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(script).arg(env!("CARGO_BIN_EXE_slimtau")).args(words);
    shell.output().unwrap().into()
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk() {
    let case = ForwardCase::new();
    // 7,000 x 10 logits of 4 bytes need more than 100 KiB; `ulimit` counts 512 or 1,024 bytes.
    case.images(&[7_000, 3, 12, 12], "images");
    let words = case.words();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let finished = run_with_files_of_at_most(100, &words);
    assert_refused(
        &finished,
        &["cannot write", "y.safetensors", "File too large", "nothing was changed"],
    );
    assert_eq!(fs::read(case.at("y.safetensors")).unwrap(), b"what stood here");
    assert_clean(case.folder.path());

    let case = Case::new();
    let (config, out) = (case.at("config.toml"), case.at("out"));
    let words = ["run", "--config", word(&config), "--out", word(&out)];
    // The marker and a few lines of the log fit, a checkpoint does not.
    let finished = run_with_files_of_at_most(16, &words);
    assert_refused(
        &finished,
        &["cannot write", "teacher/checkpoint.safetensors", "File too large"],
    );
    assert_clean(&out);
    // Once there is room, the same command goes on, to the same end as elsewhere.
    run(&words).expect_success();
    let elsewhere = case.run("elsewhere");
    assert_eq!(elsewhere.code, Some(0), "{}", elsewhere.stderr);
    for file in ["ccfs/weights.safetensors", "inherited.json", "truth.csv"] {
        let read = |folder: &str| fs::read(case.at(folder).join(file)).unwrap();
        assert_eq!(read("out"), read("elsewhere"), "{file}");
    }
    assert_clean(&out);
}
