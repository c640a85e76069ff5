//! Queries, keys and values as one product. In: an attention. Out: the value that all three are products of, and the joined weight and bias,
//! if they are constants.

use bytes::Bytes;

use super::new_nodes::tensor;
use super::site::AttentionSite;
use crate::onnx::edit::file::OnnxFile;
use crate::onnx::edit::graph_index::GraphIndex;
use crate::onnx::edit::known_values::KnownValues;
use crate::onnx::error::OnnxError;
use crate::onnx::proto::TensorProto;

/// The most bytes of joined weights in one graph. They are part of the edited model in memory, which protobuf limits to 2 GiB.
const MOST_BYTES: usize = 1 << 30;

/// Joins the weights of a graph's projections.
pub(crate) struct Projections<'a> {
    file: &'a OnnxFile,
    bytes_left: usize,
}

/// Queries, keys and values: the product of `input` with `weight`, plus `bias`.
#[derive(Debug)]
pub(super) struct Joint {
    pub(super) input: String,
    /// `[hidden, 3 * heads * width]`: the columns of queries, then those of keys and of values.
    pub(super) weight: String,
    /// `[3 * heads * width]`.
    pub(super) bias: String,
    /// What the queries are multiplied by afterwards.
    pub(super) scale: f32,
    /// The joined weight and bias, unless the file has them.
    pub(super) initializers: Vec<TensorProto>,
}

/// `input * weight + bias`
#[derive(Debug)]
struct Projection<'a> {
    input: &'a str,
    weight: &'a TensorProto,
    bias: Option<&'a TensorProto>,
    scale: f64,
}

impl<'a> Projections<'a> {
    /// For the graph of `file`.
    pub(crate) fn new(file: &'a OnnxFile) -> Self {
        Self { file, bytes_left: MOST_BYTES }
    }

    /// The joint projection of `site`, if it has one.
    ///
    /// # Errors
    /// When weights cannot be read.
    pub(super) fn joint(
        &mut self,
        index: &GraphIndex<'_>,
        known: &KnownValues,
        site: &AttentionSite,
    ) -> Result<Option<Joint>, OnnxError> {
        if let Some(joint) = packed(index, known, site) {
            return Ok(Some(joint));
        }
        let parts = [&site.query, &site.key, &site.value]
            .map(|heads| heads.joined.as_deref().and_then(|joined| projection(index, known, joined)));
        let [Some(query), Some(key), Some(value)] = parts else { return Ok(None) };
        let parts = [query, key, value];
        let [query, others @ ..] = &parts;
        let alike = |part: &Projection<'_>| {
            part.input == query.input
                && part.weight.dims == query.weight.dims
                && part.weight.data_type() == query.weight.data_type()
                && (part.scale - 1.0).abs() < f64::EPSILON
        };
        if !others.iter().all(alike) {
            return Ok(None);
        }
        let mut weights = Vec::with_capacity(3);
        let mut biases = Vec::with_capacity(3);
        for Projection { weight, bias, .. } in &parts {
            weights.extend(self.file.data(weight)?);
            if let Some(bias) = bias {
                biases.extend(self.file.data(bias)?);
            }
        }
        let total: usize = weights.iter().map(Bytes::len).sum();
        if weights.len() != 3 || total > self.bytes_left {
            return Ok(None);
        }
        let Some((weight, bias)) = join(query.weight, &weights, &biases, &parts) else { return Ok(None) };
        self.bytes_left -= total;
        let name = |what: &str| format!("{}: joined {what} (nightcap)", site.probabilities);
        let hidden = usize::try_from(query.weight.dims[0]).unwrap_or(0);
        let columns = bias.len() / element_size(query.weight.data_type()).unwrap_or(1);
        let data_type = query.weight.data_type();
        let initializers = vec![
            tensor(&name("weight"), data_type, &[hidden, columns], weight),
            tensor(&name("bias"), data_type, &[columns], bias),
        ];
        #[allow(clippy::cast_possible_truncation, reason = "operators take the scale as float32")]
        let scale = query.scale as f32;
        Ok(Some(Joint {
            input: query.input.to_owned(),
            weight: name("weight"),
            bias: name("bias"),
            scale,
            initializers,
        }))
    }
}

/// The projection of a `site` whose queries, keys and values are one product in the file.
fn packed(index: &GraphIndex<'_>, known: &KnownValues, site: &AttentionSite) -> Option<Joint> {
    let ((query, 0), (key, 1), (value, 2)) =
        (site.query.packed.as_ref()?, site.key.packed.as_ref()?, site.value.packed.as_ref()?)
    else {
        return None;
    };
    let Projection { input, weight, bias, scale } =
        projection(index, known, query).filter(|_| query == key && query == value)?;
    let bias = bias.filter(|_| (scale - 1.0).abs() < f64::EPSILON)?;
    let own = |tensor: &TensorProto| index.graph.initializer.iter().any(|other| other.name() == tensor.name());
    (own(weight) && own(bias)).then(|| Joint {
        input: input.to_owned(),
        weight: weight.name().to_owned(),
        bias: bias.name().to_owned(),
        scale: 1.0,
        initializers: Vec::new(),
    })
}

/// How `value` is computed, if it is a product with a constant weight, perhaps plus a constant bias, perhaps multiplied by a number.
fn projection<'a>(index: &GraphIndex<'a>, known: &KnownValues, value: &str) -> Option<Projection<'a>> {
    let mut node = index.producer(value)?;
    let mut scale = 1.0;
    if let ("Mul", [one, other]) = (node.op_type(), node.input.as_slice()) {
        let (from, factor) = match (known.number(one), known.number(other)) {
            (None, Some(factor)) => (one, factor),
            (Some(factor), None) => (other, factor),
            _ => return None,
        };
        (node, scale) = (index.producer(from)?, factor);
    }
    let mut bias = None;
    if let ("Add", [one, other]) = (node.op_type(), node.input.as_slice()) {
        let (from, constant) = match (index.constant(one), index.constant(other)) {
            (None, Some(constant)) => (one, constant),
            (Some(constant), None) => (other, constant),
            _ => return None,
        };
        (node, bias) = (index.producer(from)?, Some(constant));
    }
    let ("MatMul", [input, weight]) = (node.op_type(), node.input.as_slice()) else { return None };
    let weight = index.constant(weight)?;
    let [_, columns] = weight.dims.as_slice() else { return None };
    let fits = |bias: &TensorProto| bias.dims == [*columns] && bias.data_type() == weight.data_type();
    (known.rank(input) == Some(3) && bias.is_none_or(fits)).then_some(Projection { input, weight, bias, scale })
}

/// The weights of queries, keys and values side by side, and their biases one after the other.
fn join(
    first: &TensorProto,
    weights: &[Bytes],
    biases: &[Bytes],
    parts: &[Projection<'_>; 3],
) -> Option<(Vec<u8>, Vec<u8>)> {
    let [rows, columns] = first.dims.as_slice() else { return None };
    let (rows, columns) = (usize::try_from(*rows).ok()?, usize::try_from(*columns).ok()?);
    let width = columns.checked_mul(element_size(first.data_type())?)?;
    let full = rows.checked_mul(width)?;
    if width == 0 || weights.iter().any(|weight| weight.len() != full) || biases.iter().any(|bias| bias.len() != width)
    {
        return None;
    }
    let mut weight = Vec::with_capacity(full * weights.len());
    for row in 0..rows {
        for part in weights {
            weight.extend_from_slice(&part[row * width..(row + 1) * width]);
        }
    }
    let mut biases = biases.iter();
    let mut bias = Vec::with_capacity(width * parts.len());
    for part in parts {
        match part.bias {
            Some(_) => bias.extend_from_slice(biases.next()?),
            None => bias.resize(bias.len() + width, 0),
        }
    }
    Some((weight, bias))
}

/// The bytes of one element of a float type.
fn element_size(data_type: i32) -> Option<usize> {
    match data_type {
        1 => Some(4),
        10 | 16 => Some(2),
        _ => None,
    }
}
