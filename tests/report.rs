//! `slimtau report`: an experiment's report from its data, and what is said about data that it cannot use.

mod program;

use program::{assert_clean, assert_refused, files_below, put, run, word};
use std::fs;

/// Two methods, two seeds, four architectures; the first method ranks as the truth does.
fn experiment() -> String {
    let architecture = |i: usize| {
        format!(
            r#"{{"code": "1{i}", "params": {}, "macs": 100, "depth": 2, "stage_depths": [1, 1],
                "phi_m": 1.5, "phi_f": {i}.5, "width_sum": 8, "stand_alone": [7{i}.5, 7{i}.25]}}"#,
            10 - i
        )
    };
    let seed = |seed: u64, inherited: &str| {
        format!(
            r#"{{"seed": {seed}, "inherited": {inherited}, "images": 640,
                "seconds": {{"teacher": 1, "moco": 0, "stage2": 3.5, "evaluation": 1}}}}"#
        )
    };
    let architectures: Vec<String> = (0..4).map(architecture).collect();
    format!(
        r#"{{"name": "small", "space": "narrow", "data": [], "classes": 10, "budget": "little",
 "config_toml": "", "command": ["slimtau"], "seconds": 12.5, "seeds": [], "supernet_seeds": [0, 1],
 "versions": {{"slimtau": "0.1.0", "git_commit": null, "rustc": "rustc", "cpu": "one", "threads": 1,
              "system": "linux"}},
 "bootstrap": {{"resamples": 200, "level": 0.95, "seed": 0}},
 "architectures": [{}],
 "rows": [
  {{"name": "CCFS-F", "group": "Table 2", "paper_tau": 0.858, "about": "The paper's.",
   "seeds": [{}, {}]}},
  {{"name": "uniform", "group": "Further samplers", "about": "Drawn.", "seeds": [{}]}}
 ]}}
"#,
        architectures.join(",\n"),
        seed(0, "[60, 61, 62, 63]"),
        seed(1, "[50, 51, 52, 53]"),
        seed(1, "[60, 61, 63, 62]")
    )
}

#[test]
fn the_report_is_made_from_its_data() {
    let folder = tempfile::tempdir().unwrap();
    let input = put(folder.path(), "experiment.json", experiment());
    let (first, second) = (folder.path().join("a/b"), folder.path().join("c"));
    let printed = run(&["report", "--input", word(&input), "--out", word(&first)]).expect_success();
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines.len(), 5, "{printed}");
    assert!(lines[0].starts_with("CCFS-F") && lines[0].contains("tau  1.000"), "{printed}");
    assert!(lines[0].ends_with("2 of 2 seeds") && lines[1].ends_with("1 of 2 seeds"), "{printed}");
    assert!(lines[1].contains("tau  0.667"), "{printed}");
    assert!(lines[2].contains("ceiling: tau 1.000") && lines[3].contains("Phi_F, tau 1.000"));
    let files = ["report.html", "report.json", "results.md"];
    assert_eq!(files_below(&first), files.map(std::path::PathBuf::from));
    let json = fs::read_to_string(first.join("report.json")).unwrap();
    assert!(json.contains("\"findings\""));
    // The same data give the same files, on any number of threads.
    let words = ["report", "--input", word(&input), "--out", word(&second), "--threads", "1"];
    run(&words).expect_success();
    for file in files {
        assert!(fs::read(first.join(file)).unwrap() == fs::read(second.join(file)).unwrap());
    }
}

#[test]
fn data_that_cannot_be_used() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    // (what stands in the data, what is put there, what the message must hold; `line` stands for the
    // line that was spoilt)
    let cases: [(&str, &str, &[&str]); 12] = [
        ("\"classes\": 10,", "\"classes\": 10", &["line"]),
        ("\"classes\": 10", "\"classes\": \"ten\"", &["line", "\"ten\""]),
        ("\"about\": \"Drawn.\"", "\"abuot\": \"\"", &["line", "`abuot`", "`about`"]),
        ("\"Table 2\"", "\"Table 3\"", &["line", "`Table 3`", "`Table 2`"]),
        ("\"about\": \"Drawn.\", ", "", &["experiment.json, line ", "missing field `about`"]),
        (
            "\"code\": \"11\"",
            "\"code\": \"10\"",
            &["experiment.json: architecture 10 occurs twice"],
        ),
        (
            "[60, 61, 63, 62]",
            "[60, 61, 63]",
            &["`uniform`, seed 1: 3 inherited", "4 architectures"],
        ),
        ("[60, 61, 63, 62]", "[60, 61, 63, null]", &["line", "null"]),
        ("[71.5, 71.25]", "[71.5]", &["architecture 11 has 1 stand-alone accuracies", "2"]),
        ("\"uniform\"", "\"CCFS-F\"", &["row `CCFS-F` occurs twice"]),
        ("\"resamples\": 200", "\"resamples\": 0", &["resamples is 0"]),
        ("\"level\": 0.95", "\"level\": 95", &["level", "is 95"]),
    ];
    for (there, put_there, needles) in cases {
        assert!(experiment().contains(there), "{there}");
        let bad = experiment().replacen(there, put_there, 1);
        let input = put(folder.path(), "experiment.json", bad);
        let finished = run(&["report", "--input", word(&input), "--out", word(&out)]);
        let before = experiment().find(there).unwrap();
        let line = 1 + experiment()[..before].matches('\n').count();
        let line = format!("experiment.json, line {line}:");
        let needles: Vec<&str> =
            needles.iter().map(|n| if *n == "line" { line.as_str() } else { *n }).collect();
        assert_refused(&finished, &needles);
        assert!(!out.exists());
    }
    let input = put(folder.path(), "experiment.json", experiment());
    let nowhere = run(&["report", "--input", "none.json", "--out", word(&out)]);
    assert_refused(&nowhere, &["none.json", "No such file or directory"]);
    let in_a_file = input.join("out");
    let blocked = run(&["report", "--input", word(&input), "--out", word(&in_a_file)]);
    assert_refused(&blocked, &["cannot write", "experiment.json/out"]);
    assert_clean(folder.path());
}
