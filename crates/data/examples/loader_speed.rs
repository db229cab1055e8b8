//! Times each pipeline per image in one thread, and a prefetching stream, on the embedded images:
//! `cargo run --release -p slimtau-data --example loader_speed`.

use slimtau_data::{
    DataError, EvalCrop, Loader, LoaderConfig, MocoViews, Normalization, Pipeline, Source, open,
};
use std::time::Instant;

fn main() -> Result<(), DataError> {
    let data = open(&Source::Embedded)?;
    println!("{}", data.train.describe());
    let pipelines = [
        ("eval", Pipeline::Eval(EvalCrop::default())),
        ("crop, flip", Pipeline::CropFlip(Default::default())),
        ("resized crop, flip", Pipeline::ResizedCropFlip(Default::default())),
        ("two MoCo views", Pipeline::TwoViews(MocoViews::default())),
    ];
    for (name, pipeline) in pipelines {
        let config = LoaderConfig::train(pipeline, Normalization::fashion_mnist(), 256, 1);
        let workers = config.workers;
        let loader = Loader::new(data.train.clone(), config)?;
        // What is timed is first shown to be the same.
        assert_eq!(loader.batch(5)?, loader.stream(5, 6).next().expect("one step")?);
        let n_steps = 40;
        let n_views = (n_steps * 256 * pipeline.n_views() as u64) as f64;
        let start = Instant::now();
        for step in 0..n_steps {
            loader.recycle(loader.batch(step)?);
        }
        let direct = start.elapsed().as_secs_f64();
        let start = Instant::now();
        for batch in loader.stream(0, n_steps) {
            loader.recycle(batch?);
        }
        let streamed = start.elapsed().as_secs_f64();
        println!(
            "{name:>18}: {:6.2} us per view; {workers} workers: {:.0} views/s",
            direct / n_views * 1e6,
            n_views / streamed
        );
    }
    Ok(())
}
