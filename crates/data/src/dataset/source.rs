//! Where data comes from: the choice a caller makes, and its opening.

use super::{IdxDataset, ImageFolder, PackedImages, VALIDATION_LABELS, embedded, idx::find};
use crate::{DataError, Dataset};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

/// Where Debian's package `dataset-fashion-mnist` puts the whole set.
pub const FASHION_MNIST_FOLDER: &str = "/usr/share/datasets/fashion-mnist";

/// A source of training and validation images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The whole Fashion-MNIST if [`FASHION_MNIST_FOLDER`] exists, otherwise the embedded subset.
    /// Results then depend on the machine, so log [`Dataset::describe`], which says which it was.
    Auto,
    /// The embedded subset of Fashion-MNIST: 12,000 training and 4,000 validation images.
    Embedded,
    /// A folder with the whole of Fashion-MNIST (60,000 and 10,000 images).
    FashionMnist(PathBuf),
    /// A folder with four IDX files named as MNIST's are: `train-images-idx3-ubyte`,
    /// `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte`, `t10k-labels-idx1-ubyte`, each plain
    /// or with `.gz`.
    IdxFolder(PathBuf),
    /// A folder of image files, `train/<class>/*` and `val/<class>/*`, or `val/*` with their classes in the
    /// file [`VALIDATION_LABELS`] beside the two (see [`ImageFolder`]).
    ImageFolder {
        /// The folder that holds `train` and `val`.
        folder: PathBuf,
        /// Side of the square that pipelines make of an image.
        size: usize,
        /// 1 (grey) or 3 (RGB); files of the other kind are converted.
        channels: usize,
    },
    /// A file that [`crate::pack`] made of such a folder.
    Packed {
        /// The file.
        file: PathBuf,
        /// Side of the square that pipelines make of an image.
        size: usize,
        /// 1 (grey) or 3 (RGB).
        channels: usize,
    },
}

/// The two parts of a source. Stand-alone accuracies on `validation` are ground truth: tune on
/// images held out of `train` instead (see [`crate::hold_out`]).
#[derive(Clone)]
pub struct Data {
    /// The images to train on.
    pub train: Arc<dyn Dataset>,
    /// The images to evaluate on.
    pub validation: Arc<dyn Dataset>,
}

/// `auto`, `embedded`, `fashion-mnist` (in [`FASHION_MNIST_FOLDER`]), `fashion-mnist:FOLDER`,
/// `idx:FOLDER`, `images:FOLDER` or `packed:FILE` (RGB, 224 x 224; change the fields for another format).
impl FromStr for Source {
    type Err = DataError;

    fn from_str(text: &str) -> Result<Self, DataError> {
        let (kind, folder) = match text.split_once(':') {
            Some((kind, folder)) => (kind, Some(folder)),
            None => (text, None),
        };
        match (kind, folder) {
            ("auto", None) => Ok(Self::Auto),
            ("embedded", None) => Ok(Self::Embedded),
            ("fashion-mnist", None) => Ok(Self::FashionMnist(FASHION_MNIST_FOLDER.into())),
            (_, Some("")) => Err(DataError::UnknownSource { text: text.into() }),
            ("fashion-mnist", Some(folder)) => Ok(Self::FashionMnist(folder.into())),
            ("idx", Some(folder)) => Ok(Self::IdxFolder(folder.into())),
            ("images", Some(folder)) => {
                Ok(Self::ImageFolder { folder: folder.into(), size: 224, channels: 3 })
            }
            ("packed", Some(file)) => {
                Ok(Self::Packed { file: file.into(), size: 224, channels: 3 })
            }
            _ => Err(DataError::UnknownSource { text: text.into() }),
        }
    }
}

/// Opens both parts of a source.
///
/// # Errors
/// When a file is missing or wrong; the message names it. [`Source::Auto`] does not fall back
/// from a damaged installed set to the embedded one.
pub fn open(source: &Source) -> Result<Data, DataError> {
    match source {
        Source::Auto if Path::new(FASHION_MNIST_FOLDER).is_dir() => {
            open(&Source::FashionMnist(FASHION_MNIST_FOLDER.into()))
        }
        Source::Auto | Source::Embedded => {
            let part = |part, files| {
                let set = embedded::read(&format!("Fashion-MNIST, embedded {part} subset"), files);
                Ok::<_, DataError>(Arc::new(set?))
            };
            Ok(Data {
                train: part("training", embedded::TRAIN)?,
                validation: part("validation", embedded::VALIDATION)?,
            })
        }
        Source::FashionMnist(folder) => {
            let train = idx_part(folder, "train", "Fashion-MNIST training set", Some(10))?;
            let validation = idx_part(folder, "t10k", "Fashion-MNIST test set", Some(10))?;
            for (prefix, set, expected) in
                [("train", &train, 60_000), ("t10k", &validation, 10_000)]
            {
                if (set.len(), set.size()) != (expected, 28) {
                    let (n, side) = (set.len(), set.size());
                    return Err(DataError::Folder {
                        path: folder.clone(),
                        problem: format!(
                            "{n} {prefix} images of {side} x {side} pixels, Fashion-MNIST has \
                             {expected} of 28 x 28 (use `idx:FOLDER` for another set)"
                        ),
                    });
                }
            }
            Ok(Data { train: Arc::new(train), validation: Arc::new(validation) })
        }
        Source::IdxFolder(folder) => {
            let train = idx_part(folder, "train", "IDX training set", None)?;
            let validation = idx_part(folder, "t10k", "IDX test set", Some(train.classes()))?;
            if train.size() != validation.size() {
                return Err(DataError::Folder {
                    path: folder.clone(),
                    problem: format!(
                        "training images have side {}, test images {}",
                        train.size(),
                        validation.size()
                    ),
                });
            }
            Ok(Data { train: Arc::new(train), validation: Arc::new(validation) })
        }
        Source::ImageFolder { folder, size, channels } => {
            let [train, validation] = image_folder(folder, *size, *channels)?;
            Ok(Data { train: Arc::new(train), validation: Arc::new(validation) })
        }
        Source::Packed { file, size, channels } => {
            let [train, validation] = PackedImages::open(file, *size, *channels)?;
            Ok(Data { train: Arc::new(train), validation: Arc::new(validation) })
        }
    }
}

/// The training and validation part of a folder that holds `train` and `val` (see [`Source::ImageFolder`]).
///
/// # Errors
/// When a folder cannot be read or does not hold what it should.
pub fn image_folder(
    folder: &Path,
    size: usize,
    channels: usize,
) -> Result<[ImageFolder; 2], DataError> {
    let train = ImageFolder::open(&folder.join("train"), None, size, channels)?;
    let validation = folder.join("val");
    let labels = folder.join(VALIDATION_LABELS);
    let classes = train.class_names();
    let validation = if labels.is_file() {
        ImageFolder::open_labelled(&validation, &labels, classes, size, channels)?
    } else {
        ImageFolder::open(&validation, Some(classes), size, channels)?
    };
    Ok([train, validation])
}

fn idx_part(
    folder: &Path,
    prefix: &str,
    what: &str,
    n_classes: Option<usize>,
) -> Result<IdxDataset, DataError> {
    let images = find(folder, &format!("{prefix}-images-idx3-ubyte"))?;
    let labels = find(folder, &format!("{prefix}-labels-idx1-ubyte"))?;
    IdxDataset::open(&format!("{what} in {}", folder.display()), &images, &labels, n_classes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: Option<Source>) {
        match (text.parse::<Source>(), expect) {
            (Ok(got), Some(expect)) => assert_eq!(got, expect),
            (Err(e), None) => assert!(e.to_string().contains(&format!("`{text}`")), "{e}"),
            (got, expect) => panic!("`{text}`: got {got:?}, expected {expect:?}"),
        }
    }

    #[test]
    fn texts_name_sources() {
        check("auto", Some(Source::Auto));
        check("embedded", Some(Source::Embedded));
        check("fashion-mnist", Some(Source::FashionMnist(FASHION_MNIST_FOLDER.into())));
        check("fashion-mnist:a/b", Some(Source::FashionMnist("a/b".into())));
        check("idx:C:/d", Some(Source::IdxFolder("C:/d".into())));
        let images = Source::ImageFolder { folder: "i".into(), size: 224, channels: 3 };
        check("images:i", Some(images));
        let packed = Source::Packed { file: "p".into(), size: 224, channels: 3 };
        check("packed:p", Some(packed));
        for bad in ["", "idx", "idx:", "images:", "embedded:x", "mnist", "Auto"] {
            check(bad, None);
        }
    }

    #[test]
    fn auto_says_what_it_took() {
        let data = open(&Source::Auto).unwrap();
        let installed = Path::new(FASHION_MNIST_FOLDER).is_dir();
        let expected = if installed {
            "Fashion-MNIST training set in /usr/share/datasets/fashion-mnist: 60000 images"
        } else {
            "Fashion-MNIST, embedded training subset: 12000 images"
        };
        assert!(data.train.describe().starts_with(expected), "{}", data.train.describe());
    }

    #[test]
    fn another_set_does_not_pass_for_fashion_mnist() {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in embedded::TRAIN.iter().chain(&embedded::VALIDATION) {
            std::fs::write(folder.path().join(name), bytes).unwrap();
        }
        let path = folder.path().to_path_buf();
        assert_eq!(open(&Source::IdxFolder(path.clone())).unwrap().validation.len(), 4000);
        let error = open(&Source::FashionMnist(path)).err().unwrap().to_string();
        assert!(error.contains("12000 train images") && error.contains("60000"), "{error}");
    }
}
