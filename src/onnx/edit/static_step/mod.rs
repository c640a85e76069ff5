//! Makes of an exported decoder graph a step of one shape: one token a row, caches of a fixed length that are written in place, and a
//! length for each row. In: the graph of a decoder, and what feeds its inputs. Out: the step, or why the graph cannot be one.
//!
//! An exported step has another shape at each token: its caches grow, its mask and positions follow from their length, and all rows have
//! the same length. In the static step
//!
//! - a cache that grows by `Concat` is written in place by `TensorScatter`, at the index that is the row's length;
//! - self-attention is the operator `Attention` of opset 24, which takes the number of valid keys of each row. Masks over the tokens are
//!   no longer needed, and positions follow from the lengths;
//! - cross-attention is ONNX Runtime's `MultiHeadAttention` over the keys and values that are the same in all steps;
//! - tokens are embedded in the graph;
//! - all sizes but those of the batch, of the caches and of the encoder's states are constants.
//!
//! A step is used only if it gives what the exported graph gives: `proof` runs both.
//!
//! - `recognise`: makes and proves a step; `make`, `proof`
//! - `step`, `outcome`: the result
//! - `branch`: the branch with a cache of a merged decoder
//! - `ports`: what feeds an input, and values for it
//! - `embed`: token embeddings in front
//! - `counted`: what follows from the number of tokens: positions and masks
//! - `caches`, `attention`: the operators
//! - `shapes`: sizes that are constants when there is one token
//! - `tables`: rotary angles
//! - `opset`: the definitions of opset 24
//! - `values`: nodes and constants

mod attention;
mod branch;
mod caches;
mod counted;
mod embed;
mod make;
mod opset;
mod outcome;
mod ports;
mod proof;
mod recognise;
mod shapes;
mod step;
mod tables;
mod values;

pub(super) use opset::version as opset_version;
pub(crate) use outcome::NotStatic;
pub(crate) use ports::{EmbedGraph, StepPort, StepPorts};
pub(crate) use recognise::{recognise_static, static_step};
pub(super) use step::encode;
pub(crate) use step::{LENGTHS, StaticGraph, StaticStep, TOKENS};
