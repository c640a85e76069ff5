//! The `nightcap` binary: sets up logging and signals, runs one command, returns its exit status.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

use clap::Parser;
use nightcap::cli::{Cli, LogFormat};
use nightcap::commands::{Context, execute};
use nightcap::error::ExitStatus;
use nightcap::monitor::Monitor;
use nightcap::panics;
use nightcap::pipeline::Stop;
use nightcap::storage::environment::{all_variables, variable};
use nightcap::support::progress::Terminal;
use nightcap::support::{log, redact};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Time that stages have to stop after a signal; then the process ends.
const GRACE: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    redact::remember_environment(all_variables());
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(answer) => return refused(&answer),
    };
    let json_log = cli.log_format == LogFormat::Json;
    let terminal = Terminal::new(json_log);
    log::start(json_log, &terminal);
    panics::log();
    let stop = Stop::default();
    watch_signals(stop.clone());
    let mut stdout = io::stdout();
    let monitor = Monitor::default();
    let mut context = Context { stdout: &mut stdout, terminal: terminal.clone(), json_log, stop, monitor, variable };
    let status = match panics::caught("the command", || execute(cli, &mut context)) {
        Ok(status) => status,
        Err(error) => {
            report(&error, &terminal, json_log);
            error.status()
        }
    };
    ExitCode::from(status as u8)
}

/// Help and the version on stdout; a usage error, which may repeat an argument, on stderr.
fn refused(answer: &clap::Error) -> ExitCode {
    if answer.use_stderr() {
        // If stderr is closed, the error cannot be reported.
        let _ = io::stderr().write_all(redact::lines(&answer.render().to_string()).as_bytes());
    } else {
        let _ = answer.print();
    }
    ExitCode::from(u8::try_from(answer.exit_code()).unwrap_or(ExitStatus::Refused as u8))
}

/// SIGTERM, SIGINT and SIGHUP request a stop. If the process has not ended after [`GRACE`], or at another signal, it exits. Parts are
/// put whole or not at all, so that exit loses nothing that a stop would have kept.
///
/// The stop never waits for a log line: stderr may be a pipe that nobody reads. Returns once signals are handled.
fn watch_signals(stop: Stop) {
    let (ready, is_ready) = mpsc::channel();
    std::thread::spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        runtime.block_on(async move {
            let Ok(mut signals) = Signals::new() else { return };
            // Fails only if the main thread has ended.
            let _ = ready.send(());
            let name = signals.next().await;
            stop.request();
            std::thread::spawn(move || tracing::warn!("{name}: stopping"));
            // A second signal is from somebody who does not want to wait.
            let _ = tokio::time::timeout(GRACE, signals.next()).await;
            // Not `exit`: its handlers would destroy ONNX Runtime while a graph runs.
            // SAFETY: `_exit` touches no memory of this process; nothing is lost by it, see above.
            #[allow(unsafe_code, reason = "the standard library has no exit without handlers")]
            unsafe {
                libc::_exit(ExitStatus::Stopped as i32)
            }
        });
    });
    // Fails if signals cannot be handled; then they end the process as they do by default.
    let _ = is_ready.recv();
}

/// The signals that stop a command.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// None: it is ignored, as `nohup` has it.
    hangup: Option<Signal>,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let hangup = (!is_hangup_ignored()).then(|| signal(SignalKind::hangup())).transpose()?;
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())?, hangup })
    }

    /// The name of the next one.
    async fn next(&mut self) -> &'static str {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "interrupted",
            _ = hangup => "SIGHUP",
        }
    }
}

fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // The mask's lowest bit is signal 1, SIGHUP.
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

fn report(error: &nightcap::error::Error, terminal: &Terminal, json_log: bool) {
    if json_log {
        tracing::error!("{error}");
        return;
    }
    let mut terminal = terminal.clone();
    // If stderr is closed, the error cannot be reported.
    let _ = writeln!(terminal, "error: {}", redact::message(&error.to_string()));
}
