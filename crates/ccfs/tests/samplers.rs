//! What every sampler promises: determinism, ranges, and its own statistics.

use proptest::prelude::*;
use slimtau_ccfs::{Sampler, SamplerKind};
use slimtau_space::{Arch, CostModel, SearchSpace};
use std::collections::BTreeMap;

fn space(name: &str) -> SearchSpace {
    SearchSpace::preset(name).unwrap()
}

fn sampler(name: &str, kind: SamplerKind, seed: u64) -> Sampler {
    Sampler::new(&space(name), kind, 400, 4, seed).with_total_steps(300)
}

fn in_range(space: &SearchSpace, arch: &Arch) -> bool {
    usize::from(arch.stem) <= space.stem.codes
        && space.stages.iter().zip(&arch.stages).all(|(stage, blocks)| {
            blocks.iter().all(|b| usize::from(b.mid.max(b.out)) <= stage.codes)
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn draws_are_tied_in_range_and_depend_on_seed_and_step_only(
        seed in any::<u64>(), step in 0u64..1_000_000,
    ) {
        for name in ["cvpr2022", "mini"] {
            let space = space(name);
            for kind in SamplerKind::ALL {
                let subnets = sampler(name, kind, seed).draw(step);
                for arch in &subnets {
                    space.check_tied(arch).unwrap();
                    prop_assert!(in_range(&space, arch), "{}: {}", kind, space.encode(arch));
                }
                // Another sampler, which draws other steps before and after.
                let other = sampler(name, kind, seed);
                other.draw(step + 1);
                prop_assert_eq!(&other.draw(step), &subnets);
                // The largest network alone, OFA's first phase, is the same under every seed.
                if kind != SamplerKind::ProgressiveShrinking || step >= 100 {
                    prop_assert_ne!(&sampler(name, kind, seed ^ 1).draw(step), &subnets);
                }
            }
        }
    }
}

#[test]
fn names_round_trip() {
    for kind in SamplerKind::ALL {
        assert_eq!(kind.to_string().parse(), Ok(kind));
    }
    let unknown = "ccfs".parse::<SamplerKind>().unwrap_err().to_string();
    assert_eq!(
        unknown,
        "no sampler `ccfs`; there are uniform, ccfs-m, ccfs-f, width-sum, fairnas, ofa, sandwich, pa-da"
    );
}

/// The `keep` best scores of the same uniform draws, by sorting all of them.
#[test]
fn the_best_of_the_candidates_are_kept() {
    let space = space("tiny");
    for kind in [SamplerKind::CcfsM, SamplerKind::CcfsF, SamplerKind::WidthSum] {
        for step in [0, 1, 3, 4] {
            let ranking = Sampler::new(&space, kind, 50, 5, 3);
            let candidates = Sampler::new(&space, SamplerKind::Uniform, 50, 50, 3).draw(step);
            let mut scores: Vec<(f64, usize)> = candidates
                .iter()
                .enumerate()
                .map(|(i, a)| (ranking.score(a).unwrap(), i))
                .collect();
            scores.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            let expect: Vec<Arch> =
                scores[..5].iter().map(|&(_, i)| candidates[i].clone()).collect();
            assert_eq!(ranking.draw(step), expect, "{kind}, step {step}");
        }
    }
}

#[test]
fn the_number_of_candidates_goes_geometrically_to_the_last() {
    let space = space("tiny");
    for kind in [SamplerKind::CcfsM, SamplerKind::CcfsF, SamplerKind::WidthSum] {
        let of = |candidates| Sampler::new(&space, kind, candidates, 4, 3);
        let falling = of(400).with_last_candidates(4).with_total_steps(101);
        // 400, 400 / 10^(1/50) and so on to 4; beyond the run, where it ends.
        for (step, candidates) in [(0, 400), (1, 382), (25, 126), (50, 40), (100, 4), (500, 4)] {
            assert_eq!(falling.draw(step), of(candidates).draw(step), "{kind}, step {step}");
        }
        let rising = of(4).with_total_steps(101).with_last_candidates(400);
        assert_eq!(rising.draw(50), of(40).draw(50), "{kind}");
        // Never fewer than are kept; without a length, where it would end.
        assert_eq!(of(9).with_last_candidates(0).draw(7), of(4).draw(7), "{kind}");
    }
}

#[test]
fn equal_scores_keep_the_order_of_draws() {
    // Alphas of zero make every score equal.
    let space = space("tiny");
    let flat = Sampler::new(&space, SamplerKind::CcfsF, 40, 6, 1).with_alphas(&[0.0; 5]).unwrap();
    let uniform = Sampler::new(&space, SamplerKind::Uniform, 40, 6, 1);
    assert_eq!(flat.draw(9), uniform.draw(9));
    assert!(Sampler::new(&space, SamplerKind::CcfsF, 40, 6, 1).with_alphas(&[1.0; 4]).is_err());
}

#[test]
fn ccfs_draws_lie_far_above_uniform_ones() {
    const STEPS: u64 = 100;
    let model = CostModel::new(&space("cvpr2022"));
    let moments = |kind, score: &dyn Fn(&Arch) -> f64| {
        let sampler = sampler("cvpr2022", kind, 5);
        let scores: Vec<f64> =
            (0..STEPS).flat_map(|step| sampler.draw(step)).map(|a| score(&a)).collect();
        let mean = scores.iter().sum::<f64>() / scores.len() as f64;
        let variance = scores.iter().map(|s| (s - mean).powi(2)).sum::<f64>();
        (mean, (variance / scores.len() as f64).sqrt())
    };
    let check = |kind, score: &dyn Fn(&Arch) -> f64| {
        let (uniform, deviation) = moments(SamplerKind::Uniform, score);
        let (ranked, _) = moments(kind, score);
        // The best 1 % of a normal distribution lies 2.7 deviations above its mean; the scores'
        // tails are shorter.
        assert!(ranked > uniform + 1.8 * deviation, "{kind}: {ranked} {uniform} {deviation}");
    };
    check(SamplerKind::CcfsM, &|a| model.costs(a).phi_m);
    check(SamplerKind::CcfsF, &|a| model.costs(a).phi_f);
    // CCFS-F cares less for the last stage, where the parameters are, than CCFS-M.
    let last = |a: &Arch| a.stages[3].len() as f64;
    let (m, f) = (moments(SamplerKind::CcfsM, &last).0, moments(SamplerKind::CcfsF, &last).0);
    let third = |a: &Arch| a.stages[2].len() as f64;
    let (m3, f3) = (moments(SamplerKind::CcfsM, &third).0, moments(SamplerKind::CcfsF, &third).0);
    assert!(m > f && m3 < f3, "depths of the last stage {m} {f}, of the third {m3} {f3}");
}

#[test]
fn width_sum_adds_an_unfiltered_draw_in_every_third_step() {
    let sampler = sampler("cvpr2022", SamplerKind::WidthSum, 0);
    let counts: Vec<usize> = (0..7).map(|step| sampler.draw(step).len()).collect();
    assert_eq!(counts, [4, 4, 5, 4, 4, 5, 4]);
    // The added one is ordinary: on average far below the kept ones.
    let gaps: Vec<f64> = (0..60)
        .map(|i| {
            let draws = sampler.draw(3 * i + 2);
            sampler.score(&draws[3]).unwrap() - sampler.score(&draws[4]).unwrap()
        })
        .collect();
    assert!(gaps.iter().filter(|gap| **gap > 0.0).count() >= 55, "{gaps:?}");
}

#[test]
fn fairnas_takes_every_option_equally_often() {
    // 420 draws, the least common multiple of 3, 4, 5 and 7 options, from a multiple of them on.
    let space = space("cvpr2022");
    let sampler = sampler("cvpr2022", SamplerKind::FairNas, 11);
    let archs: Vec<Arch> = (105..210).flat_map(|step| sampler.draw(step)).collect();
    let check = |what: String, options: usize, choice: &dyn Fn(&Arch) -> usize| {
        let mut counts = BTreeMap::new();
        archs.iter().for_each(|a| *counts.entry(choice(a)).or_insert(0usize) += 1);
        assert_eq!(counts.len(), options, "{what}");
        assert!(counts.values().all(|&c| c == 420 / options), "{what}: {counts:?}");
        // And in every round of its own.
        for round in archs.chunks(options) {
            let mut taken: Vec<usize> = round.iter().map(choice).collect();
            taken.sort_unstable();
            taken.dedup();
            assert_eq!(taken.len(), options, "{what}");
        }
    };
    check("stem".into(), 3, &|a| a.stem.into());
    for (i, stage) in space.stages.iter().enumerate() {
        check(format!("depth {i}"), stage.depth.1 - stage.depth.0 + 1, &|a| a.stages[i].len());
        check(format!("output {i}"), stage.codes, &|a| a.stages[i][0].out.into());
        for b in 0..stage.depth.0 {
            check(format!("middle {i} {b}"), stage.codes, &|a| a.stages[i][b].mid.into());
        }
    }
    // Choices with equally many options do not move together.
    let pairs: std::collections::BTreeSet<_> =
        archs.iter().map(|a| (a.stages[3][0].mid, a.stages[3][1].mid)).collect();
    assert!(pairs.len() > 40, "{} of 49 pairs", pairs.len());
}

#[test]
fn progressive_shrinking_opens_depths_then_widths() {
    let space = space("mini");
    let sampler =
        Sampler::new(&space, SamplerKind::ProgressiveShrinking, 400, 4, 2).with_total_steps(900);
    let depths = |a: &Arch| a.stages.iter().map(Vec::len).collect::<Vec<_>>();
    let widest =
        |a: &Arch| a.stem == 1 && a.stages.iter().flatten().all(|b| b.mid == 1 && b.out == 1);
    let over =
        |steps: std::ops::Range<u64>| steps.flat_map(|s| sampler.draw(s)).collect::<Vec<_>>();
    assert_eq!(over(0..300), vec![space.largest(); 300]);
    // Depths: the deepest stage has 6 levels to fall by, of 50 steps each.
    for level in 0..6 {
        let drawn = over(300 + 50 * level..350 + 50 * level);
        assert_eq!(drawn.len(), 200);
        assert!(drawn.iter().all(widest));
        let fewest = |stage: usize| drawn.iter().map(|a| depths(a)[stage]).min().unwrap();
        assert_eq!(fewest(2), 7 - level as usize);
        assert_eq!(fewest(0), 4usize.saturating_sub(level as usize).max(2));
    }
    // Widths: 6 further codes, of 50 steps each; all depths.
    for level in 0..6 {
        let drawn = over(600 + 50 * level..650 + 50 * level);
        let codes = drawn.iter().flat_map(|a| a.stages.iter().flatten().map(|b| b.mid.max(b.out)));
        assert_eq!(codes.max().unwrap(), 2 + level as u8);
        assert!(drawn.iter().any(|a| depths(a)[2] == 2) && drawn.iter().any(|a| depths(a)[2] == 8));
    }
    // Past the end, and without a length, it draws what uniform sampling draws.
    let uniform = Sampler::new(&space, SamplerKind::Uniform, 400, 4, 2);
    assert_eq!(sampler.draw(10_000), uniform.draw(10_000));
    let endless = Sampler::new(&space, SamplerKind::ProgressiveShrinking, 400, 4, 2);
    assert_eq!(endless.draw(0), uniform.draw(0));
}

#[test]
fn the_sandwich_has_both_ends() {
    let space = space("cvpr2022");
    for keep in 0..6 {
        let drawn = Sampler::new(&space, SamplerKind::Sandwich, 400, keep, 2).draw(8);
        assert_eq!(drawn.len(), keep);
        let ends = [space.largest(), space.smallest()];
        assert!(drawn.iter().zip(&ends).all(|(found, end)| found == end));
    }
}

#[test]
fn candidates_are_never_fewer_than_kept() {
    for kind in SamplerKind::ALL {
        let n = Sampler::new(&space("tiny"), kind, 0, 3, 0).draw(0).len();
        assert_eq!(n, 3, "{kind}");
    }
}
