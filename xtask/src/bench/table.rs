//! The measurements as a table for people and as JSON for programs.

use super::results::{Entry, Work};
use serde_json::{Value, json};
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// The operation under which the machine's own speeds are found.
const ROOFLINE: &str = "roofline";

/// One run of the benches.
pub struct Report {
    pub machine: String,
    pub threads: usize,
    pub commit: String,
    /// UTC, as `2026-01-31T12:00:00Z`.
    pub date: String,
    pub quick: bool,
    pub entries: Vec<Entry>,
}

/// One line of the table.
struct Row<'a> {
    entry: &'a Entry,
    /// Of ours.
    seconds: f64,
    /// GFLOP/s or GB/s.
    rate: f64,
    unit: &'static str,
    /// How many times as long the others take.
    reference: Option<f64>,
    candle: Option<f64>,
    /// Percent of the machine's matrix product, or of its copy.
    roofline: Option<f64>,
}

/// Units of work a second, in thousands of millions.
fn rate(work: Work, seconds: f64) -> (f64, &'static str) {
    match work {
        Work::Elements(n) => (n as f64 / seconds / 1e9, "GFLOP/s"),
        Work::Bytes(n) => (n as f64 / seconds / 1e9, "GB/s"),
    }
}

impl Report {
    /// The machine's own speed for this kind of work.
    fn roof(&self, unit: &str) -> Option<f64> {
        self.entries.iter().filter(|e| e.operation == ROOFLINE).find_map(|e| {
            let (rate, own) = rate(e.work, *e.seconds.values().next()?);
            (own == unit).then_some(rate)
        })
    }

    fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        let entries = self.entries.iter().filter(|e| e.operation != ROOFLINE);
        entries.filter_map(|entry| {
            let seconds = *entry.seconds.get("ours")?;
            let times = |name: &str| entry.seconds.get(name).map(|s| s / seconds);
            let (rate, unit) = rate(entry.work, seconds);
            let roofline = self.roof(unit).map(|roof| 100.0 * rate / roof);
            let (reference, candle) = (times("reference"), times("candle"));
            Some(Row { entry, seconds, rate, unit, reference, candle, roofline })
        })
    }

    /// The table.
    pub fn text(&self) -> String {
        let Self { machine, threads, commit, date, quick, .. } = self;
        let quick = if *quick { ", quick" } else { "" };
        let mut text = format!("\n{machine}, {threads} threads, commit {commit}, {date}{quick}\n");
        let roof = |unit| self.roof(unit).map_or("?".into(), |r| format!("{r:.1} {unit}"));
        let (product, copy) = (roof("GFLOP/s"), roof("GB/s"));
        text += &format!("roofline: matrix product {product}, copy {copy}\n\n");
        let wide = |pick: fn(&Entry) -> &str, least: usize| {
            self.rows().map(|r| pick(r.entry).len()).max().unwrap_or(0).max(least)
        };
        let (operations, shapes) = (wide(|e| &e.operation, 9), wide(|e| &e.shape, 5));
        let _ = writeln!(
            text,
            "{:<operations$}  {:<shapes$}  {:>10}  {:>8} {:<7}  {:>11}  {:>8}  {:>6}",
            "operation", "shape", "ours, ms", "rate", "", "x reference", "x candle", "% roof"
        );
        let times = |x: Option<f64>| x.map_or("-".into(), |x| format!("{x:.1}"));
        for row in self.rows() {
            let Entry { operation, shape, .. } = row.entry;
            let _ = writeln!(
                text,
                "{operation:<operations$}  {shape:<shapes$}  {:>10.4}  {:>8.1} {:<7}  {:>11}  {:>8}  {:>6}",
                row.seconds * 1e3,
                row.rate,
                row.unit,
                times(row.reference),
                times(row.candle),
                row.roofline.map_or("-".into(), |r| format!("{r:.0}")),
            );
        }
        text
    }

    /// The same for programs; what was not measured is `null`.
    pub fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows()
            .map(|row| {
                json!({
                    "operation": row.entry.operation, "shape": row.entry.shape,
                    "ours_ms": row.seconds * 1e3, "rate": row.rate, "unit": row.unit,
                    "times_reference": row.reference, "times_candle": row.candle,
                    "percent_of_roofline": row.roofline,
                })
            })
            .collect();
        json!({
            "machine": self.machine, "threads": self.threads, "commit": self.commit,
            "date": self.date, "quick": self.quick,
            "product_gflops": self.roof("GFLOP/s"), "copy_gb_per_s": self.roof("GB/s"),
            "results": rows,
        })
    }
}

/// A time in UTC, to the second. (Civil date from a count of days: years start in March here, so that
/// the leap day is the last of its year.)
pub fn utc(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days since 1 March of year 0, a multiple of 400.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = 400 * era + year + next;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn entry(operation: &str, shape: &str, work: Work, seconds: &[(&str, f64)]) -> Entry {
        let seconds = seconds.iter().map(|(name, s)| ((*name).to_owned(), *s)).collect();
        Entry { operation: operation.into(), shape: shape.into(), work, seconds }
    }

    fn report() -> Report {
        let times = [("ours", 1e-3), ("reference", 0.25), ("candle", 4e-3)];
        Report {
            machine: "Some CPU (x86_64)".into(),
            threads: 2,
            commit: "abc".into(),
            date: "2026-01-31T12:00:00Z".into(),
            quick: true,
            entries: vec![
                entry("conv forward", "mini 2x2", Work::Elements(300_000_000), &times),
                entry("norm forward", "mini", Work::Bytes(5_000_000), &[("ours", 1e-3)]),
                // A filter may leave out ours.
                entry("norm backward", "mini", Work::Bytes(5_000_000), &[("candle", 1e-3)]),
                entry("roofline", "128 MiB", Work::Bytes(20_000_000_000), &[("copy", 1.0)]),
                entry("roofline", "2048", Work::Elements(2_000_000_000), &[("product", 1e-2)]),
            ],
        }
    }

    #[test]
    fn a_table() {
        let want = "
Some CPU (x86_64), 2 threads, commit abc, 2026-01-31T12:00:00Z, quick
roofline: matrix product 200.0 GFLOP/s, copy 20.0 GB/s

operation     shape       ours, ms      rate          x reference  x candle  % roof
conv forward  mini 2x2      1.0000     300.0 GFLOP/s        250.0       4.0     150
norm forward  mini          1.0000       5.0 GB/s               -         -      25
";
        assert_eq!(report().text(), want);
    }

    #[test]
    fn numbers_for_programs() {
        let json = report().json();
        assert_eq!(json["threads"], 2);
        assert_eq!(json["product_gflops"], 200.0);
        assert_eq!(json["results"].as_array().unwrap().len(), 2);
        let first = &json["results"][0];
        assert_eq!((&first["unit"], &first["rate"]), (&json!("GFLOP/s"), &json!(300.0)));
        assert_eq!(first["times_candle"], 4.0);
        assert_eq!(json["results"][1]["times_candle"], Value::Null);
    }

    #[test]
    fn without_a_roofline_there_is_no_percentage() {
        let mut report = report();
        report.entries.truncate(2);
        assert!(report.text().contains("matrix product ?, copy ?"));
        assert_eq!(report.json()["results"][0]["percent_of_roofline"], Value::Null);
    }

    #[test]
    fn dates() {
        let check = |seconds, want: &str| {
            assert_eq!(utc(UNIX_EPOCH + Duration::from_secs(seconds)), want);
        };
        check(0, "1970-01-01T00:00:00Z");
        check(951_782_400, "2000-02-29T00:00:00Z");
        check(951_868_799, "2000-02-29T23:59:59Z");
        check(951_868_800, "2000-03-01T00:00:00Z");
        check(1_798_761_599, "2026-12-31T23:59:59Z");
        check(4_107_542_400, "2100-03-01T00:00:00Z");
    }
}
