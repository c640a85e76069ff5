//! The files of an OUTPUT. Each is put into a copy of a small OUTPUT, on which the commands that read it then work.

use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::DataType;
use tempfile::TempDir;

use super::{Outcome, copy, repo, scratch};
use crate::output::part::footer::part_summary;
use crate::output::publish::finalize::{finalize, finalize_partial};
use crate::output::publish::index::IndexReader;
use crate::output::publish::part_hashes::PartHashes;
use crate::output::publish::reuse::Reuse;
use crate::output::records::plan::load_plan;
use crate::output::records::published::published_runs;
use crate::output::records::run_seq::claim_run_seq;
use crate::output::store::OutputStore;
use crate::output::upkeep::compact::{CompactRequest, compact};
use crate::output::upkeep::discard::discard;
use crate::output::upkeep::status::OutputStatus;
use crate::output::view::View;
use crate::output::{published_path, run_folder};
use crate::storage::{Location, Storage};

pub(super) const RECORD: &[&str] = &[
    "_nightcap/published/first.json\n",
    "_nightcap/runs/half/plan.json\n",
    "_nightcap/seq/9223372036854775807.json\n",
    "_nightcap/seq/-1.json\n",
    "_nightcap/outcomes/first.json\n",
    "_nightcap/outcomes/half.json\n",
    "_nightcap/outcomes/fresh.json\n",
    "_nightcap/outcomes/compacted.json\n",
    "_nightcap/format.json\n",
    "_nightcap/schema.json\n",
    "_nightcap/published/../x.json\n",
    "\"supersedes\": [\"../../../victim\"]",
    "\"supersedes\": [\"first\"]",
    "\"parts\": 9223372036854775807",
    "\"partial\": [",
    "\"run_seq\": -9223372036854775808",
    "\"part_rows\": 0",
    "\"rows\": 18446744073709551615",
    "\"index\": \"",
    "\"run\": \"",
    "\"created_at\": \"",
    "\"published_at\": \"1969-01-01T00:00:00Z\"",
    "\"outcome\": \"partial\"",
    "\"outcome\": \"discarded\"",
    "\"token\": \"",
    "\"part_hashes\": \"",
    "\"footer_bytes\": 18446744073709551615",
    "../",
    "\\u0000",
    "%2e%2e",
    "\"key\": ",
    "\"selection\": ",
];

/// The part of the published run `second`.
const PART: &str = "run=second/part-000000.parquet";

/// A record at the path in its first line.
pub(super) fn replaced(input: &[u8]) -> Outcome {
    let Some(end) = input.iter().position(|byte| *byte == b'\n') else { return Outcome::ok() };
    let Ok(path) = std::str::from_utf8(&input[..end]) else { return Outcome::ok() };
    let plain =
        |name: &str| !name.is_empty() && name != "." && name != ".." && name.len() < 200 && !name.contains('\0');
    if path.len() > 800 || !path.split('/').all(plain) {
        return Outcome::ok();
    }
    with(&[path], &input[end + 1..])
}

/// A part of a published run, and of one that is to be closed.
pub(super) fn part(input: &[u8]) -> Outcome {
    with(&[PART, "run=half/part-000000.parquet"], input)
}

/// What commands say about an OUTPUT with these files of this content.
fn with(paths: &[&str], content: &[u8]) -> Outcome {
    thread_local! {
        static FOLDER: TempDir = scratch();
        static STORAGE: Arc<Storage> = Arc::new(Storage::from_environment());
    }
    FOLDER.with(|folder| {
        let (output, victim) = (folder.path().join("out"), folder.path().join("victim"));
        let mut outcome = Outcome::ok();
        let _ = std::fs::create_dir(&victim);
        std::fs::write(victim.join("part-000000.parquet"), "kept").expect("a file beside OUTPUT");
        for step in STEPS {
            let _ = std::fs::remove_dir_all(&output);
            copy(&repo("tests/fuzz/output"), &output);
            for path in paths {
                let file = output.join(path);
                if std::fs::create_dir_all(file.parent().unwrap_or(&output))
                    .and_then(|()| std::fs::write(&file, content))
                    .is_err()
                {
                    return outcome;
                }
                name_by_content(&output, path, content);
            }
            let store = STORAGE.with(|storage| OutputStore::open(&Location::Local(output.clone()), storage));
            outcome.signature += &match store {
                Ok(store) => {
                    if paths.contains(&PART) {
                        vouch(&store, &output);
                    }
                    step(&store)
                }
                Err(error) => Outcome::refused(&error).signature,
            };
            check_victim(&victim);
        }
        outcome
    })
}

/// The records that name others.
const NAMING: [&str; 5] = [
    "_nightcap/published/first.json",
    "_nightcap/published/second.json",
    "_nightcap/runs/first/plan.json",
    "_nightcap/runs/second/plan.json",
    "_nightcap/runs/half/plan.json",
];

/// Gives a record that is named by its content the name of this one, also where others name it: readers would look no further.
fn name_by_content(output: &Path, path: &str, content: &[u8]) {
    let name = path.rsplit('/').next().unwrap_or(path);
    let Some((kind, hash)) = name.rsplit_once('-').filter(|(_, hash)| hash.len() == 32) else { return };
    let new = &blake3::hash(content).to_hex()[..32];
    let renamed = output.join(path).with_file_name(format!("{kind}-{new}"));
    std::fs::rename(output.join(path), renamed).expect("a record to rename");
    for record in NAMING {
        replace(&output.join(record), hash, new);
    }
}

/// Makes the published record of `second` vouch for its part as it is now, if it has a footer.
fn vouch(store: &OutputStore, output: &Path) {
    let Ok(part) = part_summary(store, PART) else { return };
    let Ok(runs) = published_runs(store) else { return };
    let Some(published) = runs.into_iter().find(|published| published.run == "second") else { return };
    let mut hashes = PartHashes::default();
    hashes.add(0, part.hash);
    let Ok(name) = hashes.put(store, &run_folder("second")) else { return };
    replace(&output.join(published_path("second")), &published.part_hashes, &name);
}

/// Writes `new` for `old` in the text file at `path`, if it is one.
fn replace(path: &Path, old: &str, new: &str) {
    if let Ok(text) = std::fs::read_to_string(path)
        && text.contains(old)
    {
        std::fs::write(path, text.replace(old, new)).expect("a record to write");
    }
}

fn check_victim(victim: &Path) {
    let kept = std::fs::read(victim.join("part-000000.parquet"));
    assert!(kept.is_ok_and(|bytes| bytes == b"kept"), "a file beside OUTPUT was changed");
}

/// What is done with an OUTPUT, each time from the start.
const STEPS: [fn(&OutputStore) -> String; 7] = [status, plans, indexes, vectors, close, remove, compaction];

fn status(store: &OutputStore) -> String {
    let status = OutputStatus::read(store, true);
    let findings = status.iter().flat_map(|status| &status.findings);
    let said: String = findings.map(|finding| Outcome::refused(&finding.found).signature).collect();
    Outcome::of(&status).signature + &said
}

/// What search reads of every part: each vector belongs to one row.
fn vectors(store: &OutputStore) -> String {
    let Some(folder) = store.location().local() else { return String::new() };
    let view = OutputStore::from_argument(folder).and_then(|store| View::open(store, None));
    let Ok(view) = &view else { return Outcome::of(&view).signature };
    let mut said = String::new();
    let names = view.schema().fields().iter().filter(|field| matches!(field.data_type(), DataType::FixedSizeList(..)));
    for name in names.map(|field| field.name()) {
        for part in view.parts() {
            let mut values = Vec::new();
            let read = view.read_vectors(part, name, &mut |vectors| {
                assert_eq!(vectors.rows.iter().map(ExactSizeIterator::len).sum::<usize>(), vectors.len());
                assert!(vectors.rows.is_sorted_by(|a, b| a.end < b.start), "{:?}", vectors.rows);
                vectors.copy(0..vectors.len(), &mut values);
                Ok(())
            });
            said += &Outcome::of(&read).signature;
        }
    }
    said
}

fn plans(store: &OutputStore) -> String {
    let mut said = Outcome::of(&published_runs(store)).signature;
    for run in ["first", "second", "half"] {
        let plan = load_plan(store, run);
        said += &Outcome::of(&plan).signature;
        let Ok(plan) = plan else { continue };
        let _ = plan.digest();
        for part in [0, 1, plan.parts.saturating_sub(1)] {
            let (rows, range) = (plan.rows_in(part), plan.signature_range(part));
            assert!(rows <= plan.part_rows, "{rows} rows in {range:?}");
        }
        said += &Outcome::of(&Reuse::open(store, &plan)).signature;
    }
    said + &Outcome::of(&claim_run_seq(store, "fresh")).signature
}

fn indexes(store: &OutputStore) -> String {
    let Ok(runs) = published_runs(store) else { return String::new() };
    let mut said = String::new();
    for run in runs {
        let reader = IndexReader::open(store, &run_folder(&run.run), &run.index);
        said += &Outcome::of(&reader.as_ref().map(|_| ())).signature;
        for entry in reader.into_iter().flatten().take(1 << 16) {
            said = if entry.is_err() { said + &Outcome::of(&entry).signature } else { said };
        }
    }
    said
}

fn close(store: &OutputStore) -> String {
    let mut said = String::new();
    for run in ["half", "second"] {
        said += &Outcome::of(&finalize(store, run)).signature;
        said += &Outcome::of(&finalize_partial(store, run)).signature;
    }
    said
}

fn remove(store: &OutputStore) -> String {
    ["half", "first"].iter().map(|run| Outcome::of(&discard(store, run)).signature).collect()
}

fn compaction(store: &OutputStore) -> String {
    let request = CompactRequest { run: Some("compacted".to_owned()), ..CompactRequest::default() };
    Outcome::of(&compact(store, &request, &|| false)).signature
}
