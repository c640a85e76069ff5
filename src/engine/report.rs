//! How the graphs of a model are edited when they are opened. In: a model directory. Out: a report for each graph. The graphs are
//! opened as [`super::Engine`] opens them, and closed again; nothing is written.

use std::time::Instant;

use serde::Serialize;

use super::decoder::encoder_outputs::Precomputed;
use super::decoder::step_graph::{StepGraph, open_decoder};
use super::decoder::step_ports::step_ports;
use super::encode::tokenizer::TextTokenizer;
use super::generate::settings::{GenerationOverrides, GenerationSettings};
use super::generate::token_selection::TokenSelection;
use crate::model::{ModelDirectory, ModelError, Role};
use crate::onnx::{FusedOperators, GraphOptions, OnnxError, recognise_static};

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
    /// Whether a device with memory of its own runs steps of one shape; `None` for a graph that has no steps.
    pub static_step: Option<bool>,
    /// Why it does not.
    pub not_static: Option<String>,
    /// Where tokens are selected on such a device by the directory's own generation settings; `None` without steps of one shape, or if a
    /// job has to say how captions are generated.
    pub token_selection: Option<String>,
    /// What becomes one operator of an encoder's graph on a GPU; `None` for other graphs.
    pub fused_operators: Option<FusedOperators>,
    /// How long it took to open, in seconds.
    pub seconds: f64,
}

/// Reads the tokenizer of `directory`, if it has one, as [`super::Engine`] does.
///
/// # Errors
/// When it is not usable.
pub fn check_tokenizer(directory: &ModelDirectory) -> Result<(), ModelError> {
    TextTokenizer::load(directory).map(|_| ())
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
        let seconds = start.elapsed().as_secs_f64();
        let made = match step_ports(directory).filter(|_| role == Role::Decoder) {
            Some(ports) => Some(recognise_static(&graph.source, &ports, options)?),
            None => None,
        };
        let static_step = made.as_ref().map(Result::is_ok);
        let not_static = made.and_then(Result::err).map(|not| not.reason);
        let settings = GenerationSettings::resolve(directory, &GenerationOverrides::default()).ok();
        let settings = settings.filter(|_| static_step == Some(true));
        let token_selection = settings.map(|settings| {
            let logits = graph.header.output(StepGraph::LOGITS).and_then(|logits| logits.fixed(2));
            TokenSelection::of(&settings, logits.unwrap_or(0)).to_string()
        });
        let (file, subgraph_outputs) = (graph.file.clone(), outputs.or_else(|| graph.source.outputs.clone()));
        let fused_operators = match role {
            Role::Vision | Role::Text | Role::Fusion => Some(graph.source.fused_operators()?),
            _ => None,
        };
        reports.push(LoadReport {
            role,
            file,
            subgraph_outputs,
            folded_sizes,
            elided_copies,
            hoisted_values,
            static_step,
            not_static,
            token_selection,
            fused_operators,
            seconds,
        });
    }
    Ok(reports)
}
