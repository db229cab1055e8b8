//! From a file's tensors to the network's: every name finds its place, shapes are compared, values read.

use super::error::ImportProblem;
use super::names::{Framework, Naming, Places, plain};
use super::report::ImportReport;
use super::source::{Format, Source};
use super::tensor::{Element, Stored};
use crate::Layout;
use slimtau_base::TensorFile;
use std::collections::{BTreeMap, BTreeSet};

/// PyTorch's count of batches, an integer that means nothing to inference or training here.
const COUNTER: &str = "num_batches_tracked";

/// A tensor of the file with its name there.
type Found<'a> = (String, Stored<'a>);

/// Finds every tensor of the layout in the source, then reads them: values under the layout's names, in PyTorch's
/// order.
///
/// # Errors
/// When a tensor is unknown, missing, there twice, or of another shape or type.
pub(super) fn fit(
    layout: &Layout,
    format: Format,
    mut source: Source<'_>,
) -> Result<(TensorFile, ImportReport), ImportProblem> {
    let places = Places::new(layout);
    let mut found: Vec<Option<Found<'_>>> = layout.tensors().iter().map(|_| None).collect();
    let (mut removed, mut unknown, mut torchvision) = (BTreeSet::new(), Vec::new(), false);
    let (mut paddle, mut torch) = (None, None);
    for (name, tensor) in std::mem::take(&mut source.tensors) {
        let plain = plain(&name, &mut removed);
        if plain.name.rsplit('.').next() == Some(COUNTER) {
            source.ignored.push(name);
            continue;
        }
        match plain.statistic_of {
            Some(Framework::Paddle) => drop(paddle.get_or_insert_with(|| name.clone())),
            Some(Framework::Torch) => drop(torch.get_or_insert_with(|| name.clone())),
            None => {}
        }
        let Some((i, naming)) = places.find(&plain.name) else {
            unknown.push(name);
            continue;
        };
        torchvision |= naming == Naming::Torchvision;
        if let Some((first, _)) = &found[i] {
            let (first, target) = (first.clone(), layout.tensors()[i].name.clone());
            return Err(ImportProblem::Twice { first, second: name, target });
        }
        found[i] = Some((name, tensor));
    }
    if let Some(first) = unknown.first() {
        let why = format!(
            "it has `blocks.0` to `blocks.{}`, or by torchvision's names {:?} blocks",
            layout.blocks.len() + 1,
            places.depths()
        );
        return Err(ImportProblem::Unknown { first: first.clone(), more: unknown.len() - 1, why });
    }
    let framework = match (paddle, torch) {
        (Some(paddle), Some(torch)) => return Err(ImportProblem::Mixed { paddle, torch }),
        (Some(_), None) => Framework::Paddle,
        (None, _) => Framework::Torch,
    };
    let total = found.len();
    let missing = found.iter().filter(|f| f.is_none()).count();
    if let Some(i) = found.iter().position(Option::is_none) {
        let first = layout.tensors()[i].name.clone();
        return Err(ImportProblem::Missing { first, missing, total });
    }
    let found: Vec<Found<'_>> = found.into_iter().flatten().collect();
    let mut converted = BTreeMap::new();
    let file = values(layout, framework, &mut source, found, &mut converted)?;
    let report = ImportReport {
        format,
        framework,
        naming: if torchvision { Naming::Torchvision } else { Naming::Competition },
        wrapper: source.wrapper,
        removed: removed.into_iter().collect(),
        tensors: total,
        params: layout.params(),
        statistics: layout.buffers(),
        converted,
        ignored: source.ignored,
    };
    Ok((file, report))
}

/// Reads the tensors found, in the layout's order; counts those of other types than float32.
fn values<'a>(
    layout: &Layout,
    framework: Framework,
    source: &mut Source<'a>,
    found: Vec<Found<'a>>,
    converted: &mut BTreeMap<String, usize>,
) -> Result<TensorFile, ImportProblem> {
    let mut file = TensorFile::default();
    for (slot, (name, mut tensor)) in layout.tensors().iter().zip(found) {
        let mut expected = slot.shape.clone();
        // Both have conv weights in OIHW order, and no other tensor of a network has two dimensions.
        let transposed = framework == Framework::Paddle && expected.len() == 2;
        if transposed {
            expected.reverse();
        }
        if tensor.shape != expected {
            return Err(ImportProblem::Shape { name, expected, got: tensor.shape });
        }
        if tensor.element == Element::U16 && framework == Framework::Torch {
            // Only Paddle's are bfloat16.
            tensor.element = Element::Other("uint16");
        }
        if transposed {
            tensor = tensor.transposed();
        }
        let bytes = source.bytes(&name, &tensor)?;
        let data = match tensor.read(&bytes) {
            Ok(data) => data,
            Err(problem) => return Err(ImportProblem::Tensor { name, problem }),
        };
        if let Some(i) = data.iter().position(|v| !v.is_finite()) {
            let problem = format!("holds {} at element {i}", data[i]);
            return Err(ImportProblem::Tensor { name, problem });
        }
        if tensor.element != Element::F32 {
            *converted.entry(tensor.element.to_string()).or_default() += 1;
        }
        file.insert(&slot.name, &slot.shape, data);
    }
    Ok(file)
}
