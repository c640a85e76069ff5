//! Writes a converted graph. In: a model whose weights are slices of the original's files. Out: a graph file, and a file of weights
//! beside it where they are large or lay beside the original. Weights are rounded in chunks on their way; they are never in memory
//! together, except those that are written into the graph file.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use bytes::Bytes;
use prost::Message;

use super::half::HalfPrecision;
use super::weights::round;
use crate::onnx::edit::external_data::{EXTERNAL, visit_tensors};
use crate::onnx::edit::file::{OnnxFile, entry};
use crate::onnx::error::{OnnxError, OnnxErrorKind};
use crate::onnx::proto::{GraphProto, ModelProto, TensorProto};

/// A tensor of fewer bytes stays in the graph file, because shape inference does not read others.
const SMALL: usize = 1024;
/// Weights begin at multiples of as many bytes.
const ALIGNMENT: u64 = 64;
/// The largest number of bytes of a weight that is written into a graph file, all together: less than the 2 GB that protobuf allows,
/// because they are in memory twice.
pub(super) const MOST_INSIDE: u64 = 1 << 30;

/// How a graph is written.
pub(super) struct Writing<'a> {
    /// The file that the model was made from.
    pub(super) original: &'a OnnxFile,
    /// The initializers that are rounded.
    pub(super) rounded: &'a HashSet<String>,
    pub(super) half: HalfPrecision,
    /// The bytes of weights that are written into the graph file, at most.
    pub(super) most_inside: u64,
    /// Whether to stop.
    pub(super) stop: &'a dyn Fn() -> bool,
}

/// What the error of a stopped conversion says.
const STOPPED: &str = "stopped";

/// Writes `model` to `path`. Returns the bytes written.
///
/// # Errors
/// [`OnnxErrorKind::Load`] if weights are missing or out of range, if a file cannot be written, or if it is stopped.
pub(super) fn write(mut model: ModelProto, path: &Path, how: &Writing<'_>) -> Result<u64, OnnxError> {
    let Writing { original, rounded, half, most_inside, stop } = *how;
    let unwritable = |error: io::Error| fail(path, format!("not writable: {error}"));
    let beside = !original.locations().is_empty() || bytes_of(&model, original, rounded)? > most_inside;
    let location = format!("{}_data", path.file_name().and_then(|name| name.to_str()).unwrap_or_default());
    let beside_at = path.with_file_name(&location);
    let mut data = None;
    if beside {
        data = Some(Data { file: BufWriter::new(create(&beside_at).map_err(unwritable)?), at: 0 });
    }
    let is_weight: HashSet<String> = initializers(&model).map(|tensor| tensor.name().to_owned()).collect();
    // a weight that several graphs have in common is written once
    visit_tensors::<OnnxError>(&mut model, &mut |tensor| {
        let inside = !is_weight.contains(tensor.name());
        let is_rounded = !inside && rounded.contains(tensor.name());
        let external = tensor.data_location() == EXTERNAL;
        if !is_rounded && !external && (data.is_none() || tensor.raw_data.is_none()) {
            return Ok(());
        }
        let elements = elements(tensor, original)?;
        let length = if is_rounded { elements.len() / 2 } else { elements.len() };
        let wrong = |what: String| fail(original.path(), format!("weight {:?}: {what}", tensor.name()));
        if let Some(data) = data.as_mut().filter(|_| !inside && length >= SMALL) {
            let offset = data.align().map_err(unwritable)?;
            let mut give = |chunk: &[u8]| {
                if stop() {
                    return Err(STOPPED.to_owned());
                }
                data.write(chunk).map_err(|error| format!("not writable: {error}"))
            };
            if is_rounded { round(&elements, half, &mut give) } else { give(&elements) }.map_err(wrong)?;
            clear(tensor);
            let numbers = [("offset", offset.to_string()), ("length", length.to_string())];
            tensor.external_data = [("location", location.clone())]
                .into_iter()
                .chain(numbers)
                .map(|(key, value)| entry(key, value))
                .collect();
            tensor.data_location = Some(EXTERNAL);
        } else {
            let mut all = Vec::with_capacity(length);
            let mut give = |chunk: &[u8]| {
                all.extend_from_slice(chunk);
                Ok(())
            };
            if is_rounded { round(&elements, half, &mut give) } else { give(&elements) }.map_err(wrong)?;
            clear(tensor);
            tensor.raw_data = Some(Bytes::from(all));
        }
        if is_rounded {
            tensor.data_type = Some(half.data_type());
        }
        Ok(())
    })?;
    let encoded = model.encode_to_vec();
    drop(model);
    let beside = data.map_or(Ok(0), Data::finish).map_err(unwritable)?;
    let mut file = create(path).map_err(unwritable)?;
    file.write_all(&encoded).and_then(|()| file.sync_all()).map_err(unwritable)?;
    Ok(beside + encoded.len() as u64)
}

/// A file of weights.
struct Data {
    file: BufWriter<File>,
    at: u64,
}

impl Data {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.at += bytes.len() as u64;
        self.file.write_all(bytes)
    }

    /// Goes on to where a weight may begin, and says where that is.
    fn align(&mut self) -> io::Result<u64> {
        let gap = self.at.next_multiple_of(ALIGNMENT) - self.at;
        (0..gap).try_for_each(|_| self.write(&[0]))?;
        Ok(self.at)
    }

    fn finish(self) -> io::Result<u64> {
        let file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        Ok(self.at)
    }
}

#[allow(clippy::disallowed_methods, reason = "a file in a new folder that only this process knows, not in an OUTPUT")]
fn create(path: &Path) -> io::Result<File> {
    File::create_new(path)
}

fn clear(tensor: &mut TensorProto) {
    (tensor.raw_data, tensor.float_data, tensor.data_location) = (None, None, None);
    tensor.external_data.clear();
}

/// The elements of `tensor` as they lie in memory.
fn elements(tensor: &TensorProto, original: &OnnxFile) -> Result<Bytes, OnnxError> {
    let data = match original.data(tensor)? {
        Some(data) => Some(data),
        // numbers of this field are encoded as they lie in memory
        None => tensor.float_data.clone(),
    };
    let empty = || tensor.dims.contains(&0).then(Bytes::new);
    data.or_else(empty).ok_or_else(|| fail(original.path(), format!("weight {:?} has no elements", tensor.name())))
}

/// The bytes of all weights after rounding.
fn bytes_of(model: &ModelProto, original: &OnnxFile, rounded: &HashSet<String>) -> Result<u64, OnnxError> {
    initializers(model).try_fold(0, |sum, tensor| {
        let length = elements(tensor, original).map_or(0, |all| all.len() as u64);
        Ok(sum + if rounded.contains(tensor.name()) { length / 2 } else { length })
    })
}

/// The initializers of all graphs of `model`.
fn initializers(model: &ModelProto) -> impl Iterator<Item = &TensorProto> {
    let mut graphs: Vec<&GraphProto> = model.graph.iter().collect();
    let mut at = 0;
    while let Some(graph) = graphs.get(at).copied() {
        graphs.extend(
            graph.node.iter().flat_map(|node| &node.attribute).flat_map(|held| held.g.iter().chain(&held.graphs)),
        );
        at += 1;
    }
    graphs.into_iter().flat_map(|graph| &graph.initializer)
}

fn fail(path: &Path, what: String) -> OnnxError {
    OnnxError::new(OnnxErrorKind::Load, path.display().to_string(), what)
}
