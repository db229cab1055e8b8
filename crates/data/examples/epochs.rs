//! Goes through the training images of a folder as training or evaluation does, with one loader thread or as many as are given,
//! and prints images and seconds: `cargo run --release -p slimtau-data --example epochs -- FOLDER train|eval N [WORKERS]`.
//! `scripts/compare_loader.py` compares it with torchvision.

use slimtau_data::{
    Loader, LoaderConfig, Normalization, Order, Pipeline, ResizedCropFlip, Source, open,
};
use std::error::Error;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, kind, epochs, more @ ..] = &arguments[..] else {
        return Err("usage: epochs FOLDER train|eval N [WORKERS]".into());
    };
    let workers = more.first().map_or(Ok(1), |workers| workers.parse())?;
    let pipeline = match &**kind {
        "train" => Pipeline::ResizedCropFlip(ResizedCropFlip::default()),
        "eval" => Pipeline::Eval(Default::default()),
        other => return Err(format!("`{other}` is neither train nor eval").into()),
    };
    let epochs: u64 = epochs.parse()?;
    let train = open(&format!("images:{folder}").parse::<Source>()?)?.train;
    let config = LoaderConfig {
        workers,
        order: if kind == "train" { Order::Shuffled } else { Order::Sequential },
        ..LoaderConfig::train(pipeline, Normalization::imagenet(), 50, 1)
    };
    let loader = Loader::new(train, config)?;
    let start = Instant::now();
    let (mut n_images, mut sum) = (0, 0.0);
    for batch in loader.stream(0, epochs * loader.steps_per_epoch()) {
        let batch = batch?;
        n_images += batch.labels.len();
        sum += f64::from(batch.images[0]);
        loader.recycle(batch);
    }
    println!("{n_images} images in {:.3} s, check {sum:.6}", start.elapsed().as_secs_f64());
    Ok(())
}
