//! What an operator's tools are told: the metrics file, pings, `status --watch`, and captions to look at.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use crate::common::{
    Workplace, age_heartbeats, go_on, killed_at, nightcap, read_parquet, repo, said, send, skip, stopped_at,
};
use crate::web::WebServer;

/// The value of the sample that starts with `name` and has all of `labels`.
fn sample(text: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let of_name = |line: &&str| line.starts_with(&format!("nightcap_{name}{{"));
    let line = text.lines().filter(of_name).find(|line| labels.iter().all(|label| line.contains(label)))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// What promtool says of metrics; None where it is not installed.
fn promtool(text: &str) -> Option<String> {
    let child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        skip("promtool is not installed (Debian: prometheus), so the metrics are not checked by it");
        return None;
    };
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let ended = child.wait_with_output().unwrap();
    Some(format!("{}{}{}", ended.status, String::from_utf8_lossy(&ended.stdout), said(&ended)))
}

#[test]
fn the_metrics_file_says_how_a_run_ended_and_when_the_last_one_succeeded() {
    let workplace = Workplace::with_images(10, 4);
    std::fs::write(workplace.path("photos/3.png"), "no image").unwrap();
    let file = workplace.path("night.prom");
    let arguments = ["--metrics-file", file.to_str().unwrap()];
    workplace.run_ok(&arguments);
    let text = std::fs::read_to_string(&file).unwrap();
    let expected = [
        ("rows_total", "status=\"ok\"", 9.0),
        ("rows_total", "status=\"failed\"", 1.0),
        ("failed_rows_total", "kind=\"unsupported_format\"", 1.0),
        ("planned_rows", "", 10.0),
        ("planned_parts", "", 3.0),
        ("parts_total", "", 3.0),
        ("running", "", 0.0),
        ("exit_status", "command=\"run\"", 0.0),
    ];
    for (name, label, value) in expected {
        assert_eq!(sample(&text, name, &[label]), Some(value), "{name}: {text}");
    }
    for stage in ["manifest", "fetch", "preprocess", "model", "write"] {
        let busy = sample(&text, "stage_busy_seconds_total", &[&format!("stage=\"{stage}\"")]);
        assert!(busy.is_some_and(|seconds| seconds > 0.0), "{stage}: {text}");
    }
    if let Some(said) = promtool(&text) {
        assert_eq!(said, "exit status: 0", "{text}");
    }
    let succeeded = sample(&text, "last_success_timestamp_seconds", &[]).unwrap();

    // A job that is refused keeps the time of the last success, and so do later nights that fail.
    let refused = workplace.run(&["--metrics-file", file.to_str().unwrap(), "--set", "model.path=nowhere"]);
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(sample(&text, "exit_status", &[]), Some(2.0), "{text}");
    assert_eq!(sample(&text, "last_success_timestamp_seconds", &[]), Some(succeeded), "{text}");
    assert_eq!(sample(&text, "rows_total", &[]), None, "{text}");

    // The other commands that end a run.
    let run = workplace.published("out").remove(0);
    let arguments = ["--run-id", run.as_str(), "--metrics-file", file.to_str().unwrap()];
    let finalize = nightcap().arg("finalize").arg(workplace.path("out")).args(arguments).output().unwrap();
    assert!(finalize.status.success(), "{}", said(&finalize));
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(sample(&text, "rows_total", &["status=\"ok\"", "command=\"finalize\""]), Some(9.0), "{text}");
    assert_eq!(sample(&text, "run_info", &[&format!("run=\"{run}\"")]), Some(1.0), "{text}");
    workplace.run_ok(&["--full"]);
    let arguments = ["--metrics-file", file.to_str().unwrap()];
    let compact = nightcap().arg("compact").arg(workplace.path("out")).args(arguments).output().unwrap();
    assert!(compact.status.success(), "{}", said(&compact));
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(sample(&text, "rows_total", &["status=\"failed\"", "command=\"compact\""]), Some(1.0), "{text}");
    let folder = std::fs::read_dir(workplace.folder.path()).unwrap();
    let names: Vec<String> = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.iter().all(|name| !name.starts_with(".nightcap-")), "temporary files are left: {names:?}");
}

/// The GPU is a stand-in for ONNX Runtime, and a script answers as nvidia-smi does.
#[test]
fn the_memory_of_gpus_is_in_the_metrics_of_a_job_that_uses_them() {
    let workplace = Workplace::with_images(4, 4);
    let tool = workplace.path("bin/nvidia-smi");
    std::fs::create_dir(workplace.path("bin")).unwrap();
    std::fs::write(&tool, "#!/bin/sh\necho '0, 1024, 143771'\necho '1, [N/A], [N/A]'\necho '2, 7, 24576'\n").unwrap();
    std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", workplace.path("bin").display(), std::env::var("PATH").unwrap());
    for (number, device) in ["cpu", "stand-in"].into_iter().enumerate() {
        let file = workplace.path(&format!("{device}.prom"));
        let device = format!("runtime.devices=[\"{device}\"]");
        let mut run = workplace.command("run", &["--metrics-file", file.to_str().unwrap(), "--set", &device]);
        let output = format!("output.path=\"out{number}\"");
        let ended = run.args(["--set", &output]).env("PATH", &path).output().unwrap();
        assert!(ended.status.success(), "{}", said(&ended));
        let text = std::fs::read_to_string(&file).unwrap();
        let of = |name, gpu: &str| sample(&text, name, &[&format!("gpu=\"{gpu}\"")]);
        if number == 0 {
            assert_eq!(of("gpu_memory_used_bytes", "0"), None, "{text}");
            continue;
        }
        assert_eq!(of("gpu_memory_used_bytes", "0"), Some(1024.0 * 1_048_576.0), "{text}");
        assert_eq!(of("gpu_memory_used_bytes", "1"), None, "{text}");
        assert_eq!(of("gpu_memory_total_bytes", "2"), Some(24576.0 * 1_048_576.0), "{text}");
        if let Some(said) = promtool(&text) {
            assert_eq!(said, "exit status: 0", "{text}");
        }
    }
}

#[test]
fn the_metrics_of_a_run_at_work_say_that_it_runs() {
    let workplace = Workplace::with_images(8, 2);
    let file = workplace.path("night.prom");
    let arguments = ["--metrics-file", file.to_str().unwrap()];
    let sleeper = stopped_at(&mut workplace.command("run", &arguments), "before_part:2");
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(sample(&text, "running", &[]), Some(1.0), "{text}");
    assert_eq!((sample(&text, "exit_status", &[]), sample(&text, "last_success_timestamp_seconds", &[])), (None, None));
    assert!(go_on(sleeper).status.success());
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!((sample(&text, "running", &[]), sample(&text, "exit_status", &[])), (Some(0.0), Some(0.0)), "{text}");
}

#[test]
fn a_metrics_file_that_cannot_be_written_is_refused_before_anything_runs() {
    let workplace = Workplace::with_images(2, 2);
    for path in ["nowhere/night.prom", "photos"] {
        let path = workplace.path(path);
        let ended = workplace.run(&["--metrics-file", path.to_str().unwrap()]);
        assert_eq!(ended.status.code(), Some(2), "{}", said(&ended));
        assert!(said(&ended).contains("--metrics-file") && !workplace.path("out").exists(), "{}", said(&ended));
    }
}

#[test]
fn a_dead_mans_switch_is_told_the_start_and_the_exit_status() {
    let workplace = Workplace::with_images(4, 2);
    let server = WebServer::start();
    for path in ["/5f2a-secret/start", "/5f2a-secret", "/5f2a-secret/2"] {
        server.answer(path, 200, &[], b"OK");
    }
    let url = format!("{}/5f2a-secret?create=1", server.origin());
    let targets = |server: &WebServer| server.requests().into_iter().map(|request| request.target).collect::<Vec<_>>();
    workplace.run_ok(&["--ping", &url]);
    assert_eq!(targets(&server), ["/5f2a-secret/start?create=1", "/5f2a-secret?create=1"]);
    let agent = server.requests()[0].header("user-agent").unwrap().to_owned();
    assert!(agent.starts_with("nightcap/"), "{agent}");

    let refused = workplace.command("run", &["--set", "model.path=nowhere"]).env("NIGHTCAP_PING_URL", &url).output();
    assert_eq!(refused.unwrap().status.code(), Some(2));
    assert_eq!(targets(&server)[2..], ["/5f2a-secret/start?create=1", "/5f2a-secret/2?create=1"]);
}

#[test]
fn a_ping_that_fails_changes_nothing_and_its_url_is_never_shown() {
    let workplace = Workplace::with_images(4, 2);
    let server = WebServer::start();
    server.redirect("/5f2a-secret/start", 302, "http://127.0.0.1:1/elsewhere-5f2a");
    let unreachable = format!("http://127.0.0.1:1/{}", "5f2a-secret");
    for (url, expected) in [
        (format!("{}/5f2a-secret", server.origin()), "status 302; redirects are not followed"),
        (format!("{}/5f2a-secret", server.origin()), "status 404"),
        (unreachable, "refused"),
    ] {
        let ended =
            workplace.command("run", &["--full", "--ping", &url]).env("NIGHTCAP_LOG", "trace").output().unwrap();
        let said = said(&ended);
        assert!(ended.status.success() && said.contains(expected), "{said}");
        assert!(!said.contains("5f2a"), "{said}");
    }
    for url in ["hc-ping.com/5f2a-secret", "ftp://host/5f2a-secret"] {
        let ended = workplace.run(&["--ping", url]);
        assert_eq!(ended.status.code(), Some(2));
        assert!(!said(&ended).contains("5f2a") && said(&ended).contains("expected a URL"), "{}", said(&ended));
    }
}

#[test]
fn status_watch_shows_which_shard_is_dead_until_the_run_is_finished() {
    let workplace = Workplace::with_images(12, 2);
    let shard = |shard: &'static str| workplace.command("run", &["--run-id", "night", "--shard", shard]);
    killed_at(&mut shard("0/3"), "before_part:2");
    age_heartbeats(&workplace, "out", "night");
    assert!(shard("1/3").output().unwrap().status.success());
    let sleeper = stopped_at(&mut shard("2/3"), "before_part:1");
    let mut watch = nightcap();
    watch.arg("status").arg(workplace.path("out")).args(["--watch", "--interval", "1"]);
    let mut watch = watch.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert!(go_on(sleeper).status.success());
    assert!(shard("0/3").output().unwrap().status.success());
    let finalize = nightcap().arg("finalize").arg(workplace.path("out")).args(["--run-id", "night"]).output().unwrap();
    assert!(finalize.status.success(), "{}", said(&finalize));
    assert!(watch.wait().unwrap().success());
    let shown = std::io::read_to_string(watch.stdout.take().unwrap()).unwrap();
    let first: Vec<&str> = shown.lines().take(4).collect();
    assert!(first[0].starts_with("run night: unfinished, 3 of 6 parts"), "{shown}");
    assert!(first[1].contains("shard       0/3") && first[1].contains("1 of 2 parts  dead: "), "{shown}");
    assert!(first[2].contains("shard       1/3") && first[2].ends_with("2 of 2 parts  done"), "{shown}");
    assert!(first[3].contains("shard       2/3") && first[3].contains("0 of 2 parts  working: "), "{shown}");
    assert!(shown.ends_with("no run is unfinished\n"), "{shown}");
}

#[test]
fn captions_that_repeat_themselves_are_marked_counted_and_warned_of() {
    let workplace = Workplace::with_images(6, 3);
    let ended = workplace.run(&["--set", "generation.max_new_tokens=12"]);
    assert!(ended.status.success(), "{}", said(&ended));
    let (mut repeating, mut empty) = (0, 0);
    let run = workplace.published("out").remove(0);
    for (name, _) in workplace.parts("out", &run) {
        let rows = read_parquet(&workplace.path(&format!("out/run={run}/{name}")));
        let column = |name: &str| rows.column_by_name(name).unwrap().clone();
        let captions = arrow::array::AsArray::as_string::<i32>(&column("caption")).clone();
        let marks = arrow::array::AsArray::as_boolean(&column("caption_repeats")).clone();
        for (caption, mark) in captions.iter().zip(&marks) {
            let caption = caption.unwrap();
            assert_eq!(mark, Some(nightcap::support::repetition::repeats(caption)), "{caption}");
            repeating += u64::from(mark == Some(true));
            empty += u64::from(caption.trim().is_empty());
        }
    }
    let record = std::fs::read(workplace.path(&format!("out/_nightcap/published/{run}.json"))).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
    assert_eq!((&record["repeating_captions"], &record["empty_captions"]), (&repeating.into(), &empty.into()));
    assert!(repeating > 0, "the tiny model repeats itself");
    assert!(
        said(&ended)
            .contains(&format!("some captions repeat themselves; `caption_repeats` says which captions={repeating}")),
        "{}",
        said(&ended)
    );
}

/// The events of docs/watching.md: message and fields.
fn documented_events() -> Vec<(String, BTreeSet<String>)> {
    let page = std::fs::read_to_string(repo("docs/watching.md")).unwrap();
    let table = page.split("| message | fields |").nth(1).unwrap().split("\n\n").next().unwrap();
    let cell = |cell: &str| cell.trim().trim_matches('`').trim().to_owned();
    let event = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').collect();
        (cell(cells[0]), cells[1].split(',').map(cell).filter(|field| !field.is_empty()).collect())
    };
    table.lines().skip(2).map(event).collect()
}

#[test]
fn the_documented_events_of_json_logs_have_their_fields() {
    let workplace = Workplace::with_images(4, 2);
    let logged = |arguments: &[&str], point: Option<&str>| {
        let mut command = workplace.command("run", &[&["--log-format", "json"], arguments].concat());
        if let Some(point) = point {
            let child = stopped_at(&mut command, point);
            send(&child, rustix::process::Signal::TERM);
            return said(&go_on(child));
        }
        said(&command.output().unwrap())
    };
    let lines = [
        logged(&["--full"], Some("before_part:2")),
        logged(&["--full"], None),
        logged(&["--full", "--set", "generation.max_new_tokens=12"], None),
        logged(&["--set", "generation.max_new_tokens=12"], None),
    ];
    let lines = lines.concat();
    let events: Vec<serde_json::Map<String, serde_json::Value>> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let documented = documented_events();
    assert!(documented.len() >= 9, "{documented:?}");
    let mut missing = Vec::new();
    for (message, fields) in documented {
        let found: Vec<_> = events.iter().filter(|event| event["message"] == *message).collect();
        if found.is_empty() {
            missing.push(message.clone());
        }
        for event in found {
            let names = event.keys().filter(|name| !["timestamp", "level", "message"].contains(&name.as_str()));
            assert_eq!(names.cloned().collect::<BTreeSet<_>>(), fields, "{message}");
        }
    }
    // No model of the tests writes nothing.
    assert_eq!(missing, ["some captions are empty"], "{lines}");
}
