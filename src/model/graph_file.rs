//! One graph file of a model directory. In: its name, and the outputs of the subgraph, if not all of it is run. Out: what it declares,
//! and the files that hold its weights. No weights are read here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::error::Problem;
use super::role::Role;
use crate::onnx::{GraphHeader, GraphSource};

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

/// The output of a graph that holds its embedding, `[batch, width]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddingPort {
    /// Its name.
    pub output: String,
    /// The width of the embedding.
    pub width: usize,
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
        let problem = |what: String, hint: Option<String>| Problem { file: file.clone(), what, hint };
        let header = GraphHeader::read(&source).map_err(|error| problem(error.what, error.hint))?;
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
