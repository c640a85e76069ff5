//! An outage does not become thousands of failed rows: the run stops with exit status 75, writes nothing of the current part, and
//! can be resumed.

use std::process::Command;

use crate::common::{Workplace, go_on, stopped_at, strings, write_parquet};
use crate::seaweed::{Seaweed, with_s3};
use crate::storage::{on_s3, run_command};

/// Starts the run, lets `trouble` happen while it stands still after its third part, and waits for its end.
fn disturbed(mut command: Command, trouble: impl FnOnce()) -> (Option<i32>, String) {
    let child = stopped_at(&mut command, "after_part:3");
    trouble();
    let outcome = go_on(child);
    (outcome.status.code(), String::from_utf8_lossy(&outcome.stderr).into_owned())
}

/// Many more rows than are read ahead in the memory of [`LITTLE`].
const ROWS: u32 = 600;
/// Memory for few images ahead, so that those of the last part are not read before the third part is written.
const LITTLE: [&str; 2] = ["--set", "runtime.prefetch_bytes=1048576"];

#[test]
fn a_folder_of_images_that_disappears_during_a_run() {
    let workplace = Workplace::with_images(ROWS, 10);
    let (photos, away) = (workplace.path("photos"), workplace.path("away"));
    let command = workplace.command("run", &[&["--run-id", "night"][..], &LITTLE].concat());
    let (status, log) = disturbed(command, || std::fs::rename(&photos, &away).unwrap());
    assert_eq!(status, Some(75), "{log}");
    assert!(log.contains("their storage does not answer") && log.contains("hint:"), "{log}");
    assert!(workplace.published("out").is_empty());
    let done = workplace.parts("out", "night").len();
    assert!((3..60).contains(&done), "{done} parts");
    // Still missing: no part is added. The mount point of an unmounted disk is an empty folder.
    std::fs::create_dir(&photos).unwrap();
    let still = workplace.run(&["--run-id", "night"]);
    assert_eq!(still.status.code(), Some(75), "{}", String::from_utf8_lossy(&still.stderr));
    assert_eq!(workplace.parts("out", "night").len(), done);
    std::fs::remove_dir(&photos).unwrap();
    std::fs::rename(&away, &photos).unwrap();
    workplace.run_ok(&["--run-id", "night"]);
    let rows = workplace.rows("out", None);
    assert_eq!(rows.len(), ROWS as usize);
    assert!(rows.text("status").iter().all(|status| status.as_deref() == Some("ok")), "no row is lost to the outage");
}

#[test]
fn a_thousand_deleted_images_are_a_thousand_failed_rows() {
    let workplace = Workplace::with_images(2, 64);
    let images = (0..1002).map(|row| match row {
        0 => Some("photos/0.png".to_owned()),
        1001 => Some("photos/1.png".to_owned()),
        // The whole folder is gone; the folder that all images share is not.
        row => Some(format!("photos/deleted/{row}.png")),
    });
    let ids = strings((0..1002).map(|row| Some(row.to_string())));
    let titles = strings((0..1002).map(|_| None::<&str>));
    write_parquet(
        &workplace.path("manifest.parquet"),
        vec![("id", ids), ("image", images_of(images)), ("title", titles)],
        300,
    );
    let run = workplace.run(&[]);
    assert_eq!(run.status.code(), Some(1), "{}", String::from_utf8_lossy(&run.stderr));
    let kinds = workplace.rows("out", None).text("error_kind");
    assert_eq!(kinds.iter().filter(|kind| kind.as_deref() == Some("not_found")).count(), 1000);
    assert_eq!(workplace.rows("out", None).len(), 1002);
}

fn images_of(images: impl Iterator<Item = Option<String>>) -> arrow::array::ArrayRef {
    strings(images)
}

#[test]
fn a_missing_image_is_a_failed_row_of_a_job_with_where() {
    let workplace = Workplace::with_images(30, 5);
    std::fs::remove_file(workplace.path("photos/7.png")).unwrap();
    let mut job = std::fs::read_to_string(workplace.path("job.toml")).unwrap();
    job = job.replace("[input]\n", "[input]\nwhere = \"id <> 'row-0003'\"\n");
    workplace.job(&job);
    let shard = |shard| workplace.run(&["--run-id", "night", "--shard", shard]);
    for run in [workplace.run(&["--set", "output.path=whole"]), shard("0/2"), shard("1/2")] {
        assert_eq!(run.status.code(), Some(0), "{}", String::from_utf8_lossy(&run.stderr));
    }
    let rows = workplace.rows("whole", None);
    let kinds = rows.text("error_kind").into_iter().flatten().collect::<Vec<_>>();
    assert_eq!((rows.len(), kinds), (29, vec!["not_found".to_owned()]));
    // An outage is told from it as without `where`, also where planning compares columns instead of images.
    std::fs::remove_dir_all(workplace.path("photos")).unwrap();
    for settings in ["output.path=gone", "input.signature=[\"title\"]"] {
        let run = workplace.run(&["--run-id", "gone", "--set", settings]);
        assert_eq!(run.status.code(), Some(75), "{}", String::from_utf8_lossy(&run.stderr));
    }
}

#[test]
fn outage_after_0_makes_missing_images_failed_rows() {
    let workplace = Workplace::with_images(30, 10);
    std::fs::remove_dir_all(workplace.path("photos")).unwrap();
    assert_eq!(workplace.run(&["--run-id", "night"]).status.code(), Some(75));
    assert!(workplace.parts("out", "night").is_empty());
    assert_eq!(workplace.run(&["--run-id", "night", "--set", "limits.outage_after=0"]).status.code(), Some(1));
    assert_eq!(workplace.rows("out", None).len(), 30);
}

#[test]
fn an_endpoint_that_dies_in_mid_run() {
    let (server, workplace) = (Seaweed::start(), Workplace::with_images(ROWS, 10));
    let mut settings = on_s3(&workplace, &server, "dying");
    settings[0] = "input.manifest=remote.parquet".to_owned();
    settings[1] = "output.path=out".to_owned();
    let images = (0..ROWS).map(|row| Some(format!("s3://night/dying/photos/{row}.png")));
    let ids = strings((0..ROWS).map(|row| Some(format!("row-{row:04}"))));
    let titles = strings((0..ROWS).map(|_| None::<&str>));
    write_parquet(
        &workplace.path("remote.parquet"),
        vec![("id", ids), ("image", strings(images)), ("title", titles)],
        100,
    );
    let quick = ["--run-id", "night", "--set", "limits.retries=1", "--set", "limits.fetch_timeout_ms=2000"];
    let command = run_command(&workplace, &server.endpoint(), &settings, &[&quick[..], &LITTLE].concat());
    let (status, log) = disturbed(command, || server.kill());
    assert_eq!(status, Some(75), "{log}");
    assert!(log.contains("their storage does not answer"), "{log}");
    let done = workplace.parts("out", "night").len();
    assert!((3..60).contains(&done), "{done} parts");
    // Credentials that were revoked stop it as well.
    let server = Seaweed::shared();
    on_s3(&workplace, server, "dying");
    let mut revoked = run_command(&workplace, &server.endpoint(), &settings, &quick);
    let revoked = revoked.env("AWS_SECRET_ACCESS_KEY", "revoked").output().unwrap();
    assert_eq!(revoked.status.code(), Some(75), "{}", String::from_utf8_lossy(&revoked.stderr));
    assert_eq!(workplace.parts("out", "night").len(), done);
    let mut resumed = run_command(&workplace, &server.endpoint(), &settings, &quick);
    assert!(with_s3(&mut resumed, &server.endpoint()).output().unwrap().status.success());
    let rows = workplace.rows("out", None);
    assert_eq!(rows.text("status").iter().filter(|status| status.as_deref() == Some("ok")).count(), ROWS as usize);
}

#[test]
fn a_run_whose_only_new_row_names_a_folder_that_does_not_exist() {
    let workplace = Workplace::with_images(2, 10);
    workplace.run_ok(&[]);
    let images = ["photos/0.png", "photos/1.png", "new/2.png"];
    let columns = vec![
        ("id", strings([Some("row-0000"), Some("row-0001"), Some("row-0002")])),
        ("image", strings(images.map(Some))),
        ("title", strings([Some("a dog on the beach 0"), None, None])),
    ];
    write_parquet(&workplace.path("manifest.parquet"), columns, 10);
    let run = workplace.run(&["--run-id", "second"]);
    let log = String::from_utf8(run.stderr).unwrap();
    assert_eq!(run.status.code(), Some(0), "{log}");
    assert_eq!(log.matches("their storage answers").count(), 1, "{log}");
    let rows = workplace.rows("out", Some("second"));
    assert_eq!(
        (rows.text("id"), rows.text("error_kind")),
        (vec![Some("row-0002".to_owned())], vec![Some("not_found".to_owned())])
    );
    assert_eq!(workplace.run(&["--retry-failed"]).status.code(), Some(0), "also when it is all that is taken");
}

#[test]
fn one_misspelt_bucket_is_one_failed_row() {
    let (server, workplace) = (Seaweed::shared(), Workplace::with_images(2, 10));
    on_s3(&workplace, server, "misspelt");
    let settings = ["output.path=out".to_owned()];
    let write = |images: &[&str]| {
        let ids = strings((0..images.len()).map(|row| Some(row.to_string())));
        let titles = strings(images.iter().map(|_| None::<&str>));
        let columns = vec![("id", ids), ("image", strings(images.iter().map(Some))), ("title", titles)];
        write_parquet(&workplace.path("manifest.parquet"), columns, 10);
    };
    write(&["s3://night/misspelt/photos/0.png", "s3://nihgt/misspelt/photos/1.png"]);
    let run = run_command(&workplace, &server.endpoint(), &settings, &[]).output().unwrap();
    let log = String::from_utf8(run.stderr).unwrap();
    assert_eq!(run.status.code(), Some(0), "{log}");
    assert_eq!(workplace.rows("out", None).text("error_kind"), [None, Some("not_found".to_owned())]);
    // If it is the only one, the job is wrong.
    write(&["s3://nihgt/misspelt/photos/0.png", "s3://nihgt/misspelt/photos/1.png"]);
    let run = run_command(&workplace, &server.endpoint(), &settings, &[]).output().unwrap();
    let log = String::from_utf8(run.stderr).unwrap();
    assert!(run.status.code() == Some(2) && log.contains("cannot list s3://nihgt/misspelt/photos"), "{log}");
}
