//! Model directories. In: a folder. Out: a [`ModelDirectory`] whose graphs and files are checked to fit together, or a [`ModelError`]
//! that lists every problem. No graph is opened or run here.
//!
//! - `overrides`, `layout`, `joint`, `role`, `graph_file`: which file plays which role, and what its graph declares
//! - `producer`, `cache_names`, `input_kind`, `binding`: what feeds every graph input
//! - `first_step`: whether the decoder's graph can also run the prefill
//! - `json_file`, `config`, `sentence_modules`: the JSON files and their settings; `generation_config`: which of them generation settings come
//!   from; `generation_table`: which of these are obeyed; `class_defaults`: what transformers adds to a config.json;
//!   `special_tokens`, `chat_templates`: what they say about these
//! - `embedding`, `pooling`: which output holds the embedding, and how states become one
//! - `family`: families that cannot run, and what to do about a directory without graphs
//! - `directory`: puts all of it together; `description` reports it (`model inspect`)
//! - `conversion`: the files of a directory of another precision
//! - `fingerprint`: hashes of everything that decides results

mod binding;
mod cache_names;
mod chat_templates;
mod class_defaults;
mod config;
mod conversion;
mod description;
mod directory;
mod embedding;
mod error;
mod family;
mod fingerprint;
mod first_step;
mod generation_config;
mod generation_table;
mod graph_file;
mod input_kind;
mod joint;
mod json_file;
mod layout;
mod overrides;
mod pooling;
mod positions;
mod producer;
mod role;
mod sentence_modules;
mod special_tokens;
mod tokenizer_class;

pub use binding::Bindings;
pub use config::{ConfigFiles, Sourced};
pub use conversion::Conversion;
pub use description::{Capabilities, Description, GraphDescription, PortDescription, Setting, inspect};
pub use directory::ModelDirectory;
pub use embedding::EmbeddingPort;
pub use error::{ModelError, Problem};
pub use generation_table::{GENERATION_SETTINGS, Search, Treatment, treatment};
pub use graph_file::GraphFile;
pub use layout::has_graphs;
pub use pooling::Pooling;
pub use producer::Producer;
pub use role::Role;
pub use special_tokens::{SpecialTokens, TokenDescription};
pub use tokenizer_class::TokenizerClass;
