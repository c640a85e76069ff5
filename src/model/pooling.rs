//! How the states of one image or text become one vector. Plain data; what pools is [`crate::engine`].

use serde::Serialize;

/// How the states of one image or text become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// The output is one vector already: `[batch, width]`, or that with axes of size 1 behind it.
    Vector,
    /// The first state, that of a class token.
    Cls,
    /// The mean of all states; of a text, of those that are no padding.
    Mean,
    /// The last state of a text that is no padding.
    Eos,
}

impl Pooling {
    /// The names that `nightcap.toml` knows.
    pub(super) const NAMES: [&'static str; 4] = ["none", "cls", "mean", "eos"];

    /// Its name in `nightcap.toml` and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vector => "none",
            Self::Cls => "cls",
            Self::Mean => "mean",
            Self::Eos => "eos",
        }
    }

    /// The pooling called `name`.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        [Self::Vector, Self::Cls, Self::Mean, Self::Eos].into_iter().find(|pooling| pooling.name() == name)
    }
}
