//! The dictionary of tensors in a pickle, whether they are NumPy's arrays or PyTorch's views.

use super::error::ImportProblem;
use super::pickle::{Id, Pickle, Value};
use super::source::Source;
use super::tensor::{Data, Stored};
use std::collections::{HashMap, HashSet};

/// Keys under which training programs store the weights beside other things.
pub(super) const WRAPPERS: [&str; 3] = ["state_dict", "model", "model_state_dict"];

/// Paddle's table of the parameters' other names.
const OTHER_NAMES: &str = "StructuredToParameterName@@";

/// How Paddle says that it has split arrays: `{name: {"OriginShape": shape, "slices": [keys]}}`.
const SPLIT: &str = "UnpackBigParamInfor@@";

type Entries = [(Id, Id)];

/// Every tensor of the weights in a pickle.
///
/// # Errors
/// When there is no such dictionary, or something in it is no tensor.
pub(super) fn tensors<'a>(
    pickle: &'a Pickle<'a>,
    source: &mut Source<'a>,
) -> Result<(), ImportProblem> {
    let Value::Dict(top) = pickle.root() else { return Err(ImportProblem::NoStateDict) };
    let wrapped = WRAPPERS.iter().find_map(|key| match pickle.get(pickle.entry(top, key)?) {
        Value::Dict(inner) => Some((*key, inner)),
        _ => None,
    });
    let weights = match wrapped {
        Some((wrapper, inner)) => {
            source.wrapper = Some(wrapper);
            let keys = top.iter().filter_map(|(key, _)| pickle.text(*key));
            source.ignored.extend(keys.filter(|key| *key != wrapper).map(str::to_owned));
            inner
        }
        None => top,
    };
    let slices = split(pickle, weights, source)?;
    for (i, (key, value)) in weights.iter().enumerate() {
        let Some(name) = pickle.text(*key) else { return Err(ImportProblem::NoStateDict) };
        if [OTHER_NAMES, SPLIT].contains(&name) {
            source.ignored.push(name.to_owned());
            continue;
        }
        if slices.contains(name) {
            continue;
        }
        match stored(pickle, *value) {
            Some(tensor) => source.tensors.push((name.to_owned(), tensor)),
            // Among other things of a training program, the weights are not here.
            None if i == 0 && wrapped.is_none() => return Err(ImportProblem::NoStateDict),
            None => {
                let problem = "is not a tensor".to_owned();
                return Err(ImportProblem::Tensor { name: name.to_owned(), problem });
            }
        }
    }
    Ok(())
}

/// A value as a tensor: an array, a tensor, or Paddle's (name, array).
fn stored<'a>(pickle: &'a Pickle<'a>, id: Id) -> Option<Stored<'a>> {
    match pickle.get(id) {
        Value::Array { element, shape, fortran, data } => {
            let Value::Bytes(bytes) = pickle.get(*data) else { return None };
            Some(Stored::dense(*element, shape.clone(), *fortran, vec![bytes]))
        }
        Value::Tensor { storage, offset, shape, strides } => {
            let Value::Storage { element, key } = *pickle.get(*storage) else { return None };
            let (shape, strides) = (shape.clone(), strides.clone());
            Some(Stored { element, shape, strides, offset: *offset, data: Data::Entry(key) })
        }
        Value::Tuple(items) => match items[..] {
            // An array proper, so that this goes no deeper.
            [name, array]
                if pickle.text(name).is_some()
                    && matches!(pickle.get(array), Value::Array { .. }) =>
            {
                stored(pickle, array)
            }
            _ => None,
        },
        _ => None,
    }
}

/// Joins the arrays that Paddle has split (protocols 2 and 3 hold at most 4 GB in one); returns the
/// keys of the parts.
fn split<'a>(
    pickle: &'a Pickle<'a>,
    weights: &Entries,
    source: &mut Source<'a>,
) -> Result<HashSet<&'a str>, ImportProblem> {
    let mut used = HashSet::new();
    let Some(table) = pickle.entry(weights, SPLIT) else { return Ok(used) };
    let bad = |name: &str, problem: &str| ImportProblem::Tensor {
        name: name.to_owned(),
        problem: problem.to_owned(),
    };
    let Value::Dict(table) = pickle.get(table) else {
        return Err(bad(SPLIT, "is not a dictionary"));
    };
    let by_name: HashMap<&str, Id> =
        weights.iter().filter_map(|(key, value)| Some((pickle.text(*key)?, *value))).collect();
    for (name, how) in table {
        let Some(name) = pickle.text(*name) else {
            return Err(bad(SPLIT, "has a key that is no text"));
        };
        let Value::Dict(how) = pickle.get(*how) else {
            return Err(bad(name, "is split, but how is not a dictionary"));
        };
        let shape = pickle.entry(how, "OriginShape").and_then(|id| pickle.sizes(id));
        let keys = match pickle.entry(how, "slices").map(|id| pickle.get(id)) {
            Some(Value::List(keys) | Value::Tuple(keys)) => keys,
            _ => return Err(bad(name, "is split, but how lacks `slices`")),
        };
        let Some(shape) = shape else {
            return Err(bad(name, "is split, but how lacks `OriginShape`"));
        };
        let (mut bytes, mut element) = (Vec::new(), None);
        for key in keys {
            let part = pickle.text(*key).and_then(|key| {
                let part = stored(pickle, *by_name.get(key)?)?;
                Some((key, part))
            });
            let Some((key, part)) = part else { return Err(bad(name, "lacks a part of it")) };
            if part.shape.len() != 1 || *element.get_or_insert(part.element) != part.element {
                return Err(bad(name, "has parts that are not rows of one type"));
            }
            // Twice the same part would be memory that the file does not have.
            if !used.insert(key) {
                return Err(bad(key, "is a part of two tensors"));
            }
            match part.data {
                Data::Parts(parts) => bytes.extend(parts),
                Data::Entry(_) => return Err(bad(key, "is not an array")),
            }
        }
        let Some(element) = element else { return Err(bad(name, "has no parts")) };
        source.tensors.push((name.to_owned(), Stored::dense(element, shape, false, bytes)));
    }
    Ok(used)
}
