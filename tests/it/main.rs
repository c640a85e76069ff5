//! Every integration test, in one binary. They run the real `nightcap` on real files with a tiny model.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test fails by panicking, writes its own files and says on stderr what it skips"
)]

mod aws;
mod azure;
mod batches;
mod changed_rows;
mod check;
#[allow(unreachable_pub, reason = "a module of a test binary")]
mod cluster;
#[allow(unreachable_pub, reason = "a module of a test binary")]
mod common;
mod compact;
mod conditions;
mod damaged_decisions;
mod damaged_parquet;
mod decoding;
mod descriptors;
mod discard;
mod disk;
mod doctor;
mod documents;
mod engine;
mod eval;
#[allow(unreachable_pub, reason = "a module of a test binary")]
mod export;
mod external_data;
mod families;
mod faults;
mod finalize_requests;
mod fingerprints;
mod fixed_sizes;
mod forged_records;
mod format;
mod fuzz_corpora;
mod generation;
mod generation_files;
mod google;
mod graph_writer;
mod histories;
mod hostile_models;
mod importers;
mod init;
mod inputs;
mod interruptions;
mod jobs;
mod late_plans;
mod library;
mod loaded_models;
mod long_values;
#[allow(unreachable_pub, reason = "a module of a test binary")]
mod manifest_command;
#[allow(unreachable_pub, reason = "a module of a test binary")]
mod many_rows;
mod model_directory;
mod model_failures;
mod monitor;
mod odd_keys;
mod odd_values;
mod outage;
mod packaging;
mod pictures;
#[allow(unreachable_pub, reason = "a module of a test binary")]
mod place;
mod planners;
mod planning;
mod precision;
mod predicates;
mod preprocess;
mod private_hosts;
mod processors;
mod prompts;
#[allow(unreachable_pub, reason = "a module of a test binary")]
mod proxy;
mod readers;
mod recipes;
#[allow(unreachable_pub, reason = "a module of a test binary")]
mod redirects;
mod refusals;
mod report;
mod reuse;
mod robustness;
mod rooms;
mod runs;
mod s3_kills;
mod sample;
mod scaled;
mod search;
#[allow(unreachable_pub, reason = "a module of a test binary")]
mod search_large;
#[allow(unreachable_pub, reason = "a module of a test binary")]
mod seaweed;
mod secrets;
mod shards;
mod signals;
#[allow(unreachable_pub, reason = "a module of a test binary")]
mod simulation;
mod small_graphs;
#[allow(unreachable_pub, reason = "a module of a test binary")]
mod storage;
mod surgery;
mod suspensions;
mod tables;
mod thumbnails;
mod torture;
mod towers;
mod values;
#[allow(unreachable_pub, reason = "a module of a test binary")]
mod views;
#[allow(unreachable_pub, reason = "a module of a test binary")]
mod web;
mod web_servers;
mod workers;
