//! A tensor as a file stores it, and its values as f32.

use half::{bf16, f16};
use std::fmt;

/// Type of a tensor's elements, always little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Element {
    F16,
    Bf16,
    F32,
    F64,
    /// Paddle's way to store bfloat16 in NumPy arrays, which have no such type.
    U16,
    /// A type that weights do not have.
    Other(&'static str),
}

impl Element {
    /// Bytes of one element; `None` if weights do not have this type.
    fn size(self) -> Option<usize> {
        match self {
            Self::F16 | Self::Bf16 | Self::U16 => Some(2),
            Self::F32 => Some(4),
            Self::F64 => Some(8),
            Self::Other(_) => None,
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
            Self::F32 => "float32",
            Self::F64 => "float64",
            Self::U16 => "bfloat16 (as uint16)",
            Self::Other(name) => name,
        })
    }
}

/// Where a tensor's bytes lie.
#[derive(Clone, Debug)]
pub(super) enum Data<'a> {
    /// In the file, one after the other.
    Parts(Vec<&'a [u8]>),
    /// In another entry of the archive.
    Entry(&'a str),
}

/// A view of stored elements; nothing of them is read yet. Sizes and strides count elements.
#[derive(Clone, Debug)]
pub(super) struct Stored<'a> {
    pub element: Element,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
    pub offset: usize,
    pub data: Data<'a>,
}

impl<'a> Stored<'a> {
    /// A tensor whose elements lie in order, the last dimension fastest (the first if `fortran`).
    pub fn dense(element: Element, shape: Vec<usize>, fortran: bool, data: Vec<&'a [u8]>) -> Self {
        let mut strides = vec![0; shape.len()];
        let mut stride = 1usize;
        for i in 0..shape.len() {
            let i = if fortran { i } else { shape.len() - 1 - i };
            strides[i] = stride;
            // Absurd shapes are refused later, against the layout's.
            stride = stride.saturating_mul(shape[i]);
        }
        Self { element, shape, strides, offset: 0, data: Data::Parts(data) }
    }

    /// The same elements with the dimensions in reverse order.
    pub fn transposed(mut self) -> Self {
        self.shape.reverse();
        self.strides.reverse();
        self
    }

    /// The values, last dimension fastest, out of the `bytes` of its storage. float64 is rounded to the
    /// nearest float32; the narrower types fit exactly. The caller has checked that the shape is one that
    /// it has memory for.
    ///
    /// # Errors
    /// In words, when the element type is not a weight's or the storage is too short.
    pub fn read(&self, bytes: &[u8]) -> Result<Vec<f32>, String> {
        let Some(size) = self.element.size() else {
            return Err(format!("has elements of type {}, expected floats", self.element));
        };
        if self.shape.contains(&0) {
            return Ok(Vec::new());
        }
        let last = self.shape.iter().zip(&self.strides).try_fold(self.offset, |at, (n, stride)| {
            (n - 1).checked_mul(*stride).and_then(|step| at.checked_add(step))
        });
        let needed = last.and_then(|last| last.checked_add(1)?.checked_mul(size));
        if needed.is_none_or(|needed| needed > bytes.len()) {
            return Err(format!(
                "of shape {:?} does not fit into its {} bytes; the file is damaged",
                self.shape,
                bytes.len()
            ));
        }
        Ok(match self.element {
            Element::F32 => self.gather(bytes, f32::from_le_bytes),
            Element::F64 => self.gather(bytes, |b| f64::from_le_bytes(b) as f32),
            Element::F16 => self.gather(bytes, |b| f16::from_le_bytes(b).to_f32()),
            Element::Bf16 | Element::U16 => self.gather(bytes, |b| bf16::from_le_bytes(b).to_f32()),
            Element::Other(_) => unreachable!("refused above: it has no size"),
        })
    }

    /// Every element in order. `read` has checked that the last one lies in `bytes`.
    fn gather<const SIZE: usize>(
        &self,
        bytes: &[u8],
        value: impl Fn([u8; SIZE]) -> f32,
    ) -> Vec<f32> {
        let (elements, _) = bytes.as_chunks::<SIZE>();
        let mut out = Vec::with_capacity(self.shape.iter().product());
        let mut index = vec![0; self.shape.len()];
        let mut at = self.offset;
        loop {
            out.push(value(elements[at]));
            // The next index, as an odometer counts.
            let mut axis = self.shape.len();
            loop {
                if axis == 0 {
                    return out;
                }
                axis -= 1;
                index[axis] += 1;
                at += self.strides[axis];
                if index[axis] < self.shape[axis] {
                    break;
                }
                at -= self.strides[axis] * index[axis];
                index[axis] = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(n: u16) -> Vec<u8> {
        (0..n).flat_map(|i| f32::from(i).to_le_bytes()).collect()
    }

    #[test]
    fn orders_and_views() {
        let data = bytes(6);
        let c = Stored::dense(Element::F32, vec![2, 3], false, vec![&data]);
        assert_eq!(c.read(&data).unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(c.transposed().read(&data).unwrap(), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        let fortran = Stored::dense(Element::F32, vec![2, 3], true, vec![&data]);
        assert_eq!(fortran.read(&data).unwrap(), [0.0, 2.0, 4.0, 1.0, 3.0, 5.0]);
        let view = Stored { offset: 1, strides: vec![3, 1], shape: vec![2, 2], ..fortran.clone() };
        assert_eq!(view.read(&data).unwrap(), [1.0, 2.0, 4.0, 5.0]);
        let scalar = Stored { offset: 5, strides: vec![], shape: vec![], ..fortran };
        assert_eq!(scalar.read(&data).unwrap(), [5.0]);
    }

    #[test]
    fn a_view_beyond_its_storage_is_refused() {
        let data = bytes(6);
        let good = Stored::dense(Element::F32, vec![2, 3], false, vec![&data]);
        for bad in [
            Stored { offset: 1, ..good.clone() },
            Stored { strides: vec![4, 1], ..good.clone() },
            Stored { strides: vec![usize::MAX, 1], ..good.clone() },
            Stored { offset: usize::MAX, ..good.clone() },
            Stored { element: Element::F64, ..good.clone() },
        ] {
            assert!(bad.read(&data).unwrap_err().contains("damaged"), "{bad:?}");
        }
        let integers = Stored { element: Element::Other("int64"), ..good };
        assert!(integers.read(&data).unwrap_err().contains("int64"));
    }

    #[test]
    fn narrower_types_are_exact_and_float64_is_rounded() {
        let read = |element, bytes: &[u8]| {
            Stored::dense(element, vec![1], false, vec![]).read(bytes).unwrap()[0]
        };
        assert_eq!(read(Element::F16, &f16::from_f32(-1.5).to_le_bytes()), -1.5);
        assert_eq!(read(Element::Bf16, &0x3f80u16.to_le_bytes()), 1.0);
        assert_eq!(read(Element::U16, &0xc040u16.to_le_bytes()), -3.0);
        assert_eq!(read(Element::F64, &0.1f64.to_le_bytes()), 0.1f32);
    }
}
