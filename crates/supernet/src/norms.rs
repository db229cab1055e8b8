//! What batch norm does with statistics that many subnets share.

use crate::backend::{Backend, MapView};
use crate::{Norms, Plan, Session, SupernetError};
use std::fmt;
use std::str::FromStr;

/// Treatment of BN statistics in training and evaluation, the same word for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BnMode {
    /// Batch statistics in training; every subnet feeds the shared running ones, which evaluation uses.
    Tracked,
    /// The start's running statistics as constants, in training and evaluation (the competition
    /// authors' code in effect).
    Frozen,
    /// Batch statistics in training; before a subnet is evaluated its statistics are measured anew
    /// (Yu & Huang, Universally Slimmable Networks, 2019).
    Recalibrated,
}

impl BnMode {
    /// The statistics of a training pass. `momentum` counts for [`BnMode::Tracked`] only.
    pub fn training<B: Backend>(self, buffers: &mut B::Running, momentum: f32) -> Norms<'_, B> {
        match self {
            BnMode::Tracked => Norms::Tracked { buffers, momentum },
            BnMode::Frozen => Norms::Frozen { buffers },
            BnMode::Recalibrated => Norms::Batch,
        }
    }
}

impl fmt::Display for BnMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BnMode::Tracked => "tracked",
            BnMode::Frozen => "frozen",
            BnMode::Recalibrated => "recalibrated",
        })
    }
}

impl FromStr for BnMode {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "tracked" => Ok(BnMode::Tracked),
            "frozen" => Ok(BnMode::Frozen),
            "recalibrated" => Ok(BnMode::Recalibrated),
            _ => Err(format!("`{s}` is not one of tracked, frozen, recalibrated")),
        }
    }
}

/// Measures a subnet's own statistics: `buffers` becomes the mean over `batches` of each batch's
/// statistics (variance unbiased), for the channels that the subnet uses; others keep their value.
///
/// # Errors
/// When a batch is not a whole number of images.
pub fn recalibrate<'i, B: Backend>(
    session: &mut Session<B>,
    plan: &Plan,
    params: &B::Params,
    buffers: &mut B::Running,
    batches: impl IntoIterator<Item = MapView<'i, B>>,
) -> Result<(), SupernetError> {
    for (i, images) in batches.into_iter().enumerate() {
        // Weight 1/(i+1) makes the running value the plain mean so far.
        let norms = Norms::Tracked { buffers, momentum: 1.0 / (i + 1) as f32 };
        session.forward_features_only(plan, params, norms, images)?;
    }
    Ok(())
}
