//! Signals stop a run also when nobody reads what it says: real pipes that are full.

use std::io::{PipeReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::common::Workplace;

/// How long a stop may take.
const LIMIT: Duration = Duration::from_secs(5);
/// The capacity of a pipe of Linux.
const CAPACITY: usize = 64 << 10;

/// A pipe that takes no byte more, with its reader.
fn full_pipe() -> (PipeReader, Stdio) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(&vec![b'.'; CAPACITY]).unwrap();
    (reader, writer.into())
}

/// Checks that nothing but the filling ever went into the pipe.
fn still_full(mut reader: PipeReader) {
    let mut found = Vec::new();
    reader.read_to_end(&mut found).unwrap();
    assert!(found.len() == CAPACITY && found.iter().all(|byte| *byte == b'.'), "the pipe was not full");
}

/// `command` in a process that ignores no signal, also if the tests run under `nohup`, whose children ignore SIGHUP.
fn with_default_signals(command: &std::process::Command) -> std::process::Command {
    let mut wrapped = std::process::Command::new("env");
    wrapped.arg("--default-signal=HUP,INT").arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    wrapped
}

/// Waits until the process handles SIGTERM.
fn is_ready(child: &Child) {
    let started = Instant::now();
    loop {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim();
        if u64::from_str_radix(caught, 16).unwrap() & (1 << (15 - 1)) != 0 {
            return;
        }
        assert!(started.elapsed() < Duration::from_mins(1), "no handler of SIGTERM");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn send(child: &Child, signal: &str) {
    assert!(std::process::Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

/// How the process ends, and after what time; one that does not is killed.
fn end(mut child: Child) -> (ExitStatus, Duration) {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return (status, started.elapsed());
        }
        if started.elapsed() > 2 * LIMIT {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("not stopped after {:?}", started.elapsed());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn stops(child: Child, what: &str) {
    let (status, time) = end(child);
    assert_eq!(status.code(), Some(75), "{what}: {status}");
    assert!(time < LIMIT, "{what}: {time:?}");
}

#[test]
fn a_stop_does_not_wait_for_a_reader_of_stderr() {
    let workplace = Workplace::with_images(40, 4);
    for format in ["text", "json"] {
        for signal in ["-TERM", "-INT", "-HUP"] {
            let (reader, stderr) = full_pipe();
            let mut command = with_default_signals(&workplace.command("run", &["--log-format", format]));
            let child = command.stderr(stderr).stdout(Stdio::null()).spawn().unwrap();
            drop(command);
            is_ready(&child);
            send(&child, signal);
            stops(child, &format!("{signal} {format}"));
            still_full(reader);
        }
    }
}

#[test]
fn a_stop_does_not_wait_for_a_reader_of_stdout() {
    let workplace = Workplace::with_images(2, 4);
    let (reader, stdout) = full_pipe();
    let (other, stderr) = full_pipe();
    let mut command = workplace.command("plan", &[]);
    let child = command.stdout(stdout).stderr(stderr).spawn().unwrap();
    drop(command);
    is_ready(&child);
    send(&child, "-TERM");
    stops(child, "plan");
    still_full(reader);
    still_full(other);
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    let workplace = Workplace::with_images(2, 4);
    let (reader, stderr) = full_pipe();
    let mut command = workplace.command("run", &[]);
    let child = command.stderr(stderr).spawn().unwrap();
    drop(command);
    is_ready(&child);
    // Two signals that are sent before the first is seen are one.
    let impatient = child.id();
    let again = std::thread::spawn(move || {
        for _ in 0..10 {
            std::thread::sleep(Duration::from_millis(100));
            // Fails once the process has ended.
            let _ = std::process::Command::new("kill").arg(impatient.to_string()).stderr(Stdio::null()).status();
        }
    });
    send(&child, "-TERM");
    let (status, time) = end(child);
    again.join().unwrap();
    assert_eq!(status.code(), Some(75), "{status}");
    assert!(time < Duration::from_millis(2500), "it waited for its grace of 3 s: {time:?}");
    still_full(reader);
}

#[test]
fn a_hangup_stops_a_run_unless_it_is_ignored() {
    let workplace = Workplace::with_images(40, 1);
    let started = |shell: &str, output: &str| {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", shell]).arg(env!("CARGO_BIN_EXE_nightcap")).arg("run").arg(workplace.path("job.toml"));
        command.args(["--run-id", "night", "--set", &format!("output.path={output}")]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let first = workplace.path(output).join("run=night/part-000000.parquet");
        let patience = Instant::now();
        while !first.exists() {
            assert!(patience.elapsed() < Duration::from_mins(2), "no part");
            std::thread::sleep(Duration::from_millis(1));
        }
        send(&child, "-HUP");
        child
    };
    let (status, time) = end(started("exec env --default-signal=HUP \"$0\" \"$@\"", "stopped"));
    // On a fast machine the run may have been over before the signal came.
    let finished = workplace.published("stopped") == ["night"];
    assert_eq!((status.code(), status.signal()), (Some(if finished { 0 } else { 75 }), None));
    assert!(time < LIMIT, "{time:?}");
    let mut child = started("trap '' HUP; exec \"$0\" \"$@\"", "ignored");
    assert_eq!(child.wait().unwrap().code(), Some(0), "as with nohup");
    assert_eq!(workplace.published("ignored"), ["night"]);
}
