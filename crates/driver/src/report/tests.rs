//! A small realistic report, written, read back and looked at.

use super::findings::findings;
use super::*;
use slimtau_ranking::{holm, noise_ceiling, paired_bootstrap};
use std::collections::BTreeMap;

/// 40 architectures whose accuracy grows with size; `noise` scales how far predictions stray.
fn sample(noise: f64) -> Report {
    let options = Bootstrap { resamples: 500, ..Bootstrap::default() };
    // A fixed sequence in [-1, 1) that looks random.
    let jitter = |i: usize, j: usize| ((i * 7919 + j * 104_729) % 1009) as f64 / 504.5 - 1.0;
    let subnets: Vec<Subnet> = (0..40)
        .map(|i| {
            let size = (i * 13 % 40) as f64 / 40.0;
            let quality = 84.0 + 5.0 * size + 1.2 * jitter(i, 0);
            Subnet {
                code: format!("{}{:04}", 2 + i % 4, i * 37),
                params: (200_000.0 + 900_000.0 * size) as u64,
                macs: (2e7 + 7e7 * size) as u64,
                depth: 8 + (size * 14.0) as usize,
                inherited: vec![
                    quality - 6.0 + noise * jitter(i, 1),
                    quality - 7.0 + 2.0 * noise * jitter(i, 2),
                ],
                stand_alone: (3..6).map(|j| quality + 0.4 * jitter(i, j)).collect(),
            }
        })
        .collect();
    let truth: Vec<f64> = subnets.iter().map(|s| s.stand_alone_mean().unwrap()).collect();
    let column = |f: &dyn Fn(&Subnet) -> f64| subnets.iter().map(f).collect::<Vec<f64>>();
    let rank = |name: &str, f: &dyn Fn(&Subnet) -> f64| {
        Ranking::new(name, &column(f), &truth, &options).unwrap()
    };
    let (a, b) = (column(&|s| s.inherited[0]), column(&|s| s.inherited[1]));
    let difference = paired_bootstrap(&[a], &[b], &truth, &options).unwrap();
    let adjusted = holm(&[difference.p_value.unwrap()]).unwrap();
    let replicates: Vec<Vec<f64>> = (0..3).map(|j| column(&|s| s.stand_alone[j])).collect();
    let curve = |stage: &str, label: &str, n: u64, start: f64| {
        let at = |step| {
            let done = step as f64 / n as f64;
            let loss = start * (-3.0 * done).exp() + 0.1 + 0.03 * jitter(step as usize, n as usize);
            let learning_rate = 5e-4 * (1.0 + (std::f64::consts::PI * done).cos());
            // One step of the first stage failed.
            CurvePoint {
                step,
                loss: (stage != "teacher" || step != 5).then_some(loss),
                learning_rate,
            }
        };
        let points = (0..n).map(at).collect();
        Curve { stage: stage.to_owned(), label: label.to_owned(), points }
    };
    let mut curves = vec![
        curve("teacher", "largest network", 900, 2.3),
        curve("moco", "supernet", 400, 7.5),
        curve("ccfs", "CCFS-F", 600, 1.9),
        curve("ccfs", "uniform", 600, 2.1),
    ];
    curves.extend(
        (0..12).map(|i| curve("standalone", &format!("run {i}"), 300, 2.0 + 0.1 * f64::from(i))),
    );
    let timing = |stage: &str, seconds, work: &str| Timing {
        stage: stage.to_owned(),
        seconds,
        work: work.to_owned(),
    };
    Report {
        title: "CCFS-F on Fashion-MNIST <mini>".to_owned(),
        methods: vec![rank("CCFS-F", &|s| s.inherited[0]), rank("uniform", &|s| s.inherited[1])],
        baselines: vec![
            rank("parameters", &|s| s.params as f64),
            rank("MACs", &|s| s.macs as f64),
            rank("depth", &|s| s.depth as f64),
            rank("constant", &|_| 1.0),
        ],
        comparisons: vec![Comparison {
            a: "CCFS-F".to_owned(),
            b: "uniform".to_owned(),
            difference,
            adjusted_p_value: Some(adjusted[0]),
        }],
        noise_ceiling: Some(noise_ceiling(&replicates).unwrap()),
        subnets,
        curves,
        timings: vec![
            timing("teacher", 41.0, "5 epochs of 10,000 images"),
            timing("moco", 25.3, "2 epochs"),
            timing("ccfs", 110.0, "4 subnets a step"),
            timing("standalone", 1312.0, "40 architectures, 3 seeds"),
        ],
        data: vec![DataSource {
            name: "training set".to_owned(),
            origin: "a cut of Fashion-MNIST".to_owned(),
            n_images: 10_000,
            checksum: Some("5f2c".to_owned()),
        }],
        config_toml: "[ccfs]\nscore = \"width-sum\" # <not> & escaped\n".to_owned(),
        command: vec!["slimtau".to_owned(), "reproduce".to_owned(), "--quick".to_owned()],
        seeds: vec![Seed { purpose: "supernet".to_owned(), seed: 42 }],
        versions: Versions {
            slimtau: "0.1.0".to_owned(),
            git_commit: None,
            rustc: "rustc 1.95.0".to_owned(),
            cpu: "a processor".to_owned(),
            threads: 2,
            system: "linux x86_64".to_owned(),
        },
        notes: vec!["Images are 28 x 28 & grey.".to_owned()],
    }
}

/// Every tag is closed, in order; returns how often each element occurs.
pub(super) fn elements(html: &str) -> BTreeMap<String, usize> {
    const VOID: [&str; 3] = ["meta", "br", "!DOCTYPE"];
    let (mut open, mut counts) = (Vec::new(), BTreeMap::new());
    let mut rest = html;
    while let Some(start) = rest.find('<') {
        let end = start + rest[start..].find('>').expect("every tag ends");
        let tag = &rest[start + 1..end];
        rest = &rest[end + 1..];
        assert!(!tag.contains('<'), "a bare < in <{tag}>");
        let name =
            tag.trim_start_matches('/').split_whitespace().next().unwrap().trim_end_matches('/');
        if tag.starts_with('/') {
            assert_eq!(open.pop().as_deref(), Some(name));
        } else {
            *counts.entry(name.to_owned()).or_default() += 1;
            if !VOID.contains(&name) && !tag.ends_with('/') {
                open.push(name.to_owned());
            }
        }
    }
    assert_eq!(open, Vec::<String>::new(), "left open");
    counts
}

#[test]
fn the_report_is_written_twice_from_the_same_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let report = sample(0.8);
    write(folder.path(), &report).unwrap();
    let json = std::fs::read_to_string(folder.path().join("report.json")).unwrap();
    let read = serde_json::from_str::<Report>(&json).unwrap();
    assert!(read == report, "report.json does not read back as it was");

    let html = std::fs::read_to_string(folder.path().join("report.html")).unwrap();
    let counts = elements(&html);
    // Two scatters, four stages, a whisker for each of six rankings.
    assert_eq!(counts["svg"], 2 + 4 + 6);
    // Every point has its title; every architecture its row.
    assert_eq!(counts["circle"], 2 * 40 + 5, "{counts:?}");
    for subnet in &report.subnets {
        assert_eq!(html.matches(&format!("<code>{}</code>", subnet.code)).count(), 1);
        assert_eq!(html.matches(&format!("<title>{}:", subnet.code)).count(), 2);
    }
    for external in ["http", "src=", "url(", "@import", "<script", "<link"] {
        assert!(!html.contains(external), "{external}");
    }
    assert!(html.contains("&lt;mini&gt;") && !html.contains("<mini>"));
    assert!(html.contains("# &lt;not&gt; &amp; escaped"));
    for ranking in report.methods.iter().chain(&report.baselines) {
        if let Some(tau) = ranking.correlations.kendall_tau {
            assert!(html.contains(&format!("<td>{tau:.3}<small>")), "{}", ranking.name);
        }
    }
    assert!(!html.contains("NaN") && !html.contains(">inf"));
    assert!(html.contains("a loss that was not finite: 1."));
}

#[test]
fn findings_say_what_the_numbers_do_and_no_more() {
    let check = |report: &Report, said: &[&str], unsaid: &[&str]| {
        let text = findings(report).join(" ");
        for needle in said {
            assert!(text.contains(needle), "{text}\nlacks {needle}");
        }
        for needle in unsaid {
            assert!(!text.contains(needle), "{text}\nhas {needle}");
        }
    };
    let good = sample(0.3);
    check(
        &good,
        &[
            "Over 40 architectures",
            "95 % interval",
            "need no training, ",
            " less.",
            "mean over 3 seeds",
        ],
        &["contains 0", "adds nothing", "are few", "constant"],
    );
    // Predictions far noisier than the size of the network is telling.
    let poor = sample(60.0);
    check(&poor, &["The interval contains 0", "adds nothing", "rank as well or better"], &[]);
    check(&poor, &["do not establish a difference", "one training run of each"], &[]);

    let mut turned = good.clone();
    let d = &mut turned.comparisons[0].difference;
    d.difference = Some(-0.2);
    d.interval = Some(slimtau_ranking::Interval { low: -0.3, high: -0.1 });
    turned.comparisons[0].adjusted_p_value = Some(0.004);
    check(&turned, &["uniform ranks better than CCFS-F", "p = 0.004"], &[]);
    // An interval clear of 0 does not survive the correction.
    turned.comparisons[0].adjusted_p_value = Some(0.2);
    check(&turned, &["do not establish"], &["ranks better"]);

    let mut once = good.clone();
    once.noise_ceiling = None;
    check(&once, &["trained alone once"], &["mean over"]);
}

#[test]
fn empty_and_degenerate_reports_are_written_too() {
    let folder = tempfile::tempdir().unwrap();
    let mut report = sample(0.8);
    report.methods =
        vec![Ranking::new("flat", &[1.0, 1.0], &[2.0, 3.0], &Bootstrap::default()).unwrap()];
    report.baselines.clear();
    report.comparisons.clear();
    report.subnets.truncate(1);
    for curve in &mut report.curves {
        curve.points.truncate(1);
        curve.points[0].loss = None;
    }
    write(folder.path(), &report).unwrap();
    let html = std::fs::read_to_string(folder.path().join("report.html")).unwrap();
    elements(&html);
    assert!(html.contains("Kendall&#39;s tau is undefined") && !html.contains("NaN"));

    report.methods.clear();
    report.subnets.clear();
    report.curves.clear();
    report.timings.clear();
    write(folder.path(), &report).unwrap();
    let html = std::fs::read_to_string(folder.path().join("report.html")).unwrap();
    elements(&html);
    assert!(html.contains("ranked no architectures"));
}

#[test]
fn a_number_that_json_cannot_say_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut report = sample(0.8);
    report.timings[0].seconds = f64::NAN;
    let error = write(folder.path(), &report).unwrap_err();
    assert!(format!("{error:#}").contains("not finite"), "{error:#}");
    assert!(!folder.path().join("report.json").exists());
}
