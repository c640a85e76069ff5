//! A run that was killed after the decision to publish it, and damaged before its record was put: the warning and `status` say what an
//! operator does, and doing it loses nothing.

use std::fs::{read, remove_file, write};
use std::path::PathBuf;

use crate::common::{Workplace, killed_at, nightcap, said};

const OUTCOME: &str = "_nightcap/outcomes/night.json";
const PART: &str = "run=night/part-000002.parquet";
const PLAN: &str = "_nightcap/runs/night/plan.json";

/// Ten rows in five parts, all made, and the decision; the record is missing.
fn decided() -> (Workplace, Vec<(String, Vec<u8>)>) {
    let workplace = Workplace::with_images(10, 2);
    killed_at(&mut workplace.command("run", &["--run-id", "night"]), "before_publish:1");
    let parts = workplace.parts("out", "night");
    assert!(parts.len() == 5 && workplace.published("out").is_empty() && in_output(&workplace, OUTCOME).exists());
    (workplace, parts)
}

fn in_output(workplace: &Workplace, path: &str) -> PathBuf {
    workplace.path("out").join(path)
}

fn status(workplace: &Workplace, arguments: &[&str]) -> (Option<i32>, String) {
    let ended = nightcap().arg("status").arg(workplace.path("out")).args(arguments).output().unwrap();
    (ended.status.code(), String::from_utf8(ended.stdout).unwrap())
}

fn assert_clean(workplace: &Workplace) {
    let (code, said) = status(workplace, &["--check"]);
    assert!(code == Some(0) && !said.contains("closing"), "{said}");
}

/// A name, a damage to the part at a path, and whether `status` sees it without reading all rows.
type Damage = (&'static str, fn(&PathBuf), bool);
const DAMAGES: [Damage; 3] = [
    ("a part without a footer", |part| write(part, b"PAR1 no longer PAR1").unwrap(), true),
    ("a part that is gone", |part| remove_file(part).unwrap(), true),
    (
        "a changed key",
        |part| {
            let mut bytes = read(part).unwrap();
            bytes[40] ^= 0xff;
            write(part, bytes).unwrap();
        },
        false,
    ),
];

fn hint() -> String {
    format!("hint: put {PART} back from a backup; or remove it and {OUTCOME}, and run the job again")
}

/// As the hint says.
fn follow(workplace: &Workplace) {
    let _ = remove_file(in_output(workplace, PART));
    remove_file(in_output(workplace, OUTCOME)).unwrap();
}

#[test]
fn a_decided_run_with_a_damaged_part_is_completed_as_the_hint_says() {
    for (what, damage, in_footer) in DAMAGES {
        let (workplace, parts) = decided();
        damage(&in_output(&workplace, PART));
        for (arguments, finds) in [(&[][..], in_footer), (&["--check"], true)] {
            let (code, found) = status(&workplace, arguments);
            assert_eq!(code, Some(if finds { 2 } else { 0 }), "{what}: {found}");
            assert!(found.contains("closing") && found.contains(&hint()) == finds, "{what}: {found}");
        }
        let refused =
            nightcap().arg("finalize").arg(workplace.path("out")).args(["--run-id", "night"]).output().unwrap();
        assert!(refused.status.code() == Some(2) && said(&refused).contains(PART), "{what}: {}", said(&refused));
        follow(&workplace);
        workplace.run_ok(&[]);
        assert_eq!(workplace.published("out"), ["night"], "{what}");
        assert!(workplace.parts("out", "night") == parts, "{what}: the other parts stay, and it is made again");
        assert_clean(&workplace);
    }
}

#[test]
fn a_run_that_meets_it_warns_makes_the_rows_and_the_hint_still_works() {
    for (what, damage, _) in DAMAGES {
        let (workplace, parts) = decided();
        damage(&in_output(&workplace, PART));
        let run = workplace.run(&[]);
        assert!(run.status.success(), "{what}: {}", said(&run));
        assert!(said(&run).contains(&hint()) && said(&run).contains("its rows do not count"), "{what}: {}", said(&run));
        assert_eq!(said(&run).matches("hint: ").count(), 1, "{what}: {}", said(&run));
        assert_eq!((workplace.published("out").len(), workplace.rows("out", None).len()), (1, 10), "{what}");
        follow(&workplace);
        workplace.run_ok(&[]);
        assert_eq!(workplace.published("out").len(), 2, "{what}");
        assert!(workplace.parts("out", "night") == parts, "{what}");
        assert_clean(&workplace);
        let again = workplace.run(&[]);
        assert!(said(&again).contains("nothing is new") && !said(&again).contains("WARN"), "{what}: {}", said(&again));
    }
}

#[test]
fn with_another_manifest_the_other_parts_are_published_as_the_hint_says() {
    let (workplace, parts) = decided();
    write(in_output(&workplace, PART), b"PAR1 no longer PAR1").unwrap();
    follow(&workplace);
    workplace.manifest(0..9);
    workplace.run_ok(&[]);
    assert_eq!(workplace.published("out").len(), 2);
    let now = workplace.parts("out", "night");
    assert!(now.len() == 4 && now.iter().all(|part| parts.contains(part)), "the sound parts count");
    assert_clean(&workplace);
}

#[test]
fn a_part_that_is_put_back_from_a_backup_completes_the_run() {
    let (workplace, parts) = decided();
    write(in_output(&workplace, PART), b"PAR1 no longer PAR1").unwrap();
    write(in_output(&workplace, PART), &parts[2].1).unwrap();
    let run = workplace.run(&[]);
    assert!(run.status.success() && said(&run).contains("nothing is new"), "{}", said(&run));
    assert!(workplace.published("out") == ["night"] && workplace.parts("out", "night") == parts);
    assert_clean(&workplace);
}

#[test]
fn without_its_plan_it_is_discarded_as_the_hint_says() {
    let (workplace, _) = decided();
    write(in_output(&workplace, PLAN), b"{").unwrap();
    let hint = format!(
        "hint: put {PLAN} back from a backup; or remove {OUTCOME}, then `nightcap discard OUTPUT --run-id night`: the next run makes its rows again"
    );
    let (code, found) = status(&workplace, &[]);
    assert!(code == Some(2) && found.contains(&hint), "{found}");
    let run = workplace.run(&[]);
    assert!(run.status.success() && said(&run).contains(&hint), "{}", said(&run));
    assert_eq!(workplace.rows("out", None).len(), 10);
    remove_file(in_output(&workplace, OUTCOME)).unwrap();
    let discarded = nightcap().arg("discard").arg(workplace.path("out")).args(["--run-id", "night"]).output().unwrap();
    assert!(discarded.status.success(), "{}", said(&discarded));
    let again = workplace.run(&[]);
    assert!(said(&again).contains("nothing is new") && !said(&again).contains("WARN"), "{}", said(&again));
    assert_clean(&workplace);
}

#[test]
fn another_compaction_replaces_one_as_the_hint_says() {
    let workplace = Workplace::with_images(10, 2);
    workplace.run_ok(&["--run-id", "monday"]);
    workplace.run_ok(&["--run-id", "tuesday", "--full", "--limit", "4"]);
    let compact = |arguments: &[&str]| {
        let mut command = nightcap();
        command.arg("compact").arg(workplace.path("out")).args(["--grace", "0"]).args(arguments);
        command
    };
    killed_at(&mut compact(&["--run-id", "night"]), "before_publish:1");
    write(in_output(&workplace, PART), b"PAR1 no longer PAR1").unwrap();
    let hint =
        format!("hint: put {PART} back from a backup; or `nightcap compact OUTPUT` with another --run-id or none");
    let (code, found) = status(&workplace, &[]);
    assert!(code == Some(2) && found.contains(&hint), "{found}");
    let run = workplace.run(&[]);
    assert!(run.status.success() && said(&run).contains(&hint), "{}", said(&run));
    assert_eq!(workplace.published("out"), ["monday", "tuesday"]);
    let compacted = compact(&[]).output().unwrap();
    assert!(compacted.status.success() && said(&compacted).contains(&hint), "{}", said(&compacted));
    assert_eq!(workplace.rows("out", None).len(), 10);
    assert!(!in_output(&workplace, "run=night").exists() && !in_output(&workplace, "_nightcap/runs/night").exists());
    let again = workplace.run(&[]);
    assert!(said(&again).contains("nothing is new") && !said(&again).contains("WARN"), "{}", said(&again));
    assert_clean(&workplace);
}
