//! The record `plan.json`: what a run will do, decided once and read by every process that works on it.

use chrono::{DateTime, Utc};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::names::{self, MOST_PART_ROWS, MOST_ROWS};
use super::picture_source::{PictureSource, ReadRules};
use super::reasons::Reasons;
use crate::job::FailureLimits;
use crate::output::store::OutputStore;
use crate::output::{OutputError, plan_path};
use crate::row::signature::Signature;

/// One manifest file of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedFile {
    /// Absolute path or URI, without credentials.
    pub uri: String,
    /// Size in bytes when the plan was made.
    pub bytes: u64,
    /// The version: the `ETag`, or on disk the last modification in nanoseconds since 1970.
    pub version: String,
    /// Rows in it.
    pub rows: u64,
    /// Selected rows.
    pub selected: u64,
    /// Name of the row mask among the run's records: a Roaring bitmap of row numbers.
    #[serde(deserialize_with = "names::selection")]
    pub selection: String,
}

/// A model directory, as the job named it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedModel {
    /// Absolute path or URI, without credentials.
    pub uri: String,
    /// `model.precision`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision: Option<String>,
    /// `input.jpeg_scaling`.
    #[serde(default)]
    pub jpeg_scaling: bool,
}

/// Everything that results depend on besides the rows. Two attempts belong to one run only if it is equal.
pub type Identity = serde_json::Map<String, serde_json::Value>;

/// A run's plan, the record `plan.json`. One that is read agrees with itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Plan {
    /// The run id.
    #[serde(deserialize_with = "names::run_id")]
    pub run: String,
    /// The number of the run, which grows with every run of an OUTPUT.
    #[serde(deserialize_with = "names::run_seq")]
    pub run_seq: i64,
    /// The version of nightcap that made the plan.
    pub version: String,
    /// When, in UTC.
    pub created_at: String,
    /// Input, generation, embedding, columns, fingerprints, limit.
    pub identity: Identity,
    /// The key column.
    pub key: String,
    /// The published runs that were compared with the manifest.
    #[serde(deserialize_with = "names::run_ids")]
    pub considered: Vec<String>,
    /// The published runs whose results may be copied, oldest first; empty unless `output.reuse_by_content` asks for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "names::run_ids")]
    pub reuses: Vec<String>,
    /// The selected rows by reason.
    pub reasons: Reasons,
    /// Name of the record with the rows' signatures, [`Signature::BYTES`] each, in order.
    #[serde(deserialize_with = "names::signatures")]
    pub signatures: String,
    /// See [`Published::supersedes`](super::published::Published::supersedes); empty unless the run is a compaction.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "names::run_ids")]
    pub supersedes: Vec<String>,
    /// The manifest files in order.
    pub manifest: Vec<PlannedFile>,
    /// For each disk and bucket the deepest folder that all images of the job on it share, as text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_roots: Vec<String>,
    /// What the run may read.
    #[serde(default, skip_serializing_if = "ReadRules::is_default")]
    pub read_rules: ReadRules,
    /// Where the pictures of a compaction's rows are; empty for a run that reads a manifest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pictures: Vec<PictureSource>,
    /// Selected rows of all files.
    pub rows: u64,
    /// Rows in a part; the last part may have fewer.
    pub part_rows: u64,
    /// Parts.
    pub parts: u64,
    /// Rows in a batch. Stored, because rounding may depend on it.
    pub batch_size: usize,
    /// How many failed rows `finalize` accepts.
    pub failures: FailureLimits,
    /// The model that makes the vectors, for commands that compare something else with them; None without vectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vector_model: Option<PlannedModel>,
    /// Names the graphs, tokenizer, preprocessing and settings behind captions; None without captions.
    pub caption_fingerprint: Option<String>,
    /// The same behind vectors.
    pub embedding_fingerprint: Option<String>,
}

/// The part of a plan's identity that says where its pictures are.
#[derive(Deserialize)]
struct PlannedInput {
    manifest: Vec<String>,
    key: String,
    image: Option<String>,
}

impl<'de> Deserialize<'de> for Plan {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let plan = Self::deserialize(deserializer)?;
        plan.check().map_err(D::Error::custom)?;
        Ok(plan)
    }
}

impl Serialize for Plan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl Plan {
    /// Checks that the numbers are possible and agree with each other.
    fn check(&self) -> Result<(), String> {
        let Self { rows, part_rows, parts, batch_size, .. } = *self;
        if rows > MOST_ROWS || !(1..=MOST_PART_ROWS).contains(&part_rows) || batch_size == 0 {
            return Err(format!(
                "expected at most {MOST_ROWS} rows in parts of 1 to {MOST_PART_ROWS}, found {rows} rows in parts of {part_rows} and batches of {batch_size}"
            ));
        }
        if parts != rows.div_ceil(part_rows) {
            return Err(format!(
                "{rows} rows in parts of {part_rows} make {} parts, but it says {parts}",
                rows.div_ceil(part_rows)
            ));
        }
        let selected = self.manifest.iter().try_fold(0_u64, |sum, file| sum.checked_add(file.selected));
        // A compaction has no manifest.
        if !self.manifest.is_empty() && selected != Some(rows) {
            return Err(format!("the rows that it selects of its manifest files are not {rows} in all"));
        }
        Ok(())
    }

    /// When it was made; 1 January 1970 if the record says no time.
    #[must_use]
    pub fn created(&self) -> DateTime<Utc> {
        self.created_at.parse().unwrap_or(DateTime::UNIX_EPOCH)
    }

    /// Where the pictures of its rows are; none if its records do not say it.
    #[must_use]
    pub fn picture_sources(&self) -> Vec<PictureSource> {
        if !self.pictures.is_empty() {
            return self.pictures.clone();
        }
        let input = self.identity.get("input").and_then(|input| PlannedInput::deserialize(input).ok());
        let source = |PlannedInput { manifest, key, image }| PictureSource {
            run_seqs: vec![self.run_seq],
            manifest,
            key,
            image,
            image_roots: self.image_roots.clone(),
            rules: self.read_rules.clone(),
        };
        input.map(source).into_iter().collect()
    }

    /// The bytes of the signatures of part `part` in their record: first byte and length.
    #[must_use]
    pub fn signature_range(&self, part: u64) -> (u64, u64) {
        let bytes = Signature::BYTES as u64;
        (part.saturating_mul(self.part_rows).saturating_mul(bytes), self.rows_in(part) * bytes)
    }

    /// Rows in part `part`.
    #[must_use]
    pub fn rows_in(&self, part: u64) -> u64 {
        self.rows.saturating_sub(part.saturating_mul(self.part_rows)).min(self.part_rows)
    }

    /// Identifies the plan in the footers of its parts: BLAKE3 of everything in it that results depend on, hex.
    #[must_use]
    pub fn digest(&self) -> String {
        let failures = FailureLimits::default();
        let (read_rules, pictures) = (ReadRules::default(), Vec::new());
        let timeless =
            Self { created_at: String::new(), failures, vector_model: None, read_rules, pictures, ..self.clone() };
        // A plan is plain data: serialising it cannot fail.
        let bytes = serde_json::to_vec(&timeless).unwrap_or_default();
        blake3::hash(&bytes).to_hex()[..32].to_owned()
    }
}

/// Reads a run's plan.
///
/// # Errors
/// [`OutputError`], or [`OutputError::NoSuchRun`].
pub fn load_plan(store: &OutputStore, run: &str) -> Result<Plan, OutputError> {
    let plan: Plan = store.record(&plan_path(run))?.ok_or_else(|| OutputError::NoSuchRun { run: run.to_owned() })?;
    if plan.run == run {
        return Ok(plan);
    }
    Err(OutputError::Record { path: plan_path(run), message: format!("it is the plan of run {}", plan.run) })
}
