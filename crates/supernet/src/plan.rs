//! Which layers, at which widths, one subnet uses: the link between a code and the flat buffers.

use crate::SupernetError;
use crate::layout::{ConvSlot, Layout};
use slimtau_kernels::conv::ConvShape;
use slimtau_space::{Arch, ConvLayer, Network, SearchSpace};
use std::ops::Range;

/// A convolution at its active widths.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedConv {
    pub slot: ConvSlot,
    pub in_channels: usize,
    pub out_channels: usize,
    pub in_size: usize,
}

impl PlannedConv {
    pub fn shape(&self, batch: usize) -> ConvShape {
        ConvShape {
            batch,
            height: self.in_size,
            width: self.in_size,
            in_channels: self.in_channels,
            out_channels: self.out_channels,
            full_in: self.slot.full_in,
            full_out: self.slot.full_out,
            kernel: self.slot.kernel,
            stride: self.slot.stride,
        }
    }

    /// Multiply-accumulates per image.
    pub fn macs(&self) -> u64 {
        let taps = self.slot.kernel * self.slot.kernel * self.in_channels;
        (self.shape(1).output_len() * taps) as u64
    }

    /// The leading `out_channels` of one of the slot's per-channel vectors.
    pub fn vector(&self, range: &Range<usize>) -> Range<usize> {
        range.start..range.start + self.out_channels
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PlannedBlock {
    /// Its place among the layout's blocks.
    pub place: usize,
    pub convs: Vec<PlannedConv>,
    pub projection: Option<PlannedConv>,
}

/// One subnet, resolved against a [`Layout`].
#[derive(Clone, Debug)]
pub struct Plan {
    network: Network,
    pub(crate) stem: PlannedConv,
    pub(crate) blocks: Vec<PlannedBlock>,
    pub(crate) fc_weight: Range<usize>,
    pub(crate) fc_bias: Range<usize>,
    pub(crate) fc_full_inputs: usize,
}

impl Plan {
    /// A subnet of a weight-sharing supernet.
    ///
    /// # Errors
    /// When the code breaks the residual ties (it then has no place in a supernet), or does not
    /// fit the layout.
    pub fn subnet(
        space: &SearchSpace,
        layout: &Layout,
        arch: &Arch,
    ) -> Result<Self, SupernetError> {
        space.check_tied(arch)?;
        Self::new(&space.resolve(arch)?, layout)
    }

    /// Any network whose layers fit a layout's tensors.
    ///
    /// # Errors
    /// When a layer is missing from the layout, wider than it, or of another kernel or stride.
    pub fn new(network: &Network, layout: &Layout) -> Result<Self, SupernetError> {
        let stem = planned(&network.stem, Some(&layout.stem), 0, 0)?;
        let mut blocks = Vec::with_capacity(network.blocks.len());
        for block in &network.blocks {
            let (stage, index) = (block.stage, block.index_in_stage);
            let place = layout.place(stage, index);
            let slot = place.map(|place| &layout.blocks[place]);
            let convs = block.convs.iter().enumerate();
            let convs = convs.map(|(i, conv)| {
                planned(conv, slot.and_then(|s| s.convs.get(i)), stage + 1, index + 1)
            });
            let convs = convs.collect::<Result<_, _>>()?;
            let projection = block.projection.as_ref().map(|conv| {
                planned(conv, slot.and_then(|s| s.projection.as_ref()), stage + 1, index + 1)
            });
            let projection = projection.transpose()?;
            // A block without a place has not got here.
            blocks.push(PlannedBlock { place: place.unwrap_or_default(), convs, projection });
        }
        if network.classes != layout.classes() {
            return Err(SupernetError::NoPlace {
                stage: 0,
                block: 0,
                needed: format!("{} classes", network.classes),
                available: layout.classes().to_string(),
            });
        }
        Ok(Self {
            network: network.clone(),
            stem,
            blocks,
            fc_weight: layout.fc_weight.clone(),
            fc_bias: layout.fc_bias.clone(),
            fc_full_inputs: layout.features(),
        })
    }

    /// The layers at their active widths.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Channels that enter the classifier.
    pub fn features(&self) -> usize {
        self.network.features
    }

    /// Channels that the stem has.
    pub fn stem_channels(&self) -> usize {
        self.stem.out_channels
    }

    /// Values in one image, H x W x C.
    pub fn image_len(&self) -> usize {
        self.network.image_size * self.network.image_size * self.network.channels
    }

    /// The number of images in a buffer.
    ///
    /// # Errors
    /// When the buffer is empty or not a whole number of images.
    pub fn batch(&self, images: &[f32]) -> Result<usize, SupernetError> {
        self.batch_of(images.len())
    }

    /// The number of images in so many values.
    pub(crate) fn batch_of(&self, values: usize) -> Result<usize, SupernetError> {
        if values == 0 || !values.is_multiple_of(self.image_len()) {
            let (size, channels) = (self.network.image_size, self.network.channels);
            return Err(SupernetError::Images { size, channels, got: values });
        }
        Ok(values / self.image_len())
    }

    /// Every convolution in order of execution (a projection after its block's convolutions).
    pub(crate) fn convs(&self) -> impl Iterator<Item = &PlannedConv> {
        let blocks = self.blocks.iter().flat_map(|b| b.convs.iter().chain(&b.projection));
        std::iter::once(&self.stem).chain(blocks)
    }

    /// Appends the parts of the flat parameters that belong to tensors this subnet uses. They are
    /// whole tensors: an optimiser steps a shared tensor as one, as PyTorch would.
    pub fn add_active_ranges(&self, classifier: bool, ranges: &mut Vec<Range<usize>>) {
        for c in self.convs() {
            ranges.extend([&c.slot.gamma, &c.slot.beta, &c.slot.weight].map(Range::clone));
        }
        if classifier {
            ranges.extend([self.fc_weight.clone(), self.fc_bias.clone()]);
        }
    }

    /// Size of the last feature map, in pixels.
    pub(crate) fn last_pixels(&self) -> usize {
        let last = self.network.blocks.last().and_then(|b| b.convs.last());
        let size = last.map_or(self.after_stem(), |c| c.out_size);
        size * size
    }

    /// Side of the map that the first block reads.
    pub(crate) fn after_stem(&self) -> usize {
        let size = self.network.stem.out_size;
        if self.network.max_pool { size.div_ceil(2) } else { size }
    }

    /// Values in the map that the first block reads.
    pub(crate) fn first_len(&self, batch: usize) -> usize {
        batch * self.after_stem() * self.after_stem() * self.stem.out_channels
    }

    pub(crate) fn max_pool(&self) -> bool {
        self.network.max_pool
    }
}

/// Turns ranges into their union: sorted, disjoint, non-adjacent. In place.
pub fn merge_ranges(ranges: &mut Vec<Range<usize>>) {
    ranges.sort_unstable_by_key(|r| r.start);
    ranges.dedup_by(|next, last| {
        let joined = next.start <= last.end;
        if joined {
            last.end = last.end.max(next.end);
        }
        joined
    });
}

fn planned(
    layer: &ConvLayer,
    slot: Option<&ConvSlot>,
    stage: usize,
    block: usize,
) -> Result<PlannedConv, SupernetError> {
    let ConvLayer { in_channels, out_channels, kernel, stride, in_size, .. } = *layer;
    let describe = |ci, co, k, s| format!("a {k}x{k} convolution {ci} -> {co} at stride {s}");
    let fits = |s: &&ConvSlot| {
        in_channels <= s.full_in
            && out_channels <= s.full_out
            && kernel == s.kernel
            && stride == s.stride
    };
    match slot.filter(fits) {
        Some(slot) => Ok(PlannedConv { slot: slot.clone(), in_channels, out_channels, in_size }),
        None => Err(SupernetError::NoPlace {
            stage,
            block,
            needed: describe(in_channels, out_channels, kernel, stride),
            available: slot.map_or("none there".into(), |s| {
                describe(s.full_in, s.full_out, s.kernel, s.stride)
            }),
        }),
    }
}
