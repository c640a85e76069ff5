//! Model directories. In: a folder. Out: a [`ModelDirectory`] whose graphs and files are checked to fit together, or a [`ModelError`]
//! that lists every problem. No graph is opened or run here.
//!
//! - `overrides`, `layout`, `role`, `graph_file`: which file plays which role, and what its graph declares
//! - `producer`, `cache_names`, `binding`: what feeds every graph input
//! - `first_step`: whether the decoder's graph can also run the prefill
//! - `config`: the JSON files and their settings; `special_tokens`, `chat_templates`: what they say about these; `class_positions`: what
//!   they leave out
//! - `directory`: puts all of it together; `description` reports it (`model inspect`)
//! - `conversion`: the files of a directory of another precision
//! - `fingerprint`: hashes of everything that decides results

mod binding;
mod cache_names;
mod chat_templates;
mod class_positions;
mod config;
mod conversion;
mod description;
mod directory;
mod error;
mod fingerprint;
mod first_step;
mod graph_file;
mod layout;
mod overrides;
mod producer;
mod role;
mod special_tokens;

pub use binding::Bindings;
pub use config::{ConfigFiles, Sourced};
pub use conversion::Conversion;
pub use description::{Capabilities, Description, GraphDescription, PortDescription, Setting, inspect};
pub use directory::ModelDirectory;
pub use error::{ModelError, Problem};
pub use graph_file::{EmbeddingPort, GraphFile};
pub use layout::has_graphs;
pub use producer::Producer;
pub use role::Role;
pub use special_tokens::{SpecialTokens, TokenDescription};
