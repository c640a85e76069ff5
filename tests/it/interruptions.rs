//! Runs that are killed at any point and resumed: the parts equal those of an uninterrupted run, byte for byte.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::common::{
    Workplace, copy_output, go_on, kill_at_random, killed_at, nightcap, png_image, rounds, send, stopped_at,
};

const PARTS: usize = 22;

/// 66 rows in 22 parts, and the parts of an undisturbed run.
fn undisturbed() -> (Workplace, Vec<(String, Vec<u8>)>) {
    let workplace = Workplace::with_images(66, 3);
    workplace.run_ok(&["--run-id", "night", "--set", "output.path=undisturbed"]);
    let parts = workplace.parts("undisturbed", "night");
    assert_eq!(parts.len(), PARTS);
    (workplace, parts)
}

/// Runs once more, and checks that nothing is missing, doubled or different.
fn continue_and_compare(workplace: &Workplace, output: &str, expected: &[(String, Vec<u8>)]) {
    workplace.run_ok(&["--run-id", "night", "--set", &format!("output.path={output}")]);
    assert!(workplace.parts(output, "night") == expected, "the parts in {output} differ from an undisturbed run's");
    assert_eq!(workplace.published(output), ["night"]);
}

#[test]
fn killed_at_every_fail_point() {
    let (workplace, expected) = undisturbed();
    // Puts: format 1 and 2, schema 3, run_seq 4, selection 5, signatures 6, plan 7, then a part each, the index 30, the reuse index
    // 31, the part hashes 32, the published record 33.
    let puts = [1, 2, 3, 4, 5, 6, 7, 8, 19, 29, 30, 31, 32, 33];
    let puts = puts.iter().flat_map(|put| [format!("before_put:{put}"), format!("after_put:{put}")]);
    let named = ["before_plan:1", "before_part:1", "after_part:1", "before_part:12", "after_part:22"];
    let points: Vec<String> = named
        .iter()
        .chain(&["before_index:1", "before_publish:1"])
        .map(|&point| point.to_owned())
        .chain(puts)
        .collect();
    for (index, point) in points.iter().enumerate() {
        let output = format!("killed-{index}");
        let setting = format!("output.path={output}");
        let killed = workplace
            .command("run", &["--run-id", "night", "--set", &setting])
            .env("NIGHTCAP_KILL_AT", point)
            .output()
            .unwrap();
        assert_eq!(killed.status.code(), None, "{point} was not reached: {}", String::from_utf8_lossy(&killed.stderr));
        let before = workplace.parts(&output, "night");
        assert!(before.iter().all(|part| expected.contains(part)), "{point}: a part is visible that is not whole");
        continue_and_compare(&workplace, &output, &expected);
    }
}

#[test]
fn killed_at_random_moments_until_it_completes() {
    let (workplace, expected) = undisturbed();
    let started = Instant::now();
    workplace.run_ok(&["--run-id", "timing", "--set", "output.path=timing"]);
    let whole_run = started.elapsed();
    let start = |round| {
        let setting = format!("output.path=random-{round}");
        let mut command = workplace.command("run", &["--run-id", "night", "--set", &setting]);
        command.stderr(Stdio::null()).spawn().unwrap()
    };
    let complete = |round| continue_and_compare(&workplace, &format!("random-{round}"), &expected);
    kill_at_random(20_261_123, rounds(8, 4), whole_run, start, complete);
}

#[test]
fn without_a_run_id_the_unfinished_run_goes_on() {
    let workplace = Workplace::with_images(12, 3);
    killed_at(&mut workplace.command("run", &[]), "after_part:2");
    let status = nightcap().arg("status").arg(workplace.path("out")).arg("--json").output().unwrap();
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    let run = status["runs"][0]["run"].as_str().unwrap().to_owned();
    assert_eq!((&status["runs"][0]["state"], &status["runs"][0]["parts_present"]), (&"unfinished".into(), &2.into()));
    workplace.run_ok(&[]);
    assert_eq!(workplace.published("out"), [run]);
    // Another job does not touch it, and the same run id with another job is refused.
    let other = workplace.run(&["--run-id", &workplace.published("out")[0], "--set", "generation.max_new_tokens=3"]);
    assert_eq!(other.status.code(), Some(2));
    let message = String::from_utf8(other.stderr).unwrap();
    assert!(message.contains("was planned with other settings") && message.contains("max_new_tokens"), "{message}");
}

#[test]
fn an_unfinished_run_that_is_older_than_a_published_one_goes_on_and_says_so() {
    let workplace = Workplace::with_images(10, 2);
    killed_at(&mut workplace.command("run", &["--run-id", "night"]), "after_part:2");
    workplace.run_ok(&["--run-id", "other"]);
    std::fs::write(workplace.path("photos/9.png"), png_image(99)).unwrap();
    copy_output(&workplace, "out", "closed");
    let newest = |output: &str| {
        let mut newest = BTreeMap::new();
        for run in workplace.published(output) {
            for (key, hash) in rows_of(&workplace, output, &run) {
                newest.insert(key, (run.clone(), hash));
            }
        }
        newest
    };
    let before = newest("out");
    let went_on = workplace.run(&[]);
    let said = String::from_utf8(went_on.stderr).unwrap();
    assert!(went_on.status.success() && said.contains("going on with run night"), "{said}");
    assert!(said.contains("older than the published run other") && said.contains("hint: "), "{said}");
    assert!(workplace.published("out") == ["night", "other"] && newest("out") == before, "the newest rows stay");
    // The next one makes what is new.
    workplace.run_ok(&[]);
    let last = workplace.published("out").pop().unwrap();
    assert_eq!(rows_of(&workplace, "out", &last).keys().collect::<Vec<_>>(), ["row-0009"]);
    assert_eq!(newest("out").len(), 10);

    // As the hint says, only what is new is made.
    let mut closing = nightcap();
    closing.arg("finalize").arg(workplace.path("closed")).args(["--run-id", "night", "--partial"]);
    assert!(closing.status().unwrap().success());
    workplace.run_ok(&["--set", "output.path=closed"]);
    let published = workplace.published("closed");
    assert_eq!((published.len(), rows_of(&workplace, "closed", &published[2]).len()), (3, 1));
    let hashes =
        |output: &str| newest(output).into_iter().map(|(key, (_, hash))| (key, hash)).collect::<BTreeMap<_, _>>();
    assert!(hashes("closed") == hashes("out"));
}

/// The hashes of the images of a run, by key.
fn rows_of(workplace: &Workplace, output: &str, run: &str) -> BTreeMap<String, Option<String>> {
    let rows = workplace.rows(output, Some(run));
    rows.text("id").into_iter().flatten().zip(rows.text("content_hash")).collect()
}

#[test]
fn sigterm_stops_within_five_seconds_and_the_next_start_finishes() {
    let (workplace, expected) = undisturbed();
    let mut command = workplace.command("run", &["--run-id", "night", "--set", "output.path=stopped"]);
    // The signal comes while it stands still after its first part, so that it is not over before.
    let child = stopped_at(&mut command, "after_part:1");
    send(&child, Signal::TERM);
    let stopping = Instant::now();
    let ended = go_on(child);
    assert!(stopping.elapsed() < Duration::from_secs(5));
    assert_eq!(ended.status.code(), Some(75), "{}", String::from_utf8_lossy(&ended.stderr));
    assert!(workplace.published("stopped").is_empty());
    continue_and_compare(&workplace, "stopped", &expected);
}

#[test]
fn two_processes_on_one_run_write_each_part_once() {
    let (workplace, expected) = undisturbed();
    let command = || workplace.command("run", &["--run-id", "night", "--set", "output.path=twice"]);
    // The first one stands still before a part, which the second one makes.
    let first = stopped_at(&mut command(), "before_part:3");
    for output in [command().output().unwrap(), go_on(first)] {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(workplace.parts("twice", "night") == expected);
    // Started together, they meet wherever they do.
    let spawn = || {
        let mut command = workplace.command("run", &["--run-id", "night", "--set", "output.path=together"]);
        command.stderr(Stdio::piped()).spawn().unwrap()
    };
    for child in [spawn(), spawn()] {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(workplace.parts("together", "night") == expected);
}

#[test]
fn an_output_that_is_removed_in_mid_run_is_noticed() {
    let (workplace, expected) = undisturbed();
    let mut command = workplace.command("run", &["--run-id", "night", "--set", "output.path=removed"]);
    let child = stopped_at(&mut command, "after_part:1");
    std::fs::rename(workplace.path("removed"), workplace.path("elsewhere")).unwrap();
    let outcome = go_on(child);
    let said = String::from_utf8(outcome.stderr).unwrap();
    assert_eq!(outcome.status.code(), Some(75), "{said}");
    assert!(said.contains("hint: "), "{said}");
    assert!(workplace.published("elsewhere").is_empty());
    assert_eq!(workplace.parts("elsewhere", "night"), expected[..1]);
    let _ = std::fs::remove_dir_all(workplace.path("removed"));
    std::fs::rename(workplace.path("elsewhere"), workplace.path("removed")).unwrap();
    continue_and_compare(&workplace, "removed", &expected);
}
