//! What feeds every declared graph input. In: the graphs' declarations and `nightcap.toml`'s bindings. Out: a producer
//! of fitting type and rank for every input, or a problem that names the input and its file.

use std::collections::BTreeMap;
use std::fmt;

use super::directory::GraphFile;
use super::error::Problem;
use super::first_step::{is_kept, present};
use super::overrides::{Overrides, did_you_mean};
use super::role::Role;
use crate::onnx::{DataType, Port};

/// What feeds a graph input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Producer {
    /// The preprocessed images, `[batch, 3, height, width]` float; `[batch, tiles, 3, height, width]` if they are cut up.
    Pixels,
    /// Which pixels are there, `[batch, tiles, height, width]` bool: all of them.
    PixelMask,
    /// A field of the tokenized texts, `[batch, text length]` int64: `input_ids`, `attention_mask` or `token_type_ids`.
    Tokens(&'static str),
    /// An output of another graph.
    Output(Role, String),
    /// Ones, `[batch, states]`: all states in an output of another graph are there to attend to.
    Ones(Role, String),
    /// The prompt as vectors, with the image's features in the places of its image tokens, `[batch, prompt, width]`.
    Prompt,
    /// Ones, `[batch, prompt]`.
    PromptMask,
    /// The tokens of this decoding step, `[batch, tokens]` int64.
    Step,
    /// An output of another graph that is run over the tokens of this step, `[batch, tokens, width]`; if the prompt holds the
    /// image, the first step's is the prompt as vectors.
    StepOutput(Role, String),
    /// The positions of this step's tokens, `[batch, tokens]` int64.
    Positions,
    /// Ones, `[batch, tokens so far]`.
    StepMask,
    /// The output of this name in the step before: of the prefill graph, then of the decoder itself. Where the
    /// decoder does the first step, it is zeros then, of size 0 along an axis that grows.
    State(String),
    /// The output of this name in the first step, for all steps after it.
    Kept(String),
    /// Whether there is a step before, bool `[1]`, for a graph that does the first step by another branch.
    HasPast,
}

const TOKEN_FIELDS: [&str; 3] = ["input_ids", "attention_mask", "token_type_ids"];

impl Producer {
    pub(super) const HAS_PAST: &'static str = "use_cache_branch";
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
            (Role::Vision, "pixel_attention_mask") => Some(Self::PixelMask),
            (Role::Encoder, "inputs_embeds") => Some(Self::Prompt),
            (Role::Encoder, "attention_mask") => Some(Self::PromptMask),
            (Role::Text, name) => TOKEN_FIELDS.into_iter().find(|known| *known == name).map(Self::Tokens),
            (Role::Fusion, "image_hidden_states" | "encoder_hidden_states") => {
                output(Role::Vision, "last_hidden_state")
            }
            (Role::Fusion, "text_hidden_states") => output(Role::Text, "last_hidden_state"),
            (Role::Fusion, "text_attention_mask") => Some(Self::Tokens("attention_mask")),
            (Role::Fusion, "encoder_attention_mask") => Some(Self::Ones(Role::Vision, "last_hidden_state".to_owned())),
            (Role::Fusion, name) => TOKEN_FIELDS.into_iter().find(|known| *known == name).map(Self::Tokens),
            (Role::Embed | Role::Prefill | Role::Decoder, "input_ids") => Some(Self::Step),
            (Role::Prefill | Role::Decoder, "inputs_embeds") => {
                Some(Self::StepOutput(Role::Embed, "inputs_embeds".to_owned()))
            }
            (Role::Prefill | Role::Decoder, "token_embeds") => {
                Some(Self::StepOutput(Role::Text, "token_embeds".to_owned()))
            }
            (Role::Prefill | Role::Decoder, "position_ids") => Some(Self::Positions),
            (Role::Prefill | Role::Decoder, "attention_mask") => Some(Self::StepMask),
            (Role::Prefill | Role::Decoder, "encoder_attention_mask") => {
                match Self::standard(Role::Prefill, "encoder_hidden_states", graphs)? {
                    Self::Output(role, output) => Some(Self::Ones(role, output)),
                    _ => None,
                }
            }
            (Role::Decoder, Self::HAS_PAST) => Some(Self::HasPast),
            (Role::Prefill | Role::Decoder, name) => match present(name).filter(|_| role == Role::Decoder) {
                Some(output) if is_kept(&output, graphs) => Some(Self::Kept(output)),
                Some(output) => Some(Self::State(output)),
                None if gives(Role::Fusion) => output(Role::Fusion, name),
                None if gives(Role::Vision) => output(Role::Vision, name),
                None if name != "encoder_hidden_states" => None,
                None if graphs.contains_key(&Role::Encoder) => output(Role::Encoder, "last_hidden_state"),
                None if graphs.get(&Role::Fusion).is_some_and(|fusion| !reads_tokens(fusion)) => {
                    output(Role::Fusion, name)
                }
                None => output(Role::Vision, "last_hidden_state"),
            },
            _ => None,
        }
    }

    /// Whether the engine can give this to a graph of `role`.
    fn reaches(&self, role: Role) -> bool {
        match self {
            Self::Pixels | Self::PixelMask => role == Role::Vision,
            Self::Tokens(_) => matches!(role, Role::Text | Role::Fusion),
            Self::Output(Role::Vision, _) | Self::Ones(Role::Vision, _) => role == Role::Fusion || role.writes(),
            Self::Output(Role::Text, _) => role == Role::Fusion,
            Self::Output(Role::Fusion | Role::Encoder, _) | Self::Ones(Role::Encoder | Role::Fusion, _) => {
                role.writes()
            }
            Self::Prompt | Self::PromptMask => role == Role::Encoder,
            Self::Step => role.writes() || role == Role::Embed,
            Self::StepOutput(Role::Embed | Role::Text, _) | Self::Positions | Self::StepMask => role.writes(),
            Self::State(_) | Self::Kept(_) | Self::HasPast => role == Role::Decoder,
            Self::Output(..) | Self::Ones(..) | Self::StepOutput(..) => false,
        }
    }
}

/// Whether a fusion graph reads the text itself, instead of the text graph's states.
pub(super) fn reads_tokens(fusion: &GraphFile) -> bool {
    fusion.header.input("input_ids").is_some()
}

impl fmt::Display for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pixels => f.write_str("pixel_values"),
            Self::PixelMask => f.write_str("true for every pixel"),
            Self::Tokens(field) => write!(f, "tokens.{field}"),
            Self::Output(role, output) => write!(f, "{role}.{output}"),
            Self::Ones(role, output) => write!(f, "1 for every state of {role}.{output}"),
            Self::Prompt => f.write_str("the embedded prompt with the image features in it"),
            Self::PromptMask => f.write_str("1 for every token of the prompt"),
            Self::Step => f.write_str("step.input_ids"),
            Self::StepOutput(role, output) => write!(f, "{role}.{output} of step.input_ids"),
            Self::Positions => f.write_str("step.position_ids"),
            Self::StepMask => f.write_str("1 for every token so far"),
            Self::State(output) => write!(f, "{output} of the step before"),
            Self::Kept(output) => write!(f, "{output} of the first step"),
            Self::HasPast => f.write_str("false in the first step, then true"),
        }
    }
}

/// What feeds each input, by role, in the order the graph declares its inputs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bindings {
    inputs: BTreeMap<Role, Vec<(String, Producer)>>,
    /// The vision output that takes the places of the prompt's image tokens, `[images, tokens, width]`.
    features: Option<String>,
}

impl Bindings {
    /// The inputs of `role`'s graph and what feeds them.
    pub fn of(&self, role: Role) -> &[(String, Producer)] {
        self.inputs.get(&role).map_or(&[], Vec::as_slice)
    }

    /// The inputs of the decoder's graph that stay the same over all steps, from the first on.
    pub fn invariant(&self) -> Vec<&str> {
        let inputs = self.of(Role::Decoder).iter();
        inputs
            .filter(|(_, producer)| matches!(producer, Producer::Output(..) | Producer::Ones(..)))
            .map(|(input, _)| input.as_str())
            .collect()
    }

    /// Whether any graph takes output `output` of `role`.
    pub fn takes(&self, role: Role, output: &str) -> bool {
        let fed = self.inputs.values().flatten().any(|(_, producer)| match producer {
            Producer::Output(r, o) | Producer::StepOutput(r, o) => *r == role && o == output,
            _ => false,
        });
        fed || (role == Role::Vision && self.features.as_deref() == Some(output))
    }

    /// The vision output that other graphs take; at most one.
    pub fn vision_states(&self) -> Option<&str> {
        let fed = self.inputs.values().flatten().find_map(|(_, producer)| match producer {
            Producer::Output(Role::Vision, output) => Some(output.as_str()),
            _ => None,
        });
        fed.or(self.features.as_deref())
    }

    /// Whether the image stands in the prompt, as features in the places of image tokens.
    pub fn prompt_holds_image(&self) -> bool {
        self.features.is_some()
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
                    problems.push(problem.with_hint(did_you_mean(input, &known)));
                }
                Some(_) => {}
            }
        }
        let mut bindings = Self { features: features(graphs, problems), ..Self::default() };
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
            bindings.inputs.insert(role, bound);
        }
        bindings
    }
}

/// The vision output that takes the places of the prompt's image tokens, if there is a graph that embeds tokens.
fn features(graphs: &BTreeMap<Role, GraphFile>, problems: &mut Vec<Problem>) -> Option<String> {
    const NAME: &str = "image_features";
    graphs.get(&Role::Embed)?;
    let vision = graphs.get(&Role::Vision)?;
    match vision.header.output(NAME) {
        Some(port) if port.dtype.is_float() && port.rank().is_none_or(|rank| rank == 3) => Some(NAME.to_owned()),
        other => {
            let outputs: Vec<_> = vision.header.outputs.iter().map(|port| port.name.as_str()).collect();
            let found = other.map_or_else(|| outputs.join(", "), |port| format!("{NAME} as {}", port.describe()));
            let what = format!("expected an output {NAME:?}, float [images, tokens, width]; found {found}");
            problems.push(
                Problem::new(&vision.file, what)
                    .with_hint("tokens are embedded apart from the decoder so that the image's can stand among them"),
            );
            None
        }
    }
}

fn nothing_feeds(role: Role, graph: &GraphFile, port: &Port) -> Problem {
    let input = format!("input {:?} ({})", port.name, port.describe());
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
    let mask = matches!(port.dtype, DataType::I64 | DataType::Bool);
    match producer {
        Producer::Pixels if port.rank() == Some(5) => expect("float32 or float16", port.dtype.is_float(), Some(5)),
        Producer::Pixels => expect("float32 or float16", port.dtype.is_float(), Some(4)),
        Producer::PixelMask => expect("bool", port.dtype == DataType::Bool, Some(4)),
        Producer::Tokens(_) | Producer::Step | Producer::Positions => {
            expect("int64", port.dtype == DataType::I64, Some(2))
        }
        Producer::StepMask | Producer::PromptMask | Producer::Ones(..) => expect("int64 or bool", mask, Some(2)),
        Producer::Prompt => expect("float32 or float16", port.dtype.is_float(), Some(3)),
        Producer::Output(from, name) | Producer::StepOutput(from, name) => {
            let Some(source) = graphs.get(from) else {
                return Err(problem(format!("it is fed by {producer}, but there is no {from} graph")).with_hint(
                    format!("add {}.onnx, or bind the input to another output in {}", from.stem(), Overrides::FILE),
                ));
            };
            let Some(output) = source.header.output(name) else {
                let known: Vec<_> = source.header.outputs.iter().map(|port| &port.name).collect();
                return Err(problem(format!("it is fed by {producer}, but {} has no output {name:?}", source.file))
                    .with_hint(did_you_mean(name, &known)));
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
