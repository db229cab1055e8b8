//! The competition's own list and accuracies, where they lie beside the repository.

use slimtau_space::{Arch, CostModel, SearchSpace};
use std::path::PathBuf;

/// A file of the competition, or `None` with a note: the tests must pass without it.
fn competition(name: &str) -> Option<String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/competition");
    let path = PathBuf::from(folder).join(name);
    if !path.exists() {
        println!("skipped: {name} is not beside the repository");
        return None;
    }
    Some(std::fs::read_to_string(path).unwrap())
}

#[test]
fn every_listed_code_round_trips_tied_and_restricted() {
    let Some(text) = competition("archs45k.txt") else { return };
    let space = SearchSpace::preset("cvpr2022").unwrap();
    let codes: Vec<&str> = text.split([',', '\n', '\r', ' ']).filter(|c| !c.is_empty()).collect();
    assert_eq!(codes.len(), 45_000);
    for code in codes {
        let arch = space.parse(code).unwrap();
        space.check_tied(&arch).unwrap();
        let written = if code.len() == 51 { space.encode(&arch) } else { space.encode_long(&arch) };
        assert_eq!(written, code);
        assert!(usize::from(arch.stem) <= space.stem.codes, "{code}");
        for (stage, blocks) in space.stages.iter().zip(&arch.stages) {
            assert!(blocks.iter().all(|b| usize::from(b.mid.max(b.out)) <= stage.codes), "{code}");
        }
    }
}

/// Kendall's tau-b over all pairs.
fn tau(x: &[f64], y: &[f64]) -> f64 {
    let (mut both, mut x_untied, mut y_untied) = (0.0, 0.0f64, 0.0f64);
    let sign = |a: f64, b: f64| f64::from(i8::from(a > b) - i8::from(a < b));
    for i in 0..x.len() {
        for j in 0..i {
            let (dx, dy) = (sign(x[i], x[j]), sign(y[i], y[j]));
            both += dx * dy;
            x_untied += dx * dx;
            y_untied += dy * dy;
        }
    }
    both / (x_untied * y_untied).sqrt()
}

#[test]
fn scores_rank_the_published_accuracies_as_known() {
    let Some(text) = competition("gt_arch30.json") else { return };
    let truth: serde_json::Value = serde_json::from_str(&text).unwrap();
    let space = SearchSpace::preset("cvpr2022").unwrap();
    let model = CostModel::new(&space);
    let entries = truth.as_object().unwrap().values();
    let (archs, accuracies): (Vec<Arch>, Vec<f64>) = entries
        .map(|e| (space.parse(e["arch"].as_str().unwrap()).unwrap(), e["acc"].as_f64().unwrap()))
        .unzip();
    assert_eq!(archs.len(), 30);
    let check = |score: &dyn Fn(&Arch) -> f64, expect: &str| {
        let scores: Vec<f64> = archs.iter().map(score).collect();
        assert_eq!(format!("{:.3}", tau(&scores, &accuracies)), expect);
    };
    check(&|a| model.width_sum(a), "0.686");
    check(&|a| model.costs(a).params as f64, "0.614");
    check(&|a| model.costs(a).macs as f64, "0.591");
}
