//! Runs with little memory, inputs that hang or fail, a manifest that changes, or a closed stderr.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, LargeStringArray, StringViewArray};
use arrow::datatypes::DataType;

use crate::common::{Workplace, go_on, nightcap, peak_memory, stopped_at, strings, write_parquet};

#[test]
fn a_small_budget_and_failing_rows_do_not_stop_the_flow() {
    let workplace = Workplace::with_images(6, 1000);
    // Two thirds are missing; the others need more than half of the budget each, so that rows wait for memory all the time.
    std::fs::write(workplace.path("photos/large.bmp"), large_bmp()).unwrap();
    let images = (0..300).map(|row| match row % 6 {
        0 => Some("photos/large.bmp".to_owned()),
        1 => None,
        2 => Some(format!("photos/{}.png", row % 5)),
        _ => Some(format!("photos/missing-{row}.png")),
    });
    let ids = strings((0..300).map(|row| Some(row.to_string())));
    write_parquet(&workplace.path("manifest.parquet"), vec![("id", ids), ("image", strings(images))], 64);
    let job = std::fs::read_to_string(workplace.path("job.toml")).unwrap().replace("text = \"title\"\n", "");
    workplace.job(&job);
    let run = workplace.run(&["--set", "runtime.prefetch_bytes=1048576", "--set", "limits.min_failed_rows=1000"]);
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let rows = workplace.rows("out", None);
    assert_eq!(rows.text("status").iter().filter(|status| status.as_deref() == Some("ok")).count(), 100);
}

/// The command with stderr discarded.
fn quiet(mut command: std::process::Command) -> std::process::Command {
    command.stderr(std::process::Stdio::null());
    command
}

/// A BMP of 700 KB.
fn large_bmp() -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::RgbImage::from_pixel(540, 432, image::Rgb([7, 8, 9])).write_to(&mut bytes, image::ImageFormat::Bmp).unwrap();
    bytes.into_inner()
}

#[test]
fn memory_is_bounded_for_a_dictionary_of_large_images() {
    // One image of 700 KB that comes out 400 times, stored once: 280 MB if a batch held them all.
    let workplace = Workplace::with_images(1, 1000);
    let images: ArrayRef = Arc::new(BinaryArray::from_iter_values((0..400).map(|_| large_bmp())));
    let ids = strings((0..400).map(|row| Some(row.to_string())));
    write_parquet(&workplace.path("manifest.parquet"), vec![("id", ids), ("image", images)], 1000);
    assert!(std::fs::metadata(workplace.path("manifest.parquet")).unwrap().len() < 2_000_000);
    let job = std::fs::read_to_string(workplace.path("job.toml")).unwrap().replace("text = \"title\"\n", "");
    workplace.job(&job);
    let child = quiet(workplace.command("run", &["--set", "runtime.prefetch_bytes=4194304"])).spawn().unwrap();
    let (status, peak) = peak_memory(child);
    assert!(status.success());
    assert_eq!(workplace.rows("out", None).len(), 400);
    assert!(peak < 200_000_000, "peak memory {peak} bytes");
}

#[test]
fn column_types_of_other_writers_are_read() {
    let workplace = Workplace::with_images(4, 4);
    workplace.run_ok(&["--run-id", "plain", "--set", "output.path=plain"]);
    let ids = (0..4).map(|row| format!("row-{row:04}"));
    let images = (0..4).map(|row| format!("photos/{row}.png"));
    let keys: ArrayRef = Arc::new(LargeStringArray::from_iter_values(ids));
    let view: ArrayRef = Arc::new(StringViewArray::from_iter_values(images));
    let titles = (0..4).map(|row| (row % 3 == 0).then(|| format!("a dog on the beach {row}")));
    let kind = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    let dictionary = arrow::compute::cast(&strings(titles), &kind).unwrap();
    write_parquet(&workplace.path("manifest.parquet"), vec![("id", keys), ("image", view), ("title", dictionary)], 2);
    workplace.run_ok(&["--run-id", "other"]);
    let (plain, other) = (workplace.rows("plain", Some("plain")), workplace.rows("out", Some("other")));
    assert_eq!(other.text("caption"), plain.text("caption"));
    assert_eq!(other.text("content_signature"), plain.text("content_signature"));
}

#[test]
fn a_manifest_replaced_during_a_run_is_not_read() {
    let workplace = Workplace::with_images(40, 2);
    workplace.run_ok(&["--run-id", "night", "--set", "output.path=expected"]);
    let manifest = workplace.path("manifest.parquet");
    std::fs::copy(&manifest, workplace.path("old.parquet")).unwrap();
    // After it was opened, after its rows were selected, and while they are read.
    for (number, point) in
        ["after_manifest_open:1", "before_plan:1", "before_part:1", "after_part:1"].iter().enumerate()
    {
        let output = format!("out-{number}");
        let place = format!("output.path={output}");
        let child = stopped_at(&mut workplace.command("run", &["--run-id", "night", "--set", &place]), point);
        let other =
            vec![("id", strings([Some("x")])), ("image", strings([Some("y")])), ("title", strings([Some("z")]))];
        write_parquet(&workplace.path("new.parquet"), other, 10);
        std::fs::rename(workplace.path("new.parquet"), &manifest).unwrap();
        let ended = go_on(child);
        assert!(ended.status.success(), "{point}: {}", String::from_utf8_lossy(&ended.stderr));
        let expected = workplace.rows("expected", None).text("id");
        assert_eq!(workplace.rows(&output, None).text("id"), expected, "{point}");
        std::fs::rename(&manifest, workplace.path("new.parquet")).unwrap();
        std::fs::copy(workplace.path("old.parquet"), &manifest).unwrap();
    }
}

#[test]
fn a_closed_stderr_does_not_stop_a_run() {
    let workplace = Workplace::with_images(8, 2);
    let mut command = workplace.command("run", &[]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert!(command.stderr(writer).status().unwrap().success());
    assert_eq!(workplace.rows("out", None).len(), 8);
}

#[test]
fn where_looks_at_the_manifests_columns_and_at_one_row_at_a_time() {
    let workplace = Workplace::with_images(6, 4);
    std::fs::create_dir(workplace.path("title=folder")).unwrap();
    std::fs::copy(workplace.path("manifest.parquet"), workplace.path("title=folder/manifest.parquet")).unwrap();
    std::os::unix::fs::symlink(workplace.path("photos"), workplace.path("title=folder/photos")).unwrap();
    let hive = "input.manifest=title=folder/manifest.parquet";
    workplace.run_ok(&["--set", hive, "--set", "input.where=\"title LIKE 'a dog%'\""]);
    assert_eq!(workplace.rows("out", None).len(), 2);
    for many in ["id > MAX(id)", "COUNT(*) > 2", "id = FIRST_VALUE(id) OVER (ORDER BY id)"] {
        let run = workplace.run(&["--set", "output.path=none", "--set", &format!("input.where=\"{many}\"")]);
        assert_eq!(run.status.code(), Some(2), "{many}: {}", String::from_utf8_lossy(&run.stderr));
    }
    assert!(!workplace.path("none/_nightcap").exists(), "a refused job leaves nothing behind");
}

#[test]
fn where_takes_lists() {
    let workplace = Workplace::with_images(6, 10);
    for (number, (condition, rows)) in [
        ("id IN ('row-0001', 'row-0004', 'nobody')", 2),
        ("id NOT IN ('row-0001', 'row-0004')", 4),
        ("id IN ('row-0005')", 1),
        ("id IN ('row-0002', NULL)", 1),
        ("title IS NULL AND id IN ('row-0000', 'row-0001')", 1),
    ]
    .into_iter()
    .enumerate()
    {
        let output = format!("list-{number}");
        let (output_setting, condition) = (format!("output.path={output}"), format!("input.where=\"{condition}\""));
        workplace.run_ok(&["--set", &output_setting, "--set", &condition]);
        assert_eq!(workplace.rows(&output, None).len(), rows, "{condition}");
    }
    let many = workplace.run(&["--set", "output.path=none", "--set", "input.where=\"id IN (MAX(id))\""]);
    assert_eq!(many.status.code(), Some(2), "{}", String::from_utf8_lossy(&many.stderr));
}

#[test]
fn what_polars_panics_on_or_warns_of_is_said_like_all_else() {
    let workplace = Workplace::with_images(2, 10);
    let run = |condition: &str| {
        let mut command = nightcap();
        command.args(["--log-format", "json", "run"]).arg(workplace.path("job.toml"));
        let output = command.args(["--set", &format!("input.where=\"{condition}\"")]).output().unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        for line in log.lines() {
            assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "{condition}: every line is JSON: {line}");
        }
        (output.status.code(), log)
    };
    for condition in ["GREATEST() > 3", "DATE '2026-01-01' + INTERVAL 'x' > DATE '2026-01-01'", "INTERVAL '5'"] {
        let (status, log) = run(condition);
        assert_eq!(status, Some(2), "{condition}: {log}");
        assert!(log.contains("`input.where` =") && !log.contains("fault of nightcap"), "{condition}: {log}");
    }
    let (status, log) = run("DATE '2026-01-02' > DATE '2026-01-01'");
    assert_eq!(status, Some(0), "{log}");
    assert!(!log.contains("eprecat"), "{log}");
}

#[test]
fn the_times_of_a_manifest_that_nightcap_wrote_are_signatures() {
    let workplace = Workplace::with_images(3, 10);
    let photos = workplace.path("photos");
    let made = nightcap().arg("manifest").arg(&photos).arg("-o").arg(workplace.path("made.parquet")).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let job = std::fs::read_to_string(workplace.path("job.toml")).unwrap();
    let job = job.replace("manifest.parquet", "made.parquet").replace("text = \"title\"\n", "");
    workplace.job(&job.replace("image = \"image\"", "image = \"image\"\nsignature = [\"modified\"]"));
    workplace.run_ok(&[]);
    assert_eq!(workplace.rows("out", None).text("error_kind"), [None, None, None]);
    workplace.run_ok(&[]);
    assert_eq!(workplace.published("out").len(), 1, "nothing is new");
}
