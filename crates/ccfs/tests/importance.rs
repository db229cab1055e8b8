//! PA&DA's importance sampling: draws follow the stated probabilities, weighted means are unbiased, and
//! a saved state goes on exactly.

use slimtau_base::TensorFile;
use slimtau_ccfs::{ImageImportance, PathImportance, Sampler, SamplerKind};
use slimtau_space::{Arch, BlockCode, SearchSpace};
use std::collections::BTreeMap;
use std::path::Path;

/// 108 tied subnets: stem and stage 1 share their output width, stage 2 has its own.
fn small() -> SearchSpace {
    let text = r#"
        name = "small"
        image_size = 8
        channels = 1
        classes = 10
        ratios = [1.0, 0.75, 0.5]
        divisor = 4
        block = "basic"
        stem = { width = 16, kernel = 3, stride = 1, max_pool = false, codes = 3 }
        stage = [
            { width = 16, depth = [1, 2], stride = 1, codes = 2 },
            { width = 32, depth = [1, 1], stride = 2, codes = 3 },
        ]
    "#;
    SearchSpace::from_toml(text, "test").unwrap()
}

fn all(space: &SearchSpace) -> Vec<Arch> {
    let (mut archs, mut mids) = (Vec::new(), Vec::new());
    for a in 1..=2 {
        mids.push(vec![a]);
        (1..=2).for_each(|b| mids.push(vec![a, b]));
    }
    for stem in 1..=space.shared_codes(None) as u8 {
        for first in &mids {
            for out in 1..=3 {
                for mid in 1..=3 {
                    let blocks = first.iter().map(|&mid| BlockCode { mid, out: stem }).collect();
                    archs.push(Arch { stem, stages: vec![blocks, vec![BlockCode { mid, out }]] });
                }
            }
        }
    }
    archs
}

/// A made-up gradient norm that depends on every choice.
fn norm(arch: &Arch) -> f64 {
    let last = &arch.stages[1][0];
    let first: u8 = arch.stages[0].iter().map(|b| b.mid).sum();
    f64::from(arch.stem) + f64::from(first) + 3.0 * f64::from(last.mid) / f64::from(last.out)
}

/// Pearson's statistic of counts against probabilities stays below what chance exceeds once in
/// many thousands (mean n, deviation sqrt(2 n), 5 of them).
#[track_caller]
fn assert_drawn_as(counts: &[u64], probabilities: &[f64]) {
    let (total, mut statistic, mut n) = (counts.iter().sum::<u64>() as f64, 0.0, 0.0f64);
    for (&count, &p) in counts.iter().zip(probabilities) {
        if p == 0.0 {
            assert_eq!(count, 0);
        } else {
            statistic += (count as f64 - total * p).powi(2) / (total * p);
            n += 1.0;
        }
    }
    assert!(statistic < n + 5.0 * (2.0 * n).sqrt(), "{statistic} for {n} options");
}

#[test]
fn paths_are_drawn_as_their_probabilities_say() {
    let space = small();
    let archs = all(&space);
    let mut paths = PathImportance::new(&space, 0.9);
    let uniform = 1.0 / (2.0 * 2.0 * 3.0 * 3.0);
    for smoothing in [0.0, 0.6, 1.0] {
        paths.update(smoothing);
        let probabilities: Vec<f64> = archs.iter().map(|a| paths.probability(a)).collect();
        assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        let one_block = |a: &Arch| a.stages[0].len() == 1;
        for (arch, p) in archs.iter().zip(&probabilities) {
            // One middle width of two options with one block, two of them with two.
            let even = uniform / if one_block(arch) { 2.0 } else { 4.0 };
            assert_eq!((p - even).abs() < 1e-8, smoothing == 0.0, "{}", space.encode(arch));
        }
        let mut counts: BTreeMap<Arch, u64> = archs.iter().map(|a| (a.clone(), 0)).collect();
        for step in 0..5000 {
            for arch in paths.draw(3, step, 4) {
                space.check_tied(&arch).unwrap();
                *counts.get_mut(&arch).expect("a subnet of the space") += 1;
            }
        }
        let counts: Vec<u64> = archs.iter().map(|a| counts[a]).collect();
        assert_drawn_as(&counts, &probabilities);
        for arch in &archs {
            paths.observe(arch, norm(arch));
        }
    }
}

#[test]
fn options_with_large_gradients_are_drawn_more_often() {
    let space = small();
    let mut paths = PathImportance::new(&space, 0.0);
    let (large, small) = (space.largest(), space.smallest());
    paths.observe(&large, 3.0);
    paths.observe(&small, 1.0);
    paths.update(1.0);
    // Stem 1 to 2, output 1 to 3 of three (the unseen one counts as the mean, 2), depth 2 to 1, and the
    // middle widths that each has: 3/4 3/6 3/4, and of the blocks 3/4, 3/6 and, seen once, 1/2.
    let expected = 0.75 * 0.5 * 0.75 * 0.75 * 0.5 * 0.5;
    assert!((paths.probability(&large) - expected).abs() < 1e-6, "{}", paths.probability(&large));
    let expected = 0.25 / 6.0 * 0.25 * 0.25 / 6.0;
    assert!((paths.probability(&small) - expected).abs() < 1e-7, "{}", paths.probability(&small));
}

#[test]
fn a_sampler_without_gradients_draws_as_training_begins() {
    let space = SearchSpace::preset("tiny").unwrap();
    let sampler = Sampler::new(&space, SamplerKind::PaDa, 400, 4, 7);
    let paths = PathImportance::new(&space, 0.9);
    for step in [0, 5] {
        assert_eq!(sampler.draw(step), paths.draw(7, step, 4));
    }
}

/// Norms that include 0, and an image that was never seen.
fn images() -> ImageImportance {
    let mut images = ImageImportance::new(6, 0.5);
    images.observe(&[0, 1, 2, 4, 5, 5], &[1.0, 0.5, 0.0, 2.5, 4.0, 2.0]);
    images
}

#[test]
fn images_are_drawn_as_their_probabilities_say() {
    for smoothing in [0.0, 0.5, 1.0] {
        let mut images = images();
        images.update(smoothing);
        // Norms 1, 0.5, 0, (7 / 5), 2.5, 3: image 3 was not seen, image 5 averaged.
        let norms = [1.0, 0.5, 0.0, 1.4, 2.5, 3.0];
        let even = 1.0 / 6.0;
        let expected: Vec<f64> = norms
            .iter()
            .map(|n| f64::from(smoothing) * n / 8.4 + f64::from(1.0 - smoothing) * even)
            .collect();
        for (&p, e) in images.probabilities().iter().zip(&expected) {
            assert!((f64::from(p) - e).abs() < 1e-7);
        }
        let mut counts = [0; 6];
        for period in 0..20 {
            images.draw(1, period, 1000).iter().for_each(|&i| counts[i as usize] += 1);
        }
        assert_drawn_as(&counts, &expected);
        assert_eq!(images.draw(1, 3, 50), images.draw(1, 3, 1000)[..50]);
        assert_ne!(images.draw(1, 3, 50), images.draw(1, 4, 50));
        assert_ne!(images.draw(1, 3, 50), images.draw(2, 3, 50));
    }
}

#[test]
fn the_weighted_mean_is_unbiased() {
    let losses = [0.3, 1.7, 0.1, 2.9, 0.4, 5.0];
    let plain = losses.iter().sum::<f64>() / 6.0;
    for smoothing in [0.0, 0.5, 0.9] {
        let mut images = images();
        images.update(smoothing);
        let mut weights = Vec::new();
        images.weights(&[0, 1, 2, 3, 4, 5], &mut weights);
        assert!(weights.iter().all(|w| f64::from(*w) <= 1.0 / (1.0 - f64::from(smoothing)) + 1e-5));
        // The expectation over one draw, written out; draws are independent.
        let total: f64 = images.probabilities().iter().map(|&p| f64::from(p)).sum();
        let drawn = images.probabilities().iter().map(|&p| f64::from(p) / total);
        let expectation: f64 =
            drawn.zip(&weights).zip(&losses).map(|((p, &w), loss)| p * f64::from(w) * loss).sum();
        assert!((expectation - plain).abs() < 1e-6, "{expectation}, not {plain}");
    }
}

#[test]
fn a_saved_state_goes_on_exactly() {
    let space = SearchSpace::preset("tiny").unwrap();
    let mut paths = PathImportance::new(&space, 0.7);
    let mut images = images();
    // Within a period: the norms are ahead of the probabilities.
    for step in 0..50 {
        paths.draw(1, step, 4).iter().for_each(|a| paths.observe(a, 1.0 + a.depth() as f64));
        if step == 25 {
            paths.update(0.5);
            images.update(0.5);
        }
    }
    images.observe(&[3], &[9.0]);
    let mut file = TensorFile::default();
    paths.save("paths", &mut file);
    images.save("images", &mut file);
    let path = Path::new("state");
    let (mut other_paths, mut other_images) =
        (PathImportance::new(&space, 0.7), ImageImportance::new(6, 0.5));
    other_paths.restore(path, "paths", &mut file.clone()).unwrap();
    other_images.restore(path, "images", &mut file.clone()).unwrap();
    assert_eq!(other_paths, paths);
    assert_eq!(other_images, images);
    for _ in 0..2 {
        assert_eq!(other_paths.draw(1, 60, 4), paths.draw(1, 60, 4));
        assert_eq!(other_images.draw(1, 2, 90), images.draw(1, 2, 90));
        [&mut other_paths, &mut paths].into_iter().for_each(|p| p.update(0.9));
        [&mut other_images, &mut images].into_iter().for_each(|i| i.update(0.9));
    }
    let error = PathImportance::new(&small(), 0.7).restore(path, "paths", &mut file.clone());
    assert!(error.unwrap_err().to_string().contains("paths.norms"));
    let error = ImageImportance::new(7, 0.5).restore(path, "images", &mut file.clone());
    assert!(error.unwrap_err().to_string().contains("expected [7]"));
    assert!(images.restore(path, "other", &mut file).is_err());
}
