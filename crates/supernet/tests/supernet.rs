//! What must hold of a supernet besides PyTorch's numbers (`tests/supernet_goldens.rs`): files and
//! extraction keep every bit, sessions and threads leave no trace, and wrong input is named.

use candle_core::{Device, Tensor, Var};
use slimtau_base::{fill_normal, stream};
use slimtau_space::{Arch, SearchSpace};
use slimtau_supernet::{
    BnMode, Layout, Norms, Plan, Session, SupernetError, Weights, forward, forward_train,
    recalibrate,
};
use std::path::Path;
use std::sync::Arc;

/// Two stages on 8x8 RGB images, every width with leading blocks to share.
const SPACE: &str = r#"
    name = "two-stages"
    image_size = 8
    channels = 3
    classes = 4
    ratios = [1.0, 0.75, 0.5]
    divisor = 4
    block = "basic"
    stem = { width = 16, kernel = 3, stride = 1, max_pool = false, codes = 3 }
    stage = [
        { width = 16, depth = [1, 2], stride = 1, codes = 3 },
        { width = 24, depth = [1, 2], stride = 2, codes = 3 },
    ]
"#;

/// A supernet whose running statistics are not those of a fresh one.
struct Fixture {
    space: SearchSpace,
    layout: Arc<Layout>,
    weights: Weights,
}

impl Fixture {
    fn new() -> Self {
        Self::of(SPACE)
    }

    fn of(space: &str) -> Self {
        let space = SearchSpace::from_toml(space, "test").unwrap();
        let layout = Layout::supernet(&space).unwrap();
        let mut weights = Weights::init(&layout, 3);
        // Positive, so that they can be variances too.
        let noise = normal("buffers", layout.buffers());
        for (value, noise) in weights.buffers.iter_mut().zip(noise) {
            *value += 0.1 + noise.abs();
        }
        Self { space, layout, weights }
    }

    fn plan(&self, arch: &Arch) -> Plan {
        Plan::subnet(&self.space, &self.layout, arch).unwrap()
    }

    /// The largest, the smallest and some uniform draws.
    fn archs(&self) -> Vec<Arch> {
        let draws = (0..6).map(|i| self.space.sample_uniform(&mut stream(1, "archs", i), false));
        [self.space.largest(), self.space.smallest()].into_iter().chain(draws).collect()
    }

    fn images(&self, batch: usize) -> Vec<f32> {
        let side = self.space.image_size;
        normal("images", batch * side * side * self.space.channels)
    }

    /// Logits and gradients of a training pass.
    fn train(&self, session: &mut Session, plan: &Plan, batch: usize) -> (Vec<f32>, Vec<f32>) {
        let (params, images) = (&self.weights.params, self.images(batch));
        let logits = session.forward(plan, params, Norms::Batch, &images).unwrap().to_vec();
        let mut grads = vec![0.0; params.len()];
        let grad_logits = normal("gradient", logits.len());
        session.backward(plan, params, &images, &grad_logits, &mut grads);
        (logits, grads)
    }

    fn infer(&self, session: &mut Session, plan: &Plan, batch: usize) -> Vec<f32> {
        let Weights { params, buffers } = &self.weights;
        session.infer(plan, params, buffers, &self.images(batch)).unwrap().to_vec()
    }
}

fn normal(purpose: &str, len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    fill_normal(&mut stream(0, purpose, 0), 1.0, &mut values);
    values
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn a_saved_network_is_the_same_when_loaded() {
    let f = Fixture::new();
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("a"), folder.path().join("b"));
    f.weights.save(&f.layout, &first).unwrap();
    let loaded = Weights::load(&f.layout, &first).unwrap();
    assert_eq!(bits(&loaded.params), bits(&f.weights.params));
    assert_eq!(bits(&loaded.buffers), bits(&f.weights.buffers));
    loaded.save(&f.layout, &second).unwrap();
    assert_eq!(std::fs::read(&first).unwrap(), std::fs::read(&second).unwrap());
}

#[test]
fn a_file_has_pytorchs_names_and_orders() {
    let f = Fixture::new();
    let file = f.weights.to_file(&f.layout);
    let check = |name: &str, shape: &[usize]| {
        assert_eq!(file.tensors[name].shape, shape, "{name}");
    };
    check("blocks.0.conv.weight", &[16, 3, 3, 3]);
    check("blocks.0.bn.running_var", &[16]);
    check("blocks.2.conv2.weight", &[16, 16, 3, 3]);
    check("blocks.3.conv1.weight", &[24, 16, 3, 3]);
    check("blocks.3.bn1.bias", &[24]);
    check("blocks.3.downsample.0.weight", &[24, 16, 1, 1]);
    check("blocks.3.downsample.1.running_mean", &[24]);
    check("blocks.5.fc.weight", &[4, 24]);
    check("blocks.5.fc.bias", &[4]);
    assert!(!file.tensors.contains_key("blocks.1.downsample.0.weight"));

    // In memory [k, k, I, O], in the file [O, I, k, k].
    let slot = f.layout.tensors().iter().find(|s| s.name == "blocks.0.conv.weight").unwrap();
    let memory = &f.weights.params[slot.range.clone()];
    let [o, i, y, x] = [13, 2, 0, 1];
    let in_file = file.tensors["blocks.0.conv.weight"].data[((o * 3 + i) * 3 + y) * 3 + x];
    assert_eq!(in_file, memory[((y * 3 + x) * 3 + i) * 16 + o]);
}

#[test]
fn an_extracted_subnet_computes_what_it_did_in_the_supernet() {
    let f = Fixture::new();
    let mut session = Session::new();
    for arch in f.archs() {
        let plan = f.plan(&arch);
        let own_layout = Layout::standalone(plan.network());
        assert_eq!(own_layout.params() as u64, plan.network().params());
        let own = Fixture {
            space: f.space.clone(),
            weights: f.weights.extract(&plan, &own_layout),
            layout: own_layout,
        };
        let own_plan = Plan::new(plan.network(), &own.layout).unwrap();
        let code = f.space.encode(&arch);
        let shared = f.infer(&mut session, &plan, 3);
        assert!(shared.iter().all(|v| v.is_finite() && *v != 0.0), "{code}");
        assert_eq!(bits(&shared), bits(&own.infer(&mut session, &own_plan, 3)), "{code}");
        let (shared, _) = f.train(&mut session, &plan, 3);
        let (alone, _) = own.train(&mut session, &own_plan, 3);
        assert_eq!(bits(&shared), bits(&alone), "{code}");
    }
}

#[test]
fn a_subnets_gradient_stays_within_its_leading_blocks() {
    let f = Fixture::new();
    for arch in f.archs() {
        let plan = f.plan(&arch);
        let (_, grads) = f.train(&mut Session::new(), &plan, 3);
        let touched = grads.iter().filter(|g| **g != 0.0).count() as u64;
        let own = plan.network().params();
        // No more than the subnet has; a few may be zero behind a ReLU that never opens.
        assert!(touched <= own && touched > own * 9 / 10, "{touched} of {own}");
    }
}

#[test]
fn recalibration_is_the_plain_mean_of_batch_statistics() {
    let f = Fixture::new();
    const UNTOUCHED: f32 = 7.0;
    let fresh = vec![UNTOUCHED; f.layout.buffers()];
    for arch in f.archs() {
        let plan = f.plan(&arch);
        let images = f.images(12);
        let batches: Vec<&[f32]> = images.chunks_exact(4 * plan.image_len()).collect();
        assert_eq!(batches.len(), 3);
        let mut session = Session::new();
        let mut got = fresh.clone();
        let each = batches.iter().copied();
        recalibrate(&mut session, &plan, &f.weights.params, &mut got, each).unwrap();

        // A momentum of 1 leaves the statistics of that one batch.
        let single: Vec<Vec<f32>> = batches
            .iter()
            .map(|batch| {
                let mut buffers = fresh.clone();
                let norms = Norms::Tracked { buffers: &mut buffers[..], momentum: 1.0 };
                session.forward_features(&plan, &f.weights.params, norms, batch).unwrap();
                buffers
            })
            .collect();
        let mut measured = 0;
        for (i, got) in got.iter().enumerate() {
            let values: Vec<f64> = single.iter().map(|b| f64::from(b[i])).collect();
            if values.iter().all(|v| *v == f64::from(UNTOUCHED)) {
                assert_eq!(*got, UNTOUCHED, "statistic {i} is outside the subnet");
                continue;
            }
            measured += 1;
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let scale = values.iter().fold(1e-3, |m: f64, v| m.max(v.abs()));
            assert!((f64::from(*got) - mean).abs() < 1e-5 * scale, "{i}: {got}, not {mean}");
        }
        let network = plan.network();
        let convs = network.blocks.iter().flat_map(|b| b.convs.iter().chain(&b.projection));
        let channels: usize =
            std::iter::once(&network.stem).chain(convs).map(|c| c.out_channels).sum();
        assert_eq!(measured, 2 * channels, "a mean and a variance per channel");
    }
}

/// Features alone, of batches that a matrix unit takes or leaves.
#[test]
fn features_only_are_those_of_a_training_pass() {
    let f = Fixture::new();
    for (arch, batch) in f.archs().iter().flat_map(|arch| [(arch, 3), (arch, 8)]) {
        let (plan, images) = (f.plan(arch), f.images(batch));
        for norms in 0..3 {
            let pass = |session: &mut Session, only: bool| {
                let mut buffers = f.weights.buffers.clone();
                let params = &f.weights.params;
                let norms = match norms {
                    0 => Norms::Frozen { buffers: &f.weights.buffers[..] },
                    1 => Norms::Tracked { buffers: &mut buffers[..], momentum: 0.3 },
                    _ => Norms::Batch,
                };
                let features = if only {
                    session.forward_features_only(&plan, params, norms, &images)
                } else {
                    session.forward_features(&plan, params, norms, &images)
                };
                (bits(features.unwrap()), bits(&buffers))
            };
            let kept = pass(&mut Session::new(), false);
            assert_eq!(kept, pass(&mut Session::new(), true), "{arch:?}, {batch} images");
        }
    }
}

/// Those of another subnet on other images with other norms, between a forward and a backward pass, change nothing.
#[test]
fn features_only_leave_a_pending_backward_pass_alone() {
    let f = Fixture::new();
    let (archs, images, params) = (f.archs(), f.images(3), &f.weights.params);
    for (i, arch) in archs.iter().enumerate() {
        let (plan, other) = (f.plan(arch), f.plan(&archs[(i + 1) % archs.len()]));
        for frozen in [false, true] {
            let norms = |frozen: bool| {
                if frozen {
                    Norms::Frozen { buffers: &f.weights.buffers[..] }
                } else {
                    Norms::Batch
                }
            };
            let pass = |between: bool| {
                let mut session = Session::new();
                let features = session.forward_features(&plan, params, norms(frozen), &images);
                let features = bits(features.unwrap());
                if between {
                    let other_images = &f.images(5);
                    let norms = norms(!frozen);
                    session.forward_features_only(&other, params, norms, other_images).unwrap();
                }
                assert_eq!(bits(session.features()), features, "{arch:?}");
                let grad = normal("gradient", features.len());
                let mut grads = vec![0.0; f.layout.params()];
                session.backward_features(&plan, params, &images, &grad, &mut grads);
                bits(&grads)
            };
            assert_eq!(pass(true), pass(false), "{arch:?}");
        }
    }
}

/// [N, H, W, C] -> candle's [N, C, H, W].
fn nchw(f: &Fixture, images: &[f32], batch: usize) -> Tensor {
    let (side, channels) = (f.space.image_size, f.space.channels);
    let images = Tensor::from_slice(images, (batch, side, side, channels), &Device::Cpu).unwrap();
    images.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap()
}

#[test]
fn candles_autograd_finds_the_sessions_gradient() {
    let f = Fixture::new();
    for arch in f.archs() {
        let plan = f.plan(&arch);
        let (logits, grads) = f.train(&mut Session::new(), &plan, 3);
        let images = nchw(&f, &f.images(3), 3);
        let params = Var::from_slice(&f.weights.params, f.layout.params(), &Device::Cpu).unwrap();
        let out = forward_train(&plan, &params, &images).unwrap();
        assert_eq!(out.dims(), [3, f.space.classes]);
        assert_eq!(bits(&out.flatten_all().unwrap().to_vec1().unwrap()), bits(&logits));

        // The gradient of sum(logits * g) with respect to the logits is g.
        let g = Tensor::from_vec(normal("gradient", logits.len()), out.dims(), &Device::Cpu);
        let loss = (&out * g.unwrap()).unwrap().sum_all().unwrap();
        for _ in 0..2 {
            let found = loss.backward().unwrap();
            let found: Vec<f32> = found.get(&params).unwrap().to_vec1().unwrap();
            assert_eq!(bits(&found), bits(&grads), "{}", f.space.encode(&arch));
        }

        let eval = forward(&plan, &f.weights, &images).unwrap();
        let eval: Vec<f32> = eval.flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(bits(&eval), bits(&f.infer(&mut Session::new(), &plan, 3)));
    }
}

#[test]
fn a_session_remembers_nothing_of_earlier_plans() {
    // The second space has a max-pool, whose choices are remembered too.
    let pooled = SPACE.replace("max_pool = false", "max_pool = true");
    for f in [Fixture::new(), Fixture::of(&pooled)] {
        let archs = f.archs();
        let mut session = Session::new();
        // Each after each other, also after itself, at changing batch sizes.
        for (i, arch) in archs.iter().chain(archs.iter().rev()).enumerate() {
            let (plan, batch) = (f.plan(arch), 2 + i % 3);
            let (logits, grads) = f.train(&mut session, &plan, batch);
            let (fresh_logits, fresh_grads) = f.train(&mut Session::new(), &plan, batch);
            assert_eq!(bits(&logits), bits(&fresh_logits), "pass {i}");
            assert_eq!(bits(&grads), bits(&fresh_grads), "pass {i}");
            let eval = f.infer(&mut session, &plan, batch);
            assert_eq!(bits(&eval), bits(&f.infer(&mut Session::new(), &plan, batch)), "pass {i}");
        }
    }
}

#[test]
fn inference_between_forward_and_backward_changes_no_gradient() {
    let f = Fixture::new();
    let (largest, smallest) = (f.plan(&f.space.largest()), f.plan(&f.space.smallest()));
    let (_, expected) = f.train(&mut Session::new(), &smallest, 3);
    let mut session = Session::new();
    let (params, images) = (&f.weights.params, f.images(3));
    let logits = session.forward(&smallest, params, Norms::Batch, &images).unwrap().len();
    f.infer(&mut session, &largest, 5);
    let mut grads = vec![0.0; params.len()];
    session.backward(&smallest, params, &images, &normal("gradient", logits), &mut grads);
    assert_eq!(bits(&grads), bits(&expected));
}

#[test]
fn gradients_add_up() {
    let f = Fixture::new();
    let plan = f.plan(&f.space.smallest());
    let (_, once) = f.train(&mut Session::new(), &plan, 3);
    let (params, images) = (&f.weights.params, f.images(3));
    let (mut session, mut twice) = (Session::new(), vec![0.0; once.len()]);
    for _ in 0..2 {
        let n = session.forward(&plan, params, Norms::Batch, &images).unwrap().len();
        session.backward(&plan, params, &images, &normal("gradient", n), &mut twice);
    }
    for (i, (one, two)) in once.iter().zip(&twice).enumerate() {
        assert!((2.0 * one - two).abs() <= 1e-4 * one.abs().max(1e-2), "{i}: {one}, {two}");
    }
}

#[test]
fn frozen_norms_are_evaluation() {
    let f = Fixture::new();
    let plan = f.plan(&f.space.smallest());
    let Weights { params, buffers } = &f.weights;
    let mut session = Session::new();
    let frozen = session
        .forward(&plan, params, Norms::Frozen { buffers: &buffers[..] }, &f.images(3))
        .unwrap();
    let eval = f.infer(&mut Session::new(), &plan, 3);
    for (a, b) in frozen.iter().zip(&eval) {
        assert!((a - b).abs() <= 1e-4 * b.abs().max(1.0), "{a} and {b}"); // folded: rounded elsewhere
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let f = Fixture::new();
    for arch in f.archs() {
        let plan = f.plan(&arch);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let (logits, grads) = f.train(&mut Session::new(), &plan, 5);
                let eval = f.infer(&mut Session::new(), &plan, 5);
                [bits(&logits), bits(&grads), bits(&eval)]
            })
        };
        let one = run(1);
        for threads in [2, 3] {
            assert!(run(threads) == one, "{}: {threads} threads", f.space.encode(&arch));
        }
    }
}

#[test]
fn codes_that_break_a_tie_have_no_place() {
    let f = Fixture::new();
    let check = |code: &str, stage: &str| {
        let arch = f.space.parse(code).unwrap();
        let error = Plan::subnet(&f.space, &f.layout, &arch).unwrap_err();
        assert!(matches!(error, SupernetError::Space(_)), "{error:?}");
        assert!(error.to_string().contains(stage), "{code}: {error}");
    };
    check("22 1 1212 1111".replace(' ', "").as_str(), "stage 1"); // not the stem's
    check("22 1 1112 1111".replace(' ', "").as_str(), "stage 1");
    check("22 1 1111 1112".replace(' ', "").as_str(), "stage 2");
}

#[test]
fn a_network_that_is_too_wide_or_too_deep_is_refused() {
    let f = Fixture::new();
    let (largest, smallest) = (f.plan(&f.space.largest()), f.plan(&f.space.smallest()));
    let small = Layout::standalone(smallest.network());
    let error = Plan::new(largest.network(), &small).unwrap_err();
    assert!(matches!(error, SupernetError::NoPlace { stage: 0, .. }), "{error:?}");
    assert!(error.to_string().contains("3 -> 16"), "{error}");
    // As wide, but with one block too many in stage 1.
    let shallow = f.space.parse("1211100 1111".replace(' ', "").as_str()).unwrap();
    let shallow = Layout::standalone(&f.space.resolve(&shallow).unwrap());
    let error = Plan::new(largest.network(), &shallow).unwrap_err();
    assert!(matches!(error, SupernetError::NoPlace { stage: 1, block: 2, .. }), "{error:?}");
}

#[test]
fn images_of_a_wrong_length_are_refused() {
    let f = Fixture::new();
    let plan = f.plan(&f.space.largest());
    let mut session = Session::new();
    let Weights { params, buffers } = &f.weights;
    let image = plan.image_len();
    for len in [0, 1, image - 1, image + 1, 2 * image - 3] {
        let images = vec![0.0; len];
        let errors = [
            session.forward(&plan, params, Norms::Batch, &images).map(|_| ()).unwrap_err(),
            session.infer(&plan, params, buffers, &images).map(|_| ()).unwrap_err(),
        ];
        for error in errors {
            assert!(
                matches!(error, SupernetError::Images { size: 8, channels: 3, got } if got == len),
                "{error:?}"
            );
        }
    }
    let images = Tensor::zeros((2, 3, 8, 9), candle_core::DType::F32, &Device::Cpu).unwrap();
    assert!(forward(&plan, &f.weights, &images).is_err());
}

#[test]
fn a_file_that_does_not_fit_is_refused() {
    let f = Fixture::new();
    let path = Path::new("w.safetensors");
    let check = |damage: &dyn Fn(&mut slimtau_base::TensorFile), expect: &str| {
        let mut file = f.weights.to_file(&f.layout);
        damage(&mut file);
        let error = Weights::from_file(&f.layout, path, &mut file).unwrap_err().to_string();
        assert!(error.contains("w.safetensors") && error.contains(expect), "{error}");
    };
    check(
        &|file| {
            file.tensors.remove("blocks.3.bn2.weight");
        },
        "blocks.3.bn2.weight",
    );
    check(&|file| file.insert("blocks.5.fc.bias", &[5], vec![0.0; 5]), "[5], expected [4]");
    check(
        &|file| file.tensors.get_mut("blocks.1.conv1.weight").unwrap().data[5] = f32::NAN,
        "`blocks.1.conv1.weight` holds NaN at element 5",
    );
}

/// Logits of each subnet, the sum of gradients, and running statistics.
type Found = (Vec<Vec<f32>>, Vec<f32>, Vec<f32>);

/// Passes one after the other, and as siblings, in one session.
fn siblings(f: &Fixture, session: &mut Session, plans: &[Plan], mode: BnMode) -> [Found; 2] {
    let (params, images) = (&f.weights.params, f.images(2));
    let upstream = |k: usize, n: usize| normal(&format!("gradient {k}"), n);
    let (mut apart, mut buffers) = (Vec::new(), f.weights.buffers.clone());
    let mut grads = vec![0.0; params.len()];
    for (k, plan) in plans.iter().enumerate() {
        let norms = mode.training(&mut buffers[..], 0.1);
        let logits = session.forward(plan, params, norms, &images).unwrap().to_vec();
        session.backward(plan, params, &images, &upstream(k, logits.len()), &mut grads);
        apart.push(logits);
    }
    let apart = (apart, grads, buffers);

    let (mut together, mut buffers) = (Vec::new(), f.weights.buffers.clone());
    let mut grads = vec![0.0; params.len()];
    let widest = plans.iter().max_by_key(|plan| plan.stem_channels()).unwrap();
    let norms = mode.training(&mut buffers[..], 0.1);
    let mut passes = session.siblings(widest, params, &norms, &images).unwrap();
    for (k, plan) in plans.iter().enumerate() {
        let norms = mode.training(&mut buffers[..], 0.1);
        let logits = passes.forward(plan, norms).unwrap().to_vec();
        passes.backward(plan, &upstream(k, logits.len()), &mut grads).unwrap();
        together.push(logits);
    }
    passes.finish(&mut grads).unwrap();
    [apart, (together, grads, buffers)]
}

#[test]
fn siblings_are_the_same_passes_with_one_stem() {
    let pooled = SPACE.replace("max_pool = false", "max_pool = true");
    for f in [Fixture::new(), Fixture::of(&pooled)] {
        let archs = f.archs();
        let plans: Vec<Plan> = archs.iter().chain([&archs[0]]).map(|arch| f.plan(arch)).collect();
        let mut session = Session::new();
        for mode in [BnMode::Tracked, BnMode::Recalibrated, BnMode::Frozen] {
            // The widest first and last, narrow ones first, equal ones, and each alone.
            for (first, count) in (0..plans.len()).flat_map(|i| [1, 2, 3].map(|count| (i, count))) {
                let some: Vec<_> = plans.iter().cycle().skip(first).take(count).cloned().collect();
                let [apart, together] = siblings(&f, &mut session, &some, mode);
                let case = format!("{mode} from {first}, {count}");
                if count == 1 {
                    assert!(apart == together, "{case}");
                }
                for (a, b) in apart.0.iter().zip(&together.0) {
                    assert_near(a, b, 1e-4, &case);
                }
                // The stem's tensors, which come first, one by one, and all others together.
                for slot in &f.layout.tensors()[..5] {
                    let of = |found: &Found| {
                        let all = if slot.buffer { &found.2 } else { &found.1 };
                        all[slot.range.clone()].to_vec()
                    };
                    let bound = if slot.buffer { 1e-6 } else { 1e-3 };
                    assert_near(
                        &of(&apart),
                        &of(&together),
                        bound,
                        &format!("{case}, {}", slot.name),
                    );
                }
                assert_near(&apart.1, &together.1, 1e-3, &case);
                assert_near(&apart.2, &together.2, 1e-5, &case);
            }
        }
    }
}

#[test]
fn siblings_may_be_fewer_and_narrower_than_announced() {
    let f = Fixture::new();
    let [widest, narrow] = [f.space.largest(), f.space.smallest()].map(|arch| f.plan(&arch));
    let (params, images) = (&f.weights.params, f.images(3));
    let mut session = Session::new();
    let mut grads = vec![0.0; params.len()];
    let passes = session.siblings(&widest, params, &Norms::Batch, &images).unwrap();
    passes.finish(&mut grads).unwrap();
    assert!(grads.iter().all(|g| *g == 0.0), "gradients of no subnet");

    let (logits, expected) = f.train(&mut Session::new(), &narrow, 3);
    let mut passes = session.siblings(&widest, params, &Norms::Batch, &images).unwrap();
    passes.forward(&widest, Norms::Batch).unwrap();
    let found = passes.forward(&narrow, Norms::Batch).unwrap().to_vec();
    passes.backward(&narrow, &normal("gradient", found.len()), &mut grads).unwrap();
    passes.finish(&mut grads).unwrap();
    assert_near(&logits, &found, 1e-4, "logits");
    assert_near(&expected, &grads, 1e-3, "gradients");
}

#[test]
#[should_panic(expected = "the widest of 8")]
fn a_wider_sibling_is_refused() {
    let f = Fixture::new();
    let [widest, narrow] = [f.space.largest(), f.space.smallest()].map(|arch| f.plan(&arch));
    let (mut session, images) = (Session::new(), f.images(2));
    let mut passes = session.siblings(&narrow, &f.weights.params, &Norms::Batch, &images).unwrap();
    let _ = passes.forward(&widest, Norms::Batch);
}

#[test]
#[should_panic(expected = "a forward pass before each backward pass")]
fn a_sibling_goes_backward_once() {
    let f = Fixture::new();
    let plan = f.plan(&f.space.smallest());
    let (mut session, images) = (Session::new(), f.images(2));
    let mut grads = vec![0.0; f.weights.params.len()];
    let mut passes = session.siblings(&plan, &f.weights.params, &Norms::Batch, &images).unwrap();
    let grad_logits = vec![1.0; passes.forward(&plan, Norms::Batch).unwrap().len()];
    for _ in 0..2 {
        passes.backward(&plan, &grad_logits, &mut grads).unwrap();
    }
}

/// Their distance relative to the length of the first.
fn assert_near(a: &[f32], b: &[f32], bound: f64, case: &str) {
    assert_eq!(a.len(), b.len());
    let squares =
        |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>();
    let apart = squares(&mut a.iter().zip(b).map(|(a, b)| a - b)).sqrt();
    let length = squares(&mut a.iter().copied()).sqrt();
    assert!(apart <= bound * length, "{case}: {apart} of {length}");
}
