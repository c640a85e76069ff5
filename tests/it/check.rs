//! `status --check` finds everything that is wrong with an OUTPUT in one run.

use std::path::Path;

use arrow::compute::concat_batches;
use nightcap::output::store::OutputStore;
use nightcap::output::upkeep::status::OutputStatus;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};

use crate::common::{Workplace, killed_at, nightcap, read_parquet, replace_part};

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
    for record in ["published", "outcomes"] {
        std::fs::remove_file(workplace.path(&format!("out/_nightcap/{record}/night.json"))).unwrap();
    }
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
    // The second part with the first one's first row instead of its own, and otherwise as a fault of nightcap would have written it.
    let rows = concat_batches(&second.schema(), &[first.slice(0, 1), second.slice(1, 3)]).unwrap();
    replace_part(&part(1), rows.columns().to_vec(), &second.schema());
    workplace.publish_again("out", "night");
    assert_finds(
        &workplace,
        &[(
            "run=night",
            "key \"row-0000\" occurs more than once, in run=night/part-000000.parquet and run=night/part-000001.parquet",
        )],
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
    let forged = forged.replace("\"failures\": {}", "\"failures\": {\"io\": 1}");
    std::fs::write(&published, forged.replace("\"run_seq\": 1", "\"run_seq\": 3")).unwrap();
    let hashes = record.split('"').find(|text| text.starts_with("part-hashes-")).unwrap();
    let hashes = workplace.path(&format!("out/_nightcap/runs/night/{hashes}"));
    flip(&hashes, 100);
    let index = record.split('"').find(|text| text.starts_with("index-")).unwrap();
    let index = workplace.path(&format!("out/_nightcap/runs/night/{index}"));
    let bytes = std::fs::read(&index).unwrap();
    std::fs::write(&index, &bytes[..bytes.len() - 60]).unwrap();
    assert_finds(
        &workplace,
        &[
            ("_nightcap/runs/night/part-hashes-", "it was changed after it was written"),
            ("run=night/part-000000.parquet", "key \"row-0000\" has run_seq 1, not the run_seq of the run, 3"),
            ("run=night/part-000001.parquet", "has run_seq 1"),
            ("run=night/part-000002.parquet", "has run_seq 1"),
        ],
    );
    std::fs::write(&published, forged.replace("\"key\": \"id\"", "\"key\": \"image\"")).unwrap();
    std::fs::remove_file(&hashes).unwrap();
    assert_finds(
        &workplace,
        &[
            ("_nightcap/runs/night/part-hashes-", "it is missing"),
            ("_nightcap/published/night.json", "it counts 12 rows, 11 ok"),
            ("_nightcap/published/night.json", "key, fingerprints or replaced runs are not those of the plan"),
            ("_nightcap/runs/night/index-", ""),
        ],
    );
}

/// A bit of every byte outside the columns (page indexes, footer, magic bytes), and 400 bits within them.
#[test]
fn every_flipped_bit_of_a_part_is_found() {
    let workplace = Workplace::with_images(6, 6);
    std::fs::write(workplace.path("photos/4.png"), b"not an image").unwrap();
    workplace.run_ok(&["--run-id", "night"]);
    let name = "run=night/part-000000.parquet";
    let part = workplace.path(&format!("out/{name}"));
    let whole = std::fs::read(&part).unwrap();
    let reader = SerializedFileReader::new(std::fs::File::open(&part).unwrap()).unwrap();
    let columns = reader.metadata().row_group(0).columns();
    let column_at = |at: usize| {
        let holds = |column: &&ColumnChunkMetaData| {
            let (start, length) = column.byte_range();
            (start..start + length).contains(&(at as u64))
        };
        columns.iter().find(holds).map(|column| column.column_path().parts()[0].clone())
    };
    let outside: Vec<usize> = (0..whole.len()).filter(|at| column_at(*at).is_none()).collect();
    let inside = whole.len() - outside.len();
    assert!(outside.len() > 1000 && inside > 1000, "{} {inside}", outside.len());
    let mut state = 20_261_127_u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let flips = outside.iter().map(|at| (*at, random(8))).collect::<Vec<_>>();
    let flips: Vec<_> = flips.into_iter().chain((0..400).map(|_| (4 + random(inside), random(8)))).collect();
    let store = OutputStore::from_argument(&workplace.path("out")).unwrap();
    assert!(OutputStatus::read(&store, true).unwrap().findings.is_empty());
    let mut missed = Vec::new();
    for (at, bit) in flips {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << bit;
        std::fs::write(&part, bytes).unwrap();
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| OutputStatus::read(&store, true)));
        let found = found.unwrap_or_else(|_| panic!("bit {bit} of byte {at} ends the check")).unwrap().findings;
        let expected = column_at(at).map_or_else(String::new, |column| format!("`{column}`"));
        match found.as_slice() {
            [finding] if finding.path == name && finding.found.contains(&expected) => {}
            [] => missed.push((at, bit)),
            others => panic!("bit {bit} of byte {at} ({expected}): {others:?}"),
        }
    }
    assert!(missed.is_empty(), "{} flips were missed: {missed:?}", missed.len());
    // Bytes that are cut off or added.
    for bytes in
        [&whole[..whole.len() - 1], &[&whole[..], b"x"].concat(), &[&whole[..inside], &whole[..]].concat(), b""]
    {
        std::fs::write(&part, bytes).unwrap();
        let found = OutputStatus::read(&store, true).unwrap().findings;
        assert!(found.len() == 1 && found[0].path == name, "{found:?}");
    }
    std::fs::write(&part, whole).unwrap();
    assert!(OutputStatus::read(&store, true).unwrap().findings.is_empty());
}

#[test]
fn a_part_of_another_run_in_its_place_is_found() {
    let workplace = one_run();
    let place = |run: &str| workplace.path(&format!("out/run={run}/part-000001.parquet"));
    // Whole and readable, but not the one that was published.
    workplace.run_ok(&["--run-id", "other", "--full"]);
    std::fs::copy(place("other"), place("night")).unwrap();
    assert_finds(&workplace, &[("run=night/part-000001.parquet", "were published")]);
}

#[test]
fn a_changed_column_names_itself() {
    let workplace = one_run();
    let part = workplace.path("out/run=night/part-000001.parquet");
    let reader = SerializedFileReader::new(std::fs::File::open(&part).unwrap()).unwrap();
    let columns = reader.metadata().row_group(0).columns().iter();
    let start = |name: &str| {
        let mut found = columns.clone().filter(|column| column.column_path().parts()[0] == name);
        let (start, length) = found.next().unwrap().byte_range();
        (start + length - 1) as usize
    };
    for name in ["caption", "fused_embedding"] {
        flip(&part, start(name));
    }
    let found = "other bytes in `caption`, `fused_embedding` than were written";
    assert_finds(&workplace, &[("run=night/part-000001.parquet", found)]);
}

#[test]
fn plain_status_survives_a_part_that_cannot_be_read() {
    let workplace = Workplace::with_images(12, 4);
    killed_at(&mut workplace.command("run", &["--run-id", "night"]), "after_part:2");
    std::fs::write(workplace.path("out/run=night/part-000000.parquet"), b"not a part").unwrap();
    let (code, findings) = check(&workplace, &[]);
    assert_eq!((code, findings.len()), (Some(2), 1));
    assert_eq!(findings[0].0, "run=night/part-000000.parquet");
    let shown = nightcap().arg("status").arg(workplace.path("out")).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("2 of 3") && shown.contains("hint: remove it"), "{shown}");
}
