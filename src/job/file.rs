//! The job file as written: every key with the type of its value, before defaults and checks. These structs are the only list of
//! keys. Every key and section is optional here; [`super::load`] says which are required.

use serde::Deserialize;

use super::{OnDuplicateKey, VectorType};
use crate::storage::StorageSettings;

/// The whole file.
#[derive(Deserialize)]
pub(super) struct JobFile {
    #[serde(default)]
    pub(super) input: InputFile,
    #[serde(default)]
    pub(super) model: ModelFile,
    #[serde(default)]
    pub(super) generation: GenerationFile,
    #[serde(default)]
    pub(super) embedding: EmbeddingFile,
    #[serde(default)]
    pub(super) output: OutputFile,
    #[serde(default)]
    pub(super) runtime: RuntimeFile,
    #[serde(default)]
    pub(super) limits: LimitsFile,
    #[serde(default)]
    pub(super) storage: StorageSettings,
}

#[derive(Deserialize, Default)]
pub(super) struct InputFile {
    pub(super) manifest: Option<OneOrMany>,
    pub(super) key: Option<String>,
    pub(super) image: Option<String>,
    pub(super) text: Option<String>,
    #[serde(rename = "where")]
    pub(super) predicate: Option<String>,
    pub(super) signature: Option<OneOrMany>,
    #[serde(default)]
    pub(super) on_duplicate_key: OnDuplicateKey,
    #[serde(default)]
    pub(super) jpeg_scaling: bool,
}

/// A text or a list of texts.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
pub(super) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl From<OneOrMany> for Vec<String> {
    fn from(texts: OneOrMany) -> Self {
        match texts {
            OneOrMany::One(text) => vec![text],
            OneOrMany::Many(texts) => texts,
        }
    }
}

#[derive(Deserialize, Default)]
pub(super) struct ModelFile {
    pub(super) path: Option<String>,
    pub(super) precision: Option<String>,
}

#[derive(Deserialize, Default)]
pub(super) struct GenerationFile {
    pub(super) enabled: Option<bool>,
    pub(super) strategy: Option<String>,
    pub(super) max_new_tokens: Option<usize>,
    pub(super) min_new_tokens: Option<usize>,
    pub(super) num_beams: Option<usize>,
    pub(super) length_penalty: Option<f64>,
    pub(super) early_stopping: Option<toml::Value>,
    pub(super) temperature: Option<f64>,
    pub(super) top_k: Option<usize>,
    pub(super) top_p: Option<f64>,
    pub(super) min_p: Option<f64>,
    pub(super) repetition_penalty: Option<f64>,
    pub(super) no_repeat_ngram_size: Option<usize>,
    pub(super) stop: Option<OneOrMany>,
    pub(super) seed: Option<u64>,
    pub(super) prompt: Option<String>,
}

#[derive(Deserialize, Default)]
pub(super) struct EmbeddingFile {
    pub(super) image: Option<bool>,
    pub(super) text: Option<bool>,
    pub(super) fused: Option<bool>,
    pub(super) caption_similarity: Option<bool>,
    pub(super) dtype: Option<VectorType>,
    pub(super) model: Option<String>,
}

#[derive(Deserialize, Default)]
pub(super) struct OutputFile {
    pub(super) path: Option<String>,
    pub(super) columns: Option<Vec<String>>,
    pub(super) part_rows: Option<u64>,
    #[serde(default)]
    pub(super) reuse_by_content: bool,
}

/// A number of rows, or `"auto"`.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a number of rows or \"auto\"")]
pub(super) enum BatchSize {
    Rows(usize),
    Named(String),
}

#[derive(Deserialize, Default)]
pub(super) struct RuntimeFile {
    pub(super) devices: Option<Vec<String>>,
    pub(super) batch_size: Option<BatchSize>,
    pub(super) device_memory_bytes: Option<usize>,
    pub(super) prefetch_bytes: Option<usize>,
    pub(super) repeatable: Option<bool>,
    pub(super) threads: Option<usize>,
}

#[derive(Deserialize, Default)]
pub(super) struct LimitsFile {
    pub(super) max_failed_fraction: Option<f64>,
    pub(super) min_failed_rows: Option<u64>,
    pub(super) max_image_bytes: Option<u64>,
    pub(super) max_image_pixels: Option<u64>,
    pub(super) fetch_timeout_ms: Option<u64>,
    pub(super) retries: Option<u32>,
    pub(super) requests_per_host: Option<usize>,
    pub(super) outage_after: Option<u64>,
    pub(super) roots: Option<Vec<String>>,
    pub(super) allow_private_hosts: Option<OneOrMany>,
}
