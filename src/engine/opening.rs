//! What opening a model does to each of its graphs. In: a model directory. Out: one line for each graph. The graphs are opened
//! as [`super::Engine`] opens them, with this ONNX Runtime on this machine, and closed again; nothing is written.

use std::time::Instant;

use serde::Serialize;

use super::context::Once;
use super::step::open_decoder;
use crate::model::{ModelDirectory, Role};
use crate::onnx::{GraphOptions, OnnxError};

/// One graph as it is run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Opening {
    /// What it does.
    pub role: Role,
    /// Its file, relative to the model directory.
    pub file: String,
    /// The outputs that it is cut down to; `None` if all of it is run.
    pub cut_to: Option<Vec<String>>,
    /// How many sizes it does not compute any more, because they are always the same or known already.
    pub folded: usize,
    /// How many values it does not copy any more in every step.
    pub not_copied: usize,
    /// How many values it does not compute in every step any more, but once for each batch.
    pub computed_once: usize,
    /// How long it took to open, in seconds.
    pub seconds: f64,
}

/// Opens every graph of `directory`.
///
/// # Errors
/// When ONNX Runtime is missing or refuses a graph.
pub fn open_each(directory: &ModelDirectory, options: GraphOptions) -> Result<Vec<Opening>, OnnxError> {
    let mut openings = Vec::new();
    for role in Role::ALL {
        let Some(graph) = directory.graph(role) else { continue };
        let options = GraphOptions { varies: role != Role::Vision, ..options };
        let start = Instant::now();
        let kept = match role {
            Role::Prefill => Once::kept_states(directory, options, &mut Vec::new())?.map(|kept| kept.values),
            _ => None,
        };
        let (folded, not_copied, computed_once) = if role == Role::Decoder {
            let opened = open_decoder(directory, graph, options)?;
            (opened.folded, opened.elided_copies, opened.once.map_or(0, |once| once.values.len()))
        } else {
            if kept.is_none() {
                graph.source.open(options)?;
            }
            (0, 0, 0)
        };
        let (file, cut_to) = (graph.file.clone(), kept.or_else(|| graph.source.outputs.clone()));
        let seconds = start.elapsed().as_secs_f64();
        openings.push(Opening { role, file, cut_to, folded, not_copied, computed_once, seconds });
    }
    Ok(openings)
}
