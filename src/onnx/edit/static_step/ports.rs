//! What feeds each input of an exported decoder graph, and values for them. In: how long a row is. Out: tensors without a pattern.

use super::outcome::NotStatic;
use crate::onnx::edit::header::port;
use crate::onnx::error::OnnxError;
use crate::onnx::port::{DataType, GraphSource, Port};
use crate::onnx::proto::GraphProto;
use crate::onnx::runtime::tensor::Tensor;

/// What feeds an input of a decoder's graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StepPort {
    /// The token, int64 `[batch, 1]`.
    Tokens,
    /// The token's embedding, `[batch, 1, width]`.
    Embedded,
    /// The token's position, int64 `[batch, 1]`.
    Position,
    /// Ones for all tokens so far, `[batch, tokens]`.
    Mask,
    /// Whether there is a cache: true.
    HasPast,
    /// A cache that every step appends to; the output of this name is its next value.
    Growing(String),
    /// A cache of another kind, which every step replaces.
    Replaced,
    /// Keys or values of cross-attention, or states, which are the same in all steps.
    Invariant,
    /// Ones for all states that are attended to, `[batch, states]`.
    Ones,
}

/// The inputs of a decoder's graph.
#[derive(Debug, Clone, Default)]
pub(crate) struct StepPorts {
    /// Each input of the graph, in its order.
    pub(crate) inputs: Vec<(String, StepPort)>,
    /// Embeds the tokens, if an input takes their embeddings.
    pub(crate) embed: Option<EmbedGraph>,
    /// How many positions there are, if that is limited.
    pub(crate) positions: Option<usize>,
}

/// The graph that embeds tokens.
#[derive(Debug, Clone)]
pub(crate) struct EmbedGraph {
    pub(crate) source: GraphSource,
    /// Its input for tokens.
    pub(crate) input: String,
    /// The output that the decoder takes.
    pub(crate) output: String,
}

/// A batch of rows for a probe run.
#[derive(Debug, Clone)]
pub(super) struct ProbeRows {
    /// How many tokens each row has in its cache; all the same in an exported graph.
    pub(super) lengths: Vec<usize>,
    /// Number of the first row: rows of the same number get the same values.
    pub(super) first: usize,
    /// How many encoder states there are, where the graph leaves that open.
    pub(super) attended: usize,
    /// The length of the caches; `None` if it is the rows' length.
    pub(super) cache: Option<usize>,
}

impl StepPorts {
    /// The names of the inputs that are fed as `wanted`.
    pub(super) fn of<'a>(&'a self, wanted: &'a StepPort) -> impl Iterator<Item = &'a str> {
        self.inputs.iter().filter(move |(_, port)| port == wanted).map(|(name, _)| name.as_str())
    }

    /// The names of the inputs that are the same in all steps.
    pub(crate) fn invariant(&self) -> Vec<&str> {
        let same = |(_, port): &&(String, StepPort)| matches!(port, StepPort::Invariant | StepPort::Ones);
        self.inputs.iter().filter(same).map(|(name, _)| name.as_str()).collect()
    }
}

/// The declaration of `name` among the inputs of `graph`.
pub(super) fn declared(graph: &GraphProto, name: &str) -> Result<Port, NotStatic> {
    let found = graph.input.iter().find(|input| input.name() == name).map(port);
    found.ok_or_else(|| NotStatic::because(format!("expected an input {name:?}, found none")))
}

impl ProbeRows {
    /// The value of the input `port`, which is fed as `kind`. `None` for embeddings.
    pub(super) fn value(&self, port: &Port, kind: &StepPort) -> Result<Option<Tensor>, OnnxError> {
        let (rows, longest) = (self.lengths.len(), self.lengths.iter().copied().max().unwrap_or(0));
        let shape = |dynamic: usize| -> Vec<usize> {
            let inner = (1..port.rank().unwrap_or(1)).map(|axis| port.fixed(axis).unwrap_or(dynamic));
            std::iter::once(rows).chain(inner).collect()
        };
        let tensor = match kind {
            StepPort::Tokens => Tensor::from_i64(&[rows, 1], self.tokens())?,
            StepPort::Embedded => return Ok(None),
            StepPort::Position => {
                Tensor::from_i64(&[rows, 1], self.lengths.iter().map(|&length| length as i64).collect())?
            }
            StepPort::Mask => Tensor::ones(port.dtype, &[rows, longest + 1])?,
            StepPort::HasPast => Tensor::from_bool(true)?,
            StepPort::Growing(_) => {
                let shape = shape(self.cache.unwrap_or(longest));
                Tensor::from_f32(port.dtype, &shape, self.cached(&shape, &port.name))?
            }
            StepPort::Ones => Tensor::ones(port.dtype, &shape(self.attended))?,
            StepPort::Invariant | StepPort::Replaced => {
                let shape = shape(self.attended);
                let each: usize = shape.iter().skip(1).product();
                let all = (0..rows).flat_map(|row| noise(self.seed(row, &port.name)).take(each));
                Tensor::from_f32(port.dtype, &shape, all.collect())?
            }
        };
        Ok(Some(tensor))
    }

    /// A token of each row.
    pub(super) fn tokens(&self) -> Vec<i64> {
        (0..self.lengths.len()).map(|row| 5 + 3 * (self.first + row) as i64).collect()
    }

    /// A cache `[rows, heads, length, width]`. What is behind a row's length is large, so that it is noticed.
    fn cached(&self, shape: &[usize], name: &str) -> Vec<f32> {
        let [_, heads, length, width] = *shape else { return vec![0.0; shape.iter().product()] };
        let mut data = Vec::with_capacity(shape.iter().product());
        for (row, &filled) in self.lengths.iter().enumerate() {
            for head in 0..heads {
                let known = filled.min(length) * width;
                data.extend(noise(self.seed(row, name) ^ (head as u32 + 1).wrapping_mul(0x85eb_ca6b)).take(known));
                data.extend(std::iter::repeat_n(30.0, length * width - known));
            }
        }
        data
    }

    fn seed(&self, row: usize, name: &str) -> u32 {
        let number = (self.first + row) as u32;
        name.bytes()
            .fold(number.wrapping_mul(0x9e37_79b9) | 1, |seed, byte| (seed ^ u32::from(byte)).wrapping_mul(0x0100_0193))
    }
}

/// Numbers between -1 and 1 without a pattern; the same for the same `seed`.
fn noise(seed: u32) -> impl Iterator<Item = f32> {
    let mut state = seed | 1;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    })
}

/// Whether floats of this type can be compared here.
pub(super) fn is_compared(dtype: DataType) -> bool {
    matches!(dtype, DataType::F32 | DataType::F16)
}
