//! Storage that fails now and then: transient failures are retried, other failures become rows with an error kind, and no row is
//! lost.

use crate::common::{Workplace, strings, write_parquet};
use crate::proxy::{Fault, Proxy};
use crate::seaweed::Seaweed;
use crate::storage::{on_s3, run_command};

/// A run through `proxy` with settings of `[limits]`; its exit status and stderr.
fn run(workplace: &Workplace, proxy: &Proxy, settings: &[String], limits: &[&str]) -> (Option<i32>, String) {
    let mut command = run_command(workplace, &proxy.endpoint(), settings, &["--run-id", "night"]);
    command.args(limits.iter().flat_map(|setting| ["--set", setting]));
    let outcome = command.output().unwrap();
    (outcome.status.code(), String::from_utf8_lossy(&outcome.stderr).into_owned())
}

const FAULTS: [(Fault, &str); 9] = [
    (Fault::SlowFirstByte(900), "timeout"),
    (Fault::Stall(900), "timeout"),
    (Fault::Status(500, "InternalError"), "server_error"),
    (Fault::Status(503, "SlowDown"), "throttled"),
    (Fault::Status(429, "TooManyRequests"), "throttled"),
    (Fault::Reset, "connection"),
    (Fault::Truncate, "connection"),
    (Fault::WrongLength, "connection"),
    (Fault::LostAnswer, "connection"),
];

#[test]
fn images_are_fetched_in_spite_of_transient_faults() {
    let (server, workplace) = (Seaweed::shared(), Workplace::with_images(FAULTS.len() as u32, 4));
    let mut settings = on_s3(&workplace, server, "passing");
    settings[1] = "output.path=out".to_owned();
    let proxy = Proxy::before(server.port());
    for (row, (fault, _)) in FAULTS.iter().enumerate() {
        proxy.spoil("GET", &format!("/photos/{row}.png"), *fault, 2);
    }
    let (status, log) = run(&workplace, &proxy, &settings, &["limits.fetch_timeout_ms=400"]);
    assert_eq!(status, Some(0), "{log}");
    let rows = workplace.rows("out", None);
    assert_eq!(rows.text("error_message"), vec![None; FAULTS.len()]);
    assert_eq!(proxy.left(), 0, "every fault was met");
}

#[test]
fn images_fail_by_name_when_faults_stay() {
    let (server, workplace) = (Seaweed::shared(), Workplace::with_images(FAULTS.len() as u32 + 3, 100));
    let mut settings = on_s3(&workplace, server, "staying");
    settings[1] = "output.path=out".to_owned();
    let proxy = Proxy::before(server.port());
    for (row, (fault, _)) in FAULTS.iter().enumerate() {
        proxy.spoil("GET", &format!("/photos/{row}.png"), *fault, 2);
    }
    // These are never tried again.
    let after = FAULTS.len();
    proxy.spoil("GET", &format!("/photos/{after}.png"), Fault::Status(403, "AccessDenied"), 1);
    proxy.spoil("GET", &format!("/photos/{}.png", after + 1), Fault::Status(404, "NoSuchKey"), 1);
    let limits = ["limits.fetch_timeout_ms=400", "limits.retries=1", "limits.min_failed_rows=100"];
    let (status, log) = run(&workplace, &proxy, &settings, &limits);
    assert_eq!(status, Some(0), "{log}");
    let rows = workplace.rows("out", None);
    let expected = FAULTS.iter().map(|(_, kind)| Some((*kind).to_owned()));
    let expected: Vec<_> = expected.chain([Some("forbidden".to_owned()), Some("not_found".to_owned()), None]).collect();
    assert_eq!(rows.text("error_kind"), expected, "{:?}", rows.text("error_message"));
    assert_eq!(proxy.left(), 0);
}

#[test]
fn http_images_are_fetched_like_any_other() {
    let (server, workplace) = (Seaweed::shared(), Workplace::with_images(3, 3));
    on_s3(&workplace, server, "web");
    // The filer is a plain web server.
    let proxy = Proxy::before(server.filer_port());
    let url = |name: &str| Some(format!("{}/buckets/night/web/photos/{name}?size=full", proxy.endpoint()));
    let images = [url("0.png"), url("1.png"), url("none.png"), url("2.png")];
    let columns = vec![
        ("id", strings(["a", "b", "c", "d"].map(Some))),
        ("image", strings(images)),
        ("title", strings([None::<&str>; 4])),
    ];
    write_parquet(&workplace.path("manifest.parquet"), columns, 10);
    proxy.spoil("GET", "/1.png", Fault::Truncate, 2);
    proxy.spoil("GET", "/0.png", Fault::Status(503, "SlowDown"), 1);
    let allowed = ["limits.min_failed_rows=100", "limits.allow_private_hosts=127.0.0.1"];
    let (status, log) = run(&workplace, &proxy, &[], &allowed);
    assert_eq!(status, Some(0), "{log}");
    let kinds = workplace.rows("out", None).text("error_kind");
    assert_eq!(kinds, [None, None, Some("not_found".to_owned()), None]);
    assert_eq!(proxy.left(), 0);
}

#[test]
fn an_output_survives_lost_answers_and_a_busy_server() {
    let (server, workplace) = (Seaweed::shared(), Workplace::with_images(9, 3));
    let mut settings = on_s3(&workplace, server, "output");
    settings[1] = "output.path=s3://night/output/undisturbed".to_owned();
    let direct = Proxy::before(server.port());
    let (status, log) = run(&workplace, &direct, &settings, &[]);
    assert_eq!(status, Some(0), "{log}");
    let expected = server.objects("output/undisturbed/run=night");
    for (index, fault) in
        [Fault::LostAnswer, Fault::Status(503, "SlowDown"), Fault::Status(500, "InternalError")].into_iter().enumerate()
    {
        let proxy = Proxy::before(server.port());
        for object in ["format.json", "schema.json", "/seq/", "selection-", "plan.json", "part-000001", "published/"] {
            proxy.spoil("PUT", object, fault, 1);
        }
        proxy.spoil("GET", "manifest.parquet", Fault::Truncate, 1);
        settings[1] = format!("output.path=s3://night/output/out-{index}");
        let (status, log) = run(&workplace, &proxy, &settings, &[]);
        assert_eq!(status, Some(0), "{fault:?}: {log}");
        assert!(server.objects(&format!("output/out-{index}/run=night")) == expected, "{fault:?}: other parts");
        assert_eq!(server.objects(&format!("output/out-{index}/_nightcap/seq")).len(), 1, "one number, one run");
        assert_eq!(server.objects(&format!("output/out-{index}/_nightcap/published")).len(), 1);
        assert_eq!(proxy.left(), 0, "{fault:?}");
    }
}
