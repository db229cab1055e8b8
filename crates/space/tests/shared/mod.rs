//! Spaces and architectures for the tests.

use rand::RngExt;
use slimtau_base::stream;
use slimtau_space::{Arch, Block, BlockCode, SearchSpace, Stage, Stem};

/// A small space of basic blocks: ratios 1 and 0.5, three stages of which the first two are tied.
pub fn small() -> SearchSpace {
    let stage = |width, depth, stride, codes| Stage { width, depth, stride, codes };
    let space = SearchSpace {
        name: "small".into(),
        image_size: 9,
        channels: 2,
        classes: 5,
        ratios: vec![1.0, 0.5],
        divisor: 2,
        block: Block::Basic,
        stem: Stem { width: 8, kernel: 5, stride: 2, max_pool: true, codes: 2 },
        stages: vec![stage(8, (1, 2), 1, 2), stage(8, (1, 1), 1, 1), stage(12, (1, 2), 2, 2)],
    };
    space.validate().unwrap();
    space
}

/// A small space of bottlenecks, whose first stage is tied to the stem.
pub fn bottleneck() -> SearchSpace {
    let stage = |width, depth, stride, codes| Stage { width, depth, stride, codes };
    let space = SearchSpace {
        name: "bottleneck".into(),
        image_size: 15,
        channels: 3,
        classes: 4,
        ratios: vec![1.0, 0.75, 0.5],
        divisor: 4,
        block: Block::Bottleneck,
        stem: Stem { width: 32, kernel: 3, stride: 1, max_pool: false, codes: 3 },
        stages: vec![stage(8, (1, 3), 1, 3), stage(16, (2, 3), 2, 2)],
    };
    space.validate().unwrap();
    space
}

/// Every space of the tests.
#[allow(dead_code, reason = "each test file uses what it needs")]
pub fn spaces() -> Vec<SearchSpace> {
    let presets = ["cvpr2022", "mini", "tiny"].map(|name| SearchSpace::preset(name).unwrap());
    presets.into_iter().chain([small(), bottleneck()]).collect()
}

/// An architecture with every digit free: usually untied.
#[allow(dead_code, reason = "each test file uses what it needs")]
pub fn any_arch(space: &SearchSpace, seed: u64) -> Arch {
    let mut rng = stream(seed, "any-arch", 0);
    let mut code = || rng.random_range(1..=space.ratios.len()) as u8;
    let stem = code();
    let most = |s: &Stage| (0..s.depth.1).map(|_| BlockCode { mid: code(), out: code() }).collect();
    let mut stages: Vec<Vec<BlockCode>> = space.stages.iter().map(most).collect();
    for (stage, blocks) in space.stages.iter().zip(&mut stages) {
        blocks.truncate(rng.random_range(stage.depth.0..=stage.depth.1));
    }
    Arch { stem, stages }
}
