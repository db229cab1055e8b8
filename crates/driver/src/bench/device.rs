//! The same work on a GPU. Images lie in its memory from the start, as the yardstick's do; a step ends when its results are
//! there.

use super::{Bed, Step, Work};
use crate::device_arg::PrecisionArg;
use crate::engine::Card;
use anyhow::Result;
use half::bf16;
use slimtau_distill::{DeviceBatch, DeviceLearner, DeviceTeacher};
use slimtau_kernels::gpu::Gpu;
use slimtau_moco::DeviceMoco;
use slimtau_supernet::{Device, DeviceWeights, Precision, Session};

/// One kind of work.
pub(super) fn on(card: &Card, bed: Bed) -> Result<Step> {
    match card.precision {
        PrecisionArg::Bf16 => prepare::<bf16>(&card.gpu, bed),
        PrecisionArg::F32 => prepare::<f32>(&card.gpu, bed),
    }
}

/// The same with activations of `T`.
fn prepare<T: Precision>(gpu: &Gpu, bed: Bed) -> Result<Step> {
    let mut batch = DeviceBatch::<T>::new(gpu);
    batch.load(bed.space.channels, &bed.images, bed.space.classes, &bed.labels)?;
    let (layout, config) = (bed.layout.clone(), bed.learner.clone());
    Ok(match bed.what {
        Work::Step1 => {
            let start = bed.weights.clone();
            let mut moco = DeviceMoco::<T>::new(gpu, bed.moco.clone(), layout, start)?;
            Box::new(move |step| {
                let views = [batch.images(), batch.images()];
                moco.step(step, 5e-4, 0.1, &bed.largest, views)?;
                Ok(bed.step1())
            })
        }
        Work::Step2 => {
            let largest = bed.largest.clone();
            let mut teacher = DeviceTeacher::<T>::new(gpu, largest, &bed.weights, 1.0)?;
            let mut learner = DeviceLearner::<T>::new(gpu, config, layout, &bed.weights)?;
            Box::new(move |step| {
                let (plans, macs) = bed.plans(step)?;
                let soft = teacher.soft_labels(batch.images())?;
                learner.step(5e-4, &plans, &batch, Some(soft))?;
                Ok(bed.step2(&plans, macs))
            })
        }
        Work::Standalone => {
            let mut learner = DeviceLearner::<T>::new(gpu, config, layout, &bed.weights)?;
            let plans = [bed.largest.clone()];
            Box::new(move |_| {
                learner.step(5e-4, &plans, &batch, None)?;
                Ok(bed.standalone())
            })
        }
        Work::Eval => {
            let weights = DeviceWeights::<T>::new(gpu, &bed.weights)?;
            let (mut session, gpu) = (Session::on(Device::<T>::new(gpu)), gpu.clone());
            Box::new(move |step| {
                let (plans, macs) = bed.plans(step)?;
                for plan in &plans {
                    session.infer(plan, &weights.params, &weights.buffers, batch.images())?;
                }
                gpu.synchronize()?;
                Ok(Bed::eval(&plans, macs))
            })
        }
    })
}
