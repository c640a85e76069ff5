//! Model directories: which graph plays which role, what feeds every graph input, which settings the files hold, and the
//! fingerprints. In: a folder. Out: a [`ModelDirectory`] whose parts are known to fit together, or a [`ModelError`] that names
//! everything that is missing. No graph is opened or run here.

mod binding;
mod cache_names;
mod config;
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

pub use binding::Bindings;
pub use config::{ConfigFiles, Sourced};
pub use description::{Capabilities, Description, GraphDescription, PortDescription, Setting, inspect};
pub use directory::ModelDirectory;
pub use error::{ModelError, Problem};
pub use graph_file::{EmbeddingPort, GraphFile};
pub use producer::Producer;
pub use role::Role;
