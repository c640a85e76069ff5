//! Generation settings. Plain data; names and meanings are those of transformers' `GenerationConfig`
//! (<https://huggingface.co/docs/transformers/main_classes/text_generation>). Where each value comes
//! from is decided in [`resolve`](super::resolve).

use serde::Serialize;

use crate::engine::prompt::format::JobPrompt;

/// The generation settings of a job; `None` where the model directory's setting applies.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct GenerationOverrides {
    /// Overrides the files' `num_beams` and `do_sample`.
    pub strategy: Option<StrategyName>,
    /// The most tokens a caption may have, end token included.
    pub max_new_tokens: Option<usize>,
    /// The fewest tokens before the end token.
    pub min_new_tokens: Option<usize>,
    /// The number of beams.
    pub num_beams: Option<usize>,
    /// A beam's score is its log-probability divided by its length to this power.
    pub length_penalty: Option<f64>,
    /// When beam search ends.
    pub early_stopping: Option<EarlyStopping>,
    /// Logits are divided by it before sampling.
    pub temperature: Option<f64>,
    /// Sampling draws from this many of the most likely tokens; 0: from all.
    pub top_k: Option<usize>,
    /// Sampling draws from the most likely tokens that together have this probability.
    pub top_p: Option<f64>,
    /// Sampling draws from tokens whose probability is at least this fraction of the highest.
    pub min_p: Option<f64>,
    /// Scores of tokens that occurred are divided by it, or multiplied if negative.
    pub repetition_penalty: Option<f64>,
    /// No sequence of this many tokens occurs twice; 0: any may.
    pub no_repeat_ngram_size: Option<usize>,
    /// Texts that end a caption.
    pub stop: Option<Vec<String>>,
    /// The seed of sampling.
    pub seed: Option<u64>,
    /// The prompt, or a template that is rendered for every row.
    pub prompt: Option<String>,
}

impl GenerationOverrides {
    /// The prompt, if it is a template (Jinja) that is rendered with the columns of every row.
    #[must_use]
    pub fn prompt_template(&self) -> Option<&str> {
        self.prompt.as_deref().filter(|prompt| prompt.contains("{{") || prompt.contains("{%"))
    }
}

/// The names of strategies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StrategyName {
    /// The most likely token at every step.
    Greedy,
    /// Beam search: the best of several sequences that are extended together.
    Beam,
    /// Tokens drawn at random by their probability.
    Sample,
}

impl StrategyName {
    /// Every name as it is written in a job.
    pub const NAMES: [(&'static str, Self); 3] =
        [("greedy", Self::Greedy), ("beam", Self::Beam), ("sample", Self::Sample)];

    /// The name as it is written in a job.
    pub fn as_str(self) -> &'static str {
        Self::NAMES.iter().find(|(_, strategy)| *strategy == self).map_or("", |(name, _)| name)
    }
}

/// When beam search ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EarlyStopping {
    /// Once no running caption is likely to become better than the finished ones.
    False,
    /// Once as many captions as beams are finished.
    True,
    /// Once no running caption can become better than the finished ones.
    Never,
}

/// How captions are generated.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationSettings {
    /// How the next token is selected.
    pub strategy: Strategy,
    /// The most tokens a caption has, end token included.
    pub max_new_tokens: usize,
    /// The fewest tokens before the end token is allowed.
    pub min_new_tokens: usize,
    /// The most tokens a caption and its prompt have together, if prompts have several lengths; `max_new_tokens` counts too.
    pub max_length: Option<usize>,
    /// The fewest tokens that a caption and its prompt have together before the end token is allowed, if prompts have several lengths.
    pub min_length: usize,
    /// The tokens that end a caption; empty if captions end by length only.
    pub eos_token_ids: Vec<i64>,
    /// What the decoder processes before the caption; not a part of it.
    pub prompt: JobPrompt,
    /// Texts that end a caption.
    pub stop: Vec<String>,
    /// 1 changes nothing.
    pub repetition_penalty: f64,
    /// 0 changes nothing.
    pub no_repeat_ngram_size: usize,
    /// Sequences of tokens that never occur.
    pub bad_words_ids: Vec<Vec<i64>>,
    /// Tokens that never occur.
    pub suppress_tokens: Vec<i64>,
    /// Tokens that are never the first.
    pub begin_suppress_tokens: Vec<i64>,
    /// The first token, whatever the logits are.
    pub forced_bos_token_id: Option<i64>,
    /// One of these is the last token of a caption that reaches `max_new_tokens`.
    pub forced_eos_token_ids: Vec<i64>,
    /// What is added to the score of the last token of a sequence, if the others precede it.
    pub sequence_bias: Vec<(Vec<i64>, f64)>,
    /// After so many tokens, the score of the end token grows with every token by a power of this factor.
    pub exponential_decay_length_penalty: Option<(i64, f64)>,
    /// Whether the processed scores of beams are made log-probabilities again.
    pub renormalize_logits: bool,
}

/// How the next token is selected.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Strategy {
    /// The highest score, the lowest id among equals.
    Greedy,
    /// See [`BeamSettings`].
    Beam(BeamSettings),
    /// See [`SampleSettings`].
    Sample(SampleSettings),
}

impl Strategy {
    /// How many sequences are followed for a caption.
    pub(crate) fn beams(&self) -> usize {
        match self {
            Self::Beam(beams) => beams.num_beams.max(1),
            Self::Greedy | Self::Sample(_) => 1,
        }
    }
}

/// Beam search; fields as in [`GenerationOverrides`].
#[allow(missing_docs, reason = "documented where a job gives them")]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BeamSettings {
    pub num_beams: usize,
    pub length_penalty: f64,
    pub early_stopping: EarlyStopping,
}

/// Sampling; fields as in [`GenerationOverrides`].
#[allow(missing_docs, reason = "documented where a job gives them")]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SampleSettings {
    pub temperature: f64,
    pub top_k: usize,
    pub top_p: f64,
    pub min_p: Option<f64>,
    /// Tokens whose surprise is closest to the expected one, until they have this probability together; 1: all.
    pub typical_p: f64,
    /// Tokens that are at least as likely as this; 0: all.
    pub epsilon_cutoff: f64,
    /// The same, with a lower limit where many tokens are likely; 0: all.
    pub eta_cutoff: f64,
    pub seed: u64,
}

impl Default for SampleSettings {
    /// Draws from all tokens.
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: None,
            typical_p: 1.0,
            epsilon_cutoff: 0.0,
            eta_cutoff: 0.0,
            seed: 0,
        }
    }
}

impl SampleSettings {
    /// Whether tokens are filtered by more than `top_k`, `top_p` and `min_p`.
    pub(crate) fn filters_by_entropy(&self) -> bool {
        self.typical_p < 1.0 || self.epsilon_cutoff > 0.0 || self.eta_cutoff > 0.0
    }
}

impl GenerationSettings {
    /// The most tokens of a caption whose prompt has `prompt` tokens.
    pub(crate) fn most_new(&self, prompt: usize) -> usize {
        self.max_length.map_or(self.max_new_tokens, |length| length.saturating_sub(prompt).min(self.max_new_tokens))
    }

    /// The fewest tokens of a caption whose prompt has `prompt` tokens.
    pub(crate) fn fewest_new(&self, prompt: usize) -> usize {
        self.min_length.saturating_sub(prompt).max(self.min_new_tokens)
    }

    /// Whether equal images with equal texts get equal captions whatever their keys are.
    pub fn is_deterministic(&self) -> bool {
        !matches!(self.strategy, Strategy::Sample(_))
    }
}

/// The most tokens of a caption.
pub(super) const MOST_NEW_TOKENS: usize = 1 << 16;

/// The range of the setting `name`, if `value` is not in it. Ranges are the same in jobs and in a model's files.
pub fn out_of_range(name: &str, value: f64) -> Option<&'static str> {
    let whole = value.fract().abs() < f64::EPSILON;
    let (fits, expected) = match name {
        "num_beams" => (whole && (1.0..=64.0).contains(&value), "1 to 64"),
        // they are used as float32
        "temperature" | "repetition_penalty" => {
            let value = value as f32;
            (value.is_normal() && value > 0.0 && value.recip().is_finite(), "a number above 0")
        }
        "top_p" => (value > 0.0 && value <= 1.0, "a number above 0, at most 1"),
        "typical_p" => (value > 0.0, "a number above 0"),
        "min_p" => ((0.0..=1.0).contains(&value), "0 to 1"),
        "length_penalty" | "epsilon_cutoff" | "eta_cutoff" => (value.is_finite(), "a finite number"),
        "top_k" | "no_repeat_ngram_size" => (whole && value >= 0.0, "a whole number, 0 or more"),
        _ => (true, ""),
    };
    (!fits).then_some(expected)
}
