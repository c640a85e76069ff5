//! Records of OUTPUT that somebody forged, or that a disk damaged: a command on them says which record is wrong, removes nothing outside
//! OUTPUT, and needs no memory that a number in a record asks for.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::common::{Workplace, nightcap, peak_memory};

/// Two published runs of twelve rows each, and an unfinished one of which a part is there.
fn three_runs() -> Workplace {
    let workplace = Workplace::with_images(12, 4);
    workplace.run_ok(&["--run-id", "monday"]);
    workplace.run_ok(&["--run-id", "tuesday", "--full"]);
    let shard = workplace.run(&["--run-id", "half", "--full", "--shard", "0/3"]);
    assert_eq!(shard.status.code(), Some(0), "{}", String::from_utf8_lossy(&shard.stderr));
    workplace
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            let _ = std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A fresh copy of `out`, in which `edit` has changed the record at `path`.
fn forged(workplace: &Workplace, path: &str, edit: impl Fn(&mut Value)) -> PathBuf {
    let copy = workplace.path("copy");
    if copy.exists() {
        std::fs::remove_dir_all(&copy).unwrap();
    }
    copy_folder(&workplace.path("out"), &copy);
    let record = copy.join(path);
    let mut value: Value = std::fs::read(&record).map_or(json!({}), |bytes| serde_json::from_slice(&bytes).unwrap());
    edit(&mut value);
    std::fs::create_dir_all(record.parent().unwrap()).unwrap();
    std::fs::write(&record, serde_json::to_vec_pretty(&value).unwrap()).unwrap();
    copy
}

fn set(key: &'static str, value: Value) -> impl Fn(&mut Value) {
    move |record| record[key] = value.clone()
}

/// All files below a folder, with their sizes.
fn files(folder: &Path) -> Vec<(PathBuf, u64)> {
    let walk = walkdir::WalkDir::new(folder).sort_by_file_name().into_iter().map(Result::unwrap);
    walk.map(|entry| {
        (entry.path().to_owned(), if entry.file_type().is_file() { entry.metadata().unwrap().len() } else { 0 })
    })
    .collect()
}

/// Runs a command on an OUTPUT; it must end with 2 and a message that names `what`, without a panic, within 1 GB.
fn refused(command: &mut Command, what: &str) -> Output {
    let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let output = child.wait_with_output().unwrap();
    let said =
        [output.stdout.clone(), output.stderr.clone()].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert_eq!(output.status.code(), Some(2), "{command:?}: {said}");
    assert!(said.contains(what), "{command:?}: expected {what} in {said}");
    assert!(!said.contains("panic") && !said.contains("internal error"), "{command:?}: {said}");
    output
}

fn on(output: &Path, command: &str, arguments: &[&str]) -> Command {
    let mut child = nightcap();
    child.arg(command).arg(output).args(arguments);
    child
}

const PUBLISHED: &str = "_nightcap/published/monday.json";
const PLAN: &str = "_nightcap/runs/half/plan.json";

#[test]
fn names_out_of_records_lead_nowhere() {
    let workplace = three_runs();
    let victim = workplace.path("victim");
    std::fs::create_dir_all(victim.join("empty")).unwrap();
    std::fs::write(victim.join("precious#1"), "kept").unwrap();
    let outside = files(&victim);
    let names = [
        "../../../victim",
        "../../../victim/empty",
        "../victim",
        "..",
        ".",
        "",
        "/etc",
        "a/b",
        "Night",
        "1",
        "a b",
        "a\u{0}b",
        "a.b",
        "run=monday",
        "-a",
        "é",
    ];
    let long = "a".repeat(5000);
    for name in names.into_iter().chain([long.as_str()]) {
        let copy = forged(&workplace, PUBLISHED, set("supersedes", json!([name])));
        let before = files(&copy.join("run=monday"));
        for command in ["compact", "status"] {
            refused(&mut on(&copy, command, &[]), PUBLISHED);
        }
        // It reads no record of another run.
        assert!(on(&copy, "discard", &["--run-id", "half"]).status().unwrap().success());
        assert_eq!((files(&victim), files(&copy.join("run=monday"))), (outside.clone(), before), "{name:?}");
    }
    for (record, key, command) in [
        (PUBLISHED, "index", "compact"),
        (PUBLISHED, "reuse_index", "status"),
        (PUBLISHED, "run", "compact"),
        (PLAN, "run", "status"),
        (PLAN, "signatures", "status"),
    ] {
        for name in ["../../../victim/precious#1", "index-../../x", "/etc/passwd", "tuesday/../monday", "plan.json"] {
            let copy = forged(&workplace, record, set(key, json!(name)));
            refused(&mut on(&copy, command, &[]), record);
        }
    }
    for key in ["supersedes", "considered", "reuses"] {
        let copy = forged(&workplace, PLAN, set(key, json!(["../../../victim"])));
        refused(&mut on(&copy, "status", &[]), PLAN);
        refused(&mut on(&copy, "compact", &[]), PLAN);
        assert_eq!(files(&victim), outside);
    }
    let copy = forged(&workplace, PLAN, |plan| plan["manifest"][0]["selection"] = json!("../../../victim/precious#1"));
    refused(&mut on(&copy, "status", &[]), PLAN);
    // A record that is another run's.
    let copy = forged(&workplace, PUBLISHED, set("run", json!("tuesday")));
    refused(&mut on(&copy, "compact", &[]), PUBLISHED);
    let copy = forged(&workplace, PLAN, set("run", json!("monday")));
    refused(&mut on(&copy, "finalize", &["--run-id", "half", "--partial"]), PLAN);
}

#[test]
fn numbers_of_records_are_checked_before_they_are_used() {
    let workplace = three_runs();
    let huge = json!(9_223_372_036_854_775_807_i64);
    let cases: Vec<(&str, &'static str, Value)> = vec![
        (PUBLISHED, "parts", huge.clone()),
        (PUBLISHED, "parts", json!(4_000_000_000_u64)),
        (PUBLISHED, "parts", json!(-1)),
        (PUBLISHED, "parts", json!(0)),
        (PUBLISHED, "rows", huge.clone()),
        (PUBLISHED, "rows", json!(u64::MAX)),
        (PUBLISHED, "ok", json!(u64::MAX)),
        (PUBLISHED, "failed", json!(u64::MAX)),
        (PUBLISHED, "failures", json!({"io": u64::MAX, "timeout": 2})),
        (PUBLISHED, "run_seq", huge.clone()),
        (PUBLISHED, "run_seq", json!(-5)),
        (PUBLISHED, "run_seq", json!(0)),
        (PUBLISHED, "partial", json!([0, u64::MAX])),
        (PUBLISHED, "partial", json!([0, 1])),
        (PLAN, "part_rows", json!(0)),
        (PLAN, "part_rows", json!(u64::MAX)),
        (PLAN, "parts", huge.clone()),
        (PLAN, "parts", json!(2)),
        (PLAN, "rows", json!(1_u64 << 60)),
        (PLAN, "rows", json!(u64::MAX)),
        (PLAN, "run_seq", json!(i64::MIN)),
        (PLAN, "run_seq", huge),
        (PLAN, "batch_size", json!(0)),
    ];
    for (record, key, value) in cases {
        let copy = forged(&workplace, record, set(key, value));
        refused(&mut on(&copy, "status", &["--check"]), record);
        refused(&mut on(&copy, "compact", &[]), record);
        if record == PLAN {
            refused(&mut on(&copy, "finalize", &["--run-id", "half", "--partial"]), record);
        }
        let output = format!("output.path={}", copy.display());
        refused(&mut workplace.command("run", &["--set", &output]), record);
    }
    // Consistent with each other, and with nothing else.
    for (rows, part_rows) in [(1_u64 << 40, 1_u64), (4_000_000_000, 1), (4_000_000_000, 1_000_000)] {
        let copy = forged(&workplace, PLAN, |plan| {
            (plan["rows"], plan["part_rows"], plan["parts"]) =
                (json!(rows), json!(part_rows), json!(rows.div_ceil(part_rows)));
        });
        for arguments in [&["--run-id", "half"][..], &["--run-id", "half", "--partial"]] {
            let child = on(&copy, "finalize", arguments).spawn().unwrap();
            let (status, memory) = peak_memory(child);
            assert!(
                matches!(status.code(), Some(2 | 75)) && memory < 1 << 30,
                "{rows} rows: {status:?}, {memory} bytes"
            );
        }
    }
    let copy = forged(&workplace, PUBLISHED, |record| {
        (record["parts"], record["rows"], record["ok"]) =
            (json!(4_000_000_000_u64), json!(4_000_000_000_u64), json!(4_000_000_000_u64));
    });
    let (status, memory) =
        peak_memory(on(&copy, "status", &["--check"]).stdout(std::process::Stdio::null()).spawn().unwrap());
    assert!(status.code() == Some(2) && memory < 1 << 30, "{status:?}, {memory} bytes");
    let (status, memory) = peak_memory(on(&copy, "compact", &[]).spawn().unwrap());
    assert!(status.code() == Some(2) && memory < 1 << 30, "{status:?}, {memory} bytes");
}

#[test]
fn the_last_number_of_a_run_is_the_last() {
    let workplace = three_runs();
    for name in ["9223372036854775807", "999999999999", "-9223372036854775808", "18446744073709551615"] {
        let record = format!("_nightcap/seq/{name}.json");
        let copy = forged(&workplace, &record, set("run", json!("other")));
        let output = format!("output.path={}", copy.display());
        refused(&mut workplace.command("run", &["--full", "--run-id", "next", "--set", &output]), "_nightcap/seq/");
    }
    // Not a number: not a claim.
    let copy = forged(&workplace, "_nightcap/seq/zzz.json", set("run", json!("../x")));
    let output = format!("output.path={}", copy.display());
    workplace.run_ok(&["--full", "--run-id", "next", "--set", &output]);
}

#[test]
fn indexes_that_claim_more_than_they_hold() {
    let workplace = three_runs();
    let published: Value =
        serde_json::from_slice(&std::fs::read(workplace.path("out").join(PUBLISHED)).unwrap()).unwrap();
    let names = [published["index"].as_str().unwrap(), published["reuse_index"].as_str().unwrap()];
    for (name, seed) in
        names.into_iter().flat_map(|name| [0, 1, 2, 3, 4, 9, 14_u32].into_iter().map(move |seed| (name, seed)))
    {
        let record = format!("_nightcap/runs/monday/{name}");
        let copy = forged(&workplace, PUBLISHED, |_| ());
        let mut bytes = std::fs::read(copy.join(&record)).unwrap();
        match seed {
            // The length of the header.
            0 => bytes[8..12].copy_from_slice(&u32::MAX.to_be_bytes()),
            1 => bytes.truncate(5),
            2 => bytes.truncate(bytes.len() - 7),
            3 => bytes.clear(),
            4 => {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                if let Some(at) = text.find("\"rows\": 12") {
                    bytes.splice(at + 8..at + 10, *b"9223372036854775807");
                    let length = u32::from_be_bytes(bytes[8..12].try_into().unwrap()) + 17;
                    bytes[8..12].copy_from_slice(&length.to_be_bytes());
                } else {
                    bytes[20..24].copy_from_slice(&u32::MAX.to_be_bytes());
                }
            }
            seed => {
                let at = (seed as usize * 7919) % bytes.len();
                bytes[at] ^= 1 << (seed % 8);
            }
        }
        std::fs::write(copy.join(&record), &bytes).unwrap();
        refused(&mut on(&copy, "status", &["--check"]), &record);
        let output = format!("output.path={}", copy.display());
        for mut command in [
            on(&copy, "compact", &[]),
            workplace.command("plan", &["--set", &output]),
            workplace.command("run", &["--full", "--set", &output, "--set", "output.reuse_by_content=true"]),
        ] {
            let (status, memory) = peak_memory(
                command.stderr(std::process::Stdio::null()).stdout(std::process::Stdio::null()).spawn().unwrap(),
            );
            assert!(
                matches!(status.code(), Some(0 | 2 | 75)) && memory < 1 << 30,
                "{command:?} {seed}: {status:?} {memory}"
            );
        }
    }
}

#[test]
fn odd_names_in_an_output_are_found_and_left_alone() {
    use std::os::unix::ffi::OsStrExt;
    let workplace = three_runs();
    let odd: [&[u8]; 8] = [b"a b", b"UPPER", b"%2e%2e", b"\xff\xfe", b"a\nb", b"..a", b"#1", b"a\x01b"];
    let copy = forged(&workplace, PUBLISHED, |_| ());
    for name in odd {
        let name = std::ffi::OsStr::from_bytes(name);
        let folder = copy.join("_nightcap/runs").join(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("plan.json"), "{}").unwrap();
        let mut part = std::ffi::OsString::from("run=");
        part.push(name);
        std::fs::create_dir_all(copy.join(&part)).unwrap();
        std::fs::write(copy.join(&part).join("part-000000.parquet"), "x").unwrap();
    }
    let before = files(&copy.join("_nightcap/runs"));
    let output = refused(&mut on(&copy, "status", &["--json"]), "no run can have this name");
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["runs"].as_array().unwrap().len(), 3, "{said}");
    assert_eq!(said["findings"].as_array().unwrap().len(), 2 * odd.len(), "{said:#}");
    // Nothing is done to them, and they stand in nobody's way.
    let job = format!("output.path={}", copy.display());
    let ran = workplace.run(&["--set", &job, "--run-id", "next", "--full"]);
    assert_eq!(ran.status.code(), Some(0), "{}", String::from_utf8_lossy(&ran.stderr));
    let left = files(&copy.join("_nightcap/runs"));
    assert!(before.iter().all(|file| left.contains(file)));
}

#[test]
fn nothing_is_removed_or_written_through_links() {
    let workplace = three_runs();
    let elsewhere = workplace.path("elsewhere");
    std::fs::create_dir_all(&elsewhere).unwrap();
    for name in ["part-000000.parquet", "plan.json", "part-000001.parquet#1"] {
        std::fs::write(elsewhere.join(name), "kept").unwrap();
    }
    let outside = files(&elsewhere);
    let link = |copy: &Path, name: &str, target: &Path| {
        let _ = std::fs::remove_dir_all(copy.join(name));
        std::os::unix::fs::symlink(target, copy.join(name)).unwrap();
    };
    for name in ["run=half", "_nightcap/runs/half"] {
        let copy = forged(&workplace, PUBLISHED, |_| ());
        link(&copy, name, &elsewhere);
        refused(&mut on(&copy, "status", &[]), name);
        let discard = on(&copy, "discard", &["--run-id", "half"]).output().unwrap();
        assert_eq!(discard.status.code(), Some(2), "{name}: {}", String::from_utf8_lossy(&discard.stderr));
        assert_eq!(files(&elsewhere), outside, "{name}");
        assert!(copy.join(name).is_symlink());
    }
    // A link to another run of the same OUTPUT.
    let copy = forged(&workplace, PUBLISHED, |_| ());
    link(&copy, "run=half", &copy.join("run=monday"));
    let monday = files(&copy.join("run=monday"));
    refused(&mut on(&copy, "discard", &["--run-id", "half"]), "run=half");
    assert_eq!(files(&copy.join("run=monday")), monday);
    // A compaction removes the runs that it replaces.
    let copy = forged(&workplace, "_nightcap/published/tuesday.json", set("supersedes", json!(["monday"])));
    link(&copy, "run=monday", &elsewhere);
    on(&copy, "compact", &[]).output().unwrap();
    assert_eq!(files(&elsewhere), outside);
    // A part is not put through a link either.
    let copy = forged(&workplace, PUBLISHED, |_| ());
    link(&copy, "run=next", &elsewhere);
    let job = format!("output.path={}", copy.display());
    let ran = workplace.run(&["--set", &job, "--run-id", "next", "--full"]);
    assert!(matches!(ran.status.code(), Some(2 | 75)), "{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(files(&elsewhere), outside);
    // OUTPUT itself may be one.
    link(&workplace.path(""), "linked", &workplace.path("out"));
    assert_eq!(on(&workplace.path("linked"), "discard", &["--run-id", "half"]).status().unwrap().code(), Some(0));
}
