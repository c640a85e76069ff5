//! One OUTPUT on disk or on S3, and the commands on it: tests of what commands do to each other run on both.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::{Workplace, copy_output, nightcap};
use crate::seaweed::{Seaweed, with_s3};
use crate::storage::text;

/// Takes every other process for dead, as it would one whose heartbeat is a minute old.
pub const IMPATIENT: (&str, &str) = ("NIGHTCAP_HEARTBEAT_SECONDS", "0");

/// Runs a command, which must succeed.
pub fn succeeded(command: &mut Command) {
    let ended = command.output().unwrap();
    assert!(ended.status.success(), "{}", text(&ended.stderr));
}

/// What is wrong with how the command `who` ended: with none of the statuses `allowed`, or with a panic.
pub fn ended(who: &str, ended: &Output, allowed: &[i32]) -> Vec<String> {
    let (code, log) = (ended.status.code(), text(&ended.stderr));
    if code.is_some_and(|code| allowed.contains(&code)) && !log.contains("panicked") {
        return Vec::new();
    }
    let error = log.lines().find(|line| line.starts_with("error")).or_else(|| log.lines().last());
    vec![format!("{who} ends with {code:?}: {}", error.unwrap_or_default())]
}

/// Where outputs are; the pictures are on disk.
pub struct Place {
    pub workplace: Workplace,
    /// The server, and the prefix in its bucket.
    server: Option<(&'static Seaweed, String)>,
}

impl Place {
    /// On disk, or on S3 below the prefix `remote`, which no other test uses.
    pub fn new(workplace: Workplace, remote: Option<&str>) -> Self {
        Self { workplace, server: remote.map(|prefix| (Seaweed::shared(), prefix.to_owned())) }
    }

    pub fn is_remote(&self) -> bool {
        self.server.is_some()
    }

    /// The OUTPUT `name` as a command line names it.
    fn uri(&self, name: &str) -> String {
        match &self.server {
            None => self.workplace.path(name).to_str().unwrap().to_owned(),
            Some((_, prefix)) => format!("s3://night/{prefix}/{name}"),
        }
    }

    fn reach(&self, command: &mut Command) {
        if let Some((server, _)) = &self.server {
            with_s3(command, &server.endpoint());
        }
    }

    /// `run` of the workplace's job on the OUTPUT `name`.
    pub fn run(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = self.workplace.command("run", &["--set", &format!("output.path={}", self.uri(name))]);
        command.args(arguments);
        self.reach(&mut command);
        command
    }

    /// Another command on the OUTPUT `name`.
    pub fn on(&self, name: &str, command: &str, arguments: &[&str]) -> Command {
        let mut command_line = nightcap();
        command_line.arg(command).arg(self.uri(name)).args(arguments);
        self.reach(&mut command_line);
        command_line
    }

    /// Makes the OUTPUT `to` a copy of the OUTPUT `from`; `to` is new.
    pub fn copy(&self, from: &str, to: &str) {
        match &self.server {
            None => copy_output(&self.workplace, from, to),
            Some((server, prefix)) => {
                server.upload(&self.snapshot(from), &format!("{prefix}/{to}"));
            }
        }
    }

    /// The OUTPUT `name` as a folder on disk: itself, or a copy as it is now.
    pub fn snapshot(&self, name: &str) -> PathBuf {
        let Some((server, prefix)) = &self.server else { return self.workplace.path(name) };
        let folder = self.workplace.path(&format!("snapshots/{name}"));
        if folder.exists() {
            std::fs::remove_dir_all(&folder).unwrap();
        }
        std::fs::create_dir_all(&folder).unwrap();
        server.download(&format!("{prefix}/{name}"), &folder);
        folder
    }

    /// Removes what is no longer needed of it.
    pub fn forget(&self, name: &str) {
        let gone = |path: &Path| path.exists().then(|| std::fs::remove_dir_all(path).unwrap());
        gone(&self.workplace.path(name));
        gone(&self.workplace.path(&format!("snapshots/{name}")));
    }
}
