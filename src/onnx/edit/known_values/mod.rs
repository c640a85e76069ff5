//! What a graph says about its values without being run. In: a graph. Out: for each value its shape, its element type and, for small
//! vectors, its elements; sizes that are not known have names, so that equal ones are recognised.
//!
//! - `known`: what is known, and questions about it
//! - `elements`: calculates with numbers and named sizes
//! - `shapes`: the shapes of what operators give
//! - `operators`: goes through a graph

mod elements;
mod known;
mod operators;
mod shapes;

pub(crate) use known::{KnownValues, Size};
