//! What this program is and what it runs on, for reports and benches.

use crate::report::Versions;
use std::path::Path;

/// The program and the machine, of which `hardware` did the work.
pub fn versions(hardware: String) -> Versions {
    Versions {
        slimtau: env!("CARGO_PKG_VERSION").to_owned(),
        git_commit: option_env!("SLIMTAU_COMMIT").map(str::to_owned),
        rustc: env!("SLIMTAU_RUSTC").to_owned(),
        cpu: hardware,
        threads: rayon::current_num_threads(),
        system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
    }
}

/// The command line, program first, by its name alone: where it lies is nobody's business.
pub fn command() -> Vec<String> {
    let mut words: Vec<String> = std::env::args().collect();
    if let Some(program) = words.first_mut() {
        let name = Path::new(&*program).file_name().map(|n| n.to_string_lossy().into_owned());
        *program = name.unwrap_or_default();
    }
    words
}

/// The processor's name.
pub fn cpu_model() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|l| l.strip_prefix("model name"));
    let model = model.and_then(|m| m.split_once(':')).map(|(_, m)| m.trim().to_owned());
    model.unwrap_or_else(|| "unknown".into())
}

/// The largest resident memory that this process has had, in MiB; 0 where the system does not say.
pub fn peak_rss_mib() -> f64 {
    // SAFETY: `rusage` is a plain C struct of integers, for which all-zero bytes are a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is a valid, writable `rusage` for the duration of the call.
    let status = unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
    // Linux counts in KiB, macOS in bytes.
    let unit = if cfg!(target_os = "macos") { 1.0 } else { 1024.0 };
    if status == 0 { usage.ru_maxrss as f64 * unit / (1024.0 * 1024.0) } else { 0.0 }
}
