//! The format number of an OUTPUT: the first run puts it, and every command refuses a folder of another format.

use std::process::{Command, Output};

use crate::common::{Workplace, killed_at, nightcap};

const FORMAT: &str = "out/_nightcap/format.json";

/// Every command that opens an OUTPUT.
fn commands(workplace: &Workplace) -> Vec<Command> {
    let on_output = |name: &str, arguments: &[&str]| {
        let mut command = nightcap();
        command.arg(name).arg(workplace.path("out")).args(arguments);
        command
    };
    vec![
        workplace.command("run", &[]),
        workplace.command("run", &["--run-id", "night", "--shard", "0/2"]),
        workplace.command("plan", &[]),
        on_output("status", &[]),
        on_output("finalize", &["--run-id", "night"]),
        on_output("discard", &["--run-id", "night"]),
        on_output("compact", &[]),
    ]
}

fn refused(output: &Output, expected: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains(expected) && said.contains("\nhint: "), "{said}");
}

fn tree(workplace: &Workplace) -> Vec<String> {
    let listed = Command::new("find").arg(workplace.path("out")).output().unwrap();
    let mut names: Vec<String> = String::from_utf8(listed.stdout).unwrap().lines().map(str::to_owned).collect();
    names.sort();
    names
}

#[test]
fn a_run_gives_a_folder_its_format_before_anything_else() {
    for arguments in [&["--run-id", "night"][..], &["--run-id", "night", "--shard", "0/1"], &[]] {
        let workplace = Workplace::with_images(2, 2);
        killed_at(&mut workplace.command("run", arguments), "after_put:1");
        let record: serde_json::Value =
            serde_json::from_slice(&std::fs::read(workplace.path(FORMAT)).unwrap()).unwrap();
        assert_eq!(record["format"], 2);
        assert_eq!(record["made_by"], format!("nightcap {}", env!("CARGO_PKG_VERSION")));
        let entries = std::fs::read_dir(workplace.path("out/_nightcap")).unwrap().count();
        assert_eq!(entries, 1, "nothing stands beside it yet");
        workplace.run_ok(arguments);
    }
}

#[test]
fn a_folder_of_another_format_is_refused_by_every_command() {
    let workplace = Workplace::with_images(2, 2);
    workplace.run_ok(&["--run-id", "night"]);
    let ours = std::fs::read(workplace.path(FORMAT)).unwrap();
    let others = [
        (
            r#"{"format": 3, "made_by": "nightcap 9.1.0", "more": []}"#,
            "expected format 2, found format 3, made by nightcap 9.1.0",
        ),
        (r#"{"format": 0}"#, "expected format 2, found format 0"),
        (r#"{"format": 2"#, "expected format 2, found a damaged _nightcap/format.json"),
        ("{}", "expected format 2, found a damaged _nightcap/format.json"),
        ("", "expected format 2, found a damaged _nightcap/format.json"),
    ];
    for (other, expected) in others {
        std::fs::write(workplace.path(FORMAT), other).unwrap();
        let before = tree(&workplace);
        for mut command in commands(&workplace) {
            refused(&command.output().unwrap(), expected);
        }
        assert_eq!(tree(&workplace), before, "nothing was written");
    }
    std::fs::remove_file(workplace.path(FORMAT)).unwrap();
    for mut command in commands(&workplace) {
        refused(&command.output().unwrap(), "expected format 2, found runs without a format number");
    }
    std::fs::write(workplace.path(FORMAT), ours).unwrap();
    for mut command in commands(&workplace).into_iter().take(4) {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn an_empty_folder_has_no_format_yet() {
    let workplace = Workplace::with_images(2, 2);
    std::fs::create_dir_all(workplace.path("out/notes")).unwrap();
    let status = nightcap().arg("status").arg(workplace.path("out")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&status.stdout), "no runs\n");
    assert!(workplace.command("plan", &[]).status().unwrap().success());
    assert!(!workplace.path("out/_nightcap").exists(), "who only looks writes nothing");
    workplace.run_ok(&[]);
    assert!(workplace.path(FORMAT).exists());
}
