//! Stochastic gradient descent with momentum over flat buffers, as PyTorch defines it.

use rayon::prelude::*;
use std::ops::Range;

/// Values handled by one task: a quarter of a megabyte per buffer.
const CHUNK: usize = 1 << 16;

/// v = momentum v + (g + weight_decay w);  w = w - lr v  (nesterov: w = w - lr (g' + momentum v)).
///
/// The first step from zero velocity equals PyTorch's with dampening 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// Share of the velocity that is kept; 0 to 1.
    pub momentum: f32,
    /// L2 penalty, on every parameter (BN and biases too, as PyTorch's default).
    pub weight_decay: f32,
    /// Nesterov's variant.
    pub nesterov: bool,
}

impl Sgd {
    /// One update of the `active` ranges; their gradients are zeroed in the same pass.
    ///
    /// `active` lists whole tensors that took part in this step. PyTorch skips a tensor without a
    /// gradient altogether, and so do we; but inside a shared tensor every value is stepped, also
    /// where a narrow subnet left the gradient at zero, because to the optimiser it is one tensor:
    /// weight decay and momentum act on all of it. The result does not depend on the number of
    /// threads.
    ///
    /// # Panics
    /// When the buffers differ in length or a range lies outside.
    pub fn step(
        &self,
        lr: f64,
        params: &mut [f32],
        grads: &mut [f32],
        velocity: &mut [f32],
        active: &[Range<usize>],
    ) {
        assert!(
            params.len() == grads.len() && params.len() == velocity.len(),
            "parameters, gradients and velocities differ in length"
        );
        let lr = lr as f32;
        for range in active {
            let chunks = params[range.clone()].par_chunks_mut(CHUNK);
            chunks
                .zip(grads[range.clone()].par_chunks_mut(CHUNK))
                .zip(velocity[range.clone()].par_chunks_mut(CHUNK))
                .for_each(|((params, grads), velocity)| self.chunk(lr, params, grads, velocity));
        }
    }

    fn chunk(&self, lr: f32, params: &mut [f32], grads: &mut [f32], velocity: &mut [f32]) {
        let Self { momentum, weight_decay, nesterov } = *self;
        for ((w, g), v) in params.iter_mut().zip(grads).zip(velocity) {
            let decayed = *g + weight_decay * *w;
            *v = momentum * *v + decayed;
            *w -= lr * if nesterov { decayed + momentum * *v } else { *v };
            *g = 0.0;
        }
    }
}
