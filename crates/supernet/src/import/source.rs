//! A file as its format describes it: tensors by its own names, none of them read yet.

use super::error::ImportProblem;
use super::pickle::Pickle;
use super::state_dict;
use super::tensor::{Data, Element, Stored};
use safetensors::tensor::{Dtype, SafeTensors};
use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{Cursor, copy, sink};
use zip::ZipArchive;

/// The format of a file, told by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// NumPy arrays in a pickle, as `paddle.save` writes them.
    Pickle,
    /// PyTorch's zip archive (since 1.6).
    Torch,
    /// safetensors.
    Safetensors,
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Pickle => "a pickle of NumPy arrays",
            Self::Torch => "a PyTorch archive",
            Self::Safetensors => "safetensors",
        })
    }
}

/// How PyTorch's format of before 1.6 begins: a pickle of its magic number.
const OLD_TORCH: [u8; 14] =
    [0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// Longest header of a safetensors file, by its specification. A truncated file is still one.
const MAX_HEADER: u64 = 100_000_000;

impl Format {
    /// Tells a file's format by its contents; its name does not matter.
    ///
    /// # Errors
    /// When it is none that is read.
    pub(super) fn of(bytes: &[u8]) -> Result<Self, ImportProblem> {
        if let Some((length, rest)) = bytes.split_first_chunk::<8>()
            && rest.first() == Some(&b'{')
            && u64::from_le_bytes(*length) <= MAX_HEADER
        {
            return Ok(Self::Safetensors);
        }
        if bytes.starts_with(&OLD_TORCH) {
            return Err(ImportProblem::OldTorch);
        }
        match bytes {
            [b'P', b'K', 3, 4, ..] => Ok(Self::Torch),
            [0x80, ..] => Ok(Self::Pickle),
            _ => Err(ImportProblem::Format { first: bytes[..bytes.len().min(8)].to_vec() }),
        }
    }
}

/// The tensors that a file describes.
#[derive(Default)]
pub(super) struct Source<'a> {
    /// By the file's own names, in its order.
    pub tensors: Vec<(String, Stored<'a>)>,
    /// Key of the dictionary that the tensors were found under, unless at the top.
    pub wrapper: Option<&'static str>,
    /// What the file holds beside the tensors.
    pub ignored: Vec<String>,
    /// Where storages lie.
    pub archive: Option<Archive<'a>>,
}

impl<'a> Source<'a> {
    /// Describes the tensors of a pickle.
    pub fn of_pickle(pickle: &'a Pickle<'a>) -> Result<Self, ImportProblem> {
        let mut source = Self::default();
        state_dict::tensors(pickle, &mut source)?;
        Ok(source)
    }

    /// Describes the tensors of a safetensors file.
    pub fn of_safetensors(bytes: &'a [u8]) -> Result<Self, ImportProblem> {
        let file = SafeTensors::deserialize(bytes)
            .map_err(|e| ImportProblem::Safetensors { problem: e.to_string() })?;
        let mut source = Self::default();
        for (name, view) in file.iter() {
            let element = match view.dtype() {
                Dtype::F16 => Element::F16,
                Dtype::BF16 => Element::Bf16,
                Dtype::F32 => Element::F32,
                Dtype::F64 => Element::F64,
                Dtype::U16 => Element::U16,
                Dtype::I64 => Element::Other("int64"),
                _ => Element::Other("another type"),
            };
            let tensor = Stored::dense(element, view.shape().to_vec(), false, vec![view.data()]);
            source.tensors.push((name.to_owned(), tensor));
        }
        // The format has no order of its own.
        source.tensors.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(source)
    }

    /// A tensor's bytes, which a shape with so many elements is to be read from.
    ///
    /// # Errors
    /// When the archive does not have them whole.
    pub fn bytes(
        &mut self,
        name: &str,
        tensor: &Stored<'a>,
    ) -> Result<Cow<'a, [u8]>, ImportProblem> {
        let bad = |problem: String| ImportProblem::Tensor { name: name.to_owned(), problem };
        match &tensor.data {
            Data::Parts(parts) => match parts[..] {
                [one] => Ok(Cow::Borrowed(one)),
                _ => Ok(Cow::Owned(parts.concat())),
            },
            Data::Entry(key) => match &mut self.archive {
                Some(archive) => archive
                    .storage(key)
                    .map(Cow::Borrowed)
                    .map_err(|problem| bad(format!("cannot be read: {problem}"))),
                None => Err(bad("lies in an archive that this pickle is not part of".into())),
            },
        }
    }
}

/// PyTorch's archive. Its entries are stored as they are, so their bytes are read where they lie in the file.
pub(super) struct Archive<'a> {
    file: &'a [u8],
    zip: ZipArchive<Cursor<&'a [u8]>>,
    /// What the names of all its entries begin with.
    folder: String,
    /// Entries whose checksum was verified, by name: many tensors may be views of one storage.
    verified: HashMap<String, &'a [u8]>,
}

impl<'a> Archive<'a> {
    /// Opens a file, and finds the pickle in it.
    ///
    /// # Errors
    /// When it is damaged or not PyTorch's.
    pub fn open(file: &'a [u8]) -> Result<(Self, &'a [u8]), ImportProblem> {
        let bad = |problem: String| ImportProblem::Archive { problem };
        let zip = ZipArchive::new(Cursor::new(file)).map_err(|e| {
            bad(format!("not a complete archive ({e}); it is damaged or truncated"))
        })?;
        let pickles: Vec<String> = zip
            .file_names()
            .filter_map(Result::ok)
            .filter(|name| *name == "data.pkl" || name.ends_with("/data.pkl"))
            .map(Cow::into_owned)
            .collect();
        let [pickle] = &pickles[..] else {
            return Err(bad(format!(
                "a zip archive with {} entries named `data.pkl`; PyTorch's have one",
                pickles.len()
            )));
        };
        let folder = pickle.trim_end_matches("data.pkl").to_owned();
        let order = format!("{folder}byteorder");
        let mut archive = Self { file, zip, folder, verified: HashMap::new() };
        // Older versions do not say, and wrote what nearly all machines have.
        if archive.zip.index_for_name(&order).is_some()
            && archive.entry(order).map_err(bad)? != b"little"
        {
            return Err(bad("its values are not little-endian".into()));
        }
        let pickle = archive.entry(pickle.clone()).map_err(bad)?;
        Ok((archive, pickle))
    }

    /// The bytes of a storage.
    fn storage(&mut self, key: &str) -> Result<&'a [u8], String> {
        self.entry(format!("{}data/{key}", self.folder))
    }

    /// The bytes of an entry, whose checksum is verified the first time.
    fn entry(&mut self, name: String) -> Result<&'a [u8], String> {
        if let Some(bytes) = self.verified.get(&name) {
            return Ok(bytes);
        }
        let damaged = |e: &dyn std::fmt::Display| format!("entry `{name}` of the archive: {e}");
        let mut entry = self.zip.by_name(&name).map_err(|e| damaged(&e))?;
        let (start, size) = (entry.data_start(), entry.size());
        // The reader compares the checksum when it meets the end.
        let found = copy(&mut entry, &mut sink()).map_err(|e| damaged(&e))?;
        if found != size {
            return Err(format!("entry `{name}` of the archive has {found} bytes of {size}"));
        }
        let begin = start.and_then(|start| usize::try_from(start).ok());
        let bytes =
            begin.and_then(|begin| self.file.get(begin..)?.get(..usize::try_from(size).ok()?));
        let bytes = bytes.ok_or_else(|| damaged(&"lies beyond the file's end"))?;
        drop(entry);
        self.verified.insert(name, bytes);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use zip::write::SimpleFileOptions;
    use zip::{CompressionMethod, ZipWriter};

    /// An archive of entries that are stored as they are, as PyTorch writes them.
    fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, bytes) in entries {
            let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
            zip.start_file(*name, stored).unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap().into_inner()
    }

    #[test]
    fn views_of_one_storage_read_it_where_it_lies_and_verify_it_once() {
        let storage: Vec<u8> = (0..=255).cycle().take(5000).collect();
        let file = archive(&[("net/data.pkl", b"pickle"), ("net/data/0", &storage)]);
        let (archive, pickle) = Archive::open(&file).unwrap();
        assert_eq!(pickle, b"pickle");
        let mut source = Source { archive: Some(archive), ..Source::default() };
        let view = |offset| Stored {
            element: Element::F32,
            shape: vec![10],
            strides: vec![1],
            offset,
            data: Data::Entry("0"),
        };
        for offset in [0, 100, 1000] {
            let Cow::Borrowed(bytes) = source.bytes("w", &view(offset)).unwrap() else {
                panic!("a copy of the storage for a view of it");
            };
            assert_eq!(bytes, storage);
            assert!(file.as_ptr_range().contains(&bytes.as_ptr()), "in the file itself");
        }
        // Pickle and storage: nothing was verified twice.
        assert_eq!(source.archive.unwrap().verified.len(), 2);
    }

    #[test]
    fn a_damaged_storage_is_refused_every_time() {
        let storage = [7; 5000];
        let mut file = archive(&[("net/data.pkl", b"pickle"), ("net/data/0", &storage)]);
        let at = file.windows(100).position(|w| w == &storage[..100]).unwrap();
        file[at + 50] ^= 1;
        let (mut archive, _) = Archive::open(&file).unwrap();
        for _ in 0..2 {
            let problem = archive.storage("0").unwrap_err();
            assert!(problem.contains("entry `net/data/0` of the archive"), "{problem}");
        }
        let problem = archive.storage("1").unwrap_err();
        assert!(problem.contains("entry `net/data/1` of the archive"), "{problem}");
    }
}
