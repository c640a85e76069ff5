//! Runs over a manifest that changes: only new and changed rows are computed, and the documented views show the newest row of
//! every key.

use std::collections::BTreeMap;
use std::process::Command;

use crate::common::{Workplace, killed_at, png_image, repo, strings, write_parquet};
use crate::documents::views;
use crate::readers::python;

const PART_ROWS: u32 = 50;

/// A collection that changes between runs: key, image file and title of each row.
struct Collection {
    workplace: Workplace,
    rows: BTreeMap<u32, Option<String>>,
}

impl Collection {
    fn new() -> Self {
        let workplace = Workplace::with_images(0, PART_ROWS);
        Self { workplace, rows: BTreeMap::new() }
    }

    fn photo(&self, row: u32) -> std::path::PathBuf {
        self.workplace.path(&format!("photos/{row}.png"))
    }

    /// Adds rows with images.
    fn add(&mut self, rows: std::ops::Range<u32>) {
        for row in rows {
            std::fs::write(self.photo(row), png_image(row)).unwrap();
            self.rows.insert(row, (row % 3 == 0).then(|| format!("title {row}")));
        }
    }

    fn write(&self) {
        let rows = || self.rows.iter();
        let columns = vec![
            ("id", strings(rows().map(|(row, _)| Some(format!("row-{row:04}"))))),
            ("image", strings(rows().map(|(row, _)| Some(format!("photos/{row}.png"))))),
            ("title", strings(rows().map(|(_, title)| title.clone()))),
        ];
        write_parquet(&self.workplace.path("manifest.parquet"), columns, 300);
    }

    /// The rows by reason of the run that came last.
    fn reasons(&self) -> BTreeMap<String, u64> {
        let published = self.workplace.published("out");
        let plan = self.workplace.path(&format!("out/_nightcap/runs/{}/plan.json", published.last().unwrap()));
        let plan: serde_json::Value = serde_json::from_slice(&std::fs::read(plan).unwrap()).unwrap();
        let reasons = plan["reasons"].as_object().unwrap().iter();
        let reasons = reasons.map(|(name, rows)| (name.clone(), rows.as_u64().unwrap()));
        reasons.filter(|(_, rows)| *rows > 0).collect()
    }

    /// Key, status and caption fingerprint of every row, by the documented views: newest, and last good.
    fn views(&self, python: &str) -> Vec<BTreeMap<String, (String, i64)>> {
        let view = |code: String| -> BTreeMap<String, (String, i64)> {
            let output =
                Command::new(python).args(["-c", &code]).current_dir(self.workplace.path("")).output().unwrap();
            assert!(output.status.success(), "{code}\n{}", String::from_utf8_lossy(&output.stderr));
            serde_json::from_slice(&output.stdout).unwrap()
        };
        let [views, polars] = ["sql", "python"].map(|language| views(language).replace("out/sample", "out"));
        ["newest", "last_good"]
            .iter()
            .flat_map(|name| {
                [
                    format!(
                        "import duckdb, json\nduckdb.sql({views:?})\n\
                         rows = duckdb.sql('SELECT id, status, run_seq FROM {name}').fetchall()\n\
                         assert len(rows) == len(set(row[0] for row in rows))\n\
                         print(json.dumps({{id: [status, seq] for id, status, seq in rows}}))"
                    ),
                    format!(
                        "import json, io, contextlib\n\
                         with contextlib.redirect_stdout(io.StringIO()):\n    exec({polars:?}, globals())\n\
                         rows = {name}.select('id', 'status', 'run_seq').collect().rows()\n\
                         print(json.dumps({{id: [status, seq] for id, status, seq in rows}}))"
                    ),
                ]
            })
            .map(view)
            .collect()
    }
}

fn reasons(expected: &[(&str, u64)]) -> BTreeMap<String, u64> {
    expected.iter().map(|(name, rows)| ((*name).to_owned(), *rows)).collect()
}

#[test]
fn runs_over_a_changing_manifest_take_only_what_is_new() {
    let Some(python) = python() else { return };
    let mut collection = Collection::new();
    let run = |collection: &Collection, arguments: &[&str]| {
        collection.write();
        let output = collection.workplace.run(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stderr).unwrap()
    };

    // Monday: 1000 rows, of which 10 are not images (permanent failures) and 5 are loops of links (transient failures).
    collection.add(0..1000);
    for row in 100..110 {
        std::fs::write(collection.photo(row), b"not an image").unwrap();
    }
    for row in 200..205 {
        std::fs::remove_file(collection.photo(row)).unwrap();
        std::os::unix::fs::symlink(collection.photo(row), collection.photo(row)).unwrap();
    }
    run(&collection, &["--run-id", "monday"]);
    assert_eq!(collection.reasons(), reasons(&[("new", 1000)]));
    let monday = collection.workplace.rows("out", Some("monday"));
    let kinds = monday.text("error_kind");
    let count = |kind: &str| kinds.iter().flatten().filter(|found| *found == kind).count();
    assert_eq!((count("unsupported_format"), count("io")), (10, 5));

    // Run again at once: only the transient failures are retried, and they fail again.
    run(&collection, &[]);
    assert_eq!(collection.reasons(), reasons(&[("retried", 5), ("unchanged", 995)]));

    // Tuesday: 100 new rows, 20 images overwritten, one text changed, one row removed, and the loops of links replaced by images.
    collection.add(1000..1100);
    for row in 300..320 {
        std::fs::write(collection.photo(row), png_image(row + 5000)).unwrap();
    }
    collection.rows.insert(400, Some("another title".to_owned()));
    collection.rows.remove(&500);
    for row in 200..205 {
        std::fs::remove_file(collection.photo(row)).unwrap();
        std::fs::write(collection.photo(row), png_image(row)).unwrap();
    }
    run(&collection, &[]);
    let expected = [("new", 100), ("content_changed", 25), ("text_changed", 1), ("unchanged", 973)];
    assert_eq!(collection.reasons(), reasons(&expected));
    for view in collection.views(&python) {
        let failed: Vec<_> = view.values().filter(|(status, _)| status == "failed").collect();
        assert!(view.len() == 1100 && failed.len() == 10 || view.len() == 1090 && failed.is_empty());
        assert_eq!(view["row-0500"].1, 1, "a row that left the manifest stays until compaction");
        assert_eq!((view["row-0300"].1, view["row-0400"].1, view["row-0001"].1), (3, 3, 1));
    }
    // An image that is damaged later: its newest row is failed, and its last good row can still be queried.
    std::fs::write(collection.photo(301), b"broken").unwrap();
    run(&collection, &[]);
    let views = collection.views(&python);
    assert_eq!(views[0], views[1], "DuckDB and Polars agree");
    assert_eq!(views[2], views[3], "DuckDB and Polars agree");
    assert_eq!((&views[0]["row-0301"].0[..], &views[2]["row-0301"].0[..]), ("failed", "ok"));

    // Nothing new: no run.
    let before = collection.workplace.published("out").len();
    assert!(run(&collection, &[]).contains("nothing is new"));
    assert_eq!(collection.workplace.published("out").len(), before);

    // Wednesday: killed after two parts; the manifest has changed before the next run.
    collection.add(1100..1300);
    collection.write();
    killed_at(&mut collection.workplace.command("run", &[]), "after_part:2");
    collection.add(1300..1310);
    let said = run(&collection, &[]);
    assert!(said.contains("was closed"), "{said}");
    assert_eq!(collection.reasons(), reasons(&[("new", 110), ("unchanged", 1199)]));
    for view in collection.views(&python) {
        // Ten files were never images; the one that was damaged later had been.
        assert!(view.len() == 1310 || view.len() == 1300, "{}", view.len());
    }

    // `--retry-failed` takes permanently failed rows again, `--full` takes every row.
    run(&collection, &["--retry-failed", "--set", "limits.max_failed_fraction=1.0"]);
    assert_eq!(collection.reasons(), reasons(&[("retried", 11), ("unchanged", 1298)]));

    // Other settings, another model of the same width, and one of another width.
    run(&collection, &["--set", "generation.max_new_tokens=3"]);
    assert_eq!(collection.reasons(), reasons(&[("settings_changed", 1309)]));
    let model = collection.workplace.path("model");
    std::fs::create_dir(&model).unwrap();
    for file in std::fs::read_dir(repo("tests/fixtures/tiny_model")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), model.join(file.file_name())).unwrap();
    }
    let config = std::fs::read_to_string(model.join("config.json")).unwrap();
    std::fs::write(model.join("config.json"), config + "\n").unwrap();
    let arguments = ["--set", "generation.max_new_tokens=3", "--set", "model.path=model", "--limit", "60"];
    run(&collection, &arguments);
    assert_eq!(collection.reasons(), reasons(&[("model_changed", 1309)]));
    assert_eq!(
        collection.workplace.rows("out", collection.workplace.published("out").last().map(String::as_str)).len(),
        60
    );
    let other = format!("model.path={}", repo("sample_data/model").display());
    let refused = collection.workplace.run(&["--set", &other]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("differ from those already in OUTPUT"));
}

#[test]
fn two_jobs_share_an_output() {
    let mut collection = Collection::new();
    collection.add(0..40);
    collection.write();
    let low = ["--set", "input.where=id < 'row-0020'"];
    let high = ["--set", "input.where=id >= 'row-0020'"];
    for (arguments, new) in [(low, 20), (high, 20)] {
        collection.workplace.run_ok(&arguments);
        assert_eq!(collection.reasons(), reasons(&[("new", new)]));
    }
    collection.workplace.run_ok(&low);
    collection.workplace.run_ok(&[]);
    assert_eq!(collection.workplace.published("out").len(), 2, "both runs found nothing new");
}

#[test]
fn signature_columns_replace_the_listing() {
    let workplace = Workplace::with_images(6, 3);
    let write = |etag: &str| {
        let rows = 0..6;
        let columns = vec![
            ("id", strings(rows.clone().map(|row| Some(format!("row-{row}"))))),
            ("image", strings(rows.clone().map(|row| Some(format!("photos/{row}.png"))))),
            ("title", strings(rows.clone().map(|_| None::<&str>))),
            ("etag", strings(rows.map(|row| Some(if row == 4 { etag.to_owned() } else { format!("e{row}") })))),
        ];
        write_parquet(&workplace.path("manifest.parquet"), columns, 4);
    };
    let arguments = ["--set", "input.signature=[\"etag\"]"];
    write("e4");
    workplace.run_ok(&arguments);
    std::fs::write(workplace.path("photos/2.png"), png_image(77)).unwrap();
    workplace.run_ok(&arguments);
    assert_eq!(workplace.published("out").len(), 1, "the etag of the changed file is the same");
    write("other");
    workplace.run_ok(&arguments);
    let published = workplace.published("out");
    assert_eq!(workplace.rows("out", Some(&published[1])).text("id"), [Some("row-4".to_owned())]);
}

#[test]
fn images_inside_the_manifest_are_known_by_their_bytes() {
    let workplace = Workplace::with_images(0, 3);
    let write = |seeds: &[u32]| {
        let images: arrow::array::BinaryArray = seeds.iter().map(|seed| Some(png_image(*seed))).collect();
        let ids = (0..seeds.len()).map(|row| (row != 3).then(|| format!("row-{row}")));
        let titles = seeds.iter().map(|_| None::<&str>);
        let columns = vec![
            ("id", strings(ids)),
            ("image", std::sync::Arc::new(images) as arrow::array::ArrayRef),
            ("title", strings(titles)),
        ];
        write_parquet(&workplace.path("manifest.parquet"), columns, 4);
    };
    write(&[1, 2, 3, 4, 5]);
    workplace.run_ok(&[]);
    workplace.run_ok(&[]);
    assert_eq!(workplace.published("out").len(), 1, "the row without a key is known again, too");
    write(&[1, 2, 30, 4, 5]);
    workplace.run_ok(&[]);
    let published = workplace.published("out");
    assert_eq!(workplace.rows("out", Some(&published[1])).text("id"), [Some("row-2".to_owned())]);
}

#[test]
fn duplicate_keys_are_refused_or_the_first_row_is_taken() {
    let workplace = Workplace::with_images(4, 3);
    let columns = vec![
        ("id", strings([Some("a"), Some("b"), Some("a"), Some("c")])),
        ("image", strings((0..4).map(|row| Some(format!("photos/{row}.png"))))),
        ("title", strings([None::<&str>; 4])),
    ];
    write_parquet(&workplace.path("manifest.parquet"), columns, 4);
    let refused = workplace.run(&[]);
    assert_eq!(refused.status.code(), Some(2));
    let message = String::from_utf8(refused.stderr).unwrap();
    assert!(message.contains("1 rows of the manifest have the key of an earlier row, as in \"a\""), "{message}");
    assert!(!workplace.path("out/_nightcap/runs").exists(), "a refusal leaves no run behind");
    workplace.run_ok(&["--set", "input.on_duplicate_key=first"]);
    let rows = workplace.rows("out", None);
    assert_eq!(rows.text("id"), ["a", "b", "c"].map(|key| Some(key.to_owned())));
    assert_eq!(rows.text("image")[0].as_deref(), Some("photos/0.png"));
}

#[test]
fn a_run_that_another_process_works_on_is_left_alone() {
    let workplace = Workplace::with_images(12, 3);
    killed_at(&mut workplace.command("run", &[]), "after_part:2");
    let runs = workplace.path("out/_nightcap/runs");
    let run = std::fs::read_dir(&runs).unwrap().next().unwrap().unwrap().path();
    // A worker on another machine, whose process this one cannot see.
    let other = r#"{"host":"elsewhere","boot":null,"pid":1,"started":null}"#;
    let heartbeat = run.join("heartbeat-elsewhere-1");
    std::fs::write(&heartbeat, other).unwrap();
    let second = workplace.run(&[]);
    assert_eq!(second.status.code(), Some(75));
    let message = String::from_utf8(second.stderr).unwrap();
    assert!(message.contains("process 1 on elsewhere is at work on run"), "{message}");
    // `plan` says so and writes nothing.
    let planned = workplace.command("plan", &[]).output().unwrap();
    let said = String::from_utf8(planned.stdout).unwrap();
    assert!(planned.status.success() && said.contains("2 of 4 parts are done"), "{said}");
    // A heartbeat that is an hour old by the clock of the storage is that of a process that has ended.
    let old = std::time::SystemTime::now() - std::time::Duration::from_hours(1);
    std::fs::File::open(&heartbeat).unwrap().set_modified(old).unwrap();
    workplace.run_ok(&[]);
    assert_eq!(workplace.published("out").len(), 1);
}
