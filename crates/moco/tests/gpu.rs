//! Contrastive steps on a GPU, or on the emulator of one, against the CPU's. Runs by `cargo xtask cuda test`.

use half::bf16;
use slimtau_base::{fill_normal, stream};
use slimtau_moco::{DeviceMoco, Moco, MocoConfig};
use slimtau_space::SearchSpace;
use slimtau_supernet::{BnMode, DeviceImages, Layout, Plan, Precision, Weights};
use slimtau_train::Sgd;
use std::path::Path;

#[path = "../../kernels/tests/gpu/place.rs"]
mod place;

const SPACE: &str = r#"
    name = "one-stage"
    image_size = 8
    channels = 3
    classes = 4
    ratios = [1.0, 0.5]
    divisor = 8
    block = "basic"
    stem = { width = 16, kernel = 3, stride = 1, max_pool = false, codes = 2 }
    stage = [{ width = 24, depth = [1, 2], stride = 2, codes = 2 }]
"#;

const BATCH: usize = 6;

/// Three steps; the queue of 13 keys wraps around in the third.
fn compare<T: Precision>(key_groups: usize, tolerance: f64) {
    let space = SearchSpace::from_toml(SPACE, "test").unwrap();
    let layout = Layout::supernet(&space).unwrap();
    let plan = Plan::subnet(&space, &layout, &space.largest()).unwrap();
    let config = MocoConfig {
        queue: 13,
        dim: 16,
        key_momentum: 0.9,
        key_updates: 2,
        key_groups,
        bn: BnMode::Tracked,
        bn_momentum: 0.1,
        sgd: Sgd { momentum: 0.9, weight_decay: 1e-3, nesterov: false },
        seed: 5,
    };
    let gpu = place::gpus().remove(0);
    let start = Weights::init(&layout, 3);
    let mut on_cpu = Moco::new(config.clone(), layout.clone(), start.clone());
    let mut on_gpu =
        DeviceMoco::<T>::new(&gpu, config.clone(), layout.clone(), start.clone()).unwrap();
    for step in 0..3 {
        // Either goes on where the other stopped.
        if step == 1 {
            let (config, path) = (config.clone(), Path::new("state"));
            let file = on_gpu.to_file().unwrap();
            let on_cpu = Moco::from_file(config.clone(), layout.clone(), path, file).unwrap();
            let file = on_cpu.to_file();
            on_gpu = DeviceMoco::from_file(&gpu, config, layout.clone(), path, file).unwrap();
        }
        let views = [0, 1].map(|view| {
            let mut images = vec![0.0; BATCH * plan.image_len()];
            fill_normal(&mut stream(step, "images", view), 1.0, &mut images);
            images
        });
        let uploaded = [0, 1].map(|i| {
            let mut images = DeviceImages::<T>::new(&gpu);
            images.load(3, &views[i]).unwrap();
            images
        });
        let want = on_cpu.step(step, 0.02, 0.2, &plan, [&views[0], &views[1]]).unwrap();
        let images = [uploaded[0].view(), uploaded[1].view()];
        let got = on_gpu.step(step, 0.02, 0.2, &plan, images).unwrap();
        let near = (got.loss - want.loss).abs() <= tolerance * want.loss;
        assert!(near, "loss of step {step}: {} for {}", got.loss, want.loss);
        // bf16 may turn a close decision.
        let hits = f64::from(u8::from(size_of::<T>() == 2)) / 3.0;
        assert!((got.top1 - want.top1).abs() <= hits + 1e-6, "{} for {}", got.top1, want.top1);
    }
    let norm = |values: Vec<f64>| values.iter().map(|v| v * v).sum::<f64>().sqrt();
    let apart = |a: &[f32], b: &[f32]| {
        norm(a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)).collect())
    };
    let (got, want) = (on_gpu.encoder().unwrap(), on_cpu.encoder());
    let change = apart(&want.params, &start.params);
    let distance = apart(&got.params, &want.params) / change;
    assert!(distance <= tolerance, "parameters: {distance:.1e} apart");
    let distance = apart(&got.buffers, &want.buffers) / norm(vec![want.buffers.len() as f64]);
    assert!(distance <= tolerance, "running statistics: {distance:.1e} apart");
    let keys = on_cpu.to_file().tensors["queue"].data.clone();
    let distance = apart(&on_gpu.queue().unwrap(), &keys) / 13f64.sqrt();
    assert!(distance <= tolerance, "keys: {distance:.1e} apart");
}

#[test]
fn f32_steps_are_those_of_the_cpu() {
    compare::<f32>(1, 1e-3);
    compare::<f32>(2, 1e-3);
}

#[test]
fn bf16_steps_are_near_those_of_the_cpu() {
    compare::<bf16>(1, 0.2);
}
