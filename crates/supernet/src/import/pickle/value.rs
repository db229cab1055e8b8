//! What a pickle can hold here: values that name each other by number.

use crate::import::tensor::Element;
use std::borrow::Cow;

/// A value's number in its [`Pickle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::import) struct Id(pub(super) u32);

/// A class or function of the allow-list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::import) enum Global {
    /// `collections.OrderedDict`
    OrderedDict,
    /// `builtins.tuple`, which Paddle calls on (name, array) of a tensor in a nested object
    Tuple,
    /// `_codecs.encode`, protocol 2's way to write bytes
    Encode,
    /// `numpy.ndarray`, only as an argument
    NumpyArray,
    /// `numpy.dtype`
    NumpyDtype,
    /// `numpy.core.multiarray._reconstruct`: an empty array, filled by `BUILD`
    NumpyReconstruct,
    /// `numpy.core.multiarray.scalar`
    NumpyScalar,
    /// `numpy.core.numeric._frombuffer`, protocol 5's arrays
    NumpyFromBuffer,
    /// `torch.FloatStorage` and the like, only in a persistent id
    TorchStorage(Element),
    /// `torch._utils._rebuild_tensor_v2`
    TorchTensor,
    /// `torch._utils._rebuild_parameter`
    TorchParameter,
}

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::import) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// A number that weights never are: a float, a long integer, a NumPy scalar.
    OtherNumber,
    Text(&'a str),
    Bytes(Cow<'a, [u8]>),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    /// In order of insertion; a key that comes twice counts with its last value.
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Dtype(Element),
    /// A NumPy array that `BUILD` has not filled yet.
    EmptyArray,
    /// A NumPy array; `data` is its bytes.
    Array {
        element: Element,
        shape: Vec<usize>,
        /// Whether the first dimension runs fastest.
        fortran: bool,
        data: Id,
    },
    /// A PyTorch storage, which lies in another entry of the archive, named by `key`.
    Storage {
        element: Element,
        key: &'a str,
    },
    /// A PyTorch tensor: a view of a storage, in elements.
    Tensor {
        storage: Id,
        offset: usize,
        shape: Vec<usize>,
        strides: Vec<usize>,
    },
}

/// All values of a pickle, and which of them it is about.
#[derive(Debug)]
pub(in crate::import) struct Pickle<'a> {
    pub(super) values: Vec<Value<'a>>,
    pub(super) root: Id,
}

impl<'a> Pickle<'a> {
    /// The value that the pickle is about.
    pub fn root(&self) -> &Value<'a> {
        self.get(self.root)
    }

    /// A value by its number, which must be this pickle's.
    pub fn get(&self, id: Id) -> &Value<'a> {
        &self.values[id.0 as usize]
    }

    /// The text behind a number, if it is one.
    pub fn text(&self, id: Id) -> Option<&'a str> {
        match self.get(id) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A dictionary's value under a text.
    pub fn entry(&self, dict: &[(Id, Id)], key: &str) -> Option<Id> {
        dict.iter().rev().find(|(k, _)| self.text(*k) == Some(key)).map(|(_, value)| *value)
    }

    /// A tuple or list of sizes.
    pub fn sizes(&self, id: Id) -> Option<Vec<usize>> {
        sizes(&self.values, id)
    }
}

/// Most dimensions of a tensor here; conv weights have four.
const MAX_RANK: usize = 8;

/// A tuple or list of sizes among `values`.
pub(super) fn sizes(values: &[Value<'_>], id: Id) -> Option<Vec<usize>> {
    let (Value::Tuple(items) | Value::List(items)) = &values[id.0 as usize] else { return None };
    if items.len() > MAX_RANK {
        return None;
    }
    let size = |id: &Id| match values[id.0 as usize] {
        Value::Int(n) => usize::try_from(n).ok(),
        _ => None,
    };
    items.iter().map(size).collect()
}
