//! The project's own tasks: `cargo xtask <task>`. One file per task.

mod bench;
mod cargo;
mod cuda;
mod golden;
mod ground_truth;
mod reproduce;
mod sanitize;
mod test;
mod tidy;

use clap::{Parser, Subcommand};

/// The project's own tasks.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run the whole method on real images, ending with a Kendall tau and a report
    Reproduce(reproduce::Args),
    /// Train the default benchmark's architectures alone, or check the stored results
    GroundTruth(ground_truth::Args),
    /// Run every test of the workspace
    Test(test::Args),
    /// Run the kernel benches and print their table
    Bench(bench::Args),
    /// Run the kernels' tests under Miri and AddressSanitizer, as far as they are installed
    Sanitize(sanitize::Args),
    /// Compile and test the GPU kernels, with or without a GPU
    Cuda(cuda::Args),
    /// Make the goldens anew with PyTorch, PaddlePaddle and SciPy (needs a Python that has them)
    Golden(golden::Args),
    /// Check the rules that the compiler does not know: file heads, sizes, READMEs
    Tidy,
}

fn main() {
    let result = match Cli::parse().task {
        Task::Reproduce(args) => reproduce::run(&args),
        Task::GroundTruth(args) => ground_truth::run(&args),
        Task::Test(args) => test::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Sanitize(args) => sanitize::run(&args),
        Task::Cuda(args) => cuda::run(&args),
        Task::Golden(args) => golden::run_all(&args),
        Task::Tidy => tidy::run(),
    };
    if let Err(error) = result {
        eprintln!("error: {error:#}");
        // A program's own exit code goes on to whoever called us (2 = bad input).
        let code = error.downcast_ref::<cargo::Failed>().and_then(|f| f.code).unwrap_or(1);
        std::process::exit(code);
    }
}
