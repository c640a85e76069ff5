//! Finds the attentions of a graph. In: a graph as `PyTorch` exports it. Out: [`Attentions`].
//!
//! Each starts from a Softmax. Before it stands the product of queries and keys, scaled before or after, and masked by Add or Where; after
//! it the product with the values. Copies, casts and guards against NaN may stand between.

use std::collections::HashMap;

use super::scale::Scale;
use super::site::{AttentionSite, Attentions, FusedAttention, Heads, Mask, MaskKind, OtherSoftmax};
use crate::onnx::edit::graph_index::{GraphIndex, integer, integers};
use crate::onnx::edit::known_values::{KnownValues, Size};
use crate::onnx::proto::NodeProto;

/// How many nodes may stand between the softmax and each of the two products.
const MOST_NODES: usize = 12;

/// A graph, and what is known about it.
#[derive(Debug)]
struct Matcher<'a> {
    index: &'a GraphIndex<'a>,
    known: &'a KnownValues,
}

/// What leads from the product of queries and keys to the softmax.
#[derive(Debug)]
struct Scores<'a> {
    product: &'a NodeProto,
    scale: Scale,
    masks: Vec<Mask>,
}

/// Finds the attentions of the graph of `index`, without the branches inside its nodes, and what is known about its values; `outer` is
/// what is known about the values of the graph around it.
///
/// A mask may be given with any shape. It is taken for granted that it is broadcast to the scores and not the scores to it.
pub(crate) fn find(index: &GraphIndex<'_>, outer: Option<&KnownValues>) -> (Attentions, KnownValues) {
    let known = KnownValues::of(index, outer, &HashMap::new());
    let first = sites(index, &known);
    let masked = first.sites.iter().filter(|site| !site.masks.is_empty());
    let same: HashMap<String, String> = masked
        .filter(|site| known.rank(&site.scores) == known.rank(&site.probabilities))
        .map(|site| (site.probabilities.clone(), site.scores.clone()))
        .collect();
    if same.is_empty() {
        return (first, known);
    }
    let known = KnownValues::of(index, outer, &same);
    (sites(index, &known), known)
}

fn sites(index: &GraphIndex<'_>, known: &KnownValues) -> Attentions {
    const FUSED: [&str; 9] = [
        "Attention",
        "MultiHeadAttention",
        "GroupQueryAttention",
        "PackedAttention",
        "PackedMultiHeadAttention",
        "DecoderMaskedMultiHeadAttention",
        "DecoderMaskedSelfAttention",
        "PagedAttention",
        "SparseAttention",
    ];
    let matcher = Matcher { index, known };
    let mut found = Attentions::default();
    for node in &index.graph.node {
        let Some(output) = node.output.first() else { continue };
        if FUSED.contains(&node.op_type()) {
            let domain = Some(node.domain()).filter(|domain| !matches!(*domain, "" | "ai.onnx"));
            let operator =
                domain.map_or_else(|| node.op_type().to_owned(), |domain| format!("{domain}.{}", node.op_type()));
            found.fused.push(FusedAttention { operator, output: output.clone() });
        }
        if node.op_type() == "Softmax" {
            match matcher.site(node, output) {
                Ok(site) => found.sites.push(site),
                Err(reason) => found.others.push(OtherSoftmax { output: output.clone(), reason }),
            }
        }
    }
    found
}

impl<'a> Matcher<'a> {
    fn site(&self, softmax: &'a NodeProto, probabilities: &'a str) -> Result<AttentionSite, String> {
        let rank = self.known.rank(probabilities).and_then(|rank| i64::try_from(rank).ok());
        let axis = integer(softmax, "axis").unwrap_or(-1);
        if axis != -1 && rank.is_none_or(|rank| axis != rank - 1) {
            return Err(format!("expected a softmax over the last axis, found axis {axis}"));
        }
        let scores = self.scores(first_input(softmax)?, MOST_NODES)?;
        let [query, key] = scores.product.input.as_slice() else { return Err("expected a product of two".to_owned()) };
        let (query, query_scale) = self.unscaled(query);
        let (key, key_scale) = self.key(key)?;
        let (product, output) = self.product_with_values(probabilities)?;
        let value = self.operand(second_input(product)?)?;
        let query = self.operand(query)?;
        let output = self.output(output);
        let shape = |heads: &Heads| self.heads_and_width(heads);
        let (heads, head_size) = [&query, &output]
            .map(shape)
            .into_iter()
            .fold((None, None), |(heads, width), found| (heads.or(found.0), width.or(found.1)));
        let key_heads = shape(&key).0.or(shape(&value).0);
        let scale = scores.scale * query_scale * key_scale;
        #[allow(clippy::cast_possible_truncation, reason = "operators take the scale as float32")]
        let scale = (!scale.unknown).then_some(scale.known as f32);
        let masks = scores.masks;
        let head_size = head_size.or(shape(&key).1);
        Ok(AttentionSite {
            scores: scores.product.output.first().cloned().unwrap_or_default(),
            probabilities: probabilities.to_owned(),
            query,
            key,
            value,
            output,
            scale,
            masks,
            heads,
            key_heads,
            head_size,
        })
    }

    /// Follows `value` back to the product of queries and keys.
    fn scores(&self, value: &'a str, most: usize) -> Result<Scores<'a>, String> {
        let most = most.checked_sub(1).ok_or("expected a product of queries and keys, found none near the softmax")?;
        let node = self.index.producer(value).ok_or("expected a product of queries and keys, found an input")?;
        match (node.op_type(), node.input.as_slice()) {
            ("Cast" | "Identity", [from, ..]) => self.scores(from, most),
            ("Reshape", [from, ..]) => {
                let scores = self.scores(from, most)?;
                let product = scores.product.output.first().is_some_and(|product| self.same_matrices(product, value));
                product.then_some(scores).ok_or_else(|| unexpected(node))
            }
            ("MatMul", [_, _]) => Ok(Scores { product: node, scale: Scale::ONE, masks: Vec::new() }),
            ("Mul" | "Div", [one, other]) => {
                let (from, scale) = self.factor(node, one, other).ok_or_else(|| unexpected(node))?;
                let scores = self.scores(from, most)?;
                if !scores.masks.is_empty() && scale != Scale::ONE {
                    return Err("expected a mask after the scale, found one before".to_owned());
                }
                Ok(Scores { scale: scores.scale * scale, ..scores })
            }
            ("Add", [one, other]) => {
                let (mut scores, mask) = match (self.scores(one, most), self.scores(other, most)) {
                    (Ok(scores), Err(_)) => (scores, other),
                    (Err(_), Ok(scores)) => (scores, one),
                    (Err(reason), Err(_)) => return Err(reason),
                    (Ok(_), Ok(_)) => {
                        return Err("expected a product and a mask, found the sum of two products".to_owned());
                    }
                };
                scores.masks.insert(0, Mask { value: mask.clone(), applied: MaskKind::Added });
                Ok(scores)
            }
            ("Where", [condition, then, otherwise]) => {
                let (from, applied) = match (self.known.number(then), self.known.number(otherwise)) {
                    (Some(fill), None) => (otherwise, MaskKind::Hides(fill)),
                    (None, Some(fill)) => (then, MaskKind::Keeps(fill)),
                    _ => return Err(unexpected(node)),
                };
                let mut scores = self.scores(from, most)?;
                scores.masks.insert(0, Mask { value: condition.clone(), applied });
                Ok(scores)
            }
            _ => Err(unexpected(node)),
        }
    }

    /// The value that `node` multiplies or divides by a number, and the factor.
    fn factor(&self, node: &NodeProto, one: &'a str, other: &'a str) -> Option<(&'a str, Scale)> {
        let scale = |name: &str| {
            let single = self.known.shape(name).is_some_and(|shape| matches!(shape, [] | [Size::Number(1)]));
            match self.known.number(name) {
                Some(known) => Some(Scale { known, unknown: false }),
                None if single => Some(Scale { known: 1.0, unknown: true }),
                None => None,
            }
        };
        match (node.op_type(), scale(one), scale(other)) {
            ("Mul" | "Div", None, Some(factor)) if node.op_type() == "Mul" || factor.unknown => Some((one, factor)),
            ("Div", None, Some(factor)) => Some((one, Scale { known: 1.0 / factor.known, unknown: false })),
            ("Mul", Some(factor), None) => Some((other, factor)),
            _ => None,
        }
    }

    /// `value` before it was multiplied by numbers, and their product.
    fn unscaled(&self, value: &'a str) -> (&'a str, Scale) {
        let (mut value, mut scale) = (value, Scale::ONE);
        for _ in 0..MOST_NODES {
            let Some(node) = self.index.producer(value).filter(|node| matches!(node.op_type(), "Mul" | "Div")) else {
                break;
            };
            let [one, other] = node.input.as_slice() else { break };
            let Some((from, factor)) = self.factor(node, one, other) else { break };
            (value, scale) = (from, scale * factor);
        }
        (value, scale)
    }

    /// The keys of a product's second operand.
    fn key(&self, operand: &'a str) -> Result<(Heads, Scale), String> {
        let (transposed, scale) = self.unscaled(operand);
        let Some(node) = self.index.producer_of(transposed, "Transpose") else {
            // keys may be kept transposed: an input, or computed in another graph
            let rank = self.known.rank(transposed);
            return match (self.index.constant(transposed), rank) {
                (None, Some(4)) => Ok((Heads { transposed: Some(transposed.to_owned()), ..Heads::new() }, scale)),
                _ => Err("expected keys of several heads, found a product with a weight".to_owned()),
            };
        };
        let (from, inner) = self.unscaled(first_input(node)?);
        let key = match integers(node, "perm") {
            [0, 1, 3, 2] => self.heads_first(from),
            [0, 2, 3, 1] => self.rows_first(from),
            [0, 2, 1] => self.flat(from),
            // [length, batch * heads, width]
            [1, 2, 0] => Heads::new(),
            perm => return Err(format!("expected transposed keys, found the axes {perm:?}")),
        };
        Ok((key, scale * inner))
    }

    /// Queries or values, as they are multiplied.
    fn operand(&self, value: &'a str) -> Result<Heads, String> {
        match self.known.rank(value) {
            Some(3) => Ok(self.flat(value)),
            Some(4) => Ok(self.heads_first(value)),
            _ => Err("expected queries and values of three or four axes".to_owned()),
        }
    }

    fn heads_first(&self, value: &'a str) -> Heads {
        if let Some((shared, repeats)) = self.shared(value) {
            return Heads { repeats, ..self.own_heads(shared) };
        }
        self.own_heads(value)
    }

    fn own_heads(&self, value: &'a str) -> Heads {
        let split = self.index.producer_of(value, "Transpose").filter(|node| integers(node, "perm") == [0, 2, 1, 3]);
        let rows = split.and_then(|node| node.input.first()).map_or_else(Heads::new, |from| self.rows_first(from));
        let flat = self.index.producer_of(value, "Reshape").and_then(|node| node.input.first());
        let flat = flat.filter(|from| self.known.rank(from) == Some(3) && self.same_matrices(from, value)).cloned();
        Heads { heads_first: Some(value.to_owned()), flat, packed: self.packed(value), ..rows }
    }

    fn rows_first(&self, value: &'a str) -> Heads {
        let joined = self.index.producer_of(value, "Reshape").and_then(|node| node.input.first());
        let joined = joined.filter(|from| self.splits(from, value)).cloned();
        Heads { rows_first: Some(value.to_owned()), joined, ..Heads::new() }
    }

    fn flat(&self, value: &'a str) -> Heads {
        let from = self.index.producer_of(value, "Reshape").and_then(|node| node.input.first());
        let heads = from.filter(|from| self.known.rank(from) == Some(4) && self.same_matrices(from, value));
        Heads { flat: Some(value.to_owned()), ..heads.map_or_else(Heads::new, |from| self.heads_first(from)) }
    }

    /// The heads that `value` repeats, and how often: `[b, h, s, d] -> [b, h, 1, s, d] -> [b, h, n, s, d] -> [b, h * n, s, d]`.
    fn shared(&self, value: &str) -> Option<(&'a str, usize)> {
        let repeated = self.index.producer_of(value, "Reshape")?.input.first()?;
        let node = self.index.producer(repeated).filter(|node| matches!(node.op_type(), "Expand" | "Tile"))?;
        let inserted = self.index.producer_of(node.input.first()?, "Unsqueeze")?;
        let from = inserted.input.first()?;
        let axes = match inserted.input.get(1) {
            Some(axes) => self.known.integers(axes)?,
            None => integers(inserted, "axes").to_vec(),
        };
        let repeats = match (node.op_type(), self.known.shape(repeated), node.input.get(1)) {
            ("Expand", Some([_, _, Size::Number(repeats), _, _]), _) => *repeats,
            ("Tile", _, Some(counts)) => match self.known.integers(counts)?.as_slice() {
                [1, 1, repeats, 1, 1] => *repeats,
                _ => return None,
            },
            _ => return None,
        };
        let repeats = usize::try_from(repeats).ok()?;
        let ([_, few, a, b], [_, all, c, d]) = (self.known.shape(from)?, self.known.shape(value)?) else { return None };
        let counted = few.number()?.checked_mul(repeats)? == all.number()? && a == c && b == d;
        (axes == [2] && counted).then_some((from, repeats))
    }

    /// Whether `value` is a part of a product `[batch, length, parts * heads * width]`:
    /// `[b, s, n, h, d] -> [n, b, h, s, d]`, of which one is taken.
    fn packed(&self, value: &str) -> Option<(String, usize)> {
        let node = self.index.producer(value)?;
        let (all, part) = match node.op_type() {
            "Gather" if integer(node, "axis").unwrap_or(0) == 0 => {
                (node.input.first()?, self.known.number(node.input.get(1)?)?)
            }
            "Squeeze" => {
                let one = node.input.first()?;
                let split =
                    self.index.producer_of(one, "Split").filter(|node| integer(node, "axis").unwrap_or(0) == 0)?;
                let part = split.output.iter().position(|output| output == one)?;
                #[allow(clippy::cast_precision_loss, reason = "one of three")]
                (split.input.first()?, part as f64)
            }
            _ => return None,
        };
        let transpose =
            self.index.producer_of(all, "Transpose").filter(|node| integers(node, "perm") == [2, 0, 3, 1, 4])?;
        let rows = transpose.input.first()?;
        let joined = self.index.producer_of(rows, "Reshape")?.input.first()?;
        let ([b, s, parts, heads, width], [batch, length, hidden]) =
            (self.known.shape(rows)?, self.known.shape(joined)?)
        else {
            return None;
        };
        let all = parts.number()?.checked_mul(heads.number()?)?.checked_mul(width.number()?)?;
        let fits = all == hidden.number()? && b == batch && s == length;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "one of three")]
        (fits && part >= 0.0).then(|| (joined.clone(), part as usize))
    }

    /// The product of the probabilities with the values, and its output.
    fn product_with_values(&self, probabilities: &'a str) -> Result<(&'a NodeProto, &'a str), String> {
        let mut value = probabilities;
        'follow: for _ in 0..MOST_NODES {
            for node in self.index.consumers(value) {
                let (Some(first), Some(output)) = (node.input.first(), node.output.first()) else { continue };
                match node.op_type() {
                    "MatMul" if first == value => return Ok((node, output)),
                    "Cast" | "Identity" | "Dropout" if first == value => (),
                    "Where" if self.guards_nan(node, value) => (),
                    "Reshape" if first == value && self.same_matrices(value, output) => (),
                    _ => continue,
                }
                value = output;
                continue 'follow;
            }
            break;
        }
        Err("expected a product with values after the softmax, found none".to_owned())
    }

    /// Whether `node` is `Where(IsNaN(value), 0, value)`.
    fn guards_nan(&self, node: &NodeProto, value: &str) -> bool {
        let [condition, then, otherwise] = node.input.as_slice() else { return false };
        let is_nan = self.index.producer_of(condition, "IsNaN").and_then(|node| node.input.first());
        is_nan.is_some_and(|checked| checked == value) && otherwise == value && self.known.number(then) == Some(0.0)
    }

    fn output(&self, value: &'a str) -> Heads {
        let mut heads = Heads::new();
        let next = |value: &str, op_type: &str| {
            self.index.consumers(value).filter(|node| node.op_type() == op_type).find_map(|node| node.output.first())
        };
        heads.heads_first = if self.known.rank(value) == Some(3) {
            heads.flat = Some(value.to_owned());
            next(value, "Reshape").filter(|to| self.known.rank(to) == Some(4) && self.same_matrices(value, to)).cloned()
        } else {
            Some(value.to_owned())
        };
        let transposed = heads.heads_first.as_ref().into_iter().flat_map(|value| self.index.consumers(value));
        heads.rows_first = transposed
            .filter(|node| node.op_type() == "Transpose" && integers(node, "perm") == [0, 2, 1, 3])
            .find_map(|node| node.output.first())
            .cloned();
        let rows = heads.rows_first.as_deref();
        heads.joined = rows.and_then(|rows| next(rows, "Reshape").filter(|to| self.splits(to, rows))).cloned();
        heads
    }

    /// Whether `split`, `[b, s, h, d]`, has the elements of `joined`, `[b, s, h * d]`.
    fn splits(&self, joined: &str, split: &str) -> bool {
        let (Some([b, s, hidden]), Some([batch, length, heads, width])) =
            (self.known.shape(joined), self.known.shape(split))
        else {
            return false;
        };
        let product = heads.number().zip(width.number()).and_then(|(heads, width)| heads.checked_mul(width));
        b == batch && s == length && product.is_some() && product == hidden.number()
    }

    /// Whether the last two axes of both values are the same.
    fn same_matrices(&self, one: &str, other: &str) -> bool {
        match (self.known.shape(one), self.known.shape(other)) {
            (Some([.., a, b]), Some([.., c, d])) => a == c && b == d,
            _ => false,
        }
    }

    fn heads_and_width(&self, heads: &Heads) -> (Option<usize>, Option<usize>) {
        let shape = |name: &Option<String>| name.as_ref().and_then(|name| self.known.shape(name));
        let sizes = |heads: Size, width: Size| (heads.number(), width.number());
        if let Some([_, heads, _, width]) = shape(&heads.heads_first) {
            sizes(*heads, *width)
        } else if let Some([_, _, heads, width]) = shape(&heads.rows_first) {
            sizes(*heads, *width)
        } else if let Some([_, heads, width, _]) = shape(&heads.transposed) {
            sizes(*heads, *width)
        } else if let Some([_, _, width]) = shape(&heads.flat) {
            (None, width.number())
        } else {
            (None, None)
        }
    }
}

impl Heads {
    fn new() -> Self {
        Self { repeats: 1, ..Self::default() }
    }
}

fn first_input(node: &NodeProto) -> Result<&str, String> {
    node.input.first().map(String::as_str).ok_or_else(|| format!("{} without inputs", node.op_type()))
}

fn second_input(node: &NodeProto) -> Result<&str, String> {
    node.input.get(1).map(String::as_str).ok_or_else(|| format!("{} without a second input", node.op_type()))
}

fn unexpected(node: &NodeProto) -> String {
    format!("expected a product of queries and keys before the softmax, found {}", node.op_type())
}
