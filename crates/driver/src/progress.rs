//! Progress for people: a bar with rate and ETA on a terminal, plain lines otherwise.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::cell::Cell;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Seconds between plain lines.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// One long task.
pub struct Bar {
    name: String,
    bar: ProgressBar,
    plain: bool,
    begin: Instant,
    /// Units that an earlier process did: they count as done but not for the rate.
    skipped: Cell<u64>,
    last_line: Cell<Option<Instant>>,
}

impl Bar {
    /// A task of `total` equal units.
    pub fn new(name: &str, total: u64) -> Self {
        let plain = !std::io::stderr().is_terminal();
        let target =
            if plain { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        let style = ProgressStyle::with_template(
            "{prefix:>12} {wide_bar} {pos}/{len} {per_sec} ETA {eta} {msg}",
        );
        bar.set_style(style.expect("the template is a constant that works"));
        bar.set_prefix(name.to_owned());
        Self {
            name: name.to_owned(),
            bar,
            plain,
            begin: Instant::now(),
            skipped: Cell::new(0),
            last_line: Cell::new(None),
        }
    }

    /// `n` units were done by an earlier process.
    pub fn skip(&self, n: u64) {
        self.skipped.set(self.skipped.get() + n);
        self.bar.set_position(self.bar.position() + n);
        self.bar.reset_eta();
    }

    /// `n` more units are done.
    pub fn advance(&self, n: u64, message: &str) {
        let done = self.bar.position() + n;
        self.bar.set_position(done);
        self.bar.set_message(message.to_owned());
        let due = self.last_line.get().is_none_or(|t| t.elapsed() >= LINE_EVERY);
        if self.plain && due {
            self.line(message);
            self.last_line.set(Some(Instant::now()));
        }
    }

    fn line(&self, message: &str) {
        let (done, total) = (self.bar.position(), self.bar.length().unwrap_or(0));
        let here = done.saturating_sub(self.skipped.get()) as f64;
        let rate = here / self.begin.elapsed().as_secs_f64().max(1e-9);
        let left = total.saturating_sub(done) as f64 / rate.max(1e-9);
        let eta = if left < 1e6 { format!("{left:.0} s left") } else { "?".into() };
        eprintln!("{:>12} {done}/{total}  {rate:.1}/s  {eta}  {message}", self.name);
    }

    /// Ends the task's display.
    pub fn finish(&self) {
        if self.plain {
            self.line("done");
        }
        self.bar.finish_and_clear();
    }
}
