//! Files that cannot be decoded: an error, or replaced in training and left out of validation, in a way that depends on
//! the files alone.

use image::{Rgb, RgbImage};
use rand::RngExt;
use slimtau_base::stream;
use slimtau_data::{
    DataError, Dataset, ImageFolder, Loader, LoaderConfig, Normalization, Pipeline, Replaced,
    ResizedCropFlip, Subset, readable,
};
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Two classes of five images each; image i is of the red level 20 i, those in `damaged` are not images.
fn folder(damaged: &[usize]) -> (tempfile::TempDir, Arc<dyn Dataset>) {
    let root = tempfile::tempdir().unwrap();
    for i in 0..10 {
        let class = root.path().join(["a", "b"][i / 5]);
        fs::create_dir_all(&class).unwrap();
        let file = class.join(format!("{i}.png"));
        RgbImage::from_pixel(12, 9, Rgb([20 * i as u8, 0, 0])).save(&file).unwrap();
        if damaged.contains(&i) {
            let bytes = fs::read(&file).unwrap();
            fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
        }
    }
    let folder = ImageFolder::open(root.path(), None, 8, 3).unwrap();
    (root, Arc::new(folder))
}

/// Which image is shown in place of each.
fn shown(dataset: &dyn Dataset) -> Vec<usize> {
    let mut pixels = Vec::new();
    let mut red = |i| {
        dataset.image(i, &mut pixels).unwrap();
        usize::from(pixels[0]) / 20
    };
    (0..dataset.len()).map(&mut red).collect()
}

#[test]
fn the_next_of_the_class_takes_the_place() {
    let (_root, damaged) = folder(&[1, 2, 4, 9]);
    let reports = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&reports);
    let replaced = Replaced::new(Arc::clone(&damaged), move |i, error| {
        log.lock().unwrap().push((i, error.to_string()));
    });
    for _ in 0..2 {
        // 4 is the last of its class: the first follows it. 9 likewise.
        assert_eq!(shown(&replaced), [0, 3, 3, 3, 0, 5, 6, 7, 8, 5]);
    }
    assert!((0..10).all(|i| replaced.label(i) == damaged.label(i)));
    let reports = reports.lock().unwrap();
    assert_eq!(reports.iter().map(|(i, _)| *i).collect::<Vec<_>>(), [1, 2, 4, 9], "each once");
    assert!(reports.iter().all(|(i, message)| message.contains(&format!("{i}.png"))));
    // Of a part, replacements are of the part: what is held out stays out.
    let part = Subset::new(damaged, vec![0, 1, 2, 5], "a part").unwrap();
    assert_eq!(shown(&Replaced::new(Arc::new(part), |_, _| ())), [0, 0, 0, 5]);
}

#[test]
fn batches_do_not_depend_on_who_met_the_file_first() {
    let (_root, damaged) = folder(&[0, 3, 6, 7]);
    let pipeline = Pipeline::ResizedCropFlip(ResizedCropFlip::default());
    let config = LoaderConfig::train(pipeline, Normalization::imagenet(), 4, 3);
    let loader = |workers| {
        let replaced = Arc::new(Replaced::new(Arc::clone(&damaged), |_, _| ()));
        Loader::new(replaced, LoaderConfig { workers, ..config.clone() }).unwrap()
    };
    let expected: Vec<_> = (0..9).rev().map(|step| loader(0).batch(step).unwrap()).collect();
    for workers in [1, 3] {
        let got: Vec<_> = loader(workers).stream(0, 9).map(Result::unwrap).collect();
        assert!(got.iter().eq(expected.iter().rev()), "{workers} workers");
    }
}

#[test]
fn validation_leaves_them_out() {
    let (_root, damaged) = folder(&[0, 3, 9]);
    for threads in [1, 4] {
        let mut reports = Vec::new();
        let kept = readable(Arc::clone(&damaged), threads, |i, _| reports.push(i)).unwrap();
        assert_eq!(reports, [0, 3, 9]);
        assert_eq!(shown(&*kept), [1, 2, 4, 5, 6, 7, 8]);
        assert_eq!((0..7).map(|i| kept.label(i)).collect::<Vec<_>>(), [0, 0, 0, 1, 1, 1, 1]);
        assert!(kept.describe().starts_with("7 images (all but 3 that"), "{}", kept.describe());
    }
    let (_root, whole) = folder(&[]);
    let kept = readable(Arc::clone(&whole), 2, |_, _| panic!("nothing to report")).unwrap();
    assert_eq!(kept.describe(), whole.describe());
}

#[test]
fn nothing_to_go_on_with_is_an_error_and_so_is_a_missing_file() {
    let (root, damaged) = folder(&[5, 6, 7, 8, 9]);
    let mut pixels = Vec::new();
    let replaced = Replaced::new(Arc::clone(&damaged), |_, _| ());
    let error = replaced.image(7, &mut pixels).unwrap_err();
    assert!(error.to_string().contains("7.png"), "its own error: {error}");
    let only = Subset::new(Arc::clone(&damaged), vec![6, 8], "two").unwrap();
    let error = readable(Arc::new(only), 1, |_, _| ()).err().unwrap();
    assert!(error.to_string().contains("6.png"), "{error}");

    fs::remove_file(root.path().join("a/2.png")).unwrap();
    let gone = |error: DataError| {
        matches!(error, DataError::File(_)) && error.to_string().contains("2.png")
    };
    assert!(gone(replaced.image(2, &mut pixels).unwrap_err()));
    assert!(gone(readable(damaged, 2, |_, _| ()).err().unwrap()));
}

/// Whatever is done to a file, it is an image or an error, never a panic, and nothing of an earlier image shows in it.
#[test]
fn damaged_bytes_are_errors_or_images() {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("class")).unwrap();
    let file = root.path().join("class/file.jpg");
    fs::write(&file, b"").unwrap();
    let folder = ImageFolder::open(root.path(), None, 8, 3).unwrap();
    let (mut fresh, mut used) = (Vec::new(), vec![77; 1 << 18]);
    let (mut n_errors, mut n_images) = (0, 0);
    for name in [
        "baseline420.jpg",
        "progressive420.jpg",
        "restarts.jpg",
        "cmyk.jpg",
        "ycck.jpg",
        "grey.jpg",
        "alpha.png",
    ] {
        let whole = fs::read(goldens.join(name)).unwrap();
        for i in 0..40 {
            let mut rng = stream(1, name, i);
            let mut bytes = whole.clone();
            for _ in 0..rng.random_range(1..4u32) {
                let at = rng.random_range(2..bytes.len() as u32) as usize;
                bytes[at] = rng.random();
            }
            fs::write(&file, &bytes).unwrap();
            fresh.clear();
            match (folder.image(0, &mut fresh), folder.image(0, &mut used)) {
                (Ok(size), Ok(again)) => {
                    assert!(size == again && fresh == used, "{name} {i}");
                    assert_eq!(fresh.len(), size.0 * size.1 * 3);
                    n_images += 1;
                }
                (Err(error), Err(_)) => {
                    assert!(matches!(error, DataError::Decode { .. }), "{error}");
                    n_errors += 1;
                }
                (a, b) => panic!("{name} {i}: {a:?}, then {b:?}"),
            }
        }
    }
    assert!(n_errors > 20 && n_images > 20, "{n_errors} errors, {n_images} images");
}
