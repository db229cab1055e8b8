//! Uniform draws: always tied, within their ranges, and uniform in every choice.

mod shared;

use proptest::prelude::*;
use shared::spaces;
use slimtau_base::stream;
use slimtau_space::{Arch, CostModel, SearchSpace};
use std::collections::BTreeMap;

proptest! {
    #[test]
    fn draws_are_tied_and_in_range(seed in any::<u64>(), restricted in any::<bool>()) {
        for space in spaces() {
            let arch = space.sample_uniform(&mut stream(seed, "draws", 0), restricted);
            space.check_tied(&arch).unwrap();
            if restricted {
                prop_assert!(usize::from(arch.stem) <= space.stem.codes);
                for (stage, blocks) in space.stages.iter().zip(&arch.stages) {
                    let most = blocks.iter().map(|b| b.mid.max(b.out)).max().unwrap();
                    prop_assert!(usize::from(most) <= stage.codes);
                }
            }
            let mut again = space.largest();
            space.redraw_uniform(&mut stream(seed, "draws", 0), restricted, &mut again);
            prop_assert_eq!(again, arch);
        }
    }
}

#[test]
fn largest_and_smallest_are_tied() {
    for space in spaces() {
        space.check_tied(&space.largest()).unwrap();
        space.check_tied(&space.smallest()).unwrap();
    }
}

#[test]
fn every_choice_is_uniform() {
    const N: usize = 20_000;
    let space = SearchSpace::preset("cvpr2022").unwrap();
    for restricted in [true, false] {
        let mut rng = stream(1, "uniform", 0);
        let archs: Vec<Arch> = (0..N).map(|_| space.sample_uniform(&mut rng, restricted)).collect();
        let check = |what: String, choices: usize, choice: &dyn Fn(&Arch) -> usize| {
            let mut counts = BTreeMap::new();
            archs.iter().for_each(|a| *counts.entry(choice(a)).or_insert(0usize) += 1);
            assert_eq!(counts.len(), choices, "{what}");
            let expected = N as f64 / choices as f64;
            let chi2: f64 =
                counts.values().map(|&c| (c as f64 - expected).powi(2) / expected).sum();
            // At most 6 degrees of freedom: 30 is exceeded by chance once in 25,000 times.
            assert!(chi2 < 30.0, "{what}: chi-square {chi2}, counts {counts:?}");
        };
        let codes = |codes| if restricted { codes } else { 7 };
        check("stem".into(), codes(3), &|a| a.stem.into());
        for (i, stage) in space.stages.iter().enumerate() {
            let (low, high) = stage.depth;
            check(format!("depth {i}"), high - low + 1, &|a| a.stages[i].len());
            check(format!("output {i}"), codes(stage.codes), &|a| a.stages[i][0].out.into());
            for b in 0..low {
                check(format!("middle {i} {b}"), codes(stage.codes), &|a| {
                    a.stages[i][b].mid.into()
                });
            }
        }
    }
}

#[test]
fn draws_near_a_level_follow_it() {
    for name in ["cvpr2022", "tiny"] {
        let space = SearchSpace::preset(name).unwrap();
        let mut rng = stream(2, "near", 0);
        let mut means = Vec::new();
        for level in [0.0, 0.25, 0.5, 0.75, 1.0] {
            let (mut depth, mut params) = (0, 0);
            for _ in 0..200 {
                let deep = space.sample_near(&mut rng, level, 1.0);
                let wide = space.sample_near(&mut rng, 1.0, level);
                for arch in [&deep, &wide] {
                    space.check_tied(arch).unwrap();
                    let widths = arch.stages.iter().zip(&space.stages);
                    for (blocks, stage) in widths {
                        let in_range = |code: u8| (1..=stage.codes as u8).contains(&code);
                        assert!(blocks.iter().all(|b| in_range(b.mid) && in_range(b.out)));
                    }
                }
                depth += deep.depth();
                params += CostModel::new(&space).costs(&wide).params;
            }
            means.push((depth, params));
        }
        assert!(means.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1), "{name}: {means:?}");
        // The extremes are drawn, and not always.
        let deepest: usize = space.stages.iter().map(|s| s.depth.1).sum();
        assert!(means[4].0 < 200 * deepest && means[4].0 > 180 * deepest, "{name}: {means:?}");
    }
}
