//! Images as convolutions read them, and rows in another order.

use crate::noise::noise;
use crate::{GPUS, poisoned, rounded};
use half::bf16;
use slimtau_kernels::gpu::{
    Activation, Buffer, Gpu, Permutation, View, ViewMut, store_images, stored_channels,
};

fn images<T: Activation>(gpu: &Gpu, pixels: usize, channels: usize) {
    let values = noise(1, pixels * channels);
    let (want, _) = rounded::<T>(&values);
    let (from, stored) =
        (Buffer::from_slice(gpu, &values).unwrap(), stored_channels::<T>(channels));
    let mut to = poisoned::<T>(gpu, pixels * stored);
    store_images(gpu, channels, from.view(), to.view_mut()).unwrap();
    for (at, got) in to.to_vec().unwrap().into_iter().enumerate() {
        let (pixel, c) = (at / stored, at % stored);
        let want = if c < channels { want[pixel * channels + c].to_f32() } else { 0.0 };
        assert_eq!(got.to_f32(), want, "channel {c} of pixel {pixel} of {pixels} x {channels}");
    }
}

#[test]
fn images_are_stored_in_whole_accesses() {
    assert_eq!((stored_channels::<bf16>(3), stored_channels::<f32>(3)), (8, 4));
    for gpu in GPUS.iter() {
        for (pixels, channels) in [(1, 3), (300, 3), (77, 1), (5, 8), (9, 11), (0, 3)] {
            images::<bf16>(gpu, pixels, channels);
            images::<f32>(gpu, pixels, channels);
        }
    }
}

type Copy<T> = fn(&Permutation, View<'_, T>, ViewMut<'_, T>);

fn permuted<T: Activation>(gpu: &Gpu, length: usize, order: &[usize]) {
    let (rows, _) = rounded::<T>(&noise(2, length * order.len()));
    let from = Buffer::from_slice(gpu, &rows).unwrap();
    let mut permutation = Permutation::new(gpu);
    permutation.upload(order).unwrap();
    let copies: [Copy<T>; 2] =
        [|p, from, to| p.gather(from, to).unwrap(), |p, from, to| p.scatter(from, to).unwrap()];
    for (inverse, copy) in copies.into_iter().enumerate() {
        let mut to = poisoned::<T>(gpu, rows.len());
        copy(&permutation, from.view(), to.view_mut());
        let to = to.to_vec().unwrap();
        for (i, &other) in order.iter().enumerate() {
            let (to_row, from_row) = if inverse == 1 { (other, i) } else { (i, other) };
            let row = |values: &[T], row: usize| -> Vec<f32> {
                values[row * length..(row + 1) * length].iter().map(|v| v.to_f32()).collect()
            };
            assert_eq!(row(&to, to_row), row(&rows, from_row), "rows of {length}");
        }
    }
}

#[test]
fn rows_are_permuted_and_brought_back() {
    for gpu in GPUS.iter() {
        for length in [1, 3, 8, 96] {
            permuted::<bf16>(gpu, length, &[4, 0, 3, 1, 2]);
            permuted::<f32>(gpu, length, &[4, 0, 3, 1, 2]);
            permuted::<f32>(gpu, length, &[0]);
        }
    }
}

#[test]
#[should_panic(expected = "no permutation")]
fn a_row_twice_is_no_permutation() {
    let _ = Permutation::new(&GPUS[0]).upload(&[0, 2, 2]);
}
