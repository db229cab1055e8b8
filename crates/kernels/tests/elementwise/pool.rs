//! Max pool and average pool.

use crate::{assert_close, noise, poisoned, reference, wide};
use proptest::prelude::*;
use slimtau_kernels::pool::{
    PoolShape, average_pool_backward, average_pool_forward, max_pool_backward, max_pool_forward,
};

fn check(shape: &PoolShape, x: &[f32]) {
    let bits = |y: &[f32]| y.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    let PoolShape { height, width, channels, .. } = *shape;
    let (want, want_argmax) = reference::max_pool(height, width, channels, x);
    let (mut y, mut argmax) = (vec![7e30; shape.output_len()], vec![99; shape.output_len()]);
    max_pool_forward(shape, x, &mut y, Some(&mut argmax));
    assert_eq!(bits(&y), bits(&want));
    assert_eq!(argmax, want_argmax);
    let mut without = vec![7e30; shape.output_len()];
    max_pool_forward(shape, x, &mut without, None);
    assert_eq!(bits(&without), bits(&want));

    let grad_y = noise(3, y.len());
    let want = reference::max_pool_gradient(height, width, channels, &argmax, &grad_y);
    let mut grad_x = poisoned(x.len());
    max_pool_backward(shape, &argmax, &grad_y, &mut grad_x);
    assert_close("grad_x", &grad_x, &want, 1e-6);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn max_pool_follows_the_definition(
        batch in 1usize..3,
        height in 1usize..12,
        width in 1usize..12,
        channels in 1usize..40,
        coarse: bool,
        seed in 0u64..1 << 40,
    ) {
        let shape = PoolShape { batch, height, width, channels };
        let mut x = noise(seed, shape.input_len());
        if coarse {
            // Many ties, infinities and NaN.
            for v in &mut x {
                *v = match (*v * 8.0).round() as i32 {
                    -8 => f32::NEG_INFINITY,
                    8 => f32::INFINITY,
                    7 => f32::NAN,
                    n => (n / 3) as f32,
                };
            }
        }
        check(&shape, &x);
    }

    #[test]
    fn average_pool_follows_the_definition(
        batch in 1usize..5,
        pixels in 1usize..60,
        channels in prop_oneof![1usize..70, prop::sample::select(vec![511, 512, 513, 1030])],
        seed in 0u64..1 << 40,
    ) {
        let x = noise(seed, batch * pixels * channels);
        let mut y = poisoned(batch * channels);
        average_pool_forward(batch, pixels, channels, &x, &mut y);
        let want: Vec<f64> = wide(&x)
            .chunks(pixels * channels)
            .flat_map(|image| reference::batch_statistics(channels, image).mean)
            .collect();
        assert_close("y", &y, &want, 1e-6);
        let grad_y = noise(seed + 1, y.len());
        let mut grad_x = poisoned(x.len());
        average_pool_backward(batch, pixels, channels, &grad_y, &mut grad_x);
        let want: Vec<f64> = (0..x.len())
            .map(|i| {
                let (image, c) = (i / (pixels * channels), i % channels);
                f64::from(grad_y[image * channels + c]) / pixels as f64
            })
            .collect();
        assert_close("grad_x", &grad_x, &want, 1e-6);
    }
}

#[test]
fn output_sizes_are_pytorchs() {
    // (size + 2 * padding - kernel) / stride + 1
    for size in 1..30 {
        let shape = PoolShape { batch: 1, height: size, width: size + 1, channels: 1 };
        assert_eq!(shape.out_height(), (size + 2 - 3) / 2 + 1);
        assert_eq!(shape.out_width(), (size + 1 + 2 - 3) / 2 + 1);
    }
}
