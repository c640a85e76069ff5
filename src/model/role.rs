//! The roles that a graph can play, with their standard file and tensor names. Plain data.

use std::fmt;

use serde::Serialize;

/// What a graph does for nightcap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Pixels to image states and an image embedding.
    Vision,
    /// Tokens to text states and a text embedding.
    Text,
    /// Image and text states to fused states, a fused embedding, or how well image and text match.
    Fusion,
    /// Tokens to their embeddings, for the prompt and for the decoder.
    Embed,
    /// The embedded prompt, with image features in it, to the states that the decoder attends to.
    Encoder,
    /// The prompt's tokens to the next token's logits and the cache, if the prefill has a graph of its own.
    Prefill,
    /// The cache and the tokens of one step to the next token's logits.
    Decoder,
}

impl Role {
    /// Every role, in the order in which graphs run.
    pub const ALL: [Self; 7] =
        [Self::Vision, Self::Text, Self::Fusion, Self::Embed, Self::Encoder, Self::Prefill, Self::Decoder];

    /// The name used in `nightcap.toml` and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vision => "vision",
            Self::Text => "text",
            Self::Fusion => "fusion",
            Self::Embed => "embed",
            Self::Encoder => "encoder",
            Self::Prefill => "prefill",
            Self::Decoder => "decoder",
        }
    }

    /// The standard file name without precision suffix and `.onnx`. Some roles have other names too.
    pub const fn stem(self) -> &'static str {
        match self {
            Self::Vision => "vision_model",
            Self::Text => "text_model",
            Self::Fusion => "fusion",
            Self::Embed => "embed_tokens",
            Self::Encoder => "encoder_model",
            Self::Prefill => "decoder_model",
            Self::Decoder => "decoder_with_past_model",
        }
    }

    /// Whether its graph generates text, token by token.
    pub const fn generates(self) -> bool {
        matches!(self, Self::Prefill | Self::Decoder)
    }

    /// The outputs that can hold this role's embedding, `[batch, width]`, the usual one first.
    pub const fn embedding_outputs(self) -> &'static [&'static str] {
        match self {
            Self::Vision => &["image_embeds"],
            Self::Text => &["text_embeds"],
            Self::Fusion => &["fused_embeds", "multimodal_embeds"],
            Self::Embed | Self::Encoder | Self::Prefill | Self::Decoder => &[],
        }
    }

    /// The role called `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
