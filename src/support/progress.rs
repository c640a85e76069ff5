//! Progress on stderr: a bar on a terminal, otherwise a log line from time to time.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

/// Time between two log lines when there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Where progress and log lines go, so that neither writes into the other.
#[derive(Debug, Clone)]
pub struct Terminal {
    bars: MultiProgress,
    drawn: bool,
}

impl Terminal {
    /// Draws bars if stderr is a terminal, unless `plain`.
    #[must_use]
    pub fn new(plain: bool) -> Self {
        let drawn = io::stderr().is_terminal() && !plain;
        let target = if drawn { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self { bars: MultiProgress::with_draw_target(target), drawn }
    }

    /// Whether stderr shows bars (and so may show colours).
    #[must_use]
    pub const fn is_drawn(&self) -> bool {
        self.drawn
    }
}

impl Write for Terminal {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A closed stderr does not stop a run.
        let _ = self.bars.suspend(|| io::stderr().lock().write_all(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Rows done and failed so far.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    total: u64,
    done: AtomicU64,
    failed: AtomicU64,
    started: Instant,
    /// Milliseconds after `started` at which the last line was logged.
    last_line_ms: AtomicU64,
}

impl Progress {
    /// Progress towards `total` rows.
    #[must_use]
    pub fn new(terminal: &Terminal, total: u64) -> Self {
        let template = "{bar:24} {pos}/{len} rows, {msg}, {rate}, {eta} left";
        let bar = terminal.drawn.then(|| {
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            let style = style.with_key("rate", |state: &ProgressState, out: &mut dyn fmt::Write| {
                // Writing to a string cannot fail.
                let _ = write!(out, "{:.1} rows/s", state.per_sec());
            });
            terminal.bars.add(ProgressBar::new(total).with_style(style).with_message("0 failed"))
        });
        let zero = || AtomicU64::new(0);
        Self { bar, total, done: zero(), failed: zero(), started: Instant::now(), last_line_ms: zero() }
    }

    /// Counts one more row.
    pub fn row(&self, failed: bool) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        let failures = self.failed.fetch_add(u64::from(failed), Ordering::Relaxed) + u64::from(failed);
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.set_message(format!("{failures} failed"));
            return;
        }
        let elapsed = self.started.elapsed();
        let now_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let last = self.last_line_ms.load(Ordering::Relaxed);
        let due = Duration::from_millis(now_ms.saturating_sub(last)) >= LINE_EVERY;
        if due && self.last_line_ms.compare_exchange(last, now_ms, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let rate = done as f64 / elapsed.as_secs_f64();
            let left_s = self.total.saturating_sub(done) as f64 / rate.max(f64::MIN_POSITIVE);
            let (rows, left_s) = (self.total, left_s.round() as u64);
            tracing::info!(
                done,
                rows,
                failed = failures,
                rows_per_s = (rate * 10.0).round() / 10.0,
                left_s,
                "progress"
            );
        }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
