//! An image folder in one file: the encoded images as they are, one after the other, for file systems on which a million
//! small files are slow.
//!
//! Layout: [`MAGIC`]; the images; the index, JSON; its length (u64, little-endian); its BLAKE3 hash (32 bytes). The index
//! stands at the end, so that one pass over the images makes the file, and a truncated file is noticed.

use super::decode::decode;
use super::{ImageFolder, folder::check_format};
use crate::{DataError, Dataset};
use memmap2::Mmap;
use serde::{Deserialize, Serialize};
use slimtau_base::{FileError, read_bytes, write_atomic};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How a packed file begins.
pub const MAGIC: &[u8; 16] = b"slimtau packed 1";

/// Bytes after the index: its length and hash.
const TAIL: usize = 8 + 32;

/// What a packed file holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Index {
    class_names: Vec<String>,
    train: Vec<Entry>,
    validation: Vec<Entry>,
}

/// Where an image lies.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// Its file's path in its part of the folder, for messages.
    name: Box<str>,
    label: u32,
    /// From the file's beginning, bytes.
    offset: u64,
    len: u64,
    /// Of its bytes, checked whenever it is read.
    crc32: u32,
}

/// Writes both parts of an image folder into one file, atomically. `progress` is told of each image that is done. The
/// images keep their order, so that batches are those of the folder, bit for bit. Files that cannot be decoded are
/// packed like the others.
///
/// # Errors
/// When a file cannot be read or the packed one not written; an old one then still stands.
pub fn pack(
    train: &ImageFolder,
    validation: &ImageFolder,
    output: &Path,
    mut progress: impl FnMut(),
) -> Result<(), DataError> {
    let class_names = train.class_names().to_vec();
    let mut unreadable = None;
    let written = write_atomic(output, |out| {
        out.write_all(MAGIC)?;
        let mut offset = MAGIC.len() as u64;
        let mut part = |folder: &ImageFolder| -> std::io::Result<Vec<Entry>> {
            let entry = |i: usize| {
                let bytes = read_bytes(&folder.path(i)).map_err(|error| {
                    unreadable = Some(error);
                    std::io::Error::other("an image cannot be read")
                })?;
                out.write_all(&bytes)?;
                let entry = Entry {
                    name: folder.name(i).into(),
                    label: folder.label(i),
                    offset,
                    len: bytes.len() as u64,
                    crc32: crc32(&bytes),
                };
                offset += entry.len;
                progress();
                Ok(entry)
            };
            (0..folder.len()).map(entry).collect()
        };
        let (train, validation) = (part(train)?, part(validation)?);
        let index = Index { class_names, train, validation };
        let json = serde_json::to_vec(&index)?;
        out.write_all(&json)?;
        out.write_all(&(json.len() as u64).to_le_bytes())?;
        out.write_all(blake3::hash(&json).as_bytes())
    });
    match unreadable {
        Some(error) => Err(error.into()),
        None => Ok(written?),
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// One part of a packed file, mapped into memory.
#[derive(Clone)]
pub struct PackedImages {
    path: Arc<Path>,
    map: Arc<Mmap>,
    class_names: Arc<[String]>,
    entries: Arc<[Entry]>,
    /// Of the index: it decides labels and pixels.
    hash: Arc<str>,
    size: usize,
    channels: usize,
}

impl PackedImages {
    /// Both parts of a packed file. A pipeline makes squares of side `size` of its images; `channels` is 1 (grey) or 3 (RGB).
    ///
    /// # Errors
    /// When the file cannot be read, is none of ours, damaged or truncated.
    pub fn open(path: &Path, size: usize, channels: usize) -> Result<[Self; 2], DataError> {
        check_format(size, channels)?;
        let unreadable = |source| FileError::Read { path: path.into(), source };
        let bad = |problem: String| FileError::contents(path, problem);
        let file = File::open(path).map_err(unreadable)?;
        // SAFETY: the map is read as plain bytes, of which every value is valid. Whoever changes the file while it is mapped
        // breaks the promise that shared bytes do not change; we never do (packing replaces the file by another), and
        // each image is compared with its checksum before it is used.
        let map = unsafe { Mmap::map(&file) }.map_err(unreadable)?;
        let map = Arc::new(map);
        if !map.starts_with(MAGIC) {
            return Err(bad("is no packed dataset; `slimtau data pack` makes one".into()).into());
        }
        // Whatever is wrong with the end of a file, it is most likely missing.
        let truncated = || bad("its index is missing; the file is truncated or damaged".into());
        let (rest, tail) = map.split_last_chunk::<TAIL>().ok_or_else(truncated)?;
        let (len, hash) = tail.split_at(8);
        let len = u64::from_le_bytes(len.try_into().expect("eight bytes"));
        let begin = usize::try_from(len).ok().and_then(|len| rest.len().checked_sub(len));
        let begin = begin.filter(|begin| *begin >= MAGIC.len()).ok_or_else(truncated)?;
        let json = &rest[begin..];
        if blake3::hash(json).as_bytes() != hash {
            return Err(truncated().into());
        }
        let index: Index = serde_json::from_slice(json)
            .map_err(|e| bad(format!("its index cannot be read: {e}")))?;
        let classes = index.class_names.len();
        let mut end = MAGIC.len() as u64;
        for entry in index.train.iter().chain(&index.validation) {
            if entry.label as usize >= classes || entry.offset != end {
                return Err(bad(format!("its index is wrong at `{}`", entry.name)).into());
            }
            end = end.saturating_add(entry.len);
        }
        if end != begin as u64 {
            return Err(
                bad(format!("its images end at byte {begin}, by its index at {end}")).into()
            );
        }
        for (part, entries) in [("training", &index.train), ("validation", &index.validation)] {
            if entries.is_empty() || u32::try_from(entries.len()).is_err() {
                return Err(bad(format!("holds {} {part} images", entries.len())).into());
            }
        }
        let path: Arc<Path> = path.into();
        let class_names: Arc<[String]> = index.class_names.into();
        let hash: Arc<str> = blake3::hash(json).to_hex()[..16].into();
        let part = |entries: Vec<Entry>| Self {
            path: Arc::clone(&path),
            map: Arc::clone(&map),
            class_names: Arc::clone(&class_names),
            entries: entries.into(),
            hash: Arc::clone(&hash),
            size,
            channels,
        };
        Ok([part(index.train), part(index.validation)])
    }

    /// The classes, by label.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }
}

impl Dataset for PackedImages {
    fn len(&self) -> usize {
        self.entries.len()
    }

    fn classes(&self) -> usize {
        self.class_names.len()
    }

    fn channels(&self) -> usize {
        self.channels
    }

    fn size(&self) -> usize {
        self.size
    }

    fn label(&self, i: usize) -> u32 {
        self.entries[i].label
    }

    fn image(&self, i: usize, pixels: &mut Vec<u8>) -> Result<(usize, usize), DataError> {
        let Entry { name, offset, len, crc32: expected, .. } = &self.entries[i];
        // Within the file, as was checked when it was opened.
        let begin = *offset as usize;
        let bytes = &self.map[begin..begin + *len as usize];
        if crc32(bytes) != *expected {
            let problem = format!("image `{name}` is damaged (checksum)");
            return Err(FileError::contents(&*self.path, problem).into());
        }
        let path = || PathBuf::from(format!("{}: {name}", self.path.display()));
        decode(bytes, self.channels, pixels)
            .map_err(|source| DataError::Decode { path: path(), source })
    }

    fn decodes(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        format!(
            "packed images {} ({}): {} images for {size} x {size} x {}, decoded as by Pillow, {} classes",
            self.path.display(),
            self.hash,
            self.len(),
            self.channels,
            self.classes(),
            size = self.size,
        )
    }
}
