//! The allow-list of classes and functions, and what each does here.

use super::PickleError;
use super::machine::Machine;
use super::value::{Global, Id, Value, sizes};
use crate::import::tensor::Element;
use std::borrow::Cow;

/// The meaning of a name, if it is on the list.
pub(super) fn resolve(module: &str, name: &str) -> Option<Global> {
    let element = match (module, name) {
        ("collections", "OrderedDict") => return Some(Global::OrderedDict),
        ("builtins" | "__builtin__", "tuple") => return Some(Global::Tuple),
        ("_codecs", "encode") => return Some(Global::Encode),
        ("numpy", "ndarray") => return Some(Global::NumpyArray),
        ("numpy", "dtype") => return Some(Global::NumpyDtype),
        // NumPy 2 writes `_core`.
        ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") => {
            return Some(Global::NumpyReconstruct);
        }
        ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar") => {
            return Some(Global::NumpyScalar);
        }
        ("numpy.core.numeric" | "numpy._core.numeric", "_frombuffer") => {
            return Some(Global::NumpyFromBuffer);
        }
        ("torch._utils", "_rebuild_tensor_v2") => return Some(Global::TorchTensor),
        ("torch._utils", "_rebuild_parameter") => return Some(Global::TorchParameter),
        ("torch", "FloatStorage") => Element::F32,
        ("torch", "DoubleStorage") => Element::F64,
        ("torch", "HalfStorage") => Element::F16,
        ("torch", "BFloat16Storage") => Element::Bf16,
        ("torch", "LongStorage") => Element::Other("int64"),
        ("torch", "IntStorage") => Element::Other("int32"),
        ("torch", "ShortStorage") => Element::Other("int16"),
        ("torch", "CharStorage") => Element::Other("int8"),
        ("torch", "ByteStorage") => Element::Other("uint8"),
        ("torch", "BoolStorage") => Element::Other("bool"),
        _ => return None,
    };
    Some(Global::TorchStorage(element))
}

/// NumPy's short names of element types.
fn element(name: &str) -> Option<Element> {
    Some(match name {
        "f2" => Element::F16,
        "f4" => Element::F32,
        "f8" => Element::F64,
        "u2" => Element::U16,
        "i8" => Element::Other("int64"),
        "i4" => Element::Other("int32"),
        "i2" => Element::Other("int16"),
        "i1" => Element::Other("int8"),
        "u8" => Element::Other("uint64"),
        "u4" => Element::Other("uint32"),
        "u1" => Element::Other("uint8"),
        "b1" => Element::Other("bool"),
        _ => return None,
    })
}

impl<'a> Machine<'a> {
    /// REDUCE: what a function of the list makes of its arguments.
    pub(super) fn call(&mut self, callable: Id, arguments: Id) -> Result<Id, PickleError> {
        let Value::Global(global) = *self.value(callable) else {
            return Err(self.malformed("what is called is no function"));
        };
        // No function of the list takes more; copies of longer tuples could fill the memory.
        let arguments = match self.value(arguments) {
            Value::Tuple(items) if items.len() <= 8 => items.clone(),
            _ => {
                return Err(
                    self.malformed("a function is called with other arguments than it takes")
                );
            }
        };
        let kinds: Vec<&Value<'a>> = arguments.iter().map(|id| self.value(*id)).collect();
        let made = match (global, &kinds[..]) {
            (Global::OrderedDict, []) => Value::Dict(Vec::new()),
            (Global::Tuple, [Value::Tuple(_)]) => return Ok(arguments[0]),
            (Global::Encode, [Value::Text(text), Value::Text("latin1")]) => self.latin1(text)?,
            (Global::NumpyReconstruct, [Value::Global(Global::NumpyArray), _, _]) => {
                Value::EmptyArray
            }
            (Global::NumpyDtype, [Value::Text(name), ..]) => match element(name) {
                Some(element) => Value::Dtype(element),
                None => return Err(self.malformed("an array's elements are no numbers")),
            },
            (Global::NumpyScalar, [Value::Dtype(_), Value::Bytes(_)]) => Value::OtherNumber,
            (
                Global::NumpyFromBuffer,
                [Value::Bytes(_), Value::Dtype(element), _, Value::Text(order)],
            ) => {
                let shape = self.sizes(arguments[2])?;
                let (element, fortran) = (*element, *order == "F");
                Value::Array { element, shape, fortran, data: arguments[0] }
            }
            (Global::TorchTensor, [Value::Storage { .. }, Value::Int(offset), ..])
                if kinds.len() >= 6 =>
            {
                let Ok(offset) = usize::try_from(*offset) else {
                    return Err(self.malformed("a tensor begins before its storage"));
                };
                let (shape, strides) = (self.sizes(arguments[2])?, self.sizes(arguments[3])?);
                if shape.len() != strides.len() {
                    return Err(self.malformed("a tensor has not as many strides as dimensions"));
                }
                Value::Tensor { storage: arguments[0], offset, shape, strides }
            }
            (Global::TorchParameter, [Value::Tensor { .. }, ..]) => return Ok(arguments[0]),
            _ => {
                return Err(
                    self.malformed("a function is called with other arguments than it takes")
                );
            }
        };
        if let Value::Bytes(bytes) = &made {
            self.decoded += bytes.len();
        }
        self.add(made)
    }

    /// `_codecs.encode(text, "latin1")`. A pickler writes each text once, so all of them together are no
    /// longer than the file; a file that encodes one again and again is no pickler's.
    fn latin1(&self, text: &str) -> Result<Value<'a>, PickleError> {
        let length = text.chars().count();
        if self.decoded + length > self.input_len() {
            return Err(self.malformed("the texts that stand for bytes are longer than the file"));
        }
        let bytes: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(c).ok()).collect();
        match bytes {
            Some(bytes) => Ok(Value::Bytes(Cow::Owned(bytes))),
            None => Err(self.malformed("a text that stands for bytes holds more than bytes")),
        }
    }

    fn sizes(&self, id: Id) -> Result<Vec<usize>, PickleError> {
        sizes(&self.values, id)
            .ok_or_else(|| self.malformed("a shape is not a tuple of at most 8 sizes"))
    }

    /// BINPERSID: PyTorch's ("storage", type, key, device, elements).
    pub(super) fn storage(&self, id: Id) -> Result<Value<'a>, PickleError> {
        if let Value::Tuple(items) = self.value(id)
            && let [kind, class, key, _, _] = items[..]
            && let (
                Value::Text("storage"),
                Value::Global(Global::TorchStorage(element)),
                Value::Text(key),
            ) = (self.value(kind), self.value(class), self.value(key))
        {
            return Ok(Value::Storage { element: *element, key });
        }
        Err(self.malformed("a persistent id is not a PyTorch storage"))
    }

    /// BUILD: gives an object its state.
    pub(super) fn build(&mut self, object: Id, state: Id) -> Result<(), PickleError> {
        let items: &[Id] = match self.value(state) {
            Value::Tuple(items) => items,
            _ => &[],
        };
        match (self.value(object), self.value(state)) {
            // Attributes of a dictionary, such as PyTorch's `_metadata`, are no weights.
            (Value::Dict(_), Value::Dict(_)) => Ok(()),
            (Value::Dtype(_), Value::Tuple(_)) => match items.get(1).map(|id| self.value(*id)) {
                Some(Value::Text("<" | "|")) => Ok(()),
                _ => Err(self.malformed("an array's elements are not little-endian")),
            },
            (Value::EmptyArray, Value::Tuple(_)) => {
                let &[_, shape, dtype, order, data] = items else {
                    return Err(self.malformed("an array's state has not five parts"));
                };
                let (Value::Dtype(element), Value::Bool(fortran), Value::Bytes(_)) =
                    (self.value(dtype), self.value(order), self.value(data))
                else {
                    return Err(self.malformed("an array's state is not (type, order, bytes)"));
                };
                let (element, fortran) = (*element, *fortran);
                let shape = self.sizes(shape)?;
                *self.value_mut(object) = Value::Array { element, shape, fortran, data };
                Ok(())
            }
            _ => Err(self.malformed("a state is given to what takes none")),
        }
    }
}
