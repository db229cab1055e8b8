//! The passes over flat parameters: the bits of the same formulas in Rust, one value after the other.

use crate::noise::noise;
use crate::{GPUS, filled, poisoned, same_everywhere};
use half::bf16;
use proptest::prelude::*;
use slimtau_kernels::gpu::{Buffer, Gpu, Sgd, WorkTable, drain_into, ema_update, sgd_step};
use std::ops::Range;

/// More than three chunks, and no multiple of four.
const LEN: usize = 3 * 4096 + 77;

/// A buffer whose view from `skip` on holds `values`: not at a multiple of 16 bytes, unless `skip` is one of four.
fn shifted(gpu: &Gpu, skip: usize, values: &[f32]) -> Buffer<f32> {
    Buffer::from_slice(gpu, &[&vec![f32::NAN; skip], values].concat()).unwrap()
}

fn read(buffer: &Buffer<f32>, skip: usize) -> Vec<f32> {
    buffer.to_vec().unwrap().split_off(skip)
}

/// As `Sgd::update` of slimtau-train.
fn update(sgd: &Sgd, weight_decay: f32, w: &mut f32, g: &mut f32, v: &mut f32) {
    let decayed = *g + weight_decay * *w;
    *v = sgd.momentum * *v + decayed;
    *w -= sgd.lr * if sgd.nesterov { decayed + sgd.momentum * *v } else { *v };
    *g = 0.0;
}

fn inside(ranges: &[Range<usize>], i: usize) -> bool {
    ranges.iter().any(|r| r.contains(&i))
}

/// `skips`: where the parameters, gradients and velocities start, and their copy.
fn check_sgd(
    sgd: Sgd,
    active: &[Range<usize>],
    no_decay: &[Range<usize>],
    skips: [usize; 2],
    with_copy: bool,
) {
    let [skip, skip_copy] = skips;
    let (w, g, v) = (noise(1, LEN), noise(2, LEN), noise(3, LEN));
    let results = same_everywhere(|gpu| {
        let [mut params, mut grads, mut velocity] =
            [&w, &g, &v].map(|values| shifted(gpu, skip, values));
        let mut copy = filled(gpu, skip_copy + LEN, bf16::from_f32(7.0));
        let mut work = WorkTable::new(gpu);
        work.set(LEN, active, no_decay).unwrap();
        let range = skip..skip + LEN;
        sgd_step(
            gpu,
            &sgd,
            &work,
            params.view_mut().range(range.clone()),
            grads.view_mut().range(range.clone()),
            velocity.view_mut().range(range),
            with_copy.then(|| copy.view_mut().range(skip_copy..skip_copy + LEN)),
        )
        .unwrap();
        let copy = copy.to_vec().unwrap().into_iter().skip(skip_copy).map(bf16::to_f32).collect();
        vec![read(&params, skip), read(&grads, skip), read(&velocity, skip), copy]
    });
    for i in 0..LEN {
        let (mut w, mut g, mut v, mut copy) = (w[i], g[i], v[i], 7.0);
        if inside(active, i) {
            let weight_decay = if inside(no_decay, i) { 0.0 } else { sgd.weight_decay };
            update(&sgd, weight_decay, &mut w, &mut g, &mut v);
            if with_copy {
                copy = bf16::from_f32(w).to_f32();
            }
        }
        let got: [f32; 4] = std::array::from_fn(|of| results[of][i]);
        assert_eq!(got.map(f32::to_bits), [w, g, v, copy].map(f32::to_bits), "at {i}");
    }
}

/// Sorted disjoint ranges from arbitrary cut points: every second gap.
fn ranges() -> impl Strategy<Value = Vec<Range<usize>>> {
    prop::collection::vec(0..=LEN, 0..12).prop_map(|mut cuts| {
        cuts.sort_unstable();
        cuts.chunks_exact(2).map(|c| c[0]..c[1]).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn each_value_is_stepped_by_its_own_ranges(
        active in ranges(),
        no_decay in ranges(),
        nesterov: bool,
        skips in (0usize..5, 0usize..5),
        with_copy: bool,
    ) {
        let sgd = Sgd { lr: 0.1, momentum: 0.9, weight_decay: 0.25, nesterov };
        check_sgd(sgd, &active, &no_decay, skips.into(), with_copy);
    }
}

#[test]
fn ranges_next_to_each_other() {
    let sgd = Sgd { lr: 0.3, momentum: 0.7, weight_decay: 1e-2, nesterov: true };
    let active = [0..1, 1..2, 5..5, 6..4096, 4096..4097, 4099..8193, LEN - 1..LEN];
    let no_decay = [0..0, 1..7, 7..9, 4000..4100, 8000..LEN];
    check_sgd(sgd, &active, &no_decay, [0, 0], true);
    check_sgd(sgd, &active, &no_decay, [3, 1], true);
    check_sgd(sgd, &[], &no_decay, [0, 0], true);
    check_sgd(sgd, std::slice::from_ref(&(0..LEN)), &[], [4, 4], true);
}

#[test]
fn a_table_follows_its_ranges() {
    let sgd = Sgd { lr: 1.0, momentum: 0.0, weight_decay: 0.5, nesterov: false };
    for gpu in GPUS.iter() {
        let mut work = WorkTable::new(gpu);
        let mut step = |active: &[Range<usize>], no_decay: &[Range<usize>]| {
            let [mut params, mut grads] = [2.0, 1.0].map(|value| filled(gpu, 6, value));
            let mut velocity = filled(gpu, 6, 0.0);
            work.set(6, active, no_decay).unwrap();
            let (w, g, v) = (params.view_mut(), grads.view_mut(), velocity.view_mut());
            sgd_step(gpu, &sgd, &work, w, g, v, None).unwrap();
            params.to_vec().unwrap()
        };
        let [first, second] = [[0..1, 1..2], [4..4, 4..6]];
        for _ in 0..2 {
            assert_eq!(step(&first, &[]), [0.0, 0.0, 2.0, 2.0, 2.0, 2.0]);
            assert_eq!(step(&first, &[]), [0.0, 0.0, 2.0, 2.0, 2.0, 2.0]);
            assert_eq!(step(&first, &first), [1.0, 1.0, 2.0, 2.0, 2.0, 2.0]);
            assert_eq!(step(&second, &[]), [2.0, 2.0, 2.0, 2.0, 0.0, 0.0]);
            assert_eq!(step(&[], &[]), [2.0; 6]);
        }
    }
}

#[test]
#[should_panic(expected = "active: 1..3 is out of order")]
fn overlapping_ranges_would_step_twice() {
    let _ = WorkTable::new(&GPUS[0]).set(4, &[0..2, 1..3], &[]);
}

#[test]
#[should_panic(expected = "number of gradients")]
fn buffers_of_another_length_are_refused() {
    let gpu = &GPUS[0];
    let mut work = WorkTable::new(gpu);
    work.set(4, std::slice::from_ref(&(0..4)), &[]).unwrap();
    let [mut w, mut g, mut v] = [4, 3, 4].map(|len| poisoned(gpu, len));
    let sgd = Sgd { lr: 0.1, momentum: 0.0, weight_decay: 0.0, nesterov: false };
    let _ = sgd_step(gpu, &sgd, &work, w.view_mut(), g.view_mut(), v.view_mut(), None);
}

#[test]
fn moving_averages() {
    let decay = 0.999f32;
    for (len, skip, with_copy) in [
        (0, 0, true),
        (1, 0, true),
        (3, 1, false),
        (1024, 0, true),
        (2051, 0, true),
        (2051, 2, true),
    ] {
        let (old, current) = (noise(4, len), noise(5, len));
        let results = same_everywhere(|gpu| {
            let mut average = shifted(gpu, skip, &old);
            let current = shifted(gpu, skip, &current);
            let mut copy = poisoned::<bf16>(gpu, len);
            let to = average.view_mut().range(skip..skip + len);
            let from = current.view().range(skip..skip + len);
            let into = with_copy.then(|| copy.view_mut());
            ema_update(gpu, decay, to, from, into).unwrap();
            let copy = copy.to_vec().unwrap().into_iter().map(bf16::to_f32).collect();
            vec![read(&average, skip), copy]
        });
        for i in 0..len {
            let want = decay * old[i] + (1.0 - decay) * current[i];
            let copy = if with_copy { bf16::from_f32(want).to_f32() } else { f32::NAN };
            assert_eq!(results[0][i].to_bits(), want.to_bits(), "average {i} of {len}");
            assert_eq!(results[1][i].is_nan(), !with_copy);
            assert!(!with_copy || results[1][i] == copy, "copy of {want}");
        }
    }
}

/// The norm, to one unit in the last place of f32.
fn check_drain(total: &[f32], grads: &[f32], skip: usize) {
    let len = grads.len();
    let results = same_everywhere(|gpu| {
        let (mut total, mut grads) = (shifted(gpu, skip, total), shifted(gpu, skip, grads));
        let (mut norms, mut scratch) = (poisoned(gpu, 2), Buffer::new(gpu));
        let (first, second) = norms.view_mut().split_at(1);
        for norm in [first, second] {
            let range = skip..skip + len;
            let to = total.view_mut().range(range.clone());
            let from = grads.view_mut().range(range);
            drain_into(gpu, to, from, norm, &mut scratch).unwrap();
        }
        vec![read(&total, skip), read(&grads, skip), norms.to_vec().unwrap()]
    });
    let want: Vec<f32> = total.iter().zip(grads).map(|(t, g)| t + g).collect();
    assert_eq!(results[0], want);
    assert_eq!(results[1], vec![0.0; len]);
    let norm = grads.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>().sqrt();
    let [got, after] = results[2][..] else { unreachable!() };
    let error = (f64::from(got) - norm).abs();
    assert!(error <= f64::from(f32::EPSILON) * norm, "norm {got}, not {norm}");
    assert_eq!(after, 0.0, "the norm of nothing");
}

#[test]
fn draining_adds_clears_and_measures() {
    for (len, skip) in [(0, 0), (1, 0), (5, 1), (4096, 0), (4097, 0), (LEN, 0), (LEN, 3)] {
        check_drain(&noise(6, len), &noise(7, len), skip);
    }
    // Squares of these overflow f32.
    check_drain(&[0.0, 1.0], &[3e30, 4e30], 0);
}

#[test]
fn draining_more_blocks_than_one_block_has_threads() {
    let (gpu, len) = (GPUS.last().unwrap(), 258 * 4096 + 5);
    let (mut total, mut grads) = (filled(gpu, len, 0.0), filled(gpu, len, 0.25));
    let (mut norm, mut scratch) = (poisoned(gpu, 1), Buffer::new(gpu));
    let (to, from) = (total.view_mut(), grads.view_mut());
    drain_into(gpu, to, from, norm.view_mut(), &mut scratch).unwrap();
    let want = (0.0625 * len as f64).sqrt() as f32;
    assert_eq!(norm.to_vec().unwrap(), [want]);
}

#[test]
fn a_broken_gradient_has_a_broken_norm() {
    for gpu in GPUS.iter() {
        let mut grads = Buffer::from_slice(gpu, &[1.0, f32::INFINITY, f32::NAN]).unwrap();
        let (mut total, mut norms) = (filled(gpu, 3, 0.0), poisoned(gpu, 2));
        let (infinite, nan) = norms.view_mut().split_at(1);
        let scratch = &mut Buffer::new(gpu);
        let (to, from) = (total.view_mut().range(0..2), grads.view_mut().range(0..2));
        drain_into(gpu, to, from, infinite, scratch).unwrap();
        let (to, from) = (total.view_mut().range(2..3), grads.view_mut().range(2..3));
        drain_into(gpu, to, from, nan, scratch).unwrap();
        let norms = norms.to_vec().unwrap();
        assert!(norms[0] == f32::INFINITY && norms[1].is_nan(), "{norms:?}");
    }
}
