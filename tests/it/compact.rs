//! Compaction of several runs: the documented views are the same before, after, and after any kill in between.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Output;

use arrow::util::display::array_value_to_string;
use nightcap::output::store::OutputStore;
use nightcap::output::upkeep::compact::{CompactOutcome, CompactRequest};
use parquet::file::reader::{FileReader, SerializedFileReader};

use crate::common::{
    Workplace, age_heartbeats, changed_part, copy_output, go_on, killed_at, nightcap, png_image, read_parquet,
    stopped_at, strings, write_parquet,
};
use crate::documents::views;
use crate::readers::python;

/// Where a process can be killed between two changes of OUTPUT.
const POINTS: [&str; 3] = ["before_put", "after_put", "before_delete"];

fn write_manifest(workplace: &Workplace, rows: impl Iterator<Item = u32> + Clone) {
    let columns = vec![
        ("id", strings(rows.clone().map(|row| Some(format!("row-{row:04}"))))),
        ("image", strings(rows.clone().map(|row| Some(format!("photos/{row}.png"))))),
        ("title", strings(rows.map(|row| (row % 3 == 0).then(|| format!("title {row}"))))),
    ];
    write_parquet(&workplace.path("manifest.parquet"), columns, 16);
}

fn photo(workplace: &Workplace, row: u32, content: &[u8]) {
    let path = workplace.path(&format!("photos/{row}.png"));
    let _ = std::fs::remove_file(&path);
    std::fs::write(path, content).unwrap();
}

/// A file that cannot be opened now: a transient failure.
fn loop_of_links(workplace: &Workplace, row: u32) {
    let path = workplace.path(&format!("photos/{row}.png"));
    let _ = std::fs::remove_file(&path);
    std::os::unix::fs::symlink(&path, &path).unwrap();
}

/// Three runs in parts of four rows: rows that stay, change, fail permanently, are repaired, and fail transiently.
fn three_runs() -> Workplace {
    let workplace = Workplace::with_images(12, 4);
    let lenient = ["--set", "limits.max_failed_fraction=1.0"];
    photo(&workplace, 3, b"not an image");
    loop_of_links(&workplace, 5);
    loop_of_links(&workplace, 6);
    write_manifest(&workplace, 0..12);
    workplace.run_ok(&[&["--run-id", "monday"], &lenient[..]].concat());

    photo(&workplace, 0, &png_image(100));
    photo(&workplace, 5, &png_image(5));
    photo(&workplace, 7, b"broken since");
    (12..15).for_each(|row| photo(&workplace, row, &png_image(row)));
    write_manifest(&workplace, 0..15);
    workplace.run_ok(&[&["--run-id", "tuesday"], &lenient[..]].concat());

    photo(&workplace, 3, &png_image(3));
    photo(&workplace, 12, &png_image(112));
    loop_of_links(&workplace, 8);
    workplace.run_ok(&[&["--run-id", "wednesday"], &lenient[..]].concat());
    assert_eq!(workplace.published("out"), ["monday", "tuesday", "wednesday"]);
    workplace
}

fn compact(workplace: &Workplace, output: &str, arguments: &[&str]) -> Output {
    nightcap().arg("compact").arg(workplace.path(output)).args(["--grace", "0"]).args(arguments).output().unwrap()
}

fn compact_ok(workplace: &Workplace, output: &str, arguments: &[&str]) -> serde_json::Value {
    let ended = compact(workplace, output, arguments);
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    serde_json::from_slice(&ended.stdout).unwrap_or_default()
}

fn assert_clean(workplace: &Workplace, output: &str) {
    let status = nightcap().arg("status").arg(workplace.path(output)).arg("--check").output().unwrap();
    assert_eq!(status.status.code(), Some(0), "{}", String::from_utf8_lossy(&status.stdout));
}

fn counting(workplace: &Workplace, output: &str) -> Vec<String> {
    let record = |run: &String| -> serde_json::Value {
        let path = workplace.path(&format!("{output}/_nightcap/published/{run}.json"));
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    };
    let runs = workplace.published(output);
    let gone: BTreeSet<String> = runs
        .iter()
        .flat_map(|run| record(run)["supersedes"].as_array().cloned().unwrap_or_default())
        .map(|run| run.as_str().unwrap().to_owned())
        .collect();
    runs.into_iter().filter(|run| !gone.contains(run)).collect()
}

/// Every column of the rows that the views `newest` and `last_good` show, by key.
fn view(workplace: &Workplace, output: &str) -> [BTreeMap<String, Vec<String>>; 2] {
    [view_of(workplace, output, &["ok", "failed"]), view_of(workplace, output, &["ok"])]
}

/// Every column of the newest row with one of these statuses of each key, by key.
fn view_of(workplace: &Workplace, output: &str, statuses: &[&str]) -> BTreeMap<String, Vec<String>> {
    let mut newest: BTreeMap<String, (i64, Vec<String>)> = BTreeMap::new();
    for run in counting(workplace, output) {
        let rows = workplace.rows(output, Some(&run));
        for (row, (key, status)) in rows.text("id").into_iter().zip(rows.text("status")).enumerate() {
            if !statuses.contains(&status.unwrap().as_str()) {
                continue;
            }
            let columns: Vec<String> =
                rows.0.columns().iter().map(|column| array_value_to_string(column, row).unwrap()).collect();
            let run_seq: i64 = columns.last().unwrap().parse().unwrap();
            let key = key.unwrap();
            if newest.get(&key).is_none_or(|(seen, _)| *seen < run_seq) {
                newest.insert(key, (run_seq, columns));
            }
        }
    }
    newest.into_iter().map(|(key, (_, columns))| (key, columns)).collect()
}

/// Every row of the views in docs/queries.md, which `DuckDB` and Polars read.
fn documented_views(workplace: &Workplace, output: &str, python: &str) -> Vec<String> {
    let [sql, polars] = ["sql", "python"].map(|language| views(language).replace("out/sample", output));
    let code = format!(
        "import duckdb, io, contextlib\nduckdb.sql({sql:?})\n\
         with contextlib.redirect_stdout(io.StringIO()):\n    exec({polars:?}, globals())\n\
         for name in ['newest', 'last_good']:\n    \
             for row in duckdb.sql(f'SELECT * EXCLUDE run FROM {{name}} ORDER BY id').fetchall():\n        print(row)\n    \
             for row in globals()[name].collect().drop('run').sort('id').rows():\n        print(row)\n"
    );
    let read = std::process::Command::new(python).args(["-c", &code]).current_dir(workplace.path("")).output().unwrap();
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    String::from_utf8(read.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn folders(path: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
    let mut names: Vec<String> = entries
        .filter(|entry| entry.file_type().unwrap().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Names of footer entries, and compression of each column.
fn form(path: &Path) -> (Vec<String>, Vec<String>) {
    let reader = SerializedFileReader::new(std::fs::File::open(path).unwrap()).unwrap();
    let metadata = reader.metadata();
    let entries =
        metadata.file_metadata().key_value_metadata().unwrap().iter().map(|entry| entry.key.clone()).collect();
    let columns = metadata.row_group(0).columns().iter();
    (entries, columns.map(|column| format!("{} {:?}", column.column_path(), column.compression())).collect())
}

#[test]
fn the_newest_rows_are_the_same_before_and_after() {
    let workplace = three_runs();
    let before = view(&workplace, "out");
    assert_eq!((before[0].len(), before[1].len()), (15, 14), "row 6 was never ok");
    let python = python();
    let documented = || python.as_ref().map(|python| documented_views(&workplace, "out", python));
    let documented_before = documented();
    let original = workplace.path("out/run=monday/part-000000.parquet");
    let (schema, original_form) = (read_parquet(&original).schema(), form(&original));

    let record = compact_ok(&workplace, "out", &["--run-id", "all"]);
    // The newest row of each of 15 keys. Three of them failed, and of two of these keys an older row is ok.
    assert_eq!((&record["rows"], &record["ok"], &record["failed"]), (&17.into(), &14.into(), &3.into()));
    assert_eq!((&record["deleted"], &record["parts"]), (&0.into(), &5.into()));
    assert_eq!(record["replaced"], 12 + 7 + 4 - 17);
    assert_eq!(record["supersedes"], serde_json::json!(["monday", "tuesday", "wednesday"]));
    assert_eq!(workplace.published("out"), ["all"]);
    assert!(view(&workplace, "out") == before, "a row changed");
    assert!(documented() == documented_before && documented_before.is_none_or(|rows| rows.len() == 2 * 15 + 2 * 14));
    assert_clean(&workplace, "out");
    assert_eq!(folders(&workplace.path("out")), ["_nightcap", "run=all"]);
    assert_eq!(folders(&workplace.path("out/_nightcap/runs")), ["all"]);

    let part = workplace.path("out/run=all/part-000000.parquet");
    assert_eq!(read_parquet(&part).schema().fields(), schema.fields());
    assert_eq!(form(&part), original_form);
    let seqs: Vec<String> =
        view_of(&workplace, "out", &["ok", "failed"]).into_values().map(|row| row.last().unwrap().clone()).collect();
    let of = |rows: &[usize]| rows.iter().map(|row| seqs[*row].clone()).collect::<Vec<_>>();
    assert_eq!(of(&[1, 0, 3]), ["1", "2", "3"], "each row keeps the run_seq of the run that computed it");

    let again = compact(&workplace, "out", &[]);
    assert!(again.status.success() && again.stdout.is_empty());
    assert!(String::from_utf8(again.stderr).unwrap().contains("there is nothing to do"));
    assert_eq!(workplace.published("out"), ["all"]);
    let taken = compact(&workplace, "out", &["--run-id", "monday"]);
    assert!(taken.status.success(), "nothing to do comes before a name that is not needed");

    let old_name = workplace.run(&["--run-id", "tuesday"]);
    let message = String::from_utf8(old_name.stderr).unwrap();
    assert!(old_name.status.code() == Some(2) && message.contains("there is or was a run tuesday"), "{message}");

    // The next run retries the transient failures, and takes nothing else.
    workplace.run_ok(&["--run-id", "thursday", "--set", "limits.max_failed_fraction=1.0"]);
    let ids: BTreeSet<_> = workplace.rows("out", Some("thursday")).text("id").into_iter().flatten().collect();
    assert_eq!(ids, ["row-0006", "row-0008"].map(str::to_owned).into());
    let taken = compact(&workplace, "out", &["--run-id", "monday"]);
    let message = String::from_utf8(taken.stderr).unwrap();
    assert!(taken.status.code() == Some(2) && message.contains("there is or was a run monday"), "{message}");
    let before = view(&workplace, "out");
    compact_ok(&workplace, "out", &["--run-id", "more"]);
    assert_eq!(workplace.published("out"), ["more"]);
    assert!(view(&workplace, "out") == before);
    assert_clean(&workplace, "out");
}

#[test]
fn the_same_command_again_says_that_its_compaction_is_published() {
    let workplace = three_runs();
    let manifest = workplace.path("manifest.parquet");
    let keep = ["--run-id", "weekly", "--keep-keys", manifest.to_str().unwrap()];
    killed_at(nightcap().arg("compact").arg(workplace.path("out")).args(keep), "before_publish:1");
    let made = || {
        let again = compact(&workplace, "out", &keep);
        let message = String::from_utf8(again.stderr).unwrap();
        assert!(again.status.success() && again.stdout.is_empty(), "{message}");
        assert!(message.contains("this compaction is published already; there is nothing to do"), "{message}");
    };
    made();
    assert_eq!(workplace.published("out"), ["weekly"]);
    // Also if there are rows since that another compaction would take.
    photo(&workplace, 0, &png_image(200));
    workplace.run_ok(&["--run-id", "thursday", "--set", "limits.max_failed_fraction=1.0"]);
    let before = view(&workplace, "out");
    made();
    let taken = |arguments: &[&str]| {
        let refused = compact(&workplace, "out", arguments);
        let message = String::from_utf8(refused.stderr).unwrap();
        assert!(refused.status.code() == Some(2) && message.contains("there is or was a run"), "{message}");
    };
    // With other keys it is another compaction, and the name of a run is never that of a compaction.
    taken(&["--run-id", "weekly"]);
    taken(&["--run-id", "thursday"]);
    assert!(workplace.published("out") == ["weekly", "thursday"] && view(&workplace, "out") == before);
    // Replaced, it is no longer there.
    compact_ok(&workplace, "out", &["--run-id", "more"]);
    workplace.run_ok(&["--run-id", "friday", "--full", "--limit", "2"]);
    taken(&keep);
    assert_clean(&workplace, "out");
}

#[test]
fn the_caption_of_an_image_that_is_gone_stays_through_compactions() {
    let workplace = Workplace::with_images(6, 4);
    workplace.run_ok(&["--run-id", "monday"]);
    std::fs::remove_file(workplace.path("photos/2.png")).unwrap();
    workplace.run_ok(&["--run-id", "tuesday"]);
    let before = view(&workplace, "out");
    assert_eq!((before[0].len(), before[1].len()), (6, 6));
    let record = compact_ok(&workplace, "out", &["--run-id", "once"]);
    assert_eq!((&record["rows"], &record["failed"], &record["replaced"]), (&7.into(), &1.into(), &0.into()));
    assert!(view(&workplace, "out") == before, "a row changed");
    assert_clean(&workplace, "out");
    // Of the two rows, planning compares with the newest: the file is still missing, and nothing is new.
    let planned = workplace.command("plan", &[]).output().unwrap();
    let said = String::from_utf8(planned.stdout).unwrap();
    assert!(said.contains("0 selected") && said.contains("6 unchanged"), "{said}");
    assert!(compact(&workplace, "out", &[]).stdout.is_empty(), "there is nothing to do");

    // It fails again: the older failure goes, the caption stays.
    std::fs::write(workplace.path("photos/2.png"), b"not an image").unwrap();
    workplace.run_ok(&["--run-id", "wednesday"]);
    let before = view(&workplace, "out");
    let record = compact_ok(&workplace, "out", &["--run-id", "again"]);
    assert_eq!((&record["rows"], &record["failed"], &record["replaced"]), (&7.into(), &1.into(), &1.into()));
    assert!(view(&workplace, "out") == before, "a row changed");
    assert_clean(&workplace, "out");

    // It is an image again: both older rows go.
    std::fs::write(workplace.path("photos/2.png"), png_image(77)).unwrap();
    workplace.run_ok(&["--run-id", "thursday"]);
    let record = compact_ok(&workplace, "out", &["--run-id", "last"]);
    assert_eq!((&record["rows"], &record["failed"], &record["replaced"]), (&6.into(), &0.into(), &2.into()));
    assert_clean(&workplace, "out");
}

#[test]
fn damage_is_not_carried_into_new_parts() {
    let workplace = three_runs();
    let part = workplace.path("out/run=tuesday/part-000000.parquet");
    let whole = std::fs::read(&part).unwrap();
    for (bytes, expected) in changed_part(&part) {
        std::fs::write(&part, bytes).unwrap();
        let refused = compact(&workplace, "out", &[]);
        let message = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(2), "{message}");
        assert!(message.contains("run=tuesday/part-000000.parquet") && message.contains(expected), "{message}");
        assert_eq!(workplace.published("out").len(), 3);
    }
    std::fs::write(&part, whole).unwrap();
    compact_ok(&workplace, "out", &[]);
    assert_clean(&workplace, "out");
}

#[test]
fn keys_that_are_not_kept_are_deleted() {
    let workplace = three_runs();
    let before = view(&workplace, "out");
    let refused = |arguments: &[&str], expected: &str| {
        let ended = compact(&workplace, "out", arguments);
        let message = String::from_utf8(ended.stderr).unwrap();
        assert!(ended.status.code() == Some(2) && message.contains(expected), "{message}");
        assert!(view(&workplace, "out") == before && workplace.published("out").len() == 3);
    };
    let manifest = workplace.path("manifest.parquet");
    let manifest = manifest.to_str().unwrap();
    refused(&["--keep-keys", manifest, "--key", "image"], "none of the keys in OUTPUT occurs in");
    refused(&["--keep-keys", manifest, "--key", "nowhere"], "its columns are id, image, title");
    refused(&["--keep-keys", "missing.parquet"], "no manifest file matches");

    // In two files that a glob finds.
    std::fs::create_dir(workplace.path("kept")).unwrap();
    for (name, rows) in [("a", 0..5), ("b", 5..15)] {
        write_manifest(&workplace, rows.filter(|row| ![1, 7, 12].contains(row)));
        std::fs::rename(manifest, workplace.path(&format!("kept/{name}.parquet"))).unwrap();
    }
    let kept = workplace.path("kept/*.parquet");
    let record = compact_ok(&workplace, "out", &["--keep-keys", kept.to_str().unwrap(), "--run-id", "kept"]);
    assert_eq!((&record["rows"], &record["deleted"]), (&13.into(), &5.into()), "8 twice; 1 once, 7 and 12 in two runs");
    let mut expected = before;
    for gone in ["row-0001", "row-0007", "row-0012"] {
        assert!(expected.iter_mut().all(|view| view.remove(gone).is_some()));
    }
    assert!(view(&workplace, "out") == expected);
    assert_clean(&workplace, "out");
}

#[test]
fn killed_at_every_change_and_run_again() {
    let workplace = three_runs();
    let before = view(&workplace, "out");
    let mut kills = 0;
    for point in POINTS {
        for count in 1.. {
            copy_output(&workplace, "out", "killed");
            let place = format!("{point}:{count}");
            let mut command = nightcap();
            command.arg("compact").arg(workplace.path("killed")).args(["--grace", "0", "--run-id", "first"]);
            let ended = command.env("NIGHTCAP_KILL_AT", &place).output().unwrap();
            if ended.status.success() {
                break;
            }
            assert_eq!(ended.status.code(), None, "{place}: {}", String::from_utf8_lossy(&ended.stderr));
            kills += 1;
            assert!(view(&workplace, "killed") == before, "{place}: a row changed");
            compact_ok(&workplace, "killed", &[]);
            let published = workplace.published("killed");
            assert_eq!(published.len(), 1, "{place}");
            assert!(view(&workplace, "killed") == before, "{place}: a row changed");
            assert_clean(&workplace, "killed");
            let run = &published[0];
            assert_eq!(folders(&workplace.path("killed")), ["_nightcap".to_owned(), format!("run={run}")], "{place}");
            assert_eq!(folders(&workplace.path("killed/_nightcap/runs")), [run.as_str()], "{place}");
        }
    }
    // Eight puts, each with two points, and the files of three runs.
    assert!(kills > 30, "{kills}");
}

#[test]
fn a_compaction_is_published_whole_or_not_at_all() {
    let workplace = three_runs();
    killed_at(nightcap().arg("compact").arg(workplace.path("out")).args(["--run-id", "half"]), "after_put:4");
    let partial =
        nightcap().arg("finalize").arg(workplace.path("out")).args(["--run-id", "half", "--partial"]).output().unwrap();
    let message = String::from_utf8(partial.stderr).unwrap();
    assert!(partial.status.code() == Some(2) && message.contains("is a compaction"), "{message}");
    // Another process is working on it.
    let heartbeat = workplace.path("out/_nightcap/runs/half/heartbeat-elsewhere-7");
    std::fs::write(&heartbeat, r#"{"host": "elsewhere", "boot": null, "pid": 7, "started": null}"#).unwrap();
    let refused = compact(&workplace, "out", &[]);
    let message = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.status.code() == Some(75) && message.contains("process 7 on elsewhere"), "{message}");
    // A run continues at the same time.
    photo(&workplace, 1, &png_image(200));
    workplace.run_ok(&["--set", "limits.max_failed_fraction=1.0"]);
    std::fs::remove_file(&heartbeat).unwrap();
    let before = view(&workplace, "out");
    compact_ok(&workplace, "out", &[]);
    assert!(view(&workplace, "out") == before);
    assert_clean(&workplace, "out");
}

#[test]
fn a_stop_changes_nothing() {
    let workplace = three_runs();
    let before = view(&workplace, "out");
    let open = || OutputStore::from_argument(&workplace.path("out")).unwrap();
    let stopped = nightcap::output::upkeep::compact::compact(&open(), &CompactRequest::default(), &|| true).unwrap();
    assert!(matches!(stopped, CompactOutcome::Stopped));
    assert_eq!(workplace.published("out").len(), 3);
    compact_ok(&workplace, "out", &[]);
    assert!(view(&workplace, "out") == before);
    assert_eq!(folders(&workplace.path("out")).len(), 2);
}

#[test]
fn two_at_once_lose_nothing() {
    let workplace = three_runs();
    let before = view(&workplace, "out");
    // One stands still at each of its changes while the other one is made; they are started together in tests/it/torture.rs.
    for count in 1..=8 {
        copy_output(&workplace, "out", "twice");
        let command = |run: &str| {
            let mut command = nightcap();
            command.arg("compact").arg(workplace.path("twice")).args(["--grace", "0", "--run-id", run]);
            command
        };
        let one = stopped_at(&mut command("one"), &format!("before_put:{count}"));
        let two = command("two").output().unwrap();
        assert!(view(&workplace, "twice") == before, "{count}: {}", String::from_utf8_lossy(&two.stderr));
        for ended in [two, go_on(one)] {
            // The slower one may find that its sources are gone, or leave it to the other.
            let said = String::from_utf8_lossy(&ended.stderr);
            assert!(matches!(ended.status.code(), Some(0 | 2 | 75)) && !said.contains("panicked"), "{said}");
            assert!(view(&workplace, "twice") == before, "{said}");
        }
        compact_ok(&workplace, "twice", &[]);
        assert_eq!(workplace.published("twice").len(), 1);
        assert!(view(&workplace, "twice") == before);
        assert_clean(&workplace, "twice");
    }
}

#[test]
fn a_compaction_that_was_suspended_until_another_replaced_it_is_not_published() {
    let workplace = three_runs();
    let before = view(&workplace, "out");
    let mut command = nightcap();
    command.arg("compact").arg(workplace.path("out")).args(["--run-id", "slow"]);
    let slow = stopped_at(&mut command, "before_outcome:1");
    age_heartbeats(&workplace, "out", "slow");
    compact_ok(&workplace, "out", &["--run-id", "quick"]);
    let ended = go_on(slow);
    let message = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.code() == Some(2) && message.contains("run slow was discarded"), "{message}");
    assert_eq!(workplace.published("out"), ["quick"]);
    assert!(view(&workplace, "out") == before);
    assert_clean(&workplace, "out");
}

#[test]
fn a_compaction_whose_parts_were_damaged_before_its_record_is_replaced_with_its_sources() {
    let workplace = three_runs();
    let before = view(&workplace, "out");
    let mut command = nightcap();
    command.arg("compact").arg(workplace.path("out")).args(["--run-id", "damaged"]);
    let slow = stopped_at(&mut command, "before_publish:1");
    age_heartbeats(&workplace, "out", "damaged");
    let part = workplace.path("out/run=damaged/part-000000.parquet");
    let mut changed = std::fs::read(&part).unwrap();
    changed[10] ^= 0xff;
    std::fs::write(&part, changed).unwrap();
    compact_ok(&workplace, "out", &["--run-id", "quick"]);
    // Its record comes late, and does not count.
    go_on(slow);
    assert_eq!(counting(&workplace, "out"), ["quick"]);
    assert!(view(&workplace, "out") == before);
    compact_ok(&workplace, "out", &[]);
    assert_clean(&workplace, "out");
}

#[test]
fn a_plan_made_meanwhile_does_not_lose_what_is_published() {
    let workplace = three_runs();
    // No transient failures are left to retry.
    (0..15).for_each(|row| photo(&workplace, row, &png_image(row)));
    workplace.run_ok(&["--run-id", "mended"]);
    let points = ["after_published_listing:1", "after_published_listing:2", "before_compare:1"];
    for (number, point) in points.iter().enumerate() {
        let output = format!("copy-{number}");
        copy_output(&workplace, "out", &output);
        let place = format!("output.path={output}");
        let planning = stopped_at(&mut workplace.command("plan", &["--set", &place]), point);
        compact_ok(&workplace, &output, &[]);
        let planned = go_on(planning);
        let said = String::from_utf8_lossy(&planned.stdout).into_owned();
        assert!(planned.status.success(), "{point}: {}", String::from_utf8_lossy(&planned.stderr));
        assert!(said.contains("0 selected") && said.contains("15 unchanged"), "{point}: {said}");
    }
}
