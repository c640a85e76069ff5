//! The files that hold weights beside a graph, which ONNX calls external data. In: a graph's file, and the location that a tensor
//! names. Out: the file there, or an error. A model cannot name files outside its folder.
//!
//! A location is a relative path without `..`, as ONNX's checker and ONNX Runtime demand, and leads to a regular file. Links are
//! followed as far as ONNX Runtime follows them: to files below the folder where the graph is named, or below the folder where the
//! graph's own file is. The latter is the cache of Hugging Face's hub, where the graph and its weights are links into one folder.

use std::path::{Component, Path, PathBuf};

use crate::onnx::error::{OnnxError, OnnxErrorKind};
use crate::onnx::port::GraphSource;
use crate::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, SparseTensorProto, StringStringEntryProto, TensorProto,
};

/// `TensorProto.DataLocation.EXTERNAL`
pub(crate) const EXTERNAL: i32 = 1;

/// The most characters of a location that a message repeats.
const SHOWN: usize = 200;

impl GraphSource {
    /// The file at `location`, the location of a tensor's external data, with links resolved.
    ///
    /// # Errors
    /// [`OnnxErrorKind::Load`] if the location is no relative path below the graph's folder, or if it leads to no regular file
    /// there.
    pub fn external_file(&self, location: &str) -> Result<PathBuf, OnnxError> {
        let fail = |what: String| OnnxError::new(OnnxErrorKind::Load, self.path.display().to_string(), what);
        let shown: String = location.chars().take(SHOWN).collect();
        let plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
        if location.is_empty() || !Path::new(location).components().all(plain) {
            let what = format!(
                "its weights lie in {shown:?}; expected a file below the graph's folder, named by a relative path without `..`"
            );
            return Err(fail(what)
                .with_hint("a graph that names other files is not safe to open; get it from a source you trust"));
        }
        let folder = self.path.parent().unwrap_or(Path::new(""));
        let named = folder.join(location);
        let Ok(file) = named.canonicalize() else {
            return Err(fail(format!("its weights lie in {}, which is missing", folder.join(&shown).display()))
                .with_hint("copy every file of the model, also those ending in .onnx_data or .data"));
        };
        // checked before it is opened: opening a named pipe blocks until another process writes to it
        if !file.is_file() {
            return Err(fail(format!("its weights lie in {}; expected a regular file", file.display())));
        }
        let graph_file = self.path.canonicalize().ok();
        let own_folder = graph_file.as_deref().and_then(Path::parent).map(Path::to_path_buf);
        // the folder of a file that is named without one is the current folder
        let named_folder = Path::new(".").join(folder).canonicalize().ok();
        if ![named_folder, own_folder].iter().flatten().any(|folder| file.starts_with(folder)) {
            let what = format!(
                "its weights lie in {}, to which {shown:?} is a link; expected a file below the graph's folder",
                file.display()
            );
            return Err(fail(what).with_hint("copy both files into one folder"));
        }
        Ok(file)
    }
}

/// The locations of the external data of `tensor`: none or one.
pub(crate) fn locations(tensor: &TensorProto) -> impl Iterator<Item = &str> {
    tensor.external_data.iter().filter(|entry| entry.key() == "location").map(StringStringEntryProto::value)
}

/// What is done to each tensor.
type Visit<'a, E> = dyn FnMut(&mut TensorProto) -> Result<(), E> + 'a;

/// Calls `visit` for every tensor of `model`: initializers and the tensors in attributes, of its graph, of the graphs inside nodes
/// (the branches of `If`, the bodies of `Loop` and `Scan`), and of its functions.
///
/// # Errors
/// The first error of `visit`.
pub(crate) fn visit_tensors<E>(model: &mut ModelProto, visit: &mut Visit<'_, E>) -> Result<(), E> {
    model.graph.iter_mut().try_for_each(|graph| of_graph(graph, visit))?;
    for function in &mut model.functions {
        of_attributes(&mut function.attribute_proto, visit)?;
        function.node.iter_mut().try_for_each(|node| of_attributes(&mut node.attribute, visit))?;
    }
    Ok(())
}

fn of_graph<E>(graph: &mut GraphProto, visit: &mut Visit<'_, E>) -> Result<(), E> {
    graph.initializer.iter_mut().try_for_each(&mut *visit)?;
    graph.sparse_initializer.iter_mut().try_for_each(|tensor| of_sparse(tensor, visit))?;
    graph.node.iter_mut().try_for_each(|node| of_attributes(&mut node.attribute, visit))
}

fn of_attributes<E>(attributes: &mut [AttributeProto], visit: &mut Visit<'_, E>) -> Result<(), E> {
    for AttributeProto { t, g, tensors, graphs, sparse_tensor, sparse_tensors, .. } in attributes {
        t.iter_mut().chain(tensors).try_for_each(&mut *visit)?;
        sparse_tensor.iter_mut().chain(sparse_tensors).try_for_each(|tensor| of_sparse(tensor, visit))?;
        g.iter_mut().chain(graphs).try_for_each(|graph| of_graph(graph, visit))?;
    }
    Ok(())
}

fn of_sparse<E>(tensor: &mut SparseTensorProto, visit: &mut Visit<'_, E>) -> Result<(), E> {
    tensor.values.iter_mut().chain(&mut tensor.indices).try_for_each(visit)
}
