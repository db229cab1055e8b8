//! Exported ONNX files in a runtime that is not ours: the same logits, for every kind of network.

use rten::{Model, ValueView};
use slimtau_base::{TensorFile, fill_normal, stream};
use slimtau_space::SearchSpace;
use slimtau_supernet::{Layout, OnnxNorms, Plan, Session, Weights, recalibrate};
use std::collections::BTreeMap;
use std::path::Path;

/// Of the largest logit.
const TOLERANCE: f32 = 1e-4;

/// A space of two stages. Odd image sizes, where padding at the right and lower edge shows.
fn space(block: &str, stem: &str, image_size: usize, channels: usize) -> SearchSpace {
    let text = format!(
        r#"
        name = "two-stages"
        image_size = {image_size}
        channels = {channels}
        classes = 5
        ratios = [1.0, 0.75, 0.5]
        divisor = 4
        block = "{block}"
        stem = {{ width = 16, {stem}, codes = 3 }}
        stage = [
            {{ width = 16, depth = [1, 3], stride = 1, codes = 3 }},
            {{ width = 24, depth = [1, 2], stride = 2, codes = 3 }},
        ]
    "#
    );
    SearchSpace::from_toml(&text, "test").unwrap()
}

fn spaces() -> [SearchSpace; 4] {
    let small = "kernel = 3, stride = 1, max_pool = false";
    let pooled = "kernel = 7, stride = 2, max_pool = true";
    [
        space("basic", small, 9, 3),
        space("basic", pooled, 37, 3),
        space("basic", pooled, 32, 1),
        space("bottleneck", small, 11, 1),
    ]
}

fn normal(purpose: &str, len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    fill_normal(&mut stream(2, purpose, 0), 1.0, &mut values);
    values
}

/// Weights whose norms are not those of a fresh network.
fn weights(layout: &Layout) -> Weights {
    let mut weights = Weights::init(layout, 3);
    for slot in layout.tensors().iter().filter(|slot| slot.shape.len() == 1) {
        let noise = normal(&slot.name, slot.range.len());
        let to = if slot.buffer { &mut weights.buffers } else { &mut weights.params };
        for (value, noise) in to[slot.range.clone()].iter_mut().zip(noise) {
            let is_variance = slot.name.ends_with("running_var");
            *value += if is_variance { noise.abs() } else { 0.3 * noise };
        }
    }
    weights
}

/// [N, H, W, C] -> [N, C, H, W].
fn nchw(images: &[f32], side: usize, channels: usize) -> Vec<f32> {
    let image = side * side * channels;
    let planes = images.chunks_exact(image).flat_map(|image| {
        (0..channels).flat_map(move |c| image[c..].iter().step_by(channels).copied())
    });
    planes.collect()
}

/// What the runtime makes of NCHW images: logits [N, classes].
fn run(onnx: &[u8], images: &[f32], shape: [usize; 4]) -> Vec<f32> {
    let model = Model::load(onnx.to_vec()).unwrap();
    let input = ValueView::from_shape(shape, images).unwrap();
    let ids = (model.node_id("images").unwrap(), [model.node_id("logits").unwrap()]);
    let [logits] = model.run_n(vec![(ids.0, input.into())], ids.1, None).unwrap();
    let ([rows, _], logits) = logits.into_shape_vec::<f32, 2>().unwrap();
    assert_eq!(rows, shape[0]);
    logits
}

#[track_caller]
fn assert_close(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    let largest = want.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    assert!(largest > 1e-2, "{what}: nothing to compare");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= TOLERANCE * largest, "{what}, {i}: {got} for {want}");
    }
}

/// Compares runtime and session on batches of different sizes, with norms folded and kept.
fn check(plan: &Plan, weights: &Weights, what: &str) {
    let network = plan.network();
    let (side, channels) = (network.image_size, network.channels);
    let mut session = Session::new();
    for norms in [OnnxNorms::Folded, OnnxNorms::Kept] {
        let onnx = weights.to_onnx(plan, norms, &BTreeMap::new()).unwrap();
        for n in [1, 3] {
            let images = normal("images", n * plan.image_len());
            let want = session.infer(plan, &weights.params, &weights.buffers, &images).unwrap();
            let got = run(&onnx, &nchw(&images, side, channels), [n, channels, side, side]);
            assert_close(&got, want, &format!("{what}, {norms:?}, {n} images"));
        }
    }
}

#[test]
fn a_runtime_gives_the_logits_of_every_subnet() {
    for space in spaces() {
        let layout = Layout::supernet(&space).unwrap();
        let weights = weights(&layout);
        let draws = (0..3).map(|i| space.sample_uniform(&mut stream(5, "archs", i), false));
        for arch in [space.largest(), space.smallest()].into_iter().chain(draws) {
            let plan = Plan::subnet(&space, &layout, &arch).unwrap();
            check(&plan, &weights, &space.encode(&arch));
        }
    }
}

#[test]
fn a_network_that_breaks_the_ties_has_a_model_of_its_own() {
    let space = space("basic", "kernel = 3, stride = 1, max_pool = false", 9, 3);
    // The output width changes from block to block: projections where the supernet has none.
    let arch = space.parse("22 1 132200 1321".replace(' ', "").as_str()).unwrap();
    assert!(space.check_tied(&arch).is_err());
    let network = space.resolve(&arch).unwrap();
    assert_eq!(network.blocks.iter().filter(|block| block.projection.is_some()).count(), 4);
    let layout = Layout::standalone(&network);
    let plan = Plan::new(&network, &layout).unwrap();
    check(&plan, &weights(&layout), "untied");
}

#[test]
fn a_subnets_recalibrated_statistics_are_in_its_model() {
    let space = space("basic", "kernel = 3, stride = 1, max_pool = false", 9, 3);
    let layout = Layout::supernet(&space).unwrap();
    let mut weights = weights(&layout);
    let plan = Plan::subnet(&space, &layout, &space.smallest()).unwrap();
    let shared = weights.to_onnx(&plan, OnnxNorms::Folded, &BTreeMap::new()).unwrap();
    let images = normal("calibration", 8 * plan.image_len());
    let Weights { params, buffers } = &mut weights;
    recalibrate(&mut Session::new(), &plan, params, buffers, [&images[..]]).unwrap();
    check(&plan, &weights, "recalibrated");
    assert!(weights.to_onnx(&plan, OnnxNorms::Folded, &BTreeMap::new()).unwrap() != shared);
}

/// PyTorch's weights and images in, the runtime's logits out, and PyTorch's own to compare
/// (`scripts/goldens_supernet.py`).
#[test]
fn a_runtime_gives_pytorchs_logits() {
    for name in ["basic", "stem7", "bottleneck"] {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens").join(name);
        let space = SearchSpace::load(golden.with_extension("toml").to_str().unwrap()).unwrap();
        let golden = golden.with_extension("safetensors");
        let file = TensorFile::read(&golden).unwrap();
        let mut own = TensorFile::default();
        for (key, tensor) in &file.tensors {
            if let Some(name) = key.strip_prefix("weights/") {
                own.insert(name, &tensor.shape, tensor.data.clone());
            }
        }
        let layout = Layout::supernet(&space).unwrap();
        let weights = Weights::from_file(&layout, &golden, &mut own).unwrap();
        let images = &file.tensors["images"];
        let shape = <[usize; 4]>::try_from(&images.shape[..]).unwrap();
        let mut codes = 0;
        for (key, want) in &file.tensors {
            let Some(code) = key.strip_suffix("/eval_logits") else { continue };
            let plan = Plan::subnet(&space, &layout, &space.parse(code).unwrap()).unwrap();
            let onnx = weights.to_onnx(&plan, OnnxNorms::Folded, &BTreeMap::new()).unwrap();
            assert_close(&run(&onnx, &images.data, shape), &want.data, &format!("{name}, {code}"));
            codes += 1;
        }
        assert_eq!(codes, 3, "{name}");
    }
}
