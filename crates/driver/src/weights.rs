//! Reading weights, and saying what is likely wrong where they are of another network than was asked for.

use anyhow::{Error, Result, anyhow};
use slimtau_base::FileError;
use slimtau_space::SearchSpace;
use slimtau_supernet::{ImportError, ImportProblem, Imported, Layout, SupernetError, Weights};
use std::path::Path;

/// What `--checkpoint` should have held.
#[derive(Clone, Copy)]
pub enum Of<'a> {
    Supernet(&'a SearchSpace),
    /// Of a network trained alone, by its code.
    Standalone(&'a SearchSpace, &'a str),
}

/// The weights in a checkpoint.
pub fn load(layout: &Layout, path: &Path, of: Of) -> Result<Weights> {
    Weights::load(layout, path).map_err(|error| match &error {
        SupernetError::File(FileError::MissingTensor { .. } | FileError::TensorShape { .. }) => {
            let likely = match of {
                Of::Supernet(space) => format!(
                    "the file is probably of another --space than {}, or of a network trained alone and no supernet",
                    space.name
                ),
                Of::Standalone(space, code) => format!(
                    "the file is probably of another --arch than {code}, another --space than {}, or a supernet",
                    space.name
                ),
            };
            anyhow!("{error}; {likely}")
        }
        _ => Error::from(error),
    })
}

/// The weights of another program's file; `option` names the space.
pub fn import(layout: &Layout, path: &Path, option: &str, space: &SearchSpace) -> Result<Imported> {
    use ImportProblem::{Missing, Shape, Unknown};
    slimtau_supernet::import(layout, path).map_err(|error| match &error {
        ImportError::Contents {
            problem: Missing { .. } | Shape { .. } | Unknown { .. }, ..
        } => {
            anyhow!("{error}; the file is probably of another {option} than {}", space.name)
        }
        _ => Error::from(error),
    })
}
