//! Shards that start together: one scans the manifest and chooses the batch size, the others wait for its plan.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use crate::common::{Workplace, go_on, nightcap, stopped_at, strings, write_parquet};
use crate::seaweed::Seaweed;
use crate::storage::{on_s3, run_command};

const SHARDS: usize = 8;
/// The log lines for a manifest that is scanned, a batch size that is chosen, a plan that is waited for.
const SCANS: &str = "scanning the manifest";
const CHOICES: &str = "choosing the batch size";
const WAITS: &str = "waiting for process";

/// Shard `number` of run `night`; the plan has to choose the batch size.
fn shard(workplace: &Workplace, number: usize, settings: &[&str]) -> Command {
    let shard = format!("{number}/{SHARDS}");
    let mut command = workplace.command("run", &["--run-id", "night", "--shard", &shard]);
    command.args(settings.iter().flat_map(|setting| ["--set", setting]));
    command.env("NIGHTCAP_LOG", "nightcap=debug");
    command
}

fn workplace() -> Workplace {
    let workplace = Workplace::with_images(24, 2);
    let job = std::fs::read_to_string(workplace.path("job.toml")).unwrap();
    workplace.job(&job.replace("batch_size = 4\n", ""));
    workplace
}

/// A shard at work, with its log in a file.
struct Shard {
    child: Child,
    log: PathBuf,
}

impl Shard {
    fn start(workplace: &Workplace, number: usize, command: &mut Command) -> Self {
        let log = workplace.path(&format!("log-{number}"));
        let child = command.stdout(Stdio::null()).stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap();
        Self { child, log }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Returns once it waits for the plan of another process; until then `beat` renews that process's claim.
    fn wait_until_it_waits(&mut self, beat: &dyn Fn()) {
        let started = Instant::now();
        while !self.log().contains(WAITS) {
            assert_eq!(self.child.try_wait().unwrap(), None, "it does not wait: {}", self.log());
            assert!(started.elapsed() < Duration::from_mins(5), "it does not wait: {}", self.log());
            beat();
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn end(mut self) -> (Option<i32>, String) {
        let status = self.child.wait().unwrap();
        (status.code(), self.log())
    }

    fn succeed(self) -> String {
        let (status, log) = self.end();
        assert_eq!(status, Some(0), "{log}");
        log
    }
}

/// Makes the claim of the planner look as if it was last renewed at `time`.
fn beat(workplace: &Workplace, time: SystemTime) {
    let claim = workplace.path("out/_nightcap/runs/night/planner-000001");
    std::fs::File::open(claim).unwrap().set_modified(time).unwrap();
}

fn hour_ago() -> SystemTime {
    SystemTime::now() - Duration::from_hours(1)
}

/// Shards 1 to 7, all waiting for a plan.
fn waiting(workplace: &Workplace, settings: &[&str]) -> Vec<Shard> {
    let start = |number| Shard::start(workplace, number, &mut shard(workplace, number, settings));
    let mut shards: Vec<Shard> = (1..SHARDS).map(start).collect();
    for shard in &mut shards {
        shard.wait_until_it_waits(&|| beat(workplace, SystemTime::now()));
    }
    shards
}

fn count(logs: &[String], what: &str) -> usize {
    logs.iter().map(|log| log.matches(what).count()).sum()
}

/// Finalizes run `night`, whose parts must be those of a run that one process planned and made.
fn compare_with_one_process(workplace: &Workplace) {
    let finalize = nightcap().arg("finalize").arg(workplace.path("out")).args(["--run-id", "night"]).output().unwrap();
    assert_eq!(finalize.status.code(), Some(0), "{}", String::from_utf8_lossy(&finalize.stderr));
    workplace.run_ok(&["--run-id", "night", "--set", "output.path=alone"]);
    assert!(workplace.parts("out", "night") == workplace.parts("alone", "night"), "other parts");
    let check = nightcap().arg("status").arg(workplace.path("out")).arg("--check").output().unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
}

fn files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn of_eight_shards_that_start_together_one_plans() {
    let workplace = workplace();
    let start = |number| Shard::start(&workplace, number, &mut shard(&workplace, number, &[]));
    let shards: Vec<Shard> = (0..SHARDS).map(start).collect();
    let logs: Vec<String> = shards.into_iter().map(Shard::succeed).collect();
    assert_eq!((count(&logs, SCANS), count(&logs, CHOICES)), (1, 1), "{logs:#?}");
    assert!(logs.iter().all(|log| log.matches(WAITS).count() <= 1), "{logs:#?}");
    assert_eq!(files(&workplace.path("out/_nightcap/seq")).len(), 1, "one run, one number");
    compare_with_one_process(&workplace);
}

#[test]
fn seven_shards_wait_for_the_one_that_plans() {
    let workplace = workplace();
    let planner = stopped_at(&mut shard(&workplace, 0, &[]), "before_plan:1");
    let shards = waiting(&workplace, &[]);
    // A run that is being planned cannot be discarded.
    let discard = nightcap().arg("discard").arg(workplace.path("out")).args(["--run-id", "night"]).output().unwrap();
    let said = String::from_utf8(discard.stderr).unwrap();
    assert!(discard.status.code() == Some(75) && said.contains("is at work on run night"), "{said}");
    let status = nightcap().arg("status").arg(workplace.path("out")).arg("--json").output().unwrap();
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["runs"][0]["state"], "unplanned");
    assert_eq!(status["runs"][0]["alive"]["pid"], planner.id());
    let planner = go_on(planner);
    let log = String::from_utf8(planner.stderr).unwrap();
    assert_eq!(planner.status.code(), Some(0), "{log}");
    assert_eq!((log.matches(SCANS).count(), log.matches(CHOICES).count(), log.matches(WAITS).count()), (1, 1, 0));
    let logs: Vec<String> = shards.into_iter().map(Shard::succeed).collect();
    assert_eq!((count(&logs, SCANS), count(&logs, CHOICES)), (0, 0), "{logs:#?}");
    assert!(logs.iter().all(|log| log.matches(WAITS).count() == 1), "each says once what it waits for: {logs:#?}");
    compare_with_one_process(&workplace);
}

#[test]
fn when_the_planner_is_killed_one_of_the_others_plans() {
    let workplace = workplace();
    let mut planner = stopped_at(&mut shard(&workplace, 0, &[]), "before_plan:1");
    let shards = waiting(&workplace, &[]);
    planner.kill().unwrap();
    planner.wait().unwrap();
    let logs: Vec<String> = shards.into_iter().map(Shard::succeed).collect();
    assert_eq!((count(&logs, SCANS), count(&logs, CHOICES)), (1, 1), "{logs:#?}");
    let again = Shard::start(&workplace, 0, &mut shard(&workplace, 0, &[]));
    assert_eq!(count(&[again.succeed()], SCANS), 0);
    compare_with_one_process(&workplace);
}

#[test]
fn a_suspended_planner_that_resumes_changes_nothing() {
    let workplace = workplace();
    let planner = stopped_at(&mut shard(&workplace, 0, &[]), "before_plan:1");
    let run = workplace.path("out/_nightcap/runs/night");
    beat(&workplace, hour_ago());
    let start = |number| Shard::start(&workplace, number, &mut shard(&workplace, number, &[]));
    let logs: Vec<String> = (1..SHARDS).map(start).collect::<Vec<_>>().into_iter().map(Shard::succeed).collect();
    assert_eq!((count(&logs, SCANS), count(&logs, CHOICES)), (1, 1), "{logs:#?}");
    let plan = std::fs::read(run.join("plan.json")).unwrap();
    let ended = go_on(planner);
    assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
    assert!(std::fs::read(run.join("plan.json")).unwrap() == plan, "the first plan stands");
    assert_eq!(files(&workplace.path("out/_nightcap/seq")).len(), 1, "one run, one number");
    compare_with_one_process(&workplace);
}

#[test]
fn a_run_discarded_while_its_planner_was_suspended_stays_discarded() {
    let workplace = workplace();
    let planner = stopped_at(&mut shard(&workplace, 0, &[]), "before_plan:1");
    beat(&workplace, hour_ago());
    let discard = nightcap().arg("discard").arg(workplace.path("out")).args(["--run-id", "night"]).output().unwrap();
    assert!(discard.status.success(), "{}", String::from_utf8_lossy(&discard.stderr));
    let ended = go_on(planner);
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.code() == Some(2) && said.contains("run night was discarded"), "{said}");
    let again = workplace.run(&["--run-id", "night"]);
    let said = String::from_utf8(again.stderr).unwrap();
    assert!(again.status.code() == Some(2) && said.contains("run night was discarded"), "{said}");
    // What the planner has put too late goes with the next compaction.
    workplace.run_ok(&["--run-id", "next"]);
    assert!(nightcap().arg("compact").arg(workplace.path("out")).status().unwrap().success());
    assert!(!workplace.path("out/_nightcap/runs/night").exists());
}

#[test]
fn a_compaction_leaves_a_run_that_is_being_planned() {
    let workplace = workplace();
    workplace.run_ok(&["--run-id", "monday"]);
    let mut planner = stopped_at(&mut shard(&workplace, 0, &[]), "after_planning_claim:1");
    let compact = || {
        beat(&workplace, SystemTime::now());
        assert!(nightcap().arg("compact").arg(workplace.path("out")).status().unwrap().success());
        files(&workplace.path("out/_nightcap/runs"))
    };
    let both = || {
        let mut runs = compact();
        runs.sort();
        assert_eq!(runs, ["monday", "night"]);
    };
    both();
    planner.kill().unwrap();
    planner.wait().unwrap();
    // The scheduler starts the shard again.
    both();
    assert!(shard(&workplace, 0, &[]).status().unwrap().success());
}

#[test]
fn a_waiting_shard_stops_at_a_signal() {
    let workplace = workplace();
    let mut planner = stopped_at(&mut shard(&workplace, 0, &[]), "after_planning_claim:1");
    let mut shard = Shard::start(&workplace, 1, &mut shard(&workplace, 1, &[]));
    shard.wait_until_it_waits(&|| beat(&workplace, SystemTime::now()));
    let stopping = Instant::now();
    assert!(Command::new("kill").arg(shard.child.id().to_string()).status().unwrap().success());
    let (status, log) = shard.end();
    assert!(stopping.elapsed() < Duration::from_secs(5));
    assert!(status == Some(75) && log.contains("stopped while another process planned the run"), "{log}");
    planner.kill().unwrap();
    planner.wait().unwrap();
}

#[test]
fn when_planning_fails_every_shard_says_why() {
    let workplace = workplace();
    let columns = vec![
        ("id", strings(["a", "b", "a"].map(Some))),
        ("image", strings((0..3).map(|row| Some(format!("photos/{row}.png"))))),
        ("title", strings([None::<&str>; 3])),
    ];
    write_parquet(&workplace.path("manifest.parquet"), columns, 4);
    let planner = stopped_at(&mut shard(&workplace, 0, &[]), "after_planning_claim:1");
    let shards = waiting(&workplace, &[]);
    let why = "1 rows of the manifest have the key of an earlier row";
    let failed = go_on(planner);
    let said = String::from_utf8(failed.stderr).unwrap();
    assert!(failed.status.code() == Some(2) && said.contains(why), "{said}");
    for (status, log) in shards.into_iter().map(Shard::end) {
        assert!(status == Some(2) && log.contains(why), "{log}");
    }
    // With a corrected job, the run can still use its name.
    let mended = ["input.on_duplicate_key=first"];
    let start = |number| Shard::start(&workplace, number, &mut shard(&workplace, number, &mended));
    let logs: Vec<String> = (0..SHARDS).map(start).collect::<Vec<_>>().into_iter().map(Shard::succeed).collect();
    assert_eq!(count(&logs, SCANS), 1, "{logs:#?}");
}

#[test]
fn on_s3_too_one_shard_plans_and_another_takes_over() {
    let (server, workplace) = (Seaweed::shared(), workplace());
    let mut settings = on_s3(&workplace, server, "planners");
    for killed in [false, true] {
        settings[1] = format!("output.path=s3://night/planners/killed-{killed}");
        let command = |number: usize| {
            let shard = format!("{number}/{SHARDS}");
            let arguments = ["--run-id", "night", "--shard", &shard];
            let mut command = run_command(&workplace, &server.endpoint(), &settings, &arguments);
            command.env("NIGHTCAP_LOG", "nightcap=debug");
            command
        };
        let mut planner = stopped_at(&mut command(0), "before_plan:1");
        let start = |number| Shard::start(&workplace, number, &mut command(number));
        let mut shards: Vec<Shard> = (1..SHARDS).map(start).collect();
        let claim = format!("planners/killed-{killed}/_nightcap/runs/night/planner-000001");
        let record = server.get(&claim).unwrap();
        for shard in &mut shards {
            shard.wait_until_it_waits(&|| server.put(&claim, &record).unwrap());
        }
        if killed {
            planner.kill().unwrap();
            planner.wait().unwrap();
        } else {
            let ended = go_on(planner);
            assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
        }
        let logs: Vec<String> = shards.into_iter().map(Shard::succeed).collect();
        let expected = usize::from(killed);
        assert_eq!((count(&logs, SCANS), count(&logs, CHOICES)), (expected, expected), "{logs:#?}");
        if killed {
            Shard::start(&workplace, 0, &mut command(0)).succeed();
        }
        assert_eq!(server.objects(&format!("planners/killed-{killed}/run=night")).len(), 12);
        assert_eq!(server.objects(&format!("planners/killed-{killed}/_nightcap/seq")).len(), 1);
    }
    let parts = |output: &str| server.objects(&format!("planners/{output}/run=night"));
    assert!(parts("killed-true") == parts("killed-false"), "other parts");
}
