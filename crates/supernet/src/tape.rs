//! Memory that a session keeps between steps: what the backward pass needs of the forward pass.

use crate::SupernetError;
use crate::backend::{Backend, NormOf, Read, Store};
use crate::plan::{Plan, PlannedBlock, PlannedConv};
use slimtau_kernels::Scratch;

/// A grow-only buffer handed out at the length that the current subnet needs. It starts on a cache
/// line: otherwise every vector of 16 channels would straddle two.
#[derive(Default)]
pub struct Buffer {
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
pub(crate) struct ConvTape<B: Backend> {
    /// [rows, out_channels]; the backward pass turns it into its own gradient.
    pub output: B::Map,
    pub mean: B::Vector,
    pub var: B::Vector,
}

impl<B: Backend> ConvTape<B> {
    pub fn new(backend: &B) -> Self {
        Self { output: backend.map(), mean: backend.vector(), var: backend.vector() }
    }

    pub fn reserve(&mut self, conv: &PlannedConv, batch: usize) -> Result<(), SupernetError> {
        self.output.reserve(conv.shape(batch).output_len())?;
        self.mean.reserve(conv.out_channels)?;
        self.var.reserve(conv.out_channels)
    }

    /// The norm of the output.
    pub fn norm<'t>(
        &'t self,
        conv: &'t PlannedConv,
        params: &'t B::Params,
        relu: bool,
    ) -> NormOf<'t, B> {
        NormOf { conv, params, mean: &self.mean, var: &self.var, relu }
    }

    /// What the next convolution of a block reads: this one's output through its norm and ReLU, or `hidden`, which is that.
    pub fn read<'t>(
        &'t self,
        conv: &'t PlannedConv,
        params: &'t B::Params,
        hidden: &'t B::Map,
    ) -> Read<'t, B> {
        if B::NORMALISES {
            Read { x: self.output.view(), norm: Some(self.norm(conv, params, true)) }
        } else {
            Read::plain(hidden.view())
        }
    }
}

pub(crate) struct BlockTape<B: Backend> {
    pub convs: Vec<ConvTape<B>>,
    pub projection: ConvTape<B>,
    /// Activations between the convolutions: `hidden[i]` = relu(bn(convs[i])); empty where [`Backend::NORMALISES`].
    pub hidden: Vec<B::Map>,
    /// The block's output.
    pub out: B::Map,
}

/// What a convolution of a block reads that comes after those of `before`, the first one `input`.
pub(crate) fn between<'t, B: Backend>(
    block: &'t PlannedBlock,
    params: &'t B::Params,
    input: &'t B::Map,
    before: &'t [ConvTape<B>],
    hidden: &'t [B::Map],
) -> Read<'t, B> {
    match before.len().checked_sub(1) {
        None => Read::plain(input.view()),
        Some(i) => before[i].read(&block.convs[i], params, &hidden[i]),
    }
}

/// What block `n` of a plan reads, and its own memory; `first` is what the first block reads.
pub(crate) fn input_and_tape<'t, B: Backend>(
    plan: &Plan,
    n: usize,
    first: &'t B::Map,
    blocks: &'t mut [BlockTape<B>],
) -> (&'t B::Map, &'t mut BlockTape<B>) {
    let (earlier, this) = blocks.split_at_mut(plan.blocks[n].place);
    let before = n.checked_sub(1).map(|n| plan.blocks[n].place);
    (before.map_or(first, |place| &earlier[place].out), &mut this[0])
}

pub(crate) struct StemTape<B: Backend> {
    pub conv: ConvTape<B>,
    /// relu(bn(conv)).
    pub out: B::Map,
    pub pooled: B::Map,
    pub places: B::Places,
}

impl<B: Backend> StemTape<B> {
    fn new(backend: &B) -> Self {
        let (out, pooled, places) = (backend.map(), backend.map(), backend.places());
        Self { conv: ConvTape::new(backend), out, pooled, places }
    }

    pub fn reserve(&mut self, plan: &Plan, batch: usize) -> Result<(), SupernetError> {
        self.conv.reserve(&plan.stem, batch)?;
        self.out.reserve(plan.stem.shape(batch).output_len())?;
        if plan.max_pool() {
            let len = plan.first_len(batch);
            self.pooled.reserve(len)?;
            self.places.reserve(len)?;
        }
        Ok(())
    }

    /// What the first block reads.
    pub fn first(&self, plan: &Plan) -> &B::Map {
        if plan.max_pool() { &self.pooled } else { &self.out }
    }
}

pub(crate) struct Tape<B: Backend> {
    pub stem: StemTape<B>,
    /// By a block's place in the layout, whichever of them a plan has.
    pub blocks: Vec<BlockTape<B>>,
    pub features: B::Vector,
    pub logits: B::Vector,
}

impl<B: Backend> Tape<B> {
    pub fn new(backend: &B) -> Self {
        Self {
            stem: StemTape::new(backend),
            blocks: Vec::new(),
            features: backend.vector(),
            logits: backend.vector(),
        }
    }

    /// Makes room for a plan; allocates only where no earlier plan was as wide.
    pub fn reserve(&mut self, backend: &B, plan: &Plan, batch: usize) -> Result<(), SupernetError> {
        self.stem.reserve(plan, batch)?;
        self.reserve_blocks(backend, plan, batch)
    }

    /// The same for all that follows the stem.
    pub fn reserve_blocks(
        &mut self,
        backend: &B,
        plan: &Plan,
        batch: usize,
    ) -> Result<(), SupernetError> {
        let places = plan.blocks.last().map_or(0, |block| block.place + 1);
        while self.blocks.len() < places {
            let (convs, hidden) = (Vec::new(), Vec::new());
            let projection = ConvTape::new(backend);
            self.blocks.push(BlockTape { convs, projection, hidden, out: backend.map() });
        }
        for block in &plan.blocks {
            let tape = &mut self.blocks[block.place];
            let last = block.convs.len() - 1;
            if tape.convs.len() < block.convs.len() {
                tape.convs.resize_with(block.convs.len(), || ConvTape::new(backend));
                tape.hidden.resize_with(last, || backend.map());
            }
            for (i, conv) in block.convs.iter().enumerate() {
                tape.convs[i].reserve(conv, batch)?;
                let len = conv.shape(batch).output_len();
                if i == last {
                    tape.out.reserve(len)?;
                } else if !B::NORMALISES {
                    tape.hidden[i].reserve(len)?;
                }
            }
            if let Some(conv) = &block.projection {
                tape.projection.reserve(conv, batch)?;
            }
        }
        self.features.reserve(batch * plan.features())?;
        self.logits.reserve(batch * plan.network().classes)
    }
}
