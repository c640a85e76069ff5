//! What a model directory is: which graph plays which role, what feeds every graph input, which settings its files
//! give, and its fingerprints. In: a folder. Out: a [`ModelDirectory`] that is known to fit together, or a
//! [`ModelError`] that names everything missing. No graph is run or even opened here.

mod binding;
mod config;
mod description;
mod directory;
mod error;
mod fingerprint;
mod first_step;
mod layout;
mod overrides;
mod role;

pub use binding::{Bindings, Producer};
pub use config::{ConfigFiles, Sourced};
pub use description::{Capabilities, Description, GraphDescription, PortDescription, Setting, inspect};
pub use directory::{EmbeddingPort, GraphFile, ModelDirectory};
pub use error::{ModelError, Problem};
pub use role::Role;
