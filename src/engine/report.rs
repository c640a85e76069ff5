//! How the graphs of a model are edited when they are opened. In: a model directory. Out: a report for each graph. The graphs are
//! opened as [`super::Engine`] opens them, and closed again; nothing is written.

use std::time::Instant;

use serde::Serialize;

use super::decoder::encoder_outputs::Precomputed;
use super::decoder::step_graph::open_decoder;
use crate::model::{ModelDirectory, Role};
use crate::onnx::{GraphOptions, OnnxError};

/// How one graph is edited.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LoadReport {
    /// What it does.
    pub role: Role,
    /// Its file, relative to the model directory.
    pub file: String,
    /// The outputs of the subgraph that is run; `None` if the whole graph is run.
    pub subgraph_outputs: Option<Vec<String>>,
    /// How many sizes are replaced by constants, or by equal sizes that are computed anyway.
    pub folded_sizes: usize,
    /// How many copies of tensors are removed.
    pub elided_copies: usize,
    /// How many values are computed once for each batch instead of in every step.
    pub hoisted_values: usize,
    /// How long it took to open, in seconds.
    pub seconds: f64,
}

/// Opens every graph of `directory` once.
///
/// # Errors
/// When ONNX Runtime is missing or refuses a graph.
pub fn open_each(directory: &ModelDirectory, options: GraphOptions) -> Result<Vec<LoadReport>, OnnxError> {
    let mut reports = Vec::new();
    for role in Role::ALL {
        let Some(graph) = directory.graph(role) else { continue };
        let options = GraphOptions { dynamic_shapes: role != Role::Vision, ..options };
        let start = Instant::now();
        let outputs = match role {
            Role::Prefill => {
                Precomputed::cross_attention(directory, options, &mut Vec::new())?.map(|subgraph| subgraph.outputs)
            }
            _ => None,
        };
        let (folded_sizes, elided_copies, hoisted_values) = if role == Role::Decoder {
            let opened = open_decoder(directory, graph, options)?;
            (opened.folded_sizes, opened.elided_copies, opened.hoisted.map_or(0, |hoisted| hoisted.outputs.len()))
        } else {
            if outputs.is_none() {
                graph.source.open(options)?;
            }
            (0, 0, 0)
        };
        let (file, subgraph_outputs) = (graph.file.clone(), outputs.or_else(|| graph.source.outputs.clone()));
        let seconds = start.elapsed().as_secs_f64();
        reports.push(LoadReport { role, file, subgraph_outputs, folded_sizes, elided_copies, hoisted_values, seconds });
    }
    Ok(reports)
}
