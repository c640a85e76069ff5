//! The roles a graph can play, and the file and tensor names that stand for them. Plain data.

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
    /// Image and text states to fused states and a fused embedding.
    Fusion,
    /// The first tokens to the next token's logits and the decoder's first states, where a graph of its own does that.
    Prefill,
    /// States and the tokens so far to the next token's logits.
    Decoder,
}

impl Role {
    /// Every role, in the order in which graphs run.
    pub const ALL: [Self; 5] = [Self::Vision, Self::Text, Self::Fusion, Self::Prefill, Self::Decoder];

    /// The name used in `nightcap.toml` and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vision => "vision",
            Self::Text => "text",
            Self::Fusion => "fusion",
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
            Self::Prefill => "decoder_model",
            Self::Decoder => "decoder_with_past_model",
        }
    }

    /// Whether its graph writes text, token by token.
    pub const fn writes(self) -> bool {
        matches!(self, Self::Prefill | Self::Decoder)
    }

    /// The output that holds this role's embedding, `[batch, width]`.
    pub const fn embedding_output(self) -> Option<&'static str> {
        match self {
            Self::Vision => Some("image_embeds"),
            Self::Text => Some("text_embeds"),
            Self::Fusion => Some("fused_embeds"),
            Self::Prefill | Self::Decoder => None,
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
