//! Codes: both forms round-trip, and every wrong digit is named by position, value and rule.

mod shared;

use proptest::prelude::*;
use shared::{any_arch, bottleneck, small, spaces};
use slimtau_space::{SearchSpace, SpaceError};

const REAL: &str = "252233313000000223212122253130000000000006515000000";

fn cvpr() -> SearchSpace {
    SearchSpace::preset("cvpr2022").unwrap()
}

/// `REAL` with its 1-based digit `position` replaced.
fn with_digit(position: usize, digit: char) -> String {
    REAL.chars().enumerate().map(|(i, c)| if i + 1 == position { digit } else { c }).collect()
}

#[test]
fn a_code_is_read_as_the_competition_means_it() {
    let arch = cvpr().parse(REAL).unwrap();
    let depths: Vec<usize> = arch.stages.iter().map(Vec::len).collect();
    assert_eq!((depths, arch.stem, arch.depth()), (vec![2, 5, 2, 2], 3, 11));
    let pairs =
        |stage: usize| arch.stages[stage].iter().map(|b| (b.mid, b.out)).collect::<Vec<_>>();
    assert_eq!(pairs(0), [(3, 3), (1, 3)]);
    assert_eq!(pairs(1), [(2, 2), (3, 2), (1, 2), (1, 2), (2, 2)]);
    assert_eq!(pairs(2), [(5, 3), (1, 3)]);
    assert_eq!(pairs(3), [(6, 5), (1, 5)]);
}

#[test]
fn wrong_digits_are_named() {
    let check = |code: &str, expect: &str| {
        let message = cvpr().parse(code).unwrap_err().to_string();
        assert_eq!(message, format!("code `{code}`, {expect}"));
    };
    check(&with_digit(1, '6'), "digit 1 (depth of stage 1): found `6`, allowed is 2 to 5");
    check(&with_digit(2, '1'), "digit 2 (depth of stage 2): found `1`, allowed is 2 to 5");
    check(&with_digit(3, '9'), "digit 3 (depth of stage 3): found `9`, allowed is 2 to 8");
    check(&with_digit(5, '0'), "digit 5 (width of the stem): found `0`, allowed is 1 to 7");
    check(
        &with_digit(6, '8'),
        "digit 6 (middle width of stage 1, block 1): found `8`, allowed is 1 to 7",
    );
    check(
        &with_digit(9, '0'),
        "digit 9 (output width of stage 1, block 2): found `0`, allowed is 1 to 7",
    );
    check(
        &with_digit(10, '3'),
        "digit 10 (padding of stage 1, which has 2 blocks): found `3`, allowed is 0",
    );
    check(
        &with_digit(7, 'x'),
        "digit 7 (output width of stage 1, block 1): found `x`, allowed is 1 to 7",
    );
    check(
        &with_digit(7, '²'),
        "digit 7 (output width of stage 1, block 1): found `²`, allowed is 1 to 7",
    );
    // In the long form positions count from the image-size digit.
    check(&format!("2{REAL}"), "digit 1 (image size): found `2`, allowed is 1");
    check(
        &format!("1{}", with_digit(5, '0')),
        "digit 6 (width of the stem): found `0`, allowed is 1 to 7",
    );
    // A depth that is a digit more makes the padding a width.
    check(
        &with_digit(1, '3'),
        "digit 10 (middle width of stage 1, block 3): found `0`, allowed is 1 to 7",
    );
}

#[test]
fn wrong_lengths_are_named() {
    for code in ["", "1", &REAL[1..], &format!("11{REAL}")] {
        let message = cvpr().parse(code).unwrap_err().to_string();
        let digits = code.len();
        assert_eq!(
            message,
            format!(
                "code `{code}` has {digits} digits; this space's codes have 51, or 52 with the image size first"
            )
        );
    }
}

#[test]
fn broken_ties_are_named() {
    let check = |position: usize, digit, stage, block, expected, with: &str| {
        let space = cvpr();
        let code = with_digit(position, digit);
        // Valid by itself ...
        let arch = space.parse(&code).unwrap();
        space.resolve(&arch).unwrap();
        // ... but no subnet.
        match space.check_tied(&arch).unwrap_err() {
            SpaceError::Untied {
                code: c,
                stage: s,
                block: b,
                position: p,
                found,
                expected: e,
                with: w,
            } => {
                assert_eq!((c, s, b, p, w.as_str()), (code, stage, block, position, with));
                assert_eq!((char::from(b'0' + found), e), (digit, expected));
            }
            other => panic!("{other}"),
        }
    };
    check(7, '1', 1, 1, 3, "the stem's");
    check(9, '2', 1, 2, 3, "the stem's");
    check(19, '3', 2, 2, 2, "its first block's output");
    check(25, '7', 2, 5, 2, "its first block's output");
    check(29, '1', 3, 2, 3, "its first block's output");
    // A middle width is nobody's business.
    let space = cvpr();
    space.check_tied(&space.parse(&with_digit(6, '7')).unwrap()).unwrap();
    // Codes of equal width are still different codes: 1 and 2 of base 64.
    let mut arch = space.largest();
    arch.stem = 2;
    assert!(matches!(space.check_tied(&arch), Err(SpaceError::Untied { stage: 1, block: 1, .. })));
}

#[test]
fn ties_run_through_stages_without_a_projection() {
    let check = |space: SearchSpace, code: &str, stage: usize| {
        let found = space.check_tied(&space.parse(code).unwrap());
        match found {
            Ok(()) => assert_eq!(stage, 0, "{code} is tied"),
            Err(SpaceError::Untied { stage: s, .. }) => assert_eq!(s, stage, "{code}"),
            Err(other) => panic!("{other}"),
        }
    };
    // Three depths, stem; then two blocks, one block (both tied to the stem), two blocks.
    check(small(), "21221222121111", 0);
    check(small(), "21221222121212", 0);
    check(small(), "21221221121111", 1);
    check(small(), "21221222111111", 2);
    check(small(), "21221222121112", 3);
    // Bottlenecks: the first stage's output base, 4 * 8, is the stem's.
    check(bottleneck(), "122120000313100", 0);
    check(bottleneck(), "122130000313100", 1);
    check(bottleneck(), "122120000313200", 2);
}

#[test]
fn architectures_built_by_hand_are_checked() {
    let check = |change: &dyn Fn(&mut slimtau_space::Arch), expect: &str| {
        let space = cvpr();
        let mut arch = space.largest();
        change(&mut arch);
        for error in [space.resolve(&arch).map(|_| ()), space.check_tied(&arch)] {
            let message = error.unwrap_err().to_string();
            assert_eq!(message, format!("architecture does not fit the space cvpr2022: {expect}"));
        }
        space.encode(&arch); // nonsense in, nonsense out, but no panic
    };
    check(&|a| a.stem = 8, "width code 8, not 1 to 7");
    check(&|a| a.stages[2][7].mid = 255, "width code 255, not 1 to 7");
    check(&|a| a.stages[1].clear(), "stage 2 has 0 blocks, not 2 to 5");
    check(&|a| drop(a.stages.pop()), "3 stages, not 4");
}

proptest! {
    #[test]
    fn every_architecture_round_trips_in_both_forms(seed in any::<u64>()) {
        for space in spaces() {
            let arch = any_arch(&space, seed);
            let (short, long) = (space.encode(&arch), space.encode_long(&arch));
            prop_assert_eq!(short.len(), space.code_len());
            prop_assert_eq!(&long, &format!("1{short}"));
            prop_assert_eq!(&space.parse(&short).unwrap(), &arch);
            prop_assert_eq!(&space.parse(&long).unwrap(), &arch);
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in ".{0,60}", digits in "[0-9]{51,52}") {
        for space in spaces() {
            for code in [&text, &digits] {
                if let Ok(arch) = space.parse(code) {
                    let (short, long) = (space.encode(&arch), space.encode_long(&arch));
                    prop_assert!(*code == short || *code == long);
                }
            }
        }
    }
}

#[test]
fn a_canonical_form_is_the_same_network_with_the_smallest_digits() {
    let space = SearchSpace::preset("cvpr2022").unwrap();
    // The first stage's base is 64: 64 64 56 56 48 48 48.
    for seed in 0..200 {
        let arch = any_arch(&space, seed);
        let canonical = space.canonical(&arch);
        assert_eq!(space.resolve(&arch).unwrap(), space.resolve(&canonical).unwrap());
        assert_eq!(space.canonical(&canonical), canonical);
        assert!(canonical <= arch);
        let codes = arch.stages[0].iter().zip(&canonical.stages[0]);
        for (before, after) in codes {
            assert_eq!(after.mid, [1, 1, 3, 3, 5, 5, 5][usize::from(before.mid) - 1]);
        }
    }
}
