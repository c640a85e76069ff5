//! Replaces attention by one operator. In: a graph without a cache, and the attentions found in it. Out: an equal graph with
//! `com.microsoft.Attention` where queries, keys and values are products of one value with weights, else
//! `com.microsoft.MultiHeadAttention`; and for each attention that stays as it is, why.
//!
//! Both operators take the scale, and a mask as a number that is added to the scores. On a GPU, ONNX Runtime runs them as one kernel that
//! never writes the scores to memory.

use std::collections::{HashMap, HashSet};

use super::new_nodes::{float_attribute, int64s, integer_attribute, microsoft, tensor};
use super::projection::Projections;
use super::site::{AttentionSite, Attentions, Heads, Mask, MaskKind};
use crate::onnx::edit::graph_index::GraphIndex;
use crate::onnx::edit::known_values::{KnownValues, Size};
use crate::onnx::error::OnnxError;
use crate::onnx::proto::{GraphProto, NodeProto, TensorProto};

/// A graph with attentions that are one operator each.
#[derive(Debug)]
pub(crate) struct Fused {
    pub(crate) graph: GraphProto,
    /// How many attentions became one operator.
    pub(crate) count: usize,
    /// Why the others did not.
    pub(crate) reasons: Vec<String>,
}

/// A graph in which attentions are being replaced.
#[derive(Debug)]
struct Fuser<'a> {
    index: &'a GraphIndex<'a>,
    known: &'a KnownValues,
    /// The nodes that take the place of the one that computes this value.
    instead: HashMap<String, Vec<NodeProto>>,
    initializers: Vec<TensorProto>,
    /// The biases made of masks, by mask and by the lengths that they have.
    biases: HashMap<(String, Size, Size), String>,
}

/// Replaces the attentions `found` in the graph of `index`, whose values `known` describes.
///
/// # Errors
/// When weights cannot be read.
pub(crate) fn fuse(
    index: &GraphIndex<'_>,
    known: &KnownValues,
    found: &Attentions,
    projections: &mut Projections<'_>,
) -> Result<Fused, OnnxError> {
    let mut fuser = Fuser { index, known, instead: HashMap::new(), initializers: Vec::new(), biases: HashMap::new() };
    let mut reasons: Vec<String> = found.others.iter().map(|other| other.reason.clone()).collect();
    let mut sites: Vec<&AttentionSite> = found.sites.iter().collect();
    // a bias stands before the first attention that uses it
    sites.sort_by_key(|site| site.output.joined.as_ref().and_then(|output| index.position(output)));
    for site in sites {
        if let Err(reason) = fuser.replace(site, projections)? {
            reasons.push(reason);
        }
    }
    let Fuser { mut instead, initializers, .. } = fuser;
    let count = instead.len();
    let mut graph = index.graph.clone();
    let mut given = HashSet::new();
    graph.node = graph
        .node
        .into_iter()
        .flat_map(|node| match node.output.first().and_then(|output| instead.remove(output)) {
            Some(nodes) => nodes,
            None => vec![node],
        })
        .collect();
    graph.initializer.extend(initializers.into_iter().filter(|tensor| given.insert(tensor.name().to_owned())));
    Ok(Fused { graph, count, reasons })
}

impl Fuser<'_> {
    /// Replaces one attention, or says why not.
    fn replace(
        &mut self,
        site: &AttentionSite,
        projections: &mut Projections<'_>,
    ) -> Result<Result<(), String>, OnnxError> {
        let usable = match self.usable(site) {
            Ok(usable) => usable,
            Err(reason) => return Ok(Err(reason)),
        };
        let Usable { heads, scale, output, data_type } = usable;
        let mut nodes = Vec::new();
        let joint = projections.joint(self.index, self.known, site)?;
        let rows = if joint.is_some() { Ok(<[String; 3]>::default()) } else { rows(site, &mut nodes) };
        // a bias is made last, when all else is certain: later attentions use it, too
        let bias = |rows| match site.masks.as_slice() {
            [] => Ok((rows, String::new())),
            [mask] => Ok((rows, self.bias(site, mask, data_type, &mut nodes)?)),
            _ => Err("expected one mask, found several".to_owned()),
        };
        let ([query, key, value], bias) = match rows.and_then(bias) {
            Ok(found) => found,
            Err(reason) => return Ok(Err(reason)),
        };
        let scale = joint.as_ref().map_or(scale, |joint| scale * joint.scale);
        let attributes = vec![integer_attribute("num_heads", heads), float_attribute("scale", scale)];
        let (operator, input) = match &joint {
            Some(joint) => ("Attention", [joint.input.as_str(), &joint.weight, &joint.bias, "", "", &bias]),
            None => ("MultiHeadAttention", [query.as_str(), &key, &value, "", "", &bias]),
        };
        nodes.push(microsoft(operator, trimmed(&input), &[&output], attributes));
        self.initializers.extend(joint.into_iter().flat_map(|joint| joint.initializers));
        self.instead.insert(output, nodes);
        Ok(Ok(()))
    }

    /// What the operators need to know of `site`, or why they cannot take its place.
    fn usable(&self, site: &AttentionSite) -> Result<Usable, String> {
        let heads = site.heads.ok_or("expected a known number of heads")?;
        if site.key_heads != Some(heads) || site.key.repeats != 1 || site.value.repeats != 1 {
            return Err("expected as many heads of keys and values as of queries".to_owned());
        }
        let scale = site.scale.ok_or("expected a constant scale, found one that is computed")?;
        let output =
            site.output.joined.clone().ok_or("expected heads that are joined after it, found another layout")?;
        let data_type = self.known.data_type(&output).ok_or("expected a known element type")?;
        for heads in [&site.query, &site.key, &site.value] {
            let name =
                rows_of(heads).ok_or("expected heads that are split from rows before it, found another layout")?;
            if self.known.data_type(name) != Some(data_type) {
                return Err("expected one element type, found a cast".to_owned());
            }
        }
        let shapes =
            [&site.query, &site.key, &site.value].map(|heads| rows_of(heads).and_then(|name| self.known.shape(name)));
        match shapes {
            [Some([batch, ..]), Some([of_keys, key_length, ..]), Some([of_values, value_length, ..])]
                if batch == of_keys && batch == of_values && key_length == value_length =>
            {
                Ok(Usable { heads, scale, output, data_type })
            }
            _ => Err("expected queries, keys and values of one batch".to_owned()),
        }
    }

    /// A value `[1 or batch, 1 or heads, length, length of keys]` that is added to the scores, made of `mask`.
    fn bias(
        &mut self,
        site: &AttentionSite,
        mask: &Mask,
        data_type: i32,
        nodes: &mut Vec<NodeProto>,
    ) -> Result<String, String> {
        let lengths = [&site.query, &site.key].map(|heads| {
            let rows = rows_of(heads)?;
            self.known.shape(rows).and_then(|shape| Some((rows.to_owned(), *shape.get(1)?)))
        });
        let [Some((queries, length)), Some((keys, key_length))] = lengths else {
            return Err("expected known axes of queries and keys".to_owned());
        };
        let named = (mask.value.clone(), length, key_length);
        if let Some(bias) = self.biases.get(&named) {
            return Ok(bias.clone());
        }
        let name = |what: &str| format!("{}: {what} (nightcap)", site.probabilities);
        let added = match mask.applied {
            MaskKind::Added if self.known.data_type(&mask.value) == Some(data_type) => mask.value.clone(),
            // the scores are cast to float32 for the softmax; the most negative numbers are infinite in the operator's type
            MaskKind::Added if self.known.data_type(&mask.value) == Some(1) => {
                let lowest = scalar(&name("lowest"), 1, if data_type == 10 { -65504.0 } else { -1e38 });
                self.initializers.extend(lowest);
                nodes.push(NodeProto::of("Max", vec![mask.value.clone(), name("lowest")], &name("finite")));
                let mut cast = NodeProto::of("Cast", vec![name("finite")], &name("added"));
                cast.attribute.push(integer_attribute("to", usize::try_from(data_type).unwrap_or_default()));
                nodes.push(cast);
                name("added")
            }
            MaskKind::Added => return Err("expected a mask of the scores' element type".to_owned()),
            MaskKind::Hides(fill) | MaskKind::Keeps(fill) => {
                let numbers = [("fill", fill), ("zero", 0.0)];
                for (what, number) in numbers {
                    self.initializers.push(scalar(&name(what), data_type, number).ok_or("expected float scores")?);
                }
                let (fill, zero) = (name("fill"), name("zero"));
                let chosen = if matches!(mask.applied, MaskKind::Hides(_)) { [fill, zero] } else { [zero, fill] };
                let [then, otherwise] = chosen;
                nodes.push(NodeProto::of("Where", vec![mask.value.clone(), then, otherwise], &name("added")));
                name("added")
            }
        };
        let fits = self
            .known
            .shape(&mask.value)
            .is_some_and(|shape| matches!(shape, [_, _, rows, columns] if *rows == length && *columns == key_length));
        let bias = if fits {
            added
        } else {
            self.expand(&added, [(&queries, length), (&keys, key_length)], &name, nodes);
            name("bias")
        };
        self.biases.insert(named, bias.clone());
        Ok(bias)
    }

    /// Nodes that broadcast `added` to `[.., .., length of queries, length of keys]`.
    fn expand(
        &mut self,
        added: &str,
        lengths: [(&String, Size); 2],
        name: &impl Fn(&str) -> String,
        nodes: &mut Vec<NodeProto>,
    ) {
        self.initializers.push(int64s(&name("ones"), &[1, 1]));
        self.initializers.push(int64s(&name("second axis"), &[1]));
        let mut sizes = vec![name("ones")];
        for ((rows, _), what) in lengths.into_iter().zip(["length", "length of keys"]) {
            nodes.push(NodeProto::of("Shape", vec![rows.clone()], &name(&format!("shape with {what}"))));
            let gathered = vec![name(&format!("shape with {what}")), name("second axis")];
            nodes.push(NodeProto::of("Gather", gathered, &name(what)));
            sizes.push(name(what));
        }
        let mut joined = NodeProto::of("Concat", sizes, &name("shape"));
        joined.attribute.push(integer_attribute("axis", 0));
        nodes.push(joined);
        nodes.push(NodeProto::of("Expand", vec![added.to_owned(), name("shape")], &name("bias")));
    }
}

/// Queries, keys and values as `[batch, length, heads * width]`; parts of one value are split.
fn rows(site: &AttentionSite, nodes: &mut Vec<NodeProto>) -> Result<[String; 3], String> {
    let all = [&site.query, &site.key, &site.value];
    if let [Some(query), Some(key), Some(value)] = all.map(|heads| heads.joined.clone()) {
        return Ok([query, key, value]);
    }
    let name = |part: usize| format!("{}: part {part} (nightcap)", site.probabilities);
    match all.map(|heads| heads.packed.clone()) {
        [Some((packed, 0)), Some((key, 1)), Some((value, 2))] if packed == key && packed == value => {
            let parts = [name(0), name(1), name(2)];
            let mut split = NodeProto::of("Split", vec![packed], &parts[0]);
            split.output = parts.to_vec();
            split.attribute.push(integer_attribute("axis", 2));
            nodes.push(split);
            Ok(parts)
        }
        _ => Err("expected heads that are split from rows before it, found another layout".to_owned()),
    }
}

/// What the operators need to know of an attention.
#[derive(Debug)]
struct Usable {
    heads: usize,
    scale: f32,
    output: String,
    data_type: i32,
}

/// The value `[batch, length, ...]` that `heads` are split from.
fn rows_of(heads: &Heads) -> Option<&str> {
    heads.joined.as_deref().or(heads.packed.as_ref().map(|(name, _)| name.as_str()))
}

/// `input` without empty names at its end.
fn trimmed<'a, 'b>(input: &'a [&'b str]) -> &'a [&'b str] {
    let used = input.iter().rposition(|name| !name.is_empty()).map_or(0, |last| last + 1);
    &input[..used]
}

/// A number of the float type `data_type`.
fn scalar(name: &str, data_type: i32, number: f64) -> Option<TensorProto> {
    #[allow(clippy::cast_possible_truncation, reason = "the number is rounded to the element type")]
    let data = match data_type {
        1 => (number as f32).to_le_bytes().to_vec(),
        10 => half::f16::from_f64(number).to_le_bytes().to_vec(),
        16 => half::bf16::from_f64(number).to_le_bytes().to_vec(),
        _ => return None,
    };
    Some(tensor(name, data_type, &[], data))
}
