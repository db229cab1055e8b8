//! Where the time of a step goes: a listener for the spans that every kernel opens.

use anyhow::{Context, Result};
use clap::ValueEnum;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// How finely time is told apart.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Detail {
    /// By operation, kernel and stride
    Operations,
    /// By shape as well
    Shapes,
}

/// Time and arithmetic of one row of the table.
#[derive(Clone, Copy, Default)]
struct Total {
    calls: u64,
    time: Duration,
    macs: u64,
}

/// What was heard since [`Breakdown::start`].
pub struct Breakdown(Arc<Mutex<State>>);

struct State {
    detail: Detail,
    rows: BTreeMap<String, Total>,
    /// Open spans by their number: row, arithmetic, and since when.
    open: BTreeMap<u64, (String, u64, Option<Instant>)>,
    next: u64,
}

impl Breakdown {
    /// Listens to this process; once per process.
    pub fn start(detail: Detail) -> Result<Self> {
        let (rows, open) = (BTreeMap::new(), BTreeMap::new());
        let state = State { detail, rows, open, next: 1 };
        let state = Arc::new(Mutex::new(state));
        tracing::subscriber::set_global_default(Listener(state.clone()))
            .context("another listener is already there")?;
        Ok(Self(state))
    }

    /// A table on stderr: milliseconds per step, share of `seconds`, and GFLOP/s where known.
    pub fn print(self, steps: usize, seconds: f64) {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rows: Vec<_> = state.rows.iter().map(|(name, t)| (name.as_str(), *t)).collect();
        rows.sort_by_key(|(_, t)| std::cmp::Reverse(t.time));
        let known: f64 = rows.iter().map(|(_, t)| t.time.as_secs_f64()).sum();
        let time = Duration::from_secs_f64((seconds - known).max(0.0));
        rows.push(("everything else", Total { time, ..Total::default() }));
        eprintln!("{:>9}  {:>6}  {:>6}  {:>7}  operation", "ms/step", "share", "calls", "GFLOP/s");
        for (name, Total { calls, time, macs }) in rows {
            let s = time.as_secs_f64();
            let rate = match macs {
                0 => String::from("-"),
                macs => format!("{:.0}", 2.0 * macs as f64 / s / 1e9),
            };
            let (ms, share) = (1e3 * s / steps as f64, 100.0 * s / seconds);
            let calls = calls as f64 / steps as f64;
            eprintln!("{ms:9.2}  {share:5.1}%  {calls:6.1}  {rate:>7}  {name}");
        }
    }
}

struct Listener(Arc<Mutex<State>>);

impl Listener {
    fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && metadata.target().starts_with("slimtau")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut fields = Fields::default();
        span.record(&mut fields);
        self.with(|state| {
            let name = span.metadata().name();
            let row = match (&fields.operation, state.detail) {
                (None, _) => name.to_owned(),
                (Some(operation), Detail::Operations) => {
                    format!("{operation} {0}x{0} stride {1}", fields.kernel, fields.stride)
                }
                (Some(operation), Detail::Shapes) => format!("{operation} {}", fields.shape),
            };
            let id = state.next;
            state.next += 1;
            state.open.insert(id, (row, fields.macs, None));
            Id::from_u64(id)
        })
    }

    fn enter(&self, id: &Id) {
        self.with(|state| {
            if let Some((.., since)) = state.open.get_mut(&id.into_u64()) {
                *since = Some(Instant::now());
            }
        });
    }

    fn exit(&self, id: &Id) {
        let now = Instant::now();
        self.with(|state| {
            if let Some((row, macs, Some(since))) = state.open.remove(&id.into_u64()) {
                let total = state.rows.entry(row).or_default();
                total.calls += 1;
                total.time += now - since;
                total.macs += macs;
            }
        });
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {}
}

/// What the kernels say of a call.
#[derive(Default)]
struct Fields {
    operation: Option<String>,
    kernel: u64,
    stride: u64,
    macs: u64,
    shape: String,
}

impl Visit for Fields {
    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "kernel" => self.kernel = value,
            "stride" => self.stride = value,
            "macs" => self.macs = value,
            _ => {}
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "operation" {
            self.operation = Some(value.to_owned());
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "shape" {
            self.shape = format!("{value:?}");
        }
    }
}
