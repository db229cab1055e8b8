//! One architecture's layers at their widths, and what they cost.

use crate::{Arch, Block, SearchSpace, SpaceError};

/// Weights of the stem and the four stages in the paper's CCFS-F score.
pub const ALPHA_F: [f64; 5] = [1.0, 1.0, 0.55, 0.43, 0.24];

/// A convolution with its batch norm. Maps are square; the padding is half the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvLayer {
    /// Input width.
    pub in_channels: usize,
    /// Output width.
    pub out_channels: usize,
    /// Kernel side.
    pub kernel: usize,
    /// Stride.
    pub stride: usize,
    /// Side of the input map.
    pub in_size: usize,
    /// Side of the output map.
    pub out_size: usize,
}

impl ConvLayer {
    fn new(
        in_channels: usize,
        out_channels: usize,
        kernel: usize,
        stride: usize,
        in_size: usize,
    ) -> Self {
        let out_size = (in_size + 2 * (kernel / 2) - kernel) / stride + 1;
        Self { in_channels, out_channels, kernel, stride, in_size, out_size }
    }

    /// Weights of the convolution alone.
    pub fn weights(&self) -> u64 {
        (self.kernel * self.kernel * self.in_channels * self.out_channels) as u64
    }

    /// Weights, BN scale and BN shift.
    pub fn params(&self) -> u64 {
        self.weights() + 2 * self.out_channels as u64
    }

    /// Multiply-accumulates on one image.
    pub fn macs(&self) -> u64 {
        (self.out_size * self.out_size) as u64 * self.weights()
    }
}

/// One residual block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockLayers {
    /// Stage, from 0.
    pub stage: usize,
    /// Block in its stage, from 0.
    pub index_in_stage: usize,
    /// The branch's convolutions in order.
    pub convs: Vec<ConvLayer>,
    /// The 1x1 shortcut, where the input cannot be added as it is.
    pub projection: Option<ConvLayer>,
}

/// A network's layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Height and width of the input.
    pub image_size: usize,
    /// Channels of the input.
    pub channels: usize,
    /// Classes.
    pub classes: usize,
    /// First convolution.
    pub stem: ConvLayer,
    /// Whether a 3x3 max-pool of stride 2 follows it.
    pub max_pool: bool,
    /// The residual blocks in order.
    pub blocks: Vec<BlockLayers>,
    /// Channels that enter the classifier.
    pub features: usize,
}

impl Network {
    /// Every convolution with its stage (0 = stem, then stages from 1), in order of execution.
    pub fn convs(&self) -> impl Iterator<Item = (usize, &ConvLayer)> {
        let blocks = self
            .blocks
            .iter()
            .flat_map(|b| b.convs.iter().chain(&b.projection).map(move |conv| (b.stage + 1, conv)));
        std::iter::once((0, &self.stem)).chain(blocks)
    }

    /// Trainable parameters: convolutions, BN scale and shift, classifier.
    pub fn params(&self) -> u64 {
        let convs: u64 = self.convs().map(|(_, c)| c.params()).sum();
        convs + (self.features * self.classes + self.classes) as u64
    }

    /// Multiply-accumulates of convolutions and classifier on one image.
    pub fn macs(&self) -> u64 {
        let convs: u64 = self.convs().map(|(_, c)| c.macs()).sum();
        convs + (self.features * self.classes) as u64
    }

    /// The paper's score, Phi = sum_i alpha_i p_i: alpha of the stem or stage times its parameters
    /// (weights, BN scale and shift; a projection belongs to its stage; no classifier).
    ///
    /// # Errors
    /// [`SpaceError::Alphas`] unless there is one alpha for the stem and one per stage.
    pub fn phi(&self, alphas: &[f64]) -> Result<f64, SpaceError> {
        let stages = self.blocks.last().map_or(0, |b| b.stage + 1);
        if alphas.len() != stages + 1 {
            return Err(SpaceError::Alphas { found: alphas.len(), stages });
        }
        // Whole numbers up to the last step: the sum does not depend on the order of layers.
        let mut params = vec![0; stages + 1];
        for (stage, conv) in self.convs() {
            params[stage] += conv.params();
        }
        Ok(alphas.iter().zip(params).map(|(alpha, p)| alpha * p as f64).sum())
    }

    /// CCFS-M's score: Phi with every alpha 1.
    pub fn phi_m(&self) -> f64 {
        self.convs().map(|(_, conv)| conv.params()).sum::<u64>() as f64
    }

    /// CCFS-F's score: Phi with [`alphas_f`].
    pub fn phi_f(&self) -> f64 {
        let stages = self.blocks.last().map_or(0, |b| b.stage + 1);
        self.phi(&alphas_f(stages)).expect("alphas_f gives one for the stem and one per stage")
    }
}

/// The paper's CCFS-F weights for a stem and `stages` stages; beyond four stages the last weight
/// is repeated, since the paper's fall with depth and say nothing about a fifth stage.
pub fn alphas_f(stages: usize) -> Vec<f64> {
    (0..=stages).map(|i| ALPHA_F[i.min(ALPHA_F.len() - 1)]).collect()
}

impl SearchSpace {
    /// An architecture's layers. Where the supernet has a projection ([`SearchSpace::projects`]) so
    /// has every subnet, whatever its widths. A code that breaks the residual ties has one more
    /// wherever a block's input and output differ in width; that network can be trained alone.
    ///
    /// # Errors
    /// [`SpaceError::Arch`] when an architecture built by hand is not one of the space.
    pub fn resolve(&self, arch: &Arch) -> Result<Network, SpaceError> {
        self.check(arch)?;
        let stem_width = self.code_width(self.stem.width, arch.stem);
        let stem = ConvLayer::new(
            self.channels,
            stem_width,
            self.stem.kernel,
            self.stem.stride,
            self.image_size,
        );
        let mut size = if self.stem.max_pool { stem.out_size.div_ceil(2) } else { stem.out_size };
        let mut width = stem_width;
        let mut blocks = Vec::with_capacity(arch.depth());
        for (s, (stage, codes)) in self.stages.iter().zip(&arch.stages).enumerate() {
            for (b, code) in codes.iter().enumerate() {
                let stride = if b == 0 { stage.stride } else { 1 };
                let mid = self.code_width(stage.width, code.mid);
                let out = self.code_width(self.out_base(s), code.out);
                let convs = match self.block {
                    Block::Basic => {
                        let first = ConvLayer::new(width, mid, 3, stride, size);
                        vec![first, ConvLayer::new(mid, out, 3, 1, first.out_size)]
                    }
                    Block::Bottleneck => {
                        let first = ConvLayer::new(width, mid, 1, 1, size);
                        let second = ConvLayer::new(mid, mid, 3, stride, size);
                        vec![first, second, ConvLayer::new(mid, out, 1, 1, second.out_size)]
                    }
                };
                let shared = b == 0 && self.projects(s);
                let projection =
                    (shared || width != out).then(|| ConvLayer::new(width, out, 1, stride, size));
                size = convs[convs.len() - 1].out_size;
                width = out;
                blocks.push(BlockLayers { stage: s, index_in_stage: b, convs, projection });
            }
        }
        Ok(Network {
            image_size: self.image_size,
            channels: self.channels,
            classes: self.classes,
            stem,
            max_pool: self.stem.max_pool,
            blocks,
            features: width,
        })
    }
}
