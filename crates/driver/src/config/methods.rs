//! Methods of stage 2 that a configuration may add: PA&DA and dynamic supernet training.

use super::in_range;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use slimtau_ccfs::{MomentumGroups, SamplerKind};
use slimtau_space::SearchSpace;

/// Importance sampling of paths and images (`sampler = "pa-da"`).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PaDa {
    /// Weight of the norms against uniform, for paths: of the first and after the last period.
    #[serde(default = "default_smoothing")]
    pub path_smoothing: [f32; 2],
    /// The same for images.
    #[serde(default = "default_smoothing")]
    pub data_smoothing: [f32; 2],
    /// Share of its old value that a path option's norm keeps per observation.
    #[serde(default = "default_path_momentum")]
    pub path_momentum: f32,
    /// The same of an image's norm.
    #[serde(default = "default_data_momentum")]
    pub data_momentum: f32,
    /// Steps between updates of the probabilities; 0 = one pass over the training images.
    #[serde(default)]
    pub update_steps: u64,
    /// Weigh drawn images by 1 / (images p).
    #[serde(default = "default_unbiased")]
    pub unbiased: bool,
}

fn default_smoothing() -> [f32; 2] {
    [0.0, 1.0]
}

fn default_path_momentum() -> f32 {
    0.9
}

fn default_data_momentum() -> f32 {
    0.5
}

fn default_unbiased() -> bool {
    true
}

impl Default for PaDa {
    fn default() -> Self {
        Self {
            path_smoothing: default_smoothing(),
            data_smoothing: default_smoothing(),
            path_momentum: default_path_momentum(),
            data_momentum: default_data_momentum(),
            update_steps: 0,
            unbiased: default_unbiased(),
        }
    }
}

/// Learning rates and momentum by subnet (`[ccfs.dynamic]`).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dynamic {
    /// The largest exponent of the complexity-aware learning rate; left out: the stage's schedule.
    #[serde(default)]
    pub max_decay: Option<f64>,
    /// The choice by which subnets are put into momentum groups; left out: one momentum for all.
    #[serde(default)]
    pub split: Option<String>,
}

impl PaDa {
    fn check(&self) -> Result<()> {
        for (key, range) in
            [("path_smoothing", self.path_smoothing), ("data_smoothing", self.data_smoothing)]
        {
            for value in range {
                in_range(&format!("ccfs.pa_da.{key}"), value, 0.0, 1.0)?;
            }
        }
        in_range("ccfs.pa_da.path_momentum", self.path_momentum, 0.0, 1.0)?;
        in_range("ccfs.pa_da.data_momentum", self.data_momentum, 0.0, 1.0)
    }
}

impl Dynamic {
    /// The momentum groups in a space.
    pub fn groups(&self, space: &SearchSpace) -> Result<Option<MomentumGroups>> {
        let groups = self.split.as_ref().map(|split| MomentumGroups::parse(space, split));
        groups.transpose().context("ccfs.dynamic.split")
    }

    fn check(&self) -> Result<()> {
        if self.max_decay.is_none() && self.split.is_none() {
            bail!("ccfs.dynamic: give max_decay, split or both, or leave the table out");
        }
        match self.max_decay {
            Some(decay) => in_range("ccfs.dynamic.max_decay", decay as f32, 1.0, 100.0),
            None => Ok(()),
        }
    }
}

/// Checks both tables of a stage with this sampler.
pub fn check(sampler: SamplerKind, pa_da: Option<&PaDa>, dynamic: Option<&Dynamic>) -> Result<()> {
    if let Some(pa_da) = pa_da {
        if sampler != SamplerKind::PaDa {
            bail!("ccfs.pa_da: is for sampler = \"pa-da\", not for {:?}", sampler.name());
        }
        pa_da.check()?;
    }
    dynamic.map_or(Ok(()), Dynamic::check)
}
