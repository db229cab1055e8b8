//! The `slimtau` command.

mod bench;
mod breakdown;
mod commands;
mod config;
mod device_arg;
mod engine;
mod machine;
mod pipeline;
mod progress;
mod report;
mod weights;

use clap::{Args, Parser, Subcommand};
use std::path::Path;
use std::process::ExitCode;

/// Train a weight-sharing supernet whose subnets rank as they would alone, and measure how well
/// they do.
///
/// Start with `slimtau run --config configs/quick.toml`: it trains everything on embedded images
/// and ends with a report. Exit codes: 0 done, 2 bad input, 130 interrupted (the same command goes on).
#[derive(Parser)]
#[command(name = "slimtau", version)]
struct Cli {
    /// Threads that compute; 0 = one per core. Results do not depend on it.
    #[arg(long, global = true, default_value_t = 0, value_name = "N")]
    threads: usize,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Everything: teacher, MoCo, CCFS, inherited and stand-alone accuracy, report
    Run(pipeline::RunArgs),
    /// Stage 0: train the largest network, which is the teacher and the supernet's start
    Teacher(pipeline::RunArgs),
    /// Stage 1 (and 0 before it): MoCo on the supernet
    Moco(pipeline::RunArgs),
    /// Stage 2 (and those before it): subnets with labels and the teacher
    Ccfs(pipeline::RunArgs),
    /// Stage 3 (and those before it): inherited accuracy of the run's subnets
    Inherit(pipeline::RunArgs),
    /// Stage 4: train the run's subnets alone, or with --arch any architecture of the space
    Standalone(pipeline::StandaloneArgs),
    /// Make or check a ground-truth file: stand-alone accuracies, stored with what made them
    GroundTruth(pipeline::GroundTruthArgs),
    /// Prepare images
    #[command(subcommand)]
    Data(commands::data::DataCommand),
    /// Look at search spaces: counts, costs, draws
    #[command(subcommand)]
    Space(commands::space::Space),
    Forward(commands::forward::Forward),
    Export(commands::export::Export),
    /// Weights of other programs (.pdparams, .pth, safetensors) as a checkpoint
    Import(commands::import::Import),
    /// Inherited accuracies, and how well they rank
    #[command(subcommand)]
    Rank(commands::rank::Rank),
    /// Find the subnets that are best at their cost: a Pareto front, as table and plot
    ///
    /// Evolutionary, under limits on parameters, MACs or measured time. Half of the validation images are searched on;
    /// the front is then evaluated on the others, too. May be stopped at any time: the same command goes on.
    Search(commands::search::Search),
    /// Make an experiment's report again from its data: report.json, report.html (opens offline) and results.md
    Report(commands::report::Report),
    /// Calculate what a run will cost here, before it begins: hours, memory and disk per stage
    ///
    /// Short measurements of the run's own kinds of step, extended in proportion to images.
    Plan(commands::plan::Plan),
    /// Measure the speed of one kind of step
    Bench(bench::Bench),
}

/// Which search space.
#[derive(Args)]
struct SpaceArg {
    /// `cvpr2022`, `mini`, `tiny`, or a space file
    #[arg(long, value_name = "SPACE")]
    space: String,
}

impl SpaceArg {
    fn load(&self) -> anyhow::Result<slimtau_space::SearchSpace> {
        Ok(slimtau_space::SearchSpace::load(&self.space)?)
    }
}

/// How a command ended that did not fail.
enum Ended {
    Done,
    Interrupted,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(cli) {
        Ok(Ended::Done) => ExitCode::SUCCESS,
        Ok(Ended::Interrupted) => ExitCode::from(130),
        Err(error) => {
            // `slimtau space sample | head` is not a failure of ours.
            let broken_pipe = error
                .downcast_ref::<std::io::Error>()
                .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe);
            if broken_pipe {
                return ExitCode::SUCCESS;
            }
            eprintln!("error: {}", sentence(&error));
            ExitCode::from(2)
        }
    }
}

/// An error and its causes in one line, each said once: many messages already hold their cause's.
fn sentence(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(|cause| cause.to_string().trim_end().replace('\n', ", ")) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text += &format!(": {cause}");
        }
    }
    let undecodable = |cause: &(dyn std::error::Error + 'static)| {
        matches!(cause.downcast_ref(), Some(slimtau_data::DataError::Decode { .. }))
    };
    if error.chain().any(undecodable) {
        text +=
            "; with data.corrupt = \"skip\" (or --corrupt skip) it would go on without such files";
    }
    text
}

fn dispatch(cli: Cli) -> anyhow::Result<Ended> {
    use pipeline::Stage;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(cli.threads).build()?;
    pool.install(|| {
        match cli.command {
            Command::Run(args) => return pipeline::run(&args, None),
            Command::Teacher(args) => return pipeline::run(&args, Some(Stage::Teacher)),
            Command::Moco(args) => return pipeline::run(&args, Some(Stage::Moco)),
            Command::Ccfs(args) => return pipeline::run(&args, Some(Stage::Ccfs)),
            Command::Inherit(args) => return pipeline::run(&args, Some(Stage::Inherit)),
            Command::Standalone(args) => return pipeline::run_standalone(&args),
            Command::GroundTruth(args) => return pipeline::ground_truth(&args),
            Command::Data(command) => commands::data::run(&command)?,
            Command::Space(command) => commands::space::run(&command)?,
            Command::Forward(args) => commands::forward::run(&args)?,
            Command::Export(args) => commands::export::run(&args)?,
            Command::Import(args) => commands::import::run(&args)?,
            Command::Rank(command) => commands::rank::run(&command)?,
            Command::Search(args) => commands::search::run(&args)?,
            Command::Report(args) => commands::report::run(&args)?,
            Command::Plan(args) => commands::plan::run(&args)?,
            Command::Bench(args) => bench::run(&args)?,
        }
        Ok(Ended::Done)
    })
}

/// A path, or standard input for `-`.
fn read_input(path: &Path) -> anyhow::Result<String> {
    if path.as_os_str() == "-" {
        return Ok(std::io::read_to_string(std::io::stdin())?);
    }
    Ok(slimtau_base::read_text(path)?)
}
