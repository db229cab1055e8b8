//! Progressive shrinking: how far the space is open at a step.

use slimtau_space::SearchSpace;

/// The space as far as it is open at `step` of `total_steps`; `None` while only the largest network
/// is trained. Three equal phases:
///
/// 1. the largest network;
/// 2. depths: the fewest blocks fall by one at a time, in equal parts, widths stay full;
/// 3. widths: all depths, and one more code at a time, in equal parts, up to each `codes`.
///
/// After the last step, everything stays open.
pub(crate) fn opened(space: &SearchSpace, step: u64, total_steps: u64) -> Option<SearchSpace> {
    let total = u128::from(total_steps);
    let thirds = 3 * u128::from(step);
    if thirds < total {
        return None;
    }
    // How many of `levels` are open, `into` this phase of `total`: at least one from its start.
    let open = |levels: usize, into: u128| match total {
        0 => levels,
        _ => levels.min((into * levels as u128 / total + 1) as usize),
    };
    let mut opened = space.clone();
    let depths = space.stages.iter().map(|s| s.depth.1 - s.depth.0).max().unwrap_or(0);
    let shallower = open(depths, thirds - total);
    for stage in &mut opened.stages {
        stage.depth.0 = stage.depth.0.max(stage.depth.1.saturating_sub(shallower));
    }
    let widths = space.stages.iter().map(|s| s.codes).fold(space.stem.codes, usize::max) - 1;
    let narrower = match thirds.checked_sub(2 * total) {
        None => 0,
        Some(into) => open(widths, into),
    };
    let codes = std::iter::once(&mut opened.stem.codes);
    for codes in codes.chain(opened.stages.iter_mut().map(|s| &mut s.codes)) {
        *codes = (*codes).min(1 + narrower);
    }
    Some(opened)
}
