//! What an import found, for people.

use super::names::{Framework, Naming};
use super::source::Format;
use std::collections::BTreeMap;
use std::fmt;

/// What an imported file held. Displayed, it is a few lines for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportReport {
    /// The file's format.
    pub format: Format,
    /// Whose conventions it follows.
    pub framework: Framework,
    /// Whose names it uses.
    pub naming: Naming,
    /// The key that the weights were found under, unless at the top.
    pub wrapper: Option<&'static str>,
    /// Parts of names that wrappers had added: `_layers`, `model`, `module`, `fn`.
    pub removed: Vec<&'static str>,
    /// Tensors taken.
    pub tensors: usize,
    /// Trainable values among theirs.
    pub params: usize,
    /// Running statistics among theirs.
    pub statistics: usize,
    /// How many tensors of another type than float32 were converted, by type.
    pub converted: BTreeMap<String, usize>,
    /// What else the file held.
    pub ignored: Vec<String>,
}

impl fmt::Display for ImportReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = match self.framework {
            Framework::Paddle => "Paddle's conventions (the classifier's weight was transposed)",
            Framework::Torch => "PyTorch's conventions",
        };
        write!(f, "format:  {}, {by}", self.format)?;
        if let Some(wrapper) = self.wrapper {
            write!(f, ", weights under `{wrapper}`")?;
        }
        write!(f, "\nnames:   {}", self.naming)?;
        if !self.removed.is_empty() {
            write!(f, ", less `{}.`", self.removed.join(".`, `"))?;
        }
        let Self { tensors, params, statistics, .. } = self;
        write!(
            f,
            "\nread:    {tensors} tensors, {params} parameters, {statistics} running statistics"
        )?;
        for (element, n) in &self.converted {
            write!(f, "\n         {n} tensors of type {element} converted to float32")?;
        }
        if !self.ignored.is_empty() {
            write!(f, "\nignored: {}", listed(&self.ignored))?;
        }
        Ok(())
    }
}

/// The first few names of a list, and how many more there are.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 3;
    let shown = names.iter().take(SHOWN).map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(SHOWN) {
        Some(more @ 1..) => format!("{shown} and {more} more"),
        _ => shown,
    }
}
