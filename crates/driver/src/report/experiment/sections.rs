//! The page's longer sections: scatter plots, training curves, cost, the truth, every architecture.

use super::super::depth::DepthGroup;
use super::super::format::{NONE, count, duration, escape, interval, legend, or_none};
use super::input::{Architecture, Experiment, Seconds};
use super::plots;
use super::results::Results;
use std::fmt::Write;

/// Inherited against stand-alone accuracy of every row.
pub(super) fn scatters(experiment: &Experiment, results: &Results) -> anyhow::Result<String> {
    let labels: Vec<String> = depth_labels(results);
    let mut out = format!(
        "<h2>Inherited against stand-alone accuracy</h2>\n{}<div class=\"multiples\">\n",
        legend('d', &labels)
    );
    let mut drawn = 0;
    for row in &experiment.rows {
        if let Some(svg) = plots::scatter(experiment, row)? {
            let _ = writeln!(
                out,
                "<figure class=\"card\"><h3>{}</h3>{svg}</figure>",
                escape(&row.name)
            );
            drawn += 1;
        }
    }
    if drawn == 0 {
        return Ok(String::new());
    }
    out += "</div>\n<p class=\"soft\">One point per architecture: inherited accuracy, mean over supernet \
            seeds, against mean stand-alone accuracy. The shades run from shallow to deep.</p>\n";
    Ok(out)
}

fn depth_labels(results: &Results) -> Vec<String> {
    results.depth_groups.iter().map(|g| DepthGroup::label(&g.depths)).collect()
}

/// Tau over stage 2 of every row that has checkpoints.
pub(super) fn training(experiment: &Experiment, results: &Results) -> anyhow::Result<String> {
    let Some((x, y)) = plots::training_ranges(results) else { return Ok(String::new()) };
    let ceiling = results.truth.between_replicates.mean_tau;
    let mut out = String::from("<h2>Tau over training</h2>\n<div class=\"multiples\">\n");
    for (row, score) in experiment.rows.iter().zip(&results.rows) {
        if let Some(svg) = plots::training(score, x.clone(), y.clone(), ceiling)? {
            let _ = writeln!(
                out,
                "<figure class=\"card\"><h3>{}</h3>{svg}</figure>",
                escape(&row.name)
            );
        }
    }
    out += "</div>\n<p class=\"soft\">Thick: mean over supernet seeds, where all have a value; thin: single \
            seeds. All charts share their axes.";
    if ceiling.is_some_and(|c| y.contains(&c)) {
        out += " Dashed: the noise ceiling.";
    }
    Ok(out + "</p>\n")
}

/// Seconds by stage of every row, mean over seeds.
pub(super) fn cost(experiment: &Experiment, results: &Results) -> String {
    let rows = experiment.rows.iter().zip(&results.rows);
    let rows: Vec<_> =
        rows.filter_map(|(row, score)| Some((row, score.seconds?, score.images?))).collect();
    if rows.is_empty() {
        return String::new();
    }
    let total = |s: &Seconds| s.stages().iter().map(|(_, v)| v).sum::<f64>();
    let longest = rows.iter().map(|(_, s, _)| total(s)).fold(0.0, f64::max).max(1e-9);
    let names = Seconds::default().stages().map(|(name, _)| name.to_owned());
    let mut out = format!(
        "<h2>Cost</h2>\n{}<div class=\"card scroll full wide\"><table>\n<thead><tr><th>method</th>\
         <th class=\"text\">time, mean over seeds</th><th>together</th>",
        legend('s', &names)
    );
    for name in &names {
        let _ = write!(out, "<th>{name}</th>");
    }
    out += "<th>images in stage 2</th></tr></thead>\n<tbody>\n";
    for (row, seconds, images) in rows {
        let _ = write!(out, "<tr><td>{}</td><td class=\"text bars\">", escape(&row.name));
        for (i, (_, value)) in seconds.stages().iter().enumerate().filter(|(_, (_, v))| *v > 0.0) {
            let width = 220.0 * value / longest;
            let _ = write!(out, "<i style=\"width:{width:.1}px;background:var(--s{i})\"></i>");
        }
        let _ = write!(out, "</td><td>{}</td>", duration(total(&seconds)));
        for (_, value) in seconds.stages() {
            let time = if value > 0.0 { duration(value) } else { NONE.to_owned() };
            let _ = write!(out, "<td>{time}</td>");
        }
        let _ = writeln!(out, "<td>{}</td></tr>", count(images.round() as u64));
    }
    out + "</tbody></table></div>\n"
}

/// The truth's distribution.
pub(super) fn truth(experiment: &Experiment, results: &Results) -> anyhow::Result<String> {
    let truth = &results.truth;
    let [low, median, high] = truth.percentiles;
    let reliability = &truth.reliability;
    let mut text = format!(
        "5th, 50th and 95th percentile: {low:.2}, {median:.2} and {high:.2} %, {:.2} points from the first to \
         the last (dashed).",
        truth.spread
    );
    if reliability.n_replicates > 1 {
        let _ = write!(
            text,
            " Bars: one standard deviation over {} trainings either way. Standard deviation of one training: \
             {} points. Intraclass correlation: {} of a single training, {} of the mean.",
            reliability.n_replicates,
            or_none(reliability.noise, 2),
            or_none(reliability.single, 3),
            or_none(reliability.mean, 3)
        );
        for (what, agreement) in [
            ("between single trainings (the noise ceiling)", &truth.between_replicates),
            ("of one training with the mean of the others", &truth.with_the_rest),
        ] {
            let (tau, ends) = (or_none(agreement.mean_tau, 3), interval(agreement.interval));
            let _ = write!(text, " Tau {what}: {tau} ({ends}).");
        }
    }
    Ok(format!(
        "<h2>The truth: stand-alone accuracy</h2>\n<div class=\"charts\">\n<figure class=\"card\">\
         <h3>Against multiply-accumulates</h3>{}{}</figure>\n<figure class=\"card\"><h3>Distribution</h3>{}\
         </figure>\n</div>\n<p class=\"soft\">{}</p>\n",
        legend('d', &depth_labels(results)),
        plots::truth(experiment, results)?,
        plots::histogram(experiment)?,
        escape(&text)
    ))
}

/// Every architecture, best first.
pub(super) fn architectures(experiment: &Experiment) -> String {
    let mut rows: Vec<(&Architecture, f64, f64)> = experiment
        .architectures
        .iter()
        .map(|arch| {
            let (mean, std) = plots::stand_alone(arch);
            (arch, mean, std)
        })
        .collect();
    rows.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.code.cmp(&b.0.code)));
    let mut out = String::from(
        "<h2>Every architecture, best first</h2>\n<div class=\"card scroll wide\"><table>\n<thead><tr>\
         <th>code</th><th>blocks</th><th>parameters</th><th>MACs</th><th>Phi_M</th><th>Phi_F</th>\
         <th>width sum</th><th>stand-alone, %</th></tr></thead>\n<tbody>\n",
    );
    for (arch, mean, std) in rows {
        let stages: Vec<String> = arch.stage_depths.iter().map(usize::to_string).collect();
        let std = match arch.stand_alone.len() {
            1 => String::new(),
            n => format!("<small>std {std:.2}, n = {n}</small>"),
        };
        let _ = writeln!(
            out,
            "<tr><td><code>{}</code></td><td>{}<small>{}</small></td><td>{}</td><td>{}</td><td>{}</td>\
             <td>{}</td><td>{:.0}</td><td>{mean:.2}{std}</td></tr>",
            escape(&arch.code),
            arch.depth,
            stages.join(" + "),
            count(arch.params),
            count(arch.macs),
            count(arch.phi_m.max(0.0).round() as u64),
            count(arch.phi_f.max(0.0).round() as u64),
            arch.width_sum
        );
    }
    out + "</tbody></table></div>\n"
}
