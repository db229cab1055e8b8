//! The values of a network: parameters and running statistics as two flat buffers.

use crate::layout::{ConvSlot, Layout};
use crate::plan::{Plan, PlannedConv};
use rand::RngExt;
use slimtau_base::{fill_normal, stream};

/// The values that a [`Layout`] describes.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    /// Trainable values, `layout.params()` of them.
    pub params: Vec<f32>,
    /// Running statistics, `layout.buffers()` of them.
    pub buffers: Vec<f32>,
}

impl Weights {
    /// He initialisation as PyTorch's ResNet has it: conv weights normal with variance
    /// 2 / (k^2 C_out) (fan-out), BN scale 1 and shift 0, classifier uniform in +-1/sqrt(C_in).
    pub fn init(layout: &Layout, seed: u64) -> Self {
        let mut weights =
            Self { params: vec![0.0; layout.params()], buffers: vec![0.0; layout.buffers()] };
        for (i, slot) in conv_slots(layout).enumerate() {
            let mut rng = stream(seed, "init.conv", i as u64);
            let fan_out = (slot.kernel * slot.kernel * slot.full_out) as f64;
            fill_normal(&mut rng, (2.0 / fan_out).sqrt(), &mut weights.params[slot.weight.clone()]);
            weights.params[slot.gamma.clone()].fill(1.0);
            weights.buffers[slot.var.clone()].fill(1.0);
        }
        let mut rng = stream(seed, "init.fc", 0);
        let bound = 1.0 / (layout.features() as f32).sqrt();
        for range in [&layout.fc_weight, &layout.fc_bias] {
            weights.params[range.clone()].fill_with(|| rng.random_range(-bound..bound));
        }
        weights
    }

    /// The weights of one subnet as a network of its own (layout: [`Layout::standalone`] of the
    /// plan's network), the leading block of every tensor copied.
    pub fn extract(&self, plan: &Plan, standalone: &Layout) -> Self {
        let mut out = Self::init(standalone, 0);
        for (from, to) in plan.convs().zip(conv_slots(standalone)) {
            self.extract_conv(from, to, &mut out);
        }
        let (inputs, full) = (standalone.features(), plan.fc_full_inputs);
        let weight = &self.params[plan.fc_weight.clone()];
        let rows = weight.chunks_exact(full);
        for (to, from) in
            out.params[standalone.fc_weight.clone()].chunks_exact_mut(inputs).zip(rows)
        {
            to.copy_from_slice(&from[..inputs]);
        }
        out.params[standalone.fc_bias.clone()].copy_from_slice(&self.params[plan.fc_bias.clone()]);
        out
    }

    fn extract_conv(&self, from: &PlannedConv, to: &ConvSlot, out: &mut Self) {
        let (ci, co) = (to.full_in, to.full_out);
        let source = &self.params[from.slot.weight.clone()];
        let target = &mut out.params[to.weight.clone()];
        for tap in 0..to.kernel * to.kernel {
            for i in 0..ci {
                let at = (tap * from.slot.full_in + i) * from.slot.full_out;
                target[(tap * ci + i) * co..][..co].copy_from_slice(&source[at..at + co]);
            }
        }
        let pairs = [(&from.slot.gamma, &to.gamma), (&from.slot.beta, &to.beta)];
        for (f, t) in pairs {
            out.params[t.clone()].copy_from_slice(&self.params[f.start..f.start + co]);
        }
        for (f, t) in [(&from.slot.mean, &to.mean), (&from.slot.var, &to.var)] {
            out.buffers[t.clone()].copy_from_slice(&self.buffers[f.start..f.start + co]);
        }
    }
}

pub(crate) fn conv_slots(layout: &Layout) -> impl Iterator<Item = &ConvSlot> {
    let blocks = layout.blocks.iter().flat_map(|b| b.convs.iter().chain(&b.projection));
    std::iter::once(&layout.stem).chain(blocks)
}
