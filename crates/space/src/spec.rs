//! What a search space is: base widths, ratios, depths, and the rules that follow from them.

use crate::{Arch, BlockCode};
use serde::{Deserialize, Serialize};

/// Kind of residual block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Block {
    /// Two 3x3 convolutions; the first carries the stride.
    Basic,
    /// 1x1, 3x3 (carries the stride), 1x1; the output is 4 times as wide as the stage's base.
    Bottleneck,
}

impl Block {
    /// Output base width over the stage's base width.
    pub fn expansion(self) -> usize {
        match self {
            Block::Basic => 1,
            Block::Bottleneck => 4,
        }
    }
}

/// The layers before the first stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stem {
    /// Base width.
    pub width: usize,
    /// Kernel side, odd.
    pub kernel: usize,
    /// Stride, 1 or 2.
    pub stride: usize,
    /// Whether a 3x3 max-pool of stride 2 follows.
    pub max_pool: bool,
    /// How many ratios, from the widest, samplers may draw.
    pub codes: usize,
}

/// One stage of residual blocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stage {
    /// Base width.
    pub width: usize,
    /// Fewest and most blocks.
    pub depth: (usize, usize),
    /// Stride of the first block, 1 or 2.
    pub stride: usize,
    /// How many ratios, from the widest, samplers may draw.
    pub codes: usize,
}

/// A family of slimmable residual networks. Methods rely on what [`SearchSpace::validate`] checks.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SearchSpace {
    /// Its name, for messages.
    pub name: String,
    /// Height and width of the input, in pixels.
    pub image_size: usize,
    /// Channels of the input.
    pub channels: usize,
    /// Classes.
    pub classes: usize,
    /// Width ratios by code, from code 1; strictly decreasing, in (0, 1], at most 9.
    pub ratios: Vec<f64>,
    /// Widths are rounded to multiples of this.
    pub divisor: usize,
    /// Kind of block.
    pub block: Block,
    /// The layers before the first stage.
    pub stem: Stem,
    /// The stages, in order.
    #[serde(rename = "stage")]
    pub stages: Vec<Stage>,
}

impl SearchSpace {
    /// Width of `base` channels at a ratio: v = base * ratio rounded to the nearest multiple of the
    /// divisor d, halves up, at least d; and d more where that took over a tenth of v away.
    pub fn width(&self, base: usize, ratio: f64) -> usize {
        let d = self.divisor;
        let v = base as f64 * ratio;
        let w = d.max((v + d as f64 / 2.0) as usize / d * d);
        if (w as f64) < 0.9 * v { w + d } else { w }
    }

    /// Width of `base` at a code (1-based index of a ratio).
    pub(crate) fn code_width(&self, base: usize, code: u8) -> usize {
        self.width(base, self.ratios[usize::from(code) - 1])
    }

    /// Base width of a stage's output.
    pub(crate) fn out_base(&self, stage: usize) -> usize {
        self.stages[stage].width * self.block.expansion()
    }

    /// Base width of what a stage reads.
    pub(crate) fn in_base(&self, stage: usize) -> usize {
        stage.checked_sub(1).map_or(self.stem.width, |before| self.out_base(before))
    }

    /// Whether a stage's first block has a projection shortcut in the supernet. Where it has none,
    /// the stage's output width is tied to that of what it reads.
    pub fn projects(&self, stage: usize) -> bool {
        self.stages[stage].stride != 1 || self.in_base(stage) != self.out_base(stage)
    }

    /// Index of a stage's first block, counted over maximum depths: block `i` of the stage is
    /// `blocks.{1 + block_offset(stage) + i}` in a checkpoint.
    pub fn block_offset(&self, stage: usize) -> usize {
        self.stages[..stage].iter().map(|s| s.depth.1).sum()
    }

    /// Blocks of the largest network.
    pub fn max_blocks(&self) -> usize {
        self.block_offset(self.stages.len())
    }

    /// Every stage at its most blocks and full width: the supernet itself.
    pub fn largest(&self) -> Arch {
        let block = BlockCode { mid: 1, out: 1 };
        Arch { stem: 1, stages: self.stages.iter().map(|s| vec![block; s.depth.1]).collect() }
    }

    /// Every stage at fewest blocks and at the least widths that samplers may draw.
    pub fn smallest(&self) -> Arch {
        let mut out = self.shared_codes(None) as u8;
        let stem = out;
        let mut stages = Vec::with_capacity(self.stages.len());
        for (i, stage) in self.stages.iter().enumerate() {
            if self.projects(i) {
                out = self.shared_codes(Some(i)) as u8;
            }
            stages.push(vec![BlockCode { mid: stage.codes as u8, out }; stage.depth.0]);
        }
        Arch { stem, stages }
    }
}
