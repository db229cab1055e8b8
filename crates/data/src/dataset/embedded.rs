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

    #[test]
    fn files_are_the_ones_the_script_cuts() {
        let files = TRAIN.iter().chain(&VALIDATION);
        let hashes = files.clone().map(|(_, bytes)| blake3::hash(bytes).to_hex()[..32].to_owned());
        assert_eq!(hashes.collect::<Vec<_>>(), HASHES);
        let total: usize = files.map(|(_, bytes)| bytes.len()).sum();
        assert!(total < 7_500_000, "{total} bytes");
    }
    const HASHES: [&str; 4] = [
        "2f13b73886edd05821b1f882f3a45da8",
        "88a99a920d4135db04d4b0d2e9590979",
        "fd2cdad67b11132c29ec14971baf0d97",
        "5a242bb1b1d07800a3ee0c62fd7a013d",
    ];

    #[track_caller]
    fn check(files: [(&str, &[u8]); 2], per_class: usize) {
        let set = read("test", files).unwrap();
        let mut counts = [0; 10];
        (0..set.len()).for_each(|i| counts[set.label(i) as usize] += 1);
        assert_eq!(counts, [per_class; 10]);
        assert_eq!(set.size(), 28);
    }

    #[test]
    fn classes_are_balanced() {
        check(TRAIN, 1200);
        check(VALIDATION, 400);
    }
}
