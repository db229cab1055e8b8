//! Image folders: labels by sorted names, any shape and kind of image, and errors that name files.

use image::{GrayImage, Luma, Rgb, RgbImage};
use slimtau_data::{
    Dataset, ImageFolder, Loader, LoaderConfig, Normalization, Pipeline, ResizedCropFlip, Source,
    open,
};
use std::fs;
use std::path::Path;
use std::sync::Arc;

/// Two classes; RGB JPEG, RGB PNG, grey PNG, of different shapes.
fn make(root: &Path) {
    for class in ["train/cat", "train/ant", "val/cat"] {
        fs::create_dir_all(root.join(class)).unwrap();
    }
    let red = RgbImage::from_pixel(40, 20, Rgb([200, 10, 10]));
    red.save(root.join("train/cat/b.JPEG")).unwrap();
    let blue = RgbImage::from_pixel(7, 9, Rgb([0, 0, 255]));
    blue.save(root.join("train/cat/a.png")).unwrap();
    GrayImage::from_pixel(16, 16, Luma([51])).save(root.join("train/ant/z.png")).unwrap();
    red.save(root.join("val/cat/v.jpg")).unwrap();
    fs::write(root.join("train/ant/notes.txt"), "no image").unwrap();
    fs::write(root.join("train/ant/.hidden.png"), "no image").unwrap();
}

fn source(root: &Path, channels: usize) -> Source {
    Source::ImageFolder { folder: root.into(), size: 8, channels }
}

#[test]
fn files_are_found_sorted_and_decoded() {
    let root = tempfile::tempdir().unwrap();
    make(root.path());
    let data = open(&source(root.path(), 3)).unwrap();
    assert_eq!((data.train.len(), data.train.classes(), data.validation.len()), (3, 2, 1));
    assert_eq!([0, 1, 2].map(|i| data.train.label(i)), [0, 1, 1]);
    // The validation part has one folder only, but the training part's numbering.
    assert_eq!((data.validation.label(0), data.validation.classes()), (1, 2));
    let mut pixels = Vec::new();
    assert_eq!(data.train.image(0, &mut pixels).unwrap(), (16, 16));
    assert_eq!(pixels, [51; 16 * 16 * 3]); // grey as RGB
    assert_eq!(data.train.image(1, &mut pixels).unwrap(), (9, 7));
    assert_eq!(pixels[..3], [0, 0, 255]);
    assert_eq!(data.train.image(2, &mut pixels).unwrap(), (20, 40));
    for (got, expect) in pixels.iter().zip([200u8, 10, 10].iter().cycle()) {
        assert!(got.abs_diff(*expect) <= 3, "JPEG gives {got} for {expect}");
    }
    let grey = open(&source(root.path(), 1)).unwrap();
    grey.train.image(0, &mut pixels).unwrap();
    assert_eq!(pixels, [51; 16 * 16]);
}

#[test]
fn batches_hold_squares_whatever_the_files_hold() {
    let root = tempfile::tempdir().unwrap();
    make(root.path());
    let train = open(&source(root.path(), 3)).unwrap().train;
    let augmented = LoaderConfig::train(
        Pipeline::ResizedCropFlip(ResizedCropFlip::default()),
        Normalization::identity(3),
        3,
        1,
    );
    for config in [LoaderConfig::eval(Normalization::identity(3), 3), augmented] {
        let batch = Loader::new(train.clone(), config).unwrap().batch(0).unwrap();
        assert_eq!(batch.shape, [3, 8, 8, 3]);
        // Each file has one colour, which no crop or filter changes.
        for (image, &index) in batch.images.chunks_exact(8 * 8 * 3).zip(&batch.indices) {
            let expect = [[51, 51, 51], [0, 0, 255], [200, 10, 10]][index as usize];
            for pixel in image.chunks_exact(3) {
                for (value, expect) in pixel.iter().zip(expect) {
                    assert!((value * 255.0 - expect as f32).abs() < 3.5, "{pixel:?} {expect}");
                }
            }
        }
    }
}

#[test]
fn damaged_and_missing_images_are_named() {
    let root = tempfile::tempdir().unwrap();
    make(root.path());
    let folder = Arc::new(ImageFolder::open(&root.path().join("train"), None, 8, 3).unwrap());
    let jpeg = folder.path(2);
    let bytes = fs::read(&jpeg).unwrap();
    let mut pixels = Vec::new();
    for damaged in [&b""[..], b"not an image", &bytes[..bytes.len() / 4], &bytes[..bytes.len() - 2]]
    {
        fs::write(&jpeg, damaged).unwrap();
        let message = folder.image(2, &mut pixels).unwrap_err().to_string();
        assert!(message.starts_with("cannot decode image ") && message.contains("b.JPEG"));
    }
    // The loader passes the message on.
    let config = LoaderConfig::eval(Normalization::identity(3), 3);
    let loader = Loader::new(folder.clone(), config).unwrap();
    let message = loader.stream(0, 1).next().unwrap().unwrap_err().to_string();
    assert!(message.contains("b.JPEG"), "{message}");
    fs::remove_file(&jpeg).unwrap();
    let message = folder.image(2, &mut pixels).unwrap_err().to_string();
    assert!(message.starts_with("cannot read ") && message.contains("b.JPEG"), "{message}");
}

#[test]
fn a_png_named_jpeg_is_read_by_its_contents() {
    let root = tempfile::tempdir().unwrap();
    make(root.path());
    let cat = root.path().join("train/cat");
    fs::copy(cat.join("a.png"), cat.join("c.jpeg")).unwrap();
    let folder = ImageFolder::open(&root.path().join("train"), None, 8, 3).unwrap();
    let mut pixels = Vec::new();
    assert_eq!(folder.image(3, &mut pixels).unwrap(), (9, 7));
}

#[test]
fn folders_that_cannot_be_datasets_are_refused() {
    let root = tempfile::tempdir().unwrap();
    make(root.path());
    let check = |expect: &str| {
        let message = open(&source(root.path(), 3)).err().unwrap().to_string();
        assert!(message.ends_with(expect), "{message}");
    };
    fs::create_dir(root.path().join("val/bee")).unwrap();
    check("bee: class `bee` is not among the 2 known ones");
    fs::remove_dir(root.path().join("val/bee")).unwrap();
    fs::create_dir(root.path().join("train/bee")).unwrap();
    check("bee: holds no jpg, jpeg or png file");
    fs::remove_dir_all(root.path().join("train")).unwrap();
    fs::create_dir(root.path().join("train")).unwrap();
    check("train: holds no class folders");
    let message = open(&source(root.path(), 2)).err().unwrap().to_string();
    assert_eq!(message, "channels is 2, expected 1 or 3");
}

/// `train` of [`make`], and a flat `val` with these labels.
fn flat(labels: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    make(root.path());
    let val = root.path().join("val");
    fs::remove_dir_all(&val).unwrap();
    fs::create_dir(&val).unwrap();
    for (name, blue) in [("b.png", 2), ("a b.png", 1), ("c.JPEG", 3)] {
        RgbImage::from_pixel(8, 8, Rgb([0, 0, 80 * blue])).save(val.join(name)).unwrap();
    }
    fs::write(val.join("read.me"), "no image").unwrap();
    fs::write(root.path().join("val_labels.txt"), labels).unwrap();
    root
}

#[test]
fn a_flat_validation_folder_has_its_classes_in_a_file() {
    let root = flat("c.JPEG ant\n\n  a b.png\tcat\r\nb.png cat");
    let data = open(&source(root.path(), 3)).unwrap();
    // In the order of the names, whatever that of the lines.
    assert_eq!([0, 1, 2].map(|i| data.validation.label(i)), [1, 1, 0]);
    assert_eq!((data.validation.len(), data.validation.classes()), (3, 2));
    let mut pixels = Vec::new();
    for (i, blue) in [80u8, 160, 240].into_iter().enumerate() {
        data.validation.image(i, &mut pixels).unwrap();
        assert!(pixels[2].abs_diff(blue) <= 2, "{i}: {:?}", &pixels[..3]);
    }
}

#[test]
fn wrong_lines_of_a_label_file_are_named() {
    let check = |labels: &str, expect: &str| {
        let root = flat(labels);
        let message = open(&source(root.path(), 3)).err().unwrap().to_string();
        let start = format!("{}: ", root.path().join("val_labels.txt").display());
        assert!(message.starts_with(&start) && message.contains(expect), "{message}");
    };
    check("b.png cat\nc.JPEG", "line 2: `c.JPEG` is not of the form FILE CLASS");
    check("b.png dog", "line 1: class `dog` is not among the 2 of the training images");
    check("b.png 1", "line 1: class `1` is not");
    check("b.png cat\n\nd.png cat", "holds no jpg, jpeg or png file `d.png`");
    check("../train/cat/a.png cat", "file `../train/cat/a.png`");
    check("b.png cat\nc.JPEG cat\nb.png ant", "line 3: `b.png` was labelled in line 1");
    check("b.png cat\nc.JPEG cat", "no line is for the image `a b.png`");
    // Without the file, the message says what is missing.
    let root = flat("");
    fs::remove_file(root.path().join("val_labels.txt")).unwrap();
    let message = open(&source(root.path(), 3)).err().unwrap().to_string();
    assert!(
        message.contains("val: holds no class folders, and there is no val_labels.txt"),
        "{message}"
    );
}
