//! From the names of other programs to the network's.

use crate::Layout;
use std::collections::{BTreeSet, HashMap};

/// Whose names a file uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// The competition's, which are the network's own: `blocks.3.conv1.weight`.
    Competition,
    /// torchvision's and Paddle's model zoo's: `layer1.2.conv1.weight`.
    Torchvision,
}

impl std::fmt::Display for Naming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Competition => "the competition's (blocks.0.conv.weight, ...)",
            Self::Torchvision => "torchvision's (conv1.weight, layer1.0.conv1.weight, ...)",
        })
    }
}

/// Whose conventions a file follows, told by the names of its running statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framework {
    /// `_mean` and `_variance`; the classifier's weight is [features, classes].
    Paddle,
    /// `running_mean` and `running_var`; the classifier's weight is [classes, features].
    Torch,
}

/// What parallel and wrapping layers write before a network's own names.
const PREFIXES: [&str; 3] = ["_layers", "model", "module"];

/// What Paddle's super-layers write between a layer and its tensors: the layer inside them.
const INNER: &str = "fn";

/// A name without what wrappers added to it.
pub(super) struct Plain {
    /// With PyTorch's names of statistics.
    pub name: String,
    /// Whose statistics it is, if it is one.
    pub statistic_of: Option<Framework>,
}

/// Takes off what wrappers added, noting in `removed` what that was.
pub(super) fn plain(name: &str, removed: &mut BTreeSet<&'static str>) -> Plain {
    let mut parts: Vec<&str> = name.split('.').collect();
    while let Some(prefix) = PREFIXES.into_iter().find(|p| parts.len() > 1 && parts[0] == *p) {
        removed.insert(prefix);
        parts.remove(0);
    }
    if parts.contains(&INNER) {
        removed.insert(INNER);
        parts.retain(|part| *part != INNER);
    }
    let mut statistic_of = None;
    if let Some(last) = parts.last_mut() {
        (*last, statistic_of) = match *last {
            "_mean" => ("running_mean", Some(Framework::Paddle)),
            "_variance" => ("running_var", Some(Framework::Paddle)),
            "running_mean" | "running_var" => (*last, Some(Framework::Torch)),
            other => (other, None),
        };
    }
    Plain { name: parts.join("."), statistic_of }
}

/// Finds the tensor that a plain name means.
pub(super) struct Places<'a> {
    by_name: HashMap<&'a str, usize>,
    /// Number of the first block of each stage, as in the network's names; the classifier's last.
    first_block: Vec<usize>,
}

impl<'a> Places<'a> {
    pub fn new(layout: &'a Layout) -> Self {
        let by_name =
            layout.tensors().iter().enumerate().map(|(i, t)| (t.name.as_str(), i)).collect();
        let starts = layout.blocks.iter().enumerate().filter(|(_, b)| b.index_in_stage == 0);
        let mut first_block: Vec<usize> = starts.map(|(i, _)| i + 1).collect();
        first_block.push(layout.blocks.len() + 1);
        Self { by_name, first_block }
    }

    /// The index of the layout's tensor that a name means, and whose name it is.
    pub fn find(&self, plain: &str) -> Option<(usize, Naming)> {
        if let Some(&i) = self.by_name.get(plain) {
            return Some((i, Naming::Competition));
        }
        let ours = self.own_name(plain)?;
        Some((*self.by_name.get(ours.as_str())?, Naming::Torchvision))
    }

    fn own_name(&self, plain: &str) -> Option<String> {
        let (layer, rest) = plain.split_once('.')?;
        match layer {
            "conv1" => return Some(format!("blocks.0.conv.{rest}")),
            "bn1" => return Some(format!("blocks.0.bn.{rest}")),
            "fc" => return Some(format!("blocks.{}.fc.{rest}", self.first_block.last()?)),
            _ => {}
        }
        let stage: usize = layer.strip_prefix("layer")?.parse().ok()?;
        let stage = stage.checked_sub(1)?;
        let (block, rest) = rest.split_once('.')?;
        let block: usize = block.parse().ok()?;
        let (first, next) = (*self.first_block.get(stage)?, *self.first_block.get(stage + 1)?);
        let number = first.checked_add(block).filter(|number| *number < next)?;
        Some(format!("blocks.{number}.{rest}"))
    }

    /// The most blocks of each stage, for messages.
    pub fn depths(&self) -> Vec<usize> {
        self.first_block.windows(2).map(|w| w[1] - w[0]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slimtau_space::SearchSpace;

    fn cvpr2022() -> std::sync::Arc<Layout> {
        Layout::supernet(&SearchSpace::preset("cvpr2022").unwrap()).unwrap()
    }

    #[test]
    fn names_of_other_programs() {
        let layout = cvpr2022();
        let places = Places::new(&layout);
        // (theirs, ours), for at most [5, 5, 8, 5] blocks
        for (theirs, ours) in [
            ("blocks.0.conv.weight", "blocks.0.conv.weight"),
            ("_layers.blocks.0.conv.fn.weight", "blocks.0.conv.weight"),
            ("_layers.model.blocks.0.bn.fn._mean", "blocks.0.bn.running_mean"),
            ("model.blocks.23.bn2.fn._variance", "blocks.23.bn2.running_var"),
            ("blocks.6.downsample.0.fn.weight", "blocks.6.downsample.0.weight"),
            ("blocks.24.fc.fn.bias", "blocks.24.fc.bias"),
            ("module.conv1.weight", "blocks.0.conv.weight"),
            ("bn1.running_var", "blocks.0.bn.running_var"),
            ("layer1.0.conv1.weight", "blocks.1.conv1.weight"),
            ("layer1.4.bn2.bias", "blocks.5.bn2.bias"),
            ("layer2.0.downsample.1._mean", "blocks.6.downsample.1.running_mean"),
            ("layer3.7.conv2.weight", "blocks.18.conv2.weight"),
            ("layer4.4.bn1.weight", "blocks.23.bn1.weight"),
            ("fc.weight", "blocks.24.fc.weight"),
        ] {
            let plain = plain(theirs, &mut BTreeSet::new()).name;
            let (i, _) = places.find(&plain).unwrap_or_else(|| panic!("{theirs}"));
            assert_eq!(layout.tensors()[i].name, ours, "{theirs}");
        }
    }

    #[test]
    fn names_that_mean_nothing() {
        let layout = cvpr2022();
        let places = Places::new(&layout);
        for name in [
            "layer1.5.conv1.weight", // stage 1 has five blocks at most
            "layer0.0.conv1.weight",
            "layer5.0.conv1.weight",
            "layer1.18446744073709551615.conv1.weight",
            "layer4.4.conv3.weight",
            "blocks.25.fc.weight",
            "head.fc.weight",
            "fn",
            "model",
            "",
        ] {
            let plain = plain(name, &mut BTreeSet::new()).name;
            assert_eq!(places.find(&plain), None, "{name}");
        }
    }
}
