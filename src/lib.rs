//! nightcap captions image collections overnight and builds search indexes from them.
//!
//! ```text
//! job.toml -> commands -> plan -> pipeline: read -> ingest -> infer -> write -> output: finalize
//!                                            |         |         |        |
//!                                        manifest   fetch,    engine,  output::part,
//!                                                  preprocess  onnx    output::store
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | [`cli`], [`commands`], [`exit`] | arguments; what each command does; exit statuses |
//! | [`job`] | the job file, validated |
//! | [`manifest`] | Parquet files that name the images: columns, row masks, rows |
//! | [`plan`] | what one run will do, decided once; shards |
//! | [`pipeline`] | the stages of a run, wired |
//! | [`storage`] | local paths, s3://, gs://, az://, http(s)://: object stores by URI, credentials, retries |
//! | [`fetch`], [`preprocess`] | image bytes; pixel values as Pillow and transformers make them |
//! | [`model`] | a model directory: graphs by role, bindings, settings, fingerprints |
//! | [`onnx`] | ONNX Runtime; the only module that knows it |
//! | [`engine`] | encoders, fusion and the generation loop over batches |
//! | [`output`] | OUTPUT: parts, records, finalize, status |
//! | [`signature`] | what tells one night's rows from the next's |
//! | [`error`], [`row_error`], [`panics`] | what ends a command; what becomes columns of a row; faults of nightcap itself |
//!
//! Two kinds of failure are kept apart by type: an [`error::Error`] ends the command before or between parts, a
//! [`row_error::RowError`] is data.

pub mod cli;
pub mod commands;
pub mod engine;
pub mod error;
pub mod exit;
pub mod fetch;
pub mod job;
pub mod manifest;
pub mod model;
pub mod onnx;
pub mod output;
pub mod pipeline;
pub mod plan;
pub mod preprocess;
pub mod row;
pub mod storage;
pub mod support;
