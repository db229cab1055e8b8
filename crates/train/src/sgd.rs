//! Stochastic gradient descent with momentum over flat buffers, as PyTorch defines it.

use slimtau_parallel::{chunks_mut, for_each_chunk};
use std::ops::Range;

/// Values handled by one task: 128 KiB of each of the three buffers.
const CHUNK: usize = 1 << 15;

/// v = momentum v + (g + weight_decay w);  w = w - lr v.
///
/// With Nesterov's variant w = w - lr (g + weight_decay w + momentum v), v being the new one. The
/// first step from zero velocity equals that of PyTorch's `torch.optim.SGD` with dampening 0.
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
    /// weight decay and momentum act on all of it. Outside `active` nothing is read or written.
    /// The result does not depend on the number of threads.
    ///
    /// # Panics
    /// When the buffers differ in length, or `active` is not sorted, disjoint and inside them.
    pub fn step(
        &self,
        lr: f64,
        params: &mut [f32],
        grads: &mut [f32],
        velocity: &mut [f32],
        active: &[Range<usize>],
    ) {
        self.step_excluding(lr, params, grads, velocity, active, &[]);
    }

    /// [`Sgd::step`] with weight decay everywhere but in the ranges `no_decay` (of BN and biases,
    /// say), as PyTorch does for a parameter group with `weight_decay=0`.
    ///
    /// # Panics
    /// As [`Sgd::step`]; `no_decay` must be sorted, disjoint and inside the buffers, too.
    pub fn step_excluding(
        &self,
        lr: f64,
        params: &mut [f32],
        grads: &mut [f32],
        velocity: &mut [f32],
        active: &[Range<usize>],
        no_decay: &[Range<usize>],
    ) {
        let _span = tracing::trace_span!("optimiser").entered();
        assert!(
            params.len() == grads.len() && params.len() == velocity.len(),
            "{} parameters, {} gradients and {} velocities",
            params.len(),
            grads.len(),
            velocity.len()
        );
        assert_sorted("active", active, params.len());
        assert_sorted("no_decay", no_decay, params.len());
        let lr = lr as f32;
        // Chunks of the whole buffer, not of each range: one parallel pass however many tensors
        // there are, and no task list to allocate.
        let [params, grads, velocity] = [params, grads, velocity].map(|b| chunks_mut(b, CHUNK));
        for_each_chunk((params, grads, velocity), |i, (params, grads, velocity)| {
            let begin = i * CHUNK;
            let mut update = |range: Range<usize>, weight_decay: f32| {
                let own = range.start - begin..range.end - begin;
                let (params, grads) = (&mut params[own.clone()], &mut grads[own.clone()]);
                self.update(lr, weight_decay, params, grads, &mut velocity[own]);
            };
            for piece in overlaps(active, begin..begin + CHUNK) {
                let mut at = piece.start;
                for hole in overlaps(no_decay, piece.clone()) {
                    update(at..hole.start, self.weight_decay);
                    update(hole.clone(), 0.0);
                    at = hole.end;
                }
                update(at..piece.end, self.weight_decay);
            }
        });
    }

    fn update(
        &self,
        lr: f32,
        weight_decay: f32,
        params: &mut [f32],
        grads: &mut [f32],
        velocity: &mut [f32],
    ) {
        let Self { momentum, nesterov, .. } = *self;
        for ((w, g), v) in params.iter_mut().zip(grads).zip(velocity) {
            let decayed = *g + weight_decay * *w;
            *v = momentum * *v + decayed;
            *w -= lr * if nesterov { decayed + momentum * *v } else { *v };
            *g = 0.0;
        }
    }
}

/// The non-empty intersections of sorted disjoint `ranges` with `within`, in order.
fn overlaps(
    ranges: &[Range<usize>],
    within: Range<usize>,
) -> impl Iterator<Item = Range<usize>> + '_ {
    let first = ranges.partition_point(|r| r.end <= within.start);
    ranges[first..]
        .iter()
        .map(move |r| r.start.max(within.start)..r.end.min(within.end))
        .take_while(move |r| r.start < within.end)
        .filter(|r| !r.is_empty())
}

fn assert_sorted(name: &str, ranges: &[Range<usize>], len: usize) {
    let mut end = 0;
    for range in ranges {
        assert!(
            end <= range.start && range.start <= range.end && range.end <= len,
            "{name}: {range:?} is out of order or outside 0..{len}"
        );
        end = range.end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Sorted disjoint ranges from arbitrary cut points: every second gap.
    fn ranges(len: usize) -> impl Strategy<Value = Vec<Range<usize>>> {
        prop::collection::vec(0..=len, 0..12).prop_map(|mut cuts| {
            cuts.sort_unstable();
            cuts.chunks_exact(2).map(|c| c[0]..c[1]).collect()
        })
    }

    const LEN: usize = 2 * CHUNK + 77;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn each_value_is_stepped_by_its_own_ranges(
            active in ranges(LEN), no_decay in ranges(LEN), nesterov: bool,
        ) {
            let sgd = Sgd { momentum: 0.9, weight_decay: 0.25, nesterov };
            let value = |seed: usize, i: usize| ((i * 37 + seed * 11) % 101) as f32 / 50.0 - 1.0;
            let buffer = |seed| (0..LEN).map(|i| value(seed, i)).collect::<Vec<f32>>();
            let (mut w, mut g, mut v) = (buffer(1), buffer(2), buffer(3));
            sgd.step_excluding(0.5, &mut w, &mut g, &mut v, &active, &no_decay);
            let inside = |ranges: &[Range<usize>], i| ranges.iter().any(|r| r.contains(&i));
            for i in 0..LEN {
                let (mut w1, mut g1, mut v1) = ([value(1, i)], [value(2, i)], [value(3, i)]);
                if inside(&active, i) {
                    let decay = if inside(&no_decay, i) { 0.0 } else { 0.25 };
                    let alone = Sgd { weight_decay: decay, ..sgd };
                    alone.update(0.5, decay, &mut w1, &mut g1, &mut v1);
                    prop_assert_eq!(g1, [0.0]);
                }
                prop_assert_eq!((w[i], g[i], v[i]), (w1[0], g1[0], v1[0]), "at {}", i);
            }
        }
    }

    #[test]
    #[should_panic(expected = "active: 1..3 is out of order")]
    fn overlapping_ranges_would_step_twice() {
        let sgd = Sgd { momentum: 0.9, weight_decay: 0.0, nesterov: false };
        sgd.step(0.1, &mut [0.0; 4], &mut [0.0; 4], &mut [0.0; 4], &[0..2, 1..3]);
    }
}
