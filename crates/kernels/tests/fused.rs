//! Batch norm's backward pass within that of the convolution before it gives what the two give one after the other.

use slimtau_kernels::Scratch;
use slimtau_kernels::conv::{
    ConvShape, Isa, NormGradient, conv_backward_weight_on, norm_conv_backward_weight,
    norm_conv_backward_weight_on,
};
use slimtau_kernels::norm::{Norm, norm_backward};

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
