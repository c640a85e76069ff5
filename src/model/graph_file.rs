//! One graph file of a model directory. In: its name, and the outputs of the subgraph, if not all of it is run. Out: what it declares,
//! and the files that hold its weights. No weights are read here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::error::Problem;
use super::role::Role;
use crate::onnx::{GraphHeader, GraphSource, Port};

/// The most elements of an input or output whose axes are numbers: 1 GB of float32.
const MOST_ELEMENTS: usize = 1 << 28;
/// The most axes of an input or output.
const MOST_AXES: usize = 32;

/// A graph file that plays a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphFile {
    /// Its path, and which subgraph plays the role.
    pub source: GraphSource,
    /// Its path relative to the model directory, for people.
    pub file: String,
    /// Why it has its role.
    pub why: String,
    /// What it declares.
    pub header: GraphHeader,
    /// The files with weights beside it, without links.
    pub external: Vec<PathBuf>,
    /// The size of all of it in bytes.
    pub bytes: u64,
}

/// BLAKE3 hashes of a model directory's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hashes {
    pub(super) graphs: BTreeMap<Role, Vec<blake3::Hash>>,
    pub(super) files: BTreeMap<&'static str, blake3::Hash>,
}

impl GraphFile {
    /// Reads the declarations of `file` in the model directory `folder`, or of the subgraph that computes `outputs`.
    ///
    /// # Errors
    /// When it is no graph or has no such output, or when weights are missing or are no files below its folder.
    pub(super) fn read(
        folder: &Path,
        file: String,
        why: String,
        outputs: Option<Vec<String>>,
    ) -> Result<Self, Problem> {
        let path = folder.join(&file);
        let source = GraphSource { path: path.clone(), outputs };
        let problem = |what: String, hint: Option<String>| {
            let problem = Problem::new(&file, what);
            hint.into_iter().fold(problem, Problem::with_hint)
        };
        let header = GraphHeader::read(&source).map_err(|error| problem(error.what, error.hint))?;
        for port in header.inputs.iter().chain(&header.outputs) {
            check_size(port).map_err(|what| problem(what, None))?;
        }
        let external = header.external_files.iter().map(|location| source.external_file(location));
        let external: Vec<PathBuf> =
            external.collect::<Result<_, _>>().map_err(|error| problem(error.what, error.hint))?;
        let mut bytes = 0;
        for part in std::iter::once(&path).chain(&external) {
            let size = std::fs::metadata(part)
                .map_err(|error| problem(format!("{} is not readable: {error}", part.display()), None))?;
            bytes += size.len();
        }
        Ok(Self { source, file, why, header, external, bytes })
    }
}

/// Refuses a declared shape that no memory should be allocated for; dynamic axes count as 1.
fn check_size(port: &Port) -> Result<(), String> {
    let axes = port.rank().unwrap_or(0);
    if axes > MOST_AXES {
        return Err(format!("{:?}: expected at most {MOST_AXES} axes, found {axes}", port.name));
    }
    let elements = (0..axes).filter_map(|axis| port.fixed(axis)).fold(1, usize::saturating_mul);
    if elements > MOST_ELEMENTS {
        let found = port.describe();
        return Err(format!("{:?}: expected at most {MOST_ELEMENTS} elements, found {found}", port.name));
    }
    Ok(())
}
