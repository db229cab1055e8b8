//! MoCo on synthetic images: every image is a grating of its own, a view adds noise to it. The loss jumps
//! up at first, as real keys replace the random ones that the queue starts with.

use slimtau_base::{fill_normal, stream};
use slimtau_moco::{Moco, MocoConfig};
use slimtau_space::SearchSpace;
use slimtau_supernet::{BnMode, Layout, Plan, Weights};
use slimtau_train::Sgd;

const SPACE: &str = r#"
    name = "gratings"
    image_size = 16
    channels = 1
    classes = 2
    ratios = [1.0, 0.5]
    block = "basic"
    stem = { width = 16, kernel = 3, stride = 1, max_pool = false, codes = 2 }
    stage = [
        { width = 16, depth = [1, 1], stride = 1, codes = 2 },
        { width = 32, depth = [1, 1], stride = 2, codes = 2 },
    ]
"#;
const BATCH: usize = 32;
const SIDE: usize = 16;

/// One noisy view [N, H, W, 1] of a step's images.
fn view(step: u64, which: u64) -> Vec<f32> {
    let mut shapes = [0.0; 3 * BATCH];
    fill_normal(&mut stream(0, "gratings", step), 1.0, &mut shapes);
    let mut pixels = vec![0.0; BATCH * SIDE * SIDE];
    fill_normal(&mut stream(0, "noise", 2 * step + which), 0.3, &mut pixels);
    for (image, shape) in pixels.chunks_exact_mut(SIDE * SIDE).zip(shapes.chunks_exact(3)) {
        for (i, pixel) in image.iter_mut().enumerate() {
            let (x, y) = ((i % SIDE) as f32, (i / SIDE) as f32);
            *pixel += (shape[0] * x + shape[1] * y + 3.0 * shape[2]).sin();
        }
    }
    pixels
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let space = SearchSpace::from_toml(SPACE, "gratings")?;
    let layout = Layout::supernet(&space)?;
    let plan = Plan::subnet(&space, &layout, &space.largest())?;
    let config = MocoConfig {
        queue: 512,
        dim: 32,
        key_momentum: 0.99,
        key_updates: 1,
        key_groups: 4,
        bn: BnMode::Tracked,
        bn_momentum: 0.1,
        sgd: Sgd { momentum: 0.9, weight_decay: 1e-4, nesterov: false },
        seed: 0,
    };
    let mut moco = Moco::new(config, layout.clone(), Weights::init(&layout, 0));
    for step in 0..200 {
        let report = moco.step(step, 0.03, 0.1, &plan, [&view(step, 0), &view(step, 1)])?;
        if step % 20 == 0 || step == 199 {
            println!("step {step}: loss {:.3}, top-1 {:.3}", report.loss, report.top1);
        }
    }
    Ok(())
}
