//! The `nightcap` binary: sets up logging and signals, runs one command, returns its exit status.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use nightcap::cli::{Cli, LogFormat};
use nightcap::commands::{Context, execute};
use nightcap::error::ExitStatus;
use nightcap::panics;
use nightcap::pipeline::Stop;
use nightcap::storage::environment::variable;
use nightcap::support::progress::Terminal;
use tracing_subscriber::EnvFilter;

/// Time that stages have to stop after a signal; then the process ends.
const GRACE: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    let cli = Cli::parse();
    let json_log = cli.log_format == LogFormat::Json;
    let terminal = Terminal::new(json_log);
    start_log(cli.log_format, &terminal);
    panics::log();
    let stop = Stop::default();
    watch_signals(stop.clone());
    let mut stdout = io::stdout();
    let mut context = Context { stdout: &mut stdout, terminal: terminal.clone(), json_log, stop, variable };
    let status = match panics::caught("the command", || execute(cli, &mut context)) {
        Ok(status) => status,
        Err(error) => {
            report(&error, &terminal, json_log);
            error.status()
        }
    };
    ExitCode::from(status as u8)
}

fn start_log(format: LogFormat, terminal: &Terminal) {
    let filter = EnvFilter::try_from_env("NIGHTCAP_LOG").unwrap_or_else(|_| EnvFilter::new("nightcap=info,warn"));
    let writer = terminal.clone();
    let lines =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(move || writer.clone()).with_target(false);
    // Fails only if a subscriber is set already, and this is the only place that sets one.
    let _ = match format {
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
        LogFormat::Text => lines.with_ansi(terminal.is_drawn()).compact().try_init(),
    };
}

/// SIGTERM and SIGINT request a stop. If the process has not ended after [`GRACE`], it exits. Parts are put whole or not at all,
/// so that exit loses nothing that a stop would have kept.
fn watch_signals(stop: Stop) {
    let watch = async move {
        use tokio::signal::unix::{SignalKind, signal};
        let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        else {
            return;
        };
        tokio::select! {
            _ = terminate.recv() => tracing::warn!("SIGTERM: stopping"),
            _ = interrupt.recv() => tracing::warn!("interrupted: stopping"),
        }
        stop.request();
        tokio::time::sleep(GRACE).await;
        // Not `exit`: its handlers would destroy ONNX Runtime while a graph runs.
        // SAFETY: `_exit` touches no memory of this process; nothing is lost by it, see above.
        #[allow(unsafe_code, reason = "the standard library has no exit without handlers")]
        unsafe {
            libc::_exit(ExitStatus::Stopped as i32)
        }
    };
    std::thread::spawn(move || {
        if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() {
            runtime.block_on(watch);
        }
    });
}

fn report(error: &nightcap::error::Error, terminal: &Terminal, json_log: bool) {
    if json_log {
        tracing::error!("{error}");
        return;
    }
    let mut terminal = terminal.clone();
    // If stderr is closed, the error cannot be reported.
    let _ = writeln!(terminal, "error: {error}");
}
