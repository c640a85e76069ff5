//! Runs that are killed at any point and resumed: the parts equal those of an uninterrupted run, byte for byte.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::common::{Workplace, nightcap};

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
    // A fixed linear congruential sequence: the moments differ between machines, the fractions do not.
    let mut state = 20_261_123_u64;
    // `make torture` asks for more.
    let rounds = std::env::var("NIGHTCAP_TORTURE").map_or(3, |rounds| rounds.parse().unwrap());
    for round in 0..rounds {
        let output = format!("random-{round}");
        let setting = format!("output.path={output}");
        for _ in 0..4 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let fraction = (state >> 40) as f64 / f64::from(1 << 24);
            let mut command = workplace.command("run", &["--run-id", "night", "--set", &setting]);
            let mut child = command.stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(whole_run.mul_f64(fraction));
            let _ = child.kill();
            child.wait().unwrap();
        }
        continue_and_compare(&workplace, &output, &expected);
    }
}

#[test]
fn without_a_run_id_the_unfinished_run_goes_on() {
    let workplace = Workplace::with_images(12, 3);
    let killed = workplace.command("run", &[]).env("NIGHTCAP_KILL_AT", "after_part:2").output().unwrap();
    assert_eq!(killed.status.code(), None);
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
fn sigterm_stops_within_five_seconds_and_the_next_start_finishes() {
    let (workplace, expected) = undisturbed();
    let mut command = workplace.command("run", &["--run-id", "night", "--set", "output.path=stopped"]);
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    let first_part = workplace.path("stopped/run=night/part-000000.parquet");
    let patience = Instant::now();
    while !first_part.exists() && patience.elapsed() < Duration::from_mins(1) {
        std::thread::sleep(Duration::from_millis(2));
    }
    let stopping = Instant::now();
    assert!(std::process::Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    let status = child.wait().unwrap();
    assert!(stopping.elapsed() < Duration::from_secs(5));
    // On a fast machine the run may have been over before the signal came.
    let finished = workplace.published("stopped") == ["night"];
    assert_eq!(status.code(), Some(if finished { 0 } else { 75 }));
    continue_and_compare(&workplace, "stopped", &expected);
}

#[test]
fn two_processes_on_one_run_write_each_part_once() {
    let (workplace, expected) = undisturbed();
    let spawn = || {
        let mut command = workplace.command("run", &["--run-id", "night", "--set", "output.path=twice"]);
        command.stderr(Stdio::piped()).spawn().unwrap()
    };
    for child in [spawn(), spawn()] {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(workplace.parts("twice", "night") == expected);
}

#[test]
fn an_output_that_is_removed_in_mid_run_is_noticed() {
    let (workplace, expected) = undisturbed();
    let mut command = workplace.command("run", &["--run-id", "night", "--set", "output.path=removed"]);
    let child = command.stderr(Stdio::piped()).spawn().unwrap();
    let first_part = workplace.path("removed/run=night/part-000000.parquet");
    let patience = Instant::now();
    while !first_part.exists() && patience.elapsed() < Duration::from_mins(1) {
        std::thread::sleep(Duration::from_millis(2));
    }
    std::fs::rename(workplace.path("removed"), workplace.path("elsewhere")).unwrap();
    let outcome = child.wait_with_output().unwrap();
    let said = String::from_utf8(outcome.stderr).unwrap();
    // On a fast machine the run may have been over before the folder went.
    if workplace.published("elsewhere") != ["night"] {
        assert_eq!(outcome.status.code(), Some(75), "{said}");
        assert!(said.contains("hint: "), "{said}");
        assert!(workplace.parts("elsewhere", "night").iter().all(|part| expected.contains(part)));
    }
    let _ = std::fs::remove_dir_all(workplace.path("removed"));
    std::fs::rename(workplace.path("elsewhere"), workplace.path("removed")).unwrap();
    continue_and_compare(&workplace, "removed", &expected);
}
