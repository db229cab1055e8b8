//! PA&DA's paths: subnets drawn in proportion to the gradient norms of what they are made of.

use crate::importance::Importance;
use slimtau_base::{FileError, TensorFile, stream};
use slimtau_space::{Arch, BlockCode, SearchSpace};
use std::path::Path;

/// Sampling probabilities of every option of every choice, learned from gradient norms (Lu et al.,
/// PA&DA: Jointly Sampling PAth and DAta for Consistent NAS, CVPR 2023).
///
/// The variance of the supernet's gradient over sampled paths is least when a path's probability is
/// proportional to its gradient's norm. An option's importance here is the running mean of the norms
/// of the *whole subnets' gradients* that it was drawn in; the probability of an option is that norm,
/// normalised over its choice and smoothed towards uniform:
///
/// p = smoothing norm / sum of norms + (1 - smoothing) / options.
///
/// Choices are each tied output width, each stage's depth, and each block's middle width, drawn
/// independently. What differs from the authors' code for NAS-Bench-201, and why:
/// - There, every operation owns its weights, and its importance is the norm of their gradient. The
///   options of a slimmable choice share leading channels and the blocks before them: the norm of
///   "an option's own" gradient would mostly say how many channels it has. The norm of the path's
///   gradient, which the theorem is about, has no such bias.
/// - The code draws all edges from one distribution; here every choice has its own.
/// - The code forgets the norms after each epoch, starts them at 0, and averages with weight 1/2;
///   here they stay, the first is taken as it is, and the weight is the caller's.
///
/// As in the authors' code the gradients of the drawn paths are not reweighted: important paths are
/// trained more often.
#[derive(Clone, Debug, PartialEq)]
pub struct PathImportance {
    space: SearchSpace,
    importance: Importance,
    momentum: f32,
}

impl PathImportance {
    /// Uniform over the restricted ranges of a space. `momentum`, 0 to 1, is the share of its old
    /// value that a running norm keeps with each observation; 0.5 in the authors' code.
    pub fn new(space: &SearchSpace, momentum: f32) -> Self {
        let mut choices = vec![space.shared_codes(None)];
        for (i, stage) in space.stages.iter().enumerate() {
            if space.projects(i) {
                choices.push(space.shared_codes(Some(i)));
            }
            choices.push(stage.depth.1 - stage.depth.0 + 1);
            choices.extend(std::iter::repeat_n(stage.codes, stage.depth.1));
        }
        Self { space: space.clone(), importance: Importance::new(choices), momentum }
    }

    /// Takes in the L2 norm of a drawn subnet's gradient: all of its choices get it. One that is
    /// not finite is passed over.
    ///
    /// # Panics
    /// When the subnet is not one that this draws.
    pub fn observe(&mut self, arch: &Arch, norm: f64) {
        let Self { space, importance, momentum } = self;
        visit(space, arch, |choice, option| {
            importance.observe(choice, option, norm as f32, *momentum);
        });
    }

    /// Makes the probabilities in force from the norms observed so far. `smoothing`, 0 to 1, is
    /// their weight against uniform; the paper raises it from 0 to 1 over the epochs.
    pub fn update(&mut self, smoothing: f32) {
        self.importance.update(smoothing);
    }

    /// The `keep` subnets of a step: a function of the probabilities in force, seed and step.
    pub fn draw(&self, seed: u64, step: u64, keep: usize) -> Vec<Arch> {
        let mut rng = stream(seed, "pa-da.paths", step);
        (0..keep).map(|_| self.draw_one(&mut rng)).collect()
    }

    fn draw_one(&self, rng: &mut slimtau_base::Stream) -> Arch {
        let Self { space, importance, .. } = self;
        let mut code = |choice| 1 + importance.draw(choice, rng) as u8;
        let stem = code(0);
        let (mut out, mut choice) = (stem, 1);
        let mut stages = Vec::with_capacity(space.stages.len());
        for (i, stage) in space.stages.iter().enumerate() {
            if space.projects(i) {
                out = code(choice);
                choice += 1;
            }
            let depth = stage.depth.0 + usize::from(code(choice)) - 1;
            choice += 1;
            stages.push((0..depth).map(|b| BlockCode { mid: code(choice + b), out }).collect());
            choice += stage.depth.1;
        }
        Arch { stem, stages }
    }

    /// The probability that one draw is this subnet.
    ///
    /// # Panics
    /// As [`PathImportance::observe`].
    pub fn probability(&self, arch: &Arch) -> f64 {
        let mut product = 1.0;
        visit(&self.space, arch, |choice, option| {
            let probabilities = self.importance.probabilities(choice);
            let total: f64 = probabilities.iter().map(|&p| f64::from(p)).sum();
            product *= f64::from(probabilities[option]) / total;
        });
        product
    }

    /// Adds the state to a file, as tensors whose names begin with `prefix`.
    pub fn save(&self, prefix: &str, file: &mut TensorFile) {
        self.importance.save(prefix, file);
    }

    /// Goes on from a saved state; `path` is for messages.
    ///
    /// # Errors
    /// When a tensor is missing or of another space. The state is then as it was.
    pub fn restore(
        &mut self,
        path: &Path,
        prefix: &str,
        file: &mut TensorFile,
    ) -> Result<(), FileError> {
        self.importance.restore(path, prefix, file)
    }
}

/// Calls `each(choice, option)` for every choice that a subnet makes; middle widths beyond its depth
/// are not made.
fn visit(space: &SearchSpace, arch: &Arch, mut each: impl FnMut(usize, usize)) {
    assert_eq!(arch.stages.len(), space.stages.len(), "a subnet of another space");
    each(0, usize::from(arch.stem) - 1);
    let mut choice = 1;
    for (i, (stage, blocks)) in space.stages.iter().zip(&arch.stages).enumerate() {
        if space.projects(i) {
            each(choice, usize::from(blocks[0].out) - 1);
            choice += 1;
        }
        each(choice, blocks.len() - stage.depth.0);
        choice += 1;
        blocks.iter().enumerate().for_each(|(b, k)| each(choice + b, usize::from(k.mid) - 1));
        choice += stage.depth.1;
    }
}
