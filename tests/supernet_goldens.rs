//! The supernet, its losses and its optimiser against PyTorch's own numbers
//! (`scripts/goldens_supernet.py`, computed there in float64).
//!
//! Tolerance: 2e-4 of each tensor's largest magnitude. Float32 through some ten layers, with
//! Winograd's transforms, stays well inside; a wrong formula does not.

use slimtau_base::TensorFile;
use slimtau_distill::{Learner, LearnerConfig};
use slimtau_kernels::Scratch;
use slimtau_kernels::loss::{info_nce, softmax};
use slimtau_space::SearchSpace;
use slimtau_supernet::{BnMode, Layout, Norms, Plan, Session, Weights};
use slimtau_train::Sgd;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const TOLERANCE: f32 = 2e-4;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens").join(name)
}

/// A small supernet with PyTorch's numbers for it.
struct Case {
    space: SearchSpace,
    layout: Arc<Layout>,
    weights: Weights,
    images: Vec<f32>,
    labels: Vec<u32>,
    soft: Vec<f32>,
    file: TensorFile,
    codes: Vec<String>,
}

impl Case {
    fn load(name: &str) -> Self {
        let space = golden(&format!("{name}.toml"));
        let space = SearchSpace::load(space.to_str().unwrap()).unwrap();
        let layout = Layout::supernet(&space).unwrap();
        let path = golden(&format!("{name}.safetensors"));
        let file = TensorFile::read(&path).unwrap();
        let weights = tensors_under(&file, "weights/", &layout);
        let images = &file.tensors["images"];
        let [n, c, h, w] = images.shape[..] else { panic!("images: {:?}", images.shape) };
        let mut nhwc = Vec::with_capacity(images.data.len());
        for i in 0..n {
            for p in 0..h * w {
                nhwc.extend((0..c).map(|ch| images.data[(i * c + ch) * h * w + p]));
            }
        }
        let labels = file.tensors["labels"].data.iter().map(|l| *l as u32).collect();
        let teacher = &file.tensors["teacher_logits"].data;
        let mut soft = vec![f32::NAN; teacher.len()];
        softmax(space.classes, 1.0, teacher, &mut soft);
        let codes: BTreeSet<String> = file
            .tensors
            .keys()
            .filter_map(|k| k.strip_suffix("/logits").map(str::to_owned))
            .collect();
        assert_eq!(codes.len(), 3);
        let codes = codes.into_iter().collect();
        Self { space, layout, weights, images: nhwc, labels, soft, file, codes }
    }

    fn plan(&self, code: &str) -> Plan {
        Plan::subnet(&self.space, &self.layout, &self.space.parse(code).unwrap()).unwrap()
    }

    fn learner(&self, sgd: Sgd) -> Learner {
        let config = LearnerConfig {
            sgd,
            bn: BnMode::Recalibrated,
            bn_momentum: 0.1,
            label_weight: 1.0,
            teacher_weight: 1.0,
        };
        Learner::new(config, self.layout.clone(), self.weights.clone())
    }

    fn expect(&self, name: &str, got: &[f32]) {
        close(name, got, &self.file.tensors[name].data);
    }
}

/// The layout's tensors out of those whose names begin with `prefix`; absent ones are zero.
fn tensors_under(file: &TensorFile, prefix: &str, layout: &Layout) -> Weights {
    let mut named = TensorFile::default();
    for slot in layout.tensors() {
        let len = slot.shape.iter().product();
        let data = file.tensors.get(&format!("{prefix}{}", slot.name));
        named.insert(&slot.name, &slot.shape, data.map_or(vec![0.0; len], |t| t.data.clone()));
    }
    Weights::from_file(layout, Path::new(prefix), &mut named).unwrap()
}

fn close(what: &str, got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len(), "{what}: length");
    let scale = expected.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        assert!(
            (g - e).abs() <= TOLERANCE * scale,
            "{what}[{i}]: got {g}, PyTorch has {e} (scale {scale})"
        );
    }
}

#[test]
fn logits_gradients_and_statistics() {
    for name in ["basic", "stem7", "bottleneck"] {
        let case = Case::load(name);
        let mut session = Session::new();
        for code in &case.codes {
            let plan = case.plan(code);
            let Weights { params, buffers } = &case.weights;
            let logits = session.infer(&plan, params, buffers, &case.images).unwrap();
            case.expect(&format!("{code}/eval_logits"), logits);

            let mut tracked = buffers.clone();
            let norms = Norms::Tracked { buffers: &mut tracked[..], momentum: 0.1 };
            let logits = session.forward(&plan, params, norms, &case.images).unwrap();
            case.expect(&format!("{code}/logits"), logits);
            let after = Weights { params: params.clone(), buffers: tracked };
            let after = after.to_file(&case.layout);
            let prefix = format!("{code}/running/");
            let running = case.file.tensors.iter().filter(|(k, _)| k.starts_with(&prefix));
            let mut seen = 0;
            for (key, expected) in running {
                let got = &after.tensors[&key[prefix.len()..]].data;
                close(key, &got[..expected.data.len()], &expected.data);
                let before = &case.file.tensors[&format!("weights/{}", &key[prefix.len()..])].data;
                assert_eq!(
                    got[expected.data.len()..],
                    before[expected.data.len()..],
                    "{key}: statistics outside the subnet moved"
                );
                seen += 1;
            }
            assert!(seen >= 6, "{name} {code}: no running statistics in the golden");

            // A learning rate of 1, no momentum and no decay leave -gradient as the update.
            let mut learner =
                case.learner(Sgd { momentum: 0.0, weight_decay: 0.0, nesterov: false });
            let report =
                learner.step(1.0, [&plan], &case.images, &case.labels, Some(&case.soft)).unwrap();
            let losses = [report.label_loss as f32, report.teacher_loss as f32];
            case.expect(&format!("{code}/losses"), &losses);
            let expected = tensors_under(&case.file, &format!("{code}/grad/"), &case.layout);
            let updated = &learner.weights().params;
            let got: Vec<f32> =
                params.iter().zip(updated).map(|(before, after)| before - after).collect();
            for slot in case.layout.tensors().iter().filter(|s| !s.buffer) {
                let range = slot.range.clone();
                close(
                    &format!("{name} {code} {}", slot.name),
                    &got[range.clone()],
                    &expected.params[range],
                );
            }
        }
    }
}

#[test]
fn two_sgd_steps_over_two_subnets() {
    for name in ["basic", "stem7", "bottleneck"] {
        let case = Case::load(name);
        // The script leaves the largest (all ones) out, so that some tensors get no gradient.
        let widest = case.codes.iter().max_by_key(|c| case.plan(c).network().params()).unwrap();
        let plans: Vec<Plan> =
            case.codes.iter().filter(|c| *c != widest).map(|c| case.plan(c)).collect();
        let sgd = Sgd { momentum: 0.9, weight_decay: 1e-2, nesterov: false };
        let mut learner = case.learner(sgd);
        for _ in 0..2 {
            learner.step(0.05, &plans, &case.images, &case.labels, Some(&case.soft)).unwrap();
        }
        let expected = tensors_under(&case.file, "stepped/", &case.layout);
        close(name, &learner.weights().params, &expected.params);
    }
}

#[test]
fn info_nce_with_a_queue() {
    let file = TensorFile::read(&golden("info_nce.safetensors")).unwrap();
    let t = |name: &str| &file.tensors[name].data[..];
    let dim = file.tensors["q"].shape[1];
    let [loss, share, temperature] = t("loss")[..] else { panic!("loss, share, temperature") };
    let mut grad = vec![f32::NAN; t("q").len()];
    let mut scratch = Scratch::new();
    let (l, s) = info_nce(dim, temperature, t("q"), t("k"), t("queue"), &mut grad, &mut scratch);
    close("loss", &[l as f32, s as f32], &[loss, share]);
    close("grad_q", &grad, t("grad_q"));
}
