//! `rank eval` and `merge`, `search`, `export` and `forward` with a run's configuration see what the run's own stage 3 sees.

mod program;

use program::{Case, Finished, NARROW_CODES, assert_refused, idx_folder, put, run, word};
use slimtau_base::TensorFile;
use slimtau_ranking::Scores;
use slimtau_space::SearchSpace;
use slimtau_supernet::{Layout, Plan, Session, Weights};
use std::fs;

/// A run of which every key counts for its inherited accuracies.
fn case() -> Case {
    let case = Case::new();
    let composed = "[data.composed]\nitems = 1\ncanvas = 16\nitem = 12\ntrain_images = 64\nvalidation_images = 48\n";
    let mut text = case
        .config()
        .replace("flip = true\n", "flip = true\nhold_out = 2\nvalidation_images = 15\n")
        .replace("[teacher]", &format!("{composed}\n[teacher]"))
        .replace("warmup_steps = 4", "warmup_steps = 1");
    for steps in ["steps = 48", "steps = 36"] {
        text = text.replace(&format!("\n{steps}"), "\nsteps = 6");
    }
    put(case.folder.path(), "config.toml", text);
    let (config, out) = (case.at("config.toml"), case.at("out"));
    run(&["inherit", "--config", word(&config), "--out", word(&out)]).expect_success();
    let scores = Scores::read(&case.at("out/inherited.json")).unwrap();
    let codes: Vec<&str> = scores.entries().iter().map(|score| &*score.code).collect();
    put(case.folder.path(), "codes.txt", codes.join("\n"));
    case
}

/// A command on the run's supernet; `more` may name files of the case as `@NAME`.
fn command(case: &Case, first: &str, more: &[&str]) -> Finished {
    let checkpoint = case.at("out/ccfs/weights.safetensors");
    let mut words: Vec<String> = first.split(' ').map(str::to_owned).collect();
    words.extend(["--checkpoint".to_owned(), word(&checkpoint).to_owned()]);
    let path = |word: &str| word.strip_prefix('@').map(|name| case.at(name));
    words.extend(more.iter().map(|more| match path(more) {
        Some(path) => word(&path).to_owned(),
        None => (*more).to_owned(),
    }));
    run(&words)
}

fn eval(case: &Case, more: &[&str]) -> Finished {
    let words = ["--codes", "@codes.txt", "--output", "@again.json"];
    command(case, "rank eval", &[&words, more].concat())
}

#[test]
fn commands_with_a_runs_configuration_evaluate_as_the_run_does() {
    let case = case();
    let expected = fs::read_to_string(case.at("out/inherited.json")).unwrap();
    let read = || fs::read_to_string(case.at("again.json")).unwrap();
    let own = ["--config", "@config.toml"];
    // The run's copy of the configuration lies elsewhere than the space that it names.
    let copy = ["--config", "@out/config.toml", "--space", "@narrow.toml"];
    let agreeing = ["--bn", "recalibrated", "--batch", "50", "--recalibration-batches", "2"];
    for words in [&own[..], &copy, &[&own[..], &agreeing].concat()] {
        eval(&case, words).expect_success();
        assert_eq!(read(), expected, "{words:?}");
    }
    // What the options alone can say is another evaluation.
    let plain = ["--space", "@narrow.toml", "--data", "@data"];
    eval(&case, &[&plain[..], &agreeing].concat()).expect_success();
    assert_ne!(read(), expected);

    let from = ["--config", "@config.toml", "--output"];
    let net = [&from[..], &["@net.safetensors", "--arch", NARROW_CODES[1]]].concat();
    let said = command(&case, "export", &net).expect_success();
    assert!(said.contains("BN statistics: measured on 64 training images (2 batches)"), "{said}");
    let statistics = &TensorFile::read(&case.at("net.safetensors")).unwrap().meta["bn_statistics"];
    assert_eq!(statistics, "measured on 64 training images (2 batches)");

    let few = ["--population", "4", "--generations", "1"];
    let search = [&from[..], &["@found"], &few].concat();
    command(&case, "search", &search).expect_success();
    let log = fs::read_to_string(case.at("found/evaluations.jsonl")).unwrap();
    let copy = fs::read_to_string(case.at("out/config.toml")).unwrap();
    let training = copy.lines().find_map(|line| line.strip_prefix("# training: ")).unwrap();
    for needle in [training, "\"images\":24,", "\"bn\":\"recalibrated\"", "\"batch\":50,"] {
        assert!(log.lines().next().unwrap().contains(needle), "{needle}: {log}");
    }
}

/// `rank merge` of parts of the case.
fn merge(case: &Case, more: &[&str], parts: &[&str]) -> Finished {
    let path = |word: &str| match word.strip_prefix('@') {
        Some(name) => word_of(case, name),
        None => word.to_owned(),
    };
    let words = ["rank", "merge", "--codes", "@codes.txt", "--output", "@merged.json"];
    run(&words.iter().chain(more).chain(parts).map(|word| path(word)).collect::<Vec<_>>())
}

fn word_of(case: &Case, name: &str) -> String {
    word(&case.at(name)).to_owned()
}

#[test]
fn parts_join_by_the_space_of_a_configuration() {
    let case = case();
    for (shard, part) in [("1/2", "@one"), ("2/2", "@two")] {
        let words = ["--codes", "@codes.txt", "--output", part, "--shard", shard];
        let own = ["--config", "@config.toml", "--workers", "2"];
        command(&case, "rank eval", &[&words[..], &own].concat()).expect_success();
    }
    let expected = fs::read_to_string(case.at("out/inherited.json")).unwrap();
    let text = fs::read_to_string(case.at("config.toml")).unwrap();
    let methods = "[experiment]\nseeds = 1\n[[method]]\nname = \"x\"\ngroup = \"BN treatment\"\nabout = \"x\"\n";
    put(case.folder.path(), "experiment.toml", format!("{text}{methods}"));
    let parts = ["@one", "@two"];
    for words in [
        &["--config", "@config.toml"][..],
        &["--config", "@out/config.toml", "--space", "@narrow.toml"],
        &["--config", "@experiment.toml"],
        &["--space", "@narrow.toml"],
    ] {
        merge(&case, words, &parts).expect_success();
        assert_eq!(fs::read_to_string(case.at("merged.json")).unwrap(), expected, "{words:?}");
        fs::remove_file(case.at("merged.json")).unwrap();
    }
    let refused = |words: &[&str], needles: &[&str]| {
        assert_refused(&merge(&case, words, &parts), needles);
        assert!(!case.at("merged.json").exists());
    };
    refused(&["--config", "@out/config.toml"], &["out/config.toml", "narrow.toml", "--space"]);
    refused(&["--config", "@config.toml", "--space", "tiny"], &["--space tiny", "config.toml"]);
    let other = ["--config", "@out/config.toml", "--space", "tiny"];
    refused(&other, &["out/config.toml", "the run had space narrow", "tiny"]);
    put(case.folder.path(), "its-folder.toml", "# space x: 1\n\n# experiment on truth 2\n");
    let folder = ["--config", "@its-folder.toml"];
    refused(&folder, &["its-folder.toml", "holds no configuration"]);
}

#[test]
fn logits_with_a_configuration_are_those_of_the_exported_network() {
    let case = case();
    let code = NARROW_CODES[2];
    let space = SearchSpace::load(word(&case.at("narrow.toml"))).unwrap();
    let mut images = TensorFile::default();
    let values: Vec<f32> = (0..3 * 16 * 16).map(|i| (i % 37) as f32 / 9.0 - 2.0).collect();
    images.insert("images", &[3, 1, 16, 16], values.clone());
    images.write(&case.at("x.safetensors")).unwrap();
    let logits = |more: &[&str]| {
        let words = ["--arch", code, "--input", "@x.safetensors", "--output", "@y.safetensors"];
        command(&case, "forward", &[&words, more].concat()).expect_success();
        TensorFile::read(&case.at("y.safetensors")).unwrap().tensors["logits"].data.clone()
    };

    let net = ["--output", "@net.safetensors", "--arch", code, "--config", "@config.toml"];
    command(&case, "export", &net).expect_success();
    let network = space.resolve(&space.parse(code).unwrap()).unwrap();
    let layout = Layout::standalone(&network);
    let plan = Plan::new(&network, &layout).unwrap();
    let Weights { params, buffers } = Weights::load(&layout, &case.at("net.safetensors")).unwrap();
    // One channel: [N, 1, H, W] and [N, H, W, 1] are the same.
    let expected = Session::new().infer(&plan, &params, &buffers, &values).unwrap().to_vec();

    assert_eq!(logits(&["--config", "@config.toml"]), expected);
    assert_eq!(
        logits(&["--config", "@out/config.toml", "--space", "@narrow.toml", "--workers", "2"]),
        expected
    );
    // By the space alone, the checkpoint's own statistics count.
    assert_ne!(logits(&["--space", "@narrow.toml"]), expected);

    let refused = |more: &[&str], needles: &[&str]| {
        let words = ["--arch", code, "--input", "@x.safetensors", "--output", "@z.safetensors"];
        assert_refused(&command(&case, "forward", &[&words, more].concat()), needles);
        assert!(!case.at("z.safetensors").exists());
    };
    let data = ["--space", "@narrow.toml", "--data", "@data"];
    refused(&data, &["--data: needs --bn recalibrated", "--bn tracked looks at no images"]);
    let other = ["--config", "@config.toml", "--bn", "tracked"];
    refused(&other, &["--bn tracked", "config.toml has recalibrated"]);
}

#[test]
fn what_contradicts_a_configuration_is_refused() {
    let case = case();
    let own = ["--config", "@config.toml"];
    let refused = |words: &[&str], needles: &[&str]| {
        assert_refused(&eval(&case, &[&own, words].concat()), needles);
    };
    refused(&["--bn", "tracked"], &["--bn tracked", "config.toml has recalibrated"]);
    refused(&["--batch", "9"], &["--batch 9", "has 50"]);
    refused(&["--recalibration-batches", "3"], &["--recalibration-batches 3", "has 2"]);
    refused(&["--crop-fraction", "0.5"], &["--crop-fraction 0.5", "has 0.875"]);
    refused(&["--corrupt", "skip"], &["--corrupt skip", "has fail"]);
    refused(&["--space", "tiny"], &["--space tiny", "narrow.toml", "config.toml"]);
    refused(&["--method", "x"], &["--method x", "config.toml"]);
    let copy = ["--config", "@out/config.toml"];
    assert_refused(&eval(&case, &copy), &["out/config.toml", "narrow.toml", "--space"]);
    let other = [&copy[..], &["--space", "tiny"]].concat();
    assert_refused(&eval(&case, &other), &["out/config.toml", "the run had space narrow", "tiny"]);

    // An experiment's methods may evaluate in different ways.
    let text = fs::read_to_string(case.at("config.toml")).unwrap();
    let methods = "[experiment]\nseeds = 1\n[[method]]\nname = \"shared\"\ngroup = \"BN treatment\"\nabout = \"x\"\n\
                   set.inherit.bn = \"tracked\"\n";
    put(case.folder.path(), "experiment.toml", format!("{text}{methods}"));
    put(
        case.folder.path(),
        "shared.toml",
        text.replace("[inherit]", "[inherit]\nbn = \"tracked\""),
    );
    let experiment = ["--config", "@experiment.toml"];
    assert_refused(&eval(&case, &experiment), &["experiment.toml", "--method", "\"shared\""]);
    put(case.folder.path(), "its-folder.toml", "# space x: 1\n\n# experiment on truth 2\n");
    let folder = ["--config", "@its-folder.toml"];
    assert_refused(&eval(&case, &folder), &["its-folder.toml", "holds no configuration"]);
    let read = |words: &[&str]| {
        eval(&case, words).expect_success();
        fs::read_to_string(case.at("again.json")).unwrap()
    };
    let shared = read(&[&experiment[..], &["--method", "shared"]].concat());
    assert_eq!(shared, read(&["--config", "@shared.toml"]));
    assert_ne!(shared, fs::read_to_string(case.at("out/inherited.json")).unwrap());

    // Other images than the run had, unless they are asked for.
    idx_folder(&case.at("data"), 16, 70, 40);
    let copy = [&copy[..], &["--space", "@narrow.toml"]].concat();
    assert_refused(&eval(&case, &copy), &["out/config.toml", "the run had training: ", "70"]);
    read(&[&copy[..], &["--data", "@data"]].concat());
}
