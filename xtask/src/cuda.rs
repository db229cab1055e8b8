//! `cargo xtask cuda`: what the GPU kernels need that cargo does not know of. On a machine without a GPU they are compiled
//! by NVRTC and run on the emulator; the toolkit's parts come from PyPI into `target/cuda/toolkit`.

use crate::cargo::{self, root, target};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

/// What to do.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(clap::Subcommand)]
enum Task {
    /// Compile every kernel for sm_80 and sm_90, and run all of them on the emulator (needs g++ and python3)
    Test {
        /// Passed on to the tests, such as a filter
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<String>,
    },
    /// Build the emulator alone and print its path (needs g++)
    Emulator,
    /// `cargo check --workspace --features cuda` with nvcc from PyPI, or in minutes without compiling candle's kernels
    Check {
        /// Compile no kernels of candle's: a stand-in for nvcc leaves empty files, which is all the same to a check
        #[arg(long)]
        types_only: bool,
    },
    /// Put what `scripts/on_gpu.sh` runs on a machine with a GPU, but without Rust, into one folder
    Pack,
    /// On a machine with a GPU: the tests of the kernels on the device
    Device {
        /// Which GPU
        #[arg(long, default_value_t = 0)]
        gpu: usize,
        /// Passed on to the tests, such as a filter
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<String>,
    },
}

/// CUDA 13.0, the oldest of what is supported: code that it makes runs with every later driver.
const NVRTC: [&str; 1] = ["nvidia-cuda-nvrtc==13.0.*"];
const NVCC: [&str; 8] = [
    "nvidia-cuda-nvrtc==13.0.*",
    "nvidia-cuda-nvcc==13.0.*",
    "nvidia-cuda-crt==13.0.*",
    "nvidia-nvvm==13.0.*",
    "nvidia-cuda-cccl==13.0.*",
    "nvidia-cuda-runtime==13.0.*",
    "nvidia-cublas==13.0.*",
    "nvidia-curand==10.4.0.*",
];

/// Runs the task.
pub fn run(args: &Args) -> Result<()> {
    match &args.task {
        Task::Test { rest } => test(rest),
        Task::Emulator => {
            println!("{}", emulator()?.display());
            Ok(())
        }
        Task::Check { types_only } => check(*types_only),
        Task::Pack => pack(),
        Task::Device { gpu, rest } => {
            for mut command in programs()? {
                command.args(["--skip", "nvrtc"]).args(rest);
                command.env("SLIMTAU_TEST_GPU", gpu.to_string());
                cargo::run(command)?;
            }
            Ok(())
        }
    }
}

fn test(rest: &[String]) -> Result<()> {
    let compiler = toolkit("nvrtc", &NVRTC)?.join("lib");
    let emulator = emulator()?;
    // The library is instrumented, the program that loads it is not: the sanitizers have to be there first.
    let (address, undefined) = (sanitizer("libasan.so")?, sanitizer("libubsan.so")?);
    let sanitizers = format!("{}:{}", address.display(), undefined.display());
    let mut running = Vec::new();
    for mut command in programs()? {
        // One block at a time is one core: the programs run side by side.
        command.args(["--skip", "nvrtc"]).args(rest);
        command.env("SLIMTAU_EMULATOR", &emulator);
        command.env("LD_PRELOAD", &sanitizers);
        command.env("ASAN_OPTIONS", "detect_leaks=0"); // the program's own, at its end
        command.env("UBSAN_OPTIONS", "halt_on_error=1:print_stacktrace=1");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        running.push((name, std::thread::spawn(move || child.wait_with_output())));
    }
    for mut command in programs()? {
        command.args(["nvrtc", "--nocapture"]).env("LD_LIBRARY_PATH", &compiler);
        cargo::run(command)?;
    }
    let mut failed = Vec::new();
    for (name, thread) in running {
        let output = thread.join().expect("waiting does not panic")?;
        println!("\n{name}{}", String::from_utf8_lossy(&output.stdout));
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            failed.push(name);
        }
    }
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

/// The tests for a GPU as programs of their own: cargo should not run with what they run with.
fn programs() -> Result<Vec<Command>> {
    // As a whole workspace, which has the feature `gpu`: nothing is compiled again for another set of features.
    let mut command =
        cargo::cargo(&["test", "--release", "--workspace", "--test", "gpu", "--no-run"]);
    command.args(["--message-format", "json-render-diagnostics"]);
    let output = command.stderr(Stdio::inherit()).output().context("cargo test")?;
    ensure!(output.status.success(), "the tests for a GPU do not compile");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let programs = text.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        if message.get("target")?.get("name")? != "gpu" {
            return None;
        }
        let mut command = Command::new(message.get("executable")?.as_str()?);
        command.current_dir(Path::new(message.get("manifest_path")?.as_str()?).parent()?);
        Some(command)
    });
    let programs: Vec<_> = programs.collect();
    ensure!(programs.len() > 1, "cargo names {} programs of tests for a GPU", programs.len());
    Ok(programs)
}

/// Programs without their debugging information, so that they are quickly sent.
fn pack() -> Result<()> {
    let folder = target().join("cuda").join("pack");
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let mut command = cargo::cargo(&["build", "--release", "--package", "slimtau-kernels"]);
    command.args(["--features", "gpu", "--example", "gpu_convolutions"]);
    cargo::run(command)?;
    let mut programs = vec![
        (cargo::build_slimtau()?, "slimtau".to_owned()),
        (target().join("release/examples/gpu_convolutions"), "convolutions".to_owned()),
    ];
    for command in self::programs()? {
        let package = command.get_current_dir().and_then(Path::file_name).context("a package")?;
        let name = format!("test-{}", package.to_string_lossy());
        programs.push((command.get_program().into(), name));
    }
    for (from, name) in programs {
        let mut command = Command::new("strip");
        command.arg("-o").arg(folder.join(name)).arg(from);
        cargo::run(command)?;
    }
    for config in ["quick.toml", "spaces/small.toml"] {
        let (from, to) = (root().join("configs").join(config), folder.join("configs").join(config));
        std::fs::create_dir_all(to.parent().context("a folder")?)?;
        std::fs::copy(&from, &to).with_context(|| from.display().to_string())?;
    }
    println!("{}", folder.display());
    Ok(())
}

fn sanitizer(name: &str) -> Result<PathBuf> {
    let output = Command::new(compiler()).arg(format!("-print-file-name={name}")).output();
    let output = output.with_context(|| format!("cannot start `{}`", compiler()))?;
    let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    ensure!(path.is_absolute(), "{name} is missing: install the sanitizers of `{}`", compiler());
    Ok(path)
}

fn compiler() -> String {
    std::env::var("CXX").unwrap_or_else(|_| "g++".into())
}

/// The kernels' sources as a library for the CPU, built anew where a source is newer. They are one translation unit: two
/// of them with structures of one name would silently share the first one's functions.
fn emulator() -> Result<PathBuf> {
    let sources = root().join("crates/kernels/cuda");
    let folder = target().join("cuda").join("emulator");
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let library = folder.join("libslimtau_emulator.so");
    let mut units = files(&sources, "cu")?;
    units.sort();
    units.push(sources.join("host/emulator.cpp"));
    let mut all = units.clone();
    all.extend(files(&sources, "cuh")?);
    all.extend(files(&sources.join("host"), "h")?);
    let changed = newest(&all)?;
    let built = std::fs::metadata(&library).and_then(|m| m.modified());
    if built.is_ok_and(|built| built > changed) {
        return Ok(library);
    }
    let unit = folder.join("kernels.cpp");
    let lines = units.iter().map(|u| format!("#include \"{}\"\n", u.display()));
    std::fs::write(&unit, lines.collect::<String>()).with_context(|| unit.display().to_string())?;
    let mut command = Command::new(compiler());
    command.args([
        "-std=c++17",
        "-O1",
        "-g",
        "-fPIC",
        "-shared",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-unknown-pragmas", // #pragma unroll
        "-Wno-clobbered",       // swapcontext returns twice, as far as the compiler knows
        "-fsanitize=address,undefined",
    ]);
    command.arg("-I").arg(&sources).arg(&unit).arg("-o").arg(&library);
    cargo::run(command)?;
    Ok(library)
}

fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let paths = entries.map(|entry| entry.map(|e| e.path())).collect::<Result<Vec<_>, _>>()?;
    Ok(paths.into_iter().filter(|p| p.extension().is_some_and(|e| e == extension)).collect())
}

fn newest(paths: &[PathBuf]) -> Result<SystemTime> {
    let mut newest = SystemTime::UNIX_EPOCH;
    for path in paths {
        newest = newest.max(std::fs::metadata(path)?.modified()?);
    }
    Ok(newest)
}

/// Parts of the CUDA toolkit from PyPI, in a virtual environment under `target`; the folder that has `bin`, `include`
/// and `lib`.
fn toolkit(name: &str, packages: &[&str]) -> Result<PathBuf> {
    let folder = target().join("cuda").join(format!("toolkit-{name}"));
    let done = folder.join("installed");
    let wanted = packages.join("\n");
    if !std::fs::read_to_string(&done).is_ok_and(|installed| installed == wanted) {
        eprintln!("installing {} of PyPI into {}", packages.join(", "), folder.display());
        let mut command = Command::new("python3");
        command.args(["-m", "venv", "--clear"]).arg(&folder);
        cargo::run(command)?;
        let mut command = Command::new(folder.join("bin/pip"));
        command.args(["install", "--quiet", "--disable-pip-version-check"]).args(packages);
        cargo::run(command)?;
        std::fs::write(&done, &wanted).with_context(|| done.display().to_string())?;
    }
    let libraries = folder.join("lib");
    for python in std::fs::read_dir(&libraries).with_context(|| libraries.display().to_string())? {
        let parts = python?.path().join("site-packages/nvidia/cu13");
        if parts.is_dir() {
            return Ok(parts);
        }
    }
    bail!("{} has no nvidia/cu13: PyPI's packages have another layout now", folder.display())
}

/// What [`check`] may put in nvcc's place: makes the files that are asked for, empty.
const STAND_IN: &str = r#"#!/bin/sh
case "$*" in *--version*)
    printf 'nvcc: NVIDIA (R) Cuda compiler driver\nCopyright\nBuilt on\n'
    echo 'Cuda compilation tools, release 13.0, V13.0.88'
    exit;;
esac
while [ $# -gt 0 ]; do
    case "$1" in
        -o) rm -f "$2"; case "$2" in *.a) ar cr "$2";; *) : >"$2";; esac; shift;;
        --output-directory) folder="$2"; shift;;
        *.cu) sources="$sources $1";;
    esac
    shift
done
[ -z "$folder" ] || for source in $sources; do : >"$folder/$(basename "$source" .cu).ptx"; done
"#;

/// Type-checks the `cuda` features; nothing is linked. Candle's build script compiles its kernels.
fn check(types_only: bool) -> Result<()> {
    let toolkit = if types_only { stand_in()? } else { toolkit("nvcc", &NVCC)? };
    let mut path = toolkit.join("bin").into_os_string();
    if let Some(rest) = std::env::var_os("PATH") {
        path.push(":");
        path.push(rest);
    }
    let mut command = cargo::cargo(&["check", "--release", "--workspace", "--features", "cuda"]);
    command.env("PATH", path).env("CUDA_HOME", &toolkit);
    // Its own place: what the stand-in made must not be taken for kernels later.
    command.env(
        "CARGO_TARGET_DIR",
        target().join("cuda").join(if types_only { "types" } else { "check" }),
    );
    // A build on a machine without a GPU has to be told for which: an H100 here.
    if std::env::var_os("CUDA_COMPUTE_CAP").is_none() {
        command.env("CUDA_COMPUTE_CAP", "90");
    }
    cargo::run(command)
}

fn stand_in() -> Result<PathBuf> {
    let folder = target().join("cuda").join("stand-in");
    for part in ["bin", "include", "lib"] {
        std::fs::create_dir_all(folder.join(part)).with_context(|| folder.display().to_string())?;
    }
    let program = folder.join("bin/nvcc");
    std::fs::write(&program, STAND_IN).with_context(|| program.display().to_string())?;
    let mut command = Command::new("chmod");
    command.arg("+x").arg(&program);
    cargo::run(command)?;
    Ok(folder)
}
