//! Pictures of every kind against what Pillow and torchvision make of them (`scripts/goldens_images.py`).
//!
//! Tolerances, in levels of 255. PNGs must agree exactly. JPEG decoders may round differently: by at most 3, by 0.4 on
//! average; in the last row and column by at most 13, as libjpeg repeats the last subsampled colour there, and this decoder
//! interpolates with what the file has beyond the border. Resizing the same pixels: at most 1, 0.3 on average, as Pillow rounds twice to whole levels where this crate
//! does not. Both together: at most 3, 0.5 on average.

use serde_json::Value;
use slimtau_base::stream;
use slimtau_data::{
    CropBox, Dataset, EvalCrop, ImageFolder, Loader, LoaderConfig, Normalization, Pipeline, Pixels,
    Scratch, random_crop_box, resize,
};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const JPEG: (f32, f32) = (3.0, 0.4);
const JPEG_BORDER: (f32, f32) = (13.0, 1.5);
const RESIZED: (f32, f32) = (1.0, 0.3);
const BOTH: (f32, f32) = (3.0, 0.5);

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens")
}

fn golden() -> Value {
    serde_json::from_slice(&fs::read(goldens().join("goldens.json")).unwrap()).unwrap()
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect()
}

fn number(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

/// The picture's file, JPEG or PNG.
fn picture(name: &str) -> PathBuf {
    let [jpeg, png] = ["jpg", "png"].map(|end| goldens().join(format!("{name}.{end}")));
    if jpeg.is_file() { jpeg } else { png }
}

/// A folder of one class that holds these pictures, in this order.
fn folder_of(files: &[PathBuf], size: usize) -> (tempfile::TempDir, ImageFolder) {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("class")).unwrap();
    for (i, file) in files.iter().enumerate() {
        let name = format!("{i:03}-{}", file.file_name().unwrap().to_str().unwrap());
        fs::copy(file, root.path().join("class").join(name)).unwrap();
    }
    let folder = ImageFolder::open(root.path(), None, size, 3).unwrap();
    (root, folder)
}

/// The values of what the script stored losslessly, with height and width.
fn expected(name: &str) -> (Vec<u8>, u32, u32) {
    let image = image::open(goldens().join(name)).unwrap().into_rgb8();
    let (width, height) = image.dimensions();
    (image.into_raw(), height, width)
}

/// Whether levels agree; `most` is (largest, mean) difference.
fn compare(
    what: &str,
    got: impl ExactSizeIterator<Item = f32>,
    expect: &[u8],
    most: (f32, f32),
) -> bool {
    assert_eq!(got.len(), expect.len(), "{what}");
    let differences: Vec<f32> = got.zip(expect).map(|(a, &b)| (a - f32::from(b)).abs()).collect();
    let largest = differences.iter().fold(0f32, |a, &b| a.max(b));
    let mean = differences.iter().sum::<f32>() / expect.len() as f32;
    let where_largest = differences.iter().position(|d| *d == largest).unwrap_or_default();
    println!(
        "{what}: largest {largest:.2} (value {where_largest}), mean {mean:.3}, at most {most:?}"
    );
    largest <= most.0 && mean <= most.1
}

#[test]
fn pictures_of_every_kind_are_decoded_as_pillow_does() {
    let golden = golden();
    let decoded = golden["decoded"].as_object().unwrap();
    assert!(decoded.len() > 15, "{decoded:?}");
    let files: Vec<PathBuf> = decoded.keys().map(|name| picture(name)).collect();
    let (_root, folder) = folder_of(&files, 8);
    let mut pixels = Vec::new();
    let mut same = true;
    for (i, (name, file)) in decoded.iter().enumerate() {
        let (height, width) = folder.image(i, &mut pixels).unwrap();
        let (expect, h, w) = expected(&format!("{}.png", file.as_str().unwrap()));
        assert_eq!((height as u32, width as u32), (h, w), "{name}");
        let png = files[i].extension().unwrap() == "png";
        for border in [false, true] {
            let here = |k: &usize| {
                let (y, x) = (k / 3 / width, k / 3 % width);
                (y + 1 == height || x + 1 == width) == border
            };
            let part = |values: &[u8]| -> Vec<u8> {
                (0..values.len()).filter(here).map(|k| values[k]).collect()
            };
            let got: Vec<f32> = part(&pixels).into_iter().map(f32::from).collect();
            let most = match (png, border) {
                (true, _) => (0.0, 0.0),
                (false, false) => JPEG,
                (false, true) => JPEG_BORDER,
            };
            let what = format!("{name}, {}", if border { "border" } else { "inside" });
            same &= compare(&what, got.into_iter(), &part(&expect), most);
        }
    }
    assert!(same, "see above");
}

#[test]
fn evaluation_crops_as_torchvision_does() {
    let golden = golden();
    let (size, shorter) = (number(&golden["size"]), number(&golden["shorter"]));
    let names = texts(&golden["resized"]);
    let files: Vec<PathBuf> = names.iter().map(|name| picture(name)).collect();
    let (_root, folder) = folder_of(&files, size);
    let crop = EvalCrop { crop_fraction: size as f32 / shorter as f32 };
    let loader = |normalization| {
        let config = LoaderConfig {
            pipeline: Pipeline::Eval(crop),
            ..LoaderConfig::eval(normalization, names.len())
        };
        Loader::new(Arc::new(folder.clone()), config).unwrap()
    };
    let batch = loader(Normalization::identity(3)).batch(0).unwrap();
    let mut same = true;
    for (name, image) in names.iter().zip(batch.images.chunks_exact(size * size * 3)) {
        let (expect, ..) = expected(&format!("{name}.eval.png"));
        same &= compare(name, image.iter().map(|v| v * 255.0), &expect, BOTH);
    }
    assert!(same, "see above");
    // The same, normalised: one row of the first picture.
    let batch = loader(Normalization::imagenet()).batch(0).unwrap();
    let row = &batch.images[size / 2 * size * 3..][..size * 3];
    let expect = golden["normalised_row"].as_array().unwrap();
    assert_eq!(expect.len(), row.len());
    for (k, (got, expect)) in row.iter().zip(expect).enumerate() {
        let level = 1.0 / 255.0 / Normalization::imagenet().std[k % 3];
        let difference = (got - expect.as_f64().unwrap() as f32).abs();
        assert!(difference <= BOTH.0 * level, "{k}: {got}, expected {expect}");
    }
}

#[test]
fn boxes_are_resized_as_torchvision_does() {
    let golden = golden();
    let size = number(&golden["size"]);
    // From Pillow's pixels, so that only the resizing is compared.
    let (data, height, width) = expected("baseline444.decoded.png");
    let pixels =
        Pixels { data: &data, height: height as usize, width: width as usize, channels: 3 };
    let (expect, ..) = expected("baseline444.boxes.png");
    let boxes = golden["boxes"].as_array().unwrap();
    assert_eq!(boxes.len() * size * size * 3, expect.len());
    let mut out = vec![0.0; size * size * 3];
    for (crop, expect) in boxes.iter().zip(expect.chunks_exact(out.len())) {
        let [top, left, height, width] = [0, 1, 2, 3].map(|k| number(&crop[k]));
        let crop = CropBox { top, left, height, width };
        resize(pixels, crop, size, &mut Scratch::default(), &mut out);
        let got = out.iter().map(|v| v * 255.0);
        assert!(compare(&format!("{crop:?}"), got, expect, RESIZED), "see above");
    }
}

/// The share of draws at or below each of torchvision's quantiles must be that quantile.
#[test]
fn boxes_are_drawn_as_torchvision_draws_them() {
    const DRAWS: usize = 20_000;
    let golden = golden();
    let quantiles: Vec<f64> =
        golden["quantiles"].as_array().unwrap().iter().map(|q| q.as_f64().unwrap()).collect();
    for shape in golden["distributions"].as_array().unwrap() {
        let (height, width) = (number(&shape["height"]), number(&shape["width"]));
        let boxes: Vec<CropBox> = (0..DRAWS as u64)
            .map(|i| {
                let mut rng = stream(5, "boxes", i);
                random_crop_box(&mut rng, height, width, (0.08, 1.0), (0.75, 4.0 / 3.0))
            })
            .collect();
        let area = (height * width) as f64;
        type Measure<'a> = &'a dyn Fn(&CropBox) -> f64;
        let measures: [(&str, Measure); 4] = [
            ("area", &|b| (b.height * b.width) as f64 / area),
            ("log_ratio", &|b| (b.width as f64 / b.height as f64).ln()),
            ("top", &|b| b.top as f64 / height as f64),
            ("left", &|b| b.left as f64 / width as f64),
        ];
        for (name, measure) in measures {
            let mut values: Vec<f64> = boxes.iter().map(measure).collect();
            values.sort_by(f64::total_cmp);
            for (k, &q) in quantiles.iter().enumerate() {
                let expect = shape[name][k].as_f64().unwrap();
                let below =
                    |limit: f64| values.partition_point(|v| *v < limit) as f64 / DRAWS as f64;
                // Boxes are whole pixels, so a value may hold a share of the draws by itself.
                let (less, at_most) = (below(expect - 1e-9), below(expect + 1e-9));
                // Five standard deviations of the difference of both sides' shares (20,000 and 40,000 draws).
                let slack = 5.0 * (q * (1.0 - q) * 1.5 / DRAWS as f64).sqrt();
                assert!(
                    less <= q + slack && at_most >= q - slack,
                    "{height} x {width}, {name}: {less} to {at_most} of the draws, not {q}, at {expect}"
                );
            }
        }
    }
}
