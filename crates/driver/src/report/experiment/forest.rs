//! The forest plot: every row's tau with its interval and its seeds, against the noise ceiling and the
//! best quantity that needs no training.

use super::super::format::{NONE, escape};
use super::super::plots::{LINES, TEXT, broken, series_colour, svg};
use super::input::Experiment;
use super::results::{Estimate, Results, Score, SeedScore};
use super::tables::grouped;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::fmt::Write;

const WIDTH: i32 = 1000;
/// Where names end and where the axis lies, pixels.
const NAMES: i32 = 250;
const LEFT: i32 = 270;
const RIGHT: i32 = 850;
const ROW: i32 = 26;
const TOP: i32 = 14;

/// Which tau is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// Over all pairs.
    All,
    /// Over pairs within depth groups.
    WithinDepth,
}

impl Which {
    fn of(self, score: &Score) -> &Estimate {
        match self {
            Self::All => &score.tau,
            Self::WithinDepth => &score.tau_within_depth,
        }
    }

    fn of_seed(self, seed: &SeedScore) -> Option<f64> {
        match self {
            Self::All => seed.tau,
            Self::WithinDepth => seed.tau_within_depth,
        }
    }
}

/// A line of the plot.
enum Line<'a> {
    Group(&'a str),
    Row(&'a Score),
}

/// The plot with its legend.
///
/// # Errors
/// When it cannot be drawn.
pub(super) fn forest(
    experiment: &Experiment,
    results: &Results,
    which: Which,
) -> anyhow::Result<String> {
    let mut lines = Vec::new();
    for (group, rows) in grouped(experiment, results) {
        lines.push(Line::Group(group));
        lines.extend(rows.into_iter().map(|(_, score)| Line::Row(score)));
    }
    lines.push(Line::Group("without training"));
    lines.extend(results.baselines.iter().map(Line::Row));
    let ceiling = match which {
        Which::All => results.truth.between_replicates.mean_tau,
        // The ceiling is over all pairs.
        Which::WithinDepth => None,
    };
    let best = results.baselines.iter().filter_map(|b| which.of(b).mean).max_by(f64::total_cmp);

    let scores = results.rows.iter().chain(&results.baselines);
    let mut values: Vec<f64> = scores
        .flat_map(|score| {
            let e = which.of(score);
            let ends = e.interval.map(|i| [i.low, i.high]);
            let seeds = score.seeds.iter().filter_map(|s| which.of_seed(s));
            ends.into_iter().flatten().chain(seeds).collect::<Vec<_>>()
        })
        .collect();
    values.extend(ceiling);
    values.push(0.0);
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    // Ends on tenths, so that the axis is legible.
    let (low, high) = ((low * 10.0 - 0.1).floor() / 10.0, (high * 10.0 + 0.1).ceil() / 10.0);
    let at = |v: f64| LEFT + ((v - low) / (high - low) * f64::from(RIGHT - LEFT)).round() as i32;
    let bottom = TOP + ROW * lines.len() as i32;
    let label = match which {
        Which::All => "Kendall's tau of every method with its interval",
        Which::WithinDepth => "Kendall's tau within depth groups of every method with its interval",
    };
    let size = (WIDTH as u32, (bottom + 50) as u32);
    let drawn = svg(size, "forest", label, |area| {
        let line = |from, to, style: ShapeStyle| {
            area.draw(&PathElement::new([from, to], style)).map_err(broken)
        };
        let text = |words: &str, at, anchor, size: i32| {
            let style = TextStyle::from(("sans-serif", size).into_font()).color(&TEXT).pos(anchor);
            area.draw(&Text::new(words.to_owned(), at, style)).map_err(broken)
        };
        let centre = Pos::new(HPos::Center, VPos::Top);
        let step = if high - low > 1.2 { 2 } else { 1 };
        for tenth in (low * 10.0).round() as i32..=(high * 10.0).round() as i32 {
            if tenth % step != 0 {
                continue;
            }
            let x = at(f64::from(tenth) / 10.0);
            line((x, TOP), (x, bottom), LINES.mix(if tenth == 0 { 0.35 } else { 0.08 }).into())?;
            text(&format!("{:.1}", f64::from(tenth) / 10.0), (x, bottom + 6), centre, 16)?;
        }
        text("Kendall's tau", ((LEFT + RIGHT) / 2, bottom + 26), centre, 16)?;
        for (value, colour) in [(ceiling, 1), (best, 2)] {
            let Some(value) = value else { continue };
            let mut y = TOP;
            while y < bottom {
                let end = (y + 6).min(bottom);
                line((at(value), y), (at(value), end), series_colour(colour).stroke_width(2))?;
                y += 10;
            }
        }
        for (i, row) in lines.iter().enumerate() {
            let y = TOP + ROW * i as i32 + ROW / 2;
            let score = match row {
                Line::Group(name) => {
                    text(name, (0, y + 3), Pos::new(HPos::Left, VPos::Center), 16)?;
                    continue;
                }
                Line::Row(score) => score,
            };
            text(&shortened(&score.name), (NAMES, y), Pos::new(HPos::Right, VPos::Center), 18)?;
            let (e, colour) = (which.of(score), series_colour(0));
            if let Some(interval) = e.interval {
                let style = colour.mix(0.75).stroke_width(3);
                line((at(interval.low), y), (at(interval.high), y), style)?;
            }
            for seed in score.seeds.iter().filter(|_| score.seeds.len() > 1) {
                let Some(tau) = which.of_seed(seed) else { continue };
                line((at(tau), y - 6), (at(tau), y + 6), LINES.mix(0.5).into())?;
            }
            let value = match e.mean {
                Some(tau) => {
                    area.draw(&Circle::new((at(tau), y), 5, colour.filled())).map_err(broken)?;
                    format!("{tau:.3}")
                }
                None => NONE.to_owned(),
            };
            let n = match score.seeds.len() {
                _ if score.seconds.is_none() && !score.seeds.is_empty() => String::new(),
                n => format!("n = {n}"),
            };
            text(&value, (RIGHT + 16, y), Pos::new(HPos::Left, VPos::Center), 18)?;
            text(&n, (RIGHT + 90, y), Pos::new(HPos::Left, VPos::Center), 16)?;
        }
        Ok(())
    })?;
    let mut out = String::from("<div class=\"legend\"><span>dot: mean over seeds</span>");
    let level = 100.0 * results.bootstrap.level;
    let _ = write!(out, "<span>bar: {level:.0} % interval</span><span>ticks: single seeds</span>");
    for (value, name, colour) in [(ceiling, "noise ceiling", 1), (best, "best without training", 2)]
    {
        if let Some(value) = value {
            let _ = write!(
                out,
                "<span><i style=\"background:var(--s{colour})\"></i>{}, {value:.3}</span>",
                escape(name)
            );
        }
    }
    Ok(out + "</div>\n" + &drawn)
}

fn shortened(name: &str) -> String {
    const MOST: usize = 30;
    if name.chars().count() <= MOST {
        return name.to_owned();
    }
    name.chars().take(MOST - 1).chain(['…']).collect()
}
