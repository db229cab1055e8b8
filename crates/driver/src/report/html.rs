//! The report as one self-contained page: no script, no font, no image from elsewhere.

use super::findings::findings;
use super::{Curve, Ranking, Report, Subnet, plots};
use slimtau_ranking::Interval;
use std::fmt::Write;

const STYLE: &str = include_str!("style.css");

/// The whole page.
///
/// # Errors
/// When a chart cannot be drawn.
pub(super) fn page(report: &Report) -> anyhow::Result<String> {
    let title = escape(&report.title);
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n\
         <p class=\"soft\">Does the accuracy a subnet inherits from its supernet rank architectures as \
         their stand-alone training would?</p>\n"
    );
    out += &tiles(report);
    out += "<section class=\"card findings\">\n";
    let sentences: Vec<String> = findings(report).iter().map(|s| escape(s)).collect();
    let _ = writeln!(out, "<p>{}</p>\n</section>", sentences.join(" "));
    out += &rankings(report)?;
    out += &scatters(report)?;
    out += &subnets(report);
    out += &all_curves(report)?;
    out += &timings(report);
    out += &provenance(report);
    out += "</main>\n</body>\n</html>\n";
    Ok(out)
}

/// `text` with everything that means something to HTML replaced.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            c => out.push(c),
        }
    }
    out
}

const NONE: &str = "–";

fn or_none(value: Option<f64>, decimals: usize) -> String {
    value.map_or(NONE.to_owned(), |v| format!("{v:.decimals$}"))
}

/// 1234567 as `1.23 M`.
fn count(value: u64) -> String {
    let v = value as f64;
    match v {
        v if v >= 1e9 => format!("{:.2} G", v / 1e9),
        v if v >= 1e6 => format!("{:.2} M", v / 1e6),
        v if v >= 1e4 => format!("{:.1} k", v / 1e3),
        _ => value.to_string(),
    }
}

/// Seconds in the units people read.
fn duration(seconds: f64) -> String {
    match seconds {
        s if !s.is_finite() || s < 0.0 => NONE.to_owned(),
        s if s < 9.95 => format!("{s:.1} s"),
        s if s < 59.5 => format!("{s:.0} s"),
        s => {
            let total = s.round() as u64;
            let (hours, minutes, seconds) = (total / 3600, total / 60 % 60, total % 60);
            if hours > 0 {
                format!("{hours} h {minutes:02} min")
            } else {
                format!("{minutes} min {seconds:02} s")
            }
        }
    }
}

fn interval(value: Option<Interval>) -> String {
    value.map_or(NONE.to_owned(), |i| format!("{:.3} to {:.3}", i.low, i.high))
}

/// The best of `rankings` by tau.
fn best(rankings: &[Ranking]) -> Option<(&Ranking, f64)> {
    let defined = rankings.iter().filter_map(|r| Some((r, r.correlations.kendall_tau?)));
    defined.max_by(|a, b| a.1.total_cmp(&b.1))
}

fn tiles(report: &Report) -> String {
    let mut out = String::from("<div class=\"tiles\">\n");
    let mut tile = |name: &str, value: String, more: String| {
        let _ = writeln!(
            out,
            "<div class=\"card tile\"><div class=\"name\">{}</div><div class=\"value\">{value}</div>\
             <div class=\"more\">{}</div></div>",
            escape(name),
            escape(&more)
        );
    };
    if let Some(method) = report.methods.first() {
        let range = interval(method.intervals.kendall_tau);
        let level = 100.0 * method.intervals.bootstrap.level;
        let name = format!("Kendall tau, {}", method.name);
        let tau = or_none(method.correlations.kendall_tau, 3);
        tile(&name, tau, format!("{level:.0} % interval {range}"));
    }
    if let Some((baseline, tau)) = best(&report.baselines) {
        tile("best baseline without training", format!("{tau:.3}"), baseline.name.clone());
    }
    if let Some(ceiling) = report.noise_ceiling {
        let more = format!("mean over {} stand-alone seeds", ceiling.n_replicates);
        tile("noise ceiling, tau", or_none(ceiling.mean_tau, 3), more);
    }
    let n = report.subnets.len();
    let n_seeds = report.subnets.iter().map(|s| s.stand_alone.len()).max().unwrap_or(0);
    let seeds = if n_seeds == 1 { "seed" } else { "seeds" };
    tile("architectures", n.to_string(), format!("{n_seeds} stand-alone {seeds} each"));
    let total = report.timings.iter().map(|t| t.seconds).sum::<f64>();
    tile("time", duration(total), format!("{} threads", report.versions.threads));
    out + "</div>\n"
}

fn rankings(report: &Report) -> anyhow::Result<String> {
    let ceiling = report.noise_ceiling.and_then(|c| c.mean_tau);
    let mut out = String::from(
        "<h2>How well each quantity ranks</h2>\n<div class=\"card scroll\"><table>\n<thead><tr>\
         <th>ranked by</th><th>n</th><th>Kendall tau</th><th class=\"text\">-1 &#8230; 0 &#8230; 1</th>\
         <th>Spearman</th><th>Pearson</th><th>top-k precision</th><th>regret, points</th>\
         </tr></thead>\n<tbody>\n",
    );
    for (group, rows) in [
        ("inherited accuracy", &report.methods),
        ("baselines that need no training", &report.baselines),
    ] {
        if rows.is_empty() {
            continue;
        }
        let _ = writeln!(out, "<tr class=\"group\"><td colspan=\"8\">{group}</td></tr>");
        for row in rows {
            let cell = |value: Option<f64>, range: Option<Interval>| {
                format!("<td>{}<small>{}</small></td>", or_none(value, 3), interval(range))
            };
            let (c, i) = (&row.correlations, &row.intervals);
            let top = row.top_k.map_or(NONE.to_owned(), |top| {
                format!("{:.0} %<small>k = {}</small>", 100.0 * top.precision, top.k)
            });
            let _ = writeln!(
                out,
                "<tr><td>{}</td><td>{}</td>{}<td class=\"text\">{}</td>{}{}<td>{top}</td><td>{}</td></tr>",
                escape(&row.name),
                c.n,
                cell(c.kendall_tau, i.kendall_tau),
                plots::whisker(row, ceiling)?,
                cell(c.spearman, i.spearman),
                cell(c.pearson, i.pearson),
                or_none(row.regret, 2)
            );
        }
    }
    out += "</tbody></table></div>\n";
    let levels = report.methods.iter().chain(&report.baselines).map(|r| r.intervals.bootstrap);
    if let Some(b) = levels.into_iter().next() {
        let _ = writeln!(
            out,
            "<p class=\"soft\">Small print and bars: {:.0} % percentile intervals from {} bootstrap \
             resamples of the architectures (seed {}). Tau is tau-b.{} Regret: how far the architecture \
             ranked first lies below the best.</p>",
            100.0 * b.level,
            b.resamples,
            b.seed,
            if ceiling.is_some() { " Dashed: the noise ceiling." } else { "" }
        );
    }
    out += &comparisons(report);
    Ok(out)
}

fn comparisons(report: &Report) -> String {
    if report.comparisons.is_empty() {
        return String::new();
    }
    let mut out = String::from(
        "<h2>Paired comparisons</h2>\n<div class=\"card scroll\"><table>\n<thead><tr><th>tau of</th>\
         <th class=\"text\">minus tau of</th><th>difference</th><th>interval</th><th>p</th>\
         <th>p, Holm</th><th>seeds</th><th>architectures</th></tr></thead>\n<tbody>\n",
    );
    for comparison in &report.comparisons {
        let d = &comparison.difference;
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td class=\"text\">{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>\
             <td>{}</td><td>{}</td></tr>",
            escape(&comparison.a),
            escape(&comparison.b),
            or_none(d.difference, 3),
            interval(d.interval),
            or_none(d.p_value, 3),
            or_none(comparison.adjusted_p_value, 3),
            d.n_seeds,
            d.n_architectures
        );
    }
    out + "</tbody></table></div>\n"
}

/// Coloured dots with their meaning; `variable` is the style sheet's, without its number.
fn legend(variable: char, labels: &[String]) -> String {
    let entry = |(i, label): (usize, &String)| {
        let label = escape(label);
        format!("<span><i style=\"background:var(--{variable}{i})\"></i>{label}</span>")
    };
    let entries: String = labels.iter().enumerate().map(entry).collect();
    format!("<div class=\"legend\">{entries}</div>\n")
}

fn scatters(report: &Report) -> anyhow::Result<String> {
    let mut out = String::new();
    if report.subnets.is_empty() || report.methods.is_empty() {
        return Ok(out);
    }
    out += "<h2>Inherited against stand-alone accuracy</h2>\n<div class=\"charts\">\n";
    let groups = plots::depth_groups(&report.subnets);
    let labels: Vec<String> = groups.iter().map(plots::DepthGroup::label).collect();
    for (method_idx, method) in report.methods.iter().enumerate() {
        let _ = writeln!(
            out,
            "<figure class=\"card\"><h3>{}</h3>{}{}</figure>",
            escape(&method.name),
            legend('d', &labels),
            plots::scatter(report, method_idx)?
        );
    }
    out += "</div>\n";
    if report.subnets.iter().any(|s| s.stand_alone.len() > 1) {
        out += "<p class=\"soft\">Bars: one standard deviation over stand-alone seeds either way.</p>\n";
    }
    Ok(out)
}

fn subnets(report: &Report) -> String {
    if report.subnets.is_empty() {
        return String::new();
    }
    let mut rows: Vec<&Subnet> = report.subnets.iter().collect();
    let key = |s: &Subnet| s.stand_alone_mean().unwrap_or(f64::NEG_INFINITY);
    rows.sort_by(|a, b| key(b).total_cmp(&key(a)));
    let mut out = String::from(
        "<h2>Every architecture, best first</h2>\n<div class=\"card scroll\"><table>\n<thead><tr>\
         <th>code</th><th>blocks</th><th>parameters</th><th>MACs</th>",
    );
    for method in &report.methods {
        let _ = write!(out, "<th>inherited, {}, %</th>", escape(&method.name));
    }
    out += "<th>stand-alone, %</th><th>its std</th><th>seeds</th></tr></thead>\n<tbody>\n";
    for subnet in rows {
        let _ = write!(
            out,
            "<tr><td><code>{}</code></td><td>{}</td><td>{}</td><td>{}</td>",
            escape(&subnet.code),
            subnet.depth,
            count(subnet.params),
            count(subnet.macs)
        );
        for method_idx in 0..report.methods.len() {
            let inherited = subnet.inherited.get(method_idx).copied();
            let _ = write!(out, "<td>{}</td>", or_none(inherited, 2));
        }
        let _ = writeln!(
            out,
            "<td>{}</td><td>{}</td><td>{}</td></tr>",
            or_none(subnet.stand_alone_mean(), 2),
            or_none(subnet.stand_alone_std(), 2),
            subnet.stand_alone.len()
        );
    }
    out + "</tbody></table></div>\n"
}

fn all_curves(report: &Report) -> anyhow::Result<String> {
    let mut stages: Vec<(&str, Vec<&Curve>)> = Vec::new();
    for curve in report.curves.iter().filter(|c| !c.points.is_empty()) {
        match stages.iter_mut().find(|(stage, _)| *stage == curve.stage) {
            Some((_, curves)) => curves.push(curve),
            None => stages.push((&curve.stage, vec![curve])),
        }
    }
    if stages.is_empty() {
        return Ok(String::new());
    }
    let mut out = String::from("<h2>Training</h2>\n<div class=\"charts\">\n");
    for (stage, curves) in &stages {
        let labels: Vec<String> = curves.iter().map(|c| c.label.clone()).collect();
        let legend = match labels.len() {
            1 => format!("<div class=\"legend\">{}</div>\n", escape(&labels[0])),
            n if n <= plots::N_SERIES => legend('s', &labels),
            n => format!("<div class=\"legend\">{n} runs</div>\n"),
        };
        let stopped = curves.iter().flat_map(|c| &c.points).filter(|p| p.loss.is_none()).count();
        let caption = match stopped {
            0 => String::new(),
            n => format!(
                "<figcaption>Logged steps with a loss that was not finite: {n}.</figcaption>"
            ),
        };
        let _ = writeln!(
            out,
            "<figure class=\"card\"><h3>{}</h3>{legend}{}{caption}</figure>",
            escape(stage),
            plots::curves(stage, curves)?
        );
    }
    Ok(out + "</div>\n")
}

fn timings(report: &Report) -> String {
    let total = report.timings.iter().map(|t| t.seconds).sum::<f64>();
    if report.timings.is_empty() {
        return String::new();
    }
    let mut out = String::from(
        "<h2>Time</h2>\n<div class=\"card scroll\"><table>\n<thead><tr><th>stage</th><th>time</th>\
         <th class=\"text\">share</th><th class=\"text\">work</th></tr></thead>\n<tbody>\n",
    );
    for timing in &report.timings {
        let share = if total > 0.0 { timing.seconds / total } else { 0.0 };
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td>{}</td><td class=\"text\"><span class=\"bar\" style=\"width:{:.0}px\">\
             </span> {:.0} %</td><td class=\"text\">{}</td></tr>",
            escape(&timing.stage),
            duration(timing.seconds),
            180.0 * share,
            100.0 * share,
            escape(&timing.work)
        );
    }
    out + "</tbody></table></div>\n"
}

/// What is needed to find all this again.
fn provenance(report: &Report) -> String {
    let mut out = String::new();
    if !report.notes.is_empty() {
        out += "<h2>Notes</h2>\n<ul>\n";
        for note in &report.notes {
            let _ = writeln!(out, "<li>{}</li>", escape(note));
        }
        out += "</ul>\n";
    }
    let mut list = |title: &str, rows: &[(String, String)]| {
        let _ = writeln!(out, "<h2>{title}</h2>\n<dl class=\"card\">");
        for (name, value) in rows {
            let _ = writeln!(out, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(value));
        }
        out += "</dl>\n";
    };
    let sources = report.data.iter().map(|source| {
        let checksum =
            source.checksum.as_ref().map_or(String::new(), |c| format!(", checksum {c}"));
        let images = format!("{} images from {}{checksum}", source.n_images, source.origin);
        (source.name.clone(), images)
    });
    list("Data", &sources.collect::<Vec<_>>());
    let versions = &report.versions;
    let seeds: Vec<String> =
        report.seeds.iter().map(|s| format!("{} {}", s.purpose, s.seed)).collect();
    let rows = [
        ("slimtau", versions.slimtau.clone()),
        ("commit", versions.git_commit.clone().unwrap_or_else(|| "unknown".to_owned())),
        ("compiler", versions.rustc.clone()),
        ("machine", format!("{}, {} threads", versions.cpu, versions.threads)),
        ("system", versions.system.clone()),
        ("command", report.command.join(" ")),
        ("seeds", seeds.join(", ")),
    ];
    list("Provenance", &rows.map(|(name, value)| (name.to_owned(), value)));
    let config = escape(&report.config_toml);
    let _ = writeln!(out, "<h2>Configuration</h2>\n<pre>{config}</pre>");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_people_read_them() {
        let check = |found: String, expect: &str| assert_eq!(found, expect);
        check(count(999), "999");
        check(count(12_345), "12.3 k");
        check(count(34_040_000), "34.04 M");
        check(count(5_280_000_000), "5.28 G");
        check(duration(0.25), "0.2 s");
        check(duration(42.4), "42 s");
        check(duration(59.7), "1 min 00 s");
        check(duration(3_725.0), "1 h 02 min");
        check(duration(f64::NAN), NONE);
        check(escape("<a href=\"x\">&'"), "&lt;a href=&quot;x&quot;&gt;&amp;&#39;");
    }
}
