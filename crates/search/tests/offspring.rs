//! Offspring: tied, made of their parents' choices, and of each parent as often as was asked.

use proptest::prelude::*;
use slimtau_base::stream;
use slimtau_search::mix;
use slimtau_space::{Arch, SearchSpace};
use std::collections::BTreeMap;

const PRESETS: [&str; 3] = ["cvpr2022", "mini", "tiny"];

/// A choice that an architecture makes: its name, and the option taken.
fn choices(space: &SearchSpace, arch: &Arch) -> Vec<(String, usize)> {
    let mut out = vec![("stem".to_owned(), usize::from(arch.stem))];
    for (i, blocks) in arch.stages.iter().enumerate() {
        out.push((format!("depth {i}"), blocks.len()));
        if space.projects(i) {
            out.push((format!("output {i}"), usize::from(blocks[0].out)));
        }
        let mids = blocks.iter().enumerate();
        out.extend(mids.map(|(b, block)| (format!("middle {i} {b}"), usize::from(block.mid))));
    }
    out
}

proptest! {
    #[test]
    fn offspring_have_every_choice_from_a_parent(seed in any::<u64>(), share in 0.0..=1.0f64) {
        for space in PRESETS.map(|name| SearchSpace::preset(name).unwrap()) {
            let mut rng = stream(seed, "mix", 0);
            let a = space.sample_uniform(&mut rng, true);
            let b = space.sample_uniform(&mut rng, false);
            let child = mix(&space, &mut rng, &a, &b, share);
            space.check_tied(&child).unwrap();
            let (of_a, of_b) = (choices(&space, &a), choices(&space, &b));
            for choice in choices(&space, &child) {
                prop_assert!(of_a.contains(&choice) || of_b.contains(&choice), "{choice:?}");
            }
            prop_assert_eq!(mix(&space, &mut rng, &a, &b, 0.0), a.clone());
            prop_assert_eq!(mix(&space, &mut rng, &a, &b, 1.0), b);
        }
    }
}

#[test]
fn a_choice_comes_from_the_second_parent_as_often_as_was_asked() {
    let space = SearchSpace::preset("cvpr2022").unwrap();
    let (a, b) = (space.largest(), space.smallest());
    let mut rng = stream(3, "mix", 0);
    let mut counts = BTreeMap::new();
    for _ in 0..4_000 {
        let child = mix(&space, &mut rng, &a, &b, 0.3);
        let of_b = choices(&space, &b);
        for choice in choices(&space, &child).into_iter().filter(|c| of_b.contains(c)) {
            *counts.entry(choice.0).or_insert(0u32) += 1;
        }
    }
    // 1,200 with a standard deviation of 29; every choice that both parents make.
    assert_eq!(counts.len(), choices(&space, &b).len());
    assert!(counts.values().all(|n| (1_055..=1_345).contains(n)), "{counts:?}");
}
