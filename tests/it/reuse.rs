//! `output.reuse_by_content`: rows of a known image and text get the results of an earlier run, bit for bit, and nothing else.

use std::path::Path;

use arrow::array::{Array, ArrayRef};

use crate::common::{
    Rows, Workplace, changed_part, killed_at, nightcap, png_image, read_parquet, replace_part, strings, write_parquet,
};
use crate::seaweed::Seaweed;
use crate::storage::{on_s3, run_command};

const REUSE: [&str; 2] = ["--set", "output.reuse_by_content=true"];

/// One row of a manifest: key, image file, title.
type Row<'a> = (&'a str, &'a str, Option<&'a str>);

fn write_manifest(workplace: &Workplace, rows: &[Row<'_>]) {
    let columns = vec![
        ("id", strings(rows.iter().map(|row| Some(row.0)))),
        ("image", strings(rows.iter().map(|row| Some(format!("photos/{}.png", row.1))))),
        ("title", strings(rows.iter().map(|row| row.2))),
    ];
    write_parquet(&workplace.path("manifest.parquet"), columns, 16);
}

fn photo(workplace: &Workplace, name: &str, content: &[u8]) {
    std::fs::write(workplace.path(&format!("photos/{name}.png")), content).unwrap();
}

/// Puts captions into a part that no model would write: a row that has one of them was copied.
fn mark(part: &Path, mark: &str) {
    let rows = read_parquet(part);
    let at = rows.schema().index_of("caption").unwrap();
    let mut columns = rows.columns().to_vec();
    let marked = |row: usize| columns[at].is_valid(row).then(|| format!("{mark} {row}"));
    let captions: ArrayRef = strings((0..rows.num_rows()).map(marked).collect::<Vec<_>>());
    columns[at] = captions;
    replace_part(part, columns, &rows.schema());
}

/// A published run of eight rows in two parts with marked captions; row 5 is not an image.
fn monday() -> Workplace {
    let workplace = Workplace::with_images(8, 4);
    photo(&workplace, "5", b"not an image");
    workplace.run_ok(&["--run-id", "monday", "--set", "limits.max_failed_fraction=1.0"]);
    for part in 0..2 {
        mark(&workplace.path(&format!("out/run=monday/part-{part:06}.parquet")), &format!("monday {part}"));
    }
    workplace.publish_again("out", "monday");
    workplace
}

/// The collection moved: other keys, other files, another order; and some rows that Monday did not have.
fn move_collection(workplace: &Workplace) {
    for (name, seed) in [("a", 7), ("b", 0), ("c", 2), ("d", 1), ("new", 50)] {
        photo(workplace, name, &png_image(seed));
    }
    photo(workplace, "broken", b"not an image");
    let rows: [Row<'_>; 7] = [
        ("moved-7", "a", None),
        ("moved-0", "b", Some("a dog on the beach 0")),
        ("moved-0-retitled", "b", Some("a cat on the beach")),
        ("broken", "broken", None),
        ("new", "new", None),
        ("moved-2", "c", None),
        ("moved-2-again", "c", None),
    ];
    write_manifest(workplace, &rows);
}

fn captions(rows: &Rows) -> Vec<String> {
    rows.text("caption").into_iter().map(Option::unwrap_or_default).collect()
}

#[test]
fn known_contents_are_copied_and_the_rest_is_computed() {
    let workplace = monday();
    move_collection(&workplace);
    let lenient = ["--set", "limits.max_failed_fraction=1.0", "--set", "output.part_rows=3"];
    let run = workplace.run(&[&["--run-id", "tuesday"], &REUSE[..], &lenient].concat());
    let log = String::from_utf8(run.stderr).unwrap();
    assert!(run.status.success() && log.contains("copied from earlier runs by content rows=4"), "{log}");

    let (before, rows) = (workplace.rows("out", Some("monday")), workplace.rows("out", Some("tuesday")));
    let found = captions(&rows);
    assert_eq!((&found[0][..], &found[1][..]), ("monday 1 3", "monday 0 0"));
    assert_eq!((&found[5][..], &found[6][..]), ("monday 0 2", "monday 0 2"));
    assert!(found[2..5].iter().all(|caption| !caption.starts_with("monday")), "{found:?}");
    assert_eq!(rows.text("status")[3].as_deref(), Some("failed"));
    // Columns that the model or the image gave are those of the earlier row; columns that identify the row are its own.
    let results = [
        "caption_logprob",
        "caption_tokens",
        "caption_finish",
        "caption_similarity",
        "image_embedding",
        "text_embedding",
        "fused_embedding",
        "image_text_similarity",
        "image_width",
        "image_height",
        "content_hash",
        "caption_fingerprint",
        "embedding_fingerprint",
    ];
    for (row, from) in [(0, 7), (1, 0), (5, 2), (6, 2)] {
        for name in results {
            let value = |rows: &Rows, row: usize| rows.column(name).slice(row, 1).to_data();
            assert_eq!(value(&rows, row), value(&before, from), "{name} of row {row}");
        }
        assert_ne!(rows.text("content_signature")[row], before.text("content_signature")[from]);
    }
    let ids = ["moved-7", "moved-0", "moved-0-retitled", "broken", "new", "moved-2", "moved-2-again"];
    assert_eq!(rows.text("id"), ids.map(|id| Some(id.to_owned())));
    assert_eq!(rows.column("run_seq").to_data().buffers()[0].typed_data::<i64>(), [2; 7]);

    // The next run finds nothing new. After it, the results of Tuesday can be copied as well, and newer rows take precedence.
    workplace.run_ok(&REUSE);
    assert_eq!(workplace.published("out").len(), 2);
    for part in 0..3 {
        mark(&workplace.path(&format!("out/run=tuesday/part-{part:06}.parquet")), &format!("tuesday {part}"));
    }
    workplace.publish_again("out", "tuesday");
    write_manifest(&workplace, &[("x", "new", None), ("y", "a", None), ("z", "d", None)]);
    workplace.run_ok(&[&["--run-id", "wednesday"], &REUSE[..]].concat());
    assert_eq!(captions(&workplace.rows("out", Some("wednesday"))), ["tuesday 1 1", "tuesday 0 0", "monday 0 1"]);
}

#[test]
fn nothing_is_copied_unasked_or_from_other_settings() {
    let workplace = monday();
    move_collection(&workplace);
    let lenient = ["--set", "limits.max_failed_fraction=1.0"];
    let copied =
        |run: &str| captions(&workplace.rows("out", Some(run))).iter().filter(|c| c.starts_with("monday")).count();
    workplace.run_ok(&[&["--run-id", "unasked", "--full"], &lenient[..]].concat());
    workplace.run_ok(&[&["--run-id", "full", "--full"], &REUSE[..], &lenient].concat());
    let other = ["--run-id", "other", "--set", "generation.max_new_tokens=3"];
    workplace.run_ok(&[&other[..], &REUSE, &lenient].concat());
    assert_eq!((copied("unasked"), copied("full"), copied("other")), (0, 0, 0));

    let refused = |arguments: &[&str], expected: &str| {
        let run = workplace.run(&[arguments, &REUSE].concat());
        let message = String::from_utf8(run.stderr).unwrap();
        assert!(run.status.code() == Some(2) && message.contains(expected), "{message}");
        assert!(message.contains("`output.reuse_by_content` = true is not possible here"), "{message}");
    };
    refused(&["--set", "generation.strategy=sample"], "have captions of their own");
    let job = std::fs::read_to_string(workplace.path("job.toml")).unwrap();
    workplace.job(&job.replace("image = \"image\"\n", ""));
    refused(&[], "the job has no `input.image`");
}

#[test]
fn killed_anywhere_the_same_rows_are_copied() {
    let workplace = monday();
    move_collection(&workplace);
    let copy = |to: &str| {
        let copied =
            std::process::Command::new("cp").arg("-r").args([workplace.path("out"), workplace.path(to)]).status();
        assert!(copied.unwrap().success());
    };
    let run = |output: &str| {
        let place = format!("output.path={output}");
        let lenient = ["--set", "limits.max_failed_fraction=1.0", "--set", "output.part_rows=2", "--set", &place];
        workplace.command("run", &[&["--run-id", "night"], &REUSE[..], &lenient].concat())
    };
    copy("undisturbed");
    assert!(run("undisturbed").output().unwrap().status.success());
    let expected = workplace.parts("undisturbed", "night");
    assert_eq!(expected.len(), 4);
    for (number, point) in ["after_put:6", "after_part:1", "before_part:3", "before_index:1"].iter().enumerate() {
        let output = format!("killed-{number}");
        copy(&output);
        killed_at(&mut run(&output), point);
        // In the meantime another run publishes the same contents; the plan does not name it.
        let place = format!("output.path={output}");
        let beside = ["--run-id", "beside", "--set", &place, "--set", "limits.max_failed_fraction=1.0"];
        assert!(workplace.run(&beside).status.success());
        assert!(run(&output).output().unwrap().status.success());
        assert!(workplace.parts(&output, "night") == expected, "{point}: other parts");
    }
}

#[test]
fn a_compaction_leaves_what_an_unfinished_run_copies() {
    let workplace = monday();
    move_collection(&workplace);
    let compact = || nightcap().arg("compact").arg(workplace.path("out")).args(["--grace", "0"]).output().unwrap();
    let lenient = ["--set", "limits.max_failed_fraction=1.0", "--set", "output.part_rows=2"];
    let run = || workplace.command("run", &[&["--run-id", "tuesday"], &REUSE[..], &lenient].concat());
    // A second run, so that there is something to compact.
    write_manifest(&workplace, &[("first", "new", None)]);
    workplace.run_ok(&["--run-id", "first"]);
    move_collection(&workplace);
    killed_at(&mut run(), "after_part:1");
    assert!(compact().status.success());
    assert!(!workplace.parts("out", "monday").is_empty(), "tuesday has yet to copy them");
    let resumed = run().output().unwrap();
    assert!(resumed.status.success(), "{}", String::from_utf8_lossy(&resumed.stderr));
    assert!(compact().status.success());
    assert_eq!(workplace.published("out").len(), 1);
    assert!(workplace.parts("out", "monday").is_empty());
    let check = nightcap().arg("status").arg(workplace.path("out")).arg("--check").output().unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    // What was compacted can be copied.
    write_manifest(&workplace, &[("again", "c", None)]);
    workplace.run_ok(&[&["--run-id", "wednesday"], &REUSE[..]].concat());
    assert_eq!(captions(&workplace.rows("out", Some("wednesday"))), ["monday 0 2"]);
}

#[test]
fn a_damaged_row_is_not_copied() {
    let workplace = monday();
    move_collection(&workplace);
    let part = workplace.path("out/run=monday/part-000000.parquet");
    for (bytes, expected) in changed_part(&part) {
        std::fs::write(&part, bytes).unwrap();
        let refused = workplace.run(&[&["--run-id", "tuesday"], &REUSE[..]].concat());
        let message = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(2), "{message}");
        assert!(message.contains("run=monday/part-000000.parquet") && message.contains(expected), "{message}");
    }
}

#[test]
fn a_damaged_reuse_index_is_noticed() {
    let workplace = monday();
    move_collection(&workplace);
    let record = std::fs::read_to_string(workplace.path("out/_nightcap/published/monday.json")).unwrap();
    let name = record.split('"').find(|text| text.starts_with("reuse-index-")).unwrap();
    let path = workplace.path(&format!("out/_nightcap/runs/monday/{name}"));
    let whole = std::fs::read(&path).unwrap();
    // The row number of the first entry: it then names another row.
    let mut damaged = whole.clone();
    for entry in damaged[8..].chunks_mut(24) {
        entry[23] ^= 1;
    }
    std::fs::write(&path, &damaged).unwrap();
    let check = || nightcap().arg("status").arg(workplace.path("out")).arg("--check").output().unwrap();
    let found = check();
    assert_eq!(found.status.code(), Some(2));
    assert!(String::from_utf8(found.stdout).unwrap().contains("it was changed after it was written"));
    let run = workplace.run(&REUSE);
    let message = String::from_utf8(run.stderr).unwrap();
    assert!(run.status.code() == Some(2) && message.contains("than the reuse index says"), "{message}");
    std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    let message = String::from_utf8(workplace.run(&REUSE).stderr).unwrap();
    assert!(message.contains("it is no reuse index"), "{message}");
    std::fs::write(&path, &whole).unwrap();
    assert!(check().status.success());
}

#[test]
fn copies_on_s3() {
    let (server, workplace) = (Seaweed::shared(), Workplace::with_images(6, 2));
    let settings = on_s3(&workplace, server, "reuse");
    let run = |arguments: &[&str]| {
        let outcome = run_command(&workplace, &server.endpoint(), &settings, arguments).output().unwrap();
        let log = String::from_utf8(outcome.stderr).unwrap();
        assert!(outcome.status.success(), "{log}");
        log
    };
    run(&["--run-id", "monday"]);
    let all = 0..6;
    let columns = vec![
        ("id", strings(all.clone().map(|row| Some(format!("again-{row}"))))),
        ("image", strings(all.clone().map(|row| Some(format!("photos/{row}.png"))))),
        ("title", strings(all.map(|row| (row % 3 == 0).then(|| format!("a dog on the beach {row}"))))),
    ];
    write_parquet(&workplace.path("manifest.parquet"), columns, 16);
    server.put("reuse/manifest.parquet", &std::fs::read(workplace.path("manifest.parquet")).unwrap()).unwrap();
    let log = run(&[&["--run-id", "tuesday"], &REUSE[..]].concat());
    assert!(log.contains("copied from earlier runs by content rows=6"), "{log}");
}
