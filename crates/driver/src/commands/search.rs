//! `slimtau search`: the subnets of a trained supernet that are best at their cost.

use super::inherited::{Inherited, Supernet};
use crate::pipeline::{Evaluation, Evaluator, Log, percent};
use crate::progress::Bar;
use crate::report::search::{Found, SearchReport};
use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use serde::Serialize;
use slimtau_data::{Data, Subset};
use slimtau_parallel::hold;
use slimtau_search::{Candidate, Problem, Settings, evolve, pareto_ranks, points};
use slimtau_space::{Arch, CostModel};
use slimtau_supernet::{Plan, Session};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Passes that are timed, after two that are not.
const TIMED: usize = 15;

/// How to search.
#[derive(clap::Args)]
pub struct Search {
    #[command(flatten)]
    supernet: Inherited,
    /// What is to be small, besides the error
    #[arg(long, value_enum, default_value_t = CostKind::Macs)]
    cost: CostKind,
    /// Only subnets with at most so many trainable parameters
    #[arg(long, value_name = "N")]
    max_params: Option<u64>,
    /// Only subnets with at most so many multiply-accumulates per image
    #[arg(long, value_name = "N")]
    max_macs: Option<u64>,
    /// Only subnets that answer within so many milliseconds, measured on this machine
    #[arg(long, value_name = "MS")]
    max_latency: Option<f64>,
    /// Images per pass when time is measured
    #[arg(long, default_value_t = 1, value_name = "N")]
    latency_batch: usize,
    /// Subnets per generation
    #[arg(long, default_value_t = 50, value_name = "N")]
    population: usize,
    /// Generations after the first, random one
    #[arg(long, default_value_t = 20, value_name = "N")]
    generations: usize,
    /// The probability that a choice of a child is drawn anew
    #[arg(long, default_value_t = 0.1, value_name = "P")]
    mutation: f64,
    /// Seed of the search
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Folder for search.csv, search.html, and what the same command goes on from: evaluations.jsonl, front.jsonl
    #[arg(long, value_name = "FOLDER")]
    output: PathBuf,
}

/// What a subnet costs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum CostKind {
    /// Trainable parameters
    Params,
    /// Multiply-accumulates on one image
    Macs,
    /// Inference time on this machine
    Latency,
}

/// All costs of a subnet.
#[derive(Clone, Copy, Debug)]
struct Cost {
    params: u64,
    macs: u64,
    microseconds: Option<u64>,
}

impl CostKind {
    fn of(self, cost: &Cost) -> f64 {
        match self {
            Self::Params => cost.params as f64,
            Self::Macs => cost.macs as f64,
            Self::Latency => cost.microseconds.expect("it is measured for this cost") as f64,
        }
    }

    /// What an axis says, and what it counts in.
    fn unit(self) -> (&'static str, f64) {
        match self {
            Self::Params => ("parameters, M", 1e6),
            Self::Macs => ("MMAC per image", 1e6),
            Self::Latency => ("ms per pass", 1e3),
        }
    }
}

/// A line of search.csv.
#[derive(Serialize)]
struct Row<'a> {
    code: &'a str,
    params: u64,
    macs: u64,
    latency_ms: Option<f64>,
    accuracy: f64,
    accuracy_on_other_images: Option<f64>,
    generation: usize,
    pareto_rank: usize,
}

/// Runs the command.
pub fn run(args: &Search) -> Result<()> {
    let (batch, population, generations) = (args.latency_batch, args.population, args.generations);
    ensure!((1..=1 << 16).contains(&batch), "--latency-batch {batch}: 1 to 65536 images");
    ensure!((2..=1 << 20).contains(&population), "--population {population}: 2 to 1048576");
    ensure!(generations <= 1 << 20, "--generations {generations}: at most 1048576");
    let mutation = args.mutation;
    ensure!((0.0..=1.0).contains(&mutation), "--mutation {mutation}: a probability is 0 to 1");
    if let Some(most) = args.max_latency {
        ensure!(most.is_finite() && most > 0.0, "--max-latency {most}: milliseconds above 0");
    }
    let setting = args.supernet.resolve()?;
    let space = &setting.space;
    let costs = CostModel::new(space);
    let least = costs.costs(&space.smallest());
    for (option, limit, least) in
        [("--max-params", args.max_params, least.params), ("--max-macs", args.max_macs, least.macs)]
    {
        if let Some(limit) = limit.filter(|limit| *limit < least) {
            bail!("{option} {limit}: the smallest network of {} has {least}", space.name);
        }
    }
    let supernet = args.supernet.open(setting)?;
    let [searched, other] = halves(&supernet.data)?;
    let measures = args.cost == CostKind::Latency || args.max_latency.is_some();
    if measures && !args.supernet.on_cpu() {
        eprintln!("latencies are the CPU's, whatever --device says");
    }
    let latency = measures.then(|| {
        let (batch, threads) = (args.latency_batch, rayon::current_num_threads());
        format!("batch {batch}, {threads} threads, {}", crate::machine::cpu_model())
    });
    let evaluation = Evaluation { latency, ..supernet.evaluation(&searched) };
    let image = supernet.space.image_size.pow(2) * supernet.space.channels;
    let mut problem = Inheriting {
        args,
        supernet: &supernet,
        costs,
        evaluator: supernet.evaluator(&searched)?,
        log: Log::open(&args.output.join("evaluations.jsonl"), &evaluation)?,
        bar: Bar::new("search", (args.population * (args.generations + 1)) as u64),
        session: Session::new(),
        images: measures.then(|| vec![0.0; args.latency_batch * image]),
        best: 0.0,
    };
    if let Some(most) = args.max_latency {
        let smallest = supernet.space.canonical(&supernet.space.smallest());
        let time = problem.time(&smallest)? as f64 / 1e3;
        // The fastest need not be the smallest, but it is about as fast.
        let name = &supernet.space.name;
        ensure!(
            time <= 2.0 * most,
            "--max-latency {most}: the smallest network of {name} takes {time} ms"
        );
    }
    let settings = Settings {
        seed: args.seed,
        population: args.population,
        generations: args.generations,
        mutation,
    };
    let mut found = evolve(&supernet.space, &settings, &mut problem)?;
    problem.bar.finish();
    if found.is_empty() {
        let given = [
            args.max_params.map(|most| format!("--max-params {most}")),
            args.max_macs.map(|most| format!("--max-macs {most}")),
            args.max_latency.map(|most| format!("--max-latency {most}")),
        ];
        let given: Vec<String> = given.into_iter().flatten().collect();
        bail!("no subnet of {} was found within {}", supernet.space.name, given.join(", "));
    }
    found.sort_by(|a, b| args.cost.of(&a.cost).total_cmp(&args.cost.of(&b.cost)));
    let ranks = pareto_ranks(&points(&problem, &found));
    // Its images make room for the others.
    drop(problem);
    let on_front = |(_, rank): &(&Candidate<Cost>, &usize)| **rank == 0;
    let front: Vec<&Arch> =
        found.iter().zip(&ranks).filter(on_front).map(|(c, _)| &c.arch).collect();
    let again = evaluate_again(args, &supernet, &other, &front)?;
    let mut again = again.into_iter();
    let others: Vec<Option<f64>> =
        ranks.iter().map(|rank| if *rank == 0 { again.next() } else { None }).collect();
    write_results(args, &supernet, &evaluation, &found, &ranks, &others)
}

/// Accuracies of the front on other images, remembered like those of the search.
fn evaluate_again(
    args: &Search,
    supernet: &Supernet,
    other: &Data,
    front: &[&Arch],
) -> Result<Vec<f64>> {
    let mut log = Log::open(&args.output.join("front.jsonl"), &supernet.evaluation(other))?;
    let mut evaluator = supernet.evaluator(other)?;
    let bar = Bar::new("front", front.len() as u64);
    supernet.evaluate_missing(&mut evaluator, front.iter().copied(), &mut log, &bar)?;
    bar.finish();
    let right = |arch: &&Arch| log.get(&supernet.space.encode(arch));
    let right = front.iter().map(|arch| right(arch).expect("it was evaluated just now"));
    Ok(right.map(|right| percent(right, evaluator.images())).collect())
}

/// Every second validation image for the search, and the others: what was chosen for its accuracy on some images
/// is as good as it looks on others only.
fn halves(data: &Data) -> Result<[Data; 2]> {
    let n = data.validation.len() as u32;
    ensure!(n >= 2, "{}: a search needs two images at least", data.validation.describe());
    let half = |first: u32, name: &str| -> Result<Data> {
        let places = (first..n).step_by(2).collect();
        let set = Subset::new(Arc::clone(&data.validation), places, name.to_owned())?;
        Ok(Data { train: Arc::clone(&data.train), validation: Arc::new(set) })
    };
    Ok([half(0, "every second from the first")?, half(1, "every second from the second")?])
}

/// A supernet that answers a search.
struct Inheriting<'a> {
    args: &'a Search,
    supernet: &'a Supernet,
    costs: CostModel,
    evaluator: Evaluator,
    log: Log,
    bar: Bar,
    session: Session,
    /// What passes are timed on, where they are.
    images: Option<Vec<f32>>,
    best: f64,
}

impl Inheriting<'_> {
    /// The time of a pass in microseconds, which is measured once and remembered.
    fn latency(&mut self, arch: &Arch) -> Result<u64> {
        let code = self.supernet.space.encode(arch);
        let time = self.time(arch)?;
        if self.log.latency(&code).is_none() {
            self.log.add_latency(&code, time)?;
            self.bar.advance(0, &format!("{:.3} ms", time as f64 / 1e3));
        }
        Ok(time)
    }

    /// The time of a pass, measured now or earlier, in microseconds.
    fn time(&mut self, arch: &Arch) -> Result<u64> {
        if let Some(time) = self.log.latency(&self.supernet.space.encode(arch)) {
            return Ok(time);
        }
        let images = self.images.take().unwrap_or_default();
        let time = self.measure(arch, &images);
        self.images = Some(images);
        time
    }

    /// The median time of a pass, in microseconds.
    fn measure(&mut self, arch: &Arch, images: &[f32]) -> Result<u64> {
        let Supernet { space, layout, weights, .. } = self.supernet;
        let plan = Plan::subnet(space, layout, arch)?;
        let mut times = Vec::with_capacity(TIMED);
        for pass in 0..TIMED + 2 {
            let begin = Instant::now();
            hold(|| {
                self.session.infer(&plan, &weights.params, &weights.buffers, images).map(|_| ())
            })?;
            if pass >= 2 {
                times.push(begin.elapsed().as_micros() as u64);
            }
        }
        times.sort_unstable();
        Ok(times[TIMED / 2])
    }
}

impl Problem for Inheriting<'_> {
    type Cost = Cost;
    type Error = anyhow::Error;

    fn admit(&mut self, arch: &Arch) -> Result<Option<Cost>> {
        let costs = self.costs.costs(arch);
        let within = |limit: Option<u64>, value: u64| limit.is_none_or(|limit| value <= limit);
        if !within(self.args.max_params, costs.params) || !within(self.args.max_macs, costs.macs) {
            return Ok(None);
        }
        let mut cost = Cost { params: costs.params, macs: costs.macs, microseconds: None };
        if self.images.is_some() {
            let time = self.latency(arch)?;
            if self.args.max_latency.is_some_and(|most| time as f64 / 1e3 > most) {
                return Ok(None);
            }
            cost.microseconds = Some(time);
        }
        Ok(Some(cost))
    }

    fn objective(&self, cost: &Cost) -> f64 {
        self.args.cost.of(cost)
    }

    fn accuracies(&mut self, generation: usize, archs: &[Arch]) -> Result<Vec<f64>> {
        let Self { supernet, evaluator, log, bar, .. } = self;
        let order = evaluator.order(archs)?;
        supernet.evaluate_missing(evaluator, order.iter().map(|place| &archs[*place]), log, bar)?;
        let accuracy = |arch: &Arch| {
            let right = log.get(&supernet.space.encode(arch)).expect("it was evaluated just now");
            percent(right, evaluator.images())
        };
        let accuracies: Vec<f64> = archs.iter().map(accuracy).collect();
        self.best = accuracies.iter().copied().fold(self.best, f64::max);
        self.bar.advance(0, &format!("generation {generation}, best {:.2} %", self.best));
        Ok(accuracies)
    }
}

/// Writes table and page, and prints the front.
fn write_results(
    args: &Search,
    supernet: &Supernet,
    evaluation: &Evaluation,
    found: &[Candidate<Cost>],
    ranks: &[usize],
    others: &[Option<f64>],
) -> Result<()> {
    let codes: Vec<String> = found.iter().map(|c| supernet.space.encode(&c.arch)).collect();
    let milliseconds = |cost: &Cost| cost.microseconds.map(|t| t as f64 / 1e3);
    let table = args.output.join("search.csv");
    let mut lines = csv::Writer::from_writer(Vec::new());
    for (i, candidate) in found.iter().enumerate() {
        lines.serialize(Row {
            code: &codes[i],
            params: candidate.cost.params,
            macs: candidate.cost.macs,
            latency_ms: milliseconds(&candidate.cost),
            accuracy: candidate.accuracy,
            accuracy_on_other_images: others[i],
            generation: candidate.generation,
            pareto_rank: ranks[i],
        })?;
    }
    let lines = lines.into_inner().context("search.csv")?;
    slimtau_base::write_atomic(&table, |out| out.write_all(&lines))?;

    let (cost_name, unit) = args.cost.unit();
    let subnets = found.iter().enumerate().map(|(i, c)| Found {
        code: codes[i].clone(),
        depth: c.arch.depth(),
        params: c.cost.params,
        macs: c.cost.macs,
        latency_ms: milliseconds(&c.cost),
        cost: args.cost.of(&c.cost) / unit,
        accuracy: c.accuracy,
        accuracy_on_other_images: others[i],
        generation: c.generation,
        on_front: ranks[i] == 0,
    });
    let report = SearchReport {
        space: supernet.space.name.clone(),
        cost_name: cost_name.to_owned(),
        found: subnets.collect(),
        images: evaluation.images,
        settings: settings_of(args, evaluation),
    };
    let page = args.output.join("search.html");
    report.write(&page)?;
    let mut out = std::io::stdout().lock();
    write!(out, "{}", report.front_as_text())?;
    eprintln!("{}\nall {} subnets: {}", report.summary(), found.len(), table.display());
    eprintln!("plot: {}", page.display());
    Ok(())
}

/// What made the results, for their page.
fn settings_of(args: &Search, evaluation: &Evaluation) -> Vec<(String, String)> {
    let mut rows: Vec<(String, String)> = vec![
        ("command".to_owned(), crate::machine::command().join(" ")),
        ("space".to_owned(), evaluation.space.clone()),
        ("checkpoint, hash".to_owned(), evaluation.checkpoint.clone()),
        ("images".to_owned(), evaluation.validation.clone()),
        ("BN statistics".to_owned(), evaluation.bn.clone()),
        ("seed".to_owned(), args.seed.to_string()),
    ];
    if let Some(latency) = &evaluation.latency {
        rows.push(("time".to_owned(), format!("median of {TIMED} passes, {latency}")));
    }
    rows
}
