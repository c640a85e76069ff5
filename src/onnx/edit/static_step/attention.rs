//! Attention of a static step as one operator. In: a graph, and the attentions found in it. Out: the graph with `Attention` of opset 24 over
//! static caches, with a length for each row, and `MultiHeadAttention` over what is the same in all steps.
//!
//! There is one query a row, so that `[batch, heads, 1, width]` and `[batch, 1, heads * width]` have the same elements in the same order:
//! queries and outputs are reshaped and not transposed. In grouped-query attention (Ainslie et al., *GQA*, 2023), the query heads that
//! share a head of keys become several queries of that head: no key is repeated, and no operator must know of groups, which CUDA's does
//! in 16 bits only.

use std::collections::{HashMap, HashSet};

use super::outcome::NotStatic;
use super::ports::declared;
use super::step::{LENGTHS, StaticCache};
use super::values::{CONTRIB, integers};
use crate::onnx::edit::attention::site::{AttentionSite, Heads, Mask};
use crate::onnx::edit::extract::uses;
use crate::onnx::edit::graph_index::GraphIndex;
use crate::onnx::proto::{AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto};

/// How many keys of each row are valid in this step, int64 `[batch]`.
const VALID: &str = "static.valid";

/// An attention of a step.
pub(super) struct StepAttention<'a> {
    pub(super) site: &'a AttentionSite,
    kind: Kind,
}

enum Kind {
    /// Over these caches, which this step writes.
    Own { key: String, value: String, key_heads: usize, width: usize },
    /// Over keys and values that are the same in all steps.
    Cross { key: Box<Heads>, value: Box<Heads>, heads: usize, width: usize },
}

/// What the attentions of `graph` attend to.
///
/// # Errors
/// When an attention attends to something else, or what the operators need is not known.
pub(super) fn attended<'a>(
    graph: &GraphProto,
    sites: &'a [AttentionSite],
    caches: &[StaticCache],
    invariant: &[&str],
) -> Result<Vec<StepAttention<'a>>, NotStatic> {
    let changing = changing(graph, invariant);
    let index = GraphIndex::new(graph, None);
    let attended = |site: &'a AttentionSite| {
        let (key, value) = (with_origin(&site.key, &index), with_origin(&site.value, &index));
        let cache = |heads: &Heads| caches.iter().find(|cache| Some(&cache.output) == heads.heads_first.as_ref());
        let fail = |what: &str| NotStatic::because(format!("its attention {:?} {what}", site.probabilities));
        if site.scale.is_none() {
            return Err(fail("has a scale that is not a constant"));
        }
        let kind = match (cache(&key), cache(&value)) {
            (Some(key), Some(value)) => {
                let (key_heads, width) = (key.heads, key.width);
                Kind::Own { key: key.output.clone(), value: value.output.clone(), key_heads, width }
            }
            (None, None) => {
                let same = same_in_all_steps(&key, &changing).zip(same_in_all_steps(&value, &changing));
                let (key, value) =
                    same.ok_or_else(|| fail("attends to something other than a cache or encoder states"))?;
                if site.key.repeats != 1 || site.value.repeats != 1 {
                    return Err(fail("shares heads of keys that are not a cache"));
                }
                let given = key.heads_first.as_ref().and_then(|name| declared(graph, name).ok());
                let of_input = |axis| given.as_ref().and_then(|port| port.fixed(axis));
                let heads = site.heads.or(site.key_heads).or_else(|| of_input(1));
                let width = site.head_size.or_else(|| of_input(3));
                let known = heads.zip(width).ok_or_else(|| fail("has an unknown number of heads"));
                let (heads, width) = known?;
                Kind::Cross { key: Box::new(key), value: Box::new(value), heads, width }
            }
            _ => return Err(fail("takes either its keys or its values from a cache")),
        };
        Ok(StepAttention { site, kind })
    };
    sites.iter().map(attended).collect()
}

/// The masks of all of `attentions`, each once.
pub(super) fn masks(attentions: &[StepAttention<'_>]) -> Vec<Mask> {
    let mut masks: Vec<Mask> = Vec::new();
    for mask in attentions.iter().flat_map(|attention| &attention.site.masks) {
        if !masks.contains(mask) {
            masks.push(mask.clone());
        }
    }
    masks
}

/// `graph` with operators for `attentions`, whose masks hide nothing.
///
/// # Errors
/// When a value that an operator takes or gives is not in the graph.
pub(super) fn with_operators(mut graph: GraphProto, attentions: &[StepAttention<'_>]) -> Result<GraphProto, NotStatic> {
    let mut made = Made::default();
    let mut replaced: HashMap<String, Vec<NodeProto>> = HashMap::new();
    for (number, attention) in attentions.iter().enumerate() {
        let (output, nodes) = made.operator(number, attention)?;
        replaced.insert(output, nodes);
    }
    let one = "static.one";
    graph.initializer.push(integers(one, &[1], &[1]));
    graph.initializer.extend(made.constants);
    let mut nodes = vec![NodeProto::of("Add", vec![LENGTHS.to_owned(), one.to_owned()], VALID)];
    for node in graph.node {
        match node.output.first().and_then(|output| replaced.remove(output)) {
            Some(operators) => nodes.extend(operators),
            None => nodes.push(node),
        }
    }
    graph.node = nodes;
    Ok(graph)
}

/// The nodes and constants of operators.
#[derive(Default)]
struct Made {
    constants: Vec<TensorProto>,
}

impl Made {
    /// The operator for `attention`: the value of the graph that it computes, and the nodes instead of the one that did.
    fn operator(
        &mut self,
        number: usize,
        attention: &StepAttention<'_>,
    ) -> Result<(String, Vec<NodeProto>), NotStatic> {
        let site = attention.site;
        let name = |what: &str| format!("static.attention.{number}.{what}");
        let fail = |what: &str| NotStatic::because(format!("its attention {:?} {what}", site.probabilities));
        let scale = AttributeProto::float("scale", site.scale.unwrap_or(1.0));
        let mut nodes = Vec::new();
        // queries, as the layout before the heads were split, if the graph has it
        let query = [&site.query.joined, &site.query.heads_first, &site.query.rows_first, &site.query.flat];
        let query = query.into_iter().flatten().next().ok_or_else(|| fail("has no queries"))?.clone();
        let (result, operator) = match &attention.kind {
            Kind::Own { key, value, key_heads, width } => {
                let heads = query_heads(attention);
                let (split, result) = (name("query"), name("output"));
                // query heads that share a head of keys are several queries of one head
                let shared = heads.checked_div(*key_heads).filter(|shared| shared * key_heads == heads);
                let shared = shared.ok_or_else(|| fail("has no whole number of queries for a head of keys"))?;
                nodes.push(self.reshape(query, &[-1, *key_heads as i64, shared as i64, *width as i64], &split));
                let inputs = [&split, key, value, "", "", "", VALID].map(str::to_owned).to_vec();
                (result.clone(), NodeProto::of("Attention", inputs, &result).with(scale))
            }
            Kind::Cross { key, value, heads, width } => {
                let (joined, result) = (name("query"), name("output"));
                nodes.push(self.reshape(query, &[-1, 1, (heads * width) as i64], &joined));
                let key = heads_first(key, &name("key"), &mut nodes).ok_or_else(|| fail("has no keys"))?;
                let value = heads_first(value, &name("value"), &mut nodes).ok_or_else(|| fail("has no values"))?;
                let operator = NodeProto::of("MultiHeadAttention", vec![joined, key, value], &result);
                let operator = NodeProto { domain: Some(CONTRIB.to_owned()), ..operator };
                (result, operator.with(AttributeProto::int("num_heads", *heads as i64)).with(scale))
            }
        };
        nodes.push(operator);
        // what uses the output takes it in one of these layouts
        let heads = query_heads(attention) as i64;
        let (output, shape) = match &site.output {
            Heads { joined: Some(joined), .. } => (joined, vec![0, 1, -1]),
            Heads { flat: Some(flat), .. } => {
                let width = site.head_size.ok_or_else(|| fail("has heads of unknown width"))?;
                (flat, vec![-1, 1, width as i64])
            }
            Heads { heads_first: Some(output), .. } => (output, vec![0, heads, 1, -1]),
            _ => return Err(fail("has no output")),
        };
        nodes.push(self.reshape(result, &shape, output));
        Ok((output.clone(), nodes))
    }

    fn reshape(&mut self, from: String, shape: &[i64], to: &str) -> NodeProto {
        let name = format!("{to} (shape)");
        self.constants.push(integers(&name, &[shape.len()], shape));
        NodeProto::of("Reshape", vec![from, name], to)
    }
}

/// How many heads the queries of `attention` have.
fn query_heads(attention: &StepAttention<'_>) -> usize {
    match attention.kind {
        Kind::Own { key_heads, .. } => attention.site.heads.unwrap_or(key_heads * attention.site.key.repeats),
        Kind::Cross { heads, .. } => heads,
    }
}

/// Keys or values as `[batch, heads, length, width]`. What is computed for that is the same in all steps, and is hoisted.
fn heads_first(heads: &Heads, name: &str, nodes: &mut Vec<NodeProto>) -> Option<String> {
    let (from, perm) = match heads {
        Heads { heads_first: Some(value), .. } => return Some(value.clone()),
        Heads { rows_first: Some(value), .. } => (value, [0, 2, 1, 3]),
        Heads { transposed: Some(value), .. } => (value, [0, 1, 3, 2]),
        _ => return None,
    };
    let node = NodeProto::of("Transpose", vec![from.clone()], name);
    nodes.push(node.with(AttributeProto::ints("perm", &perm)));
    Some(name.to_owned())
}

/// The values of `graph` that change from step to step.
pub(super) fn changing<'a>(graph: &'a GraphProto, invariant: &[&str]) -> HashSet<&'a str> {
    let weights: HashSet<&str> = graph.initializer.iter().map(TensorProto::name).collect();
    let names = graph.input.iter().map(ValueInfoProto::name);
    let mut changing: HashSet<&str> =
        names.filter(|name| !invariant.contains(name) && !weights.contains(name)).collect();
    for node in &graph.node {
        if uses(node).iter().any(|name| changing.contains(name)) {
            changing.extend(node.output.iter().map(String::as_str));
        }
    }
    changing
}

/// `heads`, whose layout before the heads' axes were joined with the batch is the value that was reshaped, if nothing else is known. That the
/// heads are in the order of that value is not known here; a wrong guess gives other logits.
fn with_origin(heads: &Heads, index: &GraphIndex<'_>) -> Heads {
    let mut found = heads.clone();
    if let (None, None, None, Some(flat)) = (&heads.heads_first, &heads.rows_first, &heads.transposed, &heads.flat) {
        found.heads_first = index.producer_of(flat, "Reshape").and_then(|node| node.input.first()).cloned();
    }
    found
}

/// The layouts of `heads` that are the same in all steps, if there is one.
fn same_in_all_steps(heads: &Heads, changing: &HashSet<&str>) -> Option<Heads> {
    let same = |name: &Option<String>| name.clone().filter(|name| !changing.contains(name.as_str()));
    let [heads_first, rows_first, transposed] = [&heads.heads_first, &heads.rows_first, &heads.transposed].map(same);
    let any = heads_first.is_some() || rows_first.is_some() || transposed.is_some();
    any.then(|| Heads { heads_first, rows_first, transposed, joined: None, flat: None, ..heads.clone() })
}
