//! Strict fairness: every choice goes through all of its options before it repeats one.

use rand::RngExt;
use slimtau_base::stream;
use slimtau_space::{Arch, BlockCode, SearchSpace};

/// Choices of one architecture at most: 9 depths, 10 outputs, 81 middle widths.
const MAX_CHOICES: u64 = 128;

/// The subnet of one draw. Choice number c with n options takes, in draw i, entry i mod n of a
/// permutation of its own that changes with i / n: so any n draws from a multiple of n on hold each
/// of its options once. Choices have different n, so there is no common round.
pub(crate) fn draw(space: &SearchSpace, seed: u64, index: u64) -> Arch {
    let mut choice = 0;
    // Every choice takes its number whether or not it is used, so that numbers do not depend on
    // the depths drawn.
    let mut next = |options: usize| {
        let number = choice;
        choice += 1;
        option(seed, number, options, index)
    };
    let stem = 1 + next(space.shared_codes(None)) as u8;
    let mut out = stem;
    let mut stages = Vec::with_capacity(space.stages.len());
    for (i, stage) in space.stages.iter().enumerate() {
        if space.projects(i) {
            out = 1 + next(space.shared_codes(Some(i))) as u8;
        }
        let (low, high) = stage.depth;
        let depth = low + next(high - low + 1);
        let block = |_| BlockCode { mid: 1 + next(stage.codes) as u8, out };
        let mut blocks: Vec<BlockCode> = (0..high).map(block).collect();
        blocks.truncate(depth);
        stages.push(blocks);
    }
    Arch { stem, stages }
}

/// Which of `options` a choice takes in a draw.
fn option(seed: u64, choice: u64, options: usize, index: u64) -> usize {
    let (round, place) = (index / options as u64, (index % options as u64) as usize);
    let mut rng = stream(seed, "fairnas", round.wrapping_mul(MAX_CHOICES).wrapping_add(choice));
    // Fisher-Yates up to the entry asked for; later swaps leave it as it is.
    let mut order: Vec<usize> = (0..options).collect();
    for i in 0..=place {
        order.swap(i, rng.random_range(i..options));
    }
    order[place]
}
