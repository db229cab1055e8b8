//! A prefix tree gives every subnet what it gets by itself, to the last bit; so do features without a backward pass, in blocks
//! and stems of every kind.

use slimtau_base::{fill_normal, stream};
use slimtau_space::{Arch, CostModel, SearchSpace};
use slimtau_supernet::{
    Layout, Norms, Plan, PrefixTree, Session, Statistics, SupernetError, TreeSession, Weights,
    recalibrate,
};
use std::sync::Arc;

/// A space of two stages on 8x8 RGB images.
fn space(block: &str, max_pool: bool) -> SearchSpace {
    let text = format!(
        r#"
        name = "two-stages"
        image_size = 8
        channels = 3
        classes = 5
        ratios = [1.0, 0.75, 0.5]
        divisor = 2
        block = "{block}"
        stem = {{ width = 8, kernel = 3, stride = 1, max_pool = {max_pool}, codes = 3 }}
        stage = [
            {{ width = 8, depth = [1, 2], stride = 1, codes = 3 }},
            {{ width = 12, depth = [1, 3], stride = 2, codes = 3 }},
        ]
        "#
    );
    SearchSpace::from_toml(&text, "test").unwrap()
}

struct Fixture {
    space: SearchSpace,
    layout: Arc<Layout>,
    weights: Weights,
}

impl Fixture {
    fn new(block: &str, max_pool: bool) -> Self {
        let space = space(block, max_pool);
        let layout = Layout::supernet(&space).unwrap();
        let mut weights = Weights::init(&layout, 3);
        for (value, noise) in weights.buffers.iter_mut().zip(normal("buffers", layout.buffers())) {
            *value += 0.1 + noise.abs();
        }
        Self { space, layout, weights }
    }

    fn plan(&self, arch: &Arch) -> Plan {
        Plan::subnet(&self.space, &self.layout, arch).unwrap()
    }

    fn images(&self, name: &str, batch: usize) -> Vec<f32> {
        normal(name, batch * self.space.image_size.pow(2) * self.space.channels)
    }

    /// Subnets that share prefixes, in no order: some twice, some another's first blocks and no more.
    fn archs(&self, n: u64) -> Vec<Arch> {
        let draw = |i| self.space.sample_uniform(&mut stream(1, "archs", i), false);
        let mut archs: Vec<Arch> = (0..n).map(draw).collect();
        archs.push(self.space.smallest());
        archs.push(self.space.largest());
        let mut shallower = self.space.largest();
        shallower.stages[1].pop();
        archs.extend([shallower, archs[0].clone()]);
        archs
    }
}

fn normal(name: &str, len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    fill_normal(&mut stream(0, name, len as u64), 1.0, &mut values);
    values
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// All logits of a tree, in the order of its list; every subnet is handed out once.
fn all(
    tree: &PrefixTree,
    session: &mut TreeSession,
    params: &[f32],
    statistics: Statistics<'_>,
    images: &[f32],
    n: usize,
) -> Vec<Vec<u32>> {
    let mut found = vec![None; n];
    tree.infer(session, params, statistics, images, |place, logits| {
        assert!(found[place].replace(bits(logits)).is_none(), "subnet {place} twice");
    })
    .unwrap();
    found.into_iter().map(|logits| logits.expect("every subnet")).collect()
}

#[test]
fn logits_are_those_of_each_subnet_by_itself() {
    let mut session = Session::new();
    // One memory for everything: what is left in it must not matter.
    let mut tree_session = TreeSession::default();
    for (block, max_pool) in
        [("basic", false), ("basic", true), ("bottleneck", false), ("bottleneck", true)]
    {
        let fixture = Fixture::new(block, max_pool);
        let Weights { params, buffers } = &fixture.weights;
        for n in [0, 2, 40] {
            let archs = fixture.archs(n + 1);
            let plans: Vec<Plan> = archs.iter().map(|arch| fixture.plan(arch)).collect();
            let tree = PrefixTree::new(plans.clone());
            for batch in [1, 3] {
                let images = fixture.images("images", batch);
                let calibration = [fixture.images("first", 4), fixture.images("second", 3)];
                let calibration = || calibration.iter().map(Vec::as_slice);

                let shared = Statistics::Shared(&buffers[..]);
                let found = all(&tree, &mut tree_session, params, shared, &images, plans.len());
                for (plan, found) in plans.iter().zip(found) {
                    let alone = session.infer(plan, params, buffers, &images).unwrap();
                    assert_eq!(found, bits(alone), "{block} {max_pool} {n} {batch}");
                }

                let mut own = tree.recalibration();
                for images in calibration() {
                    own.measure(&mut tree_session, params, images).unwrap();
                }
                let own = Statistics::Recalibrated(&own);
                let found = all(&tree, &mut tree_session, params, own, &images, plans.len());
                for (plan, found) in plans.iter().zip(found) {
                    let mut own = buffers.clone();
                    recalibrate(&mut session, plan, params, &mut own, calibration()).unwrap();
                    let alone = session.infer(plan, params, &own, &images).unwrap();
                    assert_eq!(found, bits(alone), "recalibrated {block} {max_pool} {n} {batch}");
                }
            }
        }
    }
}

#[test]
fn features_only_are_those_of_a_training_pass_in_blocks_of_every_kind() {
    let mut session = Session::default();
    for (block, max_pool) in
        [("basic", false), ("basic", true), ("bottleneck", false), ("bottleneck", true)]
    {
        let fixture = Fixture::new(block, max_pool);
        let Weights { params, buffers } = &fixture.weights;
        for arch in fixture.archs(2) {
            let plan = fixture.plan(&arch);
            let images = fixture.images("images", 3);
            let [mut own, mut only] = [buffers.clone(), buffers.clone()];
            let norms = Norms::Tracked { buffers: &mut own[..], momentum: 0.3 };
            let kept = bits(session.forward_features(&plan, params, norms, &images).unwrap());
            let norms = Norms::Tracked { buffers: &mut only[..], momentum: 0.3 };
            let found = session.forward_features_only(&plan, params, norms, &images).unwrap();
            assert_eq!(kept, bits(found), "{block} {max_pool} {arch:?}");
            assert_eq!(bits(&own), bits(&only), "{block} {max_pool} {arch:?}");
        }
    }
}

#[test]
fn only_what_differs_is_computed_again() {
    let fixture = Fixture::new("basic", false);
    let model = CostModel::new(&fixture.space);
    let macs = |archs: &[&Arch]| {
        PrefixTree::new(archs.iter().map(|arch| fixture.plan(arch)).collect()).macs()
    };
    let (largest, smallest) = (fixture.space.largest(), fixture.space.smallest());
    let cost = |arch| model.costs(arch).macs;
    let alone = macs(&[&largest]);
    assert_eq!((alone.one_by_one, alone.shared), (cost(&largest), cost(&largest)));
    let both = macs(&[&largest, &smallest]);
    assert_eq!(both.one_by_one, cost(&largest) + cost(&smallest));
    assert_eq!(both.shared, both.one_by_one, "their stems differ");

    // Without its last block: all but that block (4x4 pixels, 12 channels, two 3x3 convolutions) is there twice, and
    // so is the classifier.
    let mut shallower = largest.clone();
    shallower.stages[1].pop();
    let block = 2 * 16 * 9 * 12 * 12;
    let classifier = 12 * 5;
    assert_eq!(cost(&largest) - cost(&shallower), block);
    for list in [[&largest, &shallower], [&shallower, &largest]] {
        assert_eq!(macs(&list).shared, cost(&largest) + classifier);
    }
    let twice = macs(&[&smallest, &smallest]);
    assert_eq!(twice.shared, cost(&smallest) + classifier / 2, "half as many features");
}

#[test]
fn neighbours_in_order_share_the_most() {
    let fixture = Fixture::new("basic", false);
    let plans: Vec<Plan> = fixture.archs(60).iter().map(|arch| fixture.plan(arch)).collect();
    let halves = |plans: &[Plan]| -> u64 {
        plans.chunks(plans.len() / 2).map(|half| PrefixTree::new(half.to_vec()).macs().shared).sum()
    };
    let whole = PrefixTree::new(plans.clone()).macs();
    let drawn = halves(&plans);
    let order = PrefixTree::order(plans.iter().cloned().map(Ok::<_, ()>)).unwrap();
    let ordered = halves(&order.iter().map(|place| plans[*place].clone()).collect::<Vec<_>>());
    assert!(whole.shared <= ordered && ordered < drawn && drawn < whole.one_by_one);
    let mut places = order;
    places.sort_unstable();
    assert!(places.into_iter().eq(0..plans.len()));
    assert_eq!(PrefixTree::order([Err("broken")]), Err("broken"));
}

#[test]
fn odd_input_is_refused_and_no_subnets_are_no_work() {
    let fixture = Fixture::new("basic", false);
    let params = &fixture.weights.params;
    let mut session = TreeSession::default();
    let tree = PrefixTree::new(vec![fixture.plan(&fixture.space.largest())]);
    let images = vec![0.0; 100];
    let shared = Statistics::Shared(&fixture.weights.buffers[..]);
    let refused = tree.infer(&mut session, params, shared, &images, |_, _| panic!("handed out"));
    assert!(matches!(refused, Err(SupernetError::Images { got: 100, .. })), "{refused:?}");
    let mut own = tree.recalibration();
    let refused = own.measure(&mut session, params, &images);
    assert!(matches!(refused, Err(SupernetError::Images { got: 100, .. })), "{refused:?}");

    let empty = PrefixTree::new(Vec::new());
    empty.recalibration().measure(&mut session, params, &images).unwrap();
    empty.infer(&mut session, params, shared, &images, |_, _| panic!("handed out")).unwrap();
    assert_eq!((empty.macs().one_by_one, empty.macs().shared), (0, 0));
}

#[test]
#[should_panic(expected = "statistics of no images")]
fn statistics_that_were_not_measured_are_refused() {
    let fixture = Fixture::new("basic", false);
    let tree = PrefixTree::new(vec![fixture.plan(&fixture.space.largest())]);
    let (own, images) = (tree.recalibration(), fixture.images("images", 1));
    let own = Statistics::Recalibrated(&own);
    let mut session = TreeSession::default();
    let _ = tree.infer(&mut session, &fixture.weights.params, own, &images, |_, _| ());
}

#[test]
#[should_panic(expected = "statistics of another tree")]
fn statistics_of_another_tree_are_refused() {
    let fixture = Fixture::new("basic", false);
    let (params, images) = (&fixture.weights.params, fixture.images("images", 2));
    let tree = || PrefixTree::new(vec![fixture.plan(&fixture.space.largest())]);
    let (one, other) = (tree(), tree());
    let mut session = TreeSession::default();
    let mut own = one.recalibration();
    own.measure(&mut session, params, &images).unwrap();
    let own = Statistics::Recalibrated(&own);
    let _ = other.infer(&mut session, params, own, &images, |_, _| ());
}

#[test]
#[should_panic(expected = "plans of different layouts")]
fn plans_of_different_spaces_are_refused() {
    let plans = [false, true].map(|max_pool| {
        let fixture = Fixture::new("basic", max_pool);
        fixture.plan(&fixture.space.largest())
    });
    PrefixTree::new(plans.into());
}
