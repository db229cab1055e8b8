//! `slimtau export`: what it writes is the subnet, in both forms, with the statistics asked for; and what it refuses.

mod program;

use program::{
    Finished, NARROW_CODES, assert_clean, assert_refused, idx_folder, narrow_space, put, run, word,
};
use slimtau_base::{TensorFile, fill_normal, stream};
use slimtau_data::{Loader, LoaderConfig, Normalization};
use slimtau_space::SearchSpace;
use slimtau_supernet::{Layout, OnnxNorms, Plan, Session, Weights, recalibrate};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const SIDE: usize = 16;

/// A supernet's checkpoint, images to recalibrate on, and a folder to export to.
struct Case {
    folder: tempfile::TempDir,
    space: SearchSpace,
    layout: Arc<Layout>,
    weights: Weights,
}

impl Case {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = put(folder.path(), "narrow.toml", narrow_space(SIDE, 1));
        let space = SearchSpace::load(word(&file)).unwrap();
        let layout = Layout::supernet(&space).unwrap();
        let mut weights = Weights::init(&layout, 5);
        for (i, value) in weights.buffers.iter_mut().enumerate() {
            *value += 0.01 * (i % 17) as f32;
        }
        weights.save(&layout, &folder.path().join("w.safetensors")).unwrap();
        idx_folder(&folder.path().join("data"), SIDE, 60, 10);
        Self { folder, space, layout, weights }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn export(&self, code: &str, output: &str, more: &[&str]) -> Finished {
        let at = |name| word(&self.at(name)).to_owned();
        let (space, checkpoint, output) = (at("narrow.toml"), at("w.safetensors"), at(output));
        let words = ["export", "--space", &space, "--checkpoint", &checkpoint, "--arch", code];
        run(&[&words[..], &["--output", &output], more].concat())
    }

    fn plan(&self, code: &str) -> Plan {
        let arch = self.space.parse(code).unwrap();
        Plan::subnet(&self.space, &self.layout, &arch).unwrap()
    }

    fn logits(&self, plan: &Plan, weights: &Weights) -> Vec<u32> {
        let mut images = vec![0.0; 3 * plan.image_len()];
        fill_normal(&mut stream(1, "test.images", 0), 1.0, &mut images);
        let Weights { params, buffers } = weights;
        let mut session = Session::new();
        let logits = session.infer(plan, params, buffers, &images).unwrap();
        assert!(logits.iter().all(|v| v.is_finite() && *v != 0.0));
        logits.iter().map(|v| v.to_bits()).collect()
    }

    /// The weights with the statistics that `--bn recalibrated` with 2 batches of 20 is to measure.
    fn recalibrated(&self, plan: &Plan) -> Weights {
        let data = slimtau_data::open(&slimtau_data::Source::IdxFolder(self.at("data"))).unwrap();
        let normalization = Normalization::measure(&*data.train, 10_000).unwrap();
        let loader = Loader::new(data.train, LoaderConfig::eval(normalization, 20)).unwrap();
        let batches: Vec<_> = loader.stream(0, 2).map(|batch| batch.unwrap().images).collect();
        let mut weights = self.weights.clone();
        let Weights { params, buffers } = &mut weights;
        let each = batches.iter().map(Vec::as_slice);
        recalibrate(&mut Session::new(), plan, params, buffers, each).unwrap();
        weights
    }

    fn recalibration(&self) -> Vec<String> {
        let data = word(&self.at("data")).to_owned();
        let words = ["--bn", "recalibrated", "--recalibration-batches", "2", "--batch", "20"];
        words.map(str::to_owned).into_iter().chain(["--data".to_owned(), data]).collect()
    }
}

/// The metadata, the same in both forms.
fn metadata(case: &Case, plan: &Plan, code: &str, statistics: &str) -> BTreeMap<String, String> {
    let network = plan.network();
    let code = &code[code.len() - case.space.code_len()..];
    let pairs = [
        ("code", code.to_owned()),
        ("space", "narrow".to_owned()),
        ("params", network.params().to_string()),
        ("macs", network.macs().to_string()),
        ("bn_statistics", statistics.to_owned()),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

#[test]
fn both_forms_hold_the_subnet_with_the_statistics_asked_for() {
    let case = Case::new();
    let recalibration = case.recalibration();
    let recalibration: Vec<&str> = recalibration.iter().map(String::as_str).collect();
    let long = format!("1{}", NARROW_CODES[2]);
    for code in [NARROW_CODES[0], NARROW_CODES[1], NARROW_CODES[2], &long] {
        let plan = case.plan(code);
        let own = Layout::standalone(plan.network());
        let own_plan = Plan::new(plan.network(), &own).unwrap();
        let recalibrated = case.recalibrated(&plan);
        assert_ne!(case.logits(&plan, &recalibrated), case.logits(&plan, &case.weights));
        let frozen = ["--bn", "frozen"];
        for (more, weights) in [
            (&[][..], &case.weights),
            (&frozen[..], &case.weights),
            (&recalibration[..], &recalibrated),
        ] {
            let said = case.export(code, "new/net.safetensors", more).expect_success();
            let (params, macs) = (plan.network().params(), plan.network().macs());
            let costs = format!("net.safetensors: {params} parameters, {macs} MACs at 16x16, ");
            assert!(said.contains(&costs) && said.contains("load_state_dict"), "{said}");
            let path = case.at("new/net.safetensors");
            // A network of its own, which says what it is and computes what the subnet does.
            let alone = Weights::load(&own, &path).unwrap();
            assert_eq!(
                case.logits(&own_plan, &alone),
                case.logits(&plan, weights),
                "{code} {more:?}"
            );
            let file = TensorFile::read(&path).unwrap();
            assert_eq!(file.tensors.len(), own.tensors().len());
            let statistics = match more {
                [_, "recalibrated", ..] => "measured on 40 training images (2 batches)",
                _ => "the checkpoint's",
            };
            assert!(said.contains(&format!("BN statistics: {statistics}")), "{said}");
            let metadata = metadata(&case, &plan, code, statistics);
            assert_eq!(file.meta, metadata);

            let kept = ["--keep-norms"];
            for (keep, norms) in [(&[][..], OnnxNorms::Folded), (&kept[..], OnnxNorms::Kept)] {
                let said = case.export(code, "new/net.onnx", &[more, keep].concat());
                let said = said.expect_success();
                assert!(said.contains("net.onnx: ") && said.contains("onnxruntime"), "{said}");
                // What other programs make of these bytes, `crates/supernet/tests/onnx.rs` asks.
                let expected = weights.to_onnx(&plan, norms, &metadata).unwrap();
                assert!(fs::read(case.at("new/net.onnx")).unwrap() == expected, "{code} {more:?}");
            }
        }
    }
    assert_clean(case.folder.path());
}

#[test]
fn a_network_trained_alone_is_exported_from_its_own_checkpoint() {
    let case = Case::new();
    // It breaks the ties: the output width changes within stage 1.
    let code = "22112131211";
    let network = case.space.resolve(&case.space.parse(code).unwrap()).unwrap();
    let own = Layout::standalone(&network);
    let weights = Weights::init(&own, 8);
    weights.save(&own, &case.at("w.safetensors")).unwrap();
    case.export(code, "net.safetensors", &["--standalone"]).expect_success();
    assert_eq!(Weights::load(&own, &case.at("net.safetensors")).unwrap(), weights);
    let said = case.export(code, "net.onnx", &["--standalone"]).expect_success();
    assert!(said.contains(&format!("{} parameters", network.params())), "{said}");
}

/// PyTorch's weights in, a subnet's file, PyTorch's weights out: no bit is lost on the way.
#[test]
fn pytorchs_tensors_come_through_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    for (name, largest, other) in [
        ("basic", "22111111111", "12212003323"),
        ("stem7", "211111111", "213132332"),
        ("bottleneck", "22111111111", "21323131100"),
    ] {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens").join(name);
        let space = golden.with_extension("toml");
        let file = TensorFile::read(&golden.with_extension("safetensors")).unwrap();
        let mut checkpoint = TensorFile::default();
        for (key, tensor) in &file.tensors {
            if let Some(name) = key.strip_prefix("weights/") {
                checkpoint.insert(name, &tensor.shape, tensor.data.clone());
            }
        }
        let (input, output) = (folder.path().join("w"), folder.path().join("net.safetensors"));
        checkpoint.write(&input).unwrap();
        let export = |code| {
            let files = ["--checkpoint", word(&input), "--output", word(&output)];
            let words = ["export", "--space", word(&space), "--arch", code];
            run(&[&words[..], &files].concat()).expect_success();
            TensorFile::read(&output).unwrap().tensors
        };
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        let all = export(largest);
        assert!(all.keys().eq(checkpoint.tensors.keys()), "{name}");
        for (key, tensor) in &all {
            assert_eq!(tensor.shape, checkpoint.tensors[key].shape, "{name} {key}");
            assert_eq!(bits(&tensor.data), bits(&checkpoint.tensors[key].data), "{name} {key}");
        }
        // The first block of a narrower subnet: the leading channels, [O, I, h, w].
        let part = &export(other)["blocks.1.conv1.weight"];
        let whole = &checkpoint.tensors["blocks.1.conv1.weight"];
        let [outputs, inputs, h, w] = part.shape[..] else { panic!("{:?}", part.shape) };
        let (full_inputs, taps) = (whole.shape[1], h * w);
        assert!(inputs < full_inputs, "{name}");
        for o in 0..outputs {
            let (own, shared) = (o * inputs * taps, o * full_inputs * taps);
            let n = inputs * taps;
            assert_eq!(bits(&part.data[own..][..n]), bits(&whole.data[shared..][..n]), "{name}");
        }
    }
}

#[test]
fn what_cannot_be_exported_is_refused() {
    let case = Case::new();
    let code = NARROW_CODES[1];
    put(case.folder.path(), "net.onnx", "what stood here");
    let check = |finished: Finished, needles: &[&str]| {
        assert_refused(&finished, needles);
        assert_eq!(fs::read(case.at("net.onnx")).unwrap(), b"what stood here");
        assert_clean(case.folder.path());
    };
    for name in ["net.pt", "net", "net.ONNX.gz"] {
        check(case.export(code, name, &[]), &[name, ".safetensors", ".onnx"]);
    }
    let untied = case.export("22112131211", "net.onnx", &[]);
    check(
        untied,
        &["`22112131211`", "stage 1, block 1", "no place in the weight-sharing supernet"],
    );
    check(case.export("2211", "net.onnx", &[]), &["`2211`", "4 digits", "11, or 12"]);
    check(case.export("22111111411", "net.onnx", &[]), &["digit 9", "`4`", "1 to 3"]);
    for (option, value) in
        [("--data", "embedded"), ("--batch", "9"), ("--recalibration-batches", "9")]
    {
        check(
            case.export(code, "net.onnx", &[option, value]),
            &[option, "--bn recalibrated", "tracked"],
        );
    }
    let recalibrated =
        |more: &[&str]| case.export(code, "net.onnx", &[&["--bn", "recalibrated"], more].concat());
    check(recalibrated(&["--batch", "0"]), &["--batch 0"]);
    check(recalibrated(&["--recalibration-batches", "0"]), &["--recalibration-batches 0"]);
    check(recalibrated(&["--data", "./nowhere"]), &["./nowhere", "no such folder"]);
    // The embedded images are 28x28.
    check(recalibrated(&[]), &["16x16x1", "28x28x1"]);
    check(case.export(code, "x.safetensors", &["--keep-norms"]), &["--keep-norms", ".onnx"]);
    check(case.export(code, "w.safetensors", &[]), &["w.safetensors", "checkpoint itself"]);
    // The supernet's checkpoint is not that of a narrower network, and a network's own not the supernet's.
    let standalone = case.export(code, "net.onnx", &["--standalone"]);
    let likely = format!("another --arch than {code}, another --space than narrow, or a supernet");
    check(standalone, &["w.safetensors", "tensor `blocks.", "expected [", &likely]);
    let own = Layout::standalone(case.plan(code).network());
    Weights::init(&own, 1).save(&own, &case.at("w.safetensors")).unwrap();
    let likely = "of another --space than narrow, or of a network trained alone";
    let own = case.export(code, "net.onnx", &[]);
    check(own, &["w.safetensors", "tensor `blocks.", "expected [", likely]);
}
