//! Disks that are full or may not be written, and clocks that are wrong.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use crate::common::{Workplace, killed_at, nightcap, strings, write_parquet};

/// Rows whose carried text makes parts of more than 100 KB.
fn large_parts() -> Workplace {
    let workplace = Workplace::with_images(9, 3);
    let text = |row: u32| {
        let mut state = u64::from(row) + 1;
        let letter = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b'a' + (state >> 59) as u8 % 26)
        };
        std::iter::repeat_with(letter).take(80_000).collect::<String>()
    };
    let columns = vec![
        ("id", strings((0..9).map(|row| Some(format!("row-{row:04}"))))),
        ("image", strings((0..9).map(|row| Some(format!("photos/{row}.png"))))),
        ("title", strings((0..9).map(|_| None::<&str>))),
        ("notes", strings((0..9).map(|row| Some(text(row))))),
    ];
    write_parquet(&workplace.path("manifest.parquet"), columns, 16);
    workplace
}

/// Every file below `folder`, by path within it.
fn files(folder: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()) {
        let name = entry.file_name().unwrap().to_str().unwrap().to_owned();
        if entry.is_dir() {
            found.extend(files(&entry).into_iter().map(|below| format!("{name}/{below}")));
        } else {
            found.push(name);
        }
    }
    found.sort();
    found
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_disk_that_is_full_stops_the_run_and_leaves_no_half_part() {
    let workplace = large_parts();
    workplace.run_ok(&["--run-id", "night", "--set", "output.path=undisturbed"]);
    let expected = workplace.parts("undisturbed", "night");
    assert!(expected.iter().all(|(_, bytes)| bytes.len() > 100_000));
    // No file may grow beyond 64 KB: the records find room, a part does not. The signal for it is ignored, as it is on a disk
    // that is full, so that writing fails in the middle.
    let run = workplace.command("run", &["--run-id", "night"]);
    let full = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 128; exec \"$0\" \"$@\""])
        .arg(run.get_program())
        .args(run.get_args())
        .output()
        .unwrap();
    let log = text(&full);
    assert_eq!(full.status.code(), Some(75), "{log}");
    assert!(log.contains("cannot write run=night/part-000000.parquet in the output folder"), "{log}");
    assert!(log.contains("hint: the parts already written stay; run the same command again to go on"), "{log}");
    assert_eq!(files(&workplace.path("out/run=night")), [""; 0], "nothing of a part is left");
    assert!(workplace.published("out").is_empty());
    workplace.run_ok(&["--run-id", "night"]);
    assert!(workplace.parts("out", "night") == expected);
}

/// The command without the privilege of root to ignore file permissions.
pub(crate) fn without_privileges(run: &Command) -> Command {
    let owner = Command::new("id").arg("-u").output().unwrap().stdout;
    if owner != b"0\n" {
        let mut command = Command::new(run.get_program());
        command.args(run.get_args());
        return command;
    }
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"]);
    command.arg(run.get_program()).args(run.get_args());
    command
}

fn permit(folder: &std::path::Path, mode: u32) {
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_folder_that_may_only_be_read() {
    let workplace = Workplace::with_images(6, 2);
    let run = workplace.command("run", &["--run-id", "night"]);
    // From the start: refused before anything is computed.
    std::fs::create_dir(workplace.path("out")).unwrap();
    permit(&workplace.path("out"), 0o555);
    let refused = without_privileges(&run).output().unwrap();
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused));
    assert!(text(&refused).contains("cannot use the output folder"), "{}", text(&refused));
    assert!(text(&refused).contains("Permission denied") && text(&refused).contains("hint:"), "{}", text(&refused));
    assert_eq!(files(&workplace.path("out")), [""; 0]);
    permit(&workplace.path("out"), 0o755);
    // From the second part on: the run stops, and is resumed when the folder is writable.
    killed_at(&mut workplace.command("run", &["--run-id", "night"]), "after_part:1");
    permit(&workplace.path("out/run=night"), 0o555);
    let stopped = without_privileges(&run).output().unwrap();
    assert_eq!(stopped.status.code(), Some(75), "{}", text(&stopped));
    assert!(text(&stopped).contains("run=night/part-000001.parquet"), "{}", text(&stopped));
    assert!(text(&stopped).contains("run the same command again"), "{}", text(&stopped));
    assert_eq!(files(&workplace.path("out/run=night")), ["part-000000.parquet"]);
    permit(&workplace.path("out/run=night"), 0o755);
    workplace.run_ok(&["--run-id", "night"]);
    assert_eq!(workplace.rows("out", None).len(), 6);
}

#[test]
fn an_output_that_is_a_file() {
    let workplace = Workplace::with_images(2, 2);
    for place in ["manifest.parquet", "manifest.parquet/out"] {
        let refused = workplace.run(&["--set", &format!("output.path={place}")]);
        assert_eq!(refused.status.code(), Some(2), "{}", text(&refused));
        assert!(text(&refused).contains("cannot use the output folder"), "{}", text(&refused));
    }
}

#[test]
fn clocks_that_go_backwards_change_nothing() {
    let workplace = Workplace::with_images(6, 3);
    // A run whose name and records have a date in another century.
    workplace.run_ok(&["--run-id", "r29990101t000000z"]);
    for record in ["published/r29990101t000000z.json", "runs/r29990101t000000z/plan.json"] {
        let path = workplace.path("out/_nightcap").join(record);
        let text = std::fs::read_to_string(&path).unwrap();
        let year = text.split("_at\": \"").nth(1).unwrap()[..4].to_owned();
        std::fs::write(&path, text.replace(&format!("_at\": \"{year}"), "_at\": \"2999")).unwrap();
    }
    std::fs::write(workplace.path("photos/1.png"), crate::common::png_image(50)).unwrap();
    workplace.run_ok(&[]);
    let published = workplace.published("out");
    assert_eq!((published.len(), &published[0][..]), (2, "r29990101t000000z"), "run_seq does not follow the clock");
    assert_eq!(workplace.rows("out", Some(&published[1])).text("id"), [Some("row-0001".to_owned())]);
    workplace.run_ok(&[]);
    assert_eq!(workplace.published("out").len(), 2, "the newer row is the one of the later run: nothing is new");
    let compacted = nightcap()
        .arg("compact")
        .arg(workplace.path("out"))
        .args(["--grace", "0", "--run-id", "all"])
        .output()
        .unwrap();
    assert!(compacted.status.success(), "{}", text(&compacted));
    let rows = workplace.rows("out", Some("all"));
    let seqs = rows.column("run_seq").to_data().buffers()[0].typed_data::<i64>().to_vec();
    assert_eq!(seqs.iter().filter(|seq| **seq == 2).count(), 1, "{seqs:?}");

    // A heartbeat with a time in the future does not count as alive.
    std::fs::write(workplace.path("photos/2.png"), crate::common::png_image(51)).unwrap();
    killed_at(&mut workplace.command("run", &["--run-id", "late"]), "before_part:1");
    let beat = workplace.path("out/_nightcap/runs/late/heartbeat-elsewhere-1");
    std::fs::write(&beat, r#"{"host":"elsewhere","boot":null,"pid":1,"started":null}"#).unwrap();
    let tomorrow = std::time::SystemTime::now() + std::time::Duration::from_hours(24);
    std::fs::File::open(&beat).unwrap().set_modified(tomorrow).unwrap();
    workplace.run_ok(&[]);
    assert_eq!(workplace.published("out"), ["all", "late"]);
}
