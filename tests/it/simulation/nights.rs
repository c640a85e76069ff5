//! The job of the simulation: texts of a few rows in tiny real manifests, one for each night, embedded without a model.

use std::path::Path;
use std::sync::OnceLock;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use nightcap::engine::RowOutput;
use nightcap::job::{Job, VectorType};
use nightcap::manifest::Manifest;
use nightcap::manifest::reader::{ManifestReader, Projection};
use nightcap::output::OutputError;
use nightcap::output::part::columns::{OutputColumns, RunStamp, part_schema};
use nightcap::output::part::result::RowResult;
use nightcap::output::part::rows::Fingerprints;
use nightcap::output::part::writer::PartEncoder;
use nightcap::output::records::picture_source::ReadRules;
use nightcap::output::records::plan::{Identity, Plan};
use nightcap::output::run_folder;
use nightcap::output::store::OutputStore;
use nightcap::plan::claim::{Claimed, Draft};
use nightcap::plan::decide::{Decision, decide};
use nightcap::plan::delta::RunRequest;
use nightcap::plan::{PlanError, Selection};
use nightcap::row::error::{ErrorKind, RowError, Stage};
use nightcap::row::signature::Signature;
use nightcap::storage::Storage;
use std::sync::Arc;

use crate::common::{strings, write_parquet};

/// Rows in a part.
const PART_ROWS: usize = 2;
/// The texts of each night by key; a row whose text says "broken" fails.
const TEXTS: [&[(&str, &str)]; 3] = [
    &[("a", "one"), ("b", "one"), ("c", "one"), ("d", "one"), ("e", "one")],
    &[("a", "two"), ("b", "broken"), ("c", "one"), ("d", "two"), ("e", "two"), ("f", "two")],
    &[("a", "three"), ("b", "three"), ("c", "three"), ("d", "two"), ("f", "three"), ("g", "three")],
];

/// One night's manifest with the job that reads it.
pub struct Night {
    pub number: usize,
    job: Job,
    manifest: Manifest,
    storage: Storage,
    columns: OutputColumns,
    schema: SchemaRef,
}

/// Every night; their files are made once.
pub fn nights() -> &'static [Night] {
    static NIGHTS: OnceLock<(tempfile::TempDir, Vec<Night>)> = OnceLock::new();
    let (_, nights) = NIGHTS.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let nights = (0..TEXTS.len()).map(|number| Night::make(folder.path(), number)).collect();
        (folder, nights)
    });
    nights
}

impl Night {
    fn make(folder: &Path, number: usize) -> Self {
        let file = format!("{number}.parquet");
        let rows = TEXTS[number];
        let columns = vec![
            ("id", strings(rows.iter().map(|(key, _)| Some(*key)))),
            ("text", strings(rows.iter().map(|(_, text)| Some(*text)))),
        ];
        write_parquet(&folder.join(&file), columns, 100);
        let job = format!(
            "[input]\nmanifest = \"{file}\"\nkey = \"id\"\ntext = \"text\"\n[model]\npath = \"model\"\n[output]\npath = \"out\"\npart_rows = {PART_ROWS}\n"
        );
        let job = Job::parse(&job, "job.toml", folder, &[]).unwrap();
        let storage = Storage::from_environment();
        let manifest = Manifest::open(&job, &Arc::new(Storage::from_environment())).unwrap();
        let columns = OutputColumns {
            caption: false,
            caption_similarity: false,
            image_embedding: None,
            text_embedding: Some(2),
            fused_embedding: None,
            image_text_similarity: false,
            image_text_match: false,
            image: false,
            dtype: VectorType::F32,
        };
        let schema = part_schema(manifest.carried_fields(), &columns).unwrap();
        Self { number, job, manifest, storage, columns, schema }
    }

    /// The keys of its manifest with their texts.
    pub fn rows(&self) -> &'static [(&'static str, &'static str)] {
        TEXTS[self.number]
    }

    pub fn draft(&self, sharded: bool) -> Draft<'_> {
        let identity = serde_json::json!({ "text": "text" });
        Draft {
            identity: identity.as_object().cloned().unwrap_or_else(Identity::new),
            manifest: &self.manifest,
            sharded,
            reuse: false,
            key: "id",
            part_rows: self.job.output.part_rows,
            failures: self.job.limits.failures,
            read_rules: ReadRules::of(&self.job.limits),
            vector_model: None,
            caption_fingerprint: None,
            embedding_fingerprint: Some("model".to_owned()),
            schema: &self.schema,
        }
    }

    pub fn decide(&self, store: &OutputStore) -> Result<Decision, PlanError> {
        let fingerprints = Fingerprints { caption: None, embedding: Some("model".to_owned()) };
        let request = RunRequest { fingerprints, retry_failed: false, full: false };
        decide(&self.job, &self.manifest, &self.storage, Some(store), &request, None)
    }

    /// The bytes of a part, as the stages of the pipeline make them from its rows.
    pub fn part(&self, store: &OutputStore, claimed: &Claimed, part: u64) -> Result<Vec<u8>, OutputError> {
        let Claimed { plan, selection, .. } = claimed;
        let signatures = signatures(store, plan, part)?;
        let (carried, texts) = self.read(selection, plan, part);
        let results = texts.iter().zip(signatures).map(|(text, content_signature)| {
            let output = RowOutput { text_embedding: Some(vec![1.0, 0.0]), ..RowOutput::default() };
            let broken = || RowError::new(Stage::Encode, ErrorKind::NonFiniteOutput, "broken");
            let outcome = if text == "broken" { Err(broken()) } else { Ok(output) };
            RowResult { outcome, copy: None, image_size: None, content_hash: None, content_signature }
        });
        self.encoder(plan).encode(part, &carried, &results.collect::<Vec<_>>(), None, 0).map(|part| part.bytes)
    }

    fn read(&self, selection: &Selection, plan: &Plan, part: u64) -> (Vec<RecordBatch>, Vec<String>) {
        let wanted = selection.of_parts(&[part].into(), plan.part_rows);
        let (mut carried, mut texts) = (Vec::new(), Vec::new());
        for batch in ManifestReader::new(&self.manifest, wanted, Projection::Rows) {
            let batch = batch.unwrap();
            texts.extend((0..batch.len()).map(|row| batch.row(row).text.unwrap_or_default()));
            carried.push(batch.carried.clone());
        }
        (carried, texts)
    }

    fn encoder(&self, plan: &Plan) -> PartEncoder {
        let stamp = RunStamp {
            run: plan.run.clone(),
            plan_digest: plan.digest(),
            run_seq: plan.run_seq,
            caption_fingerprint: None,
            embedding_fingerprint: plan.embedding_fingerprint.clone(),
        };
        PartEncoder::new(self.schema.clone(), self.columns.clone(), stamp)
    }
}

fn signatures(store: &OutputStore, plan: &Plan, part: u64) -> Result<Vec<Signature>, OutputError> {
    let (start, length) = plan.signature_range(part);
    let bytes = store.range(&format!("{}/{}", run_folder(&plan.run), plan.signatures), start, length)?;
    Ok(bytes.as_chunks().0.iter().map(|&signature| Signature::from_bytes(signature)).collect())
}
