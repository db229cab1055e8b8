//! Experiments whose truth is known, written, read back and looked at.

use super::super::Verdict;
use super::super::tests::elements;
use super::findings::findings;
use super::*;
use crate::report::{DataSource, Seed, Versions};
use slimtau_ranking::Bootstrap;

const N: usize = 48;

/// A fixed sequence in [-1, 1) that looks random.
fn jitter(i: usize, j: usize) -> f64 {
    ((i * 7919 + j * 104_729 + i * j * 31) % 1009) as f64 / 504.5 - 1.0
}

fn quality(i: usize) -> f64 {
    85.0 + (i * 13 % N) as f64 / 10.0
}

/// 48 architectures whose truth grows with `quality`, which their size hardly shows.
fn architectures(replicate_noise: f64) -> Vec<Architecture> {
    let architecture = |i: usize| {
        let size = 40.0 + quality(i) - 85.0 + 6.0 * jitter(i, 1);
        let stage_depths = vec![1 + i % 3, 2 + i / 7 % 4];
        Architecture {
            code: format!("{:03}", 7 * i),
            params: (size * 1e4) as u64,
            macs: (size * 1e6) as u64,
            depth: stage_depths.iter().sum(),
            stage_depths,
            phi_m: size,
            phi_f: size + jitter(i, 2),
            width_sum: 100.0 + (5.0 * jitter(i, 3)).round(),
            stand_alone: (4..7).map(|j| quality(i) + replicate_noise * jitter(i, j)).collect(),
        }
    };
    (0..N).map(architecture).collect()
}

/// A method whose predictions stray from the truth by `noise`; `seeds` are those finished.
fn row(name: &str, group: Group, paper_tau: Option<f64>, noise: f64, seeds: &[u64]) -> Row {
    let result = |&seed: &u64| {
        let list = |noise: f64| {
            let salt = 17 * seed as usize + name.len();
            (0..N).map(|i| quality(i) - 8.0 + noise * jitter(i, 10 + salt)).collect::<Vec<f64>>()
        };
        SeedResult {
            seed,
            inherited: list(noise),
            seconds: Seconds { teacher: 20.0, moco: 0.0, stage2: 80.0 + noise, evaluation: 4.5 },
            images: 120_000,
            checkpoints: (1..4)
                .map(|k| Checkpoint { images: 40_000 * k, inherited: list(noise + 3.0 - k as f64) })
                .collect(),
        }
    };
    Row {
        name: name.to_owned(),
        group,
        paper_tau,
        about: format!("What {name} is | <in> one sentence."),
        seeds: seeds.iter().map(result).collect(),
    }
}

fn experiment(rows: Vec<Row>) -> Experiment {
    Experiment {
        name: "Rankings on <mini>".to_owned(),
        space: "mini".to_owned(),
        data: vec![DataSource {
            name: "training set".to_owned(),
            origin: "a cut of Fashion-MNIST".to_owned(),
            n_images: 10_000,
            checksum: None,
        }],
        classes: 10,
        budget: "120,000 images".to_owned(),
        config_toml: "[ccfs] # <not> & escaped\n".to_owned(),
        command: vec!["slimtau".to_owned(), "run".to_owned()],
        versions: Versions {
            slimtau: "0.1.0".to_owned(),
            git_commit: Some("abc".to_owned()),
            rustc: "rustc 1.95.0".to_owned(),
            cpu: "a processor".to_owned(),
            threads: 2,
            system: "linux x86_64".to_owned(),
        },
        seconds: 4000.0,
        seeds: vec![Seed { purpose: "stand-alone".to_owned(), seed: 1000 }],
        supernet_seeds: vec![0, 1, 2],
        bootstrap: Bootstrap { resamples: 500, ..Bootstrap::default() },
        architectures: architectures(0.3),
        rows,
        comparisons: None,
        notes: vec!["Images are 28 x 28 & grey.".to_owned()],
    }
}

const ALL: [u64; 3] = [0, 1, 2];

/// A bit of everything: good, bad, constant, unfinished.
fn sample() -> Experiment {
    let mut flat = row("flat", Group::BnTreatment, None, 1.0, &ALL);
    flat.seeds.iter_mut().for_each(|s| s.inherited = vec![10.0; N]);
    experiment(vec![
        row("vanilla", Group::Table1, Some(0.849), 2.0, &ALL),
        row("contrastive", Group::Table1, Some(0.858), 1.0, &ALL),
        row("FairNAS", Group::Table2, Some(0.819), 0.2, &ALL),
        row("OFA", Group::Table2, Some(0.823), 1.0, &ALL),
        row("CCFS-M", Group::Table2, Some(0.841), 2.5, &ALL),
        row("CCFS-F", Group::Table2, Some(0.858), 9.0, &ALL),
        row("uniform", Group::FurtherSamplers, None, 1.0, &[2, 0]),
        row("elsewhere", Group::PublishedSince, None, 30.0, &[1]),
        flat,
        row("own", Group::BeyondThePaper, None, 0.3, &[]),
    ])
}

fn analysed(experiment: &Experiment) -> (Results, String) {
    experiment.check().unwrap();
    let results = Results::new(experiment).unwrap();
    let text = findings(experiment, &results).join(" ");
    (results, text)
}

#[track_caller]
fn check(text: &str, said: &[&str], unsaid: &[&str]) {
    for needle in said {
        assert!(text.contains(needle), "{text}\nlacks {needle}");
    }
    for needle in unsaid {
        assert!(!text.contains(needle), "{text}\nhas {needle}");
    }
}

#[test]
fn files_are_complete_and_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let experiment = sample();
    let summary = write(folder.path(), &experiment).unwrap();
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let document: Document = serde_json::from_str(&read("report.json")).unwrap();
    assert!(document.experiment == experiment, "the data do not read back as they were");
    assert!(document.results == Results::new(&experiment).unwrap());

    let html = read("report.html");
    let counts = elements(&html);
    // Two forests, nine scatters and nine training curves (one row has no seed), the truth twice.
    assert_eq!(counts["svg"], 2 + 9 + 9 + 2, "{counts:?}");
    for architecture in &experiment.architectures {
        assert_eq!(html.matches(&format!("<code>{}</code>", architecture.code)).count(), 1);
    }
    for external in ["http", "src=", "url(", "@import", "<script", "<link"] {
        assert!(!html.contains(external), "{external}");
    }
    assert!(html.contains("&lt;mini&gt;") && !html.contains("<mini>"));
    assert!(html.contains("&lt;not&gt; &amp; escaped") && html.contains("0.858"));
    assert!(!html.contains("NaN") && !html.contains(">inf"));

    let printed = summary.to_string();
    assert_eq!(printed.lines().count(), experiment.rows.len() + 2, "{printed}");
    check(
        &printed,
        &["own", "0 of 3 seeds", "2 of 3 seeds", "tau undefined", "ceiling: tau 0."],
        &[],
    );
}

#[test]
fn markdown_tables_are_well_formed() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &sample()).unwrap();
    let text = std::fs::read_to_string(folder.path().join("results.md")).unwrap();
    let mut n_tables = 0;
    let mut columns = None;
    for line in text.lines() {
        if !line.starts_with('|') {
            columns = None;
            assert!(line.chars().count() <= 120, "{line}");
            continue;
        }
        let cells = line.replace("\\|", "").matches('|').count();
        assert!(line.ends_with('|'), "{line}");
        n_tables += usize::from(columns.is_none());
        assert_eq!(*columns.get_or_insert(cells), cells, "{line}");
    }
    // Two of the paper's, all rows, all seeds, the truth, depth, three of comparisons.
    assert_eq!(n_tables, 9, "{text}");
    check(
        &text,
        &["# Rankings on \\<mini>", "| FairNAS | 0.819 |", "\\<in> one sentence"],
        &["NaN"],
    );
}

#[test]
fn a_row_that_equals_the_truth_is_recognised() {
    let mut experiment = experiment(vec![
        row("oracle", Group::BeyondThePaper, None, 0.0, &ALL),
        row("CCFS-F", Group::Table2, Some(0.858), 6.0, &ALL),
    ]);
    experiment.architectures = architectures(0.0);
    let (results, text) = analysed(&experiment);
    let oracle = &results.rows[0];
    assert_eq!((oracle.tau.mean, oracle.tau.std), (Some(1.0), Some(0.0)));
    assert_eq!(oracle.tau.interval, Some(Interval { low: 1.0, high: 1.0 }));
    assert_eq!((oracle.tau_within_depth.mean, oracle.regret), (Some(1.0), Some(0.0)));
    assert_eq!(oracle.top_k.unwrap().precision, 1.0);
    assert_eq!(results.truth.between_replicates.mean_tau, Some(1.0));
    assert_eq!(results.truth.reliability.single, Some(1.0));
    // Against CCFS-F, and both against parameters.
    assert_eq!(results.comparisons.len(), 3);
    let pair = &results.comparisons[0];
    assert_eq!((pair.a.as_str(), pair.b.as_str()), ("oracle", "CCFS-F"));
    assert_eq!(pair.verdict(), Verdict::Better);
    check(
        &text,
        &[
            "oracle has the highest mean tau, 1.000",
            "oracle ranks better than",
            "oracle over CCFS-F",
        ],
        &["oracle does not beat", "are few"],
    );
}

#[test]
fn constant_unfinished_and_single_rows_are_said_to_be_so() {
    let (results, text) = analysed(&sample());
    let find = |name: &str| results.rows.iter().find(|row| row.name == name).unwrap();
    let flat = find("flat");
    assert_eq!((flat.tau.mean, flat.tau.interval, flat.tau.degenerate), (None, None, 500));
    let by_chance = flat.top_k.unwrap();
    assert!((by_chance.precision - by_chance.k as f64 / N as f64).abs() < 1e-12);
    assert!(find("own").seeds.is_empty() && find("own").seconds.is_none());
    assert_eq!(find("elsewhere").tau.std, None);
    check(
        &text,
        &[
            "uniform (2 of 3), elsewhere (1 of 3), own (0 of 3)",
            "The tau of flat is undefined",
            "The interval of elsewhere contains 0",
            "Not compared, since no supernet seed of both is finished: own and CCFS-F",
            "understates how far other seeds may lie",
        ],
        &["NaN"],
    );
    // Compared over the seeds that both have.
    let seeds = |a: &str, b: &str| {
        let pair = results.comparisons.iter().find(|c| c.a == a && c.b == b).unwrap();
        pair.difference.n_seeds
    };
    assert_eq!((seeds("CCFS-F", "uniform"), seeds("elsewhere", "CCFS-F")), (2, 1));

    let (results, text) = analysed(&experiment(vec![row("only", Group::Table1, None, 1.0, &[1])]));
    assert_eq!(results.comparisons.len(), 1);
    assert!(results.paper_order.is_empty());
    check(
        &text,
        &["only has the highest", "With one supernet seed", "(1 of 3)"],
        &["which methods differ", "The paper's order"],
    );
}

#[test]
fn a_collapsed_supernet_is_named() {
    let mut broken = experiment(vec![
        row("sound", Group::Table1, None, 1.0, &ALL),
        row("broken", Group::Table1, None, 1.0, &ALL),
    ]);
    broken.rows[1].seeds[1].inherited = (0..N).map(|i| if i < 2 { 1.9 } else { 1.82 }).collect();
    let seed = broken.rows[1].seeds[1].seed;
    let (_, text) = analysed(&broken);
    let said = format!("A supernet of broken (seed {seed}) has collapsed: 46 of its 48 subnets");
    check(&text, &[&said, "1.82 %; its tau, "], &["of sound (seed"]);
    broken.rows[1].seeds[1].inherited = vec![1.82; N];
    let (_, text) = analysed(&broken);
    check(&text, &["48 of its 48 subnets", "it has no tau"], &[]);
    // Half of them alike is a coarse measurement.
    broken.rows[1].seeds[1].inherited = (0..N).map(|i| (i as f64).max(23.0)).collect();
    let (_, text) = analysed(&broken);
    check(&text, &[], &["collapsed"]);
}

#[test]
fn the_papers_order_is_said_to_hold_or_not() {
    let table = |noises: [f64; 4]| {
        let names = [("FairNAS", 0.819), ("OFA", 0.823), ("CCFS-M", 0.841), ("CCFS-F", 0.858)];
        let rows = names.iter().zip(noises);
        experiment(
            rows.map(|((name, tau), noise)| row(name, Group::Table2, Some(*tau), noise, &ALL))
                .collect(),
        )
    };
    let (results, text) = analysed(&table([8.0, 2.5, 0.9, 0.1]));
    assert_eq!(results.paper_order.len(), 6);
    check(
        &text,
        &["(CCFS-F, CCFS-M, OFA, FairNAS) is also the order of the mean taus here"],
        &["does not hold"],
    );
    let (results, text) = analysed(&table([0.1, 0.9, 2.5, 8.0]));
    let reversed = results.paper_order.iter().filter(|p| p.comparison.verdict() == Verdict::Worse);
    assert!(reversed.count() >= 5);
    check(
        &text,
        &["does not hold here in 6 of 6 pairs", "FairNAS over CCFS-F", "CCFS-F minus FairNAS is -"],
        &["is also the order", "nothing is established"],
    );
    // Four times the same supernet: no pair is in order, none is established.
    let mut same = table([1.0; 4]);
    let seeds = same.rows[0].seeds.clone();
    same.rows.iter_mut().for_each(|row| row.seeds = seeds.clone());
    let (_, text) = analysed(&same);
    check(
        &text,
        &["CCFS-F, CCFS-M, FairNAS and OFA have the highest", "nothing is established"],
        &[],
    );
}

#[test]
fn a_supernet_that_is_no_better_than_counting_is_told_so() {
    let mut experiment = experiment(vec![
        row("good", Group::Table2, None, 0.1, &ALL),
        row("poor", Group::Table2, None, 40.0, &ALL),
    ]);
    for (i, architecture) in experiment.architectures.iter_mut().enumerate() {
        architecture.params = (1000.0 * (quality(i) + 0.6 * jitter(i, 3))) as u64;
    }
    let (results, text) = analysed(&experiment);
    assert_eq!(results.best().unwrap().name, "parameters");
    check(
        &text,
        &[
            "none ranks better than parameters, tau 0.",
            "poor ranks worse than parameters, which needs no training",
        ],
        &["poor ranks better", "good ranks worse"],
    );
    // Shown against a baseline as good as itself, a row does not beat it.
    for result in &mut experiment.rows[0].seeds {
        result.inherited =
            experiment.architectures.iter().map(|a| a.params as f64 / 1000.0).collect();
    }
    let (_, text) = analysed(&experiment);
    check(&text, &["good does not beat parameters, which needs no training: its mean tau"], &[]);
}

#[test]
fn a_row_that_knows_nothing_but_the_depth_is_found_out() {
    let mut experiment = experiment(vec![row("deep", Group::Table2, None, 0.0, &ALL)]);
    for (i, architecture) in experiment.architectures.iter_mut().enumerate() {
        // Three depths, so that each is a group of its own.
        architecture.depth = 4 + i % 3;
        architecture.stage_depths = vec![architecture.depth];
        let depth = architecture.depth as f64;
        let truth = 80.0 + depth + 0.6 * jitter(i, 9);
        architecture.stand_alone = (4..7).map(|j| truth + 0.1 * jitter(i, j)).collect();
        for result in &mut experiment.rows[0].seeds {
            result.inherited[i] = 70.0 + depth + 0.2 * jitter(i, 40 + result.seed as usize);
        }
    }
    let (results, text) = analysed(&experiment);
    let row = &results.rows[0];
    assert!(results.depth_groups.len() > 1 && row.tau.interval.unwrap().low > 0.3);
    assert!(row.tau_within_depth.mean.unwrap() < 0.2, "{row:?}");
    // Nothing can be said of depth itself where all of a group are equal.
    assert_eq!(results.baselines[2].tau_within_depth.mean, None);
    check(&text, &["Among architectures of similar depth deep is no longer shown to rank"], &[]);
}

#[test]
fn comparisons_are_those_planned() {
    let mut experiment = sample();
    let pairs = [("FairNAS", "OFA"), ("Phi_F", "uniform"), ("MACs", "depth"), ("own", "MACs")];
    let planned = pairs.map(|(a, b)| Planned { a: a.to_owned(), b: b.to_owned() });
    experiment.comparisons = Some(planned.to_vec());
    let (results, _) = analysed(&experiment);
    let names: Vec<_> = results
        .comparisons
        .iter()
        .map(|c| (c.a.as_str(), c.b.as_str(), c.difference.n_seeds))
        .collect();
    assert_eq!(names, [("FairNAS", "OFA", 3), ("Phi_F", "uniform", 2), ("MACs", "depth", 1)]);
    assert_eq!(results.not_compared, planned[3..]);
    // Holm: the smallest of three p-values counts three times.
    let p = |c: &crate::report::Comparison| c.difference.p_value.unwrap();
    let smallest = results.comparisons.iter().min_by(|a, b| p(a).total_cmp(&p(b))).unwrap();
    assert!((smallest.adjusted_p_value.unwrap() - (3.0 * p(smallest)).min(1.0)).abs() < 1e-12);
    // Those by default: no pair twice, in either direction or in the paper's family, and no row that
    // only repeats another's data.
    experiment.comparisons = None;
    let mut twin = experiment.rows.iter().find(|row| row.name == "OFA").unwrap().clone();
    twin.name = "twin".into();
    experiment.rows.push(twin);
    let (results, _) = analysed(&experiment);
    let mut pairs: Vec<[&str; 2]> =
        results.comparisons.iter().map(|c| [c.a.as_str(), c.b.as_str()]).collect();
    assert!(pairs.contains(&["CCFS-F", "uniform"]) && !pairs.contains(&["twin", "parameters"]));
    let paper = results.paper_order.iter().map(|p| &p.comparison);
    let mut paper = paper.map(|c| [c.a.as_str(), c.b.as_str()]);
    assert!(paper.clone().any(|pair| pair == ["contrastive", "vanilla"]));
    assert!(paper.all(|[a, b]| !pairs.contains(&[a, b]) && !pairs.contains(&[b, a])));
    assert!(results.against_best_baseline.iter().all(|c| c.a != "twin"));
    assert!(pairs.contains(&["elsewhere", "CCFS-F"]) && pairs.contains(&["OFA", "parameters"]));
    pairs.iter_mut().for_each(|pair| pair.sort_unstable());
    let n = pairs.len();
    pairs.sort_unstable();
    pairs.dedup();
    assert_eq!(pairs.len(), n);
}

/// Order of architectures, rows and seeds is the file's affair.
#[test]
fn results_do_not_depend_on_order() {
    let straight = sample();
    let mut turned = straight.clone();
    let order: Vec<usize> = (0..N).map(|i| i * 29 % N).collect();
    let permute = |values: &[f64]| order.iter().map(|&i| values[i]).collect::<Vec<f64>>();
    turned.architectures = order.iter().map(|&i| straight.architectures[i].clone()).collect();
    for row in &mut turned.rows {
        for result in &mut row.seeds {
            result.inherited = permute(&result.inherited);
            result.checkpoints.iter_mut().for_each(|c| c.inherited = permute(&c.inherited));
        }
        row.seeds.reverse();
    }
    turned.rows.reverse();
    turned.supernet_seeds.reverse();
    let (a, mut b) = (Results::new(&straight).unwrap(), Results::new(&turned).unwrap());
    b.rows.reverse();
    assert!(a.rows == b.rows && a.baselines == b.baselines && a.truth == b.truth);
    assert_eq!(a.depth_groups, b.depth_groups);
    let sorted = |comparisons: &[crate::report::Comparison]| {
        let mut sorted = comparisons.to_vec();
        sorted.sort_by(|x, y| (&x.a, &x.b).cmp(&(&y.a, &y.b)));
        sorted
    };
    assert_eq!(sorted(&a.comparisons), sorted(&b.comparisons));
    assert_eq!(sorted(&a.against_best_baseline), sorted(&b.against_best_baseline));
    assert_eq!(a.paper_order.len(), b.paper_order.len());
}

#[test]
fn contradictions_are_refused_with_the_values() {
    let check = |spoil: &dyn Fn(&mut Experiment), needle: &str| {
        let mut experiment = sample();
        spoil(&mut experiment);
        let message = experiment.check().unwrap_err().to_string();
        assert!(message.contains(needle), "{message}");
    };
    check(&|e| e.architectures.clear(), "no architectures");
    check(&|e| e.architectures[1].code = "000".into(), "architecture 000 occurs twice");
    check(&|e| e.architectures[1].depth += 1, "architecture 007: its stages have");
    check(&|e| e.architectures[1].stand_alone = vec![1.0], "007 has 1 stand-alone accuracies");
    check(&|e| e.architectures[2].stand_alone[0] = f64::NAN, "a stand-alone accuracy is NaN");
    check(&|e| e.rows[1].name = "vanilla".into(), "row `vanilla` occurs twice");
    check(&|e| e.rows[1].name = "MACs".into(), "a baseline's name");
    check(&|e| e.rows[0].seeds[1].seed = 9, "row `vanilla` has seed 9");
    check(&|e| e.rows[0].seeds[1].seed = 0, "row `vanilla` has seed 0 twice");
    check(&|e| e.rows[0].seeds[1].inherited.truncate(5), "row `vanilla`, seed 1: 5 inherited");
    check(&|e| e.rows[0].seeds[1].checkpoints.reverse(), "do not ascend");
    check(&|e| e.rows[0].seeds[1].seconds.stage2 = -1.0, "stage 2 took -1 s");
    let planned = |a: &str, b: &str| Some(vec![Planned { a: a.into(), b: b.into() }]);
    check(&|e| e.comparisons = planned("OFA", "ofa"), "names `ofa`");
    check(&|e| e.comparisons = planned("OFA", "OFA"), "with itself");
}
