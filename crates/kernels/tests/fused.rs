//! Batch norm within a convolution gives what the two give one after the other: its backward pass in the one before it, its
//! forward pass in the one behind it.

use slimtau_kernels::Scratch;
use slimtau_kernels::conv::{
    ConvShape, Epilogue, Input, Isa, NormGradient, conv_backward_weight_on, conv_forward,
    conv_forward_on, conv_forward_statistics_on, norm_conv_backward_weight,
    norm_conv_backward_weight_on,
};
use slimtau_kernels::norm::{Norm, norm_backward, norm_forward};

mod noise;
use noise::noise;

fn shape(
    batch: usize,
    size: usize,
    channels: [usize; 2],
    kernel: usize,
    stride: usize,
) -> ConvShape {
    let [in_channels, out_channels] = channels;
    let [full_in, full_out] = [in_channels + 8, out_channels + 3];
    let (height, width) = (size, size);
    ConvShape { batch, height, width, in_channels, out_channels, full_in, full_out, kernel, stride }
}

/// Those that fuse and those that do not: few and many channels, off the vectors' width, whole and cut images, groups,
/// strides and kernels.
fn shapes() -> Vec<ConvShape> {
    let small = vec![
        shape(2, 4, [8, 8], 3, 1),
        shape(3, 7, [24, 20], 3, 1),
        shape(1, 1, [16, 9], 3, 1),
        shape(5, 5, [3, 8], 3, 1),
        shape(3, 6, [8, 16], 3, 2),
    ];
    let large = [
        shape(9, 14, [32, 32], 3, 1),
        shape(4, 28, [40, 24], 3, 1),
        shape(2, 36, [33, 56], 3, 1),
        // Copies enough of the gradient for two threads.
        shape(17, 28, [8, 12], 3, 1),
        shape(6, 7, [104, 112], 3, 1),
        // The same for a matrix unit.
        shape(17, 14, [64, 72], 3, 1),
        shape(17, 28, [40, 56], 3, 2),
        shape(6, 9, [24, 48], 3, 2),
        shape(3, 4, [160, 152], 3, 1),
        shape(3, 9, [16, 32], 1, 2),
    ];
    if cfg!(miri) { small } else { small.into_iter().chain(large).collect() }
}

struct Channels {
    mean: Vec<f32>,
    var: Vec<f32>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
}

impl Channels {
    fn new(n: usize) -> Self {
        let var = noise(7, n).iter().map(|v| v.abs() + 0.1).collect();
        Self { mean: noise(6, n), var, gamma: noise(8, n), beta: noise(9, n) }
    }

    fn norm(&self, relu: bool) -> Norm<'_> {
        let Self { mean, var, gamma, beta } = self;
        Norm { channels: mean.len(), mean, var, gamma, beta, relu }
    }
}

/// On several numbers of threads, one of them more than there are tasks in small shapes.
fn on_pools(body: impl Fn() + Sync) {
    for threads in [1, 2, 13] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        pool.install(&body);
    }
}

#[test]
fn backward_through_norm_then_weight() {
    for shape in shapes() {
        let channels = Channels::new(shape.out_channels);
        let input = noise(1, shape.batch * shape.height * shape.width * shape.in_channels);
        let weight_len = shape.kernel * shape.kernel * shape.full_in * shape.full_out;
        let len = shape.output_len();
        let out = noise(5, len);
        let cases = [(true, None), (true, Some(&out[..])), (false, None)];
        for ((relu, output), batch_statistics) in
            cases.into_iter().flat_map(|case| [(case, true), (case, false)])
        {
            let norm = channels.norm(relu);
            on_pools(|| {
                for isa in Isa::available() {
                    let run = |fused: bool| {
                        let (mut x, mut grad) = (noise(2, len), noise(3, len));
                        let mut grad_weight = noise(4, weight_len);
                        let [mut grad_gamma, mut grad_beta] =
                            [(); 2].map(|()| noise(5, shape.out_channels));
                        let mut scratch = Scratch::new();
                        scratch.floats(1 << 12).fill(f32::NAN);
                        if fused {
                            let of = NormGradient {
                                norm,
                                batch_statistics,
                                x: &mut x,
                                output,
                                grad: &mut grad,
                                grad_gamma: &mut grad_gamma,
                                grad_beta: &mut grad_beta,
                            };
                            norm_conv_backward_weight_on(
                                isa,
                                of,
                                &shape,
                                &input,
                                &mut grad_weight,
                                &mut scratch,
                            );
                        } else {
                            norm_backward(
                                &norm,
                                batch_statistics,
                                &mut x,
                                output,
                                &mut grad,
                                &mut grad_gamma,
                                &mut grad_beta,
                                &mut scratch,
                            );
                            conv_backward_weight_on(
                                isa,
                                &shape,
                                &input,
                                &x,
                                &mut grad_weight,
                                &mut scratch,
                            );
                        }
                        [x, grad, grad_weight, grad_gamma, grad_beta]
                    };
                    assert!(run(true) == run(false), "{shape:?}, relu {relu}, {}", isa.name());
                }
            });
        }
    }
}

#[test]
#[should_panic(expected = "channels of the norm after")]
fn a_norm_of_other_channels_is_refused() {
    let shape = shape(2, 4, [16, 8], 3, 1);
    let channels = Channels::new(16);
    let len = shape.output_len();
    let (input, mut x, mut grad) = (vec![0.0; 2 * len], vec![0.0; len], vec![0.0; len]);
    let mut grad_weight = vec![0.0; 9 * shape.full_in * shape.full_out];
    let (mut grad_gamma, mut grad_beta) = ([0.0; 16], [0.0; 16]);
    let of = NormGradient {
        norm: channels.norm(true),
        batch_statistics: true,
        x: &mut x,
        output: None,
        grad: &mut grad,
        grad_gamma: &mut grad_gamma,
        grad_beta: &mut grad_beta,
    };
    norm_conv_backward_weight(of, &shape, &input, &mut grad_weight, &mut Scratch::new());
}

/// Shapes whose input is normalised where it is read, and others: beside [`shapes`], those by planes and at points, images
/// cut into blocks, several groups of output channels, and more channels than Winograd's way keeps.
fn shapes_of_inputs() -> Vec<ConvShape> {
    let more = [
        shape(8, 7, [216, 208], 3, 1),
        shape(20, 6, [72, 400], 3, 1),
        shape(9, 13, [72, 88], 3, 1),
        shape(7, 25, [32, 64], 3, 1),
        shape(2, 40, [24, 20], 3, 1),
        shape(2, 14, [128, 208], 3, 1),
        shape(1, 5, [300, 200], 3, 1),
        shape(3, 5, [16, 32], 1, 1),
    ];
    let mut all = shapes();
    if !cfg!(miri) {
        all.extend(more);
    }
    all
}

/// Off the map, and where there are no channels, nothing is read: with these terms a zero that went through the norm would
/// show.
#[test]
fn an_input_is_normalised_where_it_is_read() {
    for shape in shapes_of_inputs() {
        let channels = Channels::new(shape.in_channels);
        let len = shape.batch * shape.height * shape.width * shape.in_channels;
        let out_channels = shape.out_channels;
        let weight = noise(2, shape.kernel * shape.kernel * shape.full_in * shape.full_out);
        let grad_output = noise(3, shape.output_len());
        for (relu, not_a_number) in [(true, false), (false, false), (true, true)] {
            let norm = channels.norm(relu);
            let mut x = noise(1, len);
            if not_a_number {
                x[len / 2] = f32::NAN;
            }
            let mut normed = vec![f32::NAN; len];
            norm_forward(&norm, &x, None, &mut normed);
            on_pools(|| {
                for isa in Isa::available() {
                    let run = |input: Input<'_>| {
                        let mut scratch = Scratch::new();
                        scratch.floats(1 << 12).fill(f32::NAN);
                        let [mut y, mut plain] =
                            [(); 2].map(|()| vec![f32::NAN; shape.output_len()]);
                        let [mut mean, mut var] = [(); 2].map(|()| vec![f32::NAN; out_channels]);
                        let mut grad_weight = noise(4, weight.len());
                        let (to, scratch) = (&mut plain, &mut scratch);
                        let end = Epilogue::None;
                        conv_forward_on(isa, &shape, input, &weight, to, end, scratch);
                        let (m, v) = (&mut mean, &mut var);
                        conv_forward_statistics_on(
                            isa, &shape, input, &weight, &mut y, m, v, scratch,
                        );
                        let (dy, to) = (&grad_output, &mut grad_weight);
                        conv_backward_weight_on(isa, &shape, input, dy, to, scratch);
                        [y, plain, mean, var, grad_weight].map(bits)
                    };
                    let fused = run(Input { values: &x, norm: Some(norm) });
                    let apart = run(Input::from(&normed));
                    assert!(fused == apart, "{shape:?}, relu {relu}, {}", isa.name());
                }
            });
        }
    }
}

/// The bits of numbers, of a NaN only that it is one.
fn bits(values: Vec<f32>) -> Vec<u32> {
    values.iter().map(|v| if v.is_nan() { u32::MAX } else { v.to_bits() }).collect()
}

/// The backward pass with norms on both sides.
#[test]
fn norms_on_both_sides_of_a_convolution() {
    let statistics = [true, false];
    for (shape, batch_statistics) in
        shapes_of_inputs().into_iter().flat_map(|shape| statistics.map(|of| (shape, of)))
    {
        let [before, after] = [shape.in_channels, shape.out_channels].map(Channels::new);
        let len = shape.batch * shape.height * shape.width * shape.in_channels;
        let (input, norm) = (noise(1, len), before.norm(true));
        let mut normed = vec![f32::NAN; len];
        norm_forward(&norm, &input, None, &mut normed);
        let weight_len = shape.kernel * shape.kernel * shape.full_in * shape.full_out;
        on_pools(|| {
            for isa in Isa::available() {
                let run = |input: Input<'_>| {
                    let [mut x, mut grad] = [2, 3].map(|seed| noise(seed, shape.output_len()));
                    let mut grad_weight = noise(4, weight_len);
                    let [mut grad_gamma, mut grad_beta] =
                        [(); 2].map(|()| noise(5, shape.out_channels));
                    let of = NormGradient {
                        norm: after.norm(true),
                        batch_statistics,
                        x: &mut x,
                        output: None,
                        grad: &mut grad,
                        grad_gamma: &mut grad_gamma,
                        grad_beta: &mut grad_beta,
                    };
                    let (to, mut scratch) = (&mut grad_weight, Scratch::new());
                    norm_conv_backward_weight_on(isa, of, &shape, input, to, &mut scratch);
                    [x, grad_weight, grad_gamma, grad_beta].map(bits)
                };
                let fused = run(Input { values: &input, norm: Some(norm) });
                assert!(fused == run(Input::from(&normed)), "{shape:?}, {}", isa.name());
            }
        });
    }
}

#[test]
#[should_panic(expected = "channels of the norm before")]
fn a_norm_of_channels_that_are_not_read_is_refused() {
    let shape = shape(2, 4, [16, 8], 3, 1);
    let channels = Channels::new(8);
    let (values, mut y) = (vec![0.0; 2 * shape.output_len()], vec![0.0; shape.output_len()]);
    let weight = vec![0.0; 9 * shape.full_in * shape.full_out];
    let input = Input { values: &values, norm: Some(channels.norm(true)) };
    conv_forward(&shape, input, &weight, &mut y, Epilogue::None, &mut Scratch::new());
}
