//! The dense layer over the leading columns of its weight, against sums in f64 and against the CPU's. Both are sums of at
//! most a thousand products of numbers below 2, in f32: 1e-5 of the largest result.

use crate::noise::noise;
use crate::{assert_close, poisoned, reference, same_everywhere, wide};
use slimtau_kernels::gpu::{Buffer, linear_backward, linear_forward};
use slimtau_kernels::linear::{self, LinearShape};

const TOLERANCE: f64 = 1e-5;

fn check(shape: LinearShape) {
    let LinearShape { rows, inputs, outputs, full_inputs } = shape;
    let (x, weight) = (noise(1, rows * inputs), noise(2, outputs * full_inputs));
    let (bias, grad_y) = (noise(3, outputs), noise(4, rows * outputs));
    let before = noise(5, weight.len() + outputs);
    let results = same_everywhere(|gpu| {
        let on_gpu = |v: &[f32]| Buffer::from_slice(gpu, v).unwrap();
        let (x, weight, bias) = (on_gpu(&x), on_gpu(&weight), on_gpu(&bias));
        let (x, weight, grad_y) = (x.view(), weight.view(), on_gpu(&grad_y));
        let (grad_y, mut scratch) = (grad_y.view(), Buffer::new(gpu));
        let mut y = poisoned(gpu, rows * outputs);
        linear_forward(gpu, &shape, x, weight, bias.view(), y.view_mut()).unwrap();
        let mut grad_x = poisoned(gpu, rows * inputs);
        let mut grads = on_gpu(&before);
        let (w, b) = grads.view_mut().split_at(outputs * full_inputs);
        let into = Some(grad_x.view_mut());
        linear_backward(gpu, &shape, x, weight, grad_y, into, w, b, &mut scratch).unwrap();
        let mut alone = on_gpu(&before);
        let (w, b) = alone.view_mut().split_at(outputs * full_inputs);
        linear_backward(gpu, &shape, x, weight, grad_y, None, w, b, &mut scratch).unwrap();
        [y, grad_x, grads, alone].map(|b| b.to_vec().unwrap()).into()
    });
    let [y, grad_x, grads, alone] = &results[..] else { unreachable!() };
    assert_eq!(grads, alone, "without grad_x");

    let (x64, w64, g64) = (wide(&x), wide(&weight), wide(&grad_y));
    let want = reference::linear(inputs, full_inputs, &x64, &w64, &wide(&bias));
    assert_close("y", y, &want, TOLERANCE);
    let mut want_x = vec![0.0; x.len()];
    let mut want = wide(&before);
    for (row, g) in g64.chunks(outputs).enumerate() {
        for (o, g) in g.iter().enumerate() {
            for i in 0..inputs {
                want_x[row * inputs + i] += g * w64[o * full_inputs + i];
                want[o * full_inputs + i] += g * x64[row * inputs + i];
            }
            want[weight.len() + o] += g;
        }
    }
    assert_close("grad_x", grad_x, &want_x, TOLERANCE);
    let (of_weight, of_bias) = grads.split_at(weight.len());
    assert_close("grad_weight", of_weight, &want[..weight.len()], TOLERANCE);
    assert_close("grad_bias", of_bias, &want[weight.len()..], TOLERANCE);
    for (i, (got, old)) in of_weight.iter().zip(&before).enumerate() {
        assert!(i % full_inputs < inputs || got == old, "the inactive weight {i} was touched");
    }

    let (mut cpu_y, mut cpu_x, mut cpu) = (vec![0.0; y.len()], vec![0.0; x.len()], before);
    linear::linear_forward(&shape, &x, &weight, &bias, &mut cpu_y);
    let (w, b) = cpu.split_at_mut(weight.len());
    linear::linear_backward(&shape, &x, &weight, &grad_y, Some(&mut cpu_x), w, b);
    for (what, got, cpu) in [("y", y, cpu_y), ("grad_x", grad_x, cpu_x), ("grads", grads, cpu)] {
        assert_close(&format!("{what} of the CPU"), got, &wide(&cpu), TOLERANCE);
    }
}

#[test]
fn linear_layers_of_all_widths() {
    for (rows, inputs, outputs, full_inputs) in [
        (1, 1, 1, 1),
        (3, 5, 4, 9),
        (33, 40, 10, 64), // the classifier of ten classes
        (9, 24, 1000, 32),
        (257, 7, 33, 7),     // more rows than one part of the weight's gradient
        (70, 128, 128, 128), // the contrastive head
        (2, 1000, 12, 1004),
    ] {
        check(LinearShape { rows, inputs, outputs, full_inputs });
    }
}

#[test]
fn an_empty_batch_of_a_linear_layer_changes_nothing() {
    let shape = LinearShape { rows: 0, inputs: 2, outputs: 3, full_inputs: 4 };
    let results = same_everywhere(|gpu| {
        let on_gpu = |v: &[f32]| Buffer::from_slice(gpu, v).unwrap();
        let (weight, bias, none) = (on_gpu(&[0.5; 12]), on_gpu(&[0.5; 3]), on_gpu(&[]));
        let (mut y, mut grads, mut scratch) = (on_gpu(&[]), on_gpu(&[1.0; 15]), Buffer::new(gpu));
        let (x, w) = (none.view(), weight.view());
        linear_forward(gpu, &shape, x, w, bias.view(), y.view_mut()).unwrap();
        let (gw, gb) = grads.view_mut().split_at(12);
        linear_backward(gpu, &shape, x, w, x, Some(y.view_mut()), gw, gb, &mut scratch).unwrap();
        vec![grads.to_vec().unwrap()]
    });
    assert_eq!(results, [[1.0; 15]]);
}
