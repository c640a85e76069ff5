//! `jobs/ray` on a real Ray cluster: one node with two processors, in a network of its own, because Ray listens on every address of a machine.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::SystemTime;

use rustix::process::Signal;

use super::engine::{Held, Process, path_with, processes, program, succeed, wait_for};
use super::workload::{PARTS, Workload};
use crate::common::{copy_output, killed_at, nightcap, repo, said};

const ADDRESS: &str = "127.0.0.1:6379";
/// Without it, anybody who reaches a port of Ray may run code.
const TOKEN: [(&str, &str); 2] = [
    ("RAY_AUTH_MODE", "token"),
    ("RAY_AUTH_TOKEN", "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"),
];

struct Ray {
    cluster: Held,
    python: PathBuf,
}

impl Ray {
    fn start() -> Option<Self> {
        let (python, ray) = (program("python")?, program("ray")?);
        if !Held::possible() {
            return None;
        }
        let folder = tempfile::tempdir().unwrap().keep();
        // Ray gives up where a node is not there after 30 s, which a busy machine may need.
        let script = format!(
            "export RAY_USAGE_STATS_ENABLED=0 RAY_enable_metrics_collection=0 {tokens}\n\
             for try in 1 2 3 4 5; do\n\
             {ray} start --head --port=6379 --num-cpus=2 --memory=4000000000 --object-store-memory=100000000 \
             --include-dashboard=false --disable-usage-stats --temp-dir={folder}/r && touch ready && break\n\
             {ray} stop --force; rm -rf r\n\
             done\n\
             touch tried",
            tokens = TOKEN.map(|(name, value)| format!("{name}={value}")).join(" "),
            ray = ray.display(),
            folder = folder.display(),
        );
        let ray = Self { cluster: Held::start_alone(folder, &script), python };
        let tried = || ray.cluster.folder.join("tried").exists().then_some(());
        wait_for("Ray", tried, || ray.cluster.log());
        assert!(ray.cluster.folder.join("ready").exists(), "{}", ray.cluster.log());
        Some(ray)
    }

    /// A script in the cluster.
    fn script(&self, path: &Path, workload: &Workload) -> Command {
        let mut command = self.cluster.inside(&self.python);
        command.arg(path).env("RAY_ADDRESS", ADDRESS).envs(TOKEN).env("PATH", path_with(&workload.bin()));
        command
    }

    /// The driver, with five shards.
    fn driver(&self, workload: &Workload, output: &str, arguments: &[&str]) -> Command {
        let mut command = self.script(&repo("jobs/ray/nightcap_ray.py"), workload);
        let program = workload.bin().join("nightcap");
        command.args([workload.path("job.toml"), workload.path(output)]);
        command.args(["--shards", "5", "--num-cpus", "1", "--memory", "100000000", "--pause", "1"]);
        command.arg("--nightcap").arg(program).args(arguments);
        command
    }
}

/// The stopped worker on a shard of a driver's OUTPUT, `out`.
fn stopped(driver: &mut Child, workload: &Workload, shard: &str) -> Process {
    let of_output = format!("output.path={}", workload.path("out"));
    let wanted = |process: &Process| {
        process.state == 'T' && process.words.contains(&of_output) && process.words.contains(&shard.to_owned())
    };
    let found = || {
        let ended = driver.try_wait().unwrap();
        assert!(ended.is_none(), "{}", std::io::read_to_string(driver.stderr.take().unwrap()).unwrap());
        processes().into_iter().find(wanted)
    };
    wait_for(&format!("shard {shard} to stop"), found, String::new)
}

/// Which line of stderr names the run.
fn run_id(output: &Output) -> String {
    let said = said(output);
    said.lines().find_map(|line| line.strip_prefix("run ")).unwrap_or_else(|| panic!("{said}")).to_owned()
}

#[test]
fn ray() {
    let Some(ray) = Ray::start() else { return };
    killed_workers_leave_no_gap(&ray);
    a_job_that_is_wrong_stops_every_shard(&ray);
    ray_data_reads_what_counts(&ray);
}

/// In the first night there is no OUTPUT. One worker of Ray is killed, one nightcap is, and one ends with 75.
fn killed_workers_leave_no_gap(ray: &Ray) {
    let workload = Workload::new();
    workload.nightcap_does(&format!(
        "case \"$*\" in *\" 0/5 \"*|*\" 2/5 \"*) point=STOP_AT=before_part:2;; *\" 1/5 \"*) point=KILL_AT=after_part:1;; esac\n\
         if [ -n \"$point\" ] && mkdir \"{0}/tried.${{6%/5}}\" 2>/dev/null; then export NIGHTCAP_$point; else touch \"{0}/again.${{6%/5}}\"; fi",
        workload.path("bin")
    ));
    let mut driver = ray.driver(&workload, "out", &[]);
    let mut driver = driver.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let first = stopped(&mut driver, &workload, "0/5");
    let worker = processes().into_iter().find(|process| process.id == first.parent).unwrap();
    assert!(worker.words[0].starts_with("ray::nightcap"), "{:?}", worker.words);
    worker.send(Signal::KILL);
    let killed = SystemTime::now();
    let second = stopped(&mut driver, &workload, "2/5");
    second.send(Signal::TERM);
    second.send(Signal::CONT);
    let ended = driver.wait_with_output().unwrap();
    let text = said(&ended);
    assert!(ended.status.success(), "{text}");
    for shard in [1, 2] {
        assert!(text.contains(&format!("shard {shard} ended with 75; ")), "{text}");
    }
    assert!(!text.contains("shard 0 ended with 75"), "Ray itself replaces a worker that dies: {text}");
    assert!(text.contains("5 of 5 finished"), "{text}");
    let published: serde_json::Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert_eq!((&published["parts"], published["run"].as_str()), (&PARTS.into(), Some(run_id(&ended).as_str())));
    workload.is_complete("out", &run_id(&ended));
    let again = std::fs::metadata(workload.path("bin/again.0")).unwrap().modified().unwrap();
    let seconds = again.duration_since(killed).unwrap().as_secs_f32();
    println!("Ray has started the shard of a killed worker again after {seconds:.1} s");
}

fn a_job_that_is_wrong_stops_every_shard(ray: &Ray) {
    let workload = Workload::new();
    // Shard 1 waits until shard 0 has a model that does not exist.
    workload.nightcap_does(&format!(
        "case \"$*\" in *\" 1/5 \"*) export NIGHTCAP_STOP_AT=before_part:1;; *\" 0/5 \"*) while [ ! -e {} ]; do sleep 0.1; done; set -- \"$@\" --set model.path=/nowhere;; esac",
        workload.path("go"),
    ));
    let mut driver = ray.driver(&workload, "out", &["--run-id", "wrong"]);
    let mut driver = driver.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    stopped(&mut driver, &workload, "1/5");
    std::fs::write(workload.path("go"), "").unwrap();
    let ended = driver.wait_with_output().unwrap();
    assert!(ended.status.code() == Some(2) && said(&ended).contains("/nowhere"), "{}", said(&ended));
    let of_output = format!("output.path={}", workload.path("out"));
    let gone = || (!processes().iter().any(|process| process.words.contains(&of_output))).then_some(());
    wait_for("the end of the other shards", gone, String::new);
    assert!(workload.workplace.published("out").is_empty());
}

fn ray_data_reads_what_counts(ray: &Ray) {
    let workload = Workload::new();
    let to = format!("output.path={}", workload.path("out"));
    workload.has_a_bad_image();
    workload.leaves("out", "monday", 4);
    workload.leaves("out", "sunday", 0);
    let ended = ray.driver(&workload, "out", &["--shards", "1"]).output().unwrap();
    assert!(ended.status.success(), "{}", said(&ended));
    assert_eq!(workload.workplace.published("out"), ["monday".to_owned(), run_id(&ended)]);
    // A row of an unfinished run must not be read.
    killed_at(&mut workload.workplace.command("run", &["--full", "--run-id", "half", "--set", &to]), "after_part:2");
    copy_output(&workload.workplace, "out", "compacted");
    let to = format!("output.path={}", workload.path("compacted"));
    workload.workplace.run_ok(&["--full", "--run-id", "again", "--set", &to, "--set", "limits.min_failed_rows=10"]);
    let compacted = nightcap().arg("compact").arg(workload.path("compacted")).output().unwrap();
    assert!(compacted.status.success(), "{}", said(&compacted));
    let mut read = ray.script(&repo("tests/cluster/read_with_ray.py"), &workload);
    let printed = succeed(read.args([workload.path("out"), workload.path("compacted")]));

    let seen: serde_json::Value = serde_json::from_str(printed.lines().last().unwrap()).unwrap();
    let of = |run: &str| workload.workplace.rows("out", Some(run)).text("id").into_iter().map(Option::unwrap);
    let night = run_id(&ended);
    let mut published: Vec<_> =
        of("monday").map(|id| (id, "monday")).chain(of(&night).map(|id| (id, &*night))).collect();
    published.sort_unstable();
    assert_eq!((published.len(), &seen["published"]), (2 * PARTS, &serde_json::json!(published)));
    assert_eq!(seen["types"]["image_embedding"], "fixed_size_list<element: float not null>[16]");
    let rows = workload.workplace.rows("compacted", Some("again"));
    let newest: Vec<_> = rows.text("id").into_iter().zip(rows.text("caption")).collect();
    assert_eq!((newest.len(), &seen["newest"]), (2 * PARTS, &serde_json::json!(newest)));
}
