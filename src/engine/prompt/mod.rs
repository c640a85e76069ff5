//! Prompts. In: the prompt of a job or a row, the model directory, the number of image features. Out: token ids, and which of them stand
//! for image features. No graph is run here.
//!
//! - `format`, `chat_template`, `python_json`: puts a prompt into the format of the model
//! - `expand`: tokenizes it, with one token for each image feature
//! - `position_limits`: whether the model can process that many tokens

pub(crate) mod chat_template;
pub(crate) mod expand;
pub(crate) mod format;
pub(crate) mod position_limits;
mod python_json;

#[cfg(test)]
mod goldens;
