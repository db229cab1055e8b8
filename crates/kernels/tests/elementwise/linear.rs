//! The dense layer over the leading columns of its weight.

use crate::{assert_close, noise, numeric_gradient, poisoned, reference, weighted, wide};
use proptest::prelude::*;
use slimtau_kernels::linear::{LinearShape, linear_backward, linear_forward};

fn check(shape: LinearShape, seed: u64) {
    let LinearShape { rows, inputs, outputs, full_inputs } = shape;
    let (x, weight) = (noise(seed, rows * inputs), noise(seed + 1, outputs * full_inputs));
    let (bias, grad_y) = (noise(seed + 2, outputs), noise(seed + 3, rows * outputs));
    let mut y = poisoned(rows * outputs);
    linear_forward(&shape, &x, &weight, &bias, &mut y);
    let forward = |x: &[f64], w: &[f64], b: &[f64]| reference::linear(inputs, full_inputs, x, w, b);
    let (x64, w64, b64, g64) = (wide(&x), wide(&weight), wide(&bias), wide(&grad_y));
    assert_close("y", &y, &forward(&x64, &w64, &b64), 1e-5);

    let mut grad_x = poisoned(x.len());
    let before = noise(seed + 4, weight.len() + outputs);
    let (mut grad_weight, mut grad_bias) =
        (before[..weight.len()].to_vec(), before[weight.len()..].to_vec());
    linear_backward(
        &shape,
        &x,
        &weight,
        &grad_y,
        Some(&mut grad_x),
        &mut grad_weight,
        &mut grad_bias,
    );
    // The gradients are sums of products, so that differences in f64 are exact to 1e-9.
    let small = x.len() * y.len() * weight.len() < 1 << 20;
    if small {
        let want = numeric_gradient(&x64, |x| weighted(&forward(x, &w64, &b64), &g64));
        assert_close("grad_x", &grad_x, &want, 1e-5);
    }
    let mut want: Vec<f64> = wide(&before);
    for (x, g) in x64.chunks(inputs).zip(g64.chunks(outputs)) {
        for o in 0..outputs {
            for i in 0..inputs {
                want[o * full_inputs + i] += g[o] * x[i];
            }
            want[weight.len() + o] += g[o];
        }
    }
    assert_close("grad_weight", &grad_weight, &want[..weight.len()], 1e-5);
    assert_close("grad_bias", &grad_bias, &want[weight.len()..], 1e-5);
    let want: Vec<f64> = g64
        .chunks(outputs)
        .flat_map(|g| {
            let w64 = &w64;
            (0..inputs).map(move |i| (0..outputs).map(|o| g[o] * w64[o * full_inputs + i]).sum())
        })
        .collect();
    assert_close("grad_x", &grad_x, &want, 1e-5);

    let (mut again, mut bias_again) =
        (before[..weight.len()].to_vec(), before[weight.len()..].to_vec());
    linear_backward(&shape, &x, &weight, &grad_y, None, &mut again, &mut bias_again);
    assert_eq!((again, bias_again), (grad_weight, grad_bias));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn agrees_with_the_reference(
        rows in 1usize..80,
        inputs in 1usize..50,
        outputs in prop_oneof![1usize..20, 60usize..140],
        inactive in 0usize..20,
        seed in 0u64..1 << 40,
    ) {
        check(LinearShape { rows, inputs, outputs, full_inputs: inputs + inactive }, seed);
    }
}

#[test]
fn small_shapes_against_finite_differences() {
    for (rows, inputs, outputs, full_inputs) in [(1, 1, 1, 1), (3, 5, 4, 9), (6, 8, 10, 8)] {
        check(LinearShape { rows, inputs, outputs, full_inputs }, 11);
    }
}

#[test]
fn an_empty_batch_changes_nothing() {
    let shape = LinearShape { rows: 0, inputs: 2, outputs: 3, full_inputs: 4 };
    let (mut grad_weight, mut grad_bias) = ([1.0; 12], [2.0; 3]);
    linear_forward(&shape, &[], &[0.0; 12], &[0.0; 3], &mut []);
    linear_backward(&shape, &[], &[0.0; 12], &[], None, &mut grad_weight, &mut grad_bias);
    assert_eq!((grad_weight, grad_bias), ([1.0; 12], [2.0; 3]));
}
