//! Chooses the next token of every row on the device, or the candidates for it. In: a graph with logits. Out: the graph with the chosen
//! tokens as outputs, so that a few numbers a row come to the host instead of its logits. One candidate is greedy search: the highest
//! score, the lowest id among equals. Several are what beam search selects from: the best tokens of each beam hold the best of all.
//!
//! Log-probabilities are those of the logits in float32, before any token is banned, as transformers' `output_logits` has them.

use bytes::Bytes;

use crate::onnx::port::DataType;
use crate::onnx::proto::{AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto};

/// The names of what is added to the graph.
pub(crate) mod names {
    /// Output of a step, `[rows, tokens, vocabulary]`.
    pub(crate) const LOGITS: &str = "logits";
    /// Input, int64 `[rows, 1]`: the token of each row.
    pub(crate) const TOKENS: &str = crate::onnx::edit::static_step::TOKENS;
    /// Input, int64 `[rows]`: how many tokens of each row are in its cache before the step.
    pub(crate) const LENGTHS: &str = crate::onnx::edit::static_step::LENGTHS;
    /// Input, int64 `[rows]`: a row with fewer tokens than this in its cache does not end.
    pub(crate) const SHORTEST: &str = "static.shortest";
    /// Input, int64 `[rows]`: the most that [`NEXT_LENGTHS`] grow to.
    pub(crate) const LONGEST: &str = "static.longest";
    /// Output, int64 `[rows, 1]`: the chosen tokens.
    pub(crate) const NEXT_TOKENS: &str = "static.next_tokens";
    /// Output, int64 `[rows]`: the lengths of the next step. They depend on the chosen tokens, so that they can be written over
    /// [`LENGTHS`]: by then nothing reads those.
    pub(crate) const NEXT_LENGTHS: &str = "static.next_lengths";
    /// Output, float32 `[rows, 3 * candidates + 1]`: the candidates, best first; their log-probabilities; what they are ordered by, with
    /// the lowest number added where the token is banned; and 1 if all logits of the row are finite. `[rows, 3]`, without the order, for
    /// one candidate.
    pub(crate) const CHOSEN: &str = "static.chosen";
}

/// What the choice depends on apart from the logits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Choice {
    /// How many logits a row has.
    pub(crate) vocabulary: usize,
    /// How many candidates a row has; 1: the graph chooses the token.
    pub(crate) candidates: usize,
    /// Whether several candidates are ordered by logits, and not by log-probabilities, among which more are equal.
    pub(crate) by_logits: bool,
    /// The tokens that a row that is too short must not have.
    pub(crate) ends: Vec<i64>,
    /// Tokens that no row has.
    pub(crate) suppressed: Vec<i64>,
}

/// Builds nodes with names of their own.
struct Nodes<'a> {
    graph: &'a mut GraphProto,
}

impl Nodes<'_> {
    fn add(&mut self, op_type: &str, input: &[&str], output: &str, attributes: &[(&str, i64)]) -> String {
        let name = if output.starts_with("static.") { output.to_owned() } else { format!("choose.{output}") };
        let input = input.iter().map(|&name| name.to_owned()).collect();
        let mut node = NodeProto::of(op_type, input, &name);
        node.attribute = attributes.iter().map(|(name, value)| AttributeProto::int(name, *value)).collect();
        self.graph.node.push(node);
        name
    }

    fn constant(&mut self, name: &str, dtype: DataType, dims: &[i64], data: impl Into<Bytes>) -> String {
        let name = format!("choose.{name}");
        self.graph.initializer.push(TensorProto {
            name: Some(name.clone()),
            dims: dims.to_vec(),
            data_type: dtype.to_onnx(),
            raw_data: Some(data.into()),
            ..TensorProto::default()
        });
        name
    }

    fn integer(&mut self, name: &str, dims: &[i64], value: i64) -> String {
        self.constant(name, DataType::I64, dims, value.to_le_bytes().to_vec())
    }

    /// `[1, vocabulary]`: 0, and a large negative number for each of `tokens`. Not minus infinity, which times 0 is not a number.
    fn ban(&mut self, name: &str, vocabulary: usize, tokens: &[i64]) -> String {
        let mut bias = vec![0.0_f32; vocabulary];
        for token in tokens {
            if let Some(bias) = usize::try_from(*token).ok().and_then(|token| bias.get_mut(token)) {
                *bias = f32::MIN;
            }
        }
        let data: Vec<u8> = bias.into_iter().flat_map(f32::to_le_bytes).collect();
        self.constant(name, DataType::F32, &[1, vocabulary as i64], data)
    }
}

/// ONNX's `TensorProto.DataType` for float32.
const FLOAT: i64 = 1;

/// Adds the choice from the last of `logits`, `[rows, tokens, vocabulary]`, to `graph`, whose operators are those of ONNX 18 or newer. The
/// input [`names::LENGTHS`] must be declared already.
pub(crate) fn add_choice(graph: &mut GraphProto, logits: &str, choice: &Choice) {
    let mut nodes = Nodes { graph };
    let last = nodes.integer("last", &[], -1);
    let last = nodes.add("Gather", &[logits, &last], "last_logits", &[("axis", 1)]);
    let scores = nodes.add("Cast", &[&last], "logits", &[("to", FLOAT)]);
    let column = nodes.integer("column", &[1], 1);
    let logprobs = nodes.add("LogSoftmax", &[&scores], "logprobs", &[("axis", -1)]);
    let by_logits = choice.by_logits || choice.candidates == 1;
    let mut biased = if by_logits { scores.clone() } else { logprobs.clone() };
    if !choice.ends.is_empty() {
        let bias = nodes.ban("ends", choice.vocabulary, &choice.ends);
        let short = nodes.add("Less", &[names::LENGTHS, names::SHORTEST], "short", &[]);
        let short = nodes.add("Cast", &[&short], "short_float", &[("to", FLOAT)]);
        let short = nodes.add("Unsqueeze", &[&short, &column], "short_rows", &[]);
        let bias = nodes.add("Mul", &[&short, &bias], "ends_of_rows", &[]);
        biased = nodes.add("Add", &[&biased, &bias], "unended", &[]);
    }
    if !choice.suppressed.is_empty() {
        let bias = nodes.ban("suppressed", choice.vocabulary, &choice.suppressed);
        biased = nodes.add("Add", &[&biased, &bias], "unsuppressed", &[]);
    }
    let mut order = None;
    let next = if choice.candidates > 1 {
        let count = nodes.integer("candidates", &[1], choice.candidates as i64);
        let [values, next] = [format!("{}.values", names::NEXT_TOKENS), names::NEXT_TOKENS.to_owned()];
        let input = vec![biased, count];
        let top = NodeProto { output: vec![values.clone(), next.clone()], ..NodeProto::of("TopK", input, "") };
        order = Some(values);
        nodes.graph.node.push(NodeProto { attribute: vec![AttributeProto::int("axis", -1)], ..top });
        next
    } else {
        nodes.add("ArgMax", &[&biased], names::NEXT_TOKENS, &[("axis", -1), ("keepdims", 1)])
    };
    let logprob = nodes.add("GatherElements", &[&logprobs, &next], "logprob", &[("axis", 1)]);
    // 0 for finite logits, not a number for others
    let zero = nodes.constant("zero", DataType::F32, &[], 0.0_f32.to_le_bytes().to_vec());
    let nothing = nodes.add("Mul", &[&scores, &zero], "nothing", &[]);
    let nothing = nodes.add("ReduceSum", &[&nothing, &column], "sum_of_nothing", &[("keepdims", 1)]);
    let finite = nodes.add("Equal", &[&nothing, &zero], "finite", &[]);
    let finite = nodes.add("Cast", &[&finite], "finite_float", &[("to", FLOAT)]);
    let token = nodes.add("Cast", &[&next], "token", &[("to", FLOAT)]);
    let numbers: Vec<&str> =
        [&token, &logprob].into_iter().chain(&order).chain([&finite]).map(String::as_str).collect();
    nodes.add("Concat", &numbers, names::CHOSEN, &[("axis", 1)]);
    if !choice.ends.is_empty() {
        graph.input.push(ValueInfoProto::tensor(names::SHORTEST, DataType::I64, Some(1)));
    }
    graph.output.push(ValueInfoProto::tensor(names::CHOSEN, DataType::F32, Some(2)));
}

/// Adds the input of the next step to the outputs of `graph`, to which the choice of one token was added.
pub(crate) fn add_next_step(graph: &mut GraphProto) {
    let mut nodes = Nodes { graph };
    let column = nodes.integer("axis", &[1], 1);
    let one = nodes.integer("one", &[], 1);
    // 1, whatever the token is
    let least = nodes.add("Max", &[names::NEXT_TOKENS, &one], "at_least_one", &[]);
    let one = nodes.add("Min", &[&least, &one], "one_of_row", &[]);
    let one = nodes.add("Squeeze", &[&one, &column], "one_of_rows", &[]);
    let next = nodes.add("Add", &[names::LENGTHS, &one], "longer", &[]);
    nodes.add("Min", &[&next, names::LONGEST], names::NEXT_LENGTHS, &[]);
    graph.input.push(ValueInfoProto::tensor(names::LONGEST, DataType::I64, Some(1)));
    graph.output.push(ValueInfoProto::tensor(names::NEXT_TOKENS, DataType::I64, Some(2)));
    graph.output.push(ValueInfoProto::tensor(names::NEXT_LENGTHS, DataType::I64, Some(1)));
}
