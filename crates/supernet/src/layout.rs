//! Where every tensor of a network lies: names, shapes and places in two flat buffers.
//!
//! One flat buffer lets the optimiser, EMA, the momentum encoder and checkpoints be single passes,
//! and makes "the gradient lands in the leading block of the shared weight" a matter of strides.

use crate::SupernetError;
use slimtau_space::{ConvLayer, Network, SearchSpace};
use std::ops::Range;
use std::sync::Arc;

/// One convolution with its batch norm.
#[derive(Clone, Debug, PartialEq)]
pub struct ConvSlot {
    /// Full width of the input.
    pub full_in: usize,
    /// Full width of the output.
    pub full_out: usize,
    /// Kernel side; the padding is half of it.
    pub kernel: usize,
    /// Stride.
    pub stride: usize,
    /// Weight [k, k, full_in, full_out] in the parameters.
    pub weight: Range<usize>,
    /// BN scale `[full_out]` in the parameters.
    pub gamma: Range<usize>,
    /// BN shift `[full_out]` in the parameters.
    pub beta: Range<usize>,
    /// BN running mean `[full_out]` in the buffers.
    pub mean: Range<usize>,
    /// BN running variance `[full_out]` in the buffers.
    pub var: Range<usize>,
}

/// One residual block.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct BlockSlot {
    pub stage: usize,
    pub index_in_stage: usize,
    pub convs: Vec<ConvSlot>,
    pub projection: Option<ConvSlot>,
}

/// A tensor as a checkpoint names it.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSlot {
    /// Its name in PyTorch's manner, `blocks.3.conv1.weight`.
    pub name: String,
    /// Its shape in PyTorch's order (conv weights OIHW).
    pub shape: Vec<usize>,
    /// Its place in the parameters, or in the buffers if `buffer`.
    pub range: Range<usize>,
    /// Whether it is a running statistic rather than a parameter.
    pub buffer: bool,
}

/// The tensors of one network: the largest of a space, or a single stand-alone subnet.
#[derive(Debug, PartialEq)]
pub struct Layout {
    pub(crate) stem: ConvSlot,
    pub(crate) blocks: Vec<BlockSlot>,
    pub(crate) fc_weight: Range<usize>,
    pub(crate) fc_bias: Range<usize>,
    network: Network,
    params: usize,
    buffers: usize,
    tensors: Vec<TensorSlot>,
}

impl Layout {
    /// The weight-sharing supernet of a space: the tensors of its largest network.
    ///
    /// # Errors
    /// When the space's largest network cannot be resolved.
    pub fn supernet(space: &SearchSpace) -> Result<Arc<Self>, SupernetError> {
        Ok(Self::standalone(&space.resolve(&space.largest())?))
    }

    /// A network by itself: every tensor as wide as the network uses it.
    ///
    /// Blocks are numbered in order of execution, so the classifier is `blocks.{1 + blocks}.fc`.
    pub fn standalone(network: &Network) -> Arc<Self> {
        let mut builder = Builder::default();
        let stem = builder.conv(&network.stem, "blocks.0.conv", "blocks.0.bn");
        let mut blocks = Vec::with_capacity(network.blocks.len());
        for (i, block) in network.blocks.iter().enumerate() {
            let prefix = format!("blocks.{}", i + 1);
            let convs = block.convs.iter().enumerate().map(|(j, conv)| {
                let j = j + 1;
                builder.conv(conv, &format!("{prefix}.conv{j}"), &format!("{prefix}.bn{j}"))
            });
            let convs = convs.collect();
            let projection = block.projection.as_ref().map(|conv| {
                let name = format!("{prefix}.downsample");
                builder.conv(conv, &format!("{name}.0"), &format!("{name}.1"))
            });
            let (stage, index_in_stage) = (block.stage, block.index_in_stage);
            blocks.push(BlockSlot { stage, index_in_stage, convs, projection });
        }
        let Network { features, classes, .. } = *network;
        let fc = format!("blocks.{}.fc", network.blocks.len() + 1);
        let fc_weight = builder.place(format!("{fc}.weight"), vec![classes, features], false);
        let fc_bias = builder.place(format!("{fc}.bias"), vec![classes], false);
        let Builder { params, buffers, tensors } = builder;
        let network = network.clone();
        Arc::new(Self { stem, blocks, fc_weight, fc_bias, network, params, buffers, tensors })
    }

    /// The network that uses every tensor at full width.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Number of trainable values.
    pub fn params(&self) -> usize {
        self.params
    }

    /// Number of running statistics.
    pub fn buffers(&self) -> usize {
        self.buffers
    }

    /// Channels that enter the classifier at full width.
    pub fn features(&self) -> usize {
        self.network.features
    }

    /// Classes.
    pub fn classes(&self) -> usize {
        self.network.classes
    }

    /// Every tensor by its checkpoint name, in order of execution.
    pub fn tensors(&self) -> &[TensorSlot] {
        &self.tensors
    }

    /// The place of a block in `blocks`.
    pub(crate) fn place(&self, stage: usize, index_in_stage: usize) -> Option<usize> {
        self.blocks.iter().position(|b| b.stage == stage && b.index_in_stage == index_in_stage)
    }
}

#[derive(Default)]
struct Builder {
    params: usize,
    buffers: usize,
    tensors: Vec<TensorSlot>,
}

impl Builder {
    fn place(&mut self, name: String, shape: Vec<usize>, buffer: bool) -> Range<usize> {
        let len: usize = shape.iter().product();
        let end = if buffer { &mut self.buffers } else { &mut self.params };
        let range = *end..*end + len;
        *end = range.end;
        self.tensors.push(TensorSlot { name, shape, range: range.clone(), buffer });
        range
    }

    fn conv(&mut self, layer: &ConvLayer, conv: &str, norm: &str) -> ConvSlot {
        let ConvLayer { in_channels, out_channels, kernel, stride, .. } = *layer;
        let shape = vec![out_channels, in_channels, kernel, kernel];
        let mut vector =
            |what: &str, buffer| self.place(format!("{norm}.{what}"), vec![out_channels], buffer);
        let (gamma, beta) = (vector("weight", false), vector("bias", false));
        let (mean, var) = (vector("running_mean", true), vector("running_var", true));
        let weight = self.place(format!("{conv}.weight"), shape, false);
        ConvSlot {
            full_in: in_channels,
            full_out: out_channels,
            kernel,
            stride,
            weight,
            gamma,
            beta,
            mean,
            var,
        }
    }
}
