//! Complexity-aware decay by hand-computed values, and which subnets share a momentum buffer.

use slimtau_ccfs::{ComplexityDecay, MomentumGroups};
use slimtau_space::{CostModel, SearchSpace};

#[test]
fn decay_by_hand() {
    let space = SearchSpace::preset("cvpr2022").unwrap();
    let decay = ComplexityDecay::new(&space, 4.0);
    let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-9, "{found}");
    close(decay.decay(&space.smallest()), 4.0);
    close(decay.decay(&space.largest()), 0.25);
    // From the parameters: 34.04 M of the largest network, and those of the others.
    let model = CostModel::new(&space);
    let params = |arch| model.costs(&arch).params as f64;
    let (least, most) = (params(space.smallest()), params(space.largest()));
    assert!((most / 1e6 - 34.04).abs() < 0.01, "{most}");
    let arch = space.parse("252233313000000223212122253130000000000006515000000").unwrap();
    let c = params(arch.clone());
    // w ln C + t through both ends, as a line rather than an interpolation.
    let w = -(4.0 - 0.25) / (most.ln() - least.ln());
    close(decay.decay(&arch), w * c.ln() + (0.25 - w * most.ln()));
    assert!(decay.decay(&arch) > 0.25 && decay.decay(&arch) < 4.0);
    // One exponent for all: gamma_min = gamma_max = 1.
    close(ComplexityDecay::new(&space, 1.0).decay(&arch), 1.0);
}

#[test]
fn a_space_of_one_subnet_decays_linearly() {
    let mut space = SearchSpace::preset("tiny").unwrap();
    space.stem.codes = 1;
    for stage in &mut space.stages {
        (stage.codes, stage.depth) = (1, (2, 2));
    }
    assert_eq!(ComplexityDecay::new(&space, 4.0).decay(&space.largest()), 1.0);
}

#[test]
fn groups_by_every_split() {
    let space = SearchSpace::preset("cvpr2022").unwrap();
    let arch = space.parse("252233313000000223212122253130000000000006515000000").unwrap();
    let check = |name: &str, groups: usize, group: usize| {
        let split = MomentumGroups::parse(&space, name).unwrap();
        assert_eq!((split.groups(), split.group(&arch)), (groups, group), "{name}");
        assert_eq!(
            split.group(&space.largest()) + 1,
            if name.starts_with('d') { groups } else { 1 }
        );
        let of_smallest = split.group(&space.smallest());
        assert_eq!(of_smallest, if name.starts_with('d') { 0 } else { groups - 1 }, "{name}");
    };
    // Depths 2 to 5, 2 to 5, 2 to 8, 2 to 5; codes 3 (stem and stage 1), 3, 5, 7.
    check("depth-1", 4, 0);
    check("depth-2", 4, 3);
    check("depth-3", 7, 0);
    check("depth-4", 4, 0);
    // The code: 2522, 3, 3313.., 2232121222, 5313.., 6515..; a stage's second digits are its output.
    check("stem", 3, 2);
    check("width-1", 3, 2);
    check("width-2", 3, 1);
    check("width-3", 5, 2);
    check("width-4", 7, 4);
    for wrong in ["", "depth", "depth-0", "depth-5", "width--1", "depth-1 ", "height-1"] {
        let error = MomentumGroups::parse(&space, wrong).unwrap_err().to_string();
        let expected = "there are stem, depth-1 to depth-4 and width-1 to width-4";
        assert!(error.contains(&format!("`{wrong}`")) && error.ends_with(expected), "{error}");
    }
}
