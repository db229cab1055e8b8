//! The experiment's report as one self-contained page: no script, no font, no image from elsewhere.

use super::super::format::{FOOT, duration, escape, head, interval, or_none, tile};
use super::super::html::{configuration, data, origin};
use super::findings::plural;
use super::forest::{Which, forest};
use super::input::{Experiment, Group};
use super::results::{Estimate, Results};
use super::sections;
use super::tables::{self, Line, Table};
use std::fmt::Write;

/// The whole page.
///
/// # Errors
/// When a chart cannot be drawn.
pub(super) fn page(
    experiment: &Experiment,
    results: &Results,
    findings: &[String],
) -> anyhow::Result<String> {
    let mut out = head(
        &experiment.name,
        "Does the accuracy that subnets inherit from their supernet rank architectures as their stand-alone \
         training would, and which way of training the supernet does it best?",
    );
    out += &tiles(experiment, results);
    let sentences: Vec<String> = findings.iter().map(|s| escape(s)).collect();
    let _ = writeln!(
        out,
        "<section class=\"card findings\">\n<p>{}</p>\n</section>",
        sentences.join(" ")
    );
    out += &paper_tables(experiment, results);
    out += "<h2>Kendall&#39;s tau of every method</h2>\n<figure class=\"card scroll plain\">";
    out += &forest(experiment, results, Which::All)?;
    out += "</figure>\n<h2>Every method</h2>\n";
    out += &table(&tables::all(experiment, results), "full wide");
    for sentence in tables::method_of_intervals(experiment, results) {
        let _ = writeln!(out, "<p class=\"soft\">{}</p>", escape(&sentence));
    }
    out += "<h2>Every supernet</h2>\n";
    out += &table(&tables::every_seed(experiment, results), "full wide");
    out += &comparisons(results);
    out += &sections::scatters(experiment, results)?;
    out += &sections::training(experiment, results)?;
    out += "<h2>Among architectures of similar depth</h2>\n<figure class=\"card scroll plain\">";
    out += &forest(experiment, results, Which::WithinDepth)?;
    out += "</figure>\n";
    out += &table(&tables::within_depth(experiment, results), "full wide");
    let _ = writeln!(
        out,
        "<p class=\"soft\">Concordant minus discordant pairs of architectures within one depth group, over \
         all such pairs (as tau-b). Groups: {}.</p>",
        escape(&tables::depth_legend(results))
    );
    out += &sections::cost(experiment, results);
    out += &sections::truth(experiment, results)?;
    out += &sections::architectures(experiment);
    out += &provenance(experiment, results);
    out += FOOT;
    Ok(out)
}

/// A table as HTML, in a card of this class besides.
fn table(table: &Table, card: &str) -> String {
    let class = |i: usize| if table.text.contains(&i) { " class=\"text\"" } else { "" };
    let mut out = format!("<div class=\"card scroll {card}\"><table>\n<thead><tr>");
    for (i, name) in table.head.iter().enumerate() {
        let _ = write!(out, "<th{}>{}</th>", class(i), escape(name));
    }
    out += "</tr></thead>\n<tbody>\n";
    for line in &table.rows {
        match line {
            Line::Heading(name) => {
                let n = table.head.len();
                let _ =
                    write!(out, "<tr class=\"group\"><td colspan=\"{n}\">{}</td>", escape(name));
            }
            Line::Cells(cells) => {
                out += "<tr>";
                for (i, (value, small)) in cells.iter().enumerate() {
                    let _ = write!(out, "<td{}>{}", class(i), escape(value));
                    if !small.is_empty() {
                        let _ = write!(out, "<small>{}</small>", escape(small));
                    }
                    out += "</td>";
                }
            }
        }
        out += "</tr>\n";
    }
    out + "</tbody></table></div>\n"
}

fn tiles(experiment: &Experiment, results: &Results) -> String {
    let level = 100.0 * results.bootstrap.level;
    let range = |e: &Estimate| format!("{level:.0} % interval {}", interval(e.interval));
    let mut out = String::from("<div class=\"tiles six\">\n");
    let mut add = |name: &str, value: String, more: String| out += &tile(name, &value, &more);
    let defined = results.rows.iter().filter(|row| row.tau.mean.is_some());
    // The first of equals.
    let highest = defined.reduce(|a, b| if b.tau.mean > a.tau.mean { b } else { a });
    if let Some(row) = highest {
        add(&format!("highest tau: {}", row.name), or_none(row.tau.mean, 3), range(&row.tau));
    }
    if let Some(best) = results.best() {
        add(
            &format!("best without training: {}", best.name),
            or_none(best.tau.mean, 3),
            range(&best.tau),
        );
    }
    let truth = &results.truth;
    if let Some(tau) = truth.between_replicates.mean_tau {
        let more = format!("{level:.0} % interval {}", interval(truth.between_replicates.interval));
        add("noise ceiling, tau", format!("{tau:.3}"), more);
    }
    let trainings = plural(truth.reliability.n_replicates, "stand-alone training");
    add("architectures", truth.n_architectures.to_string(), format!("{trainings} each"));
    let n = results.rows.iter().map(|row| row.seeds.len()).sum::<usize>();
    let planned = results.rows.len() * results.n_planned_seeds;
    add(
        "supernets",
        n.to_string(),
        format!("of {planned} planned, {}", plural(results.rows.len(), "method")),
    );
    add("time", duration(experiment.seconds), format!("{} threads", experiment.versions.threads));
    out + "</div>\n"
}

fn paper_tables(experiment: &Experiment, results: &Results) -> String {
    let mut out = String::new();
    for (group, title) in [
        (Group::Table1, "Table 1: with and without contrastive learning"),
        (Group::Table2, "Table 2: samplers"),
    ] {
        if let Some(found) = tables::paper(experiment, results, group) {
            let _ = writeln!(out, "<div><h3>{title}</h3>{}</div>", table(&found, "full wide"));
        }
    }
    if out.is_empty() {
        return out;
    }
    format!(
        "<h2>The paper&#39;s tables</h2>\n<div class=\"charts\">\n{out}</div>\n<p class=\"soft\">The paper&#39;s \
         numbers are on ImageNet and on its own architectures; those here are on {}, {} classes. Values \
         compare within a column only. Small print: the interval.</p>\n",
        escape(&origins(experiment)),
        experiment.classes
    )
}

/// Where the images came from, each origin once.
pub(super) fn origins(experiment: &Experiment) -> String {
    let mut origins: Vec<&str> = experiment.data.iter().map(|d| d.origin.as_str()).collect();
    origins.dedup();
    origins.join(" and ")
}

fn comparisons(results: &Results) -> String {
    let mut out = String::new();
    let mut section = |title: &str, table_of: Table| {
        if !table_of.rows.is_empty() {
            let _ = write!(out, "<h2>{title}</h2>\n{}", table(&table_of, ""));
        }
    };
    section("Planned comparisons", tables::comparisons(results.comparisons.iter()));
    section(
        "The paper&#39;s order, pair by pair",
        tables::comparisons(results.paper_order.iter().map(|p| &p.comparison)),
    );
    section(
        "Every method against the best quantity that needs no training",
        tables::comparisons(results.against_best_baseline.iter()),
    );
    out
}

fn provenance(experiment: &Experiment, results: &Results) -> String {
    let mut out = String::new();
    if !experiment.notes.is_empty() {
        out += "<h2>Notes</h2>\n<ul>\n";
        for note in &experiment.notes {
            let _ = writeln!(out, "<li>{}</li>", escape(note));
        }
        out += "</ul>\n";
    }
    out += &data(&experiment.data);
    let more = [
        ("space", experiment.space.clone()),
        ("budget", experiment.budget.clone()),
        ("time", duration(experiment.seconds)),
    ];
    out += &origin(&experiment.versions, &experiment.command, &seeds(experiment, results), &more);
    out + &configuration(&experiment.config_toml)
}

/// Every seed in words.
pub(super) fn seeds(experiment: &Experiment, results: &Results) -> String {
    let supernets: Vec<String> = experiment.supernet_seeds.iter().map(u64::to_string).collect();
    let mut seeds = vec![format!("supernets {}", supernets.join(" "))];
    seeds.extend(experiment.seeds.iter().map(|s| format!("{} {}", s.purpose, s.seed)));
    seeds.push(format!("bootstrap {}", results.bootstrap.seed));
    seeds.join(", ")
}
