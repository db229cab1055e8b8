//! The stem's max pool and the head's average pool. candle's max pool knows no padding (its input here
//! has the border already, not counted) and, at a stride other than its size, no gradient.

use crate::channels_first as candle;
use crate::measure::{CANDLE, OURS, REFERENCE, Work, measure, verify, wide};
use crate::noise::noise;
use crate::reference;
use crate::shapes::{AVERAGE_POOLS, MAX_POOLS, Map};
use candle_core::{Result, Var};
use criterion::Criterion;
use slimtau_kernels::pool::{
    average_pool_backward, average_pool_forward, max_pool_backward, max_pool_forward,
};
use std::hint::black_box;

/// Elements that the reference is asked for.
const SMALL: usize = 1_000_000;

pub fn pools(criterion: &mut Criterion) {
    for map in MAX_POOLS {
        max(criterion, map);
        max_in_candle(criterion, map).expect("candle's max pool");
    }
    for map in AVERAGE_POOLS {
        average(criterion, map);
        average_in_candle(criterion, map).expect("candle's average pool");
    }
}

/// The definition, over one image after the other.
fn reference_max(map: &Map, windows: &[Vec<(u8, usize)>], x: &[f64]) -> Vec<f64> {
    let image = map.pixels() * map.channels;
    let mut y = Vec::with_capacity(x.len() / 4);
    for x in x.chunks(image) {
        for window in windows {
            y.extend((0..map.channels).map(|c| {
                let values = window.iter().map(|(_, pixel)| x[pixel * map.channels + c]);
                values.fold(f64::NEG_INFINITY, f64::max)
            }));
        }
    }
    y
}

fn max(criterion: &mut Criterion, map: &Map) {
    let (shape, name) = (map.pool(), &map.name());
    let x = noise(1, shape.input_len());
    let grad_y = noise(2, shape.output_len());
    let (mut y, mut argmax) = (vec![0.0; shape.output_len()], vec![0; shape.output_len()]);
    let mut grad_x = vec![0.0; x.len()];
    max_pool_forward(&shape, &x, &mut y, Some(&mut argmax));
    let windows = reference::pool_windows(map.side, map.side);
    let x64 = wide(&x);
    let want = reference_max(map, &windows, &x64);
    verify("the max pool", &y, 5000, |at| want[at]);

    // Floats in and out, and a byte of position for each output.
    let work = Work::Bytes(4 * shape.input_len() + 5 * shape.output_len());
    measure(criterion, "max pool forward", OURS, name, work, |b| {
        b.iter(|| max_pool_forward(&shape, &x, black_box(&mut y), Some(&mut argmax)));
    });
    if x.len() <= SMALL {
        measure(criterion, "max pool forward", REFERENCE, name, work, |b| {
            b.iter(|| reference_max(map, &windows, &x64));
        });
    }
    measure(criterion, "max pool backward", OURS, name, work, |b| {
        b.iter(|| max_pool_backward(&shape, &argmax, &grad_y, black_box(&mut grad_x)));
    });
}

fn max_in_candle(criterion: &mut Criterion, map: &Map) -> Result<()> {
    let shape = map.pool();
    let x =
        candle::activation([map.batch, map.side, map.side, map.channels], &noise(1, map.len()))?;
    let x = x.pad_with_zeros(2, 1, 1)?.pad_with_zeros(3, 1, 1)?.contiguous()?;
    let work = Work::Bytes(4 * shape.input_len() + 5 * shape.output_len());
    measure(criterion, "max pool forward", CANDLE, &map.name(), work, |b| {
        b.iter(|| x.max_pool2d_with_stride(3, 2).expect("candle's max pool"));
    });
    Ok(())
}

fn average(criterion: &mut Criterion, map: &Map) {
    let Map { batch, channels, .. } = *map;
    let (pixels, name) = (map.pixels(), &map.name());
    let (x, grad_y) = (noise(1, map.len()), noise(2, batch * channels));
    let (mut y, mut grad_x) = (vec![0.0; batch * channels], vec![0.0; map.len()]);
    average_pool_forward(batch, pixels, channels, &x, &mut y);
    let x64 = wide(&x);
    let mean = |at: usize| {
        let (image, c) = (at / channels, at % channels);
        let own = &x64[image * pixels * channels..(image + 1) * pixels * channels];
        own[c..].iter().step_by(channels).sum::<f64>() / pixels as f64
    };
    verify("the average pool", &y, y.len(), mean);
    let work = Work::Bytes(4 * (map.len() + batch * channels));
    measure(criterion, "average pool forward", OURS, name, work, |b| {
        b.iter(|| average_pool_forward(batch, pixels, channels, &x, black_box(&mut y)));
    });
    measure(criterion, "average pool forward", REFERENCE, name, work, |b| {
        b.iter(|| (0..batch * channels).map(mean).collect::<Vec<_>>());
    });
    measure(criterion, "average pool backward", OURS, name, work, |b| {
        b.iter(|| average_pool_backward(batch, pixels, channels, &grad_y, black_box(&mut grad_x)));
    });
}

fn average_in_candle(criterion: &mut Criterion, map: &Map) -> Result<()> {
    let x =
        candle::activation([map.batch, map.side, map.side, map.channels], &noise(1, map.len()))?;
    let grad =
        candle::activation([map.batch, 1, 1, map.channels], &noise(2, map.batch * map.channels))?;
    let work = Work::Bytes(4 * (map.len() + map.batch * map.channels));
    let name = &map.name();
    measure(criterion, "average pool forward", CANDLE, name, work, |b| {
        b.iter(|| x.avg_pool2d(map.side).expect("candle's average pool"));
    });
    let x = Var::from_tensor(&x)?;
    measure(criterion, "average pool backward", CANDLE, name, work, |b| {
        let y = x.avg_pool2d(map.side).expect("candle's average pool");
        let loss = candle::with_gradient(&y, &grad).expect("candle's loss");
        b.iter(|| candle::gradient(&loss, &x).expect("candle's gradients"));
    });
    Ok(())
}
