//! The report's charts as inline SVG. Colours are stand-ins that the style sheet maps to the light or
//! the dark palette; legends are HTML beside the chart.

use super::{Curve, Ranking, Report, Subnet};
use anyhow::anyhow;
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use std::fmt::Display;
use std::ops::Range;

/// Text, mapped to the page's soft ink.
const TEXT: RGBColor = RGBColor(1, 1, 1);
/// Axes and grid, mapped to the page's ink; drawn translucent.
const LINES: RGBColor = RGBColor(2, 2, 2);
/// How many colours the style sheet has for series and for depth groups.
pub(super) const N_SERIES: usize = 6;
const N_DEPTHS: usize = 4;
/// A curve is drawn with at most this many points, each the mean of its share.
const N_DRAWN: usize = 300;

fn series_colour(index: usize) -> RGBColor {
    RGBColor(16, 0, (index % N_SERIES) as u8)
}

fn depth_colour(group: usize) -> RGBColor {
    RGBColor(32, 0, group.min(N_DEPTHS - 1) as u8)
}

/// Draws on a fresh canvas and returns the SVG element, fit for embedding.
fn svg(
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
    let label = super::html::escape(label);
    Ok(format!("<svg class=\"{class}\" role=\"img\" aria-label=\"{label}\" {body}"))
}

fn broken(error: impl Display) -> anyhow::Error {
    anyhow!("cannot draw a chart: {error}")
}

/// The range of the finite `values` with a margin; never empty.
fn padded(values: impl Iterator<Item = f64>) -> Range<f64> {
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
fn axes<'a, 'b>(
    area: &'a DrawingArea<SVGBackend<'b>, Shift>,
    x: Range<f64>,
    y: Range<f64>,
    (x_name, y_name): (&str, &str),
    (n_x, n_y): (usize, usize),
) -> anyhow::Result<Chart<'a, 'b>> {
    let mut chart = ChartBuilder::on(area)
        .margin(8)
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

/// Ticks with as many decimals as the range needs.
fn tick_format(range: &Range<f64>) -> impl Fn(&f64) -> String + use<> {
    let span = range.end - range.start;
    let decimals = if span > 0.0 { (1.0 - span.log10().floor()).clamp(0.0, 7.0) } else { 1.0 };
    let decimals = decimals as usize - usize::from(decimals >= 1.0 && span >= 2.0 * 10_f64.powf(1.0 - decimals));
    let tiny = span > 0.0 && range.end.abs().max(range.start.abs()) < 1e-2;
    move |v| match (tiny, *v) {
        (_, v) if v.abs() < 1e-12 => "0".to_owned(),
        (true, v) => format!("{v:.1e}"),
        (false, v) if v.abs() >= 1e4 => format!("{:.0}k", v / 1e3),
        (false, v) => format!("{v:.decimals$}"),
    }
}

/// A group of architectures of similar depth: its smallest and largest number of blocks.
pub(super) struct DepthGroup {
    low: usize,
    high: usize,
}

impl DepthGroup {
    pub(super) fn label(&self) -> String {
        match (self.low, self.high) {
            (low, high) if low == high => format!("{low} blocks"),
            (low, high) => format!("{low} to {high} blocks"),
        }
    }
}

/// At most four groups of about equally many architectures, shallow first; equal depths stay together.
pub(super) fn depth_groups(subnets: &[Subnet]) -> Vec<DepthGroup> {
    let mut depths: Vec<usize> = subnets.iter().map(|s| s.depth).collect();
    depths.sort_unstable();
    let n_groups = N_DEPTHS.min(depths.len());
    let mut groups: Vec<DepthGroup> = Vec::new();
    for (i, &depth) in depths.iter().enumerate() {
        let wanted = i * n_groups / depths.len() + 1;
        match groups.last_mut() {
            Some(last) if depth == last.high => {}
            Some(last) if groups_full(wanted, last, depth) => last.high = depth,
            _ => groups.push(DepthGroup { low: depth, high: depth }),
        }
    }
    groups
}
