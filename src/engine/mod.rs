//! Runs a model: images and texts in, embeddings and captions out, one batch at a time. In: an opened
//! [`ModelDirectory`](crate::model::ModelDirectory), preprocessed pixels, texts. Out: one result per row, in order. No
//! image is decoded here, no file is read after loading, and nothing is kept from one batch for the next.

mod batch;
mod beam;
mod decoder;
mod embedding;
mod fuse;
mod generate;
mod processors;
mod resolve;
mod sample;
mod settings;
mod text;
mod tokens;
mod vision;

pub use batch::{Engine, EngineOptions, RowInput, RowOutput};
pub use generate::{Caption, Finish};
pub use settings::{
    BeamSettings, EarlyStopping, GenerationOverrides, GenerationSettings, SampleSettings, Strategy, StrategyName,
    out_of_range,
};
pub use vision::ImageFeatures;
