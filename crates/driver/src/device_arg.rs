//! `--device` and `--precision`: where networks run, and in what.

use anyhow::{Result, bail};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where networks run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DeviceArg {
    /// The CPU.
    #[default]
    Cpu,
    /// An NVIDIA GPU, by its number.
    Cuda(usize),
    /// The GPU's kernels on the CPU, thousands of times slower: the library that `cargo xtask cuda emulator` builds. For
    /// tests.
    Emulator(PathBuf),
}

/// Where networks are trained and evaluated, and in what.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct DeviceArgs {
    /// Where networks are trained and evaluated: `cpu`, `cuda` or `cuda:N`, the GPU number N
    #[arg(long, default_value_t = DeviceArg::Cpu, value_name = "DEVICE")]
    pub device: DeviceArg,
    /// What activations are made of on a GPU [default: bf16]
    #[arg(long, value_enum)]
    precision: Option<PrecisionArg>,
}

impl DeviceArgs {
    /// What activations on a GPU are made of.
    #[cfg(feature = "gpu")]
    pub fn precision(&self) -> PrecisionArg {
        self.precision.unwrap_or(PrecisionArg::Bf16)
    }

    /// Whether networks run on the CPU.
    pub fn is_cpu(&self) -> bool {
        self.device == DeviceArg::Cpu
    }

    /// Refuses what only a GPU can do.
    pub fn only_cpu(&self) -> Result<()> {
        if !self.is_cpu() {
            bail!("--device {}: this program was built without the feature `gpu`", self.device);
        }
        if let Some(PrecisionArg::Bf16) = self.precision {
            bail!("--precision bf16: is for GPUs (--device cuda); the CPU computes in f32");
        }
        Ok(())
    }

    /// The options that say the same to another `slimtau`.
    pub fn words(&self) -> Vec<String> {
        let mut words = vec![format!("--device={}", self.device)];
        words.extend(self.precision.map(|precision| format!("--precision={precision}")));
        words
    }
}

const EMULATOR: &str = "emulator:";

impl fmt::Display for DeviceArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
            Self::Emulator(library) => write!(f, "{EMULATOR}{}", library.display()),
        }
    }
}

impl FromStr for DeviceArg {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        if let Some(library) = s.strip_prefix(EMULATOR) {
            return Ok(Self::Emulator(library.into()));
        }
        match s {
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => s
                .strip_prefix("cuda:")
                .and_then(|ordinal| ordinal.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| format!("`{s}` is not one of cpu, cuda, cuda:N")),
        }
    }
}

/// What activations on a GPU are made of. The CPU computes in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum PrecisionArg {
    /// bf16 activations and operands; sums, parameters, statistics and losses f32
    Bf16,
    /// f32 throughout
    F32,
}

impl fmt::Display for PrecisionArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{DeviceArg, DeviceArgs, PrecisionArg};

    #[test]
    fn devices_read_as_they_are_written() {
        for (text, device) in [
            ("cpu", DeviceArg::Cpu),
            ("cuda", DeviceArg::Cuda(0)),
            ("cuda:3", DeviceArg::Cuda(3)),
            ("emulator:a/b.so", DeviceArg::Emulator("a/b.so".into())),
        ] {
            assert_eq!(text.parse().as_ref(), Ok(&device));
            assert_eq!(device.to_string().parse(), Ok(device));
        }
        for text in ["gpu", "cuda:", "cuda:-1", ""] {
            assert!(text.parse::<DeviceArg>().unwrap_err().contains("cuda:N"));
        }
    }
    #[test]
    fn the_cpu_has_no_other_precision() {
        let args = |precision| DeviceArgs { device: DeviceArg::Cpu, precision };
        assert!(args(None).only_cpu().is_ok() && args(Some(PrecisionArg::F32)).only_cpu().is_ok());
        let error = args(Some(PrecisionArg::Bf16)).only_cpu().unwrap_err().to_string();
        assert!(error.contains("--precision bf16") && error.contains("--device cuda"), "{error}");
    }
}
