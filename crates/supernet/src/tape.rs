//! Memory that a session keeps between steps: what the backward pass needs of the forward pass.

use crate::plan::{Plan, PlannedConv};
use slimtau_kernels::Scratch;

/// A grow-only buffer handed out at the length that the current subnet needs. It starts on a cache
/// line: otherwise every vector of 16 channels would straddle two.
#[derive(Default)]
pub(crate) struct Buffer {
    values: Scratch,
    len: usize,
}

impl Buffer {
    /// Sets the length; contents are unspecified.
    pub fn reserve(&mut self, len: usize) -> &mut [f32] {
        self.len = len;
        self.values.floats(len)
    }

    pub fn get(&self) -> &[f32] {
        self.values.first(self.len)
    }

    pub fn get_mut(&mut self) -> &mut [f32] {
        self.values.floats(self.len)
    }
}

/// One convolution's output and the statistics that its batch norm used.
#[derive(Default)]
pub(crate) struct ConvTape {
    /// [rows, out_channels]; the backward pass turns it into its own gradient.
    pub output: Buffer,
    pub mean: Buffer,
    pub var: Buffer,
}

impl ConvTape {
    pub fn reserve(&mut self, conv: &PlannedConv, batch: usize) {
        self.output.reserve(conv.shape(batch).output_len());
        self.mean.reserve(conv.out_channels);
        self.var.reserve(conv.out_channels);
    }
}

#[derive(Default)]
pub(crate) struct BlockTape {
    pub convs: Vec<ConvTape>,
    pub projection: ConvTape,
    /// Activations between the convolutions: `hidden[i]` = relu(bn(convs[i])).
    pub hidden: Vec<Buffer>,
    /// The block's output.
    pub out: Buffer,
}

#[derive(Default)]
pub(crate) struct Tape {
    pub stem: ConvTape,
    /// relu(bn(stem)); when there is no max-pool, the first block's input.
    pub stem_out: Buffer,
    pub pooled: Buffer,
    pub argmax: Vec<u8>,
    pub blocks: Vec<BlockTape>,
    pub features: Buffer,
    pub logits: Buffer,
}

impl Tape {
    /// Makes room for a plan; allocates only where no earlier plan was as deep or as wide.
    pub fn reserve(&mut self, plan: &Plan, batch: usize) {
        self.stem.reserve(&plan.stem, batch);
        self.stem_out.reserve(plan.stem.shape(batch).output_len());
        if plan.max_pool() {
            let size = plan.after_stem();
            let len = batch * size * size * plan.stem.out_channels;
            self.pooled.reserve(len);
            if self.argmax.len() < len {
                self.argmax.resize(len, 0);
            }
        }
        if self.blocks.len() < plan.blocks.len() {
            self.blocks.resize_with(plan.blocks.len(), BlockTape::default);
        }
        for (tape, block) in self.blocks.iter_mut().zip(&plan.blocks) {
            let last = block.convs.len() - 1;
            if tape.convs.len() < block.convs.len() {
                tape.convs.resize_with(block.convs.len(), ConvTape::default);
                tape.hidden.resize_with(last, Buffer::default);
            }
            for (i, conv) in block.convs.iter().enumerate() {
                tape.convs[i].reserve(conv, batch);
                let len = conv.shape(batch).output_len();
                let out = if i < last { &mut tape.hidden[i] } else { &mut tape.out };
                out.reserve(len);
            }
            if let Some(conv) = &block.projection {
                tape.projection.reserve(conv, batch);
            }
        }
    }
}
