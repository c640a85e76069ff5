//! What can feed a graph input. In: an input's name and its graph's role, or the notation of `nightcap.toml`. Out: a [`Producer`]. Whether it fits the input is checked in [`super::binding`].

use std::collections::BTreeMap;
use std::fmt;

use super::cache_names::{HAS_PAST, is_static_cache, present};
use super::graph_file::GraphFile;
use super::input_kind::{takes_pixels, takes_tokens};
use super::role::Role;
use crate::onnx::Port;

/// What feeds a graph input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Producer {
    /// The preprocessed images, `[batch, 3, height, width]` float; `[batch, tiles, 3, height, width]` if they are split into tiles.
    Pixels,
    /// A mask of the pixels that are not padding, `[batch, tiles, height, width]` bool: true for all of them.
    PixelMask,
    /// A field of the tokenized texts, `[batch, text length]` int64: `input_ids`, `attention_mask` or `token_type_ids`.
    Tokens(&'static str),
    /// An output of another graph.
    Output(Role, String),
    /// A mask of ones, `[batch, states]`: every state in an output of another graph is attended to.
    Ones(Role, String),
    /// The embeddings of the prompt's tokens, `[batch, prompt, width]`; those of image tokens are replaced by image features.
    Prompt,
    /// A mask of ones, `[batch, prompt]`.
    PromptMask,
    /// The tokens of this decoding step, `[batch, tokens]` int64.
    Step,
    /// An output of another graph that is run on the tokens of this step, `[batch, tokens, width]`. If the prompt holds the image, the
    /// prefill gets [`Prompt`](Self::Prompt) instead.
    StepOutput(Role, String),
    /// The positions of this step's tokens, `[batch, tokens]` int64.
    Positions,
    /// A mask, `[batch, tokens so far]`: ones, and zeros for padding.
    StepMask,
    /// A cache entry: the output of this name in the previous step, which the prefill graph or the decoder has run. If the decoder
    /// also runs the prefill, it gets zeros there, with size 0 along an axis that grows.
    Cache(String),
    /// A static cache entry: the output of this name in the prefill, the same for all later steps.
    StaticCache(String),
    /// Whether there is a cache, bool `[1]`, for a graph with a branch of its own for the prefill.
    HasPast,
    /// How many of the step's last tokens the graph gives logits for, a number or `[1]`: 1.
    LogitsToKeep,
    /// The indexes of this step's tokens in the cache, `[tokens]`.
    CachePosition,
}

const TOKEN_FIELDS: [&str; 3] = ["input_ids", "attention_mask", "token_type_ids"];

impl Producer {
    pub(super) const GRAMMAR: &'static str = "pixel_values, tokens.input_ids, tokens.attention_mask, tokens.token_type_ids, step.input_ids, and ROLE.OUTPUT with \
         one of the roles vision, text, fusion";

    /// Parses the notation of `nightcap.toml`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text.split_once('.') {
            None => (text == "pixel_values").then_some(Self::Pixels),
            Some(("tokens", field)) => TOKEN_FIELDS.into_iter().find(|known| *known == field).map(Self::Tokens),
            Some(("step", field)) => (field == "input_ids").then_some(Self::Step),
            Some((role, output)) => Some(Self::Output(Role::from_name(role)?, output.to_owned())),
        }
    }

    /// The producer of the input called `input` of a graph of `role`, if its name is a standard one. A decoder input with the name of an output of the fusion graph
    /// (or of the vision graph) takes that output, so that values that are the same in all decoding steps, such as the keys and values
    /// of cross-attention, can be computed there once.
    pub(super) fn standard(role: Role, input: &str, graphs: &BTreeMap<Role, GraphFile>) -> Option<Self> {
        let output = |role, name: &str| Some(Self::Output(role, name.to_owned()));
        let gives = |role| graphs.get(&role).is_some_and(|graph: &GraphFile| graph.header.output(input).is_some());
        match (role, input) {
            (Role::Vision, "pixel_values") => Some(Self::Pixels),
            (Role::Vision, "pixel_attention_mask") => Some(Self::PixelMask),
            (Role::Vision, name) => only(graphs.get(&role)?, takes_pixels, name).then_some(Self::Pixels),
            (Role::Encoder, "inputs_embeds") => Some(Self::Prompt),
            (Role::Encoder, "attention_mask") => Some(Self::PromptMask),
            (Role::Text, name) if TOKEN_FIELDS.contains(&name) => {
                TOKEN_FIELDS.into_iter().find(|known| *known == name).map(Self::Tokens)
            }
            (Role::Text, name) => {
                let is_ids = |port: &Port| takes_tokens(port) && !TOKEN_FIELDS.contains(&port.name.as_str());
                let graph = graphs.get(&role).filter(|graph| !reads_tokens(graph))?;
                only(graph, is_ids, name).then_some(Self::Tokens(TOKEN_FIELDS[0]))
            }
            (Role::Fusion, "image_hidden_states" | "encoder_hidden_states") => {
                output(Role::Vision, "last_hidden_state")
            }
            (Role::Fusion, "text_hidden_states") => output(Role::Text, "last_hidden_state"),
            (Role::Fusion, "text_attention_mask") => Some(Self::Tokens("attention_mask")),
            (Role::Fusion, "encoder_attention_mask") => Some(Self::Ones(Role::Vision, "last_hidden_state".to_owned())),
            (Role::Fusion, name) => TOKEN_FIELDS.into_iter().find(|known| *known == name).map(Self::Tokens),
            (Role::Embed | Role::Prefill | Role::Decoder, "input_ids")
            | (Role::Prefill | Role::Decoder, "decoder_input_ids") => Some(Self::Step),
            (Role::Prefill | Role::Decoder, "inputs_embeds") => {
                Some(Self::StepOutput(Role::Embed, "inputs_embeds".to_owned()))
            }
            (Role::Prefill | Role::Decoder, "token_embeds") => {
                Some(Self::StepOutput(Role::Text, "token_embeds".to_owned()))
            }
            (Role::Prefill | Role::Decoder, "position_ids") => Some(Self::Positions),
            (Role::Prefill | Role::Decoder, "attention_mask" | "decoder_attention_mask") => Some(Self::StepMask),
            (Role::Prefill | Role::Decoder, "num_logits_to_keep" | "logits_to_keep") => Some(Self::LogitsToKeep),
            (Role::Prefill | Role::Decoder, "cache_position") => Some(Self::CachePosition),
            (Role::Prefill | Role::Decoder, "encoder_attention_mask") => {
                match Self::standard(Role::Prefill, "encoder_hidden_states", graphs)? {
                    Self::Output(role, output) => Some(Self::Ones(role, output)),
                    _ => None,
                }
            }
            (Role::Decoder, HAS_PAST) => Some(Self::HasPast),
            (Role::Prefill | Role::Decoder, name) => match present(name).filter(|_| role == Role::Decoder) {
                Some(output) if is_static_cache(&output, graphs) => Some(Self::StaticCache(output)),
                Some(output) => Some(Self::Cache(output)),
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

    /// Whether the engine can feed this to a graph of `role`.
    pub(super) fn reaches(&self, role: Role) -> bool {
        match self {
            Self::Pixels | Self::PixelMask => role == Role::Vision,
            Self::Tokens(_) => matches!(role, Role::Text | Role::Fusion),
            Self::Output(Role::Vision, _) | Self::Ones(Role::Vision, _) => role == Role::Fusion || role.generates(),
            Self::Output(Role::Text, _) => role == Role::Fusion,
            Self::Output(Role::Fusion | Role::Encoder, _) | Self::Ones(Role::Encoder | Role::Fusion, _) => {
                role.generates()
            }
            Self::Prompt | Self::PromptMask => role == Role::Encoder,
            Self::Step => role.generates() || role == Role::Embed,
            Self::StepOutput(Role::Embed | Role::Text, _)
            | Self::Positions
            | Self::StepMask
            | Self::LogitsToKeep
            | Self::CachePosition => role.generates(),
            Self::Cache(_) | Self::StaticCache(_) | Self::HasPast => role == Role::Decoder,
            Self::Output(..) | Self::Ones(..) | Self::StepOutput(..) => false,
        }
    }
}

/// Whether `name` is the only input of `graph` that fits. Then it needs no usual name.
fn only(graph: &GraphFile, fits: impl Fn(&Port) -> bool, name: &str) -> bool {
    let mut inputs = graph.header.inputs.iter().filter(|port| fits(port));
    inputs.next().is_some_and(|port| port.name == name) && inputs.next().is_none()
}

/// Whether a fusion graph takes tokens instead of the text graph's states.
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
            Self::Cache(output) => write!(f, "{output} of the previous step"),
            Self::StaticCache(output) => write!(f, "{output} of the prefill"),
            Self::HasPast => f.write_str("false in the prefill, then true"),
            Self::LogitsToKeep => f.write_str("1: only the logits of the last token are used"),
            Self::CachePosition => f.write_str("the indexes of the step's tokens in the cache"),
        }
    }
}
