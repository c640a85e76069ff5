//! What feeds every declared graph input. In: the graphs' declarations and the bindings of `nightcap.toml`. Out: a producer for every
//! input, checked for type and rank, or a problem that names the input and its file.

use std::collections::BTreeMap;

use super::error::Problem;
use super::graph_file::GraphFile;
use super::input_kind::takes_tokens;
use super::overrides::{Overrides, did_you_mean};
use super::producer::Producer;
use super::role::Role;
use crate::onnx::{DataType, Port};

/// What feeds each input, by role, in the order the graph declares its inputs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bindings {
    inputs: BTreeMap<Role, Vec<(String, Producer)>>,
    /// The vision output that replaces the embeddings of the prompt's image tokens, `[images, tokens, width]`.
    features: Option<String>,
}

impl Bindings {
    /// The inputs of `role`'s graph and what feeds them.
    pub fn of(&self, role: Role) -> &[(String, Producer)] {
        self.inputs.get(&role).map_or(&[], Vec::as_slice)
    }

    /// The inputs of the decoder's graph that are the same in all steps, the prefill included.
    pub fn invariant(&self) -> Vec<&str> {
        let inputs = self.of(Role::Decoder).iter();
        inputs
            .filter(|(_, producer)| matches!(producer, Producer::Output(..) | Producer::Ones(..)))
            .map(|(input, _)| input.as_str())
            .collect()
    }

    /// Whether any graph takes the output `output` of the graph of `role`.
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

    /// Whether the prompt holds the image: image features replace the embeddings of image tokens.
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

/// The vision output that replaces the embeddings of the prompt's image tokens, if there is a graph that embeds tokens.
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
            problems.push(Problem::new(&vision.file, what).with_hint(
                "with embed_tokens.onnx, these features replace the embeddings of the prompt's image tokens",
            ));
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
    let mask = port.dtype.is_integer() || port.dtype == DataType::Bool;
    match producer {
        Producer::Pixels if port.rank() == Some(4) && port.fixed(1) != Some(3) && port.fixed(3) == Some(3) => {
            Err(problem(format!("expected pixels [batch, 3, height, width], found channels last: {}", port.describe()))
                .with_hint("export the graph for channels first, as PyTorch has them"))
        }
        Producer::Pixels if port.rank() == Some(5) => expect("float32 or float16", port.dtype.is_float(), Some(5)),
        Producer::Pixels => expect("float32 or float16", port.dtype.is_float(), Some(4)),
        Producer::PixelMask => expect("bool", port.dtype == DataType::Bool, Some(4)),
        Producer::Tokens("attention_mask") if !role.generates() => {
            let fits = takes_tokens(port) || port.dtype == DataType::Bool || port.dtype.is_float();
            expect("int64, int32, bool or float", fits, Some(2))
        }
        Producer::Tokens(_) if !role.generates() => expect("int64 or int32", takes_tokens(port), Some(2)),
        Producer::Tokens(_) => expect("int64", port.dtype == DataType::I64, Some(2)),
        Producer::Step | Producer::Positions => expect("int64 or int32", port.dtype.is_integer(), Some(2)),
        Producer::StepMask => {
            let fits = port.dtype.is_integer() || port.dtype == DataType::Bool || port.dtype.is_float();
            expect("int64, int32, bool or float", fits, Some(2))
        }
        Producer::CachePosition => expect("int64 or int32", port.dtype.is_integer(), Some(1)),
        Producer::LogitsToKeep => {
            expect("int64 or int32", port.dtype.is_integer(), port.rank().filter(|rank| *rank > 1).map(|_| 1))
        }
        Producer::PromptMask | Producer::Ones(..) => expect("int64, int32 or bool", mask, Some(2)),
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
        Producer::HasPast => {
            let fits = port.dtype.is_integer() || port.dtype == DataType::Bool || port.dtype.is_float();
            expect("bool, int64, int32 or float", fits, Some(1))
        }
        Producer::Cache(name) | Producer::StaticCache(name) => check_state(graph, port, producer, name, graphs),
    }
}

/// Checks the type and rank of a cache entry against every output that feeds it, and that the graph declares the shape of an empty one.
fn check_state(
    graph: &GraphFile,
    port: &Port,
    producer: &Producer,
    name: &str,
    graphs: &BTreeMap<Role, GraphFile>,
) -> Result<(), Problem> {
    let problem = |what: String| Problem::new(&graph.file, format!("input {:?}: {what}", port.name));
    let first = graphs.get(&Role::Prefill);
    let later = matches!(producer, Producer::Cache(_)).then_some(graph);
    for source in [Some(first.unwrap_or(graph)), later].into_iter().flatten() {
        let Some(output) = source.header.output(name) else {
            return Err(problem(format!("it is fed by {producer}, but {} has no output {name:?}", source.file)).with_hint(
                "decoder_with_past_model.onnx needs the cache that decoder_model.onnx computes in the prefill; copy both files",
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
