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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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

/// A family of slimmable residual networks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
    #[serde(default = "default_divisor")]
    pub divisor: usize,
    /// Kind of block.
    pub block: Block,
    /// The layers before the first stage.
    pub stem: Stem,
    /// The stages, in order.
    #[serde(rename = "stage")]
    pub stages: Vec<Stage>,
}

fn default_divisor() -> usize {
    8
}

impl SearchSpace {
    /// Width of `base` channels at a ratio: rounded to the nearest multiple of the divisor, at
    /// least one divisor, and one divisor more where rounding took over a tenth away.
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

    /// Every stage at most blocks and full width.
    pub fn largest(&self) -> Arch {
        self.uniform_arch(1, |s| s.depth.1)
    }

    /// Every stage at fewest blocks and least width (the last ratio that samplers may draw).
    pub fn smallest(&self) -> Arch {
        let mut arch = self.uniform_arch(1, |s| s.depth.0);
        arch.stem = self.stem.codes as u8;
        for (stage, blocks) in self.stages.iter().zip(&mut arch.stages) {
            blocks.fill(BlockCode { mid: stage.codes as u8, out: stage.codes as u8 });
        }
        self.tie(&mut arch);
        arch
    }

    fn uniform_arch(&self, code: u8, depth: impl Fn(&Stage) -> usize) -> Arch {
        let block = BlockCode { mid: code, out: code };
        Arch { stem: code, stages: self.stages.iter().map(|s| vec![block; depth(s)]).collect() }
    }

    /// Makes tied outputs equal by giving each tie the widest code in it.
    pub(crate) fn tie(&self, arch: &mut Arch) {
        for group in self.tie_groups() {
            let stem = group.contains(&None).then_some(arch.stem);
            let stages = group.iter().flatten().flat_map(|&s| arch.stages[s].iter().map(|b| b.out));
            let Some(widest) = stem.into_iter().chain(stages).min() else { continue };
            self.set_output(arch, &group, widest);
        }
    }

    /// Sets the output code of a tie group (`None` = the stem).
    pub(crate) fn set_output(&self, arch: &mut Arch, group: &[Option<usize>], code: u8) {
        for member in group {
            match member {
                None => arch.stem = code,
                Some(stage) => arch.stages[*stage].iter_mut().for_each(|b| b.out = code),
            }
        }
    }

    /// Sets of outputs that must be equally wide: the stem (`None`) and stages by index.
    pub(crate) fn tie_groups(&self) -> Vec<Vec<Option<usize>>> {
        let mut groups = vec![vec![None]];
        for stage in 0..self.stages.len() {
            match groups.last_mut() {
                Some(last) if !self.projects(stage) => last.push(Some(stage)),
                _ => groups.push(vec![Some(stage)]),
            }
        }
        groups
    }

    /// How many codes a sampler may draw for a tie group: the fewest that its members allow.
    pub(crate) fn group_codes(&self, group: &[Option<usize>]) -> usize {
        let codes = group.iter().map(|m| m.map_or(self.stem.codes, |s| self.stages[s].codes));
        codes.min().unwrap_or(self.ratios.len())
    }
}
