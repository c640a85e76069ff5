//! `discard`, and `finalize --partial` of a run that will not be continued.

use std::process::Output;

use crate::common::{Workplace, copy_output, killed_at, nightcap};

const HEARTBEAT: &str = r#"{"host": "elsewhere", "boot": null, "pid": 7, "started": null}"#;

/// An unfinished run of which `parts` of five parts were made.
fn unfinished(parts: u32) -> Workplace {
    let workplace = Workplace::with_images(10, 2);
    let point = if parts == 0 { "before_part:1".to_owned() } else { format!("after_part:{parts}") };
    killed_at(&mut workplace.command("run", &["--run-id", "night"]), &point);
    assert_eq!(workplace.parts("out", "night").len(), parts as usize);
    workplace
}

fn on(workplace: &Workplace, command: &str, arguments: &[&str]) -> Output {
    nightcap().arg(command).arg(workplace.path("out")).args(["--run-id", "night"]).args(arguments).output().unwrap()
}

fn refused(output: &Output, status: i32, expected: &str) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(status) && message.contains(expected), "{message}");
}

fn status(workplace: &Workplace, arguments: &[&str]) -> (Option<i32>, serde_json::Value) {
    let output = nightcap().arg("status").arg(workplace.path("out")).arg("--json").args(arguments).output().unwrap();
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn an_unfinished_run_disappears_with_what_killed_puts_left() {
    let workplace = unfinished(2);
    std::fs::write(workplace.path("out/run=night/part-000003.parquet#1"), b"half").unwrap();
    std::fs::write(workplace.path("out/_nightcap/runs/night/plan.json#12"), b"half").unwrap();
    let discarded = on(&workplace, "discard", &[]);
    assert!(discarded.status.success(), "{}", String::from_utf8_lossy(&discarded.stderr));
    assert!(!workplace.path("out/run=night").exists() && !workplace.path("out/_nightcap/runs/night").exists());
    assert!(on(&workplace, "discard", &[]).status.success(), "once more is no harm");
    refused(&workplace.run(&["--run-id", "night"]), 2, "run night was discarded");
    let typo = nightcap().arg("discard").arg(workplace.path("out")).args(["--run-id", "nihgt"]).output().unwrap();
    refused(&typo, 2, "there is no run nihgt");
    let elsewhere =
        nightcap().arg("discard").arg(workplace.path("out")).args(["--run-id", "../photos"]).output().unwrap();
    refused(&elsewhere, 2, "expected a lower-case letter");
    assert!(workplace.path("photos/0.png").exists());
}

#[test]
fn published_and_living_runs_are_left_alone() {
    let workplace = unfinished(2);
    let heartbeat = workplace.path("out/_nightcap/runs/night/heartbeat-elsewhere-7");
    std::fs::write(&heartbeat, HEARTBEAT).unwrap();
    refused(&on(&workplace, "discard", &[]), 75, "process 7 on elsewhere is at work on run night");
    refused(&on(&workplace, "finalize", &["--partial"]), 75, "process 7 on elsewhere is at work on run night");
    let (code, said) = status(&workplace, &[]);
    assert_eq!((code, &said["runs"][0]["alive"]["host"]), (Some(0), &"elsewhere".into()));
    std::fs::remove_file(heartbeat).unwrap();
    let parts = workplace.parts("out", "night");
    workplace.run_ok(&["--run-id", "night"]);
    refused(&on(&workplace, "discard", &[]), 2, "run night is published");
    assert!(workplace.parts("out", "night").starts_with(&parts) && workplace.published("out") == ["night"]);
}

fn decided(workplace: &Workplace, output: &str) -> bool {
    workplace.path(&format!("{output}/_nightcap/outcomes/night.json")).exists()
}

#[test]
fn killed_at_every_step_the_next_discard_finishes_and_runs_are_not_misled() {
    for count in 1.. {
        let workplace = unfinished(2);
        let kill = || {
            let mut command = nightcap();
            command.arg("discard").arg(workplace.path("out")).args(["--run-id", "night"]);
            let point = if count == 1 { "before_put:1".to_owned() } else { format!("before_delete:{}", count - 1) };
            command.env("NIGHTCAP_KILL_AT", point).output().unwrap()
        };
        let killed = kill();
        if killed.status.success() {
            assert!(count > 5, "two parts, the plan and other records are removed one by one");
            break;
        }
        assert_eq!(killed.status.code(), None);
        copy_output(&workplace, "out", "later");
        // Without another discard: the run goes on if it was killed before the decision, else another run makes the rows.
        let discarded = decided(&workplace, "later");
        let named = workplace.run(&["--run-id", "night", "--set", "output.path=later"]);
        if discarded {
            refused(&named, 2, "run night was discarded");
            workplace.run_ok(&["--run-id", "next", "--set", "output.path=later"]);
            let compacted = nightcap().arg("compact").arg(workplace.path("later")).status().unwrap();
            assert!(compacted.success() && !workplace.path("later/_nightcap/runs/night").exists());
        } else {
            assert!(named.status.success(), "{}", String::from_utf8_lossy(&named.stderr));
        }
        assert_eq!(workplace.rows("later", None).len(), 10);
        let check = nightcap().arg("status").arg(workplace.path("later")).arg("--check").output().unwrap();
        assert!(check.status.success(), "{count}: {}", String::from_utf8_lossy(&check.stdout));
        // With one, nothing is left.
        let again = on(&workplace, "discard", &[]);
        assert!(again.status.success(), "{count}: {}", String::from_utf8_lossy(&again.stderr));
        assert!(!workplace.path("out/run=night").exists() && !workplace.path("out/_nightcap/runs/night").exists());
    }
}

#[test]
fn finished_parts_are_published() {
    let workplace = unfinished(2);
    refused(&on(&workplace, "finalize", &[]), 75, "2 of 5 parts");
    let published = on(&workplace, "finalize", &["--partial"]);
    assert!(published.status.success(), "{}", String::from_utf8_lossy(&published.stderr));
    let record: serde_json::Value = serde_json::from_slice(&published.stdout).unwrap();
    assert_eq!((&record["rows"], &record["partial"]), (&4.into(), &serde_json::json!([0, 1])));
    let (code, said) = status(&workplace, &["--check"]);
    assert_eq!((code, &said["runs"][0]["state"]), (Some(0), &"partial".into()), "{said}");
    refused(&on(&workplace, "discard", &[]), 2, "run night is published");
    // The next run takes the other rows.
    workplace.run_ok(&["--run-id", "next"]);
    assert_eq!(workplace.rows("out", Some("next")).len(), 6);
}

#[test]
fn with_no_finished_part_nothing_is_published() {
    let workplace = unfinished(0);
    refused(&on(&workplace, "finalize", &["--partial"]), 2, "has no finished part, so nothing was published");
    assert!(workplace.published("out").is_empty());
}
