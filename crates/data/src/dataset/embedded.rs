//! The subset of Fashion-MNIST inside the program: 1,200 training and 400 validation images of
//! each class, cut by `scripts/cut_fashion_mnist.py`. MIT licence, (c) 2017 Zalando SE; its text is
//! beside the files.

use super::IdxDataset;
use crate::DataError;
use std::path::Path;

macro_rules! asset {
    ($name:literal) => {
        ($name, include_bytes!(concat!("../../assets/", $name)).as_slice())
    };
}

pub(super) const TRAIN: [(&str, &[u8]); 2] =
    [asset!("train-images-idx3-ubyte.gz"), asset!("train-labels-idx1-ubyte.gz")];
pub(super) const VALIDATION: [(&str, &[u8]); 2] =
    [asset!("t10k-images-idx3-ubyte.gz"), asset!("t10k-labels-idx1-ubyte.gz")];

/// Unpacks one part.
pub(super) fn read(name: &str, files: [(&str, &[u8]); 2]) -> Result<IdxDataset, DataError> {
    let [(images, image_bytes), (labels, label_bytes)] = files;
    let images = Path::new("embedded").join(images);
    let labels = Path::new("embedded").join(labels);
    IdxDataset::from_bytes(name, (&images, image_bytes), (&labels, label_bytes), Some(10))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dataset;

    #[track_caller]
    fn check(files: [(&str, &[u8]); 2], per_class: usize, hashes: [&str; 2]) {
        for ((name, bytes), hash) in files.iter().zip(hashes) {
            assert_eq!(&blake3::hash(bytes).to_hex()[..32], hash, "{name}");
        }
        let set = read("test", files).unwrap();
        let mut counts = [0; 10];
        (0..set.len()).for_each(|i| counts[set.label(i) as usize] += 1);
        assert_eq!(counts, [per_class; 10]);
        assert_eq!(set.size(), 28);
    }

    #[test]
    fn files_are_the_ones_the_script_cuts() {
        check(TRAIN, 1200, ["TRAIN_IMAGES", "TRAIN_LABELS"]);
        check(VALIDATION, 400, ["T10K_IMAGES", "T10K_LABELS"]);
        let total: usize = TRAIN.iter().chain(&VALIDATION).map(|(_, bytes)| bytes.len()).sum();
        assert!(total < 7_500_000, "{total} bytes");
    }
}
