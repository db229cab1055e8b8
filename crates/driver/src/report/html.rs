//! The report as one self-contained page: no script, no font, no image from elsewhere.

use super::depth::{DepthGroup, depth_groups};
use super::findings::findings;
use super::format::{
    FOOT, NONE, count, definitions, duration, escape, head, interval, legend, or_none, tile,
};
use super::{Curve, DataSource, Ranking, Report, Subnet, Versions, plots};
use slimtau_ranking::Interval;
use std::fmt::Write;

/// The whole page.
///
/// # Errors
/// When a chart cannot be drawn.
pub(super) fn page(report: &Report) -> anyhow::Result<String> {
    let mut out = head(
        &report.title,
        "Does the accuracy a subnet inherits from its supernet rank architectures as their stand-alone \
         training would?",
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
    out += FOOT;
    Ok(out)
}

/// The best of `rankings` by tau.
fn best(rankings: &[Ranking]) -> Option<(&Ranking, f64)> {
    let defined = rankings.iter().filter_map(|r| Some((r, r.correlations.kendall_tau?)));
    defined.max_by(|a, b| a.1.total_cmp(&b.1))
}

fn tiles(report: &Report) -> String {
    let mut out = String::from("<div class=\"tiles\">\n");
    let mut tile = |name: &str, value: String, more: String| out += &tile(name, &value, &more);
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

fn scatters(report: &Report) -> anyhow::Result<String> {
    let mut out = String::new();
    if report.subnets.is_empty() || report.methods.is_empty() {
        return Ok(out);
    }
    out += "<h2>Inherited against stand-alone accuracy</h2>\n<div class=\"charts\">\n";
    let groups = depth_groups(report.subnets.iter().map(|s| s.depth));
    let labels: Vec<String> = groups.iter().map(DepthGroup::label).collect();
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
    out += &data(&report.data);
    let seeds: Vec<String> =
        report.seeds.iter().map(|s| format!("{} {}", s.purpose, s.seed)).collect();
    out += &origin(&report.versions, &report.command, &seeds.join(", "), &[]);
    out += &configuration(&report.config_toml);
    out
}

/// Where the images came from.
pub(super) fn data(sources: &[DataSource]) -> String {
    let row = |source: &DataSource| {
        let checksum =
            source.checksum.as_ref().map_or(String::new(), |c| format!(", checksum {c}"));
        let images = format!("{} images from {}{checksum}", source.n_images, source.origin);
        (source.name.clone(), images)
    };
    definitions("Data", &sources.iter().map(row).collect::<Vec<_>>())
}

/// The program, the machine and the command, and what else is worth a line there.
pub(super) fn origin(
    versions: &Versions,
    command: &[String],
    seeds: &str,
    more: &[(&str, String)],
) -> String {
    let rows = [
        ("slimtau", versions.slimtau.clone()),
        ("commit", versions.git_commit.clone().unwrap_or_else(|| "unknown".to_owned())),
        ("compiler", versions.rustc.clone()),
        ("machine", format!("{}, {} threads", versions.cpu, versions.threads)),
        ("system", versions.system.clone()),
        ("command", command.join(" ")),
        ("seeds", seeds.to_owned()),
    ];
    let rows = rows.iter().chain(more).map(|(name, value)| ((*name).to_owned(), value.clone()));
    definitions("Provenance", &rows.collect::<Vec<_>>())
}

/// The configuration as it is.
pub(super) fn configuration(toml: &str) -> String {
    format!("<h2>Configuration</h2>\n<pre>{}</pre>\n", escape(toml))
}
