//! Pieces that the pages share: numbers as people read them, escaping, legends, the page's head.

use slimtau_ranking::Interval;
use std::fmt::Write;

const STYLE: &str = include_str!("style.css");

/// A page up to and including its headline; `question` stands under it.
pub(super) fn head(title: &str, question: &str) -> String {
    let (title, question) = (escape(title), escape(question));
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n\
         <p class=\"soft\">{question}</p>\n"
    )
}

/// The end of a page.
pub(super) const FOOT: &str = "</main>\n</body>\n</html>\n";

/// A titled list of names and values.
pub(super) fn definitions(title: &str, rows: &[(String, String)]) -> String {
    let mut out = format!("<h2>{title}</h2>\n<dl class=\"card\">\n");
    for (name, value) in rows {
        let _ = writeln!(out, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(value));
    }
    out + "</dl>\n"
}

/// A number in a card of its own.
pub(super) fn tile(name: &str, value: &str, more: &str) -> String {
    format!(
        "<div class=\"card tile\"><div class=\"name\">{}</div><div class=\"value\">{value}</div>\
         <div class=\"more\">{}</div></div>\n",
        escape(name),
        escape(more)
    )
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

/// Stands where there is no number.
pub(super) const NONE: &str = "–";

/// A number with so many decimals.
pub(super) fn or_none(value: Option<f64>, decimals: usize) -> String {
    value.map_or(NONE.to_owned(), |v| format!("{v:.decimals$}"))
}

/// 1234567 as `1.23 M`.
pub(super) fn count(value: u64) -> String {
    let v = value as f64;
    match v {
        v if v >= 1e9 => format!("{:.2} G", v / 1e9),
        v if v >= 1e6 => format!("{:.2} M", v / 1e6),
        v if v >= 1e4 => format!("{:.1} k", v / 1e3),
        _ => value.to_string(),
    }
}

/// Seconds in the units people read.
pub(super) fn duration(seconds: f64) -> String {
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

/// An interval's ends.
pub(super) fn interval(value: Option<Interval>) -> String {
    value.map_or(NONE.to_owned(), |i| format!("{:.3} to {:.3}", i.low, i.high))
}

/// Coloured dots with their meaning; `variable` is the style sheet's, without its number.
pub(super) fn legend(variable: char, labels: &[String]) -> String {
    let entry = |(i, label): (usize, &String)| {
        let label = escape(label);
        format!("<span><i style=\"background:var(--{variable}{i})\"></i>{label}</span>")
    };
    let entries: String = labels.iter().enumerate().map(entry).collect();
    format!("<div class=\"legend\">{entries}</div>\n")
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
