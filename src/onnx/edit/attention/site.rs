//! What is known about one attention of a graph: `softmax(scale · Q Kᵀ + mask) V` for each head.

/// One attention that a graph computes step by step. Values are named; where a layout has no value of its own, there is none.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AttentionSite {
    /// The product of queries and keys.
    pub(crate) scores: String,
    /// The output of the softmax.
    pub(crate) probabilities: String,
    pub(crate) query: Heads,
    pub(crate) key: Heads,
    pub(crate) value: Heads,
    pub(crate) output: Heads,
    /// What the product of `query` and `key` is multiplied by; `None` if it is computed and its number is not known.
    pub(crate) scale: Option<f32>,
    /// What changes the scores after that, the one that is applied last first.
    pub(crate) masks: Vec<Mask>,
    /// How many heads the queries have.
    pub(crate) heads: Option<usize>,
    /// How many heads the keys and values have; fewer than `heads` if several query heads share one.
    pub(crate) key_heads: Option<usize>,
    /// The width of a head of queries and keys.
    pub(crate) head_size: Option<usize>,
}

/// Queries, keys, values or outputs, with the names of all layouts in which the graph has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(clippy::struct_field_names, reason = "an order of axes")]
pub(crate) struct Heads {
    /// `[batch, heads, length, width]`.
    pub(crate) heads_first: Option<String>,
    /// `[batch, length, heads, width]`.
    pub(crate) rows_first: Option<String>,
    /// `[batch, length, heads * width]`.
    pub(crate) joined: Option<String>,
    /// `[batch * heads, length, width]`.
    pub(crate) flat: Option<String>,
    /// `[batch, heads, width, length]`, of keys only.
    pub(crate) transposed: Option<String>,
    /// A value `[batch, length, parts * heads * width]` of several, and the number of this part.
    pub(crate) packed: Option<(String, usize)>,
    /// How often each of these heads is repeated for the query heads that share it; 1 where they are not shared.
    pub(crate) repeats: usize,
}

/// What changes the scores before the softmax.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Mask {
    /// The value, of a shape that is broadcast to `[batch, heads, length, length of the keys]`.
    pub(crate) value: String,
    pub(crate) applied: MaskKind,
}

/// How a mask is applied.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum MaskKind {
    /// It is added to the scores.
    Added,
    /// Where it is true, the score becomes this number.
    Hides(f64),
    /// Where it is false, the score becomes this number.
    Keeps(f64),
}

/// An attention that is one operator in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FusedAttention {
    /// The operator, with its domain unless it is ONNX's own.
    pub(crate) operator: String,
    /// Its first output.
    pub(crate) output: String,
}

/// A softmax that was not recognised as that of an attention.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OtherSoftmax {
    /// Its output.
    pub(crate) output: String,
    /// What was expected and what was found.
    pub(crate) reason: String,
}

/// The attentions of one graph, in its order.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Attentions {
    pub(crate) sites: Vec<AttentionSite>,
    pub(crate) fused: Vec<FusedAttention>,
    pub(crate) others: Vec<OtherSoftmax>,
}
