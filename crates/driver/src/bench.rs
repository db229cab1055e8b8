//! `slimtau bench`: seconds per step of the method's kinds of work, on synthetic pixels (the speed
//! of a step does not depend on them; loading is measured by the data crate's own bench).

use crate::SpaceArg;
use crate::breakdown::{Breakdown, Detail};
use crate::machine::peak_rss_mib;
use anyhow::Result;
use clap::ValueEnum;
use serde_json::json;
use slimtau_base::{fill_normal, stream};
use slimtau_ccfs::{Sampler, SamplerKind};
use slimtau_distill::{Learner, LearnerConfig, Teacher};
use slimtau_moco::{Moco, MocoConfig};
use slimtau_space::SearchSpace;
use slimtau_supernet::{BnMode, Layout, Plan, Session, Weights};
use slimtau_train::Sgd;
use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

/// Keys in step1's queue, as in the PyTorch yardstick.
const QUEUE: usize = 4096;

/// Kinds of work.
#[derive(Clone, Copy, ValueEnum)]
enum Work {
    /// MoCo on the largest network
    Step1,
    /// Teacher once, 4 subnets, one update
    Step2,
    /// The largest network with labels
    Standalone,
    /// 4 subnets in eval mode, one at a time
    Eval,
}

/// Measure the speed of one kind of step.
#[derive(clap::Args)]
pub struct Bench {
    /// What to measure
    #[arg(value_enum)]
    what: Work,
    #[command(flatten)]
    space: SpaceArg,
    /// Images per step
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// Measured steps, after one that is not
    #[arg(long, default_value_t = 5)]
    steps: usize,
    /// step2's and eval's sampler, such as ccfs-f
    #[arg(long, default_value_t = SamplerKind::Uniform)]
    sampler: SamplerKind,
    /// Subnets per step2 and eval step
    #[arg(long, default_value_t = 4, value_name = "K")]
    keep: usize,
    /// Draws that a ranking sampler chooses from
    #[arg(long, default_value_t = 400, value_name = "P")]
    candidates: usize,
    /// Seed of weights, pixels and subnets
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// One line of JSON
    #[arg(long)]
    json: bool,
    /// Then, on stderr, where the time of the measured steps went: operations by their share, or
    /// every shape of every operation
    #[arg(long, value_enum, num_args = 0..=1, default_missing_value = "operations")]
    breakdown: Option<Detail>,
}

/// What one step did: forward passes count 2 FLOP per MAC, training passes 6.
struct Done {
    flops: f64,
    subnets: usize,
}

/// Runs the command.
pub fn run(args: &Bench) -> Result<()> {
    anyhow::ensure!(args.batch >= 2, "--batch {}: batch statistics need two images", args.batch);
    anyhow::ensure!(args.steps >= 1, "--steps 0: nothing to measure");
    let (keep, candidates) = (args.keep, args.candidates);
    anyhow::ensure!(keep >= 1, "--keep 0: at least one subnet");
    anyhow::ensure!(candidates >= keep, "--candidates {candidates}: fewer than --keep {keep}");
    let space = args.space.load()?;
    let mut step = prepare(args, &space)?;
    step(0)?; // memory grows here
    let breakdown = args.breakdown.map(Breakdown::start).transpose()?;
    let (mut times, mut flops, mut subnets) = (Vec::new(), 0.0, 0);
    for i in 0..args.steps {
        let begin = Instant::now();
        let done = step(1 + i as u64)?;
        times.push(begin.elapsed().as_secs_f64());
        flops += done.flops;
        subnets = done.subnets;
    }
    if let Some(breakdown) = breakdown {
        breakdown.print(args.steps, times.iter().sum());
    }
    let gflops = flops / times.iter().sum::<f64>() / 1e9;
    times.sort_by(f64::total_cmp);
    let middle = times.len() / 2;
    let median = if times.len() % 2 == 1 {
        times[middle]
    } else {
        (times[middle - 1] + times[middle]) / 2.0
    };
    let images_per_s = (args.batch * subnets) as f64 / median;
    let what = args.what.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default();
    let (threads, rss) = (rayon::current_num_threads(), peak_rss_mib());
    if args.json {
        let line = json!({
            "what": what, "space": space.name, "batch": args.batch, "threads": threads,
            "step_s": median, "subnet_images_per_s": images_per_s, "gflops": gflops,
            "peak_rss_mib": rss,
        });
        writeln!(std::io::stdout(), "{line}")?;
    } else {
        writeln!(
            std::io::stdout(),
            "{what} on {}, batch {}, {threads} threads: {median:.4} s/step, {images_per_s:.1} subnet images/s, {gflops:.1} GFLOP/s, {rss:.0} MiB",
            space.name,
            args.batch
        )?;
    }
    Ok(())
}

type Step = Box<dyn FnMut(u64) -> Result<Done> + Send>;

fn prepare(args: &Bench, space: &SearchSpace) -> Result<Step> {
    let Bench { what, batch, seed, sampler, keep, candidates, .. } = *args;
    let layout = Layout::supernet(space)?;
    let weights = Weights::init(&layout, seed);
    let largest = Plan::subnet(space, &layout, &space.largest())?;
    let full_macs = largest.network().macs() as f64 * batch as f64;
    let mut images = vec![0.0; batch * largest.image_len()];
    fill_normal(&mut stream(seed, "bench.images", 0), 1.0, &mut images);
    let labels: Vec<u32> = (0..batch).map(|i| (i % space.classes) as u32).collect();
    let sgd = Sgd { momentum: 0.9, weight_decay: 1e-4, nesterov: false };
    let learner = |layout: Arc<Layout>, weights: Weights| {
        let config = LearnerConfig {
            sgd,
            bn: BnMode::Tracked,
            bn_momentum: 0.1,
            label_weight: 1.0,
            teacher_weight: 1.0,
        };
        Learner::new(config, layout, weights)
    };
    let sampler = Sampler::new(space, sampler, candidates, keep, seed);
    let owned = space.clone();
    let plans = move |layout: &Layout, step| -> Result<(Vec<Plan>, f64)> {
        let archs = sampler.draw(step);
        let plans = archs.iter().map(|a| Plan::subnet(&owned, layout, a));
        let plans = plans.collect::<Result<Vec<_>, _>>()?;
        let macs: u64 = plans.iter().map(|p| p.network().macs()).sum();
        Ok((plans, macs as f64 * batch as f64))
    };
    Ok(match what {
        Work::Step1 => {
            let config = MocoConfig {
                queue: QUEUE,
                dim: 128,
                key_momentum: 0.999,
                key_updates: 1,
                key_groups: 1,
                bn: BnMode::Tracked,
                bn_momentum: 0.1,
                sgd,
                seed,
            };
            let mut moco = Moco::new(config, layout, weights);
            Box::new(move |step| {
                moco.step(step, 5e-4, 0.1, &largest, [&images, &images])?;
                Ok(Done { flops: 8.0 * full_macs, subnets: 1 })
            })
        }
        Work::Step2 => {
            let mut teacher = Teacher::new(largest, weights.clone(), 1.0);
            let mut learner = learner(layout.clone(), weights);
            Box::new(move |step| {
                let (plans, macs) = plans(&layout, step)?;
                let soft = teacher.soft_labels(&images)?;
                learner.step(5e-4, &plans, &images, &labels, Some(soft))?;
                Ok(Done { flops: 2.0 * full_macs + 6.0 * macs, subnets: plans.len() })
            })
        }
        Work::Standalone => {
            let mut learner = learner(layout, weights);
            Box::new(move |_| {
                learner.step(5e-4, [&largest], &images, &labels, None)?;
                Ok(Done { flops: 6.0 * full_macs, subnets: 1 })
            })
        }
        Work::Eval => {
            let mut session = Session::new();
            Box::new(move |step| {
                let (plans, macs) = plans(&layout, step)?;
                for plan in &plans {
                    session.infer(plan, &weights.params, &weights.buffers, &images)?;
                }
                Ok(Done { flops: 2.0 * macs, subnets: plans.len() })
            })
        }
    })
}
