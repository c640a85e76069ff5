//! `status --check` finds everything that is wrong with an OUTPUT in one run.

use std::path::Path;

use arrow::compute::concat_batches;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};

use crate::common::{Workplace, nightcap, read_parquet};

/// One run of twelve rows in three parts.
fn one_run() -> Workplace {
    let workplace = Workplace::with_images(12, 4);
    workplace.run_ok(&["--run-id", "night"]);
    workplace
}

/// The exit status and the findings, as path and text.
fn check(workplace: &Workplace, arguments: &[&str]) -> (Option<i32>, Vec<(String, String)>) {
    let output = nightcap().arg("status").arg(workplace.path("out")).arg("--json").args(arguments).output().unwrap();
    let said: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let findings = said["findings"].as_array().unwrap().iter();
    let text = |finding: &serde_json::Value, name: &str| finding[name].as_str().unwrap().to_owned();
    let findings = findings.map(|finding| {
        assert!(!text(finding, "hint").is_empty());
        (text(finding, "path"), text(finding, "found"))
    });
    (output.status.code(), findings.collect())
}

fn assert_finds(workplace: &Workplace, expected: &[(&str, &str)]) {
    let (code, findings) = check(workplace, &["--check"]);
    assert_eq!(code, Some(2), "{findings:?}");
    assert_eq!(findings.len(), expected.len(), "{findings:#?}");
    for ((path, text), (expected_path, expected_text)) in findings.iter().zip(expected) {
        assert!(path.starts_with(expected_path) && text.contains(expected_text), "{findings:#?}");
    }
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0xff;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_sound_output_is_clean() {
    let workplace = one_run();
    assert_eq!(check(&workplace, &["--check"]), (Some(0), Vec::new()));
    let says_so = |arguments: &[&str]| {
        let output = nightcap().arg("status").arg(workplace.path("out")).args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stderr).contains("every part of the published runs is as the records say")
    };
    assert!(says_so(&["--check"]) && !says_so(&[]));
}

#[test]
fn damaged_missing_and_stray_parts_are_all_named() {
    let workplace = one_run();
    let part = |number: u32| workplace.path(&format!("out/run=night/part-{number:06}.parquet"));
    std::fs::copy(part(1), part(7)).unwrap();
    // The first page of the first column: keys, compressed.
    flip(&part(0), 40);
    std::fs::remove_file(part(1)).unwrap();
    assert_finds(
        &workplace,
        &[
            ("run=night/part-000007.parquet", "none of the parts that were published"),
            ("run=night/part-000000.parquet", ""),
            ("run=night/part-000001.parquet", "there is no such object"),
        ],
    );
    let shown = nightcap().arg("status").arg(workplace.path("out")).arg("--check").output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("\nhint: put it back from a backup; or remove _nightcap/published/night.json"), "{shown}");
}

#[test]
fn the_advice_repairs() {
    let workplace = one_run();
    std::fs::write(workplace.path("out/run=night/part-000001.parquet"), b"PAR1 no longer PAR1").unwrap();
    assert_eq!(check(&workplace, &["--check"]).0, Some(2));
    std::fs::remove_file(workplace.path("out/_nightcap/published/night.json")).unwrap();
    let discarded = nightcap().arg("discard").arg(workplace.path("out")).args(["--run-id", "night"]).output().unwrap();
    assert!(discarded.status.success());
    workplace.run_ok(&["--run-id", "again"]);
    assert_eq!(workplace.rows("out", None).len(), 12);
    assert_eq!(check(&workplace, &["--check"]), (Some(0), Vec::new()));
}

#[test]
fn a_key_in_two_parts_of_a_run_is_named() {
    let workplace = one_run();
    let part = |number: u32| workplace.path(&format!("out/run=night/part-{number:06}.parquet"));
    let (first, second) = (read_parquet(&part(0)), read_parquet(&part(1)));
    // The second part with the first one's first row instead of its own, and otherwise as it was.
    let rows = concat_batches(&second.schema(), &[first.slice(0, 1), second.slice(1, 3)]).unwrap();
    let reader = SerializedFileReader::new(std::fs::File::open(part(1)).unwrap()).unwrap();
    let footer = reader.metadata().file_metadata().key_value_metadata().unwrap().clone();
    let footer = footer.into_iter().filter(|entry| entry.key.starts_with("nightcap.")).collect();
    let properties = WriterProperties::builder().set_key_value_metadata(Some(footer)).build();
    let schema = arrow::datatypes::Schema::new(second.schema().fields().clone());
    let rows = arrow::record_batch::RecordBatch::try_new(schema.into(), rows.columns().to_vec()).unwrap();
    let mut writer =
        ArrowWriter::try_new(std::fs::File::create(part(1)).unwrap(), rows.schema(), Some(properties)).unwrap();
    writer.write(&rows).unwrap();
    writer.close().unwrap();
    assert_finds(
        &workplace,
        &[
            ("_nightcap/runs/night/index-", "its rows are not those of the parts"),
            ("_nightcap/runs/night/reuse-index-", "its rows are not those of the parts"),
            (
                "run=night",
                "key \"row-0000\" occurs more than once, in run=night/part-000000.parquet and run=night/part-000001.parquet",
            ),
        ],
    );
}

#[test]
fn records_that_disagree_are_named() {
    let workplace = one_run();
    let published = workplace.path("out/_nightcap/published/night.json");
    let record = std::fs::read_to_string(&published).unwrap();
    assert!(record.contains("\"ok\": 12"));
    // A record that does not agree with itself is not read at all.
    std::fs::write(&published, record.replace("\"ok\": 12", "\"ok\": 11")).unwrap();
    assert_finds(&workplace, &[("_nightcap/published/night.json", "do not add up")]);
    let forged = record.replace("\"ok\": 12", "\"ok\": 11").replace("\"failed\": 0", "\"failed\": 1");
    assert!(forged.contains("\"failures\": {}"));
    std::fs::write(&published, forged.replace("\"failures\": {}", "\"failures\": {\"io\": 1}")).unwrap();
    let index = record.split('"').find(|text| text.starts_with("index-")).unwrap();
    let index = workplace.path(&format!("out/_nightcap/runs/night/{index}"));
    let bytes = std::fs::read(&index).unwrap();
    std::fs::write(&index, &bytes[..bytes.len() - 60]).unwrap();
    assert_finds(
        &workplace,
        &[("_nightcap/published/night.json", "it counts 12 rows, 11 ok"), ("_nightcap/runs/night/index-", "")],
    );
}

#[test]
fn no_flipped_byte_ends_the_check() {
    let workplace = one_run();
    let part = workplace.path("out/run=night/part-000001.parquet");
    let whole = std::fs::read(&part).unwrap();
    let mut found = 0;
    let steps = 60;
    for step in 0..steps {
        flip(&part, step * whole.len() / steps);
        let (code, findings) = check(&workplace, &["--check"]);
        assert!(matches!(code, Some(0 | 2)), "{code:?}");
        assert!(findings.iter().all(|(path, _)| path.contains("part-000001") || path.contains("night")));
        found += u32::from(code == Some(2));
        std::fs::write(&part, &whole).unwrap();
    }
    // The other bytes are low bits of numbers, or are not read by any reader.
    assert!(found > 30, "{found} of {steps}");
}

#[test]
fn plain_status_survives_a_part_that_cannot_be_read() {
    let workplace = Workplace::with_images(12, 4);
    let killed =
        workplace.command("run", &["--run-id", "night"]).env("NIGHTCAP_KILL_AT", "after_part:2").output().unwrap();
    assert_eq!(killed.status.code(), None);
    std::fs::write(workplace.path("out/run=night/part-000000.parquet"), b"not a part").unwrap();
    let (code, findings) = check(&workplace, &[]);
    assert_eq!((code, findings.len()), (Some(2), 1));
    assert_eq!(findings[0].0, "run=night/part-000000.parquet");
    let shown = nightcap().arg("status").arg(workplace.path("out")).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("2 of 3") && shown.contains("hint: remove it"), "{shown}");
}
