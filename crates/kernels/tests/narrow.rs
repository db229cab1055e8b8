//! Convolutions of narrow spaces, such as architecture benchmarks have: 4 to 32 channels in steps of 2,
//! images of 1 and 3 channels, odd maps down to a single pixel, one image. Every function on every
//! instruction set, with NaN wherever nothing may be read (the shared weight outside of the active
//! block) and wherever everything has to be written.
//!
//! Tolerance: 1e-4 of the convolution's root mean square (at least 1) for each element of 3 x 3 convolutions of stride
//! 1, 4e-5 for others. Winograd's error is a thirtieth of that in the mean, and up to half of it in the worst of
//! millions of elements.

mod noise;

use noise::noise;
use proptest::prelude::*;
use slimtau_kernels::Scratch;
use slimtau_kernels::conv::{
    ConvShape, Epilogue, Isa, conv_backward_input_on, conv_backward_weight_on, conv_forward_on,
    reference,
};

/// Of the root mean square.
fn tolerance(shape: &ConvShape) -> f64 {
    if (shape.kernel, shape.stride) == (3, 1) { 1e-4 } else { 4e-5 }
}

/// Kernels and strides that networks use.
const KERNELS: [[usize; 2]; 6] = [[1, 1], [1, 2], [3, 1], [3, 2], [5, 1], [7, 2]];

/// Whether element `at` of a weight is in the active block.
fn active(shape: &ConvShape, at: usize) -> bool {
    let (o, i) = (at % shape.full_out, at / shape.full_out % shape.full_in);
    o < shape.out_channels && i < shape.in_channels
}

fn poisoned(len: usize) -> Vec<f32> {
    vec![f32::NAN; len]
}

/// Root mean square, at least 1.
fn size(values: &[f64]) -> f64 {
    let sum: f64 = values.iter().map(|v| v * v).sum();
    (sum / values.len().max(1) as f64).sqrt().max(1.0)
}

struct Case {
    shape: ConvShape,
    x: Vec<f32>,
    w: Vec<f32>,
    dy: Vec<f32>,
}

impl Case {
    fn new(shape: ConvShape, seed: u64) -> Self {
        let mut w = noise(seed + 1, shape.weight_len());
        for (at, w) in w.iter_mut().enumerate().filter(|(at, _)| !active(&shape, *at)) {
            *w = f32::from_bits(0x7FC0_0000 | at as u32 & 0xFFFF);
        }
        let (x, dy) = (noise(seed, shape.input_len()), noise(seed + 2, shape.output_len()));
        Self { shape, x, w, dy }
    }

    #[track_caller]
    fn compare(&self, what: &str, isa: Isa, got: &[f32], want: &[f64]) {
        self.compare_at(size(want), what, isa, got, want);
    }

    /// As [`Case::compare`], for results whose errors go by values of another `size`.
    #[track_caller]
    fn compare_at(&self, size: f64, what: &str, isa: Isa, got: &[f32], want: &[f64]) {
        let tolerance = tolerance(&self.shape) * size;
        for (at, (got, want)) in got.iter().zip(want).enumerate() {
            let error = (f64::from(*got) - want).abs();
            assert!(
                error <= tolerance,
                "{what}, {}, {:?}: element {at} is {got}, should be {want}",
                isa.name(),
                self.shape
            );
        }
    }

    fn check(&self) {
        let Self { shape, x, w, dy } = self;
        let values = |len: usize, at: &dyn Fn(usize) -> f64| (0..len).map(at).collect::<Vec<_>>();
        let y = values(shape.output_len(), &|at| reference::output_at(shape, x, w, at));
        let dx = values(shape.input_len(), &|at| reference::input_gradient_at(shape, dy, w, at));
        let dw = values(shape.weight_len(), &|at| reference::weight_gradient_at(shape, x, dy, at));
        let scratch = &mut Scratch::new();
        for isa in Isa::available() {
            let len = scratch.bytes() / 4;
            scratch.floats(len).fill(f32::NAN);
            let mut got = poisoned(y.len());
            conv_forward_on(isa, shape, x, w, &mut got, Epilogue::None, scratch);
            self.compare("forward", isa, &got, &y);
            self.check_epilogue(isa, &y, scratch);

            let mut got = poisoned(dx.len());
            conv_backward_input_on(isa, shape, dy, w, &mut got, false, scratch);
            self.compare("input gradient", isa, &got, &dx);
            let before = noise(9, dx.len());
            let mut got = before.clone();
            conv_backward_input_on(isa, shape, dy, w, &mut got, true, scratch);
            let sums: Vec<_> = dx.iter().zip(&before).map(|(d, b)| d + f64::from(*b)).collect();
            self.compare("added input gradient", isa, &got, &sums);

            // Added to what is there: zero inside of the block, the weight's NaN outside.
            let mut got: Vec<f32> =
                (0..w.len()).map(|at| if active(shape, at) { 0.0 } else { w[at] }).collect();
            conv_backward_weight_on(isa, shape, x, dy, &mut got, scratch);
            let (inside, outside): (Vec<_>, Vec<_>) =
                (0..w.len()).partition(|at| active(shape, *at));
            for at in outside {
                assert_eq!(
                    got[at].to_bits(),
                    w[at].to_bits(),
                    "outside of the block, at {at}: {shape:?}"
                );
            }
            // The tolerance goes by what the block holds: zeros around it would only make it tighter.
            let got: Vec<f32> = inside.iter().map(|&at| got[at]).collect();
            let dw: Vec<f64> = inside.iter().map(|&at| dw[at]).collect();
            self.compare("weight gradient", isa, &got, &dw);
        }
    }

    fn check_epilogue(&self, isa: Isa, y: &[f64], scratch: &mut Scratch) {
        let Self { shape, x, w, .. } = self;
        let channels = shape.out_channels;
        let (scale, shift) = (noise(5, channels), noise(6, channels));
        let residual = noise(7, y.len());
        let want: Vec<f64> = (0..y.len())
            .map(|at| {
                let (scale, shift) =
                    (f64::from(scale[at % channels]), f64::from(shift[at % channels]));
                (y[at] * scale + shift + f64::from(residual[at])).max(0.0)
            })
            .collect();
        let (scale, shift, residual) = (&scale[..], &shift[..], Some(&residual[..]));
        let epilogue = Epilogue::Affine { scale, shift, residual, relu: true };
        let mut got = poisoned(y.len());
        conv_forward_on(isa, shape, x, w, &mut got, epilogue, scratch);
        // The convolution's errors, scaled; how much the ReLU leaves of its values is no matter.
        let largest = scale.iter().fold(1.0f32, |most, s| most.max(s.abs()));
        self.compare_at(f64::from(largest) * size(y), "epilogue", isa, &got, &want);
    }
}

fn shape(
    [batch, height, width]: [usize; 3],
    [in_channels, out_channels]: [usize; 2],
    [kernel, stride]: [usize; 2],
) -> ConvShape {
    let (full_in, full_out) = (32.max(in_channels), 32.max(out_channels));
    // The stem reads all channels of an image.
    let full_in = if in_channels <= 3 { in_channels } else { full_in };
    ConvShape { batch, height, width, in_channels, out_channels, full_in, full_out, kernel, stride }
}

/// Every width of such a space on either side of a convolution, and both kinds of image.
#[test]
fn every_width() {
    let step = if cfg!(miri) { 14 } else { 2 };
    let widths: Vec<usize> = (4..=32).step_by(step).collect();
    // Miri takes a minute for each of the smaller ones.
    let (kernels, map) =
        if cfg!(miri) { (&KERNELS[2..4], [1, 3, 4]) } else { (&KERNELS[..], [1, 5, 7]) };
    for (i, &out) in widths.iter().enumerate() {
        let images = [1, 3, widths[(5 * i + 2) % widths.len()], out];
        for image in images.into_iter().skip(if cfg!(miri) { 2 } else { 0 }) {
            for &kernel in kernels {
                Case::new(shape(map, [image, out], kernel), 1).check();
            }
        }
    }
}

/// Odd maps, single rows, columns and pixels.
#[test]
fn every_small_map() {
    let sides = if cfg!(miri) { &[1, 3][..] } else { &[1, 2, 3, 5, 7, 9, 13, 17][..] };
    for &height in sides {
        for &width in sides {
            for kernel in KERNELS {
                Case::new(shape([1, height, width], [3, 10], kernel), 2).check();
                Case::new(shape([1, height, width], [14, 22], kernel), 3).check();
            }
        }
    }
}

/// What layers of many channels do, on few pixels, for Miri: filters in panels and in pieces, sums that two tasks share, and
/// blocks of sums. `conv::tests` has larger ones.
#[test]
fn wide_layers_of_few_pixels() {
    for (map, channels, kernel) in [
        ([2, 3, 4], [80, 72], [3, 1]),
        ([1, 4, 4], [264, 80], [3, 1]),
        ([1, 2, 2], [264, 136], [3, 2]),
    ] {
        Case::new(shape(map, channels, kernel), 4).check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 96 }))]

    #[test]
    fn any_narrow_layer(
        map in [1..4usize, 1..20, 1..20],
        input in prop_oneof![Just(1), Just(3), (2..17usize).prop_map(|n| 2 * n)],
        output in (2..17usize).prop_map(|n| 2 * n),
        kernel in prop::sample::select(&KERNELS[..]),
        seed in 0u64..1 << 32,
    ) {
        Case::new(shape(map, [input, output], kernel), seed).check();
    }
}
