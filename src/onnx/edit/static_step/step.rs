//! A static step: its graph, and the names and shapes of what it takes and gives.

use std::fmt;
use std::path::Path;

use super::opset::raised_imports;
use crate::onnx::edit::file::OnnxFile;
use crate::onnx::error::OnnxError;
use crate::onnx::port::DataType;
use crate::onnx::proto::GraphProto;
use crate::onnx::runtime::session::EditedGraph;

/// The input for the token of each row, int64 `[batch, 1]`.
pub(crate) const TOKENS: &str = "static.tokens";
/// The input for the number of tokens of each row in its cache before this step, int64 `[batch]`: the index that the step writes, and the
/// position of its token.
pub(crate) const LENGTHS: &str = "static.lengths";
/// The most tokens of a row, this step's included: tables have no more positions.
pub(crate) const POSITIONS: usize = 1 << 15;
/// How the names of tables with a row for each position begin.
pub(super) const TABLE: &str = "static.table.";
/// The lowest ONNX Runtime that has the operators.
pub(crate) const LOWEST_RUNTIME: &str = "1.25";

/// A decoder step whose shapes do not change from step to step.
///
/// Its inputs are [`TOKENS`], [`LENGTHS`], the growing caches, and the exported graph's inputs that are the same in all steps. Its outputs
/// are `logits`, `[batch, 1, vocabulary]`, and the growing caches. Row `r` has its tokens at `0..lengths[r]` of a cache, whose length is
/// more than `lengths[r]`; what is behind them is not looked at.
pub(crate) struct StaticStep {
    /// Of opset 24.
    pub(crate) graph: GraphProto,
    /// In the order of the exported graph's inputs.
    pub(crate) caches: Vec<StaticCache>,
}

/// A cache of a static step, `[batch, heads, length, width]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StaticCache {
    /// The input. Its exported name.
    pub(crate) input: String,
    /// The output, of the same shape, that may be in the same memory. Its exported name.
    pub(crate) output: String,
    pub(crate) dtype: DataType,
    pub(crate) heads: usize,
    pub(crate) width: usize,
}

/// A static step without what is the same in all steps, and the file of its weights.
pub(crate) struct StaticGraph {
    /// Of opset 24; may be edited further.
    pub(crate) graph: GraphProto,
    /// In the order of the exported graph's inputs.
    pub(crate) caches: Vec<StaticCache>,
    pub(in crate::onnx::edit) file: OnnxFile,
}

impl StaticGraph {
    /// The graph's file, for messages.
    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    /// How many tokens a row may have, if its angles are in tables.
    pub(crate) fn positions(&self) -> Option<usize> {
        let tables = self.graph.initializer.iter().filter(|tensor| tensor.name().starts_with(TABLE));
        tables.filter_map(|table| usize::try_from(*table.dims.first()?).ok()).min()
    }

    /// Encodes `graph`, which was made from this one. Weights stay in their files.
    ///
    /// # Errors
    /// As [`OnnxFile::encode`].
    pub(crate) fn encode(&self, graph: GraphProto) -> Result<EditedGraph, OnnxError> {
        encode(&self.file, graph)
    }
}

impl fmt::Debug for StaticGraph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { graph, caches, file } = self;
        let nodes = graph.node.len();
        f.debug_struct("StaticGraph")
            .field("nodes", &nodes)
            .field("caches", caches)
            .field("file", &file.path())
            .finish()
    }
}

/// Encodes `graph`, of opset 24 and made from the graph of `file`. Weights stay in their files.
pub(in crate::onnx::edit) fn encode(file: &OnnxFile, graph: GraphProto) -> Result<EditedGraph, OnnxError> {
    file.encode_with(graph, raised_imports)
}
