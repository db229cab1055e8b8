//! Writes a PNG that shows what each pipeline makes of the first training images:
//! `cargo run --release -p slimtau-data --example contact_sheet -- sheet.png [SOURCE]`.

use image::{Rgb, RgbImage};
use slimtau_data::{
    Batch, Loader, LoaderConfig, MocoViews, Normalization, Order, Pipeline, Source, open,
};
use std::error::Error;

const COLUMNS: usize = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let target = arguments.next().ok_or("usage: contact_sheet FILE.png [SOURCE]")?;
    let source = arguments.next().map_or(Ok(Source::Embedded), |text| text.parse())?;
    let train = open(&source)?.train;
    println!("{}", train.describe());
    let pipelines = [
        Pipeline::Eval(Default::default()),
        Pipeline::CropFlip(Default::default()),
        Pipeline::ResizedCropFlip(Default::default()),
        Pipeline::TwoViews(MocoViews::default()),
    ];
    let size = train.size();
    let n_rows: usize = pipelines.iter().map(Pipeline::n_views).sum();
    let mut sheet = RgbImage::new((COLUMNS * size) as u32, (n_rows * size) as u32);
    let mut row = 0;
    for pipeline in pipelines {
        let normalization = Normalization::identity(train.channels());
        let config = LoaderConfig {
            order: Order::Sequential,
            ..LoaderConfig::train(pipeline, normalization, COLUMNS, 1)
        };
        let batch = Loader::new(train.clone(), config)?.batch(0)?;
        for images in [Some(&batch.images), batch.second.as_ref()].into_iter().flatten() {
            draw(&mut sheet, row * size, images, &batch);
            row += 1;
        }
    }
    sheet.save(&target)?;
    println!("{n_rows} rows of {COLUMNS} images in {target}");
    Ok(())
}

/// Draws the images of a batch side by side from row `top` on.
fn draw(sheet: &mut RgbImage, top: usize, images: &[f32], batch: &Batch) {
    let [_, height, width, channels] = batch.shape;
    for (i, pixel) in images.chunks_exact(channels).enumerate() {
        let (image, y, x) = (i / (height * width), i / width % height, i % width);
        let byte = |c: usize| (pixel[c.min(channels - 1)] * 255.0).round().clamp(0.0, 255.0) as u8;
        let place = ((image * width + x) as u32, (top + y) as u32);
        sheet.put_pixel(place.0, place.1, Rgb([byte(0), byte(1), byte(2)]));
    }
}
