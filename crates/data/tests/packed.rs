//! Packed datasets: the folder's batches, bit for bit, and no damage goes unnoticed.

use image::{GrayImage, Luma, Rgb, RgbImage};
use slimtau_data::{
    DataError, Dataset, Loader, LoaderConfig, Normalization, Pipeline, ResizedCropFlip, Source,
    image_folder, open, pack,
};
use std::fs;
use std::path::Path;
use std::sync::Arc;

/// Two classes of JPEG and PNG files of several shapes, one of them no image.
fn make(root: &Path) {
    for class in ["train/cat", "train/ant", "val"] {
        fs::create_dir_all(root.join(class)).unwrap();
    }
    let pixel = |x: u32, y: u32| Rgb([(7 * x) as u8, (5 * y) as u8, (x * y) as u8]);
    for (name, w, h) in [("train/cat/b.JPEG", 40, 20), ("train/ant/q.jpg", 12, 31)] {
        RgbImage::from_fn(w, h, pixel).save(root.join(name)).unwrap();
    }
    RgbImage::from_fn(7, 9, pixel).save(root.join("train/cat/a.png")).unwrap();
    GrayImage::from_pixel(16, 16, Luma([51])).save(root.join("train/ant/z.png")).unwrap();
    RgbImage::from_fn(25, 18, pixel).save(root.join("val/v.jpg")).unwrap();
    fs::write(root.join("val/broken.jpg"), "no image").unwrap();
    fs::write(root.join("val_labels.txt"), "v.jpg cat\nbroken.jpg ant\n").unwrap();
}

fn packed(root: &Path) -> Source {
    let file = root.join("images.pack");
    let [train, validation] = image_folder(root, 8, 3).unwrap();
    let mut done = 0;
    pack(&train, &validation, &file, || done += 1).unwrap();
    assert_eq!(done, 6);
    Source::Packed { file, size: 8, channels: 3 }
}

#[test]
fn batches_are_the_folders_bit_for_bit() {
    let root = tempfile::tempdir().unwrap();
    make(root.path());
    let packed = open(&packed(root.path())).unwrap();
    let folder =
        open(&Source::ImageFolder { folder: root.path().into(), size: 8, channels: 3 }).unwrap();
    let pipeline = Pipeline::ResizedCropFlip(ResizedCropFlip::default());
    let config = LoaderConfig::train(pipeline, Normalization::imagenet(), 3, 5);
    let batches = |set: &Arc<dyn Dataset>| {
        let loader = Loader::new(Arc::clone(set), config.clone()).unwrap();
        loader.stream(0, 10).map(Result::unwrap).collect::<Vec<_>>()
    };
    assert_eq!(batches(&packed.train), batches(&folder.train));
    let (a, b) = (&packed.validation, &folder.validation);
    assert_eq!((a.len(), a.classes()), (b.len(), b.classes()));
    for i in 0..a.len() {
        assert_eq!(a.label(i), b.label(i));
        let image = |set: &Arc<dyn Dataset>| {
            let mut pixels = Vec::new();
            let size = set.image(i, &mut pixels);
            size.map(|size| (size, pixels))
        };
        match (image(a), image(b)) {
            (Ok(a), Ok(b)) => assert_eq!(a, b),
            // Of the same kind, so that `data.corrupt` treats both alike.
            (Err(a @ DataError::Decode { .. }), Err(DataError::Decode { .. })) => {
                let said = a.to_string();
                assert!(said.contains("images.pack") && said.contains("broken.jpg"), "{said}");
            }
            other => panic!("{other:?}"),
        }
    }
    // Other labels are other data.
    let before = packed.validation.describe();
    fs::write(root.path().join("val_labels.txt"), "v.jpg ant\nbroken.jpg ant\n").unwrap();
    let again = open(&self::packed(root.path())).unwrap();
    assert_ne!(again.validation.describe(), before);
}

#[test]
fn no_damage_goes_unnoticed() {
    let root = tempfile::tempdir().unwrap();
    make(root.path());
    let source = packed(root.path());
    let file = root.path().join("images.pack");
    let whole = fs::read(&file).unwrap();
    for cut in [0, 1, 15, 16, 17, 60, whole.len() / 2, whole.len() - 41, whole.len() - 1] {
        fs::write(&file, &whole[..cut]).unwrap();
        let error = open(&source).err().unwrap_or_else(|| panic!("{cut} bytes are enough"));
        assert!(error.to_string().contains("images.pack"), "{error}");
    }
    let mut errors = 0;
    for place in (0..whole.len()).step_by(7) {
        let mut bytes = whole.clone();
        bytes[place] ^= 0x20;
        fs::write(&file, &bytes).unwrap();
        let found = open(&source).and_then(|data| {
            for set in [data.train, data.validation] {
                for i in 0..set.len() {
                    match set.image(i, &mut Vec::new()) {
                        Err(DataError::Decode { .. }) => {} // what was no image before
                        result => drop(result?),
                    }
                }
            }
            Ok(())
        });
        let error = found.err().unwrap_or_else(|| panic!("byte {place} may be anything"));
        assert!(error.to_string().contains("images.pack"), "{error}");
        errors += 1;
    }
    assert!(errors > 100, "{errors}");
}
