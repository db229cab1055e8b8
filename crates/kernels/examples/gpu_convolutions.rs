//! TFLOP/s of the convolutions on a GPU, layer by layer of the `cvpr2022` space at full and at slimmed width, in bf16:
//! one line of JSON each, as `scripts/cudnn_convolutions.py` prints them of cuDNN.
//!
//! ```text
//! cargo run --release -p slimtau-kernels --features gpu --example gpu_convolutions -- [BATCH]
//! ```

use half::bf16;
use slimtau_kernels::conv::ConvShape;
use slimtau_kernels::gpu::{
    Buffer, Epilogue, Gpu, GpuError, conv_backward_input, conv_backward_weight, conv_forward,
    stored_channels,
};
use std::time::Instant;

/// Size of the input, channels in and out at full width, kernel, stride.
const LAYERS: [(usize, usize, usize, usize, usize); 11] = [
    (224, 3, 64, 7, 2),
    (56, 64, 64, 3, 1),
    (56, 64, 128, 3, 2),
    (56, 64, 128, 1, 2),
    (28, 128, 128, 3, 1),
    (28, 128, 256, 3, 2),
    (28, 128, 256, 1, 2),
    (14, 256, 256, 3, 1),
    (14, 256, 512, 3, 2),
    (14, 256, 512, 1, 2),
    (7, 512, 512, 3, 1),
];

/// Width codes: the full width, and those that samplers draw most.
const RATIOS: [f64; 4] = [1.0, 0.9, 0.8, 0.7];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let batch = std::env::args().nth(1).map_or(Ok(256), |n| n.parse())?;
    let gpu = Gpu::open(0)?;
    eprintln!("{}, batch {batch}", gpu.name());
    for (size, full_in, full_out, kernel, stride) in LAYERS {
        for ratio in RATIOS {
            let width = |full: usize| match full {
                3 => 3,
                _ => ((full as f64 * ratio + 4.0) as usize / 8 * 8).max(8),
            };
            let (in_channels, out_channels) = (width(full_in), width(full_out));
            let (height, width) = (size, size);
            let shape = ConvShape {
                batch,
                height,
                width,
                in_channels,
                out_channels,
                full_in,
                full_out,
                kernel,
                stride,
            };
            measure(&gpu, &shape)?;
        }
    }
    Ok(())
}

fn measure(gpu: &Gpu, shape: &ConvShape) -> Result<(), GpuError> {
    let values = |len: usize| {
        let value = |i: usize| bf16::from_f32(((i * 7919) % 1000) as f32 * 2e-3 - 1.0);
        Buffer::from_slice(gpu, &(0..len).map(value).collect::<Vec<_>>())
    };
    // Images as networks have them; others already have such channels.
    let pixels = shape.batch * shape.height * shape.width;
    let x = values(pixels * stored_channels::<bf16>(shape.in_channels))?;
    let w = values(shape.weight_len())?;
    let (mut y, mut grad_x) = (values(shape.output_len())?, values(shape.input_len())?);
    let grad_y = values(shape.output_len())?;
    let mut grad_w = Buffer::zeros(gpu, shape.weight_len())?;
    let mut scratch = Buffer::new(gpu);
    let forward =
        time(gpu, || conv_forward(gpu, shape, x.view(), w.view(), y.view_mut(), Epilogue::None))?;
    let of_input = time(gpu, || {
        conv_backward_input(gpu, shape, grad_y.view(), w.view(), grad_x.view_mut(), false)
    })?;
    let of_weight = time(gpu, || {
        let into = grad_w.view_mut();
        conv_backward_weight(gpu, shape, x.view(), grad_y.view(), into, &mut scratch)
    })?;
    let flops = 2.0 * shape.macs() as f64;
    let ConvShape { height, in_channels, out_channels, kernel, stride, .. } = shape;
    println!(
        "{{\"size\":{height},\"in\":{in_channels},\"out\":{out_channels},\"kernel\":{kernel},\"stride\":{stride},\
         \"forward_tflops\":{:.1},\"input_tflops\":{:.1},\"weight_tflops\":{:.1}}}",
        flops / forward / 1e12,
        flops / of_input / 1e12,
        flops / of_weight / 1e12
    );
    Ok(())
}

/// Seconds of one call: the fastest of three rounds of about 30 ms each.
fn time(gpu: &Gpu, mut call: impl FnMut() -> Result<(), GpuError>) -> Result<f64, GpuError> {
    let mut round = |calls: usize| -> Result<f64, GpuError> {
        gpu.synchronize()?;
        let begin = Instant::now();
        for _ in 0..calls {
            call()?;
        }
        gpu.synchronize()?;
        Ok(begin.elapsed().as_secs_f64() / calls as f64)
    };
    round(3)?; // the first call looks the kernel up
    let calls = (0.03 / round(3)?).clamp(3.0, 3000.0) as usize;
    Ok(round(calls)?.min(round(calls)?).min(round(calls)?))
}
