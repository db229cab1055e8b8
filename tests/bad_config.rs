//! What the program says about configurations that it cannot use: exit code 2, one line that names the
//! file, the line or key, and the value, and nothing is made.

mod program;

use program::{Case, assert_refused, put};
use std::fs;

#[test]
fn configurations() {
    let case = Case::new();
    let composed = |items: usize, item: usize| {
        format!(
            "flip = true\n[data.composed]\nitems = {items}\ntrain_images = 60\nvalidation_images = 40\n\
             canvas = 16\nitem = {item}"
        )
    };
    let method = |more: &str| {
        format!("[[method]]\nname = \"m\"\ngroup = \"Table 1\"\nabout = \"a\"\n{more}\n")
    };
    let experiment = |more: &str| method(more) + "[experiment]\nseeds = 2\n[teacher]";
    let line_of = |text: &str| {
        let config = case.config();
        let before = &config[..config.find(text).unwrap()];
        format!("config.toml, line {}:", 1 + before.matches('\n').count())
    };
    // (what stands in the configuration, what is put there, what the message must hold)
    let cases: [(&str, &str, &[&str]); 51] = [
        ("keep = 2", "kep = 2", &[&line_of("keep = 2"), "`kep`", "`keep`"]),
        ("keep = 2", "keep = \"two\"", &[&line_of("keep = 2"), "\"two\""]),
        ("keep = 2", "keep = -2", &[&line_of("keep = 2"), "-2"]),
        ("keep = 2", "keep = ", &[&line_of("keep = 2")]),
        ("keep = 2", "keep = 2\nkeep = 3", &["config.toml, line ", "duplicate key"]),
        ("keep = 2", "", &["config.toml", "missing field `keep`"]),
        ("[ccfs]", "[ccsf]", &["config.toml", "`ccsf`", "`ccfs`"]),
        (
            "bn = \"tracked\"",
            "bn = \"other\"",
            &[&line_of("bn = \"tracked\""), "`other`", "`frozen`"],
        ),
        ("[0.2, 0.1]", "[0.2]", &[&line_of("temperature"), "length 1"]),
        ("[0.2, 0.1]", "[0.2, 0.0]", &["config.toml: moco.temperature = 0"]),
        ("keep = 2", "keep = 0", &["config.toml: ccfs.keep = 0", "at least 1"]),
        ("candidates = 20", "candidates = 1", &["config.toml: ccfs.candidates = 1", "at least 2"]),
        (
            "keep = 2",
            "keep = 2\nlast_candidates = 1",
            &["config.toml: ccfs.last_candidates = 1", "at least 2"],
        ),
        (
            "\"ccfs-f\"",
            "\"ofa\"\nlast_candidates = 9",
            &["config.toml: ccfs.last_candidates = 9", "\"ofa\" has no candidates"],
        ),
        ("\"ccfs-f\"", "\"best\"", &["config.toml: ccfs.sampler", "`best`", "uniform, ccfs-m"]),
        ("lr = 0.05", "lr = -0.05", &["config.toml: ccfs.optimizer.lr = -0.05"]),
        ("lr = 0.05", "lr = nan", &["config.toml: ccfs.optimizer.lr = NaN"]),
        (
            "{ lr = 0.05, warmup_steps = 4",
            "{ lr = 0.05, warmup_steps = 400",
            &["config.toml: ccfs.optimizer.warmup_steps = 400", "36 steps"],
        ),
        (
            "bn = \"recalibrated\"",
            "bn = \"recalibrated\"\npa_da = {}",
            &["config.toml: ccfs.pa_da", "sampler = \"pa-da\"", "\"ccfs-f\""],
        ),
        (
            "\"ccfs-f\"",
            "\"pa-da\"\npa_da = { data_smoothing = [0.0, 1.5] }",
            &["config.toml: ccfs.pa_da.data_smoothing = 1.5", "0.0..=1.0"],
        ),
        (
            "\"ccfs-f\"",
            "\"pa-da\"\npa_da = { path_momentum = -0.1 }",
            &["config.toml: ccfs.pa_da.path_momentum = -0.1"],
        ),
        ("\"ccfs-f\"", "\"pa-da\"\npa_da = { tau = 1 }", &["`tau`", "`path_smoothing`"]),
        ("\"ccfs-f\"", "\"ccfs-f\"\ndynamic = {}", &["config.toml: ccfs.dynamic", "max_decay"]),
        (
            "\"ccfs-f\"",
            "\"ccfs-f\"\ndynamic = { max_decay = 0.5 }",
            &["config.toml: ccfs.dynamic.max_decay = 0.5", "1.0..=100.0"],
        ),
        (
            "\"ccfs-f\"",
            "\"ccfs-f\"\ndynamic = { split = \"depth-3\" }",
            &["config.toml: ccfs.dynamic.split", "`depth-3`", "depth-1 to depth-2"],
        ),
        ("\"ccfs-f\"", "\"ccfs-f\"\ndynamic = { gamma = 4 }", &["`gamma`", "`max_decay`"]),
        ("flip = true", "flip = true\nhold_out = 6", &["data.hold_out", "6"]),
        ("flip = true", &composed(3, 16), &["data.composed", "items on a composed image is 3"]),
        ("flip = true", &composed(1, 17), &["data.composed", "side of composed items is 17"]),
        ("flip = true", &composed(2, 16), &["55", "narrow takes 16x16x1 images of 10 classes"]),
        ("seeds = 2", "seeds = 2\ntruth = \"no.json\"", &["standalone.truth", "no.json", "xtask"]),
        ("[moco]", "[experiment]\nseeds = 2\n[moco]", &["config.toml: [experiment]", "[[method]]"]),
        ("[teacher]", &(method("") + "[teacher]"), &["config.toml: [[method]]", "[experiment]"]),
        (
            "[teacher]",
            &experiment("set.ccfs.steps = 37"),
            &["config.toml: method \"m\": trains on 1168 images, the others on 1152"],
        ),
        (
            "[teacher]",
            &experiment("set.data.flip = false"),
            &["config.toml: method \"m\": `data`: methods may differ in teacher, moco"],
        ),
        (
            "[teacher]",
            &experiment("").replace("\"m\"", "\"width sum\""),
            &["config.toml: row `width sum` has a baseline's name"],
        ),
        (
            "[teacher]",
            &experiment("set.ccfs.kep = 1"),
            &["config.toml: method \"m\": unknown field `kep`"],
        ),
        ("queue = 64", "queue = 0", &["config.toml: moco.queue = 0"]),
        ("queue = 64", "queue = 64\nkey_groups = 9", &["config.toml: moco.key_groups = 9", "16"]),
        ("count = 3", "count = 2", &["config.toml: subnets.count = 2"]),
        ("count = 3", "count = 3\ncodes = \"none.txt\"", &["none.txt", "No such file"]),
        ("name = \"small\"", "name = \"a/b\"", &["config.toml: name = \"a/b\""]),
        ("narrow.toml", "wide.toml", &["config.toml: space", "`wide.toml`", "cvpr2022"]),
        ("/data\"", "/date\"", &["/date", "no such folder"]),
        (
            "crop_padding = 1",
            "crop_padding = 1\ntrain_images = 61",
            &["61 images", "60 images", "data"],
        ),
        ("crop_padding = 1", "", &["config.toml: data.crop_padding: is missing", "\"padded\""]),
        (
            "crop_padding = 1",
            "crop_padding = 1\ncrop = \"random-resized\"",
            &["config.toml: data.crop_padding = 1: only with", "\"padded\""],
        ),
        (
            "crop_padding = 1",
            "crop_padding = 1\nmin_scale = 0.25",
            &["config.toml: data.min_scale = 0.25: only with", "\"random-resized\""],
        ),
        (
            "crop_padding = 1",
            "crop = \"random-resized\"\nratio = [2.0, 0.5]",
            &["config.toml: data.ratio = 0.5", "2.0..=100.0"],
        ),
        (
            "crop_padding = 1",
            "crop_padding = 1\ncrop_fraction = 1.5",
            &["config.toml: data.crop_fraction = 1.5", "0.1..=1.0"],
        ),
        (
            "crop_padding = 1",
            "crop_padding = 1\ncorrupt = \"ignore\"",
            &["config.toml, line ", "`ignore`", "`skip`"],
        ),
    ];
    for (old, new, needles) in cases {
        let text = case.config();
        assert!(text.contains(old), "{old}");
        put(case.folder.path(), "config.toml", text.replacen(old, new, 1));
        assert_refused(&case.run("out"), needles);
        assert!(!case.at("out").exists(), "{new}: nothing may be made for a wrong configuration");
    }
    put(case.folder.path(), "config.toml", b"name = \"\xff\"");
    assert_refused(&case.run("out"), &["config.toml", "UTF-8", "byte 8"]);
    fs::remove_file(case.at("config.toml")).unwrap();
    assert_refused(&case.run("out"), &["config.toml", "No such file or directory"]);
}
