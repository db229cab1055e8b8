//! The command line that other tools rely on: every command, its output's exact form, and numbers
//! that are known from elsewhere.

mod program;

use program::{Case, NARROW_CODES, assert_refused, command, narrow_space, put, run, word};
use serde_json::Value;
use slimtau_base::{TensorFile, fill_normal, stream};
use slimtau_space::SearchSpace;
use slimtau_supernet::{Layout, Plan, Session, Weights};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// The competition's largest network, in the short form.
const LARGEST: &str = "558511111111111111111111111111111111111111111111111";

/// Runs the program with this on its standard input.
fn run_with_input(arguments: &[&str], input: &str) -> program::Finished {
    let mut child = command(arguments).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap().into()
}

#[test]
fn help_of_every_command_works() {
    for words in [
        "",
        "run",
        "teacher",
        "moco",
        "ccfs",
        "inherit",
        "standalone",
        "search",
        "plan",
        "data pack",
        "import",
        "space",
        "space count",
        "space stats",
        "space sample",
        "forward",
        "export",
        "rank",
        "rank score",
        "rank eval",
        "rank merge",
        "report",
        "bench",
    ] {
        let arguments: Vec<&str> = words.split_whitespace().chain(["--help"]).collect();
        let help = run(&arguments).expect_success();
        assert!(help.contains(&format!("Usage: slimtau {words}")), "{words}: {help}");
        assert!(help.contains("--threads"), "{words}: {help}");
    }
    assert!(run(&["--version"]).expect_success().starts_with("slimtau "));
}

#[test]
fn counts_are_exact() {
    // S(b, low, high): codes of a stage whose blocks have b free choices each.
    let s = |b: u128, low, high| (low..=high).map(|d| b.pow(d)).sum::<u128>();
    // One free middle width per block, one output for the stem (stage 1 shares it) and three stages.
    let tied = 7_u128.pow(4) * s(7, 2, 5).pow(3) * s(7, 2, 8);
    let restricted = (3 * 3 * 5 * 7) * s(3, 2, 5).pow(2) * s(5, 2, 8) * s(7, 2, 5);
    assert_eq!(restricted, 390_693_436_560_000_000);
    let expected = format!(
        "untied 5694125374069829247196409708843857000000\ntied {tied}\nrestricted {restricted}\n"
    );
    assert_eq!(run(&["space", "count", "--space", "cvpr2022"]).expect_success(), expected);

    let folder = tempfile::tempdir().unwrap();
    let space = put(folder.path(), "narrow.toml", narrow_space(28, 1));
    // Per stage 1 or 2 blocks of 3 x 3 codes; tied: 3 middles per block, 2 free outputs.
    let expected = format!("untied {}\ntied {}\nrestricted {}\n", 3 * 90 * 90, 9 * 144, 9 * 144);
    assert_eq!(run(&["space", "count", "--space", word(&space)]).expect_success(), expected);
}

#[test]
fn stats_are_those_of_the_papers_network() {
    // Summed by hand over ResNet48: 3x3 convs, projections, BN scale and shift, classifier.
    let row = "34043688,5282238464,33530688,10518333.44";
    let long = format!("1{LARGEST}");
    let folder = tempfile::tempdir().unwrap();
    let list = put(folder.path(), "codes.txt", format!("{LARGEST},{long}\n{LARGEST}\n"));
    let expected =
        format!("code,params,macs,phi_m,phi_f\n{LARGEST},{row}\n{long},{row}\n{LARGEST},{row}\n");
    let arguments = |codes| ["space", "stats", "--space", "cvpr2022", "--codes", codes];
    assert_eq!(run(&arguments(word(&list))).expect_success(), expected);
    let piped = run_with_input(&arguments("-"), &format!("{LARGEST} {long}\n\n{LARGEST}"));
    assert_eq!(piped.expect_success(), expected);
    assert!((34_043_688_f64 / 1e6 - 34.04).abs() < 0.005);
    assert!((5_282_238_464_f64 / 1e9 - 5.28).abs() < 0.005);
}

#[test]
fn a_code_that_breaks_the_ties_has_stats_too() {
    // Stage 4's second output differs from its first: valid alone.
    let mut code = LARGEST.to_owned();
    code.replace_range(44..45, "2");
    let out = run_with_input(&["space", "stats", "--space", "cvpr2022", "--codes", "-"], &code);
    let out = out.expect_success();
    let fields: Vec<&str> = out.lines().nth(1).unwrap().split(',').collect();
    assert_eq!(fields[0], code);
    assert!(fields[1].parse::<u64>().unwrap() > 30_000_000, "{out}");
}

#[test]
fn every_sampler_draws_codes_of_its_space() {
    let space = SearchSpace::preset("cvpr2022").unwrap();
    // The competition's ranges: codes 1..=3 in the stem and stages 1 and 2, 1..=5, 1..=7.
    let most = [3, 3, 5, 7];
    let samplers =
        ["uniform", "ccfs-m", "ccfs-f", "width-sum", "fairnas", "ofa", "sandwich", "pa-da"];
    for sampler in samplers {
        let draw = |seed: &str| {
            let head = ["space", "sample", "--space", "cvpr2022", "-n", "9", "--seed", seed];
            let words: Vec<&str> = head.into_iter().chain(["--sampler", sampler]).collect();
            run(&words).expect_success()
        };
        let codes = draw("3");
        assert_eq!(codes.lines().count(), 9, "{sampler}: {codes}");
        for code in codes.lines() {
            let arch = space.parse(code).unwrap();
            assert_eq!(code.len(), 51, "{sampler}");
            space.check_tied(&arch).unwrap();
            assert!(arch.stem <= 3, "{sampler}: {code}");
            for (blocks, most) in arch.stages.iter().zip(most) {
                assert!(blocks.iter().all(|b| b.mid <= most && b.out <= most), "{sampler}: {code}");
            }
        }
        assert_eq!(codes, draw("3"), "{sampler}: the same seed draws the same");
        assert_ne!(codes, draw("4"), "{sampler}: another seed draws others");
    }
    let default = run(&["space", "sample", "--space", "tiny", "-n", "0"]).expect_success();
    assert_eq!(default, "");
}

/// A narrow space of 12x12 RGB images, its file, and weights for it.
fn narrow(folder: &Path) -> (SearchSpace, String, Weights) {
    let file = put(folder, "narrow.toml", narrow_space(12, 3));
    let space = SearchSpace::load(word(&file)).unwrap();
    let layout = Layout::supernet(&space).unwrap();
    let weights = Weights::init(&layout, 5);
    (space, word(&file).to_owned(), weights)
}

#[test]
fn forward_gives_the_subnets_logits() {
    let folder = tempfile::tempdir().unwrap();
    let (space, space_file, mut weights) = narrow(folder.path());
    let layout = Layout::supernet(&space).unwrap();
    // Running statistics that are not those of a fresh network.
    for (i, v) in weights.buffers.iter_mut().enumerate() {
        *v += 0.01 * (i % 17) as f32;
    }
    let checkpoint = folder.path().join("w.safetensors");
    weights.save(&layout, &checkpoint).unwrap();
    // More than one inner batch of images.
    let (n, c, side) = (70, 3, 12);
    let mut nchw = vec![0.0; n * c * side * side];
    fill_normal(&mut stream(1, "test.images", 0), 1.0, &mut nchw);
    let mut nhwc = Vec::with_capacity(nchw.len());
    for (i, y, x) in (0..n * side * side).map(|p| (p / 144, p / 12 % 12, p % 12)) {
        nhwc.extend((0..c).map(|ch| nchw[((i * c + ch) * side + y) * side + x]));
    }
    let input = folder.path().join("x.safetensors");
    let mut file = TensorFile::default();
    file.insert("images", &[n, c, side, side], nchw);
    file.write(&input).unwrap();
    let output = folder.path().join("new/y.safetensors");
    for code in NARROW_CODES {
        for code in [code.to_owned(), format!("1{code}")] {
            let finished = run(&[
                "forward",
                "--space",
                &space_file,
                "--checkpoint",
                word(&checkpoint),
                "--arch",
                &code,
                "--input",
                word(&input),
                "--output",
                word(&output),
            ]);
            assert_eq!(finished.expect_success(), "");
            let mut file = TensorFile::read(&output).unwrap();
            let logits = file.take(&output, "logits", &[n, 10]).unwrap();
            let plan = Plan::subnet(&space, &layout, &space.parse(&code).unwrap()).unwrap();
            let mut session = Session::new();
            let expected = session.infer(&plan, &weights.params, &weights.buffers, &nhwc).unwrap();
            let largest = expected.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
            assert!(largest > 1e-3, "{code}: nothing to compare");
            for (got, want) in logits.iter().zip(expected) {
                assert!((got - want).abs() <= 1e-5 * largest, "{code}: {got} for {want}");
            }
        }
    }
}

/// Codes of the narrow space's length with predictions and truths, one pair out of order.
const SCORES: [(&str, f64, f64); 5] = [
    ("11111111100", 1.0, 70.0),
    ("11211111100", 2.0, 71.0),
    ("11311111100", 3.0, 72.0),
    ("11121111100", 4.0, 74.0),
    ("11131111100", 5.0, 73.0),
];

#[test]
fn score_reads_every_form_and_either_length() {
    let folder = tempfile::tempdir().unwrap();
    let write = |form: &str, long: bool, of: &dyn Fn(&(&str, f64, f64)) -> f64| {
        let size = if long { "1" } else { "" };
        let rows = SCORES.iter().map(|s| (format!("{size}{}", s.0), of(s)));
        let text = match form {
            "competition" => {
                let entries = rows
                    .enumerate()
                    .map(|(i, (c, a))| format!(r#""arch{i}": {{"acc": {a}, "arch": "{c}"}}"#));
                format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
            }
            "plain" => {
                let entries = rows.map(|(c, a)| format!("\"{c}\": {a}"));
                format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
            }
            _ => {
                let lines = rows.map(|(c, a)| format!("{c},{a}\n"));
                format!("code,acc\n{}", lines.collect::<String>())
            }
        };
        let kind = if of(&SCORES[0]) > 50.0 { "truth" } else { "predictions" };
        put(folder.path(), &format!("{kind}-{form}-{long}"), text)
    };
    for form in ["competition", "plain", "csv"] {
        for (long_p, long_t) in [(false, false), (true, false), (false, true), (true, true)] {
            let predictions = write(form, long_p, &|s| s.1);
            let truth = write(if form == "csv" { "plain" } else { "csv" }, long_t, &|s| s.2);
            let arguments =
                ["rank", "score", "--predictions", word(&predictions), "--truth", word(&truth)];
            let json: Vec<&str> = arguments.into_iter().chain(["--json"]).collect();
            let out = run(&json).expect_success();
            assert_eq!(out.lines().count(), 1, "{out}");
            let out: Value = serde_json::from_str(&out).unwrap();
            assert_eq!(out["n"], 5);
            // One discordant pair of ten; both lists are their own ranks.
            for (key, expected) in [("kendall_tau", 0.8), ("pearson", 0.9), ("spearman", 0.9)] {
                let value = out[key].as_f64().unwrap();
                assert!((value - expected).abs() < 1e-12, "{form}: {key} = {value}");
                let interval = &out[format!("{key}_interval")];
                let bound = |i: usize| interval[i].as_f64().unwrap();
                let inside = -1.0 <= bound(0) && bound(0) <= value && value <= bound(1);
                assert!(inside && bound(1) <= 1.0 + 1e-12, "{form}: {key}: {interval}");
            }
            assert_eq!(out["only_in_predictions"], Value::Array(vec![]));
            assert_eq!(out["only_in_truth"], Value::Array(vec![]));
            let text = run(&arguments).expect_success();
            let heads: Vec<&str> =
                text.lines().filter_map(|l| l.split_whitespace().next()).collect();
            assert_eq!(heads, ["n", "kendall_tau", "pearson", "spearman"], "{text}");
            assert!(text.starts_with("n 5\nkendall_tau 0.8000 ["), "{text}");
        }
    }
}

#[test]
fn score_says_what_did_not_match() {
    let folder = tempfile::tempdir().unwrap();
    let predictions = put(folder.path(), "p.csv", "code,acc\n11,1\n12,2\n13,3\n14,9\n");
    let truth = put(folder.path(), "t.csv", "code,acc\n113,72\n112,71\n111,70\n115,1\n116,2\n");
    let arguments = ["rank", "score", "--predictions", word(&predictions), "--truth", word(&truth)];
    let said = run(&arguments);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(said.stdout.starts_with("n 3\nkendall_tau 1.0000"), "{}", said.stdout);
    let lines: Vec<&str> = said.stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{}", said.stderr);
    assert!(lines[0].contains("predictions") && lines[0].contains("14"), "{}", lines[0]);
    assert!(lines[1].contains("truth") && lines[1].contains("115"), "{}", lines[1]);
    let json: Vec<&str> = arguments.into_iter().chain(["--json"]).collect();
    let out: Value = serde_json::from_str(&run(&json).expect_success()).unwrap();
    assert_eq!(out["only_in_predictions"], serde_json::json!(["14"]));
    assert_eq!(out["only_in_truth"], serde_json::json!(["115", "116"]));
}

#[test]
fn eval_measures_accuracy_on_the_embedded_images() {
    let folder = tempfile::tempdir().unwrap();
    let file = put(folder.path(), "narrow.toml", narrow_space(28, 1));
    let space = SearchSpace::load(word(&file)).unwrap();
    let layout = Layout::supernet(&space).unwrap();
    let codes = put(folder.path(), "codes.txt", NARROW_CODES.join(",\n"));
    let output = folder.path().join("inherited.json");
    let evaluate = |weights: &Weights, bn: &str| -> Vec<(String, f64)> {
        let checkpoint = folder.path().join("w.safetensors");
        weights.save(&layout, &checkpoint).unwrap();
        let finished = run(&[
            "rank",
            "eval",
            "--space",
            word(&file),
            "--checkpoint",
            word(&checkpoint),
            "--codes",
            word(&codes),
            "--output",
            word(&output),
            "--bn",
            bn,
        ]);
        assert_eq!(finished.expect_success(), "");
        let text = std::fs::read_to_string(&output).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        let entries = json.as_object().unwrap();
        assert_eq!(entries.len(), 3, "{text}");
        (1..=3)
            .map(|i| {
                let entry = &entries[&format!("arch{i}")];
                (entry["arch"].as_str().unwrap().to_owned(), entry["acc"].as_f64().unwrap())
            })
            .collect()
    };
    let mut weights = Weights::init(&layout, 5);
    let random = evaluate(&weights, "recalibrated");
    for ((code, accuracy), expected) in random.iter().zip(NARROW_CODES) {
        assert_eq!(code, expected);
        // 4,000 images: a multiple of 0.025 %.
        let images = accuracy * 40.0;
        assert!((images - images.round()).abs() < 1e-9 && (0.0..=100.0).contains(accuracy));
    }
    let distinct: BTreeSet<u64> = random.iter().map(|(_, a)| a.to_bits()).collect();
    assert!(distinct.len() > 1, "three subnets of random weights, all as good: {random:?}");
    // A classifier that always answers class 3 is right on a tenth of a balanced set.
    let fc = layout.tensors().iter().filter(|t| t.name.contains(".fc."));
    for slot in fc {
        weights.params[slot.range.clone()].fill(0.0);
        if slot.name.ends_with("bias") {
            weights.params[slot.range.start + 3] = 1.0;
        }
    }
    for bn in ["tracked", "frozen"] {
        assert!(evaluate(&weights, bn).iter().all(|(_, accuracy)| *accuracy == 10.0), "{bn}");
    }
    // What `eval` writes, `score` reads.
    let (own, json) = (word(&output), "--json");
    let truth: String =
        NARROW_CODES.iter().enumerate().map(|(i, c)| format!("{c},{i}\n")).collect();
    let truth = put(folder.path(), "truth.csv", truth);
    let scored = run(&["rank", "score", "--predictions", own, "--truth", word(&truth), json]);
    let scored: Value = serde_json::from_str(&scored.expect_success()).unwrap();
    assert_eq!(scored["n"], 3);
    assert_eq!(scored["kendall_tau"], Value::Null, "a constant list has no correlation");
}

#[test]
fn bench_is_called_as_the_comparison_script_does() {
    let folder = tempfile::tempdir().unwrap();
    let (_, space, _) = narrow(folder.path());
    for work in ["step1", "step2", "standalone", "eval"] {
        for threads in ["1", "2"] {
            let out = run(&[
                "bench",
                work,
                "--space",
                &space,
                "--batch",
                "4",
                "--steps",
                "3",
                "--threads",
                threads,
                "--json",
            ]);
            let out = out.expect_success();
            assert_eq!(out.lines().count(), 1, "{out}");
            let line: Value = serde_json::from_str(&out).unwrap();
            for key in ["step_s", "subnet_images_per_s", "gflops", "peak_rss_mib"] {
                let value = line[key].as_f64().unwrap_or_else(|| panic!("{work}: no {key}: {out}"));
                assert!(value > 0.0 && value.is_finite(), "{work}: {key} = {value}");
            }
            assert_eq!(line["what"], work);
            assert_eq!(line["threads"].to_string(), threads);
            let subnets = if matches!(work, "step2" | "eval") { 4.0 } else { 1.0 };
            let images =
                line["step_s"].as_f64().unwrap() * line["subnet_images_per_s"].as_f64().unwrap();
            assert!((images - 4.0 * subnets).abs() < 1e-6, "{work}: {images} images a step");
        }
    }
}

#[test]
fn bench_says_where_the_time_went() {
    let folder = tempfile::tempdir().unwrap();
    let (_, space, _) = narrow(folder.path());
    let sizes = ["--batch", "4", "--steps", "2", "--threads", "1", "--json", "--breakdown"];
    for (detail, row) in
        [("operations", "conv_forward 3x3 stride 1"), ("shapes", "conv_forward 4x")]
    {
        let all = [&["bench", "step2", "--space", &space][..], &sizes, &[detail]].concat();
        let out = run(&all);
        let line: Value = serde_json::from_str(&out.stdout).unwrap();
        let shares = out.stderr.lines().filter_map(|l| l.split_once('%')?.0.rsplit(' ').next());
        let total: f64 = shares.filter_map(|share| share.parse::<f64>().ok()).sum();
        assert!((total - 100.0).abs() < 2.0, "shares of {line} add up to {total}: {}", out.stderr);
        for operation in [row, "conv_backward_weight", "norm_backward", "everything else"] {
            assert!(out.stderr.contains(operation), "no {operation} in {}", out.stderr);
        }
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let arguments = ["space", "sample", "--space", "cvpr2022", "-n", "100000"];
    let mut child = command(&arguments).spawn().unwrap();
    // `slimtau space sample | head` closes the pipe early.
    drop(child.stdout.take());
    let finished: program::Finished = child.wait_with_output().unwrap().into();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert_eq!(finished.stderr, "");
}

#[test]
fn one_architecture_alone_is_trained_as_the_list_trains_it() {
    let case = Case::new();
    case.run("run").expect_success();
    let (config, out) = (case.at("config.toml"), case.at("one"));
    let standalone = |code: &str| {
        let mut words = vec!["standalone", "--config", word(&config), "--out", word(&out)];
        words.extend(["--arch", code]);
        run(&words)
    };
    let [code, ..] = NARROW_CODES;
    let said = standalone(code).expect_success();
    assert!(said.starts_with(&format!("{code}: ")), "{said}");
    let results = |path: PathBuf| -> Vec<(u64, f64)> {
        let text = std::fs::read_to_string(path).unwrap();
        let list: Vec<Value> = serde_json::from_str(&text).unwrap();
        let of_code = list.iter().filter(|r| r["code"] == code);
        of_code
            .map(|r| (r["replicate"].as_u64().unwrap(), r["accuracy"].as_f64().unwrap()))
            .collect()
    };
    let own = out.join(format!("standalone/arch-{code}.json"));
    let of_list = results(case.at("run/standalone/results.json"));
    assert_eq!(of_list.len(), 2);
    assert_eq!(results(own.clone()), of_list);
    // Nothing is trained again.
    let before = std::fs::metadata(&own).unwrap().modified().unwrap();
    assert_eq!(standalone(code).expect_success(), said);
    assert_eq!(std::fs::metadata(&own).unwrap().modified().unwrap(), before);
    // A broken tie is no harm to a network by itself; a wrong digit is.
    let untied = "22111111112";
    standalone(untied).expect_success();
    assert_refused(&standalone("29111111111"), &["--arch 29111111111"]);
}

#[test]
fn a_plan_has_every_stage_with_its_exact_operations() {
    let case = Case::new();
    let config = case.at("config.toml");
    let words = ["plan", "--config", word(&config), "--batch", "4", "--steps", "1", "--json"];
    let plan: Value = serde_json::from_str(&run(&words).expect_success()).unwrap();
    let stages = plan["stages"].as_array().unwrap();
    let names: Vec<&str> = stages.iter().map(|s| s["stage"].as_str().unwrap()).collect();
    assert_eq!(names, ["teacher", "moco", "ccfs", "inherit", "standalone"]);
    for stage in stages {
        for value in ["images", "pflop", "gflops", "hours", "peak_memory_gib", "disk_gib"] {
            let value = stage[value].as_f64().unwrap();
            assert!(value.is_finite() && value > 0.0, "{stage}");
        }
    }
    assert_eq!(plan["subnets"], 3);
    assert_eq!(plan["validation_images"], 40);

    // Stages of known networks: the largest, and the listed ones alone.
    let space = SearchSpace::load(word(&case.at("narrow.toml"))).unwrap();
    let macs = |code: &str| space.resolve(&space.parse(code).unwrap()).unwrap().macs() as f64;
    let settings: toml::Value = toml::from_str(&case.config()).unwrap();
    let number = |table: &str, key: &str| settings[table][key].as_integer().unwrap() as f64;
    let close = |found: &Value, expected: f64| {
        let found = found.as_f64().unwrap();
        assert!((found / expected - 1.0).abs() < 1e-3, "{found} for {expected}");
    };
    let images = number("teacher", "steps") * number("teacher", "batch");
    close(&stages[0]["images"], images);
    close(&stages[0]["pflop"], images * 6.0 * macs(NARROW_CODES[0]) / 1e15);
    let images = number("standalone", "steps") * number("standalone", "batch");
    let images = images * number("standalone", "seeds");
    close(&stages[4]["images"], 3.0 * images);
    let text = run(&words[..words.len() - 1]).expect_success();
    assert!(names.iter().all(|name| text.contains(name)), "{text}");
    // Data that are not here.
    let lost = put(case.folder.path(), "lost.toml", case.config().replace("data\"", "lost\""));
    let mut words = vec!["plan", "--config", word(&lost), "--batch", "4", "--steps", "1"];
    assert_refused(&run(&words), &["lost", "--validation-images"]);
    words.extend(["--validation-images", "1000"]);
    run(&words).expect_success();
}
