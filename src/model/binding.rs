//! What feeds every declared graph input. In: the graphs' declarations and `nightcap.toml`'s bindings. Out: a producer
//! of fitting type and rank for every input, or a problem that names the input and its file.

use std::collections::BTreeMap;
use std::fmt;

use super::directory::GraphFile;
use super::error::Problem;
use super::overrides::{Overrides, nearest};
use super::role::Role;
use crate::onnx::{DataType, Port};

/// What feeds a graph input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Producer {
    /// The preprocessed images, `[batch, 3, height, width]` float.
    Pixels,
    /// A field of the tokenized texts, `[batch, text length]` int64: `input_ids`, `attention_mask` or `token_type_ids`.
    Tokens(&'static str),
    /// An output of another graph.
    Output(Role, String),
    /// The tokens of this decoding step, `[batch, tokens]` int64.
    Step,
    /// The output of this name in the step before: of the prefill graph, then of the decoder itself. Without a prefill
    /// graph it is zeros in the first step, of size 0 along an axis that grows.
    State(String),
    /// The output of this name in the first step, for all steps after it.
    Kept(String),
    /// Whether there is a step before, bool `[1]`, for a graph that does the first step by another branch.
    HasPast,
}

const TOKEN_FIELDS: [&str; 3] = ["input_ids", "attention_mask", "token_type_ids"];

impl Producer {
    const HAS_PAST: &'static str = "use_cache_branch";
    pub(super) const GRAMMAR: &'static str = "pixel_values, tokens.input_ids, tokens.attention_mask, tokens.token_type_ids, step.input_ids, and ROLE.OUTPUT with \
         one of the roles vision, text, fusion";

    /// Understands the notation of `nightcap.toml`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text.split_once('.') {
            None => (text == "pixel_values").then_some(Self::Pixels),
            Some(("tokens", field)) => TOKEN_FIELDS.into_iter().find(|known| *known == field).map(Self::Tokens),
            Some(("step", field)) => (field == "input_ids").then_some(Self::Step),
            Some((role, output)) => Some(Self::Output(Role::from_name(role)?, output.to_owned())),
        }
    }

    /// The producer that `input`'s name stands for in a graph of `role`. A decoder input that has the name of an output of
    /// the fusion graph (or of the vision graph) takes it, so that what stays the same over all decoding steps, such as the
    /// keys and values of cross-attention, can be computed there once.
    fn standard(role: Role, input: &str, graphs: &BTreeMap<Role, GraphFile>) -> Option<Self> {
        let output = |role, name: &str| Some(Self::Output(role, name.to_owned()));
        let gives = |role| graphs.get(&role).is_some_and(|graph: &GraphFile| graph.header.output(input).is_some());
        match (role, input) {
            (Role::Vision, "pixel_values") => Some(Self::Pixels),
            (Role::Text, name) => TOKEN_FIELDS.into_iter().find(|known| *known == name).map(Self::Tokens),
            (Role::Fusion, "image_hidden_states") => output(Role::Vision, "last_hidden_state"),
            (Role::Fusion, "text_hidden_states") => output(Role::Text, "last_hidden_state"),
            (Role::Fusion, "text_attention_mask") => Some(Self::Tokens("attention_mask")),
            (Role::Prefill | Role::Decoder, "input_ids") => Some(Self::Step),
            (Role::Decoder, Self::HAS_PAST) => Some(Self::HasPast),
            (Role::Prefill | Role::Decoder, name) => match present(name).filter(|_| role == Role::Decoder) {
                Some(output) if is_kept(&output, graphs) => Some(Self::Kept(output)),
                Some(output) => Some(Self::State(output)),
                None if gives(Role::Fusion) => output(Role::Fusion, name),
                None if gives(Role::Vision) => output(Role::Vision, name),
                None if name != "encoder_hidden_states" => None,
                None if graphs.contains_key(&Role::Fusion) => output(Role::Fusion, name),
                None => output(Role::Vision, "last_hidden_state"),
            },
            _ => None,
        }
    }

    /// Whether the engine can give this to a graph of `role`.
    fn reaches(&self, role: Role) -> bool {
        match self {
            Self::Pixels => role == Role::Vision,
            Self::Tokens(field) => role == Role::Text || (role == Role::Fusion && *field == "attention_mask"),
            Self::Output(Role::Vision, _) => role == Role::Fusion || role.writes(),
            Self::Output(Role::Text, _) => role == Role::Fusion,
            Self::Output(Role::Fusion, _) | Self::Step => role.writes(),
            Self::State(_) | Self::Kept(_) | Self::HasPast => role == Role::Decoder,
            Self::Output(Role::Prefill | Role::Decoder, _) => false,
        }
    }
}

/// The output that a decoder input continues: `present.X` for `past_key_values.X`, and `present_X` for the `past_X` of
/// recurrent states.
fn present(input: &str) -> Option<String> {
    match input.strip_prefix("past_key_values.") {
        Some(rest) => Some(format!("present.{rest}")),
        None => input.strip_prefix("past_").map(|rest| format!("present_{rest}")),
    }
}

/// Whether state `output` stays what the first step made of it. Keys and values of cross-attention do: a decoder of its own
/// for later steps does not give them again, and one that branches gives them with a batch of 0.
fn is_kept(output: &str, graphs: &BTreeMap<Role, GraphFile>) -> bool {
    let Some(decoder) = graphs.get(&Role::Decoder) else { return false };
    let cross = output.contains(".encoder.");
    match graphs.get(&Role::Prefill) {
        Some(_) => cross || decoder.header.output(output).is_none(),
        None => cross && decoder.header.input(Producer::HAS_PAST).is_some(),
    }
}

impl fmt::Display for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pixels => f.write_str("pixel_values"),
            Self::Tokens(field) => write!(f, "tokens.{field}"),
            Self::Output(role, output) => write!(f, "{role}.{output}"),
            Self::Step => f.write_str("step.input_ids"),
            Self::State(output) => write!(f, "{output} of the step before"),
            Self::Kept(output) => write!(f, "{output} of the first step"),
            Self::HasPast => f.write_str("false in the first step, then true"),
        }
    }
}

/// What feeds each input, by role, in the order the graph declares its inputs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bindings(BTreeMap<Role, Vec<(String, Producer)>>);

impl Bindings {
    /// The inputs of `role`'s graph and what feeds them.
    pub fn of(&self, role: Role) -> &[(String, Producer)] {
        self.0.get(&role).map_or(&[], Vec::as_slice)
    }

    /// Whether any graph takes output `output` of `role`.
    pub fn takes(&self, role: Role, output: &str) -> bool {
        self.0
            .values()
            .flatten()
            .any(|(_, producer)| matches!(producer, Producer::Output(r, o) if *r == role && o == output))
    }

    /// The vision output that other graphs take; at most one.
    pub fn vision_states(&self) -> Option<&str> {
        self.0.values().flatten().find_map(|(_, producer)| match producer {
            Producer::Output(Role::Vision, output) => Some(output.as_str()),
            _ => None,
        })
    }

    /// Finds a producer for every input of `graphs`.
    pub(super) fn resolve(
        graphs: &BTreeMap<Role, GraphFile>,
        overrides: &Overrides,
        problems: &mut Vec<Problem>,
    ) -> Self {
        for (role, input) in overrides.bind.keys() {
            let key = format!("bind.\"{role}.{input}\"");
            match graphs.get(role) {
                None => problems.push(Problem::new(Overrides::FILE, format!("{key}: there is no {role} graph"))),
                Some(graph) if graph.header.input(input).is_none() => {
                    let known: Vec<_> = graph.header.inputs.iter().map(|port| &port.name).collect();
                    let problem =
                        Problem::new(Overrides::FILE, format!("{key}: {} has no input {input:?}", graph.file));
                    problems.push(problem.with_hint(nearest(input, &known)));
                }
                Some(_) => {}
            }
        }
        let mut bindings = Self::default();
        for (&role, graph) in graphs {
            let mut bound = Vec::new();
            for port in &graph.header.inputs {
                let named = overrides.bind.get(&(role, port.name.clone())).cloned();
                let producer = named.or_else(|| Producer::standard(role, &port.name, graphs));
                let checked = match producer {
                    None => Err(nothing_feeds(role, graph, port)),
                    Some(producer) => check(role, graph, port, &producer, graphs).map(|()| producer),
                };
                match checked {
                    Ok(producer) => bound.push((port.name.clone(), producer)),
                    Err(problem) => problems.push(problem),
                }
            }
            bindings.0.insert(role, bound);
        }
        bindings
    }
}

fn nothing_feeds(role: Role, graph: &GraphFile, port: &Port) -> Problem {
    const NOT_YET: [&str; 4] = ["position_ids", "attention_mask", "encoder_attention_mask", "inputs_embeds"];
    let input = format!("input {:?} ({})", port.name, port.describe());
    if role.writes() && NOT_YET.contains(&port.name.as_str()) {
        return Problem::new(&graph.file, format!("{input} of a decoder is not supported yet"))
            .with_hint("export the decoder without it");
    }
    Problem::new(&graph.file, format!("nothing feeds {input}")).with_hint(format!(
        "bind it in {}: [bind] \"{role}.{}\" = \"ROLE.OUTPUT\"",
        Overrides::FILE,
        port.name
    ))
}

fn check(
    role: Role,
    graph: &GraphFile,
    port: &Port,
    producer: &Producer,
    graphs: &BTreeMap<Role, GraphFile>,
) -> Result<(), Problem> {
    let problem = |what: String| Problem::new(&graph.file, format!("input {:?}: {what}", port.name));
    if !producer.reaches(role) {
        return Err(problem(format!("{producer} cannot feed a {role} graph")));
    }
    let expect = |dtypes: &str, fits: bool, rank: Option<usize>| {
        if fits && (rank.is_none() || port.rank().is_none() || rank == port.rank()) {
            return Ok(());
        }
        let rank = rank.map_or(String::new(), |rank| format!(" with {rank} axes"));
        Err(problem(format!("{producer} gives {dtypes}{rank}, but the graph declares {}", port.describe())))
    };
    match producer {
        Producer::Pixels => expect("float32 or float16", port.dtype.is_float(), Some(4)),
        Producer::Tokens(_) | Producer::Step => expect("int64", port.dtype == DataType::I64, Some(2)),
        Producer::Output(from, name) => {
            let Some(source) = graphs.get(from) else {
                return Err(problem(format!("it is fed by {producer}, but there is no {from} graph")).with_hint(
                    format!("add {}.onnx, or bind the input to another output in {}", from.stem(), Overrides::FILE),
                ));
            };
            let Some(output) = source.header.output(name) else {
                let known: Vec<_> = source.header.outputs.iter().map(|port| &port.name).collect();
                return Err(problem(format!("it is fed by {producer}, but {} has no output {name:?}", source.file))
                    .with_hint(nearest(name, &known)));
            };
            expect(&output.dtype.to_string(), output.dtype.is_float() && port.dtype.is_float(), output.rank())
        }
        Producer::HasPast => expect("bool", port.dtype == DataType::Bool, Some(1)),
        Producer::State(name) | Producer::Kept(name) => check_state(graph, port, producer, name, graphs),
    }
}

/// Checks a state against every output that it is taken from, and that its zeros can be made.
fn check_state(
    graph: &GraphFile,
    port: &Port,
    producer: &Producer,
    name: &str,
    graphs: &BTreeMap<Role, GraphFile>,
) -> Result<(), Problem> {
    let problem = |what: String| Problem::new(&graph.file, format!("input {:?}: {what}", port.name));
    let first = graphs.get(&Role::Prefill);
    let later = matches!(producer, Producer::State(_)).then_some(graph);
    for source in [Some(first.unwrap_or(graph)), later].into_iter().flatten() {
        let Some(output) = source.header.output(name) else {
            return Err(problem(format!("it is fed by {producer}, but {} has no output {name:?}", source.file)).with_hint(
                "states of the first step come from decoder_model.onnx beside decoder_with_past_model.onnx; copy both",
            ));
        };
        let ranks = port.rank().is_none() || output.rank().is_none() || port.rank() == output.rank();
        if !port.dtype.is_float() || output.dtype != port.dtype || !ranks {
            let (from, to) = (output.describe(), port.describe());
            return Err(problem(format!("{} gives {from}, but the graph declares {to}", source.file)));
        }
    }
    let grows = port.name.starts_with("past_key_values.");
    let sizes_known = match &port.shape {
        Some(dims) if grows => dims.len() == 4 && port.fixed(1).is_some() && port.fixed(3).is_some(),
        Some(dims) => dims.len() > 1 && (1..dims.len()).all(|axis| port.fixed(axis).is_some()),
        None => false,
    };
    if first.is_some() || sizes_known {
        return Ok(());
    }
    let (expected, axes) = if grows {
        ("[batch, heads, past, head width] with numbers for heads and head width", "batch and past axes")
    } else {
        ("numbers for every axis but the first", "batch axis")
    };
    Err(problem(format!("expected {expected}, found {}", port.describe()))
        .with_hint(format!("export the decoder with only the {axes} dynamic")))
}
