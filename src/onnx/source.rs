//! Graphs as they are before they are opened. In: a file, and which part of its graph is wanted. Out: its messages, whose
//! weights are slices of the mapped file and not read; and edited messages written again as a small graph that refers to
//! the weights where they lie in that file. No file is ever changed.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use memmap2::Mmap;
use prost::Message;

use super::cut::cut;
use super::error::{OnnxError, OnnxErrorKind};
use super::messages::{GraphProto, ModelProto, StringStringEntryProto, TensorProto, ValueInfoProto};

/// What can be opened: the graph of a file, or the part of it that computes some of its outputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphSource {
    /// The file.
    pub path: PathBuf,
    /// The outputs that are wanted, with everything they need; `None` for the whole graph.
    pub outputs: Option<Vec<String>>,
}

/// A graph file in memory.
pub(super) struct ModelFile {
    path: PathBuf,
    mapped: Bytes,
    /// The model without its graph.
    pub(super) model: ModelProto,
    pub(super) graph: GraphProto,
}

/// A graph that exists in memory only; its weights lie in files.
#[derive(Debug)]
pub(super) struct EditedGraph {
    pub(super) bytes: Vec<u8>,
    /// The folder that the places of weights are relative to.
    pub(super) folder: PathBuf,
}

impl GraphSource {
    /// The whole graph of the file at `path`.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), outputs: None }
    }

    /// The part of the graph of the file at `path` that computes `outputs`.
    pub fn part(path: impl Into<PathBuf>, outputs: Vec<String>) -> Self {
        Self { path: path.into(), outputs: Some(outputs) }
    }
}

impl ModelFile {
    /// Below this many bytes a tensor is written into an edited graph, where shape inference can see it.
    const SMALL: usize = 1024;
    /// `TensorProto.DataLocation.EXTERNAL`
    const EXTERNAL: i32 = 1;

    /// Maps the file of `source` and takes the wanted part of its graph.
    ///
    /// # Errors
    /// [`OnnxErrorKind::Load`] if the file cannot be read, is no ONNX graph or has no such output.
    pub(super) fn read(source: &GraphSource) -> Result<Self, OnnxError> {
        let path = &source.path;
        let fail = |what: String| OnnxError::new(OnnxErrorKind::Load, path.display().to_string(), what);
        let unreadable = |error: &dyn std::fmt::Display| {
            let error = fail(format!("not readable: {error}"));
            match std::fs::metadata(path) {
                Ok(file) if file.len() < 1024 => {
                    error.with_hint("a very small file may be a Git LFS pointer: run `git lfs pull`")
                }
                Ok(_) => error.with_hint("is the file cut off? its size tells"),
                Err(_) => error,
            }
        };
        let mapped = map(path).map_err(|error| unreadable(&error))?;
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
            graph = cut(&graph, outputs, Vec::new());
        }
        Ok(Self { path: path.clone(), mapped, model, graph })
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes `graph`, which was made of this file's: large weights are not copied, but named by their place in the file.
    ///
    /// # Errors
    /// [`OnnxErrorKind::Load`] if weights lie in another folder than the file.
    pub(super) fn encode(&self, mut graph: GraphProto) -> Result<EditedGraph, OnnxError> {
        // ONNX Runtime takes no weights through links that leave the folder, as those of the Hugging Face cache do
        let path = self.canonical(&self.path)?;
        let (folder, file) = match (path.parent(), path.file_name().and_then(|name| name.to_str())) {
            (Some(folder), Some(file)) => (folder.to_path_buf(), file),
            _ => return Err(self.fail("expected a file name of UTF-8".into())),
        };
        for tensor in &mut graph.initializer {
            if tensor.data_location() == Self::EXTERNAL {
                self.relocate(tensor, &folder)?;
            } else if let Some(offset) = self.place(tensor) {
                let length = tensor.raw_data.take().map_or(0, |data| data.len());
                tensor.external_data = vec![
                    entry("location", file.to_owned()),
                    entry("offset", offset.to_string()),
                    entry("length", length.to_string()),
                ];
                tensor.data_location = Some(Self::EXTERNAL);
            }
        }
        let model = ModelProto { graph: Some(graph), ..self.model.clone() };
        Ok(EditedGraph { bytes: model.encode_to_vec(), folder })
    }

    /// Where in the file the data of a large tensor lies, if it does.
    fn place(&self, tensor: &TensorProto) -> Option<usize> {
        let data = tensor.raw_data.as_ref().filter(|data| data.len() >= Self::SMALL)?;
        let offset = (data.as_ptr() as usize).checked_sub(self.mapped.as_ptr() as usize)?;
        (offset + data.len() <= self.mapped.len()).then_some(offset)
    }

    /// Makes the file that holds the data of `tensor` relative to `folder`.
    fn relocate(&self, tensor: &mut TensorProto, folder: &Path) -> Result<(), OnnxError> {
        for entry in tensor.external_data.iter_mut().filter(|entry| entry.key() == "location") {
            let beside = self.path.parent().unwrap_or(Path::new(""));
            let path = self.canonical(&beside.join(entry.value()))?;
            let Some(place) = path.strip_prefix(folder).ok().and_then(Path::to_str) else {
                let what = format!("its weights lie in {}, which is not below {}", path.display(), folder.display());
                return Err(self.fail(what).with_hint("copy both files into one folder"));
            };
            entry.value = Some(place.to_owned());
        }
        Ok(())
    }

    fn canonical(&self, path: &Path) -> Result<PathBuf, OnnxError> {
        path.canonicalize().map_err(|error| self.fail(format!("{} is not readable: {error}", path.display())))
    }

    fn fail(&self, what: String) -> OnnxError {
        OnnxError::new(OnnxErrorKind::Load, self.path.display().to_string(), what)
    }
}

fn entry(key: &str, value: String) -> StringStringEntryProto {
    StringStringEntryProto { key: Some(key.to_owned()), value: Some(value) }
}

/// The file at `path` as memory that is read when it is looked at.
fn map(path: &Path) -> io::Result<Bytes> {
    let file = File::open(path)?;
    // SAFETY: the mapping is only read. A file that another process cuts off within the milliseconds of its reading would end
    // this one; nothing that nightcap writes is ever mapped.
    #[allow(
        unsafe_code,
        reason = "no safe mapping exists; reading gigabytes of weights to look at names is the alternative"
    )]
    let mapped = unsafe { Mmap::map(&file)? };
    Ok(Bytes::from_owner(mapped))
}
