//! IDX files, the format of MNIST and its relatives: a big-endian header (magic number, then one
//! u32 per dimension) followed by u8 values; plain or gzipped.

use crate::{DataError, Dataset};
use flate2::read::GzDecoder;
use slimtau_base::{FileError, read_bytes};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Square grey images and their labels, held in memory.
#[derive(Clone, Debug)]
pub struct IdxDataset {
    name: String,
    /// `[n, side, side]`.
    pixels: Vec<u8>,
    labels: Vec<u8>,
    side: usize,
    n_classes: usize,
}

impl IdxDataset {
    /// Reads an image file (magic 0x00000803) and a label file (magic 0x00000801), each plain or
    /// gzipped, whatever its name ends in. `n_classes` bounds the labels; `None` takes the largest
    /// label plus one. `name` is what [`Dataset::describe`] says.
    ///
    /// # Errors
    /// When a file is missing, a header field is not what it must be, the values are fewer or more
    /// than the header announces, the two counts differ, an image is not square, or a label is out
    /// of range; the message names the file and the value.
    pub fn open(
        name: &str,
        images: &Path,
        labels: &Path,
        n_classes: Option<usize>,
    ) -> Result<Self, DataError> {
        let image_bytes = read_bytes(images)?;
        let label_bytes = read_bytes(labels)?;
        Self::from_bytes(name, (images, &image_bytes), (labels, &label_bytes), n_classes)
    }

    /// As [`IdxDataset::open`], from the (name, contents) of the two files.
    ///
    /// # Errors
    /// As [`IdxDataset::open`].
    pub fn from_bytes(
        name: &str,
        (image_path, image_bytes): (&Path, &[u8]),
        (label_path, label_bytes): (&Path, &[u8]),
        n_classes: Option<usize>,
    ) -> Result<Self, DataError> {
        let ([n_images, height, width], pixels) = parse::<3>(image_path, image_bytes)?;
        let ([n_labels], labels) = parse::<1>(label_path, label_bytes)?;
        let bad_images = |problem| Err(FileError::contents(image_path, problem).into());
        let bad_labels = |problem| Err(FileError::contents(label_path, problem).into());
        if height != width {
            return bad_images(format!("images of {height} x {width} pixels, expected squares"));
        }
        if n_labels != n_images {
            let images = image_path.display();
            return bad_labels(format!("{n_labels} labels for the {n_images} images of {images}"));
        }
        let largest = labels.iter().copied().max().map_or(0, usize::from);
        let n_classes = n_classes.unwrap_or(largest + 1);
        if let Some(i) = labels.iter().position(|&label| usize::from(label) >= n_classes) {
            return bad_labels(format!(
                "label {} of item {i} is out of range, the set has {n_classes} classes",
                labels[i]
            ));
        }
        Ok(Self { name: name.to_owned(), pixels, labels, side: height, n_classes })
    }
}

impl Dataset for IdxDataset {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn classes(&self) -> usize {
        self.n_classes
    }

    fn channels(&self) -> usize {
        1
    }

    fn size(&self) -> usize {
        self.side
    }

    fn label(&self, i: usize) -> u32 {
        self.labels[i].into()
    }

    fn image(&self, i: usize, pixels: &mut Vec<u8>) -> Result<(usize, usize), DataError> {
        let n = self.side * self.side;
        pixels.clear();
        pixels.extend_from_slice(&self.pixels[i * n..(i + 1) * n]);
        Ok((self.side, self.side))
    }

    fn describe(&self) -> String {
        format!(
            "{}: {} images of {side} x {side} x 1, {} classes",
            self.name,
            self.len(),
            self.n_classes,
            side = self.side
        )
    }
}

/// The file `stem` or `stem.gz` in `folder`, the plain one first.
///
/// # Errors
/// When neither exists.
pub(super) fn find(folder: &Path, stem: &str) -> Result<PathBuf, DataError> {
    let plain = folder.join(stem);
    let gzipped = folder.join(format!("{stem}.gz"));
    [plain, gzipped].into_iter().find(|path| path.is_file()).ok_or_else(|| DataError::Folder {
        path: folder.into(),
        problem: format!(
            "holds neither {stem} nor {stem}.gz (and image folders hold train/ and val/)"
        ),
    })
}

/// The shape and values of an IDX file of u8 in `D` dimensions.
fn parse<const D: usize>(path: &Path, bytes: &[u8]) -> Result<([usize; D], Vec<u8>), FileError> {
    let bad = |problem: String| FileError::contents(path, problem);
    let unreadable = |e: std::io::Error| bad(format!("damaged gzip stream: {e}"));
    // By content, not by name: a plain IDX file starts with two zero bytes.
    let mut reader: Box<dyn Read> = if bytes.starts_with(&[0x1f, 0x8b]) {
        Box::new(GzDecoder::new(bytes))
    } else {
        Box::new(bytes)
    };
    let n_header = 4 * (1 + D);
    let mut header = Vec::new();
    reader.by_ref().take(n_header as u64).read_to_end(&mut header).map_err(unreadable)?;
    if header.len() < n_header {
        return Err(bad(format!(
            "{} bytes, shorter than its {n_header}-byte header",
            header.len()
        )));
    }
    let mut fields = header.chunks_exact(4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
    let magic = fields.next().expect("the header holds 1 + D fields");
    let expected_magic = 0x0800 + D as u32;
    if magic != expected_magic {
        return Err(bad(format!("magic number {magic:#010x}, expected {expected_magic:#010x}")));
    }
    let mut shape = [0usize; D];
    let mut n_values = 1u64;
    for (axis, (dimension, field)) in shape.iter_mut().zip(fields).enumerate() {
        if field == 0 {
            return Err(bad(format!("dimension {axis} is 0")));
        }
        *dimension = field as usize;
        // Three u32 factors may exceed u64; no real file comes near.
        n_values = n_values.saturating_mul(field.into());
    }
    // `take` and no allocation up front: a damaged header must not ask for gigabytes.
    let mut values = Vec::new();
    reader.by_ref().take(n_values).read_to_end(&mut values).map_err(unreadable)?;
    if (values.len() as u64) < n_values {
        let n = values.len();
        return Err(bad(format!(
            "truncated: {n} bytes of values, its header announces {n_values}"
        )));
    }
    // Reading on to the end also lets the decoder verify the gzip checksum.
    let excess = std::io::copy(&mut reader, &mut std::io::sink()).map_err(unreadable)?;
    if excess > 0 {
        return Err(bad(format!("{excess} bytes more than the {n_values} its header announces")));
    }
    Ok((shape, values))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write;

    fn idx(magic: u32, shape: &[u32], values: &[u8]) -> Vec<u8> {
        let header = std::iter::once(&magic).chain(shape).flat_map(|v| v.to_be_bytes());
        header.chain(values.iter().copied()).collect()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut out = GzEncoder::new(Vec::new(), Compression::best());
        out.write_all(bytes).unwrap();
        out.finish().unwrap()
    }

    fn good_images() -> Vec<u8> {
        idx(0x803, &[3, 2, 2], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])
    }

    fn good_labels() -> Vec<u8> {
        idx(0x801, &[3], &[1, 0, 2])
    }

    fn read(images: &[u8], labels: &[u8], classes: Option<usize>) -> Result<IdxDataset, DataError> {
        let (i, l) = (Path::new("dir/images"), Path::new("dir/labels"));
        IdxDataset::from_bytes("set", (i, images), (l, labels), classes)
    }

    #[track_caller]
    fn check_error(images: &[u8], labels: &[u8], expect: &str) {
        let message = read(images, labels, Some(3)).unwrap_err().to_string();
        assert!(message.starts_with(expect), "got      `{message}`\nexpected `{expect}`");
    }

    #[test]
    fn plain_and_gzipped_files_read_alike() {
        for (images, labels) in [
            (good_images(), good_labels()),
            (gzip(&good_images()), good_labels()),
            (gzip(&good_images()), gzip(&good_labels())),
        ] {
            let set = read(&images, &labels, None).unwrap();
            assert_eq!((set.len(), set.classes(), set.channels(), set.size()), (3, 3, 1, 2));
            assert_eq!([set.label(0), set.label(1), set.label(2)], [1, 0, 2]);
            let mut pixels = vec![99; 100];
            assert_eq!(set.image(1, &mut pixels).unwrap(), (2, 2));
            assert_eq!(pixels, [4, 5, 6, 7]);
            assert_eq!(set.describe(), "set: 3 images of 2 x 2 x 1, 3 classes");
        }
    }

    #[test]
    fn each_wrong_field_is_named() {
        let (images, labels) = (good_images(), good_labels());
        check_error(&[], &labels, "dir/images: 0 bytes, shorter than its 16-byte header");
        check_error(&images[..9], &labels, "dir/images: 9 bytes, shorter than its 16-byte header");
        check_error(
            &labels,
            &labels,
            "dir/images: 11 bytes, shorter than its 16-byte header", // labels given for images
        );
        check_error(&images, &images, "dir/labels: magic number 0x00000803, expected 0x00000801");
        check_error(
            &idx(0xd03, &[3, 2, 2], &[0; 48]), // f32 values
            &labels,
            "dir/images: magic number 0x00000d03, expected 0x00000803",
        );
        check_error(&idx(0x803, &[0, 2, 2], &[]), &labels, "dir/images: dimension 0 is 0");
        check_error(
            &images[..27],
            &labels,
            "dir/images: truncated: 11 bytes of values, its header announces 12",
        );
        check_error(
            &idx(0x803, &[u32::MAX; 3], &[7; 5]),
            &labels,
            "dir/images: truncated: 5 bytes of values, its header announces 18446744073709551615",
        );
        check_error(
            &[images.clone(), vec![0, 0]].concat(),
            &labels,
            "dir/images: 2 bytes more than the 12 its header announces",
        );
        check_error(
            &idx(0x803, &[3, 1, 2], &[0; 6]),
            &labels,
            "dir/images: images of 1 x 2 pixels, expected squares",
        );
        check_error(
            &images,
            &idx(0x801, &[2], &[0, 1]),
            "dir/labels: 2 labels for the 3 images of dir/images",
        );
        check_error(
            &images,
            &idx(0x801, &[3], &[0, 1, 3]),
            "dir/labels: label 3 of item 2 is out of range, the set has 3 classes",
        );
    }

    #[test]
    fn damaged_gzip_streams_are_found() {
        let packed = gzip(&good_images());
        check_error(&packed[..packed.len() - 9], &good_labels(), "dir/images: damaged gzip stream");
        let mut flipped = packed.clone();
        let checksum = flipped.len() - 8;
        flipped[checksum] ^= 1;
        check_error(&flipped, &good_labels(), "dir/images: damaged gzip stream");
    }

    #[test]
    fn a_missing_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = find(folder.path(), "train-images-idx3-ubyte").unwrap_err().to_string();
        assert!(
            error.ends_with("holds neither train-images-idx3-ubyte nor train-images-idx3-ubyte.gz (and image folders hold train/ and val/)")
        );
        let error = IdxDataset::open("x", &folder.path().join("no"), Path::new("l"), None);
        assert!(error.unwrap_err().to_string().contains("no"));
    }
}
