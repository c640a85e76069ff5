//! Graph files. In: a file, and which outputs of its graph are wanted. Out: its protobuf messages, whose weights are slices of the
//! mapped file and are not read; and an edited graph, encoded as a small model that refers to the weights in their files. No file is
//! ever changed.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use memmap2::Mmap;
use prost::Message;

use super::decoded_size;
use super::external_data::{EXTERNAL, locations, visit_tensors};
use super::extract::extract;
use crate::onnx::error::{OnnxError, OnnxErrorKind};
use crate::onnx::port::GraphSource;
use crate::onnx::proto::{GraphProto, ModelProto, StringStringEntryProto, TensorProto, ValueInfoProto};
use crate::onnx::runtime::session::EditedGraph;
use crate::support::regular_file;

/// A graph file in memory.
pub(crate) struct OnnxFile {
    source: GraphSource,
    mapped: Bytes,
    /// The model without its graph.
    model: ModelProto,
    pub(crate) graph: GraphProto,
}

impl OnnxFile {
    /// A tensor of fewer bytes is copied into an edited graph, because shape inference does not read external data.
    const SMALL: usize = 1024;

    /// Maps the file of `source` into memory and extracts the subgraph of the wanted outputs.
    ///
    /// # Errors
    /// [`OnnxErrorKind::Load`] if the file cannot be read, is no ONNX graph or has no such output.
    pub(crate) fn read(source: &GraphSource) -> Result<Self, OnnxError> {
        let path = &source.path;
        let fail = |what: String| OnnxError::new(OnnxErrorKind::Load, path.display().to_string(), what);
        let unreadable = |error: &dyn std::fmt::Display| {
            let error = fail(format!("not readable: {error}"));
            match std::fs::metadata(path) {
                Ok(file) if file.len() < 1024 => {
                    error.with_hint("a very small file may be a Git LFS pointer: run `git lfs pull`")
                }
                Ok(_) => error.with_hint("is the file complete? compare its size with the original's"),
                Err(_) => error,
            }
        };
        let mapped = map(path).map_err(|error| unreadable(&error))?;
        decoded_size::check(&mapped).map_err(fail)?;
        let mut model = ModelProto::decode(mapped.clone()).map_err(|error| unreadable(&error))?;
        let mut graph = model.graph.take().ok_or_else(|| unreadable(&"not an ONNX graph"))?;
        if let Some(wanted) = &source.outputs {
            let output = |name: &String| {
                graph.output.iter().find(|output| output.name() == name).cloned().ok_or_else(|| {
                    let found: Vec<_> = graph.output.iter().map(ValueInfoProto::name).collect();
                    fail(format!("expected an output {name:?}, found {}", found.join(", ")))
                })
            };
            let outputs = wanted.iter().map(output).collect::<Result<_, _>>()?;
            graph = extract(&graph, outputs, Vec::new());
        }
        Ok(Self { source: source.clone(), mapped, model, graph })
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.source.path
    }

    /// The locations of external data that its tensors name.
    pub(crate) fn locations(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let Ok(()) = visit_tensors::<Infallible>(&mut self.model(self.graph.clone()), &mut |tensor| {
            found.extend(locations(tensor).map(str::to_owned));
            Ok(())
        });
        found
    }

    /// Encodes `graph`, which was made from this file's. Large weights are not copied: they become external data, with this file as
    /// their location. Locations of other files, also those of graphs inside nodes, are resolved and made relative to the folder of
    /// the result, since ONNX Runtime does not follow links to them.
    ///
    /// # Errors
    /// [`OnnxErrorKind::Load`] if a file of weights is missing or is not below the graph's folder.
    pub(crate) fn encode(&self, graph: GraphProto) -> Result<EditedGraph, OnnxError> {
        self.encode_with(graph, <[Bytes]>::to_vec)
    }

    /// Encodes `graph`, as [`encode`](Self::encode) does, with what `imports` makes of the file's sets of operators.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub(crate) fn encode_with(
        &self,
        graph: GraphProto,
        imports: impl Fn(&[Bytes]) -> Vec<Bytes>,
    ) -> Result<EditedGraph, OnnxError> {
        let own = self.path().canonicalize().map_err(|error| self.fail(format!("not readable: {error}")))?;
        let mut model = self.model(graph);
        model.opset_import = imports(&model.opset_import);
        let mut files: BTreeMap<String, PathBuf> = BTreeMap::new();
        visit_tensors::<OnnxError>(&mut model, &mut |tensor| {
            for location in locations(tensor).filter(|_| tensor.data_location() == EXTERNAL) {
                if !files.contains_key(location) {
                    files.insert(location.to_owned(), self.source.external_file(location)?);
                }
            }
            Ok(())
        })?;
        // the deepest folder that contains all of them
        let mut folder = own.parent().unwrap_or(&own).to_path_buf();
        while !files.values().all(|file| file.starts_with(&folder)) && folder.pop() {}
        let relative = |file: &Path| {
            let path = file.strip_prefix(&folder).ok().and_then(Path::to_str).map(str::to_owned);
            path.ok_or_else(|| self.fail(format!("expected a path of UTF-8, found {}", file.display())))
        };
        visit_tensors::<OnnxError>(&mut model, &mut |tensor| {
            let external = tensor.data_location() == EXTERNAL;
            for entry in tensor.external_data.iter_mut().filter(|entry| external && entry.key() == "location") {
                if let Some(file) = files.get(entry.value()) {
                    entry.value = Some(relative(file)?);
                }
            }
            Ok(())
        })?;
        let own = relative(&own)?;
        model.graph.iter_mut().for_each(|graph| self.refer(graph, &own));
        Ok(EditedGraph { bytes: model.encode_to_vec(), folder })
    }

    /// The sets of operators that the file's nodes are of, as `OperatorSetIdProto`.
    pub(crate) fn imports(&self) -> &[Bytes] {
        &self.model.opset_import
    }

    /// Whether the file defines operators of its own.
    pub(crate) fn has_functions(&self) -> bool {
        !self.model.functions.is_empty()
    }

    /// Makes external data, at `location`, of the large weights of `graph` that are in the file.
    pub(crate) fn refer(&self, graph: &mut GraphProto, location: &str) {
        for tensor in &mut graph.initializer {
            if let Some(offset) = self.offset(tensor) {
                let length = tensor.raw_data.take().map_or(0, |data| data.len());
                tensor.external_data = vec![
                    entry("location", location.to_owned()),
                    entry("offset", offset.to_string()),
                    entry("length", length.to_string()),
                ];
                tensor.data_location = Some(EXTERNAL);
            }
        }
    }

    /// The elements of `tensor`, a weight of this file, as they lie in memory; `None` if the file has them in another form.
    ///
    /// # Errors
    /// [`OnnxErrorKind::Load`] if they are in another file that is missing, too short, or not below the graph's folder.
    pub(crate) fn data(&self, tensor: &TensorProto) -> Result<Option<Bytes>, OnnxError> {
        if tensor.data_location() != EXTERNAL {
            return Ok(tensor.raw_data.clone());
        }
        let Some(location) = locations(tensor).next() else { return Ok(None) };
        let file = self.source.external_file(location)?;
        let mapped = map(&file).map_err(|error| self.fail(format!("{} is not readable: {error}", file.display())))?;
        let number = |key: &str| {
            let entry = tensor.external_data.iter().find(|entry| entry.key() == key);
            entry.map(|entry| entry.value().parse::<usize>().ok())
        };
        let start = number("offset").unwrap_or(Some(0));
        let end = match number("length") {
            Some(length) => start.zip(length).and_then(|(start, length)| start.checked_add(length)),
            None => Some(mapped.len()),
        };
        match start.zip(end) {
            Some((start, end)) if start <= end && end <= mapped.len() => Ok(Some(mapped.slice(start..end))),
            _ => Err(self
                .fail(format!("its weights lie in {} outside of the file's {} bytes", file.display(), mapped.len()))
                .with_hint("is the file complete? compare its size with the original's")),
        }
    }

    /// The offset in the file of a large tensor's data, if it is in the file.
    fn offset(&self, tensor: &TensorProto) -> Option<usize> {
        let data = tensor.raw_data.as_ref().filter(|data| data.len() >= Self::SMALL)?;
        let offset = (data.as_ptr() as usize).checked_sub(self.mapped.as_ptr() as usize)?;
        (offset + data.len() <= self.mapped.len()).then_some(offset)
    }

    /// The file's model with `graph` as its graph.
    pub(crate) fn model(&self, graph: GraphProto) -> ModelProto {
        ModelProto { graph: Some(graph), ..self.model.clone() }
    }

    fn fail(&self, what: String) -> OnnxError {
        OnnxError::new(OnnxErrorKind::Load, self.path().display().to_string(), what)
    }
}

/// An entry of a tensor's external data.
pub(crate) fn entry(key: &str, value: String) -> StringStringEntryProto {
    StringStringEntryProto { key: Some(key.to_owned()), value: Some(value) }
}

/// The file at `path` as memory whose pages are read when they are accessed.
fn map(path: &Path) -> io::Result<Bytes> {
    let file = regular_file::open(path)?;
    // SAFETY: the mapping is only read. Another process that truncates the file in the milliseconds of its reading would end this
    // one; nothing that nightcap writes is ever mapped.
    #[allow(
        unsafe_code,
        reason = "no safe mapping exists; reading gigabytes of weights to look at names is the alternative"
    )]
    let mapped = unsafe { Mmap::map(&file)? };
    Ok(Bytes::from_owner(mapped))
}
