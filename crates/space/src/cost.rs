//! Costs of many architectures at once, from tables made once per space.

use crate::network::alphas_f;
use crate::{Arch, Block, SearchSpace, SpaceError};

/// What one architecture costs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Costs {
    /// Trainable parameters with classifier.
    pub params: u64,
    /// Multiply-accumulates on one image with classifier.
    pub macs: u64,
    /// CCFS-M: parameters without classifier.
    pub phi_m: f64,
    /// CCFS-F: the same, weighted by stage.
    pub phi_f: f64,
}

/// Widths and map sizes of a space by code, so that an architecture's costs are a few products.
/// Equal to those of [`crate::Network`], which tests check.
pub struct CostModel {
    block: Block,
    channels: usize,
    classes: usize,
    stem_kernel: usize,
    stem_pixels: usize,
    stem_widths: Vec<usize>,
    stages: Vec<StageTable>,
    alphas: Vec<f64>,
    /// Summands of the width sum by code - 1: of the stem, then of the stages.
    rounded_up: Vec<Vec<f64>>,
}

struct StageTable {
    /// Widths by code - 1.
    mid: Vec<usize>,
    out: Vec<usize>,
    /// Pixels that the first block reads, and that the stage makes.
    in_pixels: usize,
    pixels: usize,
    projects: bool,
}

/// Bases of the authors' width sum over the stem's width, by stage; the stem uses the first.
const WIDTH_SUM_BASES: [f64; 4] = [1.0, 1.1, 1.7, 1.9];

impl CostModel {
    /// The tables of a space.
    pub fn new(space: &SearchSpace) -> Self {
        let codes = 1..=space.ratios.len() as u8;
        let widths = |base| codes.clone().map(|c| space.code_width(base, c)).collect::<Vec<_>>();
        let halve = |size: usize, stride: usize| (size - 1) / stride + 1;
        let stem_size = halve(space.image_size, space.stem.stride);
        let mut size = if space.stem.max_pool { halve(stem_size, 2) } else { stem_size };
        let mut stages = Vec::with_capacity(space.stages.len());
        for (i, stage) in space.stages.iter().enumerate() {
            let out_size = halve(size, stage.stride);
            stages.push(StageTable {
                mid: widths(stage.width),
                out: widths(space.out_base(i)),
                in_pixels: size * size,
                pixels: out_size * out_size,
                projects: space.projects(i),
            });
            size = out_size;
        }
        let rounded_up = |stage: usize| {
            let base = space.stem.width as f64 * WIDTH_SUM_BASES[stage.min(3)];
            space.ratios.iter().map(|r| (base * r / 8.0).ceil() * 8.0).collect::<Vec<_>>()
        };
        let stage_sums = (0..stages.len()).map(rounded_up);
        Self {
            block: space.block,
            channels: space.channels,
            classes: space.classes,
            stem_kernel: space.stem.kernel,
            stem_pixels: stem_size * stem_size,
            stem_widths: widths(space.stem.width),
            alphas: alphas_f(stages.len()),
            rounded_up: std::iter::once(rounded_up(0)).chain(stage_sums).collect(),
            stages,
        }
    }

    /// The stage weights behind `phi_f`: [`alphas_f`] unless [`CostModel::with_alphas`] set others.
    pub fn alphas(&self) -> &[f64] {
        &self.alphas
    }

    /// Replaces the stage weights behind `phi_f` (stem first).
    ///
    /// # Errors
    /// [`SpaceError::Alphas`] unless there is one for the stem and one per stage,
    /// [`SpaceError::Alpha`] unless they are finite.
    pub fn with_alphas(mut self, alphas: &[f64]) -> Result<Self, SpaceError> {
        let stages = self.stages.len();
        if alphas.len() != stages + 1 {
            return Err(SpaceError::Alphas { found: alphas.len(), stages });
        }
        if let Some(&value) = alphas.iter().find(|alpha| !alpha.is_finite()) {
            return Err(SpaceError::Alpha { value });
        }
        self.alphas = alphas.to_vec();
        Ok(self)
    }

    /// The costs of an architecture of the space.
    ///
    /// # Panics
    /// When the architecture is not one of the space: it comes from [`SearchSpace::parse`] or a
    /// draw, which make no other.
    pub fn costs(&self, arch: &Arch) -> Costs {
        let mut total = Costs::default();
        let stem = self.stem_widths[usize::from(arch.stem) - 1];
        let taps = self.stem_kernel * self.stem_kernel;
        let weights = taps * self.channels * stem;
        total.macs += (weights * self.stem_pixels) as u64;
        total.params += (weights + 2 * stem) as u64;
        total.phi_f = self.alphas[0] * total.params as f64;
        let mut width = stem;
        for ((table, blocks), alpha) in self.stages.iter().zip(&arch.stages).zip(&self.alphas[1..])
        {
            let before = total.params;
            let mut pixels_in = table.in_pixels;
            for (i, block) in blocks.iter().enumerate() {
                let mid = table.mid[usize::from(block.mid) - 1];
                let out = table.out[usize::from(block.out) - 1];
                let (p, m) = self.branch(width, mid, out, pixels_in, table.pixels);
                total.params += p as u64;
                total.macs += m as u64;
                if (i == 0 && table.projects) || width != out {
                    total.params += (width * out + 2 * out) as u64;
                    total.macs += (table.pixels * width * out) as u64;
                }
                width = out;
                pixels_in = table.pixels;
            }
            total.phi_f += alpha * (total.params - before) as f64;
        }
        total.phi_m = total.params as f64;
        let classifier = width * self.classes;
        total.params += (classifier + self.classes) as u64;
        total.macs += classifier as u64;
        total
    }

    /// Parameters and MACs of a block without its shortcut.
    #[inline]
    fn branch(
        &self,
        input: usize,
        mid: usize,
        out: usize,
        pixels_in: usize,
        pixels: usize,
    ) -> (usize, usize) {
        match self.block {
            Block::Basic => {
                let weights = 9 * mid * (input + out);
                (weights + 2 * (mid + out), weights * pixels)
            }
            Block::Bottleneck => {
                let (w1, w2, w3) = (input * mid, 9 * mid * mid, mid * out);
                (w1 + w2 + w3 + 2 * (2 * mid + out), w1 * pixels_in + (w2 + w3) * pixels)
            }
        }
    }

    /// The authors' width-sum score (an option; the paper's score is Phi).
    ///
    /// The width of the stem and of both convolutions of every block (middle and output, no
    /// projection), each base * ratio rounded *up* to a multiple of 8. The bases are not the
    /// network's: the stem's width times 1 for the stem and times (1, 1.1, 1.7, 1.9) for the four
    /// stages; further stages repeat the last. This reading gives the tau of 0.686 that the
    /// score is known to reach on the competition's 30 published accuracies.
    ///
    /// # Panics
    /// As [`CostModel::costs`].
    pub fn width_sum(&self, arch: &Arch) -> f64 {
        let mut sum = self.rounded_up[0][usize::from(arch.stem) - 1];
        for (widths, blocks) in self.rounded_up[1..].iter().zip(&arch.stages) {
            for block in blocks {
                sum += widths[usize::from(block.mid) - 1] + widths[usize::from(block.out) - 1];
            }
        }
        sum
    }
}
