//! Weights as safetensors files under PyTorch's conventions, and back.
//!
//! In memory conv weights are HWIO (channels contiguous for the kernels); in files OIHW.

use crate::layout::{Layout, TensorSlot};
use crate::{SupernetError, Weights};
use slimtau_base::{FileError, TensorFile};
use std::path::Path;

impl Weights {
    /// The tensors under their checkpoint names; more may be added before it is written.
    pub fn to_file(&self, layout: &Layout) -> TensorFile {
        let mut file = TensorFile::default();
        for slot in layout.tensors() {
            let from = if slot.buffer { &self.buffers } else { &self.params };
            let values = &from[slot.range.clone()];
            let data = match conv_dims(slot) {
                Some((o, i, taps)) => permute(values, [taps, i, o]),
                None => values.to_vec(),
            };
            file.insert(&slot.name, &slot.shape, data);
        }
        file
    }

    /// Takes the layout's tensors out of a file; what it holds beyond them stays in it.
    ///
    /// # Errors
    /// When a tensor is missing, of another shape, or not finite; `path` is named.
    pub fn from_file(
        layout: &Layout,
        path: &Path,
        file: &mut TensorFile,
    ) -> Result<Self, FileError> {
        let mut out =
            Self { params: vec![0.0; layout.params()], buffers: vec![0.0; layout.buffers()] };
        for slot in layout.tensors() {
            let data = file.take(path, &slot.name, &slot.shape)?;
            if let Some(i) = data.iter().position(|v| !v.is_finite()) {
                let problem = format!("tensor `{}` holds {} at element {i}", slot.name, data[i]);
                return Err(FileError::contents(path, problem));
            }
            let to = if slot.buffer { &mut out.buffers } else { &mut out.params };
            let to = &mut to[slot.range.clone()];
            match conv_dims(slot) {
                Some((o, i, taps)) => to.copy_from_slice(&permute(&data, [o, i, taps])),
                None => to.copy_from_slice(&data),
            }
        }
        Ok(out)
    }

    /// Writes a safetensors file that PyTorch's `load_state_dict` takes as it is.
    ///
    /// # Errors
    /// When the file cannot be written; an old one then still stands.
    pub fn save(&self, layout: &Layout, path: &Path) -> Result<(), SupernetError> {
        Ok(self.to_file(layout).write(path)?)
    }

    /// Reads a file written by [`Weights::save`] or by PyTorch.
    ///
    /// # Errors
    /// When it is missing, damaged, or holds another network.
    pub fn load(layout: &Layout, path: &Path) -> Result<Self, SupernetError> {
        let mut file = TensorFile::read(path)?;
        Ok(Self::from_file(layout, path, &mut file)?)
    }
}

/// (O, I, k*k) of a conv weight.
fn conv_dims(slot: &TensorSlot) -> Option<(usize, usize, usize)> {
    match slot.shape[..] {
        [o, i, h, w] => Some((o, i, h * w)),
        _ => None,
    }
}

/// Reverses the axes of a 3-d array: [a, b, c] -> [c, b, a]. OIHW with merged taps and HWIO are
/// each other's reverse.
pub(crate) fn permute(values: &[f32], [a, b, c]: [usize; 3]) -> Vec<f32> {
    let mut out = Vec::with_capacity(values.len());
    for z in 0..c {
        for y in 0..b {
            out.extend((0..a).map(|x| values[(x * b + y) * c + z]));
        }
    }
    out
}
