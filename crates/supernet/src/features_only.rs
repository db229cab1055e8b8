//! Features of a training pass that no backward pass follows: a few maps for any depth, which stay in the caches from layer
//! to layer, instead of one for each layer.

use crate::SupernetError;
use crate::backend::{Backend, MapView, Store};
use crate::infer::{self, ConvNorm, Inner};
use crate::passes::{Flowing, Forward};
use crate::plan::{Plan, PlannedConv};
use crate::tape::ConvTape;

/// What is read and written from block to block, and what lives within one of them.
pub(crate) struct Memory<B: Backend> {
    x: B::Map,
    out: B::Map,
    inner: Inner<B>,
    conv: ConvTape<B>,
    pub features: B::Vector,
}

impl<B: Backend> Memory<B> {
    /// Takes the maps that lie idle between backward passes for those of a block, or gives them back.
    pub fn exchange(&mut self, flowing: &mut Flowing<B>, shortcut: &mut B::Map) {
        let Inner { hidden: [first, second], shortcut: own } = &mut self.inner;
        std::mem::swap(first, &mut flowing.grad);
        std::mem::swap(second, &mut flowing.inner);
        std::mem::swap(&mut self.conv.output, &mut flowing.shortcut);
        std::mem::swap(own, shortcut);
    }

    pub fn new(backend: &B) -> Self {
        Self {
            x: backend.map(),
            out: backend.map(),
            inner: Inner::new(backend),
            conv: ConvTape::new(backend),
            features: backend.vector(),
        }
    }
}

/// Pooled features [N, C], into the memory's.
pub(crate) fn run<B: Backend>(
    memory: &mut Memory<B>,
    forward: Forward<'_, B>,
    plan: &Plan,
    images: MapView<'_, B>,
) -> Result<(), SupernetError> {
    let Memory { x, out, inner, conv, features } = memory;
    let mut layers = Passing { forward, conv };
    infer::stem(&mut layers, plan, images, inner, x)?;
    for planned in &plan.blocks {
        infer::block(&mut layers, planned, x, inner, out)?;
        std::mem::swap(x, out);
    }
    let batch = layers.batch();
    features.reserve(batch * plan.features())?;
    layers.backend().average_pool_forward(plan, batch, x.view(), features)
}

/// The layers of a training pass, each in the same memory.
struct Passing<'a, 'f, B: Backend> {
    forward: Forward<'f, B>,
    conv: &'a mut ConvTape<B>,
}

impl<B: Backend> ConvNorm<B> for Passing<'_, '_, B> {
    fn conv(
        &mut self,
        conv: &PlannedConv,
        x: MapView<'_, B>,
        residual: Option<MapView<'_, B>>,
        relu: bool,
        out: &mut B::Map,
    ) -> Result<(), SupernetError> {
        self.conv.reserve(conv, self.forward.batch)?;
        out.reserve(conv.shape(self.forward.batch).output_len())?;
        self.forward.conv_norm(conv, x, residual, relu, self.conv, out)
    }

    fn backend(&mut self) -> &mut B {
        self.forward.backend
    }

    fn batch(&self) -> usize {
        self.forward.batch
    }
}
