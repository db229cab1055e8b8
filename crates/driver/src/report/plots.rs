//! The report's charts as inline SVG. Colours are stand-ins that the style sheet maps to the light or
//! the dark palette; legends are HTML beside the chart.

use super::depth::{N_DEPTHS, depth_groups, group_of};
use super::format::escape;
use super::{Curve, Ranking, Report, Subnet};
use anyhow::anyhow;
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use std::fmt::Display;
use std::ops::Range;

/// Text, mapped to the page's soft ink.
pub(super) const TEXT: RGBColor = RGBColor(1, 1, 1);
/// Axes and grid, mapped to the page's ink; drawn translucent.
pub(super) const LINES: RGBColor = RGBColor(2, 2, 2);
/// How many colours the style sheet has for series and for depth groups.
pub(super) const N_SERIES: usize = 6;
/// A curve is drawn with at most this many points, each the mean of its share.
const N_DRAWN: usize = 300;

pub(super) fn series_colour(index: usize) -> RGBColor {
    RGBColor(16, 0, (index % N_SERIES) as u8)
}

fn depth_colour(group: usize) -> RGBColor {
    RGBColor(32, 0, group.min(N_DEPTHS - 1) as u8)
}

/// Draws on a fresh canvas and returns the SVG element, fit for embedding.
pub(super) fn svg(
    (width, height): (u32, u32),
    class: &str,
    label: &str,
    draw: impl FnOnce(&DrawingArea<SVGBackend, Shift>) -> anyhow::Result<()>,
) -> anyhow::Result<String> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, (width, height)).into_drawing_area();
        draw(&area)?;
        area.present().map_err(broken)?;
    }
    // Inline SVG needs no namespace; sizes are the style sheet's part.
    let start = text.find("viewBox").ok_or_else(|| anyhow!("the chart has no view box"))?;
    let body = text[start..].replacen(" xmlns=\"http://www.w3.org/2000/svg\"", "", 1);
    let label = escape(label);
    Ok(format!("<svg class=\"{class}\" role=\"img\" aria-label=\"{label}\" {body}"))
}

pub(super) fn broken(error: impl Display) -> anyhow::Error {
    anyhow!("cannot draw a chart: {error}")
}

/// The range of the finite `values` with a margin; never empty.
pub(super) fn padded(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (low, high) = values
        .filter(|v| v.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    if low > high {
        return 0.0..1.0;
    }
    let margin = if high > low { 0.06 * (high - low) } else { 0.05 * high.abs().max(1.0) };
    low - margin..high + margin
}

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// Axes with a quiet grid.
pub(super) fn axes<'a, 'b>(
    area: &'a DrawingArea<SVGBackend<'b>, Shift>,
    x: Range<f64>,
    y: Range<f64>,
    (x_name, y_name): (&str, &str),
    (n_x, n_y): (usize, usize),
) -> anyhow::Result<Chart<'a, 'b>> {
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        // Half of the last tick's label.
        .margin_right(20)
        .x_label_area_size(if x_name.is_empty() { 8 } else { 44 })
        .y_label_area_size(64)
        .build_cartesian_2d(x.clone(), y.clone())
        .map_err(broken)?;
    let text = ("sans-serif", 15).into_font().color(&TEXT);
    let (x_tick, y_tick) = (tick_format(&x), tick_format(&y));
    let mut mesh = chart.configure_mesh();
    mesh.bold_line_style(LINES.mix(0.10))
        .light_line_style(TRANSPARENT)
        .axis_style(LINES.mix(0.35))
        .label_style(text.clone())
        .axis_desc_style(text)
        .x_labels(n_x)
        .y_labels(n_y)
        .y_label_formatter(&y_tick)
        .y_desc(y_name);
    let nothing = |_: &f64| String::new();
    if x_name.is_empty() {
        mesh.x_label_formatter(&nothing);
    } else {
        mesh.x_label_formatter(&x_tick).x_desc(x_name);
    }
    mesh.draw().map_err(broken)?;
    Ok(chart)
}

/// Ticks with as many decimals as about six steps over the range need.
fn tick_format(range: &Range<f64>) -> impl Fn(&f64) -> String + use<> {
    let step = (range.end - range.start) / 6.0;
    let decimals = (-step.log10().floor()).clamp(0.0, 9.0) as usize;
    let largest = range.end.abs().max(range.start.abs());
    move |&v| match v {
        v if v.abs() < step * 1e-6 => "0".to_owned(),
        v if largest < 1e-2 => format!("{v:.1e}"),
        v if largest >= 1e4 => format!("{}k", v / 1e3),
        v => format!("{v:.decimals$}"),
    }
}

/// Inherited accuracy under method `method_idx` against stand-alone accuracy, both in percent, points
/// coloured by depth; bars span one standard deviation over stand-alone seeds either way.
pub(super) fn scatter(report: &Report, method_idx: usize) -> anyhow::Result<String> {
    let groups = depth_groups(report.subnets.iter().map(|s| s.depth));
    let point = |subnet: &Subnet| -> Option<Point> {
        let (x, y) = (*subnet.inherited.get(method_idx)?, subnet.stand_alone_mean()?);
        let spread = subnet.stand_alone_std().unwrap_or(0.0);
        let title = format!("{}: inherited {x:.2} %, stand-alone {y:.2} %", subnet.code);
        Some(Point { x, y, spread, group: group_of(&groups, subnet.depth), title })
    };
    let points: Vec<_> = report.subnets.iter().filter_map(point).collect();
    let label = "scatter of inherited against stand-alone accuracy";
    let names = ("inherited accuracy, %", "stand-alone accuracy, %");
    point_cloud(&points, (560, 440), 5, label, names, &[])
}

/// One architecture in a scatter plot.
pub(super) struct Point {
    pub(super) x: f64,
    pub(super) y: f64,
    /// Half the length of its vertical bar; 0 for none.
    pub(super) spread: f64,
    /// Its depth group.
    pub(super) group: usize,
    /// Shown on hover.
    pub(super) title: String,
}

/// Points coloured by depth, with their bars, over dashed horizontal lines at `levels`.
pub(super) fn point_cloud(
    points: &[Point],
    size: (u32, u32),
    radius: u32,
    label: &str,
    names: (&str, &str),
    levels: &[f64],
) -> anyhow::Result<String> {
    let drawn = svg(size, "scatter", label, |area| {
        let x = padded(points.iter().map(|p| p.x));
        let y = padded(points.iter().flat_map(|p| [p.y - p.spread, p.y + p.spread]));
        let n_ticks = (size.0 / 80).clamp(3, 7) as usize;
        let mut chart = axes(area, x.clone(), y, names, (n_ticks, n_ticks))?;
        for &level in levels {
            let line = [(x.start, level), (x.end, level)];
            let style = series_colour(1).mix(0.8).stroke_width(1);
            chart.draw_series(DashedLineSeries::new(line, 5, 4, style)).map_err(broken)?;
        }
        let bars = points.iter().filter(|p| p.spread > 0.0).map(|p| {
            PathElement::new([(p.x, p.y - p.spread), (p.x, p.y + p.spread)], LINES.mix(0.3))
        });
        chart.draw_series(bars).map_err(broken)?;
        let circle = |p: &Point| Circle::new((p.x, p.y), radius, depth_colour(p.group).filled());
        chart.draw_series(points.iter().map(circle)).map_err(broken)?;
        Ok(())
    })?;
    Ok(with_titles(&drawn, points.iter().map(|p| p.title.as_str())))
}

/// Gives the circles of a chart, in drawing order, a title that browsers show on hover.
fn with_titles<'a>(drawn: &str, mut titles: impl Iterator<Item = &'a str>) -> String {
    let mut out = String::with_capacity(2 * drawn.len());
    for line in drawn.split_inclusive('\n') {
        let circle = line.trim_end().strip_prefix("<circle ").and_then(|c| c.strip_suffix("/>"));
        match circle.and_then(|attributes| Some((attributes, titles.next()?))) {
            Some((attributes, title)) => {
                let title = escape(title);
                out += &format!("<circle {attributes}><title>{title}</title></circle>\n");
            }
            None => out += line,
        }
    }
    out
}

/// The loss, and under it the learning rate, of all curves of one stage against the step.
pub(super) fn curves(stage: &str, curves: &[&Curve]) -> anyhow::Result<String> {
    let losses: Vec<_> = curves.iter().map(|c| thinned(c, |p| p.loss)).collect();
    let rates: Vec<_> = curves.iter().map(|c| thinned(c, |p| Some(p.learning_rate))).collect();
    let last = curves.iter().filter_map(|c| c.points.last()).map(|p| p.step).max().unwrap_or(0);
    let x = 0.0..last.max(1) as f64;
    // Many curves are one cloud: a colour each would say nothing.
    let colour =
        |i: usize| if curves.len() > N_SERIES { series_colour(0) } else { series_colour(i) };
    let opacity = if curves.len() > N_SERIES { 0.35 } else { 1.0 };
    svg((560, 400), "curves", &format!("loss and learning rate of stage {stage}"), |area| {
        let (above, below) = area.split_vertically(258);
        for (area, lines, names, n_y) in
            [(&above, &losses, ("", "loss"), 6), (&below, &rates, ("step", "learning rate"), 3)]
        {
            let y = padded(lines.iter().flatten().map(|p| p.1));
            let mut chart = axes(area, x.clone(), y, names, (6, n_y))?;
            for (i, line) in lines.iter().enumerate() {
                let style = colour(i).mix(opacity).stroke_width(2);
                chart.draw_series(LineSeries::new(line.iter().copied(), style)).map_err(broken)?;
            }
        }
        Ok(())
    })
}

/// The points of a curve, or the means of [`N_DRAWN`] consecutive shares of them; values that were not
/// finite are left out.
fn thinned(curve: &Curve, value: impl Fn(&super::CurvePoint) -> Option<f64>) -> Vec<(f64, f64)> {
    let share = curve.points.len().div_ceil(N_DRAWN).max(1);
    let mean = |points: &[super::CurvePoint]| {
        let values = points.iter().filter_map(|p| Some((p.step as f64, value(p)?)));
        let values: Vec<_> = values.filter(|(_, v)| v.is_finite()).collect();
        let sums = values.iter().fold((0.0, 0.0), |(x, y), (a, b)| (x + a, y + b));
        let n = values.len() as f64;
        (n > 0.0).then_some((sums.0 / n, sums.1 / n))
    };
    curve.points.chunks(share).filter_map(mean).collect()
}

/// Kendall's tau and its interval on the axis -1 to 1, with ticks at -1, 0 and 1 and, dashed, the
/// noise ceiling.
pub(super) fn whisker(ranking: &Ranking, ceiling: Option<f64>) -> anyhow::Result<String> {
    const SIZE: (u32, u32) = (200, 22);
    let at = |value: f64| (8.0 + (value + 1.0) / 2.0 * (f64::from(SIZE.0) - 16.0)).round() as i32;
    let label = format!("Kendall's tau of {} with its interval", ranking.name);
    svg(SIZE, "whisker", &label, |area| {
        let line = |from, to, style: ShapeStyle| {
            area.draw(&PathElement::new([from, to], style)).map_err(broken)
        };
        line((at(-1.0), 11), (at(1.0), 11), LINES.mix(0.12).into())?;
        for (value, reach) in [(-1.0, 4), (0.0, 9), (1.0, 4)] {
            line((at(value), 11 - reach), (at(value), 11 + reach), LINES.mix(0.3).into())?;
        }
        if let Some(ceiling) = ceiling {
            for y in [2, 8, 14] {
                let style = series_colour(1).stroke_width(2);
                line((at(ceiling), y), (at(ceiling), y + 4), style)?;
            }
        }
        if let Some(interval) = ranking.intervals.kendall_tau {
            let style = series_colour(0).stroke_width(3);
            line((at(interval.low), 11), (at(interval.high), 11), style)?;
        }
        if let Some(tau) = ranking.correlations.kendall_tau {
            let circle = Circle::new((at(tau), 11), 5, series_colour(0).filled());
            area.draw(&circle).map_err(broken)?;
        }
        Ok(())
    })
}
