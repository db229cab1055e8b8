//! The projection head: linear -> ReLU -> linear to d, L2-normalised. Dropped after stage 1.

use rand::RngExt;
use slimtau_base::stream;
use slimtau_kernels::linear::{LinearShape, linear_backward, linear_forward};
use slimtau_kernels::loss::{l2_normalize, l2_normalize_backward, relu_backward, relu_forward};
use std::ops::Range;

/// Where the head's four tensors lie in a flat buffer of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neck {
    /// Channels of the pooled features at full width; also the hidden width.
    pub inputs: usize,
    /// Length of an embedding; 128 in the paper.
    pub dim: usize,
}

/// Activations that the backward pass needs, kept from step to step.
#[derive(Default)]
pub struct NeckMemory {
    hidden: Vec<f32>,
    activated: Vec<f32>,
    projected: Vec<f32>,
    norms: Vec<f32>,
    embedding: Vec<f32>,
    grad_projected: Vec<f32>,
    grad_hidden: Vec<f32>,
    grad_features: Vec<f32>,
}

impl NeckMemory {
    /// The embeddings [N, dim] of the last forward pass.
    pub fn embedding(&self) -> &[f32] {
        &self.embedding
    }
}

impl Neck {
    /// Number of values: two weights and two biases.
    pub fn params(&self) -> usize {
        self.bias2().end
    }

    /// Names and shapes of the tensors, in the order of the flat buffer.
    pub fn tensors(&self) -> [(&'static str, Vec<usize>, Range<usize>); 4] {
        let (i, d) = (self.inputs, self.dim);
        [
            ("neck.0.weight", vec![i, i], self.weight1()),
            ("neck.0.bias", vec![i], self.bias1()),
            ("neck.2.weight", vec![d, i], self.weight2()),
            ("neck.2.bias", vec![d], self.bias2()),
        ]
    }

    pub(crate) fn weight1(&self) -> Range<usize> {
        0..self.inputs * self.inputs
    }

    pub(crate) fn bias1(&self) -> Range<usize> {
        let start = self.weight1().end;
        start..start + self.inputs
    }

    pub(crate) fn weight2(&self) -> Range<usize> {
        let start = self.bias1().end;
        start..start + self.dim * self.inputs
    }

    pub(crate) fn bias2(&self) -> Range<usize> {
        let start = self.weight2().end;
        start..start + self.dim
    }

    /// He initialisation (uniform with variance 2 / fan-in), biases zero.
    pub fn init(&self, seed: u64) -> Vec<f32> {
        let mut rng = stream(seed, "init.neck", 0);
        let mut params = vec![0.0; self.params()];
        let bound = (6.0 / self.inputs as f32).sqrt();
        for range in [self.weight1(), self.weight2()] {
            params[range].fill_with(|| rng.random_range(-bound..bound));
        }
        params
    }

    pub(crate) fn shapes(&self, rows: usize, inputs: usize) -> (LinearShape, LinearShape) {
        let (full_inputs, dim) = (self.inputs, self.dim);
        (
            LinearShape { rows, inputs, outputs: full_inputs, full_inputs },
            LinearShape { rows, inputs: full_inputs, outputs: dim, full_inputs },
        )
    }

    /// Embeddings [N, dim] of features [N, inputs_active], into `memory`.
    ///
    /// # Panics
    /// When `features` is not `rows` rows, or `params` is not [`Neck::params`] long.
    pub fn forward(&self, params: &[f32], rows: usize, features: &[f32], memory: &mut NeckMemory) {
        assert_eq!(params.len(), self.params(), "neck parameters");
        let (first, second) = self.shapes(rows, features.len() / rows);
        let m = memory;
        m.hidden.resize(rows * self.inputs, 0.0);
        m.activated.resize(rows * self.inputs, 0.0);
        m.projected.resize(rows * self.dim, 0.0);
        m.embedding.resize(rows * self.dim, 0.0);
        m.norms.resize(rows, 0.0);
        let (w1, b1) = (&params[self.weight1()], &params[self.bias1()]);
        linear_forward(&first, features, w1, b1, &mut m.hidden);
        relu_forward(&m.hidden, &mut m.activated);
        let (w2, b2) = (&params[self.weight2()], &params[self.bias2()]);
        linear_forward(&second, &m.activated, w2, b2, &mut m.projected);
        l2_normalize(self.dim, &m.projected, &mut m.embedding, &mut m.norms);
    }

    /// Adds the head's gradients into `grads` and returns that of the features.
    ///
    /// # Panics
    /// When the arguments are not those of the last forward pass into `memory`.
    pub fn backward<'m>(
        &self,
        params: &[f32],
        features: &[f32],
        grad_embedding: &[f32],
        grads: &mut [f32],
        memory: &'m mut NeckMemory,
    ) -> &'m [f32] {
        let m = memory;
        let rows = m.norms.len();
        let (first, second) = self.shapes(rows, features.len() / rows);
        m.grad_projected.resize(m.projected.len(), 0.0);
        m.grad_hidden.resize(m.hidden.len(), 0.0);
        m.grad_features.resize(features.len(), 0.0);
        l2_normalize_backward(
            self.dim,
            &m.embedding,
            &m.norms,
            grad_embedding,
            &mut m.grad_projected,
        );
        let (head, tail) = grads.split_at_mut(self.weight2().start);
        let (gw2, gb2) = tail.split_at_mut(self.weight2().len());
        let w2 = &params[self.weight2()];
        // `hidden` is no longer needed as a value once the ReLU mask is known from `activated`.
        let grad_activated = &mut m.hidden;
        linear_backward(
            &second,
            &m.activated,
            w2,
            &m.grad_projected,
            Some(grad_activated),
            gw2,
            gb2,
        );
        relu_backward(&m.activated, grad_activated, &mut m.grad_hidden);
        let (gw1, gb1) = head.split_at_mut(self.weight1().len());
        let w1 = &params[self.weight1()];
        linear_backward(&first, features, w1, &m.grad_hidden, Some(&mut m.grad_features), gw1, gb1);
        &m.grad_features
    }
}
