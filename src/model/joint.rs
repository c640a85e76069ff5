//! The graphs of the files that were chosen. In: a file for each role. Out: what each graph declares. A file `model.onnx` may be for
//! images, for texts, or for both; its inputs say which. Of a graph for both, each role gets the subgraph of its embedding.

use std::collections::BTreeMap;
use std::path::Path;

use super::config::ConfigFiles;
use super::embedding::joint_output;
use super::error::Problem;
use super::family;
use super::graph_file::GraphFile;
use super::input_kind::{takes_pixels, takes_tokens};
use super::layout::ChosenFile;
use super::overrides::Overrides;
use super::role::Role;

/// Reads the graphs of `chosen` in the model directory `folder`.
pub(super) fn assign(
    folder: &Path,
    chosen: BTreeMap<Role, ChosenFile>,
    overrides: &Overrides,
    config: &ConfigFiles,
    problems: &mut Vec<Problem>,
) -> Vec<(Role, Result<GraphFile, Problem>)> {
    let mut graphs = Vec::new();
    let mut wholes: BTreeMap<String, Result<GraphFile, Problem>> = BTreeMap::new();
    for (role, ChosenFile { file, why, is_subgraph }) in chosen {
        if !is_subgraph {
            graphs.push((role, GraphFile::read(folder, file, why, None)));
            continue;
        }
        let read = || GraphFile::read(folder, file.clone(), why.clone(), None);
        let whole = match wholes.entry(file.clone()).or_insert_with(read) {
            Ok(whole) => whole,
            Err(problem) => {
                if graphs.iter().all(|(_, made)| made.as_ref().err() != Some(problem)) {
                    graphs.push((role, Err(problem.clone())));
                }
                continue;
            }
        };
        let inputs = &whole.header.inputs;
        match (inputs.iter().any(takes_pixels), inputs.iter().any(takes_tokens)) {
            (true, true) => {
                let output = joint_output(role, &whole.header.outputs, overrides);
                let output = output.or(role.embedding_outputs().first().copied()).map(str::to_owned);
                graphs.push((role, GraphFile::read(folder, file, why, output.map(|output| vec![output]))));
            }
            (true, false) if role == Role::Vision => graphs.push((role, Ok(whole.clone()))),
            (false, true) if inputs.iter().any(|port| port.name.starts_with("past_key_values")) => {
                let problem = family::without_images(&file, config);
                if !problems.contains(&problem) {
                    problems.push(problem);
                }
            }
            (false, true) if role == Role::Text => graphs.push((role, Ok(whole.clone()))),
            (true, false) | (false, true) if !overrides.graphs.contains_key(&role) => {}
            _ => {
                let inputs: Vec<_> =
                    inputs.iter().map(|port| format!("{} as {}", port.name, port.describe())).collect();
                let what = format!(
                    "expected an input with pixels, float [batch, 3, height, width], or with tokens, int64 [batch, length]; found {}",
                    inputs.join(", ")
                );
                let problem = Problem::new(&file, what);
                if !problems.contains(&problem) {
                    problems.push(problem);
                }
            }
        }
    }
    graphs
}
