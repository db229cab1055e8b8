//! Exact counts: the known ones, and brute force over every code of small spaces.

mod shared;

use shared::{bottleneck, small};
use slimtau_space::SearchSpace;

#[test]
fn the_competitions_counts() {
    let space = SearchSpace::preset("cvpr2022").unwrap();
    assert_eq!(space.count_untied().to_string(), "5694125374069829247196409708843857000000");
    // Stem and stage 1 share one width of 3; stages 2, 3, 4 have one of 3, 5, 7; middles are free.
    let sum = |base: u128, depths: std::ops::RangeInclusive<u32>| -> u128 {
        depths.map(|d| base.pow(d)).sum()
    };
    let restricted = 3 * sum(3, 2..=5) * 3 * sum(3, 2..=5) * 5 * sum(5, 2..=8) * 7 * sum(7, 2..=5);
    assert_eq!(space.count_restricted().to_string(), restricted.to_string());
    assert_eq!(format!("{:.3e}", restricted as f64), "3.907e17");
    let tied = 7u128.pow(4) * sum(7, 2..=5).pow(3) * sum(7, 2..=8);
    assert_eq!(space.count_tied().to_string(), tied.to_string());
}

#[test]
fn counts_are_those_of_brute_force() {
    let check = |space: SearchSpace| {
        let digits = space.ratios.len().max(3) as u32 + 1;
        let length = space.code_len();
        let (mut untied, mut tied, mut restricted) = (0u32, 0u32, 0u32);
        for number in 0..u64::from(digits).pow(length as u32) {
            let digit = |i| {
                char::from_digit((number / u64::from(digits).pow(i) % u64::from(digits)) as u32, 10)
            };
            let code: String = (0..length as u32).map(|i| digit(i).unwrap()).collect();
            let Ok(arch) = space.parse(&code) else { continue };
            untied += 1;
            if space.check_tied(&arch).is_err() {
                continue;
            }
            tied += 1;
            let within = space.stages.iter().zip(&arch.stages).all(|(stage, blocks)| {
                blocks.iter().all(|b| usize::from(b.mid.max(b.out)) <= stage.codes)
            });
            restricted += u32::from(within && usize::from(arch.stem) <= space.stem.codes);
        }
        assert!(restricted < tied && tied < untied);
        assert_eq!(space.count_untied(), untied.into());
        assert_eq!(space.count_tied(), tied.into());
        assert_eq!(space.count_restricted(), restricted.into());
    };
    // Small enough for every string of digits: at most 4^10.
    let mut basic = small();
    (basic.stages[0].depth, basic.stages[2].depth) = ((1, 1), (1, 2));
    basic.stages.remove(1);
    basic.stages[0].codes = 1;
    check(basic);
    let mut bottlenecks = bottleneck();
    (bottlenecks.stages[0].depth, bottlenecks.stages[1].depth) = ((1, 1), (1, 2));
    check(bottlenecks);
}
