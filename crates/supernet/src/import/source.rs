//! A file as its format describes it: tensors by its own names, none of them read yet.

use super::error::ImportProblem;
use super::pickle::Pickle;
use super::state_dict;
use super::tensor::{Data, Element, Stored};
use safetensors::tensor::{Dtype, SafeTensors};
use std::borrow::Cow;
use std::io::{Cursor, Read};
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

type Archive<'a> = ZipArchive<Cursor<&'a [u8]>>;

/// The tensors that a file describes.
#[derive(Default)]
pub(super) struct Source<'a> {
    /// By the file's own names, in its order.
    pub tensors: Vec<(String, Stored<'a>)>,
    /// Key of the dictionary that the tensors were found under, unless at the top.
    pub wrapper: Option<&'static str>,
    /// What the file holds beside the tensors.
    pub ignored: Vec<String>,
    /// Where storages lie, with the folder that they lie in.
    pub archive: Option<(Archive<'a>, String)>,
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
                Some((archive, folder)) => {
                    let bytes = entry(archive, &format!("{folder}data/{key}"));
                    bytes
                        .map(Cow::Owned)
                        .map_err(|problem| bad(format!("cannot be read: {problem}")))
                }
                None => Err(bad("lies in an archive that this pickle is not part of".into())),
            },
        }
    }
}

/// Opens PyTorch's archive: it, the folder that everything in it lies in, and the pickle's bytes.
///
/// # Errors
/// When it is damaged or not PyTorch's.
pub(super) fn open_archive(bytes: &[u8]) -> Result<(Archive<'_>, String, Vec<u8>), ImportProblem> {
    let bad = |problem: String| ImportProblem::Archive { problem };
    let mut archive = ZipArchive::new(Cursor::new(bytes))
        .map_err(|e| bad(format!("not a complete archive ({e}); it is damaged or truncated")))?;
    let pickles: Vec<String> = archive
        .file_names()
        .filter_map(Result::ok)
        .filter(|name| name == "data.pkl" || name.ends_with("/data.pkl"))
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
    // Older versions do not say, and wrote what nearly all machines have.
    if archive.index_for_name(&order).is_some()
        && entry(&mut archive, &order).map_err(bad)? != b"little"
    {
        return Err(bad("its values are not little-endian".into()));
    }
    let pickle = entry(&mut archive, pickle).map_err(bad)?;
    Ok((archive, folder, pickle))
}

/// The bytes of an entry, whose checksum is verified. Entries are stored as they are, so none is longer than
/// the file.
fn entry(archive: &mut Archive<'_>, name: &str) -> Result<Vec<u8>, String> {
    let damaged = |e: &dyn std::fmt::Display| format!("entry `{name}` of the archive: {e}");
    let file = archive.by_name(name).map_err(|e| damaged(&e))?;
    let size = file.size();
    let mut bytes = Vec::new();
    // One more than there should be: the checksum is compared by the read that meets the end.
    file.take(size.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| damaged(&e))?;
    if bytes.len() as u64 != size {
        return Err(format!("entry `{name}` of the archive has {} bytes of {size}", bytes.len()));
    }
    Ok(bytes)
}
