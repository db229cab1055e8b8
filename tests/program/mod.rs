//! Runs the `slimtau` program as a user would, on inputs small enough for a test.
#![allow(dead_code, reason = "every test program uses a part of it")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// What a finished process left.
#[derive(Debug)]
pub struct Finished {
    /// Its exit code; `None` after a signal.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("the program writes UTF-8");
        let code = output.status.code();
        Self { code, stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl Finished {
    /// Its standard output, after checking that it succeeded.
    #[track_caller]
    pub fn expect_success(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout, self.stderr);
        self.stdout
    }
}

/// Checks one failure: code 2, one line on standard error that begins with `error:` and holds every
/// needle, nothing on standard output.
#[track_caller]
pub fn assert_refused(finished: &Finished, needles: &[&str]) {
    let Finished { code, stdout, stderr } = finished;
    assert_eq!(*code, Some(2), "{stdout}{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    let errors: Vec<&str> = stderr.lines().filter(|l| !is_progress(l)).collect();
    assert_eq!(errors.len(), 1, "one line: {stderr}");
    assert!(errors[0].starts_with("error: "), "{stderr}");
    for needle in needles {
        assert!(errors[0].contains(needle), "`{needle}` is not in: {stderr}");
        let twice = errors[0].matches(needle).count() > 1;
        assert!(!(twice && needle.len() > 20), "`{needle}` is said twice: {stderr}");
    }
    assert_eq!(stdout, "");
}

/// `      teacher 1/48  97.1/s ...`: how far a stage was before the failure.
fn is_progress(line: &str) -> bool {
    line.starts_with("  ") && line.contains("/s  ")
}

/// No temporary file was left anywhere below.
#[track_caller]
pub fn assert_clean(folder: &Path) {
    let left = files_below(folder).into_iter().filter(|f| f.to_string_lossy().ends_with(".tmp"));
    assert_eq!(left.collect::<Vec<_>>(), Vec::<PathBuf>::new());
}

/// The program with these arguments, its output caught. `SLIMTAU_PROGRAM` is its path on a machine that did not build it.
pub fn command<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> Command {
    let here = || env!("CARGO_BIN_EXE_slimtau").into();
    let mut command = Command::new(std::env::var_os("SLIMTAU_PROGRAM").unwrap_or_else(here));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs the program to its end.
pub fn run<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> Finished {
    command(arguments).output().expect("the program starts").into()
}

/// A path as an argument.
pub fn word(path: &Path) -> &str {
    path.to_str().expect("temporary folders have UTF-8 names")
}

/// Writes a file into a folder and returns its path.
pub fn put(folder: &Path, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).unwrap();
    }
    fs::write(&path, contents).unwrap();
    path
}

/// A search space of two narrow stages; its codes have 11 digits: depths, stem, two per block.
/// Stage 1 has no projection, so its outputs are tied to the stem's.
pub fn narrow_space(image_size: usize, channels: usize) -> String {
    format!(
        r#"name = "narrow"
image_size = {image_size}
channels = {channels}
classes = 10
ratios = [1.0, 0.75, 0.5]
divisor = 2
block = "basic"
stem = {{ width = 8, kernel = 3, stride = 2, max_pool = false, codes = 3 }}
[[stage]]
width = 8
depth = [1, 2]
stride = 1
codes = 3
[[stage]]
width = 16
depth = [1, 2]
stride = 2
codes = 3
"#
    )
}

/// The narrow space's largest and smallest network and one between them.
pub const NARROW_CODES: [&str; 3] = ["22111111111", "11333003300", "21212323100"];

/// Writes `n_train` and `n_validation` grey images of 10 classes as four IDX files. Each class is a
/// bright square in a place of its own on noise, so that there is something to learn.
pub fn idx_folder(folder: &Path, side: usize, n_train: usize, n_validation: usize) {
    for (prefix, n, seed) in [("train", n_train, 1_u32), ("t10k", n_validation, 2)] {
        let mut state = seed;
        let mut noise = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 26) as u8
        };
        let mut pixels = idx_header(3, &[n, side, side]);
        let mut labels = idx_header(1, &[n]);
        for i in 0..n {
            let class = i % 10;
            labels.push(class as u8);
            let (top, left) = (class / 4 * side / 4, class % 4 * side / 4);
            for y in 0..side {
                for x in 0..side {
                    let inside =
                        (top..top + side / 4).contains(&y) && (left..left + side / 4).contains(&x);
                    pixels.push(noise() + if inside { 150 } else { 20 });
                }
            }
        }
        put(folder, &format!("{prefix}-images-idx3-ubyte"), pixels);
        put(folder, &format!("{prefix}-labels-idx1-ubyte"), labels);
    }
}

fn idx_header(dimensions: u32, shape: &[usize]) -> Vec<u8> {
    let sizes = shape.iter().map(|&n| u32::try_from(n).expect("test sets are small"));
    std::iter::once(0x0800 + dimensions).chain(sizes).flat_map(u32::to_be_bytes).collect()
}

/// Every stage in miniature. `data` is a folder, `space` the space file's name beside it.
pub fn config(data: &Path, space: &str) -> String {
    format!(
        r#"name = "small"
seed = 7
space = "{space}"

[data]
source = "{}"
crop_padding = 1
flip = true

[teacher]
steps = 48
batch = 16
optimizer = {{ lr = 0.1, warmup_steps = 4 }}

[moco]
steps = 36
batch = 16
optimizer = {{ lr = 0.02, warmup_steps = 4 }}
queue = 64
dim = 16
temperature = [0.2, 0.1]
key_momentum = 0.99
bn = "tracked"

[ccfs]
steps = 36
batch = 16
optimizer = {{ lr = 0.05, warmup_steps = 4 }}
sampler = "ccfs-f"
candidates = 20
keep = 2
bn = "recalibrated"

[subnets]
count = 3

[inherit]
batch = 50
recalibration_batches = 2

[standalone]
steps = 30
batch = 16
seeds = 2
optimizer = {{ lr = 0.1, warmup_steps = 4 }}
"#,
        data.display()
    )
}

/// Every file below a folder, sorted, relative to it.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    fn walk(folder: &Path, root: &Path, out: &mut Vec<PathBuf>) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, root, out);
            } else {
                out.push(path.strip_prefix(root).unwrap().to_path_buf());
            }
        }
    }
    let mut out = Vec::new();
    walk(folder, folder, &mut out);
    out.sort();
    out
}

/// Data, space and configuration of a small run, in a folder that goes when this does.
pub struct Case {
    pub folder: tempfile::TempDir,
}

impl Case {
    pub fn new() -> Self {
        let case = Self { folder: tempfile::tempdir().unwrap() };
        idx_folder(&case.at("data"), 16, 60, 40);
        put(case.folder.path(), "narrow.toml", narrow_space(16, 1));
        put(case.folder.path(), "config.toml", case.config());
        case
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn config(&self) -> String {
        config(&self.at("data"), "narrow.toml")
    }

    /// Runs everything into the folder `out`.
    pub fn run(&self, out: &str) -> Finished {
        let (config, out) = (self.at("config.toml"), self.at(out));
        run(&["run", "--config", word(&config), "--out", word(&out)])
    }
}
