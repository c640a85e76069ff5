//! Runs a model on batches of rows. In: an opened [`ModelDirectory`](crate::model::ModelDirectory), preprocessed pixels, texts. Out:
//! embeddings and captions, one result for each row, in order. No image file is decoded here, no file is read after loading, and no
//! state is kept between calls.
//!
//! # How a row is processed
//! 1. `encode`: `vision` encodes the image; `tokenizer` and `text` encode the row's text; `fusion` combines both; `embedding` normalises.
//! 2. `prompt`: `format` puts the prompt into the model's format, `expand` tokenizes it with one token for each image feature, and
//!    `position_limits` checks its length.
//! 3. `generate`: `captioner` queues the requests, and `scheduler` takes them out of the queue: `prefill` makes the input of the
//!    prefill, and after each run of the decoder `sampler` or `beam_search` selects the next tokens.
//! 4. `decoder`: `run` runs the prefill and the steps, `step_graph` feeds a graph, `cache` holds the state between two steps, and
//!    `encoder_outputs` explains cross-attention.
//!
//! `batch` is the entry for one model and `models` for those of a job; `report` says how the graphs are edited; `fingerprint` says
//! when results may change.
//!
//! `generate` imports `prompt`, `encode` and `decoder`; `prompt` and `decoder` import `encode`; no import goes the other way.

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
pub use encode::image_states::ImageStates;
pub use encode::vision::ImageFeatures;
pub use fingerprint::{GENERATION_VERSION, PROMPT_VERSION, TEXT_VERSION, caption_fingerprint, embedding_fingerprint};
pub use generate::sampler::select_token;
pub use generate::sequence::{Caption, Finish};
pub use generate::settings::{
    BeamSettings, EarlyStopping, GenerationOverrides, GenerationSettings, SampleSettings, Strategy, StrategyName,
    out_of_range,
};
pub use models::{EncodedImage, Models, ModelsInput};
pub use prompt::chat_template::ChatTemplate;
pub use prompt::expand::{ImagePrompt, Prompt};
pub use prompt::format::{JobPrompt, PromptFormat, StartRule};
pub use report::{LoadReport, check_tokenizer, open_each};
