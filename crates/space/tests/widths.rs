//! The width rule agrees with the field's Python for every base from 16 to 512.

use proptest::prelude::*;
use slimtau_space::SearchSpace;

#[test]
fn widths_are_those_of_python() {
    let mut space = SearchSpace::preset("cvpr2022").unwrap();
    let mut lines = 0;
    for line in include_str!("goldens/widths.txt").lines() {
        let numbers: Vec<usize> = line.split(' ').map(|n| n.parse().unwrap()).collect();
        let (base, widths) = (numbers[0], &numbers[1..]);
        for (divisor, expect) in [8, 2].into_iter().zip(widths.chunks(7)) {
            space.divisor = divisor;
            let found: Vec<usize> = space.ratios.iter().map(|&r| space.width(base, r)).collect();
            assert_eq!(found, expect, "base {base}, divisor {divisor}");
        }
        lines += 1;
    }
    assert_eq!(lines, 512 - 16 + 1);
}

#[test]
fn widths_of_the_competition() {
    let space = SearchSpace::preset("cvpr2022").unwrap();
    let check = |base, expect: [usize; 7]| {
        assert_eq!(space.ratios.iter().map(|&r| space.width(base, r)).collect::<Vec<_>>(), expect);
    };
    check(64, [64, 64, 56, 56, 48, 48, 48]);
    check(256, [256, 240, 232, 216, 208, 192, 176]);
}

proptest! {
    #[test]
    fn a_width_is_a_multiple_near_its_ratio(
        base in 1usize..2000, ratio in 0.05f64..=1.0, divisor in 1usize..33,
    ) {
        let mut space = SearchSpace::preset("tiny").unwrap();
        space.divisor = divisor;
        let (w, v) = (space.width(base, ratio), base as f64 * ratio);
        prop_assert_eq!(w % divisor, 0);
        prop_assert!(w >= divisor && w as f64 >= 0.9 * v && w as f64 <= v + divisor as f64);
        // A smaller ratio is never wider: weight sharing by leading channels needs the order.
        prop_assert!(space.width(base, ratio * 0.9) <= w);
    }
}
