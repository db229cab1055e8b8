//! `results.md`: the tables and findings as Markdown, for a page of the documentation.

use super::super::format::{duration, interval, or_none};
use super::html::{origins, seeds};
use super::input::{Experiment, Group};
use super::results::Results;
use super::tables::{self, Line, Table};
use std::fmt::Write;

/// Running text is broken before this column.
const WIDTH: usize = 120;

/// The whole file.
pub(super) fn page(experiment: &Experiment, results: &Results, findings: &[String]) -> String {
    let mut out = format!("# {}\n\n", inline(&experiment.name));
    out += &origin(experiment, results);
    out += "## Findings\n\n";
    out += &paragraph(&findings.join(" "));
    for (group, title) in [
        (Group::Table1, "Table 1: with and without contrastive learning"),
        (Group::Table2, "Table 2: samplers"),
    ] {
        if let Some(found) = tables::paper(experiment, results, group) {
            let _ = write!(out, "## {title}\n\n{}", table(&found));
        }
    }
    let _ = write!(out, "## Every method\n\n{}", table(&tables::all(experiment, results)));
    let _ =
        write!(out, "### Every supernet\n\n{}", table(&tables::every_seed(experiment, results)));
    for sentence in tables::method_of_intervals(experiment, results) {
        out += &paragraph(&sentence);
    }
    out += &methods(experiment);
    out += &truth(results);
    let _ = write!(
        out,
        "## Among architectures of similar depth\n\n{}",
        table(&tables::within_depth(experiment, results))
    );
    out += &paragraph(&format!("Groups: {}.", tables::depth_legend(results)));
    let paper = results.paper_order.iter().map(|p| &p.comparison);
    for (title, found) in [
        ("Planned comparisons", tables::comparisons(results.comparisons.iter())),
        ("The paper's order, pair by pair", tables::comparisons(paper)),
        (
            "Every method against the best quantity that needs no training",
            tables::comparisons(results.against_best_baseline.iter()),
        ),
    ] {
        if !found.rows.is_empty() {
            let _ = write!(out, "## {title}\n\n{}", table(&found));
        }
    }
    if !experiment.notes.is_empty() {
        out += "## Notes\n\n";
        for note in &experiment.notes {
            out += &wrapped(&inline(note), "- ", "  ");
        }
    }
    out.trim_end().to_owned() + "\n"
}

/// What was run where, and how long it took.
fn origin(experiment: &Experiment, results: &Results) -> String {
    let versions = &experiment.versions;
    let rows = [
        ("command", format!("`{}`", experiment.command.join(" "))),
        ("commit", versions.git_commit.clone().unwrap_or_else(|| "unknown".to_owned())),
        ("time", duration(experiment.seconds)),
        ("machine", format!("{}, {} threads, {}", versions.cpu, versions.threads, versions.system)),
        ("versions", format!("slimtau {}, {}", versions.slimtau, versions.rustc)),
        ("space", experiment.space.clone()),
        ("images", format!("{}, {} classes", origins(experiment), experiment.classes)),
        ("budget", experiment.budget.clone()),
        ("seeds", seeds(experiment, results)),
    ];
    let mut out = String::new();
    for (name, value) in rows {
        let value = if name == "command" { value.replace('\n', " ") } else { inline(&value) };
        out += &wrapped(&format!("**{name}:** {value}"), "- ", "  ");
    }
    out + "\n"
}

/// One sentence per method.
fn methods(experiment: &Experiment) -> String {
    let mut out = String::from("### What the methods are\n\n");
    for group in Group::ALL {
        for row in experiment.rows.iter().filter(|row| row.group == group) {
            let text = format!("**{}**: {}", inline(&row.name), inline(&row.about));
            out += &wrapped(&text, "- ", "  ");
        }
    }
    out + "\n"
}

fn truth(results: &Results) -> String {
    let truth = &results.truth;
    let [low, median, high] = truth.percentiles;
    let reliability = &truth.reliability;
    let mut rows = vec![
        ("architectures".to_owned(), truth.n_architectures.to_string()),
        ("stand-alone trainings of each".to_owned(), reliability.n_replicates.to_string()),
        (
            "accuracy, 5th / 50th / 95th percentile, %".to_owned(),
            format!("{low:.2} / {median:.2} / {high:.2}"),
        ),
        ("95th minus 5th percentile, points".to_owned(), format!("{:.2}", truth.spread)),
        ("std of one training, points".to_owned(), or_none(reliability.noise, 2)),
        ("reliability (ICC) of a single training".to_owned(), or_none(reliability.single, 3)),
        ("reliability (ICC) of the mean".to_owned(), or_none(reliability.mean, 3)),
    ];
    for (name, agreement) in [
        ("noise ceiling: tau between single trainings", &truth.between_replicates),
        ("tau of one training with the mean of the others", &truth.with_the_rest),
    ] {
        let small = interval(agreement.interval);
        let value = agreement.mean_tau.map_or(or_none(None, 3), |t| format!("{t:.3} ({small})"));
        rows.push((name.to_owned(), value));
    }
    let plain = |text: String| (text, String::new());
    let cells = |(name, value)| Line::Cells(vec![plain(name), plain(value)]);
    let rows = rows.into_iter().map(cells).collect();
    let found = Table { head: vec!["the truth".into(), "value".into()], text: vec![], rows };
    format!("## The truth and its noise\n\n{}", table(&found))
}

/// A table as Markdown, small print in brackets; the sentence under a method's name is left out, it has
/// its own list.
fn table(table: &Table) -> String {
    let mut out = String::from("|");
    for name in &table.head {
        let _ = write!(out, " {} |", cell(name));
    }
    out += "\n|";
    for i in 0..table.head.len() {
        out += if i == 0 || table.text.contains(&i) { " --- |" } else { " ---: |" };
    }
    out.push('\n');
    for line in &table.rows {
        out.push('|');
        match line {
            Line::Heading(name) => {
                let _ = write!(out, " *{}* |{}", cell(name), "  |".repeat(table.head.len() - 1));
            }
            Line::Cells(cells) => {
                for (i, (value, small)) in cells.iter().enumerate() {
                    let small = match small.as_str() {
                        "" => String::new(),
                        _ if i == 0 => String::new(),
                        small => format!(" ({})", cell(small)),
                    };
                    let _ = write!(out, " {}{small} |", cell(value));
                }
            }
        }
        out.push('\n');
    }
    out + "\n"
}

/// Text that stays one cell.
fn cell(text: &str) -> String {
    inline(text).replace('|', "\\|")
}

/// Text in which nothing but itself is meant: no line breaks, no HTML, no emphasis.
fn inline(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' => out.push(' '),
            '<' | '*' | '_' | '`' | '[' | '\\' => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out
}

/// Running text, broken into lines.
fn paragraph(text: &str) -> String {
    wrapped(&inline(text), "", "") + "\n"
}

/// Words in lines below [`WIDTH`], unless a word is longer.
fn wrapped(text: &str, first: &str, next: &str) -> String {
    let (mut out, mut line) = (String::new(), first.to_owned());
    let mut empty = true;
    for word in text.split_whitespace() {
        let length = line.chars().count() + 1 + word.chars().count();
        // A word that Markdown would read as a list at a line's start stays where it is.
        let opens = matches!(word, "-" | "+") || word.starts_with('#');
        if !empty && length > WIDTH && !opens {
            out += &line;
            out.push('\n');
            line = next.to_owned();
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line += word;
        empty = false;
    }
    out + &line + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_broken_and_escaped() {
        let text = wrapped(&"word ".repeat(60), "- ", "  ");
        assert!(text.lines().count() > 2 && text.lines().all(|l| l.chars().count() <= WIDTH));
        assert!(text.starts_with("- word") && text.lines().nth(1).unwrap().starts_with("  word"));
        assert_eq!(cell("a|b\nc <i> Phi_M *"), "a\\|b c \\<i> Phi\\_M \\*");
    }
}
