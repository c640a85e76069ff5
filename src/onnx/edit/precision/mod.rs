//! Conversion of a float32 graph file to float16 or bfloat16. In: a graph file. Out: another graph file, with its weights in it or in a
//! file beside it. This is the one edit that is written, and the one that changes what a graph computes: by rounding.
//!
//! - `half`: the two types and their ranges
//! - `flat`: calls of functions replaced by their nodes, float constants as initializers, names that are unique in the whole file
//! - `types`: the element type of every value
//! - `operators`: operators that stay in float32, with sources
//! - `decide`: which nodes are computed in float32
//! - `rewrite`: the graph with casts where the two meet
//! - `weights`: rounds weights, and refuses those that are out of range
//! - `write`: the new file; `convert`: all of it

mod convert;
mod decide;
mod flat;
mod half;
mod operators;
mod rewrite;
#[cfg(test)]
mod small_graphs;
mod types;
mod weights;
mod write;

pub use convert::{ConvertedGraph, convert};
pub use half::HalfPrecision;
