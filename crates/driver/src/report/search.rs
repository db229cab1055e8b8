//! The page of a search: everything that was looked at, and the front.

use super::format::{FOOT, NONE, count, definitions, escape, head};
use super::plots::{LINES, axes, broken, padded, series_colour, svg};
use plotters::prelude::*;
use slimtau_base::write_atomic;
use std::fmt::Write;
use std::path::Path;

/// A subnet that a search looked at.
pub struct Found {
    pub code: String,
    pub depth: usize,
    pub params: u64,
    pub macs: u64,
    pub latency_ms: Option<f64>,
    /// What was to be small, in the report's unit.
    pub cost: f64,
    /// Top-1 on the search's images, percent.
    pub accuracy: f64,
    /// Of the front: on images that the search has not seen.
    pub accuracy_on_other_images: Option<f64>,
    /// 0 for the largest, the smallest and random draws.
    pub generation: usize,
    pub on_front: bool,
}

/// A search and its result, in the order of cost.
pub struct SearchReport {
    pub space: String,
    /// With its unit.
    pub cost_name: String,
    pub found: Vec<Found>,
    /// Images of the search.
    pub images: usize,
    /// What made it: names and values.
    pub settings: Vec<(String, String)>,
}

impl SearchReport {
    fn front(&self) -> impl Iterator<Item = &Found> {
        self.found.iter().filter(|found| found.on_front)
    }

    /// What the search came to, in a sentence or two.
    pub fn summary(&self) -> String {
        let front: Vec<&Found> = self.front().collect();
        let first = front.iter().filter(|f| f.generation == 0).count();
        let mut text = format!(
            "{} of {} subnets are on the front, {first} of them of the first generation, before any selection.",
            front.len(),
            self.found.len()
        );
        let losses: Vec<f64> =
            front.iter().filter_map(|f| Some(f.accuracy - f.accuracy_on_other_images?)).collect();
        if !losses.is_empty() {
            let mean = losses.iter().sum::<f64>() / losses.len() as f64;
            let _ = write!(
                text,
                " On images that the search has not seen they are {:.2} points {} on average.",
                mean.abs(),
                if mean >= 0.0 { "worse" } else { "better" }
            );
        }
        text
    }

    /// The front as lines for a terminal.
    pub fn front_as_text(&self) -> String {
        let mut out = String::from("params macs latency_ms accuracy on_other_images code\n");
        for found in self.front() {
            let time = found.latency_ms.map_or("-".to_owned(), |t| format!("{t:.3}"));
            let other =
                found.accuracy_on_other_images.map_or("-".to_owned(), |a| format!("{a:.2}"));
            let Found { params, macs, accuracy, code, .. } = found;
            let _ = writeln!(out, "{params} {macs} {time} {accuracy:.2} {other} {code}");
        }
        out
    }

    /// Writes the page.
    ///
    /// # Errors
    /// When the chart cannot be drawn or the file not written.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let page = self.page()?;
        Ok(write_atomic(path, |out| out.write_all(page.as_bytes()))?)
    }

    fn page(&self) -> anyhow::Result<String> {
        let mut out = head(
            &format!("Search in {}", self.space),
            "Which subnets of the supernet are best at their cost?",
        );
        let _ = writeln!(
            out,
            "<section class=\"card findings\">\n<p>{} Accuracies are inherited, on {} images; they say which subnets are \
             worth training, not how good these will be.</p>\n</section>",
            escape(&self.summary()),
            self.images
        );
        let _ = writeln!(
            out,
            "<figure class=\"card plain\">{}<figcaption>Every subnet that was evaluated: the first generation (the \
             largest, the smallest, random draws) in orange, later ones in blue. The line is the front.</figcaption></figure>",
            self.plot()?
        );
        out += "<h2>The front</h2>\n<div class=\"card scroll full\"><table>\n<thead><tr><th>code</th><th>depth</th>\
                <th>parameters</th><th>MACs</th><th>time, ms</th><th>accuracy, %</th><th>on other images, %</th>\
                <th>generation</th></tr></thead>\n<tbody>\n";
        for f in self.front() {
            let _ = writeln!(
                out,
                "<tr><td><code>{}</code></td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{:.2}</td><td>{}</td>\
                 <td>{}</td></tr>",
                escape(&f.code),
                f.depth,
                count(f.params),
                count(f.macs),
                f.latency_ms.map_or(NONE.to_owned(), |t| format!("{t:.3}")),
                f.accuracy,
                f.accuracy_on_other_images.map_or(NONE.to_owned(), |a| format!("{a:.2}")),
                f.generation
            );
        }
        out += "</tbody></table></div>\n";
        out += &definitions("How it was made", &self.settings);
        out += FOOT;
        Ok(out)
    }

    fn plot(&self) -> anyhow::Result<String> {
        let names = (self.cost_name.as_str(), "inherited accuracy, %");
        svg((960, 480), "scatter", "inherited accuracy against cost", |area| {
            let x = padded(self.found.iter().map(|f| f.cost));
            let y = padded(self.found.iter().map(|f| f.accuracy));
            let mut chart = axes(area, x, y, names, (8, 6))?;
            // The first generation on top: it is one of many.
            for first in [false, true] {
                let style = series_colour(usize::from(first)).mix(0.55).filled();
                let of = self.found.iter().filter(|f| (f.generation == 0) == first);
                let circles = of.map(|f| Circle::new((f.cost, f.accuracy), 3, style));
                chart.draw_series(circles).map_err(broken)?;
            }
            let line = self.front().map(|f| (f.cost, f.accuracy));
            let style = LINES.mix(0.8).stroke_width(2);
            chart.draw_series(LineSeries::new(line, style)).map_err(broken)?;
            Ok(())
        })
    }
}
