//! Random histories of an OUTPUT: runs in which some rows fail, and compactions in between. Before and after each of them, the
//! documented views show what the history says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Field, Int64Type};
use arrow::record_batch::RecordBatch;
use nightcap::engine::RowOutput;
use nightcap::job::VectorType;
use nightcap::output::format::claim_format;
use nightcap::output::part::columns::{OutputColumns, RunStamp, part_schema};
use nightcap::output::part::reader::read_part;
use nightcap::output::part::result::RowResult;
use nightcap::output::part::writer::PartEncoder;
use nightcap::output::publish::finalize::finalize;
use nightcap::output::records::plan::Plan;
use nightcap::output::records::published::published_runs;
use nightcap::output::records::run_seq::claim_run_seq;
use nightcap::output::store::OutputStore;
use nightcap::output::upkeep::compact::{CompactOutcome, CompactRequest, compact};
use nightcap::output::upkeep::status::OutputStatus;
use nightcap::output::{part_path, plan_path};
use nightcap::row::error::{ErrorKind, RowError, Stage};
use nightcap::row::signature::Signature;
use proptest::prelude::*;
use serde_json::json;

use crate::common::strings;

/// How a row ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Ok,
    Permanent,
    Transient,
}

/// One step of a history.
#[derive(Debug, Clone)]
enum Step {
    /// A run with these rows, in parts of so many.
    Run(BTreeMap<u32, End>, u64),
    Compact,
}

fn step() -> impl Strategy<Value = Step> {
    let end = prop_oneof![3 => Just(End::Ok), 2 => Just(End::Permanent), 1 => Just(End::Transient)];
    let run = (prop::collection::btree_map(0..7u32, end, 1..7), 1..4u64).prop_map(|(rows, part)| Step::Run(rows, part));
    prop_oneof![3 => run, 1 => Just(Step::Compact)]
}

/// Publishes a run with these rows; the content of row `key` is the number of the run.
fn publish(store: &OutputStore, number: u64, rows: &BTreeMap<u32, End>, part_rows: u64) -> i64 {
    let run = format!("run-{number}");
    let run_seq = claim_run_seq(store, &run).unwrap();
    let count = rows.len() as u64;
    let reasons = ["new", "content_changed", "text_changed", "model_changed", "settings_changed", "retried", "full"];
    let reasons: BTreeMap<_, u64> =
        reasons.into_iter().chain(["unchanged", "duplicate"]).map(|name| (name, 0)).collect();
    let plan: Plan = serde_json::from_value(json!({
        "run": run, "run_seq": run_seq, "version": "0", "created_at": "", "identity": {}, "key": "id", "considered": [],
        "reasons": reasons, "signatures": "", "manifest": [], "rows": count, "part_rows": part_rows,
        "parts": count.div_ceil(part_rows), "batch_size": 1,
        "failures": {"max_failed_fraction": 1.0, "min_failed_rows": 0},
        "caption_fingerprint": null, "embedding_fingerprint": null,
    }))
    .unwrap();
    store.put_new(&plan_path(&run), serde_json::to_vec(&plan).unwrap()).unwrap();
    let columns = OutputColumns {
        caption: false,
        caption_similarity: false,
        image_embedding: None,
        text_embedding: None,
        fused_embedding: None,
        image_text_similarity: false,
        image_text_match: false,
        image: false,
        dtype: VectorType::F32,
    };
    let schema = part_schema(vec![Field::new("id", DataType::Utf8, true)], &columns).unwrap();
    let stamp = RunStamp {
        run: run.clone(),
        plan_digest: plan.digest(),
        run_seq,
        caption_fingerprint: None,
        embedding_fingerprint: None,
    };
    let encoder = PartEncoder::new(schema.clone(), columns, stamp);
    let carried = Arc::new(schema.project(&[0]).unwrap());
    let rows: Vec<_> = rows.iter().collect();
    for (part, rows) in (0..).zip(rows.chunks(part_rows as usize)) {
        let keys = strings(rows.iter().map(|(key, _)| Some(key.to_string())));
        let keys = RecordBatch::try_new(carried.clone(), vec![keys]).unwrap();
        let result = |(_, end): &(&u32, &End)| RowResult {
            outcome: match end {
                End::Ok => Ok(RowOutput::default()),
                End::Permanent => Err(RowError::new(Stage::Fetch, ErrorKind::NotFound, "gone")),
                End::Transient => Err(RowError::new(Stage::Fetch, ErrorKind::Timeout, "late")),
            },
            copy: None,
            image_size: None,
            content_hash: None,
            content_signature: Signature { content: number, text: 0 },
        };
        let results: Vec<_> = rows.iter().map(result).collect();
        let bytes = encoder.encode(part, &[keys], &results, None, 0).unwrap();
        store.put_new(&part_path(&run, part), bytes.bytes).unwrap();
    }
    finalize(store, &run).unwrap();
    run_seq
}

/// A row as readers tell it from others: key, `run_seq`, content, status.
type Row = (String, i64, String, String);

/// Every row that counts.
fn rows(store: &OutputStore) -> Vec<Row> {
    let mut found = Vec::new();
    for run in published_runs(store).unwrap() {
        for part in run.part_numbers() {
            for batch in read_part(store, &part_path(&run.run, part), None).unwrap() {
                let batch = batch.unwrap();
                let text =
                    |name: &str, row| batch.column_by_name(name).unwrap().as_string::<i32>().value(row).to_owned();
                let run_seq = batch.column_by_name("run_seq").unwrap().as_primitive::<Int64Type>();
                let row =
                    |row| (text("id", row), run_seq.value(row), text("content_signature", row), text("status", row));
                found.extend((0..batch.num_rows()).map(row));
            }
        }
    }
    found
}

/// The view of `rows`: of each key the row with the highest `run_seq`.
fn view(rows: impl Iterator<Item = Row>) -> BTreeSet<Row> {
    let mut newest: BTreeMap<String, Row> = BTreeMap::new();
    for row in rows {
        if newest.get(&row.0).is_none_or(|known| known.1 < row.1) {
            newest.insert(row.0.clone(), row);
        }
    }
    newest.into_values().collect()
}

fn compacted(store: &OutputStore) -> bool {
    match compact(store, &CompactRequest::default(), &|| false).unwrap() {
        CompactOutcome::Compacted(_) => true,
        CompactOutcome::Nothing(_) => false,
        CompactOutcome::Stopped => panic!("stopped"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn views_stay_and_a_second_compaction_has_nothing_to_do(steps in prop::collection::vec(step(), 1..7)) {
        let folder = tempfile::tempdir().unwrap();
        let store = OutputStore::from_argument(folder.path()).unwrap();
        claim_format(&store).unwrap();
        // What was ever published, in the order of the runs.
        let mut history: Vec<Row> = Vec::new();
        for (number, step) in (1..).zip(steps.iter().chain([&Step::Compact])) {
            match step {
                Step::Run(rows, part_rows) => {
                    let run_seq = publish(&store, number, rows, *part_rows);
                    let signature = Signature { content: number, text: 0 }.to_string();
                    history.extend(rows.iter().map(|(key, end)| {
                        let status = if *end == End::Ok { "ok" } else { "failed" };
                        (key.to_string(), run_seq, signature.clone(), status.to_owned())
                    }));
                }
                Step::Compact => {
                    compacted(&store);
                    prop_assert!(!compacted(&store), "the second has nothing to do");
                    let newest = view(history.iter().cloned());
                    let failed = newest.iter().filter(|row| row.3 == "failed").map(|row| &row.0);
                    let with_good = failed.filter(|key| history.iter().any(|row| row.0 == **key && row.3 == "ok")).count();
                    prop_assert_eq!(rows(&store).len(), newest.len() + with_good, "nothing else is kept");
                }
            }
            let now = rows(&store);
            prop_assert_eq!(view(now.iter().cloned()), view(history.iter().cloned()), "newest");
            let good = |rows: &[Row]| view(rows.iter().filter(|row| row.3 == "ok").cloned());
            prop_assert_eq!(good(&now), good(&history), "last_good");
            let findings = OutputStatus::read(&store, true).unwrap().findings;
            // The schema is put by `run`, which made none of these.
            prop_assert!(findings.is_empty(), "{:?}", findings);
        }
    }
}
