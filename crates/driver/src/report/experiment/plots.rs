//! The experiment's other charts: scatter plots, tau over training, and the truth.

use super::super::depth::{depth_groups, group_of};
use super::super::plots::{LINES, Point, axes, broken, padded, point_cloud, series_colour, svg};
use super::input::{Architecture, Experiment, Row};
use super::results::{Results, Score};
use plotters::prelude::*;
use std::ops::Range;

/// Mean stand-alone accuracy in percent, and its standard deviation over replicates.
pub(super) fn stand_alone(arch: &Architecture) -> (f64, f64) {
    let values = &arch.stand_alone;
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
    (mean, if n > 1.0 { (squares / (n - 1.0)).sqrt() } else { 0.0 })
}

/// Inherited accuracy, mean over seeds, of architecture `arch_idx`; `None` without a seed.
pub(super) fn inherited(row: &Row, arch_idx: usize) -> Option<f64> {
    let n = row.seeds.len();
    let sum = row.seeds.iter().map(|s| s.inherited[arch_idx]).sum::<f64>();
    (n > 0).then(|| sum / n as f64)
}

/// Inherited accuracy, mean over seeds, against mean stand-alone accuracy; `None` without a seed.
///
/// # Errors
/// When it cannot be drawn.
pub(super) fn scatter(experiment: &Experiment, row: &Row) -> anyhow::Result<Option<String>> {
    let groups = depth_groups(experiment.architectures.iter().map(|a| a.depth));
    let point = |(i, arch): (usize, &Architecture)| -> Option<Point> {
        let (x, (y, _)) = (inherited(row, i)?, stand_alone(arch));
        let title = format!("{}: inherited {x:.2} %, stand-alone {y:.2} %", arch.code);
        Some(Point { x, y, spread: 0.0, group: group_of(&groups, arch.depth), title })
    };
    let points: Vec<Point> =
        experiment.architectures.iter().enumerate().filter_map(point).collect();
    if points.is_empty() {
        return Ok(None);
    }
    let label = format!("inherited against stand-alone accuracy under {}", row.name);
    let names = ("inherited, %", "stand-alone, %");
    point_cloud(&points, (360, 300), 3, &label, names, &[]).map(Some)
}

/// Mean stand-alone accuracy against MACs in millions, with a standard deviation either way and the
/// truth's percentiles dashed.
///
/// # Errors
/// When it cannot be drawn.
pub(super) fn truth(experiment: &Experiment, results: &Results) -> anyhow::Result<String> {
    let groups = depth_groups(experiment.architectures.iter().map(|a| a.depth));
    let point = |arch: &Architecture| {
        let (x, (y, spread)) = (arch.macs as f64 / 1e6, stand_alone(arch));
        let title = format!("{}: {x:.2} M MACs, stand-alone {y:.2} %", arch.code);
        Point { x, y, spread, group: group_of(&groups, arch.depth), title }
    };
    let points: Vec<Point> = experiment.architectures.iter().map(point).collect();
    let names = ("MACs, millions", "stand-alone accuracy, %");
    let label = "stand-alone accuracy against multiply-accumulates";
    point_cloud(&points, (560, 440), 4, label, names, &results.truth.percentiles)
}

/// How often which mean stand-alone accuracy occurs.
///
/// # Errors
/// When it cannot be drawn.
pub(super) fn histogram(experiment: &Experiment) -> anyhow::Result<String> {
    let means: Vec<f64> = experiment.architectures.iter().map(|a| stand_alone(a).0).collect();
    let x = padded(means.iter().copied());
    let n_bins = (means.len() as f64).sqrt().ceil().clamp(4.0, 24.0) as usize;
    let width = (x.end - x.start) / n_bins as f64;
    let mut counts = vec![0_usize; n_bins];
    for mean in &means {
        counts[(((mean - x.start) / width) as usize).min(n_bins - 1)] += 1;
    }
    let highest = counts.iter().copied().max().unwrap_or(0).max(1) as f64;
    let label = "distribution of stand-alone accuracy";
    svg((560, 440), "histogram", label, |area| {
        let names = ("stand-alone accuracy, %", "architectures");
        let mut chart = axes(area, x.clone(), 0.0..1.08 * highest, names, (5, 6))?;
        let bars = counts.iter().enumerate().map(|(i, &count)| {
            let from = x.start + width * i as f64;
            let inside = [(from + 0.06 * width, 0.0), (from + 0.94 * width, count as f64)];
            Rectangle::new(inside, series_colour(0).mix(0.8).filled())
        });
        chart.draw_series(bars).map_err(broken)?;
        Ok(())
    })
}

/// The range of all taus over training and of the images, so that charts compare.
pub(super) fn training_ranges(results: &Results) -> Option<(Range<f64>, Range<f64>)> {
    let points: Vec<(u64, f64)> = results.rows.iter().flat_map(points_of).collect();
    let most = points.iter().map(|p| p.0).max()?;
    let x = 0.0..(most.max(1) as f64 * 1.03);
    Some((x, padded(points.iter().map(|p| p.1))))
}

fn points_of(score: &Score) -> impl Iterator<Item = (u64, f64)> {
    let points = score.seeds.iter().flat_map(|s| &s.training);
    points.filter_map(|(images, tau)| Some((*images, (*tau)?)))
}

/// Tau over stage 2, thin lines for seeds and a thick one for their mean where all have a value; `None`
/// without checkpoints.
///
/// # Errors
/// When it cannot be drawn.
pub(super) fn training(
    score: &Score,
    x: Range<f64>,
    y: Range<f64>,
    ceiling: Option<f64>,
) -> anyhow::Result<Option<String>> {
    if points_of(score).next().is_none() {
        return Ok(None);
    }
    let mut mean = Vec::new();
    let mut images: Vec<u64> =
        score.seeds.iter().flat_map(|s| s.training.iter().map(|p| p.0)).collect();
    images.sort_unstable();
    images.dedup();
    for images in images {
        let at = |points: &Vec<(u64, Option<f64>)>| points.iter().find(|p| p.0 == images)?.1;
        let taus: Option<Vec<f64>> = score.seeds.iter().map(|s| at(&s.training)).collect();
        if let Some(taus) = taus {
            mean.push((images as f64 / 1e3, taus.iter().sum::<f64>() / taus.len() as f64));
        }
    }
    let x = x.start / 1e3..x.end / 1e3;
    let label = format!("tau over training of {}", score.name);
    let drawn = svg((360, 250), "training", &label, |area| {
        let names = ("images in stage 2, thousands", "tau");
        let mut chart = axes(area, x.clone(), y.clone(), names, (4, 5))?;
        if let Some(ceiling) = ceiling.filter(|c| y.contains(c)) {
            let line = [(x.start, ceiling), (x.end, ceiling)];
            let style = series_colour(1).stroke_width(1);
            chart.draw_series(DashedLineSeries::new(line, 5, 4, style)).map_err(broken)?;
        }
        for seed in &score.seeds {
            let points =
                seed.training.iter().filter_map(|(i, tau)| Some((*i as f64 / 1e3, (*tau)?)));
            let style = LINES.mix(0.3).stroke_width(1);
            chart.draw_series(LineSeries::new(points, style)).map_err(broken)?;
        }
        let style = series_colour(0).stroke_width(3);
        chart.draw_series(LineSeries::new(mean.iter().copied(), style)).map_err(broken)?;
        let dots = mean.iter().map(|&p| Circle::new(p, 3, series_colour(0).filled()));
        chart.draw_series(dots).map_err(broken)?;
        Ok(())
    })?;
    Ok(Some(drawn))
}
