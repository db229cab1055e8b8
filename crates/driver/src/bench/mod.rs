//! `slimtau bench`: seconds per step of the method's kinds of work, on synthetic pixels (the speed
//! of a step does not depend on them; loading is measured by the data crate's own bench).

#[cfg(feature = "gpu")]
mod device;

use crate::SpaceArg;
use crate::breakdown::{Breakdown, Detail};
use crate::device_arg::DeviceArgs;
use crate::engine::Engine;
use crate::machine::peak_rss_mib;
use anyhow::Result;
use clap::ValueEnum;
use serde_json::json;
use slimtau_base::{fill_normal, stream};
use slimtau_ccfs::{Sampler, SamplerKind};
use slimtau_distill::{Learner, LearnerConfig, Teacher};
use slimtau_moco::{Moco, MocoConfig};
use slimtau_parallel::hold;
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
    #[command(flatten)]
    device: DeviceArgs,
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
    let engine = Engine::open(&args.device)?;
    anyhow::ensure!(
        engine.is_cpu() || args.breakdown.is_none(),
        "--breakdown is for the CPU: calls to a GPU return before it has done the work"
    );
    let work = Bed::new(args, &space)?;
    let (name, mut step) = match &engine {
        Engine::Cpu => ("cpu".to_owned(), held(prepare(work)?)),
        #[cfg(feature = "gpu")]
        Engine::Gpu(card) => (card.name(), device::on(card, work)?),
    };
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
            "what": what, "space": space.name, "batch": args.batch, "threads": threads, "device": name,
            "step_s": median, "subnet_images_per_s": images_per_s, "gflops": gflops,
            "peak_rss_mib": rss, "peak_device_mib": engine.peak_memory_mib(),
        });
        writeln!(std::io::stdout(), "{line}")?;
    } else {
        writeln!(
            std::io::stdout(),
            "{what} of {} on {name}, batch {}, {threads} threads: {median:.4} s/step, {images_per_s:.1} subnet images/s, {gflops:.1} GFLOP/s, {rss:.0} MiB{}",
            space.name,
            args.batch,
            engine
                .peak_memory_mib()
                .map_or(String::new(), |mib| format!(", on the GPU {mib:.0} MiB")),
        )?;
    }
    Ok(())
}

type Step = Box<dyn FnMut(u64) -> Result<Done> + Send>;

/// What is measured, wherever that is.
struct Bed {
    what: Work,
    layout: Arc<Layout>,
    weights: Weights,
    largest: Plan,
    /// FLOPs of one forward pass of the largest network at one FLOP per MAC, for the batch.
    full_macs: f64,
    batch: usize,
    images: Vec<f32>,
    labels: Vec<u32>,
    space: SearchSpace,
    sampler: Sampler,
    learner: LearnerConfig,
    moco: MocoConfig,
}

impl Bed {
    fn new(args: &Bench, space: &SearchSpace) -> Result<Self> {
        let Bench { what, batch, seed, sampler, keep, candidates, .. } = *args;
        let layout = Layout::supernet(space)?;
        let largest = Plan::subnet(space, &layout, &space.largest())?;
        let mut images = vec![0.0; batch * largest.image_len()];
        fill_normal(&mut stream(seed, "bench.images", 0), 1.0, &mut images);
        let sgd = Sgd { momentum: 0.9, weight_decay: 1e-4, nesterov: false };
        let (bn, bn_momentum) = (BnMode::Tracked, 0.1);
        Ok(Self {
            what,
            weights: Weights::init(&layout, seed),
            full_macs: largest.network().macs() as f64 * batch as f64,
            batch,
            images,
            labels: (0..batch).map(|i| (i % space.classes) as u32).collect(),
            sampler: Sampler::new(space, sampler, candidates, keep, seed),
            space: space.clone(),
            learner: LearnerConfig { sgd, bn, bn_momentum, label_weight: 1.0, teacher_weight: 1.0 },
            moco: MocoConfig {
                queue: QUEUE,
                dim: 128,
                key_momentum: 0.999,
                key_updates: 1,
                key_groups: 1,
                bn,
                bn_momentum,
                sgd,
                seed,
            },
            layout,
            largest,
        })
    }

    /// The step's subnets, and their MACs for the batch.
    fn plans(&self, step: u64) -> Result<(Vec<Plan>, f64)> {
        let archs = self.sampler.draw(step);
        let plans = archs.iter().map(|a| Plan::subnet(&self.space, &self.layout, a));
        let plans = plans.collect::<Result<Vec<_>, _>>()?;
        let macs: u64 = plans.iter().map(|p| p.network().macs()).sum();
        Ok((plans, macs as f64 * self.batch as f64))
    }

    fn step1(&self) -> Done {
        Done { flops: 8.0 * self.full_macs, subnets: 1 }
    }

    fn step2(&self, plans: &[Plan], macs: f64) -> Done {
        Done { flops: 2.0 * self.full_macs + 6.0 * macs, subnets: plans.len() }
    }

    fn standalone(&self) -> Done {
        Done { flops: 6.0 * self.full_macs, subnets: 1 }
    }

    fn eval(plans: &[Plan], macs: f64) -> Done {
        Done { flops: 2.0 * macs, subnets: plans.len() }
    }
}

/// With the pool's threads at hand, as every stage runs its steps.
fn held(mut step: Step) -> Step {
    Box::new(move |i| hold(|| step(i)))
}

fn prepare(bed: Bed) -> Result<Step> {
    let (layout, weights) = (bed.layout.clone(), bed.weights.clone());
    Ok(match bed.what {
        Work::Step1 => {
            let mut moco = Moco::new(bed.moco.clone(), layout, weights);
            Box::new(move |step| {
                let views = [&bed.images[..], &bed.images[..]];
                moco.step(step, 5e-4, 0.1, &bed.largest, views)?;
                Ok(bed.step1())
            })
        }
        Work::Step2 => {
            let mut teacher = Teacher::new(bed.largest.clone(), weights.clone(), 1.0);
            let mut learner = Learner::new(bed.learner.clone(), layout, weights);
            Box::new(move |step| {
                let (plans, macs) = bed.plans(step)?;
                let soft = teacher.soft_labels(&bed.images)?;
                learner.step(5e-4, &plans, &bed.images, &bed.labels, Some(soft))?;
                Ok(bed.step2(&plans, macs))
            })
        }
        Work::Standalone => {
            let mut learner = Learner::new(bed.learner.clone(), layout, weights);
            Box::new(move |_| {
                learner.step(5e-4, [&bed.largest], &bed.images, &bed.labels, None)?;
                Ok(bed.standalone())
            })
        }
        Work::Eval => {
            let mut session = Session::new();
            Box::new(move |step| {
                let (plans, macs) = bed.plans(step)?;
                for plan in &plans {
                    session.infer(plan, &weights.params, &weights.buffers, &bed.images)?;
                }
                Ok(Bed::eval(&plans, macs))
            })
        }
    })
}
