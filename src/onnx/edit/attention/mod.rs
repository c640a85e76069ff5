//! Attention in exported graphs. In: a graph. Out: where it computes scaled dot-product attention from single products and a softmax; and an
//! equal graph in which that is one operator, as is what stands between two attentions.
//!
//! - `site`: what is known about one attention
//! - `matching`: finds them; `scale`: multiplies the factors that it finds
//! - `fuse`, `projection`: one operator in their place
//! - `layer_norm`, `gelu`: one operator for a sum and its layer normalization, and for an activation function
//! - `new_nodes`: makes nodes

#[cfg(test)]
pub(crate) mod everywhere;
#[cfg(test)]
mod exports;
pub(crate) mod fuse;
pub(crate) mod gelu;
#[cfg(test)]
mod half_precision;
pub(crate) mod layer_norm;
pub(crate) mod matching;
mod new_nodes;
pub(crate) mod projection;
mod scale;
pub(crate) mod site;
