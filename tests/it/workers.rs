//! Several workers, one of which is suspended, dies or runs in another PID namespace: no row is published twice, and no run that
//! a process works on is closed.

use crate::common::{Workplace, age_heartbeats, go_on, killed_at, nightcap, stopped_at};
use crate::proxy::{Fault, Proxy};
use crate::seaweed::Seaweed;
use crate::storage::{on_s3, run_command};

/// Another job on the same OUTPUT, which closes an unfinished run first.
const OTHER_JOB: [&str; 2] = ["--set", "generation.max_new_tokens=3"];

#[test]
fn a_worker_that_was_suspended_while_its_run_was_closed_adds_nothing() {
    let workplace = Workplace::with_images(6, 2);
    let sleeper = stopped_at(&mut workplace.command("run", &["--run-id", "slow"]), "before_part:2");
    age_heartbeats(&workplace, "out", "slow");
    workplace.run_ok(&OTHER_JOB);
    let ended = go_on(sleeper);
    let message = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.code() == Some(2) && message.contains("run slow was closed"), "{message}");
    assert_eq!(
        workplace.rows("out", Some("slow")).len(),
        2,
        "a part without rows has the name of the one that came too late"
    );
    let check = nightcap().arg("status").arg(workplace.path("out")).arg("--check").output().unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));

    // A run that was closed with some of its parts does not count as complete.
    for shard in [&[][..], &["--shard", "1/2"]] {
        let again = workplace.run(&[&["--run-id", "slow"], shard].concat());
        let message = String::from_utf8(again.stderr).unwrap();
        assert!(again.status.code() == Some(2) && message.contains("run slow was closed"), "{message}");
    }
    let finalize = |arguments: &[&str]| {
        nightcap()
            .arg("finalize")
            .arg(workplace.path("out"))
            .args(["--run-id", "slow"])
            .args(arguments)
            .output()
            .unwrap()
    };
    assert_eq!(finalize(&[]).status.code(), Some(2));
    assert_eq!(finalize(&["--partial"]).status.code(), Some(0), "who asks for what there is gets it");
}

#[test]
fn a_worker_that_meets_a_half_closed_run_does_not_keep_it_from_being_closed() {
    let workplace = Workplace::with_images(6, 2);
    let sleeper = stopped_at(&mut workplace.command("run", &["--run-id", "slow"]), "before_part:2");
    age_heartbeats(&workplace, "out", "slow");
    killed_at(&mut workplace.command("run", &OTHER_JOB), "before_publish:1");
    // It finds the filler, which the next closer must not take for a part.
    let ended = go_on(sleeper);
    let message = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.code() == Some(2) && message.contains("run slow was closed"), "{message}");
    workplace.run_ok(&OTHER_JOB);
    let published = workplace.published("out");
    assert_eq!((published.len(), published[0].as_str()), (2, "slow"));
    assert_eq!(workplace.rows("out", Some("slow")).len(), 2);
    let check = nightcap().arg("status").arg(workplace.path("out")).arg("--check").output().unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
}

#[test]
fn a_part_that_arrives_after_discard_does_not_count() {
    let workplace = Workplace::with_images(6, 2);
    let sleeper = stopped_at(&mut workplace.command("run", &["--run-id", "slow"]), "before_part:2");
    age_heartbeats(&workplace, "out", "slow");
    let discard = nightcap().arg("discard").arg(workplace.path("out")).args(["--run-id", "slow"]).status();
    assert!(discard.unwrap().success());
    let ended = go_on(sleeper);
    let message = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.code() == Some(2) && message.contains("run slow was discarded"), "{message}");
    workplace.run_ok(&["--run-id", "next"]);
    assert_eq!(workplace.published("out"), ["next"]);
    let compacted = nightcap().arg("compact").arg(workplace.path("out")).status().unwrap();
    assert!(compacted.success() && workplace.parts("out", "slow").is_empty());
}

#[test]
fn a_worker_in_another_container_is_alive_as_long_as_it_renews_its_heartbeat() {
    let workplace = Workplace::with_images(6, 2);
    killed_at(&mut workplace.command("run", &["--run-id", "night"]), "after_part:1");
    let read = |path: &str| std::fs::read_to_string(path).unwrap().trim().to_owned();
    let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap().display().to_string();
    let beat = |namespace: &str| {
        // A process of this machine's current boot that has no entry in /proc here.
        let worker = serde_json::json!({
            "host": read("/proc/sys/kernel/hostname"),
            "boot": read("/proc/sys/kernel/random/boot_id"),
            "pid_namespace": namespace,
            "pid": 4_000_000,
            "started": 17,
        });
        std::fs::write(workplace.path("out/_nightcap/runs/night/heartbeat-here-4000000-17"), worker.to_string())
            .unwrap();
    };
    beat("pid:[1]");
    let refused = workplace.run(&OTHER_JOB);
    let message = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.status.code() == Some(75) && message.contains("process 4000000"), "{message}");
    // In this namespace, it would be in /proc.
    beat(&namespace);
    workplace.run_ok(&OTHER_JOB);
}

#[test]
fn a_heartbeat_that_hangs_is_given_up() {
    let (server, workplace) = (Seaweed::shared(), Workplace::with_images(2, 2));
    let settings = on_s3(&workplace, server, "hanging");
    let proxy = Proxy::before(server.port());
    // For ten minutes a worker must not count as dead.
    proxy.spoil("PUT", "/heartbeat-", Fault::SlowFirstByte(600_000), 1);
    let outcome = run_command(&workplace, &proxy.endpoint(), &settings, &["--run-id", "night"]).output().unwrap();
    assert!(outcome.status.success(), "{}", String::from_utf8_lossy(&outcome.stderr));
    assert_eq!(proxy.left(), 0);
}

#[test]
fn shards_without_new_rows() {
    let workplace = Workplace::with_images(6, 2);
    let night = |run: &str| {
        for shard in ["0/2", "1/2"] {
            workplace.run_ok(&["--run-id", run, "--shard", shard]);
        }
        let ended = nightcap().arg("finalize").arg(workplace.path("out")).args(["--run-id", run]).output().unwrap();
        let log = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(0), "{log}");
        (serde_json::from_slice::<serde_json::Value>(&ended.stdout).unwrap()["rows"].as_u64().unwrap(), log)
    };
    assert_eq!(night("monday").0, 6);
    let (rows, log) = night("tuesday");
    assert!(rows == 0 && log.contains("nothing was new: the run is published without rows"), "{log}");
    assert_eq!(night("tuesday").0, 0, "once more is no harm");
    let check = nightcap().arg("status").arg(workplace.path("out")).arg("--check").output().unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    // A typo is none of these.
    let typo = nightcap().arg("finalize").arg(workplace.path("out")).args(["--run-id", "teusday"]).output().unwrap();
    assert_eq!(typo.status.code(), Some(2));
    assert!(String::from_utf8(typo.stderr).unwrap().contains("there is no run teusday"));
    assert!(!workplace.path("out/_nightcap/runs/teusday").exists());

    // Without --shard no other process has to agree, and no run is made.
    workplace.run_ok(&["--run-id", "wednesday"]);
    assert_eq!(workplace.published("out"), ["monday", "tuesday"]);
    // A run without rows that was not finalized does not stop the next one.
    workplace.run_ok(&["--run-id", "thursday", "--shard", "0/2"]);
    std::fs::write(workplace.path("photos/1.png"), crate::common::png_image(77)).unwrap();
    workplace.run_ok(&["--run-id", "friday"]);
    assert_eq!(workplace.rows("out", Some("friday")).len(), 1);
    let compacted = nightcap().arg("compact").arg(workplace.path("out")).args(["--run-id", "all"]).output().unwrap();
    assert!(compacted.status.success(), "{}", String::from_utf8_lossy(&compacted.stderr));
    assert_eq!(workplace.rows("out", Some("all")).len(), 6);
}

/// Models may take minutes to load: a worker that is started again has to see first whether there is something left to do.
#[test]
fn a_worker_whose_parts_are_there_loads_no_model() {
    let workplace = Workplace::with_images(6, 2);
    let without_library = |arguments: &[&str]| {
        let missing = workplace.path("libonnxruntime.so");
        let output = workplace.command("run", arguments).env("ORT_DYLIB_PATH", missing).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let [first, second] = [["--run-id", "night", "--shard", "0/2"], ["--run-id", "night", "--shard", "1/2"]];
    let (status, said) = without_library(&first);
    assert!(status == Some(2) && said.contains("no usable ONNX Runtime"), "{said}");
    assert!(!workplace.path("out").exists(), "nothing is written before the models are there");
    workplace.run_ok(&first);
    let (status, said) = without_library(&first);
    assert!(status == Some(0) && said.contains("shard finished"), "{said}");
    let (status, said) = without_library(&second);
    assert!(status == Some(2) && said.contains("no usable ONNX Runtime"), "{said}");
    workplace.run_ok(&second);
    let (status, said) = without_library(&["--run-id", "night"]);
    assert!(status == Some(0) && said.contains("published"), "{said}");
    assert_eq!(workplace.rows("out", Some("night")).len(), 6);
}
