//! Progress for people: a bar with rate and ETA on a terminal, plain lines otherwise.

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Seconds between plain lines.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// All bars on the terminal, one below the other: trainings may run side by side.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// One long task, which several threads may advance.
pub struct Bar {
    name: String,
    bar: ProgressBar,
    plain: bool,
    begin: Instant,
    plain_state: Mutex<Plain>,
}

/// What plain lines need to know.
#[derive(Default)]
struct Plain {
    /// Units that an earlier process did: they count as done but not for the rate.
    skipped: u64,
    last_line: Option<Instant>,
}

impl Bar {
    /// A task of `total` equal units.
    pub fn new(name: &str, total: u64) -> Self {
        let plain = !std::io::stderr().is_terminal();
        let bar = if plain {
            ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden())
        } else {
            BARS.add(ProgressBar::new(total))
        };
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
            plain_state: Mutex::default(),
        }
    }

    /// `n` units were done by an earlier process.
    pub fn skip(&self, n: u64) {
        self.state().skipped += n;
        self.bar.inc(n);
        self.bar.reset_eta();
    }

    /// `n` more units are done.
    pub fn advance(&self, n: u64, message: &str) {
        self.bar.inc(n);
        self.bar.set_message(message.to_owned());
        let mut state = self.state();
        let due = state.last_line.is_none_or(|t| t.elapsed() >= LINE_EVERY);
        if self.plain && due {
            self.line(&state, message);
            state.last_line = Some(Instant::now());
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, Plain> {
        self.plain_state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line(&self, state: &Plain, message: &str) {
        let (done, total) = (self.bar.position(), self.bar.length().unwrap_or(0));
        let here = done.saturating_sub(state.skipped) as f64;
        let rate = here / self.begin.elapsed().as_secs_f64().max(1e-9);
        let left = total.saturating_sub(done) as f64 / rate.max(1e-9);
        let eta = if left < 1e6 { format!("{left:.0} s left") } else { "?".into() };
        eprintln!("  {:>10} {done}/{total}  {rate:.1}/s  {eta}  {message}", self.name);
    }

    /// Ends the task's display.
    pub fn finish(&self) {
        if self.plain {
            self.line(&self.state(), "done");
        }
        self.bar.finish_and_clear();
    }
}
