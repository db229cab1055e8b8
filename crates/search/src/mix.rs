//! Offspring of architectures, for evolutionary search.

use rand::{Rng, RngExt};
use slimtau_space::{Arch, BlockCode, SearchSpace};

/// A tied architecture that has every choice (each tied group's output, each stage's depth, each block's middle width)
/// from one of two tied ones: from `b` with probability `share`, else from `a`, independently. A middle width that only
/// one of them has is that one's.
///
/// With two parents and a share of 1/2 this is uniform crossover; with a uniform draw as `b` and a small share it
/// is mutation.
///
/// # Panics
/// When `a` or `b` is not of this space, or `share` is not within 0 to 1.
pub fn mix(space: &SearchSpace, rng: &mut impl Rng, a: &Arch, b: &Arch, share: f64) -> Arch {
    let of_space = |arch: &Arch| arch.stages.len() == space.stages.len();
    assert!(of_space(a) && of_space(b), "architectures of another space");
    let mut from_b = || rng.random_bool(share);
    let stem = if from_b() { b.stem } else { a.stem };
    let mut out = stem;
    let mut stages = Vec::with_capacity(space.stages.len());
    for (i, (a, b)) in a.stages.iter().zip(&b.stages).enumerate() {
        if space.projects(i) {
            out = if from_b() { b[0].out } else { a[0].out };
        }
        let depth = if from_b() { b.len() } else { a.len() };
        let block = |place: usize| {
            let mid = match (a.get(place), b.get(place)) {
                (Some(_), Some(b)) if from_b() => b.mid,
                (Some(one), _) | (None, Some(one)) => one.mid,
                (None, None) => unreachable!("the depth is one of theirs"),
            };
            BlockCode { mid, out }
        };
        stages.push((0..depth).map(block).collect());
    }
    Arch { stem, stages }
}
