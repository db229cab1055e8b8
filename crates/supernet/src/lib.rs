//! The weight-sharing ResNet: forward and backward for any subnet, and its checkpoints.
//!
//! A [`Layout`] places every tensor of the largest network in one flat buffer of parameters and one
//! of running statistics; [`Weights`] holds the two; a [`Plan`] says which leading blocks of them
//! one subnet uses; a [`Session`] runs a plan forward and backward in memory that it keeps. No
//! layer has an "active width": the plan is an argument.
//!
//! ```
//! use slimtau_space::SearchSpace;
//! use slimtau_supernet::{Layout, Norms, Plan, Session, Weights};
//!
//! let space = SearchSpace::preset("tiny")?;
//! let layout = Layout::supernet(&space)?;
//! let mut weights = Weights::init(&layout, 0);
//! let plan = Plan::subnet(&space, &layout, &space.smallest())?;
//! let images = vec![0.5; 2 * 32 * 32 * 3]; // [N, H, W, C]
//!
//! let mut session = Session::new();
//! let Weights { params, buffers } = &mut weights;
//! let norms = Norms::Tracked { buffers: &mut buffers[..], momentum: 0.1 };
//! let logits = session.forward(&plan, params, norms, &images)?;
//! let grad_logits = vec![0.1; logits.len()];
//! let mut grads = vec![0.0; layout.params()];
//! session.backward(&plan, params, &images, &grad_logits, &mut grads);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![deny(missing_docs)]

mod autograd;
mod backend;
mod checkpoint;
mod error;
mod features_only;
mod import;
mod infer;
mod layout;
mod norms;
mod onnx;
mod passes;
mod plan;
mod session;
mod siblings;
mod tape;
mod tree;
mod weights;

/// The README's example, run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use autograd::{forward, forward_train};
pub use backend::{Backend, Cpu, MapView, VectorView};
#[cfg(feature = "gpu")]
pub use backend::{Device, DeviceImages, DeviceParams, DeviceWeights, Precision};
pub use error::SupernetError;
pub use import::{
    Format, Framework, ImportError, ImportProblem, ImportReport, Imported, Naming, PickleError,
    import, reorder_middle_channels,
};
pub use infer::argmax;
pub use layout::{ConvSlot, Layout, TensorSlot};
pub use norms::{BnMode, recalibrate};
pub use onnx::OnnxNorms;
pub use plan::{Plan, merge_ranges};
pub use session::{Norms, Session};
pub use siblings::Siblings;
pub use tree::{ListMacs, PrefixTree, Recalibration, Statistics, TreeSession};
pub use weights::Weights;
