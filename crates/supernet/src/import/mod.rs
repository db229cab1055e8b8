//! Weights from elsewhere: the competition's `.pdparams`, PyTorch's `.pth`, and safetensors of either.
//!
//! A file goes through four steps. Its *format* is told by its first bytes (`source.rs`); a pickle in it is
//! read by a machine that runs nothing (`pickle`). What it holds is described as named views of bytes, none
//! of them read yet (`state_dict.rs`, `tensor.rs`). Its *names* are mapped to the network's (`names.rs`), and its
//! shapes compared. Only then are values read, into memory that the network's layout justifies (`fit.rs`).

mod error;
mod fit;
mod names;
mod pickle;
mod reorder;
mod report;
mod source;
mod state_dict;
mod tensor;

pub use error::{ImportError, ImportProblem};
pub use names::{Framework, Naming};
pub use pickle::PickleError;
pub use reorder::reorder_middle_channels;
pub use report::ImportReport;
pub use source::Format;

use crate::{Layout, Weights};
use pickle::Pickle;
use slimtau_base::{TensorFile, read_bytes};
use source::{Archive, Source};
use std::path::Path;

/// Weights from elsewhere, and what was found.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The network's weights.
    pub weights: Weights,
    /// What the file held.
    pub report: ImportReport,
}

/// Reads the weights of `layout` from a file of another program, or of this one.
///
/// Formats (told by content): Paddle's `.pdparams` (pickle protocols 2 to 5), PyTorch's `.pth` or `.pt` (the zip
/// format of 1.6 and later), safetensors. Names: the network's own and torchvision's, with or without the
/// prefixes and infixes of parallel and super-layers. Elements: float32 as it is, bit for bit; float16, bfloat16 and
/// float64 are converted.
///
/// # Errors
/// When the file cannot be read or is damaged, holds a name, shape or type that does not fit, lacks a
/// tensor, or holds anything that only running a program could read.
pub fn import(layout: &Layout, path: &Path) -> Result<Imported, ImportError> {
    let bytes = read_bytes(path)?;
    let read = |bytes| {
        let format = Format::of(bytes)?;
        match format {
            Format::Pickle => {
                let pickle = Pickle::parse(bytes)?;
                fit::fit(layout, format, Source::of_pickle(&pickle)?)
            }
            Format::Torch => {
                let (archive, pickle) = Archive::open(bytes)?;
                let pickle = Pickle::parse(pickle)?;
                let mut source = Source::of_pickle(&pickle)?;
                source.archive = Some(archive);
                fit::fit(layout, format, source)
            }
            Format::Safetensors => fit::fit(layout, format, Source::of_safetensors(bytes)?),
        }
    };
    let (mut file, report) =
        read(&bytes).map_err(|problem| ImportError::Contents { path: path.into(), problem })?;
    if report.format == Format::Safetensors && report.converted.is_empty() {
        // It may be one of ours, which carry a checksum that their own reader verifies.
        TensorFile::parse(path, &bytes)?;
    }
    let weights = Weights::from_file(layout, path, &mut file)?;
    Ok(Imported { weights, report })
}
