//! Every instruction set of this machine against the definition, over a grid of shapes.

use proptest::prelude::*;

use super::*;

#[path = "../../tests/noise/mod.rs"]
mod noise;
use noise::noise;

struct Case {
    shape: ConvShape,
    input: Vec<f32>,
    weight: Vec<f32>,
    grad_output: Vec<f32>,
    /// Elements of each result to look at: all, or evenly many.
    step: usize,
}

impl Case {
    fn new(shape: ConvShape) -> Self {
        // One element costs macs / output_len multiplications; stay within some millions.
        let step = (3 * shape.macs() / 3_000_000).max(1) | 1;
        Self {
            shape,
            input: noise(1, shape.input_len()),
            weight: noise(2, shape.weight_len()),
            grad_output: noise(3, shape.output_len()),
            step,
        }
    }

    /// `want[i]` is element `i * step` of the definition.
    fn reference(&self, len: usize, at: impl Fn(usize) -> f64) -> Vec<f64> {
        (0..len).step_by(self.step).map(at).collect()
    }

    /// Element by element, to within a small part of the root mean square of `sums`, the products'
    /// sums that are behind the results: some results cancel. Elements that nothing is added to, those of
    /// inactive channels, have no part in it.
    fn compare(
        &self,
        what: &str,
        isa: Isa,
        got: &[f32],
        want: &[f64],
        before: &[f64],
        sums: &[f64],
    ) {
        let active = sums.iter().filter(|w| **w != 0.0);
        let size =
            (active.clone().map(|w| w * w).sum::<f64>() / active.count().max(1) as f64).sqrt();
        let tolerance = if fits_winograd(&self.shape) { 1e-4 } else { 4e-5 } * size.max(1.0);
        for (i, want) in want.iter().enumerate() {
            let want = want + before.get(i).copied().unwrap_or(0.0);
            let got = f64::from(got[i * self.step]);
            assert!(
                (got - want).abs() <= tolerance + 1e-6 * want.abs(),
                "{what}, {}, {:?}: element {} is {got}, should be {want}",
                isa.name(),
                self.shape,
                i * self.step
            );
        }
        let finite = got.iter().all(|x| x.is_finite());
        assert!(finite, "{what}, {}, {:?}: an element was not written", isa.name(), self.shape);
    }

    fn every(&self, values: &[f32]) -> Vec<f64> {
        values.iter().step_by(self.step).map(|&x| f64::from(x)).collect()
    }

    /// Holds the three functions to the definition on every instruction set.
    fn check(&self) {
        let (shape, scratch) = (&self.shape, &mut Scratch::new());
        let output = self.reference(shape.output_len(), |at| {
            reference::output_at(shape, &self.input, &self.weight, at)
        });
        let grad_input = self.reference(shape.input_len(), |at| {
            reference::input_gradient_at(shape, &self.grad_output, &self.weight, at)
        });
        let grad_weight = self.reference(shape.weight_len(), |at| {
            reference::weight_gradient_at(shape, &self.input, &self.grad_output, at)
        });
        for isa in Isa::available() {
            // Whatever earlier calls left in the scratch must not matter.
            let len = scratch.bytes() / 4;
            scratch.floats(len).fill(f32::NAN);
            let mut got = vec![f32::NAN; shape.output_len()];
            let none = Epilogue::None;
            conv_forward_on(isa, shape, &self.input, &self.weight, &mut got, none, scratch);
            self.compare("forward", isa, &got, &output, &[], &output);
            if !got.is_empty() {
                self.check_statistics(isa, &got, scratch);
            }

            let mut got = vec![f32::NAN; shape.input_len()];
            let (dy, w) = (&self.grad_output, &self.weight);
            conv_backward_input_on(isa, shape, dy, w, &mut got, false, scratch);
            self.compare("data gradient", isa, &got, &grad_input, &[], &grad_input);
            let mut got = noise(4, shape.input_len());
            let before = self.every(&got);
            conv_backward_input_on(isa, shape, dy, w, &mut got, true, scratch);
            self.compare("added data gradient", isa, &got, &grad_input, &before, &grad_input);

            let prefilled = noise(5, shape.weight_len());
            let before = self.every(&prefilled);
            let mut got = prefilled.clone();
            conv_backward_weight_on(isa, shape, &self.input, dy, &mut got, scratch);
            self.compare("weight gradient", isa, &got, &grad_weight, &before, &grad_weight);
            for (at, (got, before)) in got.iter().zip(&prefilled).enumerate() {
                let (o, c) = (at % shape.full_out, at / shape.full_out % shape.full_in);
                if o >= shape.out_channels || c >= shape.in_channels {
                    assert_eq!(got.to_bits(), before.to_bits(), "outside of the block: {at}");
                }
            }
            self.check_epilogues(isa, &output, scratch);
        }
    }

    /// The output is that of the plain call, and the statistics are its own.
    fn check_statistics(&self, isa: Isa, output: &[f32], scratch: &mut Scratch) {
        let (shape, channels) = (&self.shape, self.shape.out_channels);
        let mut got = vec![f32::NAN; shape.output_len()];
        let (mut mean, mut var) = (vec![f32::NAN; channels], vec![f32::NAN; channels]);
        let (x, w) = (&self.input, &self.weight);
        conv_forward_statistics_on(isa, shape, x, w, &mut got, &mut mean, &mut var, scratch);
        assert!(got == output, "{}, {shape:?}: another output with statistics", isa.name());
        for c in 0..channels {
            let of = || output[c..].iter().step_by(channels).map(|&y| f64::from(y));
            let n = of().count() as f64;
            let want = of().sum::<f64>() / n;
            let spread = of().map(|y| (y - want).powi(2)).sum::<f64>() / n;
            let (mean, var) = (f64::from(mean[c]), f64::from(var[c]));
            assert!(
                (mean - want).abs() <= 1e-6 * (want.abs() + spread.sqrt())
                    && (var - spread).abs() <= 1e-5 * spread + 1e-12 * want * want,
                "{}, {shape:?}: channel {c} has {mean} and {var}, should have {want} and {spread}",
                isa.name()
            );
        }
    }

    fn check_epilogues(&self, isa: Isa, output: &[f64], scratch: &mut Scratch) {
        let shape = &self.shape;
        let (scale, shift) = (noise(6, shape.out_channels), noise(7, shape.out_channels));
        let other = noise(8, shape.output_len());
        let scaled: Vec<f64> = output.iter().map(|y| y * 1.73).collect();
        for (residual, relu) in [(None, false), (None, true), (Some(&other[..]), true)] {
            let epilogue = Epilogue::Affine { scale: &scale, shift: &shift, residual, relu };
            let mut got = vec![f32::NAN; shape.output_len()];
            conv_forward_on(isa, shape, &self.input, &self.weight, &mut got, epilogue, scratch);
            let want: Vec<f64> = output
                .iter()
                .enumerate()
                .map(|(i, y)| {
                    let (at, c) = (i * self.step, i * self.step % shape.out_channels);
                    let y = y * f64::from(scale[c])
                        + f64::from(shift[c])
                        + residual.map_or(0.0, |r| f64::from(r[at]));
                    if relu { y.max(0.0) } else { y }
                })
                .collect();
            self.compare("forward with an epilogue", isa, &got, &want, &[], &scaled);
        }
    }
}

fn shape(
    [batch, height, width]: [usize; 3],
    [in_channels, out_channels]: [usize; 2],
    [kernel, stride]: [usize; 2],
) -> ConvShape {
    ConvShape {
        batch,
        height,
        width,
        in_channels,
        out_channels,
        full_in: in_channels + 5,
        full_out: out_channels + 11,
        kernel,
        stride,
    }
}

fn check_all(maps: &[[usize; 3]], channels: &[[usize; 2]], kernels: &[[usize; 2]]) {
    for &map in maps {
        for &channels in channels {
            for &kernel in kernels {
                Case::new(shape(map, channels, kernel)).check();
            }
        }
    }
}

/// Maps whose tiles are short by every amount, in one dimension or in both.
#[test]
fn every_map_size() {
    let maps = |sides: &[usize]| sides.iter().map(|&s| [2, s, s]).collect::<Vec<_>>();
    let small = maps(&[1, 2, 3, 4, 5, 6, 7, 8, 14]);
    check_all(&small, &[[8, 24], [5, 3]], &[[3, 1], [3, 2], [1, 1], [1, 2]]);
    // Of tiles of 6 outputs a side, followed by every shorter one, and of 5, whole or followed by 4 or 3.
    check_all(&maps(&[9, 10, 11, 12, 13, 16, 21, 26, 31]), &[[8, 24], [5, 3]], &[[3, 1]]);
    check_all(
        &[[1, 5, 7], [1, 6, 4], [3, 9, 2], [1, 1, 13]],
        &[[16, 8]],
        &[[3, 1], [3, 2], [7, 2]],
    );
}

/// The widths of the search spaces and of narrow ones, whole and partial vectors and panels.
#[test]
fn every_width() {
    let widths = [1, 2, 3, 4, 6, 8, 12, 16, 18, 24, 32, 40, 48, 56, 64, 72, 88, 104, 128];
    let pairs: Vec<_> =
        (0..widths.len()).map(|i| [widths[i], widths[(i * 7 + 3) % widths.len()]]).collect();
    check_all(&[[3, 6, 7]], &pairs, &[[3, 1], [3, 2], [1, 2]]);
}

/// Enough channels that filters are transformed panel by panel and gradients block by block.
#[test]
fn wide_layers() {
    let pairs = [[256, 256], [200, 184], [512, 40], [20, 512], [144, 136]];
    check_all(&[[2, 7, 7], [1, 4, 4], [5, 2, 2]], &pairs, &[[3, 1], [3, 2], [1, 2]]);
    // Tiles of 5 outputs a side, followed by every shorter one, in one dimension or in both.
    let maps = [[2, 11, 5], [2, 17, 17], [2, 13, 13], [2, 14, 14], [3, 5, 5], [2, 10, 7]];
    check_all(&maps, &[[200, 184]], &[[3, 1]]);
    // Filters in two and in three pieces, with rests of channels everywhere.
    check_all(&[[3, 1, 1], [2, 3, 5], [2, 7, 7]], &[[299, 75], [75, 531]], &[[3, 1]]);
}

/// Several blocks of tiles and several chunks of pixels.
#[test]
fn large_maps_and_batches() {
    check_all(&[[1, 61, 58], [70, 7, 6]], &[[16, 24]], &[[3, 1], [3, 2]]);
    check_all(&[[40, 14, 14]], &[[72, 136]], &[[3, 1]]);
    check_all(&[[3, 120, 121]], &[[3, 16]], &[[3, 1], [7, 2], [5, 3]]);
    check_all(&[[2, 64, 64]], &[[1, 12]], &[[3, 1]]);
    // Filters and weight gradients too large for a core's cache, and more than one block of tiles.
    check_all(&[[17, 14, 14], [50, 7, 7]], &[[256, 208]], &[[3, 1]]);
    check_all(&[[17, 14, 14], [1, 60, 9]], &[[267, 77]], &[[3, 1]]);
    // Several copies of a weight gradient, each of several blocks.
    check_all(&[[62, 14, 14]], &[[16, 24]], &[[3, 1]]);
    // Strided weight gradients that are, with several parts of the pixels and several blocks.
    check_all(&[[17, 16, 16]], &[[1200, 264]], &[[1, 3]]);
    check_all(&[[5, 40, 40]], &[[264, 160]], &[[3, 3]]);
    check_all(&[[33, 32, 32]], &[[640, 488]], &[[1, 2]]);
}

/// Channels enough for a matrix unit, where there is one: every rest of channels, blocks of 8, 16 and 32 images
/// that are full and not, lines shorter and longer than what is summed together, maps of a single line or
/// column, and several bands.
#[test]
fn layers_for_a_matrix_unit() {
    for (map, channels) in [
        ([6, 5, 7], [64, 72]),
        ([8, 8, 12], [72, 64]),
        ([9, 1, 3], [80, 88]),
        ([16, 3, 1], [101, 70]),
        ([16, 1, 1], [64, 64]),
        ([20, 4, 4], [104, 120]),
        ([33, 7, 7], [88, 112]),
        ([16, 9, 14], [136, 65]),
        ([7, 12, 34], [66, 96]),
        ([32, 2, 2], [128, 256]),
        // Many filters by the definition.
        ([16, 2, 2], [320, 328]),
        // Several bands at both strides, of classes with 8 and with 7 lines.
        ([9, 15, 15], [136, 200]),
        // Two copies of a gradient that outgrows a core's own cache.
        ([32, 14, 14], [128, 240]),
        // Bands of more lines than are summed together: both strides, and one by lines at stride 1.
        ([17, 60, 3], [64, 80]),
        ([17, 35, 2], [64, 80]),
        // Maps large enough for points, of every number of lines modulo four: with rests of channels, a last
        // tile that is alone, a block that is not full, and the fewest channels.
        ([16, 3, 26], [48, 50]),
        ([34, 5, 8], [80, 65]),
        ([9, 6, 30], [104, 72]),
        ([8, 13, 13], [97, 66]),
        ([6, 24, 25], [32, 64]),
        // Gradients of one copy of sums, in two groups of columns.
        ([9, 5, 6], [216, 200]),
        // Filters made plane by plane: several blocks of images, of which the last is not full, a single visit to planes,
        // blocks of 8, and many pixels.
        ([33, 3, 3], [120, 104]),
        ([34, 4, 4], [160, 152]),
        ([6, 3, 3], [64, 72]),
        ([16, 5, 15], [352, 344]),
    ] {
        check_all(&[map], &[channels], &[[3, 1], [3, 2]]);
    }
}

/// With one thread a task has all columns of its lines: more than are summed together.
#[test]
fn all_columns_in_one_task_of_a_matrix_unit() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
    pool.install(|| Case::new(shape([20, 6, 6], [72, 264], [3, 1])).check());
    pool.install(|| Case::new(shape([34, 6, 6], [72, 264], [3, 1])).check());
    pool.install(|| Case::new(shape([8, 9, 9], [136, 200], [3, 2])).check());
}

#[test]
fn empty_batches_and_channels_write_nothing() {
    for (map, channels) in [([0, 4, 4], [8, 8]), ([2, 4, 4], [0, 8]), ([2, 4, 4], [8, 0])] {
        for kernel in [[3, 1], [3, 2]] {
            Case::new(shape(map, channels, kernel)).check();
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    for (map, channels, kernel) in [
        ([6, 14, 14], [32, 40], [3, 1]),
        ([20, 28, 28], [24, 16], [3, 1]),
        ([16, 7, 7], [256, 208], [3, 1]),
        ([9, 14, 14], [128, 96], [3, 1]),
        ([17, 14, 14], [256, 208], [3, 1]),
        ([17, 14, 14], [267, 77], [3, 1]),
        ([9, 15, 15], [24, 40], [3, 2]),
        ([4, 56, 56], [3, 16], [7, 2]),
        ([6, 28, 28], [1, 32], [3, 1]),
        ([9, 13, 13], [64, 44], [1, 2]),
        ([8, 14, 14], [144, 136], [3, 2]),
        ([9, 15, 15], [200, 184], [3, 2]),
        ([32, 7, 7], [72, 104], [3, 1]),
        ([8, 28, 28], [64, 64], [3, 1]),
        ([8, 7, 7], [216, 208], [3, 1]),
        ([34, 4, 4], [160, 152], [3, 1]),
    ] {
        let case = Case::new(shape(map, channels, kernel));
        for isa in Isa::available() {
            let results = [1, 2, 3].map(|threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                pool.expect("threads").install(|| {
                    let (shape, scratch) = (&case.shape, &mut Scratch::new());
                    let mut y = vec![0.0; shape.output_len()];
                    let mut dx = vec![0.0; shape.input_len()];
                    let mut dw = vec![0.0; shape.weight_len()];
                    let (x, w, dy) = (&case.input, &case.weight, &case.grad_output);
                    let mut mean = vec![0.0; shape.out_channels];
                    let mut var = mean.clone();
                    conv_forward_statistics_on(
                        isa, shape, x, w, &mut y, &mut mean, &mut var, scratch,
                    );
                    conv_backward_input_on(isa, shape, dy, w, &mut dx, false, scratch);
                    conv_backward_weight_on(isa, shape, x, dy, &mut dw, scratch);
                    [y, mean, var, dx, dw]
                        .map(|v| v.into_iter().map(f32::to_bits).collect::<Vec<_>>())
                })
            });
            assert!(results[0] == results[1], "1 and 2 threads differ: {:?}", case.shape);
            assert!(results[0] == results[2], "1 and 3 threads differ: {:?}", case.shape);
        }
    }
}

/// What docs say of the error, on the shapes of the networks.
#[test]
fn errors_are_as_small_as_documented() {
    for (map, channels, kernel, bound) in [
        ([4, 28, 28], [32, 32], [3, 1], 4e-6),
        ([4, 28, 28], [64, 64], [3, 1], 4e-6),
        ([4, 14, 14], [48, 56], [3, 1], 4e-6),
        ([4, 14, 14], [256, 256], [3, 1], 5e-6),
        ([8, 7, 7], [128, 128], [3, 1], 4e-6),
        ([8, 14, 14], [256, 256], [3, 1], 5e-6),
        ([8, 14, 14], [232, 208], [3, 1], 5e-6),
        ([8, 14, 14], [304, 304], [3, 1], 5e-6),
        ([8, 28, 28], [128, 112], [3, 1], 4e-6),
        ([8, 56, 56], [64, 64], [3, 1], 4e-6),
        ([8, 7, 7], [512, 512], [3, 1], 4e-6),
        ([32, 14, 14], [64, 72], [3, 1], 4e-6),
        ([8, 28, 28], [32, 32], [3, 1], 4e-6),
        ([8, 28, 28], [48, 56], [3, 1], 4e-6),
        ([16, 28, 28], [1, 32], [3, 1], 4e-6),
        ([4, 14, 14], [64, 128], [3, 2], 1e-6),
        ([8, 14, 14], [64, 128], [3, 2], 1e-6),
        ([8, 15, 13], [28, 56], [3, 2], 1e-6),
        ([4, 14, 14], [64, 128], [1, 2], 1e-6),
        ([2, 64, 64], [3, 64], [7, 2], 1e-6),
    ] {
        let case = Case::new(shape(map, channels, kernel));
        let (shape, scratch) = (&case.shape, &mut Scratch::new());
        let rms = |got: &[f32], want: &dyn Fn(usize) -> f64| {
            let (mut error, mut size) = (0.0, 0.0);
            for at in (0..got.len()).step_by(case.step) {
                let want = want(at);
                error += (f64::from(got[at]) - want).powi(2);
                size += want * want;
            }
            (error / size).sqrt()
        };
        let (x, w, dy) = (&case.input, &case.weight, &case.grad_output);
        for isa in Isa::available().rev().take(2) {
            let mut y = vec![0.0; shape.output_len()];
            conv_forward_on(isa, shape, x, w, &mut y, Epilogue::None, scratch);
            let mut dx = vec![0.0; shape.input_len()];
            conv_backward_input_on(isa, shape, dy, w, &mut dx, false, scratch);
            let mut dw = vec![0.0; shape.weight_len()];
            conv_backward_weight_on(isa, shape, x, dy, &mut dw, scratch);
            let errors = [
                rms(&y, &|at| reference::output_at(shape, x, w, at)),
                rms(&dx, &|at| reference::input_gradient_at(shape, dy, w, at)),
                rms(&dw, &|at| reference::weight_gradient_at(shape, x, dy, at)),
            ];
            // Plain code rounds products and sums apart.
            let bound = if isa.name() == "scalar" { 1.2 * bound } else { bound };
            let correlated = correlates_by_matrix(isa, shape);
            let pixels = shape.batch * shape.height * shape.width;
            // At points where there are many pixels, but for the gradient of the weight also where there are many filters.
            let few = pixels < 1200;
            let filters = shape.in_channels * shape.out_channels >= 40 * pixels;
            let bounds = [
                (correlated, few && !filters),
                (correlated, few && !filters),
                (sums_by_matrix(isa, shape), few),
            ]
            .map(|(unit, definition)| match unit {
                false => bound,
                true if definition || shape.stride > 1 => 5e-6,
                true => 1.2e-5,
            });
            let fine = errors.iter().zip(&bounds).all(|(error, bound)| error < bound);
            assert!(fine, "{shape:?}, {}: {errors:?} against {bounds:?}", isa.name());
        }
    }
}

#[test]
fn steady_state_allocates_nothing() {
    for (map, channels) in [([4, 14, 14], [24, 32]), ([8, 7, 7], [72, 96]), ([8, 7, 7], [216, 208])]
    {
        let case = Case::new(shape(map, channels, [3, 1]));
        let (shape, scratch) = (&case.shape, &mut Scratch::new());
        let mut y = vec![0.0; shape.output_len()];
        let mut bytes = 0;
        for call in 0..3 {
            conv_forward(shape, &case.input, &case.weight, &mut y, Epilogue::None, scratch);
            assert!(call == 0 || scratch.bytes() == bytes, "the scratch grew again");
            bytes = scratch.bytes();
        }
    }
}

#[test]
#[should_panic(expected = "length of the weight")]
fn a_weight_of_the_wrong_length_is_refused() {
    let case = Case::new(shape([1, 4, 4], [8, 8], [3, 1]));
    let mut y = vec![0.0; case.shape.output_len()];
    let weight = &case.weight[1..];
    conv_forward(&case.shape, &case.input, weight, &mut y, Epilogue::None, &mut Scratch::new());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_shape(
        map in [1..4usize, 1..18, 1..18],
        channels in [1..50usize, 1..50],
        (kernel, stride) in prop_oneof![Just((1, 1)), Just((1, 2)), Just((3, 1)), Just((3, 2)), Just((3, 3)), Just((5, 2)), Just((7, 2))],
    ) {
        Case::new(shape(map, channels, [kernel, stride])).check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn any_shape_for_a_matrix_unit(
        map in [6..36usize, 1..16, 1..16],
        channels in prop_oneof![[64..140usize, 64..140], [24..64usize, 24..64]],
        kernel in prop_oneof![Just([3, 1]), Just([3, 2])],
    ) {
        Case::new(shape(map, channels, kernel)).check();
    }
}
