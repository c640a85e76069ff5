//! The name of a process that works on an OUTPUT, and whether it still exists.

use serde::{Deserialize, Serialize};

/// A process, identified among all processes of all machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// The machine's name.
    pub host: String,
    /// The machine's current boot; None where the operating system does not tell.
    pub boot: Option<String>,
    /// The PID namespace: containers of one machine may share everything else.
    pub pid_namespace: Option<String>,
    /// Process number.
    pub pid: u32,
    /// When it started, in the kernel's clock ticks since boot.
    pub started: Option<u64>,
}

impl Worker {
    /// This process of the operating system.
    #[must_use]
    pub fn this() -> Self {
        let pid = std::process::id();
        Self { host: host(), boot: boot(), pid_namespace: pid_namespace(), pid, started: started(pid) }
    }

    /// Whether this process has certainly ended: it ran on this machine since its last boot and does not exist any more.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        let here = self.host == host()
            && (self.boot.is_some() && self.boot == boot())
            && (self.pid_namespace.is_some() && self.pid_namespace == pid_namespace());
        here && self.started.is_some() && started(self.pid) != self.started
    }
}

fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}

fn boot() -> Option<String> {
    Some(std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned())
}

fn pid_namespace() -> Option<String> {
    Some(std::fs::read_link("/proc/self/ns/pid").ok()?.display().to_string())
}

/// The start time of a process, the 22nd field of its `stat`; the second one, a name in brackets, may hold anything.
fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(19)?.parse().ok()
}
