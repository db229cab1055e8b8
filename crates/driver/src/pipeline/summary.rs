//! The end of a run: correlations and the report.

use super::Run;
use super::results::{StandaloneResult, read_json, read_seconds, subnets};
use crate::machine::{command, versions};
use crate::report::{self, Comparison, Curve, CurvePoint, Ranking, Report, Seed, Subnet, Timing};
use anyhow::{Result, bail};
use slimtau_ranking::{
    Bootstrap, Score, Scores, match_scores, noise_ceiling, paired_bootstrap, write_csv,
};
use slimtau_space::CostModel;
use slimtau_train::read_log;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::slice::from_ref;

/// Writes `truth.csv`, `report.json` and `report.html`, and prints the result.
pub fn stage(run: &Run) -> Result<()> {
    let results: Vec<StandaloneResult> =
        read_json(&run.folder.join("standalone").join("results.json"))?;
    let inherited = Scores::read(&run.folder.join("inherited.json"))?;
    let model = CostModel::new(&run.space);
    let mut by_code: BTreeMap<&str, Vec<(u64, f64)>> = BTreeMap::new();
    for r in &results {
        by_code.entry(&r.code).or_default().push((r.replicate, r.accuracy));
    }
    let mut rows = Vec::new();
    for arch in subnets(run)? {
        let code = run.space.encode(&arch);
        let Some(alone) = by_code.get_mut(code.as_str()) else {
            bail!("no stand-alone result for {code}: run the standalone stage first");
        };
        alone.sort_by_key(|(replicate, _)| *replicate);
        let costs = model.costs(&arch);
        rows.push(Subnet {
            code,
            params: costs.params,
            macs: costs.macs,
            depth: arch.depth(),
            inherited: Vec::new(),
            stand_alone: alone.iter().map(|(_, accuracy)| *accuracy).collect(),
        });
    }
    let truth: Vec<Score> = rows
        .iter()
        .map(|s| Score { code: s.code.clone(), accuracy: s.stand_alone_mean().unwrap_or(f64::NAN) })
        .collect();
    let truth_path = run.folder.join("truth.csv");
    write_csv(&truth_path, &truth)?;
    let matched = match_scores(&inherited, &Scores::read(&truth_path)?)?;
    if matched.pairs.len() != rows.len() {
        bail!(
            "{}: holds other subnets than the run's; remove it to evaluate again",
            run.folder.join("inherited.json").display()
        );
    }
    let (predictions, truths) = (matched.predictions(), matched.truths());
    for (row, prediction) in rows.iter_mut().zip(&predictions) {
        row.inherited.push(*prediction);
    }

    let options = Bootstrap { seed: run.config.seed, ..Bootstrap::default() };
    let dynamic = run.config.ccfs.dynamic.as_ref().map_or("", |_| ", dynamic");
    let name = format!("supernet ({}{dynamic})", run.config.ccfs.sampler);
    let methods = vec![Ranking::new(&name, &predictions, &truths, &options)?];
    let archs = subnets(run)?;
    let score = |f: &dyn Fn(&slimtau_space::Arch) -> f64| archs.iter().map(f).collect::<Vec<_>>();
    let candidates = [
        ("parameters", score(&|a| model.costs(a).params as f64)),
        ("MACs", score(&|a| model.costs(a).macs as f64)),
        ("depth", score(&|a| a.depth() as f64)),
        ("Phi_M", score(&|a| model.costs(a).phi_m)),
        ("Phi_F", score(&|a| model.costs(a).phi_f)),
        ("width sum", score(&|a| model.width_sum(a))),
    ];
    let (mut baselines, mut comparisons) = (Vec::new(), Vec::new());
    for (baseline, values) in candidates {
        baselines.push(Ranking::new(baseline, &values, &truths, &options)?);
        let difference = paired_bootstrap(from_ref(&predictions), &[values], &truths, &options)?;
        let (a, b) = (name.clone(), baseline.to_owned());
        comparisons.push(Comparison { a, b, difference, adjusted_p_value: None });
    }
    report::correct(&mut comparisons)?;
    let replicates: Vec<Vec<f64>> = (0..run.config.standalone.seeds as usize)
        .map(|k| rows.iter().filter_map(|r| r.stand_alone.get(k).copied()).collect())
        .collect();
    let ceiling = if replicates.len() > 1 { Some(noise_ceiling(&replicates)?) } else { None };

    let (curves, timings) = curves_and_timings(run, &results)?;
    let config = &run.config;
    let report = Report {
        title: format!("{}: does the supernet rank as training alone does?", config.name),
        methods,
        baselines,
        comparisons,
        noise_ceiling: ceiling,
        subnets: rows,
        curves,
        timings,
        data: run.data_sources(),
        config_toml: run.config_toml.clone(),
        command: command(),
        seeds: vec![
            Seed { purpose: "every stage, subnets, bootstrap".into(), seed: config.seed },
            Seed { purpose: "first stand-alone replicate".into(), seed: config.seed + 1000 },
        ],
        versions: versions(run.engine.hardware()),
        notes: notes(run),
    };
    report::write(&run.folder, &report)?;
    let tau = &report.methods[0];
    let mut out = std::io::stdout().lock();
    match (tau.correlations.kendall_tau, &tau.intervals.kendall_tau) {
        (Some(t), Some(i)) => writeln!(
            out,
            "Kendall tau {t:.3} [{:.3}, {:.3}] over {} subnets",
            i.low,
            i.high,
            report.subnets.len()
        )?,
        _ => writeln!(out, "Kendall tau is undefined: all accuracies are equal")?,
    }
    Ok(writeln!(out, "{}", run.folder.join("report.html").display())?)
}

/// Loss curves and seconds of every stage, from the logs.
fn curves_and_timings(
    run: &Run,
    results: &[StandaloneResult],
) -> Result<(Vec<Curve>, Vec<Timing>)> {
    let (mut curves, mut timings) = (Vec::new(), Vec::new());
    let config = &run.config;
    let moco = config.moco.as_ref().map(|m| (m.steps, m.batch, 1));
    let stages = [
        ("teacher", Some((config.teacher.steps, config.teacher.batch, 1))),
        ("moco", moco),
        ("ccfs", Some((config.ccfs.steps, config.ccfs.batch, config.ccfs.keep))),
    ];
    for (stage, size) in stages {
        let log = run.stage_folder(stage).join("log.jsonl");
        let Some((steps, batch, subnets)) = size.filter(|_| log.is_file()) else { continue };
        let (curve, seconds) = curve(&log, stage, stage)?;
        curves.push(curve);
        let work = format!("{steps} steps of {batch} images, {subnets} subnet(s) a step");
        timings.push(Timing { stage: stage.into(), seconds, work });
    }
    if let Some(seconds) = read_seconds(run)?.get("inherit") {
        let work = format!("{} subnets", results.len() as u64 / config.standalone.seeds.max(1));
        timings.push(Timing { stage: "inherit".into(), seconds: *seconds, work });
    }
    for r in results.iter().filter(|r| r.replicate == 0) {
        let folder = run.stage_folder("standalone").join(format!("{}-0", r.code));
        let log = folder.join("log.jsonl");
        if log.is_file() {
            curves.push(curve(&log, "standalone", &r.code)?.0);
        }
    }
    let seconds = results.iter().map(|r| r.seconds).sum();
    let s = &config.standalone;
    let work = format!("{} trainings of {} steps of {} images", results.len(), s.steps, s.batch);
    timings.push(Timing { stage: "standalone".into(), seconds, work });
    Ok((curves, timings))
}

fn curve(log: &Path, stage: &str, label: &str) -> Result<(Curve, f64)> {
    let lines = read_log(log)?;
    let seconds = lines.last().map_or(0.0, |l| l.seconds);
    let points =
        lines.iter().map(|l| CurvePoint { step: l.step, loss: Some(l.loss), learning_rate: l.lr });
    let points = points.collect();
    Ok((Curve { stage: stage.into(), label: label.into(), points }, seconds))
}

/// What a reader should know besides the numbers.
fn notes(run: &Run) -> Vec<String> {
    let config = &run.config;
    let mut notes = vec![format!(
        "Stand-alone accuracy is the mean of {} training(s) per subnet, each from its own initial weights.",
        config.standalone.seeds
    )];
    if config.moco.is_none() {
        notes.push("No MoCo stage: stage 2 started from the teacher's weights.".into());
    }
    if config.standalone.seeds < 2 {
        notes.push(
            "With one training per subnet nothing can be said about the truth's noise.".into(),
        );
    }
    notes
}
