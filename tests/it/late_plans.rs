//! A process that is suspended, or killed, between its look for the outcome of its run and the put of the plan, while the run of that
//! name ends and is removed: the plan that it puts then counts for nothing, misleads no command, and goes with the next compaction.
//!
//! It cannot be avoided: two operations on the storage are not one. A plan is never put over another one, so it can only arrive late
//! where the plan of an ended run was removed, and the outcome, which is never removed, tells every process that the run has ended.

use std::process::{Command, Output};

use crate::common::{Workplace, age_heartbeats, go_on, killed_at, nightcap, said, stopped_at};

/// The put of the plan by a first `run` of an OUTPUT: after the format (twice), the schema, the `run_seq`, a selection and signatures.
const PLAN_OF_RUN: usize = 7;
/// That by a compaction: after the format, the claim and the `run_seq`.
const PLAN_OF_COMPACTION: usize = 4;

fn on(workplace: &Workplace, command: &str, arguments: &[&str]) -> Command {
    let mut command_line = nightcap();
    command_line.arg(command).arg(workplace.path("out")).args(arguments);
    command_line
}

fn ok(command: &mut Command) -> Output {
    let ended = command.output().unwrap();
    assert!(ended.status.success(), "{}", said(&ended));
    ended
}

fn has_plan(workplace: &Workplace, run: &str) -> bool {
    workplace.path(&format!("out/_nightcap/runs/{run}/plan.json")).exists()
}

/// Ends the run `night`, whose plan another process is about to put, and removes it.
type End = fn(&Workplace);

fn replaced(workplace: &Workplace) {
    workplace.run_ok(&["--run-id", "night"]);
    workplace.run_ok(&["--run-id", "more", "--full", "--limit", "2"]);
    ok(&mut on(workplace, "compact", &["--run-id", "all", "--grace", "0"]));
}

fn closed_and_replaced(workplace: &Workplace) {
    killed_at(&mut workplace.command("run", &["--run-id", "night"]), "after_part:2");
    age_heartbeats(workplace, "out", "night");
    ok(&mut on(workplace, "finalize", &["--run-id", "night", "--partial"]));
    workplace.run_ok(&["--run-id", "more"]);
    ok(&mut on(workplace, "compact", &["--run-id", "all", "--grace", "0"]));
}

fn discarded(workplace: &Workplace) {
    ok(&mut on(workplace, "discard", &["--run-id", "night"]));
    workplace.run_ok(&["--run-id", "all"]);
}

#[test]
fn the_late_plan_of_a_run_that_has_ended_counts_for_nothing() {
    let ends: [(End, &str); 3] = [
        (replaced, "there is or was a run night"),
        (closed_and_replaced, "there is or was a run night"),
        (discarded, "run night was discarded"),
    ];
    for ((end, expected), is_killed) in ends.into_iter().flat_map(|end| [(end, false), (end, true)]) {
        let workplace = Workplace::with_images(10, 2);
        let mut command = workplace.command("run", &["--run-id", "night"]);
        if is_killed {
            command.env("NIGHTCAP_KILL_AT", format!("after_put:{PLAN_OF_RUN}"));
        }
        let slow = stopped_at(&mut command, &format!("before_put:{PLAN_OF_RUN}"));
        assert!(!has_plan(&workplace, "night"));
        end(&workplace);
        assert!(!has_plan(&workplace, "night"), "it was removed");
        let rows = workplace.rows("out", Some("all"));
        let ended = go_on(slow);
        assert_eq!(ended.status.code(), (!is_killed).then_some(2), "{}", said(&ended));
        assert!(is_killed || said(&ended).contains(expected), "{}", said(&ended));
        assert!(has_plan(&workplace, "night"), "it is the put of the plan before which the process was suspended");

        // No command takes it for a run.
        let run = workplace.run(&[]);
        assert!(run.status.success() && said(&run).contains("nothing is new"), "{}", said(&run));
        assert!(!said(&run).contains("WARN"), "{}", said(&run));
        assert_eq!(workplace.published("out"), ["all"]);
        for ended in [
            workplace.run(&["--run-id", "night"]),
            on(&workplace, "finalize", &["--run-id", "night"]).output().unwrap(),
            on(&workplace, "finalize", &["--run-id", "night", "--partial"]).output().unwrap(),
        ] {
            assert!(ended.status.code() == Some(2) && said(&ended).contains(expected), "{}", said(&ended));
        }
        let status = ok(&mut on(&workplace, "status", &["--check"]));
        let status = String::from_utf8(status.stdout).unwrap();
        assert!(status.contains("superseded") || status.contains("discarded"), "{status}");

        // The next compaction removes it, also if there is nothing to compact.
        ok(&mut on(&workplace, "compact", &["--grace", "0"]));
        assert!(!workplace.path("out/_nightcap/runs/night").exists());
        assert_eq!(workplace.published("out"), ["all"]);
        assert!(workplace.rows("out", Some("all")).0 == rows.0);
    }
}

#[test]
fn the_late_plan_of_a_compaction_that_was_made_and_replaced_counts_for_nothing() {
    let workplace = Workplace::with_images(10, 2);
    workplace.run_ok(&["--run-id", "monday"]);
    workplace.run_ok(&["--run-id", "tuesday", "--full", "--limit", "4"]);
    let slow =
        stopped_at(&mut on(&workplace, "compact", &["--run-id", "all"]), &format!("before_put:{PLAN_OF_COMPACTION}"));
    age_heartbeats(&workplace, "out", "all");
    ok(&mut on(&workplace, "compact", &["--run-id", "all"]));
    workplace.run_ok(&["--run-id", "wednesday", "--full", "--limit", "4"]);
    ok(&mut on(&workplace, "compact", &["--run-id", "everything", "--grace", "0"]));
    assert!(!has_plan(&workplace, "all") && workplace.published("out") == ["everything"]);
    let ended = go_on(slow);
    assert!(ended.status.code() == Some(2) && said(&ended).contains("there is or was a run all"), "{}", said(&ended));
    assert!(has_plan(&workplace, "all"), "it is the put of the plan before which the process was suspended");
    assert!(workplace.parts("out", "all").is_empty() && workplace.published("out") == ["everything"]);
    ok(&mut on(&workplace, "status", &["--check"]));
    ok(&mut on(&workplace, "compact", &["--grace", "0"]));
    assert!(!workplace.path("out/_nightcap/runs/all").exists());
}
