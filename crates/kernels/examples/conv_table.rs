//! Effective GFLOP/s of the three convolution functions over a table of shapes, each verified
//! against the definition before it is timed.
//!
//! `cargo run --release -p slimtau-kernels --example conv_table [seconds per entry] [threads] [b,h,ci,co,k,s ...]`

use std::time::Instant;

use slimtau_kernels::Scratch;
use slimtau_kernels::conv::{
    ConvShape, Epilogue, conv_backward_input, conv_backward_weight, conv_forward, reference,
};

/// Batch, side, input channels, output channels, kernel, stride.
const TABLE: &[[usize; 6]] = &[
    // mini: its four stages at the widest, then slimmed.
    [64, 28, 32, 32, 3, 1],
    [64, 14, 64, 64, 3, 1],
    [64, 7, 128, 128, 3, 1],
    [64, 4, 256, 256, 3, 1],
    [64, 28, 24, 32, 3, 1],
    [64, 14, 56, 48, 3, 1],
    [64, 7, 104, 128, 3, 1],
    [64, 4, 208, 184, 3, 1],
    // cvpr2022.
    [8, 56, 64, 64, 3, 1],
    [8, 28, 128, 128, 3, 1],
    [8, 14, 256, 256, 3, 1],
    [8, 7, 512, 512, 3, 1],
    [8, 14, 208, 232, 3, 1],
    // Strided: first convolutions of a stage, projections, stems.
    [64, 28, 32, 64, 3, 2],
    [64, 14, 64, 128, 3, 2],
    [64, 7, 128, 256, 3, 2],
    [8, 56, 64, 128, 3, 2],
    [8, 28, 128, 256, 3, 2],
    [8, 14, 256, 512, 3, 2],
    [64, 28, 32, 64, 1, 2],
    [8, 56, 64, 128, 1, 2],
    [8, 14, 256, 512, 1, 2],
    [8, 28, 128, 128, 1, 1],
    [64, 28, 1, 32, 3, 1],
    [64, 32, 3, 16, 3, 1],
    [8, 224, 3, 64, 7, 2],
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let seconds: f64 = args.first().map_or(0.15, |s| s.parse().expect("seconds per entry"));
    let threads = args.get(1).map_or(2, |s| s.parse().expect("threads"));
    let mut table: Vec<[usize; 6]> = args
        .iter()
        .skip(2)
        .map(|s| {
            let sizes: Vec<usize> = s.split(',').map(|n| n.parse().expect("six sizes")).collect();
            sizes.try_into().expect("six sizes")
        })
        .collect();
    if table.is_empty() {
        table = TABLE.to_vec();
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
    println!(
        "b,h,ci,co,k,s        forward   input grad   weight grad   GFLOP/s   (relative error)"
    );
    for sizes in table {
        pool.install(|| entry(sizes, seconds));
    }
}

fn entry([batch, side, in_channels, out_channels, kernel, stride]: [usize; 6], seconds: f64) {
    let shape = ConvShape {
        batch,
        height: side,
        width: side,
        in_channels,
        out_channels,
        full_in: in_channels + 8,
        full_out: out_channels + 16,
        kernel,
        stride,
    };
    let mut noise = Noise(1);
    let input = noise.vec(shape.input_len());
    let weight = noise.vec(shape.weight_len());
    let grad_output = noise.vec(shape.output_len());
    let mut scratch = Scratch::new();
    let flops = 2.0 * shape.macs() as f64;

    let mut output = vec![f32::NAN; shape.output_len()];
    let forward = measure(seconds, || {
        conv_forward(&shape, &input, &weight, &mut output, Epilogue::None, &mut scratch);
    });
    let e0 =
        error(&output, &mut noise, 2000, |at| reference::output_at(&shape, &input, &weight, at));

    let mut grad_input = vec![f32::NAN; shape.input_len()];
    let backward_input = measure(seconds, || {
        conv_backward_input(&shape, &grad_output, &weight, &mut grad_input, false, &mut scratch);
    });
    let e1 = error(&grad_input, &mut noise, 2000, |at| {
        reference::input_gradient_at(&shape, &grad_output, &weight, at)
    });

    let mut grad_weight = vec![0.0; shape.weight_len()];
    conv_backward_weight(&shape, &input, &grad_output, &mut grad_weight, &mut scratch);
    let e2 = error(&grad_weight, &mut noise, 100, |at| {
        reference::weight_gradient_at(&shape, &input, &grad_output, at)
    });
    let backward_weight = measure(seconds, || {
        conv_backward_weight(&shape, &input, &grad_output, &mut grad_weight, &mut scratch);
    });

    let name = format!("{batch},{side},{in_channels},{out_channels},{kernel},{stride}");
    println!(
        "{name:<18} {:>9.1}  {:>9.1}  {:>9.1}   ms {:.3} {:.3} {:.3}   ({e0:.1e} {e1:.1e} {e2:.1e})",
        flops / forward / 1e9,
        flops / backward_input / 1e9,
        flops / backward_weight / 1e9,
        forward * 1e3,
        backward_input * 1e3,
        backward_weight * 1e3,
    );
    assert!(
        e0.max(e1).max(e2) < 2e-5,
        "{shape:?} is wrong: relative errors {e0:.1e} {e1:.1e} {e2:.1e}"
    );
}

/// Seconds of the fastest call: other load on the machine only adds.
fn measure(seconds: f64, mut call: impl FnMut()) -> f64 {
    call();
    call();
    let start = Instant::now();
    let mut times = Vec::new();
    while times.len() < 5 || start.elapsed().as_secs_f64() < seconds {
        let begin = Instant::now();
        call();
        times.push(begin.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    times[0]
}

/// Root-mean-square error of some elements, relative to the reference's root mean square.
fn error(got: &[f32], noise: &mut Noise, samples: usize, want: impl Fn(usize) -> f64) -> f64 {
    let (mut error, mut size) = (0.0, 0.0);
    for _ in 0..samples {
        let at = noise.bits() as usize % got.len();
        let want = want(at);
        error += (f64::from(got[at]) - want).powi(2);
        size += want * want;
    }
    (error / size).sqrt()
}

/// A xorshift generator: enough for operands.
struct Noise(u64);

impl Noise {
    fn bits(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as u32
    }

    fn vec(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| (self.bits() as f32 / u32::MAX as f32 - 0.5) * 3.46).collect()
    }
}
