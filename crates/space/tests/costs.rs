//! Layers and costs: known facts, a network counted by hand, and tables against layers.

mod shared;

use proptest::prelude::*;
use shared::{any_arch, bottleneck, small, spaces};
use slimtau_base::stream;
use slimtau_space::{ALPHA_F, Block, CostModel, Costs, SearchSpace, SpaceError, alphas_f};

#[test]
fn the_largest_network_is_the_papers() {
    let space = SearchSpace::preset("cvpr2022").unwrap();
    let network = space.resolve(&space.largest()).unwrap();
    assert_eq!(format!("{:.2}", network.params() as f64 / 1e6), "34.04");
    assert_eq!(format!("{:.2}", network.macs() as f64 / 1e9), "5.28");
    assert_eq!((network.blocks.len(), network.features), (23, 512));
    assert_eq!((network.stem.out_size, network.blocks[0].convs[0].in_size), (112, 56));
    assert_eq!(network.blocks[22].convs[1].out_size, 7);
    let projections = network.blocks.iter().filter(|b| b.projection.is_some());
    let of: Vec<_> = projections.map(|b| (b.stage, b.index_in_stage)).collect();
    assert_eq!(of, [(1, 0), (2, 0), (3, 0)]);
    // Checkpoint names: blocks.{1 + offset + index}.
    assert_eq!((0..4).map(|s| space.block_offset(s)).collect::<Vec<_>>(), [0, 5, 10, 18]);
    assert_eq!(space.max_blocks(), 23);
}

#[test]
fn a_basic_network_counted_by_hand() {
    // Stem 5x5 2 -> 4 on 9x9 at stride 2: 5x5, pooled to 3x3. Stages 4, 4, then 12 -> 2x2.
    let space = small();
    let arch = space.parse("11121200121100").unwrap();
    let network = space.resolve(&arch).unwrap();
    let stem = 25 * 2 * 4 + 2 * 4;
    let first = 9 * 4 * 8 + 9 * 8 * 4 + 2 * (8 + 4);
    let third = 9 * 4 * 12 + 9 * 12 * 12 + 2 * (12 + 12) + (4 * 12 + 2 * 12);
    assert_eq!(network.params(), stem + 2 * first + third + 12 * 5 + 5);
    let first_macs = 9 * (9 * 4 * 8 + 9 * 8 * 4);
    let third_macs = 4 * (9 * 4 * 12 + 9 * 12 * 12 + 4 * 12);
    assert_eq!(network.macs(), 25 * 25 * 2 * 4 + 2 * first_macs + third_macs + 12 * 5);
    assert_eq!(network.phi_m(), (stem + 2 * first + third) as f64);
    let phi = network.phi(&[1.0, 0.0, 10.0, 0.5]).unwrap();
    assert_eq!(phi, stem as f64 + 10.0 * first as f64 + 0.5 * third as f64);
    let wrong = network.phi(&ALPHA_F).unwrap_err();
    assert!(matches!(wrong, SpaceError::Alphas { found: 5, stages: 3 }), "{wrong}");
}

#[test]
fn a_bottleneck_network_counted_by_hand() {
    // 15x15; stem 32; stage 1: one block of middle 8, output 32 (no projection); stage 2: middle
    // 16, output 64 at half of the size, 8x8.
    let space = bottleneck();
    let network = space.resolve(&space.parse("121110000111100").unwrap()).unwrap();
    let stem = 9 * 3 * 32;
    let first = 32 * 8 + 9 * 8 * 8 + 8 * 32;
    let second = [32 * 16, 9 * 16 * 16, 16 * 64, 32 * 64];
    let third = 64 * 16 + 9 * 16 * 16 + 16 * 64;
    let norms = 2 * (32 + (8 + 8 + 32) + (16 + 16 + 64 + 64) + (16 + 16 + 64));
    let weights = stem + first + second.iter().sum::<u64>() + third;
    assert_eq!(network.params(), weights + norms + 64 * 4 + 4);
    let macs = 225 * (stem + first + second[0]) + 64 * (second[1] + second[2] + second[3] + third);
    assert_eq!(network.macs(), macs + 64 * 4);
    let strides: Vec<usize> = network.blocks[1].convs.iter().map(|c| c.stride).collect();
    assert_eq!(strides, [1, 2, 1]);
}

#[test]
fn a_subnet_has_the_supernets_projections_whatever_its_widths() {
    // A stage of another base at stride 1 projects even where the active widths agree.
    let mut space = small();
    space.stages[1].width = 16;
    assert_eq!((0..3).map(|s| space.projects(s)).collect::<Vec<_>>(), [false, true, true]);
    let arch = space.parse("11111100121100").unwrap(); // stage 1 is 8 wide, stage 2 16 * 0.5
    space.check_tied(&arch).unwrap();
    let projection = space.resolve(&arch).unwrap().blocks[1].projection.unwrap();
    assert_eq!((projection.in_channels, projection.out_channels), (8, 8));
}

#[test]
fn the_papers_alphas_and_their_rule_for_other_depths() {
    assert_eq!(alphas_f(4), [1.0, 1.0, 0.55, 0.43, 0.24]);
    assert_eq!(alphas_f(1), [1.0, 1.0]);
    assert_eq!(alphas_f(6), [1.0, 1.0, 0.55, 0.43, 0.24, 0.24, 0.24]);
    let model = CostModel::new(&SearchSpace::preset("mini").unwrap());
    assert_eq!(model.alphas(), ALPHA_F);
    let wrong = [&[1.0][..], &[1.0, f64::NAN, 1.0, 1.0, 1.0]].map(|alphas| {
        let model = CostModel::new(&SearchSpace::preset("mini").unwrap());
        model.with_alphas(alphas).err().unwrap().to_string()
    });
    assert_eq!(
        wrong,
        ["1 alphas for a stem and 4 stages; expected 5", "alpha NaN is not a finite number"]
    );
}

#[test]
fn width_sums_round_up_over_the_authors_bases() {
    let space = SearchSpace::preset("cvpr2022").unwrap();
    let model = CostModel::new(&space);
    // 64, 70.4 -> 72, 108.8 -> 112, 121.6 -> 128, two per block.
    let expect = 64 + 2 * (5 * 64 + 5 * 72 + 8 * 112 + 5 * 128);
    assert_eq!(model.width_sum(&space.largest()), f64::from(expect));
    // At 0.9 and fewest blocks: 57.6 -> 64, 63.36 -> 64, 97.92 -> 104, 109.44 -> 112.
    let arch = space.parse("222233333000000333300000033330000000000003333000000").unwrap();
    assert_eq!(model.width_sum(&arch), f64::from(64 + 4 * (64 + 64 + 104 + 112)));
}

#[test]
fn costs_of_the_most_extreme_space_do_not_overflow() {
    let mut space = bottleneck();
    (space.image_size, space.channels, space.classes) = (2048, 8192, 1 << 20);
    space.divisor = 8192;
    (space.stem.width, space.stem.kernel) = (8192, 15);
    let mut stage = space.stages[0].clone();
    (stage.width, stage.depth, stage.stride) = (8192, (1, 9), 1);
    space.stages = vec![stage; 9];
    space.validate().unwrap();
    for block in [Block::Basic, Block::Bottleneck] {
        space.block = block;
        let arch = space.largest();
        let (network, costs) = (space.resolve(&arch).unwrap(), CostModel::new(&space).costs(&arch));
        assert_eq!((network.params(), network.macs()), (costs.params, costs.macs));
    }
}

proptest! {
    #[test]
    fn tables_give_what_the_layers_give(seed in any::<u64>()) {
        for space in spaces() {
            let model = CostModel::new(&space);
            let tied = space.sample_uniform(&mut stream(seed, "tied", 0), false);
            for arch in [any_arch(&space, seed), tied, space.largest(), space.smallest()] {
                let (network, costs) = (space.resolve(&arch).unwrap(), model.costs(&arch));
                prop_assert_eq!(network.params(), costs.params);
                prop_assert_eq!(network.macs(), costs.macs);
                prop_assert_eq!(network.phi_m(), costs.phi_m);
                prop_assert_eq!(network.phi_f(), costs.phi_f);
            }
        }
    }

    #[test]
    fn layers_fit_together(seed in any::<u64>()) {
        for space in spaces() {
            let network = space.resolve(&any_arch(&space, seed)).unwrap();
            let mut width = network.stem.out_channels;
            for block in &network.blocks {
                let shortcut = block.projection.map_or(width, |p| p.out_channels);
                for conv in &block.convs {
                    prop_assert_eq!(conv.in_channels, width);
                    prop_assert!(conv.out_size == conv.in_size.div_ceil(conv.stride));
                    width = conv.out_channels;
                }
                prop_assert_eq!(shortcut, width);
                if let Some(p) = block.projection {
                    prop_assert_eq!(p.in_size, block.convs[0].in_size);
                    prop_assert_eq!(p.out_size, block.convs[block.convs.len() - 1].out_size);
                }
            }
            prop_assert_eq!(network.features, width);
        }
    }

    #[test]
    fn the_largest_costs_most_and_the_smallest_least(seed in any::<u64>()) {
        for space in spaces() {
            let model = CostModel::new(&space);
            let arch = space.sample_uniform(&mut stream(seed, "between", 0), true);
            let [low, middle, high] =
                [space.smallest(), arch, space.largest()].map(|a| model.costs(&a));
            for costs in [|c: &Costs| c.params, |c: &Costs| c.macs] {
                prop_assert!(costs(&low) <= costs(&middle) && costs(&middle) <= costs(&high));
            }
        }
    }
}
