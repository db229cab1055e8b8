//! The ring of past keys that serve as negatives.

use slimtau_base::{fill_normal, stream};

/// `len` L2-normalised keys of length `dim`; new ones replace the oldest.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyQueue {
    dim: usize,
    keys: Vec<f32>,
    position: usize,
}

impl KeyQueue {
    /// A queue of random unit vectors, as MoCo starts it.
    ///
    /// # Panics
    /// When `len` or `dim` is 0.
    pub fn random(len: usize, dim: usize, seed: u64) -> Self {
        assert!(len > 0 && dim > 0, "a queue needs at least one key");
        let mut rng = stream(seed, "init.queue", 0);
        let mut keys = vec![0.0f32; len * dim];
        for key in keys.chunks_exact_mut(dim) {
            // Normal draws, normalised: uniform on the sphere.
            fill_normal(&mut rng, 1.0, key);
            let norm = key.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-12);
            key.iter_mut().for_each(|v| *v /= norm);
        }
        Self { dim, keys, position: 0 }
    }

    /// A queue as it was saved.
    ///
    /// # Errors
    /// When the values are not whole keys or the position lies outside.
    pub fn restore(dim: usize, keys: Vec<f32>, position: usize) -> Result<Self, String> {
        if dim == 0 || keys.is_empty() || !keys.len().is_multiple_of(dim) {
            return Err(format!("a queue of {} values is not keys of length {dim}", keys.len()));
        }
        if position >= keys.len() / dim {
            return Err(format!("queue position {position} is outside 0..{}", keys.len() / dim));
        }
        Ok(Self { dim, keys, position })
    }

    /// All keys [len, dim], in ring order.
    pub fn keys(&self) -> &[f32] {
        &self.keys
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.keys.len() / self.dim
    }

    /// A queue is never empty.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The slot that the next key goes to.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Replaces the oldest keys by these [n, dim], wrapping around the end.
    ///
    /// # Panics
    /// When `keys` is not a whole number of keys.
    pub fn push(&mut self, keys: &[f32]) {
        assert!(keys.len().is_multiple_of(self.dim), "keys of length {}", self.dim);
        for key in keys.chunks_exact(self.dim) {
            self.keys[self.position * self.dim..][..self.dim].copy_from_slice(key);
            self.position = (self.position + 1) % self.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_keys_go_first_and_the_ring_wraps() {
        let mut queue = KeyQueue::restore(2, vec![0.0; 6], 0).unwrap();
        queue.push(&[1.0, 1.0, 2.0, 2.0]);
        assert_eq!((queue.keys(), queue.position()), (&[1.0, 1.0, 2.0, 2.0, 0.0, 0.0][..], 2));
        queue.push(&[3.0, 3.0, 4.0, 4.0]);
        assert_eq!((queue.keys(), queue.position()), (&[4.0, 4.0, 2.0, 2.0, 3.0, 3.0][..], 1));
    }

    #[test]
    fn the_first_keys_are_unit_vectors() {
        let queue = KeyQueue::random(50, 7, 3);
        for key in queue.keys().chunks(7) {
            let norm: f32 = key.iter().map(|v| v * v).sum();
            assert!((norm - 1.0).abs() < 1e-5, "{norm}");
        }
        assert_ne!(queue.keys(), KeyQueue::random(50, 7, 4).keys());
    }

    #[test]
    fn a_damaged_queue_is_refused() {
        assert!(KeyQueue::restore(3, vec![0.0; 7], 0).is_err());
        assert!(KeyQueue::restore(3, vec![0.0; 6], 2).is_err());
        assert!(KeyQueue::restore(3, vec![], 0).is_err());
    }
}
