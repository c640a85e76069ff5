//! Places the rows of a decoder's batch into tensors of a fixed size, all in one run. In: the tensors of a running batch, those of new
//! rows, and which rows of each. Out: written into the tensors of the next batch, on the device that holds them.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;

use super::graphs::OPSET_18;
use crate::onnx::error::OnnxError;
use crate::onnx::port::DataType;
use crate::onnx::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, ValueInfoProto};
use crate::onnx::runtime::bound::Capture;
use crate::onnx::runtime::session::{EditedGraph, GraphOptions, Session};
use crate::onnx::runtime::tensor::Tensor;

/// Rows of some tensors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) tensors: &'a [Tensor],
    pub(crate) rows: &'a [usize],
}

/// Where rows come from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowSource<'a> {
    /// Tensors that are the same in every step.
    pub(crate) fixed: Rows<'a>,
    /// Caches `[rows, heads, tokens, width]`.
    pub(crate) caches: Rows<'a>,
}

/// Places the rows of tensors of certain types. Its graphs are opened when they are first needed.
#[derive(Debug)]
pub(crate) struct RowPlacement {
    options: GraphOptions,
    fixed: Vec<DataType>,
    caches: Vec<DataType>,
    /// For one source, and for two.
    opened: [Option<Session>; 2],
    /// For the caches alone.
    caches_alone: Option<Session>,
}

impl RowPlacement {
    /// For tensors of these types.
    pub(crate) fn new(options: GraphOptions, fixed: Vec<DataType>, caches: Vec<DataType>) -> Self {
        Self {
            options: GraphOptions { dynamic_shapes: true, ..options },
            fixed,
            caches,
            opened: [None, None],
            caches_alone: None,
        }
    }

    /// Writes the rows of the first of `sources`, then those of the second if there is one, into `fixed` and `caches`, which have as many
    /// rows as both together. Caches with fewer than `tokens` tokens end with zeros.
    ///
    /// # Errors
    /// When a shape does not fit, or memory ran out.
    pub(crate) fn place(
        &mut self,
        sources: &[RowSource<'_>],
        tokens: usize,
        fixed: &mut [Tensor],
        caches: &mut [Tensor],
    ) -> Result<(), OnnxError> {
        let two = usize::from(sources.len() == 2);
        let session = opened(&mut self.opened[two], [&self.fixed, &self.caches], two + 1, self.options)?;
        run(session, sources, tokens, fixed, caches)
    }

    /// Writes `rows` of caches into `caches`, as [`place`](Self::place) does.
    ///
    /// # Errors
    /// As [`place`](Self::place).
    pub(crate) fn place_caches(
        &mut self,
        rows: Rows<'_>,
        tokens: usize,
        caches: &mut [Tensor],
    ) -> Result<(), OnnxError> {
        let session = opened(&mut self.caches_alone, [&[], &self.caches], 1, self.options)?;
        let none = Rows { tensors: &[], rows: &[] };
        run(session, &[RowSource { fixed: none, caches: rows }], tokens, &mut [], caches)
    }
}

/// The graph for these types and number of sources.
fn opened<'a>(
    session: &'a mut Option<Session>,
    dtypes: [&[DataType]; 2],
    sources: usize,
    options: GraphOptions,
) -> Result<&'a mut Session, OnnxError> {
    match session {
        Some(session) => Ok(session),
        none => {
            let edited = EditedGraph { bytes: encode(dtypes, sources), folder: PathBuf::new() };
            Ok(none.insert(Session::open_edited(Path::new("rows of a batch"), &edited, options)?))
        }
    }
}

fn run(
    session: &mut Session,
    sources: &[RowSource<'_>],
    tokens: usize,
    fixed: &mut [Tensor],
    caches: &mut [Tensor],
) -> Result<(), OnnxError> {
    let indexes = |rows: &[usize]| Tensor::from_i64(&[rows.len()], rows.iter().map(|&row| row as i64).collect());
    let mut small = Vec::with_capacity(3 * sources.len());
    for (index, source) in sources.iter().enumerate() {
        let found = source.caches.tensors.first().and_then(|cache| cache.shape().get(2).copied()).unwrap_or(tokens);
        let missing = tokens
            .checked_sub(found)
            .ok_or_else(|| OnnxError::of_run(format!("a cache of {found} tokens does not fit one of {tokens}")))?;
        small.push((rows_of(index, "fixed"), indexes(source.fixed.rows)?));
        small.push((rows_of(index, "caches"), indexes(source.caches.rows)?));
        small.push((pads(index), Tensor::from_i64(&[8], vec![0, 0, 0, 0, 0, 0, missing as i64, 0])?));
    }
    let mut tensors = Vec::new();
    for (index, source) in sources.iter().enumerate() {
        for (kind, rows) in [("fixed", source.fixed), ("caches", source.caches)] {
            tensors.extend(rows.tensors.iter().enumerate().map(|(tensor, value)| (input(index, kind, tensor), value)));
        }
    }
    // an input that the graph does not have, because there are no tensors of its kind, cannot be bound
    let declared = |name: &str| session.inputs().iter().any(|port| port.name == name);
    let small = small.iter().filter(|(name, _)| declared(name)).map(|(name, value)| (name.as_str(), value));
    let inputs: Vec<_> = tensors.iter().map(|(name, value)| (name.as_str(), *value)).chain(small).collect();
    let names: Vec<_> = (0..fixed.len()).map(|tensor| output("fixed", tensor)).collect();
    let cache_names: Vec<_> = (0..caches.len()).map(|tensor| output("caches", tensor)).collect();
    let targets = names.iter().chain(&cache_names).map(String::as_str).zip(fixed.iter_mut().chain(caches));
    let bound = session.bind(&inputs, &mut targets.collect::<Vec<_>>(), &mut [], Capture::Never)?;
    session.run_bound(&bound)
}

fn input(source: usize, kind: &str, tensor: usize) -> String {
    format!("{kind} {tensor} of source {source}")
}

fn rows_of(source: usize, kind: &str) -> String {
    format!("rows of {kind} of source {source}")
}

fn pads(source: usize) -> String {
    format!("pads of source {source}")
}

fn output(kind: &str, tensor: usize) -> String {
    format!("placed {kind} {tensor}")
}

/// For each tensor `Concat(Pad(Gather(tensor of source 0, rows), pads), ...)` on axis 0; only caches are padded.
fn encode(dtypes: [&[DataType]; 2], sources: usize) -> Vec<u8> {
    let mut graph = GraphProto { name: Some("placement".to_owned()), ..GraphProto::default() };
    for (kind, dtypes) in ["fixed", "caches"].into_iter().zip(dtypes) {
        for source in 0..sources {
            let tensors = dtypes.iter().enumerate().map(|(index, dtype)| (input(source, kind, index), *dtype));
            let mut inputs: Vec<_> = tensors.collect();
            if !inputs.is_empty() {
                inputs.push((rows_of(source, kind), DataType::I64));
                inputs.extend((kind == "caches").then(|| (pads(source), DataType::I64)));
            }
            graph.input.extend(inputs.iter().map(|(name, dtype)| ValueInfoProto::tensor(name, *dtype, None)));
        }
        for (index, dtype) in dtypes.iter().enumerate() {
            let name = output(kind, index);
            let mut parts = Vec::with_capacity(sources);
            for source in 0..sources {
                let mut part = format!("{name} of source {source}");
                graph.node.push(NodeProto::of(
                    "Gather",
                    vec![input(source, kind, index), rows_of(source, kind)],
                    &part,
                ));
                if kind == "caches" {
                    let padded = format!("padded {part}");
                    graph.node.push(NodeProto::of("Pad", vec![part, pads(source)], &padded));
                    part = padded;
                }
                parts.push(part);
            }
            if let (Some(last), 1) = (graph.node.last_mut(), sources) {
                last.output = vec![name.clone()];
            } else {
                let axis = AttributeProto::int("axis", 0);
                graph.node.push(NodeProto { attribute: vec![axis], ..NodeProto::of("Concat", parts, &name) });
            }
            graph.output.push(ValueInfoProto::tensor(&name, *dtype, None));
        }
    }
    let opset_import = vec![Bytes::from_static(OPSET_18)];
    ModelProto { ir_version: Some(8), graph: Some(graph), opset_import, ..ModelProto::default() }.encode_to_vec()
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::{RowPlacement, RowSource, Rows, encode};
    use crate::onnx::port::DataType::{self, F16, F32};
    use crate::onnx::runtime::device::Device;
    use crate::onnx::runtime::session::{EditedGraph, GraphOptions, Session};
    use crate::onnx::runtime::tensor::Tensor;

    /// A tensor of numbers in the host's memory.
    fn host(dtype: DataType, shape: &[usize], data: &[f32]) -> Vec<Tensor> {
        vec![Tensor::from_f32(dtype, shape, data.to_vec()).unwrap()]
    }

    fn numbers(tensors: &[Tensor]) -> Vec<f32> {
        let mut host = Tensor::zeros(tensors[0].dtype(), &tensors[0].shape()).unwrap();
        tensors[0].copy_into(&mut host).unwrap();
        host.to_f32().unwrap().into_owned()
    }

    #[test]
    fn rows_of_both_sources_are_placed_and_caches_end_with_zeros() {
        let options = GraphOptions { device: Device::StandIn, threads: 1, dynamic_shapes: true, repeatable: true };
        let edited = EditedGraph { bytes: encode([&[F32], &[F16]], 1), folder: PathBuf::new() };
        let session = Session::open_edited(Path::new("any"), &edited, options).unwrap();
        let targets = |dtype, shape: &[usize]| vec![session.allocate(dtype, shape).unwrap()];
        let mut placement = RowPlacement::new(options, vec![F32], vec![F16]);
        let (old_fixed, new_fixed) = (host(F32, &[3, 1], &[1.0, 2.0, 3.0]), host(F32, &[2, 1], &[4.0, 5.0]));
        let old_caches = host(F16, &[3, 1, 3, 1], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
        let new_caches = host(F16, &[2, 1, 1, 1], &[11.0, 12.0]);
        let old = RowSource {
            fixed: Rows { tensors: &old_fixed, rows: &[2, 0] },
            caches: Rows { tensors: &old_caches, rows: &[2, 0] },
        };
        let new = RowSource {
            fixed: Rows { tensors: &new_fixed, rows: &[1, 1] },
            caches: Rows { tensors: &new_caches, rows: &[0, 1] },
        };
        let (mut to_fixed, mut to_caches) = (targets(F32, &[4, 1]), targets(F16, &[4, 1, 3, 1]));
        placement.place(&[old, new], 3, &mut to_fixed, &mut to_caches).unwrap();
        assert_eq!(numbers(&to_fixed), [3.0, 1.0, 5.0, 5.0]);
        assert_eq!(numbers(&to_caches), [7.0, 8.0, 9.0, 1.0, 2.0, 3.0, 11.0, 0.0, 0.0, 12.0, 0.0, 0.0]);
        let (mut to_fixed, mut to_caches) = (targets(F32, &[2, 1]), targets(F16, &[2, 1, 3, 1]));
        placement.place(&[old], 3, &mut to_fixed, &mut to_caches).unwrap();
        assert_eq!(numbers(&to_caches), [7.0, 8.0, 9.0, 1.0, 2.0, 3.0]);
        placement.place_caches(Rows { tensors: &old_caches, rows: &[1, 1] }, 3, &mut to_caches).unwrap();
        assert_eq!(numbers(&to_caches), [4.0, 5.0, 6.0, 4.0, 5.0, 6.0]);
        let error = placement.place_caches(Rows { tensors: &old_caches, rows: &[1] }, 2, &mut to_caches).unwrap_err();
        assert!(error.to_string().contains("a cache of 3 tokens does not fit one of 2"), "{error}");
    }
}
