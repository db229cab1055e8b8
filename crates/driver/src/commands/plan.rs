//! `slimtau plan`: what a run will cost on this machine, calculated from short measurements of its own steps.

use crate::config::Config;
use crate::device_arg::DeviceArgs;
use crate::engine::Engine;
use crate::pipeline::{CHUNK, KEPT_BYTES, listed_subnets, open_run_data};
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use slimtau_space::{Arch, SearchSpace};
use slimtau_supernet::{Layout, Plan as SubnetPlan, PrefixTree};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What to calculate.
#[derive(clap::Args)]
pub struct Plan {
    /// The configuration (TOML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Instead of the configuration's data.source
    #[arg(long, value_name = "SOURCE")]
    data: Option<String>,
    /// Validation images, where the data are not on this machine
    #[arg(long, value_name = "N")]
    validation_images: Option<usize>,
    /// Images per measured step; the other measurement is of half as many [default: 8, on a GPU 64]
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Measured steps of each kind of work; the median counts
    #[arg(long, default_value_t = 3, value_name = "N")]
    steps: usize,
    #[command(flatten)]
    device: DeviceArgs,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// What one stage will cost.
#[derive(Debug, Serialize)]
struct StageCost {
    stage: &'static str,
    /// Passes of an image through a step, or in evaluation through all subnets.
    images: f64,
    /// Model FLOPs: 2 per MAC forward, 6 forward and backward.
    pflop: f64,
    gflops: f64,
    hours: f64,
    /// Where networks run on a GPU, of its memory.
    peak_memory_gib: f64,
    disk_gib: f64,
}

/// The line that `slimtau bench --json` prints, as far as it is needed.
#[derive(Clone, Copy, Deserialize)]
struct Measured {
    step_s: f64,
    gflops: f64,
    peak_rss_mib: f64,
    peak_device_mib: Option<f64>,
}

impl Plan {
    /// So few images leave a GPU waiting for its next kernel.
    fn measured_batch(&self) -> usize {
        self.batch.unwrap_or(if self.device.is_cpu() { 8 } else { 64 })
    }
}

impl Measured {
    /// Of the memory that the networks are in.
    fn peak_mib(&self) -> f64 {
        self.peak_device_mib.unwrap_or(self.peak_rss_mib)
    }
}

/// What a kind of step costs: a fixed part (optimiser, threads) and one for each image.
#[derive(Clone, Copy)]
struct Work {
    fixed_s: f64,
    s_per_image: f64,
    flop_per_image: f64,
    fixed_mib: f64,
    mib_per_image: f64,
}

impl Work {
    fn step_s(&self, batch: usize) -> f64 {
        self.fixed_s + self.s_per_image * batch as f64
    }

    /// FLOPs per second in steps of so many images.
    fn rate(&self, batch: usize) -> f64 {
        self.flop_per_image * batch as f64 / self.step_s(batch)
    }

    fn peak_gib(&self, batch: usize) -> f64 {
        (self.fixed_mib + self.mib_per_image * batch as f64) / 1024.0
    }
}

/// Runs the command.
pub fn run(args: &Plan) -> Result<()> {
    let batch = args.measured_batch();
    ensure!(batch >= 4, "--batch {}: at least 4, so that half of it is a batch, too", batch);
    ensure!(args.steps >= 1, "--steps 0: nothing to measure");
    let mut config = Config::load(&args.config)?;
    if let Some(source) = &args.data {
        config.data.source.clone_from(source);
    }
    let folder = args.config.parent().unwrap_or(Path::new("."));
    let space = config.search_space(folder).with_context(|| args.config.display().to_string())?;
    if let Some(codes) = &mut config.subnets.codes {
        *codes = folder.join(&*codes);
    }
    // Before anything is measured, and for its name.
    let hardware = Engine::open(&args.device)?.hardware();
    let subnets = listed_subnets(&space, &config.subnets, config.seed)?;
    let validation = match args.validation_images {
        Some(n) => n,
        None => {
            let data = open_run_data(&config.data, &space).context(
                "where the data are not here, --validation-images says how many there are",
            )?;
            data.validation.len()
        }
    };
    if !config.methods.is_empty() {
        eprintln!(
            "{} has {} methods; this is one run of its tables, not the experiment",
            args.config.display(),
            config.methods.len()
        );
    }
    if config.standalone.truth.is_some() {
        eprintln!("stored stand-alone results (standalone.truth) are not deducted");
    }
    let stages = stages(args, &config, &space, &subnets, validation)?;
    let mut out = std::io::stdout().lock();
    let hours: f64 = stages.iter().map(|s| s.hours).sum();
    let disk: f64 = stages.iter().map(|s| s.disk_gib).sum();
    let memory = stages.iter().map(|s| s.peak_memory_gib).fold(0.0, f64::max);
    if args.json {
        let all = serde_json::json!({
            "space": space.name, "subnets": subnets.len(), "validation_images": validation,
            "threads": rayon::current_num_threads(), "cpu": hardware,
            "stages": stages, "hours": hours, "peak_memory_gib": memory, "disk_gib": disk,
        });
        writeln!(out, "{all}")?;
        return Ok(());
    }
    let line = |stage: &str, cells: [String; 6]| {
        let [images, pflop, gflops, hours, memory, disk] = cells;
        format!(
            "{stage:<11} {images:>15} {pflop:>15} {gflops:>8} {hours:>14} {memory:>10} {disk:>10}"
        )
    };
    let memory_of = if args.device.is_cpu() { "memory GiB" } else { "GPU GiB" };
    let head = ["images", "PFLOP", "GFLOP/s", "hours", memory_of, "disk GiB"];
    writeln!(out, "{}", line("stage", head.map(str::to_owned)))?;
    for s in &stages {
        let cells = [
            format!("{:.0}", s.images),
            format!("{:.3}", s.pflop),
            format!("{:.0}", s.gflops),
            format!("{:.3}", s.hours),
            format!("{:.2}", s.peak_memory_gib),
            format!("{:.3}", s.disk_gib),
        ];
        writeln!(out, "{}", line(s.stage, cells))?;
    }
    let none = String::new;
    let cells = [
        none(),
        none(),
        none(),
        format!("{hours:.3}"),
        format!("{memory:.2}"),
        format!("{disk:.3}"),
    ];
    writeln!(out, "{}", line("all", cells))?;
    writeln!(
        out,
        "\n{} subnets, {validation} validation images; {} threads of {}. Measured on {} steps of {} and of {} images, and \
         extended in proportion; loading images, which may set the pace, is not in it, nor the dataset's own disk space.",
        subnets.len(),
        rayon::current_num_threads(),
        hardware,
        args.steps,
        batch / 2,
        batch,
    )?;
    Ok(())
}

/// The costs of all stages that train or evaluate.
fn stages(
    args: &Plan,
    config: &Config,
    space: &SearchSpace,
    subnets: &[Arch],
    validation: usize,
) -> Result<Vec<StageCost>> {
    let layout = Layout::supernet(space)?;
    let on_cpu = args.device.is_cpu();
    let floats = |n: usize| 4.0 * n as f64 / 1024f64.powi(3);
    let (params, buffers) = (layout.params(), layout.buffers());
    let weights = floats(params + buffers);
    // A checkpoint has the momentum, too.
    let trained = 2.0 * weights + floats(params);
    let source = config.space_source(args.config.parent().unwrap_or(Path::new(".")));
    let measure = |what: &str, more: &[String]| measure(args, &source, what, more, on_cpu);
    let cost = |stage, work: Work, steps: u64, batch: usize, disk_gib| {
        let images = steps as f64 * batch as f64;
        StageCost {
            stage,
            images,
            pflop: images * work.flop_per_image / 1e15,
            gflops: work.rate(batch) / 1e9,
            hours: steps as f64 * work.step_s(batch) / 3600.0,
            peak_memory_gib: work.peak_gib(batch),
            disk_gib,
        }
    };
    let mut stages = Vec::new();
    let alone = measure("standalone", &[])?;
    let teacher = &config.teacher;
    if teacher.weights.is_none() {
        stages.push(cost("teacher", alone, teacher.steps, teacher.batch, trained));
    }
    if let Some(moco) = &config.moco {
        let queue = floats(moco.queue * moco.dim);
        let work = measure("step1", &[])?;
        // The key encoder is in the checkpoint, too.
        let mut cost = cost("moco", work, moco.steps, moco.batch, trained + weights + queue);
        cost.peak_memory_gib += queue;
        stages.push(cost);
    }
    let ccfs = &config.ccfs;
    let more = [
        ("--sampler", ccfs.sampler.clone()),
        ("--keep", ccfs.keep.to_string()),
        ("--candidates", ccfs.candidates.to_string()),
    ];
    let more = more.map(|(option, value)| format!("{option}={value}"));
    let ccfs_on_cpu = on_cpu || ccfs.adapts()?;
    if ccfs_on_cpu && !on_cpu {
        eprintln!("stage 2 with PA&DA or dynamic training: the CPU will do it");
    }
    let work = self::measure(args, &source, "step2", &more, ccfs_on_cpu)?;
    stages.push(cost("ccfs", work, ccfs.steps, ccfs.batch, trained));

    // One by one and in trees the same operations are done per multiply-accumulate.
    let eval = measure("eval", &[])?;
    let plans = subnets.iter().map(|arch| Ok(SubnetPlan::subnet(space, &layout, arch)?));
    let plans = plans.collect::<Result<Vec<_>>>()?;
    let order = PrefixTree::order(plans.iter().cloned().map(Ok::<_, anyhow::Error>))?;
    let trees = order.chunks(CHUNK).map(|chunk| {
        let macs =
            PrefixTree::new(chunk.iter().map(|place| plans[*place].clone()).collect()).macs();
        macs.shared as f64
    });
    let per_image = 2.0 * trees.sum::<f64>();
    let recalibrates =
        matches!(config.inherit.bn.unwrap_or(config.ccfs.bn), crate::config::Bn::Recalibrated);
    let batches = if recalibrates { config.inherit.recalibration_batches } else { 0 };
    let batch = config.inherit.batch;
    let images = (validation + batches * batch) as f64;
    // A tree keeps the output of every block on a path, for one batch; and images lie in memory.
    let largest = space.resolve(&space.largest())?;
    let outputs = largest.blocks.iter().filter_map(|block| block.convs.last());
    let maps: usize = std::iter::once(&largest.stem)
        .chain(outputs)
        .map(|conv| conv.out_size * conv.out_size * conv.out_channels)
        .sum();
    let image = space.image_size * space.image_size * space.channels;
    let kept = if 4 * validation * image <= KEPT_BYTES { validation } else { 0 };
    let images_in_memory = if on_cpu { (kept + batches * batch) * image } else { 0 };
    // On a GPU with bf16 it is half of that.
    let memory = floats(batch * maps + images_in_memory);
    stages.push(StageCost {
        stage: "inherit",
        images,
        pflop: images * per_image / 1e15,
        gflops: eval.rate(batch) / 1e9,
        hours: images * per_image / eval.rate(batch) / 3600.0,
        peak_memory_gib: eval.peak_gib(batch) + memory,
        // A line of JSON per subnet.
        disk_gib: 130.0 * subnets.len() as f64 / 1024f64.powi(3),
    });

    let recipe = &config.standalone;
    let images = (recipe.steps * recipe.seeds) as f64 * recipe.batch as f64;
    let macs: u64 = plans.iter().map(|plan| plan.network().macs()).sum();
    let params: u64 = plans.iter().map(|plan| plan.network().params()).sum();
    let flop = images * 6.0 * macs as f64;
    stages.push(StageCost {
        stage: "standalone",
        images: images * subnets.len() as f64,
        pflop: flop / 1e15,
        gflops: alone.rate(recipe.batch) / 1e9,
        hours: flop / alone.rate(recipe.batch) / 3600.0,
        peak_memory_gib: alone.peak_gib(recipe.batch),
        disk_gib: floats(params as usize) * recipe.seeds as f64,
    });
    Ok(stages)
}

/// Measures a kind of work at two batch sizes, each in a process of its own: a process remembers its largest memory.
fn measure(args: &Plan, space: &str, what: &str, more: &[String], on_cpu: bool) -> Result<Work> {
    eprintln!("measuring {what} ...");
    let measured = args.measured_batch();
    let program = std::env::current_exe().context("the program's own file")?;
    let one = |batch: usize| -> Result<Measured> {
        let mut command = Command::new(&program);
        command.args(["bench", what, "--json", "--space", space]).args(more);
        if !on_cpu {
            command.args(args.device.words());
        }
        let numbers = BTreeMap::from([
            ("--batch", batch),
            ("--steps", args.steps),
            ("--threads", rayon::current_num_threads()),
        ]);
        for (option, value) in numbers {
            command.arg(option).arg(value.to_string());
        }
        let output = command.output().context("slimtau bench")?;
        if !output.status.success() {
            bail!("slimtau bench {what}: {}", String::from_utf8_lossy(&output.stderr).trim_end());
        }
        serde_json::from_slice(&output.stdout).with_context(|| format!("slimtau bench {what}"))
    };
    let (half, whole) = (one(measured / 2)?, one(measured)?);
    let images = (measured - measured / 2) as f64;
    let mib_per_image = ((whole.peak_mib() - half.peak_mib()) / images).max(0.0);
    let batch = measured as f64;
    // Noise must make neither part negative.
    let s_per_image = ((whole.step_s - half.step_s) / images).clamp(0.0, whole.step_s / batch);
    if s_per_image * batch < 0.5 * whole.step_s {
        eprintln!(
            "{what}: a step of {measured} images takes hardly longer than one of {}, so steps of more images are \
             guessed; measure with a larger --batch",
            measured / 2
        );
    }
    Ok(Work {
        fixed_s: whole.step_s - s_per_image * batch,
        s_per_image,
        flop_per_image: whole.gflops * 1e9 * whole.step_s / batch,
        fixed_mib: whole.peak_mib() - mib_per_image * batch,
        mib_per_image,
    })
}
