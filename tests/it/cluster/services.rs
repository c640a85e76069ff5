//! `jobs/systemd` as `systemd-analyze` reads it, and `jobs/airflow` as Airflow loads it.

use std::path::Path;
use std::process::{Command, Output};

use super::engine::{Held, path_with, program, succeed};
use super::workload::{PARTS, Workload};
use crate::common::{repo, said, skip};

/// What `systemd-analyze` says about the units, with the binary under test where they expect it, after a change.
fn verify(change: (&str, &str)) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let mut units = Vec::new();
    for unit in ["nightcap.service", "nightcap.timer"] {
        let text = std::fs::read_to_string(repo("jobs/systemd").join(unit)).unwrap();
        let text = text.replace("/usr/local/bin/nightcap", env!("CARGO_BIN_EXE_nightcap")).replace(change.0, change.1);
        units.push(folder.path().join(unit));
        std::fs::write(units.last().unwrap(), text).unwrap();
    }
    Command::new("systemd-analyze").args(["verify", "--man=no"]).args(units).output().unwrap()
}

#[test]
fn systemd_takes_the_units() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return skip("systemd-analyze is missing: apt-get install systemd");
    }
    let verified = verify(("", ""));
    assert!(verified.status.success() && said(&verified).is_empty(), "{}", said(&verified));
    // It finds an unknown key, a value that a oneshot may not have, and a time that never comes.
    for wrong in [("Nice=", "Nise="), ("Restart=on-failure", "Restart=always"), ("*-*-* 22:00", "*-*-* 25:00")] {
        let refused = verify(wrong);
        assert!(!said(&refused).is_empty(), "{wrong:?}");
    }
    let service = std::fs::read_to_string(repo("jobs/systemd/nightcap.service")).unwrap();
    // Of the exit statuses, 75 alone is tried again.
    for line in ["Type=oneshot", "Restart=on-failure", "RestartPreventExitStatus=1 2"] {
        assert!(service.lines().any(|found| found == line), "{line}");
    }
}

/// The DAG in one process of Airflow, with its database. An earlier night is unfinished, and the first attempt of one shard is killed.
#[test]
fn airflow_runs_the_dag() {
    let Some(airflow) = program("airflow") else { return };
    if !Held::possible() {
        return;
    }
    let workload = Workload::new();
    // Without a network: Airflow would report its use.
    let holder = Held::start_alone(tempfile::tempdir().unwrap().keep(), "");
    let home = workload.workplace.path("airflow");
    std::fs::create_dir(&home).unwrap();
    workload.nightcap_does(&format!(
        "case \"$*\" in *\" 1/3 \"*) if mkdir {} 2>/dev/null; then export NIGHTCAP_KILL_AT=after_part:1; fi;; esac",
        workload.path("tried")
    ));
    let in_airflow = |program: &Path| {
        let mut command = holder.inside(program);
        command
            .env("AIRFLOW_HOME", &home)
            .env("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
            .env("AIRFLOW__USAGE_DATA_COLLECTION__ENABLED", "False")
            .env("AIRFLOW__CORE__DAGS_FOLDER", repo("jobs/airflow"))
            .env("NIGHTCAP_JOB", workload.path("job.toml"))
            .env("NIGHTCAP_OUTPUT", workload.path("out"))
            .env("NIGHTCAP_SHARDS", "3")
            .env("PATH", path_with(&workload.bin()));
        command
    };
    workload.has_a_bad_image();
    workload.leaves("out", "monday", 4);
    workload.leaves("out", "sunday", 0);
    succeed(in_airflow(&airflow).args(["db", "migrate"]));
    let script = repo("tests/cluster/run_dag.py");
    let printed = succeed(in_airflow(&airflow.with_file_name("python")).arg(script));
    let seen: serde_json::Value = serde_json::from_str(printed.lines().last().unwrap()).unwrap();
    assert_eq!((&seen["errors"], &seen["state"]), (&serde_json::json!({}), &"success".into()), "{printed}");
    let task = |name: &str, index: i32, tries: u32| serde_json::json!([name, index, "success", tries]);
    let expected = [
        task("finalize", -1, 1),
        task("publish_what_is_left", -1, 1),
        task("shard", 0, 1),
        task("shard", 1, 2),
        task("shard", 2, 1),
    ];
    assert_eq!(seen["tasks"], serde_json::json!(expected), "{printed}");
    let published = workload.workplace.published("out");
    assert_eq!((published.len(), published[0].as_str()), (2, "monday"));
    let rows = |run: &str| workload.workplace.rows("out", Some(run)).len();
    assert_eq!((rows("monday"), rows(&published[1])), (8, 2 * PARTS - 8));
}
