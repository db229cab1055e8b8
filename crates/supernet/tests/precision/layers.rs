//! The same layer by layer: every convolution shape of `mini`, widest and slimmest, and those of
//! `cvpr2022`, each against the definition in f64.

use super::normal;
use slimtau_kernels::Scratch;
use slimtau_kernels::conv::{
    ConvShape, Epilogue, Isa, conv_backward_input, conv_backward_weight, conv_forward, reference,
};
use slimtau_space::{Arch, ConvLayer, SearchSpace};
use std::collections::BTreeSet;

/// Bounds on the relative error of direct convolutions, of Winograd's, and of those on a matrix unit at stride 2 and 1, which
/// takes batches of 6 and more: of 24 channels and more at stride 2, and at stride 1 of 40 and more, or of 32 on large maps (of
/// fewer than 64, some of a layer's operations only).
const DIRECT: f64 = 1e-6;
const WINOGRAD: f64 = 4e-6;
/// Where filters are too many to be kept whole, they are summed in larger pieces.
const WINOGRAD_OF_MANY: f64 = 6e-6;
const MANY_FILTERS: usize = 19_000;
const MATRIX_UNIT_AT_STRIDE_2: f64 = 5e-6;
const MATRIX_UNIT: f64 = 1.2e-5;

/// Elements of a result that are compared; a stride without a pattern picks them.
fn error(got: &[f32], samples: usize, want: impl Fn(usize) -> f64) -> f64 {
    let step = (got.len() / samples).max(1) | 1;
    let (mut error, mut size) = (0.0, 0.0);
    for at in (0..got.len()).step_by(step) {
        let want = want(at);
        error += (f64::from(got[at]) - want).powi(2);
        size += want * want;
    }
    (error / size).sqrt()
}

fn check(space: &SearchSpace, arch: &Arch, batch: usize) -> [f64; 2] {
    let (network, full) = (space.resolve(arch).unwrap(), space.resolve(&space.largest()).unwrap());
    let mut seen = BTreeSet::new();
    let mut worst = [0.0f64; 2];
    let widest = |layer: &ConvLayer| {
        let same = |l: &ConvLayer| {
            (l.kernel, l.stride, l.in_size) == (layer.kernel, layer.stride, layer.in_size)
                && l.in_channels >= layer.in_channels
                && l.out_channels >= layer.out_channels
        };
        let found = full.convs().map(|(_, l)| *l).find(|l| same(l));
        found.map_or((layer.in_channels, layer.out_channels), |l| (l.in_channels, l.out_channels))
    };
    for (_, layer) in network.convs() {
        let (full_in, full_out) = widest(layer);
        let shape = ConvShape {
            batch,
            height: layer.in_size,
            width: layer.in_size,
            in_channels: layer.in_channels,
            out_channels: layer.out_channels,
            full_in,
            full_out,
            kernel: layer.kernel,
            stride: layer.stride,
        };
        if !seen.insert(format!("{shape:?}")) {
            continue;
        }
        let scratch = &mut Scratch::new();
        let (x, w) = (normal("x", shape.input_len()), normal("w", shape.weight_len()));
        let dy = normal("dy", shape.output_len());
        let mut y = vec![f32::NAN; shape.output_len()];
        conv_forward(&shape, &x, &w, &mut y, Epilogue::None, scratch);
        let mut dx = vec![f32::NAN; shape.input_len()];
        conv_backward_input(&shape, &dy, &w, &mut dx, false, scratch);
        let mut dw = vec![0.0; shape.weight_len()];
        conv_backward_weight(&shape, &x, &dy, &mut dw, scratch);
        let errors = [
            error(&y, 2000, |at| reference::output_at(&shape, &x, &w, at)),
            error(&dx, 2000, |at| reference::input_gradient_at(&shape, &dy, &w, at)),
            error(&dw, 500, |at| reference::weight_gradient_at(&shape, &x, &dy, at)),
        ];
        let least = match (shape.stride, shape.width) {
            (1, ..24) => 40,
            (1, _) => 32,
            _ => 24,
        };
        let many = batch >= 6 && layer.in_channels.min(layer.out_channels) >= least;
        let unit = many && shape.kernel == 3 && Isa::best().name() == "amx";
        let fast = unit || shape.kernel == 3 && shape.stride == 1;
        let bound = match (fast, unit) {
            (false, _) => DIRECT,
            (true, false) if layer.in_channels * layer.out_channels > MANY_FILTERS => {
                WINOGRAD_OF_MANY
            }
            (true, false) => WINOGRAD,
            (true, true) if shape.stride > 1 => MATRIX_UNIT_AT_STRIDE_2,
            (true, true) => MATRIX_UNIT,
        };
        println!(
            "{shape}: forward {:.1e}, input {:.1e}, weight {:.1e}",
            errors[0], errors[1], errors[2]
        );
        for e in errors {
            assert!(e < bound, "{shape:?}: {errors:?} against {bound:.0e}");
            worst[usize::from(fast)] = worst[usize::from(fast)].max(e);
        }
    }
    worst
}

#[test]
fn every_layer_of_mini() {
    let space = SearchSpace::preset("mini").unwrap();
    for arch in [space.largest(), space.smallest()] {
        for batch in [2, 8] {
            let [direct, fast] = check(&space, &arch, batch);
            println!("mini, batch {batch}: at most {direct:.1e} direct, {fast:.1e} the other way");
        }
    }
}

#[test]
fn every_layer_of_cvpr2022() {
    let space = SearchSpace::preset("cvpr2022").unwrap();
    for arch in [space.largest(), space.smallest()] {
        let [direct, winograd] = check(&space, &arch, 1);
        println!("cvpr2022: at most {direct:.1e} direct, {winograd:.1e} by Winograd");
    }
}
