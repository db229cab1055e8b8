//! `slimtau data pack`: an image folder in one file.

use crate::progress::Bar;
use anyhow::{Result, ensure};
use clap::Subcommand;
use slimtau_data::{Dataset, image_folder, pack};
use std::path::PathBuf;

/// Prepare images.
#[derive(Subcommand)]
pub enum DataCommand {
    /// Put an image folder into one file, for file systems on which many small files are slow
    ///
    /// The encoded images as they are, with index and checksums; memory-mapped when it is read. Name the file where a folder
    /// would be named: data.source in a configuration, or --data. Batches are those of the folder, bit for bit.
    Pack {
        /// The folder that holds train/ and val/
        #[arg(long, value_name = "FOLDER")]
        data: PathBuf,
        /// Where the file goes
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
    },
}

/// Runs the command.
pub fn run(command: &DataCommand) -> Result<()> {
    let DataCommand::Pack { data, output } = command;
    ensure!(data.is_dir(), "--data {}: no such folder", data.display());
    // Images are packed as they are: side and channels do not matter.
    let [train, validation] = image_folder(data, 1, 3)?;
    let bar = Bar::new("pack", (train.len() + validation.len()) as u64);
    pack(&train, &validation, output, || bar.advance(1, ""))?;
    bar.finish();
    let mib = std::fs::metadata(output)?.len() as f64 / f64::from(1 << 20);
    eprintln!(
        "{} training and {} validation images of {} classes, {mib:.1} MiB, in {}",
        train.len(),
        validation.len(),
        train.classes(),
        output.display()
    );
    Ok(())
}
