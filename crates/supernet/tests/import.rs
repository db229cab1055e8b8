//! Files of Paddle and PyTorch become the same weights, bit for bit, and the frameworks' own logits
//! (`scripts/goldens_import_paddle.py`, `scripts/goldens_import_torch.py`).
//!
//! Tolerance of logits: 1e-5 of the largest. The weights are the frameworks' to the bit, so only the order of
//! float32 sums differs.

use half::{bf16, f16};
use slimtau_base::TensorFile;
use slimtau_space::SearchSpace;
use slimtau_supernet::{
    Format, Framework, Imported, Layout, Naming, Plan, Session, Weights, import,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const TOLERANCE: f32 = 1e-5;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

fn space() -> SearchSpace {
    SearchSpace::load(golden("four-stages.toml").to_str().unwrap()).unwrap()
}

fn layout() -> Arc<Layout> {
    Layout::supernet(&space()).unwrap()
}

fn imported(name: &str) -> Imported {
    import(&layout(), &golden(name)).unwrap_or_else(|e| panic!("{e}"))
}

/// What an import says of a file that `text` makes of a golden.
fn error(name: &str) -> String {
    import(&layout(), &golden(name)).unwrap_err().to_string()
}

/// What PyTorch's safetensors holds, by the network's names.
fn truth() -> TensorFile {
    TensorFile::read(&golden("plain.safetensors")).unwrap()
}

/// The bits of every tensor, by name.
fn bits(file: &TensorFile) -> Vec<(&str, &[usize], Vec<u32>)> {
    let bits = |data: &[f32]| data.iter().map(|v| v.to_bits()).collect();
    file.tensors.iter().map(|(name, t)| (name.as_str(), &t.shape[..], bits(&t.data))).collect()
}

/// Asserts that the largest network computes the logits that a framework computed.
fn assert_logits(weights: &Weights, golden_file: &str) {
    let (space, layout) = (space(), layout());
    let file = TensorFile::read(&golden(golden_file)).unwrap();
    let (images, expected) = (&file.tensors["images"], &file.tensors["logits"]);
    let [n, channels, h, w] = images.shape[..] else { panic!("{:?}", images.shape) };
    let mut nhwc = Vec::with_capacity(images.data.len());
    for image in images.data.chunks_exact(channels * h * w) {
        for p in 0..h * w {
            nhwc.extend((0..channels).map(|c| image[c * h * w + p]));
        }
    }
    let plan = Plan::subnet(&space, &layout, &space.largest()).unwrap();
    let mut session = Session::new();
    let got = session.infer(&plan, &weights.params, &weights.buffers, &nhwc).unwrap();
    assert_eq!((got.len(), &expected.shape[..]), (n * space.classes, &[n, space.classes][..]));
    let scale = expected.data.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let worst = got.iter().zip(&expected.data).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(worst <= TOLERANCE * scale, "off by {worst} of {scale}");
}

#[test]
fn paddles_files_have_paddles_logits() {
    // The same weights were given to both frameworks, so Paddle's files hold PyTorch's bits.
    for (name, naming, removed) in [
        ("protocol2.pdparams", Naming::Competition, &["_layers", "fn"][..]),
        ("protocol4.pdparams", Naming::Torchvision, &[]),
        ("nested.pdparams", Naming::Competition, &[]),
        ("protocol5.pdparams", Naming::Competition, &[]),
        ("split.pdparams", Naming::Competition, &[]),
    ] {
        let Imported { weights, report } = imported(name);
        assert_eq!(bits(&weights.to_file(&layout())), bits(&truth()), "{name}");
        assert_logits(&weights, "paddle_logits.safetensors");
        assert_eq!(
            (report.format, report.framework),
            (Format::Pickle, Framework::Paddle),
            "{name}"
        );
        assert_eq!((report.naming, &report.removed[..]), (naming, removed), "{name}");
        assert!(report.converted.is_empty(), "{name}");
    }
    assert_eq!(imported("protocol2.pdparams").report.ignored, ["StructuredToParameterName@@"]);
    let nested = imported("nested.pdparams").report;
    assert_eq!((nested.wrapper, &nested.ignored[..]), (Some("model"), &["epoch".to_owned()][..]));
}

#[test]
fn pytorchs_files_come_back_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let ours = folder.path().join("ours.safetensors");
    for (name, format, naming) in [
        ("plain.safetensors", Format::Safetensors, Naming::Competition),
        ("plain.pth", Format::Torch, Naming::Competition),
        // Views of one storage.
        ("shared.pth", Format::Torch, Naming::Competition),
        // Channels-last convolutions, and a classifier inside a larger storage.
        ("wrapped.pth", Format::Torch, Naming::Torchvision),
    ] {
        let Imported { weights, report } = imported(name);
        weights.save(&layout(), &ours).unwrap();
        let written = TensorFile::read(&ours).unwrap();
        assert_eq!(bits(&written), bits(&truth()), "{name}");
        assert_logits(&weights, "torch_logits.safetensors");
        assert_eq!((report.format, report.framework), (format, Framework::Torch), "{name}");
        assert_eq!(report.naming, naming, "{name}");
        // One batch counter for each of the 13 batch norms.
        let counters = report.ignored.iter().filter(|n| n.ends_with("num_batches_tracked")).count();
        assert_eq!(counters, 13, "{name}");
    }
    let wrapped = imported("wrapped.pth").report;
    assert_eq!((wrapped.wrapper, &wrapped.removed[..]), (Some("state_dict"), &["module"][..]));
    assert!(["epoch", "best", "optimizer"].iter().all(|n| wrapped.ignored.iter().any(|i| i == n)));
    // And what we wrote is imported as it is.
    let again = import(&layout(), &ours).unwrap();
    assert_eq!(bits(&again.weights.to_file(&layout())), bits(&truth()));
}

#[test]
fn other_element_types_are_converted_and_counted() {
    let truth = truth();
    let check =
        |name: &str, expected: &dyn Fn(&str, usize, f32) -> f32, counts: &[(&str, usize)]| {
            let Imported { weights, report } = imported(name);
            let file = weights.to_file(&layout());
            for (tensor, got) in &file.tensors {
                let rank = got.shape.len();
                for (got, from) in got.data.iter().zip(&truth.tensors[tensor].data) {
                    assert_eq!(*got, expected(tensor, rank, *from), "{name}: {tensor}");
                }
            }
            let counted: Vec<_> = report.converted.iter().map(|(e, n)| (e.as_str(), *n)).collect();
            assert_eq!(counted, counts, "{name}");
        };
    let mixed = |tensor: &str, rank, v| match (tensor.contains("fc"), rank) {
        (true, _) => bf16::from_f32(v).to_f32(),
        (false, 4) => f16::from_f32(v).to_f32(),
        _ => v, // float64 of float32 values
    };
    let counts = [("bfloat16", 2), ("float16", 13), ("float64", 52)];
    check("mixed.pth", &mixed, &counts);
    check("mixed.safetensors", &mixed, &counts);
    // NumPy has no bfloat16, so Paddle writes its bits as uint16.
    check(
        "bfloat16.pdparams",
        &|_, _, v| bf16::from_f32(v).to_f32(),
        &[("bfloat16 (as uint16)", 67)],
    );
}

#[test]
fn files_that_do_not_fit_are_refused_in_words() {
    let old = error("old.pth");
    assert!(old.contains("old.pth") && old.contains("torch.save(torch.load("), "{old}");
    let text = error("four-stages.toml");
    assert!(text.contains("four-stages.toml: neither"), "{text}");
    assert!(error("nothing.pth").contains("cannot read"));

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let refused = |change: &dyn Fn(&mut TensorFile), needles: &[&str]| {
        let mut file = truth();
        change(&mut file);
        file.write(&path).unwrap();
        let error = import(&layout(), &path).unwrap_err().to_string();
        assert!(error.contains("w.safetensors"), "{error}");
        for needle in needles {
            assert!(error.contains(needle), "`{needle}` in {error}");
        }
    };
    let rename = |file: &mut TensorFile, from: &str, to: &str| {
        let tensor = file.tensors.remove(from).unwrap();
        file.tensors.insert(to.to_owned(), tensor);
    };
    refused(
        &|f| drop(f.tensors.remove("blocks.2.bn1.bias")),
        &["`blocks.2.bn1.bias` is missing", "1 of 67"],
    );
    refused(&|f| f.insert("head.weight", &[1], vec![0.0]), &["no place for `head.weight`"]);
    refused(
        &|f| rename(f, "blocks.1.conv1.weight", "layer1.1.conv1.weight"),
        &["no place for `layer1.1.conv1.weight`", "[1, 2, 1, 1] blocks"],
    );
    refused(
        &|f| f.insert("model.fc.bias", &[5], vec![0.0; 5]),
        &["`blocks.6.fc.bias` and `model.fc.bias` both mean `blocks.6.fc.bias`"],
    );
    refused(
        &|f| f.insert("blocks.6.fc.weight", &[8, 5], vec![0.0; 40]),
        &["`blocks.6.fc.weight` has shape [8, 5], expected [5, 8]"],
    );
    refused(
        &|f| rename(f, "blocks.0.bn.running_mean", "blocks.0.bn._mean"),
        &["`blocks.0.bn._mean` is named as by Paddle", "as by PyTorch"],
    );
    refused(
        &|f| f.tensors.get_mut("blocks.0.bn.running_var").unwrap().data[2] = f32::INFINITY,
        &["`blocks.0.bn.running_var` holds inf at element 2"],
    );
    // Ours carry a checksum.
    let mut bytes = {
        truth().write(&path).unwrap();
        std::fs::read(&path).unwrap()
    };
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let damaged = import(&layout(), &path).unwrap_err().to_string();
    assert!(damaged.contains("checksum"), "{damaged}");
}

/// Truncations and changed bytes: every one ends in an error or in weights, and what PyTorch's archive
/// protects is never read wrongly.
mod damaged {
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::Index;

    const FILES: [&str; 6] = [
        "protocol2.pdparams",
        "protocol4.pdparams",
        "protocol5.pdparams",
        "split.pdparams",
        "plain.pth",
        "mixed.safetensors",
    ];

    fn import_bytes(bytes: &[u8]) -> Result<Imported, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("damaged");
        std::fs::write(&path, bytes).unwrap();
        import(&layout(), &path).map_err(|e| e.to_string())
    }

    #[test]
    fn no_truncation_goes_unnoticed() {
        for name in FILES {
            let whole = std::fs::read(golden(name)).unwrap();
            // Every length near either end, and some hundred between.
            let lengths =
                (0..whole.len()).filter(|n| *n < 64 || whole.len() - n <= 64 || n % 211 == 0);
            for length in lengths {
                let error = import_bytes(&whole[..length]).unwrap_err();
                // The first nine bytes tell a file's format.
                let said = length < 9 || error.contains("truncated");
                assert!(said, "{name} cut to {length} bytes: {error}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn changed_bytes_end_in_an_error_or_in_weights(
            file in 0..FILES.len(),
            // Values are most of a file; the structure before the first of them is the more dangerous part.
            changes in prop::collection::vec((any::<Index>(), any::<bool>(), 0..3, any::<u8>()), 1..5),
        ) {
            let mut bytes = std::fs::read(golden(FILES[file])).unwrap();
            for (at, early, kind, byte) in changes {
                let at = at.index(if early { 600 } else { bytes.len() });
                match kind {
                    0 => bytes[at] = byte,
                    1 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, byte),
                }
            }
            if let Ok(read) = import_bytes(&bytes) {
                prop_assert_eq!(read.weights.params.len(), layout().params());
                prop_assert!(read.weights.params.iter().all(|v| v.is_finite()));
            }
        }
    }

    #[test]
    fn a_changed_value_in_an_archive_is_found() {
        let whole = std::fs::read(golden("plain.pth")).unwrap();
        let value = truth().tensors["blocks.1.conv1.weight"].data[0].to_le_bytes();
        let at = whole.windows(4).position(|w| w == value).unwrap();
        let mut bad = whole.clone();
        bad[at] ^= 1;
        let error = import_bytes(&bad).unwrap_err();
        assert!(error.contains("blocks.1.conv1.weight") && error.contains("hecksum"), "{error}");
        assert!(import_bytes(&whole).is_ok());
    }
}
