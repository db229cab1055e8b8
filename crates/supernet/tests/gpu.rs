//! Whole networks on a GPU, or on the emulator of one, against the CPU. The tests need one or the other, so they run by
//! `cargo xtask cuda test`.

use half::bf16;
use slimtau_base::{fill_normal, stream};
use slimtau_kernels::gpu::{Activation, Buffer, Gpu};
use slimtau_space::{Arch, SearchSpace};
use slimtau_supernet::{
    Device, DeviceImages, DeviceParams, DeviceWeights, Layout, Norms, Plan, Precision, PrefixTree,
    Session, Statistics, TreeSession, Weights, recalibrate,
};
use std::sync::{Arc, LazyLock};

#[path = "../../kernels/tests/gpu/place.rs"]
mod place;

static GPU: LazyLock<Gpu> = LazyLock::new(|| place::gpus().remove(0));

/// Two stages on 8x8 RGB images; widths that are multiples of 8, as the presets', or not.
fn space(eights: bool, stem: &str) -> SearchSpace {
    let (divisor, [a, b]) = if eights { (8, [16, 32]) } else { (2, [6, 10]) };
    let text = format!(
        r#"
        name = "two-stages"
        image_size = 8
        channels = 3
        classes = 5
        ratios = [1.0, 0.75, 0.5]
        divisor = {divisor}
        block = "basic"
        stem = {{ width = {a}, {stem}, codes = 3 }}
        stage = [
            {{ width = {a}, depth = [1, 2], stride = 1, codes = 3 }},
            {{ width = {b}, depth = [1, 2], stride = 2, codes = 3 }},
        ]
        "#
    );
    SearchSpace::from_toml(&text, "test").unwrap()
}

const PLAIN: &str = "kernel = 3, stride = 1, max_pool = false";
const POOLED: &str = "kernel = 7, stride = 2, max_pool = true";

struct Fixture {
    space: SearchSpace,
    layout: Arc<Layout>,
    weights: Weights,
}

impl Fixture {
    fn new(eights: bool, stem: &str) -> Self {
        let space = space(eights, stem);
        let layout = Layout::supernet(&space).unwrap();
        let mut weights = Weights::init(&layout, 3);
        // Statistics of some size, under which no channel dies.
        for tensor in layout.tensors().iter().filter(|t| t.buffer) {
            let variance = tensor.name.ends_with("running_var");
            let noise = normal(&tensor.name, tensor.range.len());
            for (value, noise) in weights.buffers[tensor.range.clone()].iter_mut().zip(noise) {
                *value = if variance { 0.5 + 0.2 * noise.abs() } else { 0.1 * noise };
            }
        }
        Self { space, layout, weights }
    }

    fn archs(&self) -> Vec<Arch> {
        let draw = self.space.sample_uniform(&mut stream(1, "archs", 0), false);
        vec![self.space.largest(), self.space.smallest(), draw]
    }

    fn plan(&self, arch: &Arch) -> Plan {
        Plan::subnet(&self.space, &self.layout, arch).unwrap()
    }

    fn images(&self, name: &str, batch: usize) -> Vec<f32> {
        normal(name, batch * self.space.image_size.pow(2) * self.space.channels)
    }
}

fn normal(name: &str, len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    fill_normal(&mut stream(0, name, len as u64), 1.0, &mut values);
    values
}

fn on_gpu<T: Activation>(values: &[f32]) -> Buffer<T> {
    let values: Vec<T> = values.iter().map(|v| T::from_f32(*v)).collect();
    Buffer::from_slice(&GPU, &values).unwrap()
}

fn stored<T: Precision>(images: &[f32]) -> DeviceImages<T> {
    let mut stored = DeviceImages::new(&GPU);
    stored.load(3, images).unwrap();
    stored
}

/// |a - b| / |b|.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    assert!(b.iter().any(|v| *v != b[0]), "nothing to compare");
    let difference = norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    difference / norm(&mut b.iter().map(|b| f64::from(*b)))
}

#[track_caller]
fn near(what: &str, got: &[f32], want: &[f32], tolerance: f64) {
    let distance = distance(got, want);
    assert!(distance <= tolerance, "{what}: {distance:.2e} apart, allowed are {tolerance:.0e}");
}

/// Training and evaluation of several subnets in one session, with every treatment of statistics. f32 differs from the CPU
/// by the order of sums. bf16 rounds every activation to 8 bits, some 2^-9 each; batch norms over a few images amplify it.
fn same_as_on_the_cpu<T: Precision>(eights: bool, stem: &str, batch: usize, tolerance: f64) {
    let f = Fixture::new(eights, stem);
    let images = f.images("images", batch);
    let (mut cpu, mut gpu) = (Session::new(), Session::on(Device::<T>::new(&GPU)));
    let images_gpu = stored::<T>(&images);
    let Weights { params, buffers } = &f.weights;
    for (i, arch) in f.archs().iter().enumerate() {
        let plan = f.plan(arch);
        let mut weights = DeviceWeights::<T>::new(&GPU, &f.weights).unwrap();
        let want = cpu.infer(&plan, params, buffers, &images).unwrap().to_vec();
        let view = images_gpu.view();
        let got = gpu.infer(&plan, &weights.params, &weights.buffers, view).unwrap();
        near("logits in evaluation", &got.to_vec().unwrap(), &want, tolerance);

        for mode in 0..3 {
            let (mut tracked, DeviceWeights { params: params_gpu, buffers: buffers_gpu }) =
                (buffers.clone(), &mut weights);
            let (norms, norms_gpu) = match mode {
                0 => (
                    Norms::Tracked { buffers: &mut tracked[..], momentum: 0.1 },
                    Norms::Tracked { buffers: &mut *buffers_gpu, momentum: 0.1 },
                ),
                1 => (Norms::Batch, Norms::Batch),
                _ => {
                    buffers_gpu.upload(buffers).unwrap();
                    (
                        Norms::Frozen { buffers: &buffers[..] },
                        Norms::Frozen { buffers: &*buffers_gpu },
                    )
                }
            };
            let what = |what: &str| format!("{what} of subnet {i} in mode {mode}");
            let want = cpu.forward(&plan, params, norms, &images).unwrap().to_vec();
            let got = gpu.forward(&plan, params_gpu, norms_gpu, view).unwrap().to_vec().unwrap();
            near(&what("logits"), &got, &want, tolerance);

            let grad_logits = normal("gradient", want.len());
            let mut grads = vec![0.0; params.len()];
            cpu.backward(&plan, params, &images, &grad_logits, &mut grads);
            let grad_logits = on_gpu::<f32>(&grad_logits);
            let mut grads_gpu = Buffer::zeros(&GPU, params.len()).unwrap();
            gpu.try_backward(&plan, params_gpu, view, grad_logits.view(), &mut grads_gpu).unwrap();
            let got = grads_gpu.to_vec().unwrap();
            near(&what("gradients"), &got, &grads, 4.0 * tolerance);
            if mode == 0 {
                let got = buffers_gpu.to_vec().unwrap();
                near(&what("running statistics"), &got, &tracked, tolerance);
            }
        }
    }
}

#[test]
fn f32_networks_are_those_of_the_cpu() {
    same_as_on_the_cpu::<f32>(true, PLAIN, 3, 2e-5);
    same_as_on_the_cpu::<f32>(false, PLAIN, 3, 2e-5);
    // The last norms are over three images of one pixel, which amplifies the order of sums.
    same_as_on_the_cpu::<f32>(true, POOLED, 3, 4e-5);
}

#[test]
fn bf16_networks_are_near_those_of_the_cpu() {
    same_as_on_the_cpu::<bf16>(true, PLAIN, 8, 0.05);
    same_as_on_the_cpu::<bf16>(false, POOLED, 8, 0.1);
}

/// A tree calls every kernel as a subnet by itself does: the same bits, with shared and with own statistics.
#[test]
fn a_tree_is_its_subnets_one_by_one() {
    let f = Fixture::new(true, PLAIN);
    let (images, calibration) = (f.images("images", 2), f.images("calibration", 3));
    let (images, calibration) = (stored::<f32>(&images), stored::<f32>(&calibration));
    let weights = DeviceWeights::<f32>::new(&GPU, &f.weights).unwrap();
    let DeviceWeights { params, buffers } = &weights;
    let plans: Vec<Plan> = f.archs().iter().map(|arch| f.plan(arch)).collect();
    let tree = PrefixTree::new(plans.clone());
    let mut trees = TreeSession::on(Device::<f32>::new(&GPU));
    let mut session = Session::on(Device::<f32>::new(&GPU));
    let mut own = tree.recalibration();
    own.measure(&mut trees, params, calibration.view()).unwrap();
    own.measure(&mut trees, params, images.view()).unwrap();
    for recalibrated in [false, true] {
        let statistics =
            if recalibrated { Statistics::Recalibrated(&own) } else { Statistics::Shared(buffers) };
        let mut got = vec![Vec::new(); plans.len()];
        tree.infer(&mut trees, params, statistics, images.view(), |i, logits| {
            got[i] = logits.to_vec().unwrap();
        })
        .unwrap();
        for (plan, got) in plans.iter().zip(got) {
            let mut alone = Buffer::from_slice(&GPU, &f.weights.buffers).unwrap();
            if recalibrated {
                let batches = [calibration.view(), images.view()];
                recalibrate(&mut session, plan, params, &mut alone, batches).unwrap();
            }
            let want = session.infer(plan, params, &alone, images.view()).unwrap();
            assert_eq!(got, want.to_vec().unwrap());
        }
    }
}

#[test]
fn weights_come_back_as_they_went() {
    let f = Fixture::new(false, PLAIN);
    assert_eq!(DeviceWeights::<bf16>::new(&GPU, &f.weights).unwrap().to_host().unwrap(), f.weights);
    let mut params = DeviceParams::<bf16>::new(&GPU, &f.weights.params).unwrap();
    let copy = params.both_mut().1.expect("bf16 has a copy").view().to_vec().unwrap();
    for (value, copy) in f.weights.params.iter().zip(copy) {
        assert_eq!(copy, bf16::from_f32(*value));
    }
}
