//! The job that every engine runs, and the script that is `nightcap` there.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::common::{Workplace, age_heartbeats, killed_at, nightcap, png_image};

/// Images of the job.
const ROWS: u32 = 24;
/// Parts of the job.
pub const PARTS: usize = 12;

/// A workplace with the job, and a folder of programs for PATH.
pub struct Workload {
    pub workplace: Workplace,
}

impl Workload {
    pub fn new() -> Self {
        let workload = Self { workplace: Workplace::with_images(ROWS, 2) };
        std::fs::create_dir(workload.bin()).unwrap();
        workload.nightcap_does("");
        workload
    }

    /// Makes `nightcap` a script that does `first` and then becomes the real one. `first` may export switches of failpoints, and sees what
    /// the engine has set.
    pub fn nightcap_does(&self, first: &str) {
        let script = format!("#!/bin/bash\n{first}\nexec {} \"$@\"\n", env!("CARGO_BIN_EXE_nightcap"));
        // Renamed into place: a shell may be reading the script before.
        let (new, path) = (self.workplace.path("nightcap.new"), self.bin().join("nightcap"));
        std::fs::write(&new, script).unwrap();
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    /// The folder for PATH.
    pub fn bin(&self) -> PathBuf {
        self.workplace.path("bin")
    }

    /// A path in the workplace, as text.
    pub fn path(&self, name: &str) -> String {
        self.workplace.path(name).to_str().unwrap().to_owned()
    }

    /// Makes one of the first images a bad one, and the job one that takes this for too many.
    pub fn has_a_bad_image(&self) {
        std::fs::write(self.workplace.path("photos/3.png"), &png_image(3)[..40]).unwrap();
        let job = std::fs::read_to_string(self.workplace.path("job.toml")).unwrap();
        self.workplace.job(&format!("{job}[limits]\nmax_failed_fraction = 0.0\nmin_failed_rows = 1\n"));
    }

    /// A run that was killed long ago when it had written this many parts.
    pub fn leaves(&self, output: &str, run: &str, parts: u32) {
        let place = if parts == 0 { "before_part:1".to_owned() } else { format!("after_part:{parts}") };
        let to = format!("output.path={}", self.path(output));
        killed_at(&mut self.workplace.command("run", &["--run-id", run, "--set", &to]), &place);
        age_heartbeats(&self.workplace, output, run);
    }

    /// Checks that `output` is whole: only `run` is published, every row is there once, and the parts have the bytes that one process
    /// writes.
    pub fn is_complete(&self, output: &str, run: &str) {
        assert_eq!(self.workplace.published(output), [run]);
        let keys: Vec<_> = self.workplace.rows(output, Some(run)).text("id").into_iter().map(Option::unwrap).collect();
        assert_eq!(keys, (0..ROWS).map(|row| format!("row-{row:04}")).collect::<Vec<_>>());
        let alone = format!("{output}-by-one-process");
        self.workplace.run_ok(&["--run-id", run, "--set", &format!("output.path={alone}")]);
        let (many, one) = (self.workplace.parts(output, run), self.workplace.parts(&alone, run));
        assert_eq!((many.len(), one.len()), (PARTS, PARTS));
        for ((name, bytes), expected) in many.iter().zip(&one) {
            assert!((name, bytes) == (&expected.0, &expected.1), "{name} is not as one process writes it");
        }
        let check = nightcap().arg("status").arg(self.workplace.path(output)).arg("--check").output().unwrap();
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    }
}
