//! Prompts: the format that a model expects, and the tokens with the places of an image's features.

pub(crate) mod chat_template;
pub(crate) mod expand;
pub(crate) mod format;
pub(crate) mod position_limits;
