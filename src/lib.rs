//! nightcap captions image collections overnight and builds search indexes from them: Parquet in, ONNX models, Parquet out.
//!
//! ```text
//!   job.toml
//!      |
//!   commands      run, plan, status, compact, ...
//!      |
//!     plan        which rows are new or changed, and which parts they form: one record that every shard reads
//!      |
//!   pipeline      the parts of the plan, one lane for each device
//!      |
//!      |    read          ingest             infer                       write
//!      |    rows   --->   bytes     --->     image and text states ---> Parquet part ---> OUTPUT/run=.../part-000000.parquet
//!      |                  pixel values       embeddings, fused states
//!      |                                     captions
//!      |    manifest      fetch              engine                      output::part
//!      |                  preprocess         onnx                        output::store
//!      |
//!   output::publish       every part is there: the run counts
//! ```
//!
//! # Rooms
//!
//! From the top down: a room imports only rooms below it in this table, and no two files import each other. `.ci/rooms` reads this
//! table and checks it.
//!
//! | room | what it is |
//! |---|---|
//! | [`commands`] | what each command does: arguments in, data on stdout, an exit status out |
//! | [`cli`] | the arguments of every command |
//! | [`pipeline`] | the stages of a run, and the file that wires them |
//! | [`monitor`] | what an operator's tools are told: metrics, pings |
//! | [`panics`] | a panic, as an error of nightcap itself |
//! | [`error`] | how a command ends: exit statuses, and what ends it early |
//! | [`plan`] | what one run will do, decided once: scan, listing, delta, claim; shards |
//! | [`eval`] | scores of captions and vectors against references |
//! | [`report`] | a page of HTML about an OUTPUT: what is counted, what is shown, how it looks |
//! | [`thumbnails`] | the pictures of an OUTPUT's rows, made small |
//! | [`search`] | the nearest vectors of an OUTPUT: kernel, best hits |
//! | [`output::upkeep`] | compaction, removal, status and the check of an OUTPUT |
//! | [`output::view`] | the newest published row of each key, as readers see them |
//! | [`output::publish`] | the check that a run is complete, its record, the indexes that later runs read |
//! | [`output::part`] | the columns of a part, written and read |
//! | [`output::records`] | the records of a run below `_nightcap` |
//! | [`output`] | the store that parts and records are put into, and heartbeats |
//! | [`fetch`] | the bytes of images |
//! | [`manifest`] | Parquet files that name the images: columns, row masks, rows |
//! | [`job`] | the job file, validated |
//! | [`engine`] | a loaded model: rows in, embeddings and captions out; fingerprints |
//! | [`engine::generate`] | captions: settings, the choice of tokens, scheduling |
//! | [`engine::prompt`] | prompts in the format of a model, as tokens |
//! | [`engine::decoder`] | the decoder's graphs and cache |
//! | [`engine::encode`] | image and text encoders, fusion, tokenizer, embeddings |
//! | [`model`] | a model directory: graphs by role, bindings, settings, hashes |
//! | [`onnx::edit`] | edits of ONNX graphs before they are opened |
//! | [`onnx::rows`] | rows of tensors, moved on the device that holds them |
//! | [`onnx::runtime`](mod@onnx::runtime) | ONNX Runtime: library, devices, sessions, tensors; the only room that knows `ort` |
//! | [`onnx`] | what graphs declare, the ONNX format, errors |
//! | [`preprocess`] | pixel values as Pillow and transformers make them |
//! | [`storage`] | local paths, s3://, gs://, az://, http(s)://: object stores by URI, credentials, retries |
//! | [`row`] | the error of a row, and the signature that tells whether it changed |
//! | [`support`] | clock, progress, metrics, failpoints, and the encoding of fingerprints |
//!
//! Two kinds of failure are kept apart by type: an [`error::Error`] ends the command, a [`row::error::RowError`] is data: one row
//! of the output.

#![allow(rustdoc::private_intra_doc_links, reason = "the documentation is built with private items")]

pub mod cli;
pub mod commands;
pub mod engine;
pub mod error;
pub mod eval;
pub mod fetch;
#[cfg(any(test, fuzzing))]
#[path = "../tests/fuzz/mod.rs"]
pub mod fuzz;
pub mod job;
pub mod manifest;
pub mod model;
pub mod monitor;
pub mod onnx;
pub mod output;
pub mod panics;
pub mod pipeline;
pub mod plan;
pub mod preprocess;
pub mod report;
pub mod row;
pub mod search;
pub mod storage;
pub mod support;
pub mod thumbnails;
