//! Runs a model: images and texts in, embeddings and captions out, a batch at a time. In: an opened
//! [`ModelDirectory`](crate::model::ModelDirectory), preprocessed pixels, texts. Out: one result per row, in order. No
//! image is decoded here, no file is read after loading, and no state is kept between calls.
//!
//! # The way of a row
//! 1. Encode: `vision` encodes the image, `tokens` and `text` the row's text; `fuse` combines both; `embedding` normalises.
//! 2. Prompt: `prompt_form` puts the prompt into the model's format, `prompt` tokenizes it with the image in it, and
//!    `position_limits` checks its length.
//! 3. Generate: `begin` queues the requests; `generate` schedules them: `prefill` builds the input of the first run, and after
//!    each run `single` (greedy search, sampling) or `beam` selects the next tokens, with `processors`, `softmax` and `sample`.
//! 4. Decoder: `decoder` runs the prefill and the steps; `step` feeds a graph, `decoding` holds cache and encoder outputs between
//!    two steps, `context` explains cross-attention.
//!
//! Generate imports prompt, encode and decoder; prompt imports encode; no import goes the other way.

mod batch;
pub(crate) mod decoder;
pub(crate) mod encode;
mod fingerprint;
pub(crate) mod generate;
mod models;
pub(crate) mod prompt;
pub(crate) mod report;

pub use batch::{Engine, EngineOptions, RowInput, RowOutput};
pub use decoder::step_graph::open_decoder;
pub use encode::vision::ImageFeatures;
pub use fingerprint::{GENERATION_VERSION, PROMPT_VERSION, TEXT_VERSION, caption_fingerprint, embedding_fingerprint};
pub use generate::sampler::select_token;
pub use generate::sequence::{Caption, Finish};
pub use generate::settings::{
    BeamSettings, EarlyStopping, GenerationOverrides, GenerationSettings, SampleSettings, Strategy, StrategyName,
    out_of_range,
};
pub use models::{EncodedImage, Models, ModelsInput};
pub use prompt::expand::{ImagePrompt, Prompt};
pub use prompt::format::{JobPrompt, PromptForm};
pub use report::{LoadReport, open_each};
