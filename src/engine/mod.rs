//! Runs a model: images and texts in, embeddings and captions out, a batch at a time. In: an opened
//! [`ModelDirectory`](crate::model::ModelDirectory), preprocessed pixels, texts. Out: one result per row, in order. No
//! image is decoded here, no file is read after loading, and nothing is kept from one call for the next.

mod batch;
mod beam;
mod begin;
mod chat;
mod context;
mod decoder;
mod decoding;
mod embed;
mod embedding;
mod fingerprint;
mod finite;
mod fuse;
mod generate;
mod joining;
mod models;
mod opening;
mod processors;
mod prompt;
mod prompt_form;
mod resolve;
mod sample;
mod settings;
mod single;
mod softmax;
mod step;
mod text;
mod tokens;
mod trial;
mod vision;

pub use batch::{Engine, EngineOptions, RowInput, RowOutput};
pub use fingerprint::{GENERATION_VERSION, PROMPT_VERSION, TEXT_VERSION, caption_fingerprint, embedding_fingerprint};
pub use generate::{Caption, Finish};
pub use models::{EncodedImage, Models, ModelsInput};
pub use opening::{Opening, open_each};
pub use prompt::{ImagePrompt, Prompt};
pub use prompt_form::PromptForm;
pub use settings::{
    BeamSettings, EarlyStopping, GenerationOverrides, GenerationSettings, SampleSettings, Strategy, StrategyName,
    out_of_range,
};
pub use single::choose;
pub use step::open_decoder;
pub use vision::ImageFeatures;
