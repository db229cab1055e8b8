//! The whole method on the library crates, without files or resuming: teacher, MoCo, CCFS with
//! distillation, inherited and stand-alone accuracy, Kendall's tau. Far too short to rank well.

use slimtau_base::stream;
use slimtau_ccfs::{Sampler, SamplerKind};
use slimtau_data::{
    CropFlip, Data, Loader, LoaderConfig, MocoViews, Normalization, Pipeline, Source,
};
use slimtau_distill::{Learner, LearnerConfig, Teacher};
use slimtau_moco::{Moco, MocoConfig};
use slimtau_parallel::hold;
use slimtau_ranking::kendall_tau;
use slimtau_space::SearchSpace;
use slimtau_supernet::{BnMode, Layout, Plan, Session, Weights, argmax};
use slimtau_train::Sgd;
use std::error::Error;
use std::sync::Arc;

const SPACE: &str = r#"
    name = "example"
    image_size = 28
    channels = 1
    classes = 10
    ratios = [1.0, 0.75, 0.5]
    divisor = 4
    block = "basic"
    stem = { width = 8, kernel = 3, stride = 2, max_pool = false, codes = 3 }
    stage = [
        { width = 8, depth = [1, 3], stride = 1, codes = 3 },
        { width = 16, depth = [1, 3], stride = 2, codes = 3 },
    ]
"#;
const SEED: u64 = 0;
const STEPS: u64 = 60;
const SGD: Sgd = Sgd { momentum: 0.9, weight_decay: 1e-4, nesterov: false };

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn loader(data: &Data, pipeline: Pipeline) -> Result<Loader> {
    let config = LoaderConfig::train(pipeline, Normalization::fashion_mnist(), 64, SEED);
    Ok(Loader::new(Arc::clone(&data.train), config)?)
}

fn learner(layout: &Arc<Layout>, start: Weights) -> Learner {
    let config = LearnerConfig {
        sgd: SGD,
        bn: BnMode::Tracked,
        bn_momentum: 0.1,
        label_weight: 1.0,
        teacher_weight: 1.0,
    };
    Learner::new(config, Arc::clone(layout), start)
}

/// One network trained with labels.
fn train(data: &Data, layout: &Arc<Layout>, plan: &Plan, start: Weights) -> Result<Weights> {
    let mut learner = learner(layout, start);
    for batch in loader(data, Pipeline::CropFlip(CropFlip::default()))?.stream(0, STEPS) {
        let batch = batch?;
        hold(|| learner.step(0.05, [plan], &batch.images, &batch.labels, None))?;
    }
    Ok(learner.weights().clone())
}

/// Top-1 accuracy in percent.
fn accuracy(data: &Data, weights: &Weights, plan: &Plan) -> Result<f64> {
    let config = LoaderConfig::eval(Normalization::fashion_mnist(), 250);
    let loader = Loader::new(Arc::clone(&data.validation), config)?;
    let (mut session, mut hits) = (Session::new(), 0);
    for batch in loader.stream(0, loader.steps_per_epoch()) {
        let batch = batch?;
        let logits = session.infer(plan, &weights.params, &weights.buffers, &batch.images)?;
        let rows = logits.chunks_exact(plan.network().classes).zip(&batch.labels);
        hits += rows.filter(|(row, label)| argmax(row) == **label as usize).count();
    }
    Ok(100.0 * hits as f64 / data.validation.len() as f64)
}

fn main() -> Result<()> {
    let data = slimtau_data::open(&Source::Embedded)?;
    let space = SearchSpace::from_toml(SPACE, "example")?;
    let layout = Layout::supernet(&space)?;
    let largest = Plan::subnet(&space, &layout, &space.largest())?;

    // Stage 0: the teacher.
    let teacher = train(&data, &layout, &largest, Weights::init(&layout, SEED))?;
    println!("teacher {:.1} %", accuracy(&data, &teacher, &largest)?);

    // Stage 1: MoCo.
    let config = MocoConfig {
        queue: 1024,
        dim: 32,
        key_momentum: 0.99,
        key_updates: 1,
        key_groups: 4,
        bn: BnMode::Tracked,
        bn_momentum: 0.1,
        sgd: SGD,
        seed: SEED,
    };
    let mut moco = Moco::new(config, Arc::clone(&layout), teacher.clone());
    let views = loader(&data, Pipeline::TwoViews(MocoViews::default()))?;
    for (step, batch) in (0..).zip(views.stream(0, STEPS)) {
        let batch = batch?;
        let second = batch.second.as_deref().ok_or("the pipeline makes two views")?;
        hold(|| moco.step(step, 0.01, 0.2, &largest, [&batch.images, second]))?;
    }

    // Stage 2: CCFS with distillation.
    let sampler = Sampler::new(&space, SamplerKind::CcfsF, 400, 4, SEED);
    let mut soft = Teacher::new(largest, teacher, 1.0);
    let mut supernet = learner(&layout, moco.encoder());
    let batches = loader(&data, Pipeline::CropFlip(CropFlip::default()))?;
    for (step, batch) in (0..).zip(batches.stream(0, STEPS)) {
        let batch = batch?;
        let archs = sampler.draw(step);
        let plans = archs.iter().map(|arch| Plan::subnet(&space, &layout, arch));
        let plans = plans.collect::<std::result::Result<Vec<_>, _>>()?;
        let soft = soft.soft_labels(&batch.images)?;
        hold(|| supernet.step(0.02, &plans, &batch.images, &batch.labels, Some(soft)))?;
    }

    // Stages 3 and 4: each architecture with the supernet's weights, and trained alone.
    let (mut inherited, mut alone) = (Vec::new(), Vec::new());
    for i in 0..8 {
        let arch = space.sample_uniform(&mut stream(SEED, "subnets", i), true);
        let plan = Plan::subnet(&space, &layout, &arch)?;
        inherited.push(accuracy(&data, supernet.weights(), &plan)?);
        let own_layout = Layout::standalone(plan.network());
        let own = Plan::new(plan.network(), &own_layout)?;
        let weights = train(&data, &own_layout, &own, Weights::init(&own_layout, SEED))?;
        alone.push(accuracy(&data, &weights, &own)?);
        let (code, last) = (space.encode(&arch), alone.len() - 1);
        println!("{code}: inherited {:.1} %, alone {:.1} %", inherited[last], alone[last]);
    }
    println!("Kendall tau {:?}", kendall_tau(&inherited, &alone)?);
    Ok(())
}
