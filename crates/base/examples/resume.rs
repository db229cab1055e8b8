//! A random walk that is stopped after every step, goes on from its file, and ends at the same bits
//! as one in a single go.

use rand::RngExt;
use slimtau_base::{FileError, TensorFile, stream};
use std::path::Path;

const STEPS: u64 = 1000;

fn step(position: f32, step: u64) -> f32 {
    position + stream(42, "walk", step).random_range(-1.0..1.0)
}

/// One step from what the file says, into the file.
fn resumed(path: &Path, number: u64) -> Result<f32, FileError> {
    let position =
        if path.is_file() { TensorFile::read(path)?.take(path, "x", &[1])?[0] } else { 0.0 };
    let next = step(position, number);
    let mut file = TensorFile::default();
    file.insert("x", &[1], vec![next]);
    file.write(path)?;
    Ok(next)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("walk.safetensors");
    let whole = (0..STEPS).fold(0.0, step);
    let mut last = 0.0;
    for number in 0..STEPS {
        last = resumed(&path, number)?;
    }
    println!("in one go {whole}, in {STEPS} processes' worth of steps {last}");
    assert_eq!(whole.to_bits(), last.to_bits());
    Ok(())
}
