//! safetensors files of f32 tensors with a checksum and free-form metadata.
//!
//! Everything of ours sits under one metadata key, `slimtau`, as JSON with sorted keys: the format
//! stores metadata in hash order, and one key has only one order, so equal contents give equal bytes.

use crate::{FileError, read_bytes, write_atomic};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// A dense f32 tensor in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// Its dimensions; their product is `data.len()`.
    pub shape: Vec<usize>,
    /// Its values, last dimension fastest.
    pub data: Vec<f32>,
}

/// The contents of a tensor file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TensorFile {
    /// Tensors by name.
    pub tensors: BTreeMap<String, NamedTensor>,
    /// Metadata by key.
    pub meta: BTreeMap<String, String>,
}

const KEY: &str = "slimtau";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    checksum: String,
    meta: BTreeMap<String, String>,
}

impl TensorFile {
    /// Adds a tensor.
    ///
    /// # Panics
    /// When `shape` and `data` disagree: the caller made both.
    pub fn insert(&mut self, name: impl Into<String>, shape: &[usize], data: Vec<f32>) {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "shape and data disagree");
        self.tensors.insert(name.into(), NamedTensor { shape: shape.to_vec(), data });
    }

    /// Writes the file atomically (see [`write_atomic`]). Equal contents give equal bytes.
    ///
    /// # Errors
    /// When it cannot be written; the old file then still stands.
    pub fn write(&self, path: &Path) -> Result<(), FileError> {
        let header = Header { checksum: self.checksum(), meta: self.meta.clone() };
        let json = serde_json::to_string(&header).expect("a map of strings is always valid JSON");
        let bytes: Vec<(&str, Vec<u8>)> = self
            .tensors
            .iter()
            .map(|(name, t)| (name.as_str(), t.data.iter().flat_map(|v| v.to_le_bytes()).collect()))
            .collect();
        let views = bytes.iter().map(|(name, bytes)| {
            let shape = self.tensors[*name].shape.clone();
            let view = TensorView::new(Dtype::F32, shape, bytes);
            (*name, view.expect("insert() checked shape against data"))
        });
        let metadata = Some(HashMap::from([(KEY.to_owned(), json)]));
        let all = safetensors::serialize(views, metadata)
            .map_err(|e| FileError::contents(path, format!("cannot be serialised: {e}")))?;
        write_atomic(path, |w| w.write_all(&all))
    }

    /// Reads a tensor file written by [`TensorFile::write`], or a plain safetensors file of F32
    /// tensors from elsewhere (then without metadata and without a checksum to verify). PyTorch's
    /// batch counters, `*.num_batches_tracked`, are passed over: they are integers and mean nothing
    /// to inference or training here.
    ///
    /// # Errors
    /// When the file is missing, truncated, holds another element type, or fails its checksum.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        Self::parse(path, &read_bytes(path)?)
    }

    /// The same of a file's bytes, where they are in memory already; `path` is what errors name.
    ///
    /// # Errors
    /// Those of [`TensorFile::read`], except that the bytes are there.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, FileError> {
        let bad = |problem: String| FileError::contents(path, problem);
        let broken =
            |e| bad(format!("not a complete safetensors file ({e}); it is damaged or truncated"));
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(broken)?;
        let file = SafeTensors::deserialize(bytes).map_err(broken)?;
        let mut out = Self::default();
        for (name, view) in file.iter() {
            if name.ends_with("num_batches_tracked") {
                continue;
            }
            if view.dtype() != Dtype::F32 {
                return Err(bad(format!(
                    "tensor `{name}` has element type {:?}, expected F32",
                    view.dtype()
                )));
            }
            let values = view.data().chunks_exact(4);
            let data = values.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            out.tensors.insert(name.to_owned(), NamedTensor { shape: view.shape().to_vec(), data });
        }
        let Some(metadata) = header.metadata() else { return Ok(out) };
        let Some(json) = metadata.get(KEY) else {
            // A flipped bit in our own key must not pass for a file from elsewhere.
            if metadata.values().any(|v| v.contains("\"checksum\"")) {
                return Err(bad("its header is damaged (no `slimtau` key)".into()));
            }
            return Ok(out);
        };
        let header: Header =
            serde_json::from_str(json).map_err(|e| bad(format!("its header is damaged: {e}")))?;
        out.meta = header.meta;
        if out.checksum() != header.checksum {
            return Err(bad("its checksum does not match: the file is damaged".into()));
        }
        Ok(out)
    }

    /// Takes the tensor `name` out, checking its shape.
    ///
    /// # Errors
    /// [`FileError::MissingTensor`] or [`FileError::TensorShape`], which name `path`.
    pub fn take(
        &mut self,
        path: &Path,
        name: &str,
        shape: &[usize],
    ) -> Result<Vec<f32>, FileError> {
        let (path, name, expected) = (path.to_owned(), name.to_owned(), shape.to_vec());
        let Some(tensor) = self.tensors.remove(&name) else {
            return Err(FileError::MissingTensor { path, name, expected });
        };
        if tensor.shape != shape {
            return Err(FileError::TensorShape { path, name, got: tensor.shape, expected });
        }
        Ok(tensor.data)
    }

    /// A hash over names, shapes, values and metadata.
    fn checksum(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        let mut text = |s: &str| {
            hasher.update(&(s.len() as u64).to_le_bytes());
            hasher.update(s.as_bytes());
        };
        for (key, value) in &self.meta {
            text(key);
            text(value);
        }
        let mut buffer = Vec::with_capacity(1 << 16);
        for (name, tensor) in &self.tensors {
            hasher.update(&(name.len() as u64).to_le_bytes());
            hasher.update(name.as_bytes());
            for &d in &tensor.shape {
                hasher.update(&(d as u64).to_le_bytes());
            }
            for chunk in tensor.data.chunks(1 << 14) {
                buffer.clear();
                buffer.extend(chunk.iter().flat_map(|v| v.to_le_bytes()));
                hasher.update(&buffer);
            }
        }
        hasher.finalize().to_hex().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> TensorFile {
        let mut file = TensorFile::default();
        file.insert("b.weight", &[2, 3], vec![0.0, -1.5, 2.0, f32::MIN_POSITIVE, 4.0, 5.0]);
        file.insert("a", &[1], vec![7.0]);
        file.meta.insert("step".into(), "12".into());
        file.meta.insert("kind".into(), "test".into());
        file
    }

    #[test]
    fn round_trip_and_equal_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let (p, q) = (folder.path().join("p"), folder.path().join("q"));
        sample().write(&p).unwrap();
        sample().write(&q).unwrap();
        assert_eq!(std::fs::read(&p).unwrap(), std::fs::read(&q).unwrap());
        assert_eq!(TensorFile::read(&p).unwrap(), sample());
    }

    #[test]
    fn a_file_from_elsewhere_is_read_without_its_batch_counters() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("torch.safetensors");
        let (values, count) = ([1.5f32.to_le_bytes(), 2.5f32.to_le_bytes()].concat(), [7u8; 8]);
        let write = |counter: &str| {
            let views = [
                ("bn.weight", TensorView::new(Dtype::F32, vec![2], &values).unwrap()),
                (counter, TensorView::new(Dtype::I64, vec![], &count).unwrap()),
            ];
            std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
        };
        write("bn.num_batches_tracked");
        let mut expected = TensorFile::default();
        expected.insert("bn.weight", &[2], vec![1.5, 2.5]);
        assert_eq!(TensorFile::read(&path).unwrap(), expected);
        write("bn.steps");
        let error = TensorFile::read(&path).unwrap_err().to_string();
        assert!(error.contains("`bn.steps` has element type I64"), "{error}");
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p");
        sample().write(&path).unwrap();
        let good = std::fs::read(&path).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bad).unwrap();
            // A flip may also leave the meaning unchanged (padding, say): never a wrong reading.
            if let Ok(read) = TensorFile::read(&path) {
                assert_eq!(read, sample(), "bit {bit} went unnoticed");
            }
        }
        for length in 0..good.len() {
            std::fs::write(&path, &good[..length]).unwrap();
            assert!(TensorFile::read(&path).is_err(), "truncation to {length} went unnoticed");
        }
    }
}
