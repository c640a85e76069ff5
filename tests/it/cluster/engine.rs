//! What the engines share: processes that end with the test, Python with the engines' packages, and waiting.

use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::common::{repo, said, skip};

/// A script and everything that it starts, in a PID namespace of its own: when the script ends, the kernel kills all of them, daemons
/// included. It ends when its standard input closes, which the end of this process does too; then its folder is removed.
///
/// It may have a network of its own as well, with nothing but a loopback address.
pub struct Held {
    holder: Child,
    alive: Option<ChildStdin>,
    /// The folder of the script.
    pub folder: PathBuf,
    script: String,
}

impl Held {
    /// Whether this user may have such namespaces; without, the test is skipped.
    pub fn possible() -> bool {
        let tried = Command::new("unshare").args(["--pid", "--fork", "--kill-child", "--mount-proc", "true"]).output();
        let possible = tried.is_ok_and(|tried| tried.status.success());
        if !possible {
            skip(
                "`unshare --pid --mount-proc` is refused: clusters are only started where all of their processes can be ended; run as root",
            );
        }
        possible
    }

    /// Starts `script` in `folder`, in the network of this machine.
    pub fn start(folder: PathBuf, script: &str) -> Self {
        Self::start_with(folder, "--pid", script)
    }

    /// Starts `script` in `folder`, in a network of its own.
    pub fn start_alone(folder: PathBuf, script: &str) -> Self {
        Self::start_with(folder, "--pid --net", &format!("ip link set lo up\n{script}"))
    }

    fn start_with(folder: PathBuf, namespaces: &str, script: &str) -> Self {
        let script = format!("cd {}\n{script}\nread -r line", folder.display());
        let outer = format!(
            r#"unshare {namespaces} --fork --kill-child --mount-proc bash -c "$0" >>log 2>&1; cd /; rm -rf "$1""#
        );
        let mut command = Command::new("setsid");
        command.args(["bash", "-c", &outer, &script]).arg(&folder).current_dir(&folder);
        let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { alive: holder.stdin.take(), holder, folder, script }
    }

    /// `program` in the namespaces of the script.
    pub fn inside(&self, program: &Path) -> Command {
        let words = ["bash", "-c", &self.script];
        let first = || processes().into_iter().find(|process| process.words == words);
        let first = wait_for("the first process", first, || self.log());
        let mut command = Command::new("nsenter");
        command.args(["--target", &first.id.to_string(), "--pid", "--mount", "--net", "--"]).arg(program);
        command
    }

    /// What the script has said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.alive = None;
        let _ = self.holder.wait();
    }
}

/// Waits until `found` finds something; `why` tells what there is if it does not.
pub fn wait_for<T>(what: &str, mut found: impl FnMut() -> Option<T>, why: impl Fn() -> String) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(started.elapsed() < Duration::from_mins(10), "{what}: not after {:?}\n{}", started.elapsed(), why());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The command's stdout; it has to succeed.
pub fn succeed(command: &mut Command) -> String {
    let output: Output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {}\n{stdout}{}", output.status, said(&output));
    stdout
}

/// A program beside the Python that `make` prepares for these tests in `.venv-cluster` (`NIGHTCAP_CLUSTER_PYTHON`); None skips.
pub fn program(name: &str) -> Option<PathBuf> {
    let python =
        std::env::var_os("NIGHTCAP_CLUSTER_PYTHON").map_or_else(|| repo(".venv-cluster/bin/python"), PathBuf::from);
    let program = python.with_file_name(name);
    if program.exists() && python.with_file_name("../.installed").exists() {
        return Some(program);
    }
    skip(&format!("{} is missing; `make test` installs it", program.display()));
    None
}

/// PATH with `folder` before all others.
pub fn path_with(folder: &Path) -> String {
    format!("{}:{}", folder.display(), std::env::var("PATH").unwrap())
}

/// A process of this machine, as `/proc` shows it.
pub struct Process {
    pub id: i32,
    pub parent: i32,
    /// `T` stopped, `Z` ended, others at work.
    pub state: char,
    /// Its program and arguments.
    pub words: Vec<String>,
}

/// All processes with arguments; those of a [`Held`] too.
pub fn processes() -> Vec<Process> {
    let ids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    ids.filter_map(Process::read).collect()
}

impl Process {
    fn read(id: i32) -> Option<Self> {
        let words = nul_separated(&std::fs::read(format!("/proc/{id}/cmdline")).ok()?);
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        let (state, parent) = (fields.next()?.chars().next()?, fields.next()?.parse().ok()?);
        (!words.is_empty()).then_some(Self { id, parent, state, words })
    }

    /// A variable of the environment that it was started with.
    pub fn environment(&self, name: &str) -> Option<String> {
        let all = nul_separated(&std::fs::read(format!("/proc/{}/environ", self.id)).ok()?);
        all.into_iter().find_map(|pair| Some(pair.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
    }

    /// Sends a signal; that it has ended meanwhile is no failure.
    pub fn send(&self, signal: Signal) {
        let _ = kill_process(Pid::from_raw(self.id).unwrap(), signal);
    }
}

fn nul_separated(bytes: &[u8]) -> Vec<String> {
    let words = bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
    // The last one ends with a zero too.
    words.filter(|word| !word.is_empty()).collect()
}
