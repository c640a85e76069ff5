//! Fingerprints: hashes of everything on which a caption or an embedding depends. In: a model directory, resolved settings. Out: 16
//! hexadecimal digits for the model, a dash, 16 for the settings, so that planning can say which of the two changed.
//!
//! A fingerprint changes when, and only when, results may: when a file or a setting does, or when one of the versions below is
//! raised. Names of Rust types, messages and serde do not matter. A setting at its neutral value is left out, so that a new setting
//! changes no fingerprint of jobs that do not use it.

use super::generate::settings::{BeamSettings, EarlyStopping, GenerationSettings, SampleSettings, Strategy};
use super::prompt::chat_template::ChatTemplate;
use super::prompt::expand::{ImagePrompt, ImageSlot, Prompt, TileTokens};
use super::prompt::format::{JobPrompt, PromptFormat, StartRule};
use crate::model::{ModelDirectory, ModelError, Role};
use crate::preprocess::PREPROCESSING_VERSION;
use crate::support::canonical::Canonical;

/// To be raised whenever the same prompt and image may be tokenized differently.
pub const PROMPT_VERSION: u32 = 3;
/// To be raised whenever the same text may give another embedding: tokenization, padding, pooling, normalisation.
pub const TEXT_VERSION: u32 = 3;
/// To be raised whenever the same logits may give another caption: search, sampling, processors, stopping, detokenization.
pub const GENERATION_VERSION: u32 = 3;

/// The fingerprint of captions that `model` generates with `settings`. With `jpeg_scaling`, the scale at which a JPEG is decoded also
/// depends on `embedder`, the model of the embeddings if it is another one.
///
/// # Errors
/// When a file of a model cannot be read.
pub fn caption_fingerprint(
    model: &ModelDirectory,
    settings: &GenerationSettings,
    jpeg_scaling: bool,
    embedder: Option<&ModelDirectory>,
) -> Result<String, ModelError> {
    let mut canonical = Canonical::default();
    canonical.integer("prompt_version", PROMPT_VERSION.into());
    canonical.integer("generation_version", GENERATION_VERSION.into());
    if model.uses_side_text() {
        canonical.integer("text_version", TEXT_VERSION.into());
    }
    encode_preprocessing(model, jpeg_scaling, &mut canonical);
    if let Some(embedder) = embedder.filter(|_| jpeg_scaling)
        && let Some(hash) = embedder.preprocessor_hash()?
    {
        canonical.bytes("embedder_preprocessing", hash.as_bytes());
    }
    encode_generation(settings, &mut canonical);
    Ok(join(&model.caption_model_hash()?, &canonical))
}

/// The fingerprint of the embeddings of `model`, stored as float16 if `half_precision`, else as float32. It is the same for images and
/// texts, because they are compared with each other.
///
/// # Errors
/// When a file of the model cannot be read.
pub fn embedding_fingerprint(
    model: &ModelDirectory,
    half_precision: bool,
    jpeg_scaling: bool,
) -> Result<String, ModelError> {
    let mut canonical = Canonical::default();
    if model.graph(Role::Text).is_some() || model.fuses_tokens() {
        canonical.integer("text_version", TEXT_VERSION.into());
    }
    encode_preprocessing(model, jpeg_scaling, &mut canonical);
    canonical.text("dtype", if half_precision { "float16" } else { "float32" });
    Ok(join(&model.embedding_model_hash()?, &canonical))
}

fn join(model: &str, settings: &Canonical) -> String {
    format!("{model}-{}", &settings.hash().to_hex()[..16])
}

/// The image preprocessing; its settings are among the files of the model.
fn encode_preprocessing(model: &ModelDirectory, jpeg_scaling: bool, to: &mut Canonical) {
    if model.preprocessor().is_some() {
        to.integer("preprocessing_version", PREPROCESSING_VERSION.into());
        if jpeg_scaling {
            to.flag("jpeg_scaling", true);
        }
    }
}

fn encode_generation(settings: &GenerationSettings, to: &mut Canonical) {
    let GenerationSettings {
        strategy,
        max_new_tokens,
        min_new_tokens,
        eos_token_ids,
        prompt,
        stop,
        repetition_penalty,
        no_repeat_ngram_size,
        bad_words_ids,
        suppress_tokens,
        begin_suppress_tokens,
        forced_bos_token_id,
        forced_eos_token_ids,
        max_length,
        min_length,
        sequence_bias,
        exponential_decay_length_penalty,
        renormalize_logits,
    } = settings;
    encode_strategy(strategy, to);
    to.integer("max_new_tokens", *max_new_tokens as i128);
    if *min_new_tokens > 0 {
        to.integer("min_new_tokens", *min_new_tokens as i128);
    }
    if let Some(length) = max_length {
        to.integer("max_length", *length as i128);
    }
    if *min_length > 0 {
        to.integer("min_length", *min_length as i128);
    }
    to.group("prompt", |to| encode_job_prompt(prompt, to));
    for (tokens, bias) in sequence_bias {
        to.group("sequence_bias", |to| {
            to.integers("tokens", tokens);
            to.float("bias", *bias);
        });
    }
    if let Some((start, factor)) = exponential_decay_length_penalty {
        to.group("exponential_decay_length_penalty", |to| {
            to.integer("start", (*start).into());
            to.float("factor", *factor);
        });
    }
    if *renormalize_logits {
        to.flag("renormalize_logits", true);
    }
    if !stop.is_empty() {
        to.texts("stop", stop);
    }
    if repetition_penalty.to_bits() != 1f64.to_bits() {
        to.float("repetition_penalty", *repetition_penalty);
    }
    if *no_repeat_ngram_size > 0 {
        to.integer("no_repeat_ngram_size", *no_repeat_ngram_size as i128);
    }
    for words in bad_words_ids {
        to.integers("bad_words_ids", words);
    }
    for (name, tokens) in [
        ("eos_token_ids", eos_token_ids),
        ("suppress_tokens", suppress_tokens),
        ("begin_suppress_tokens", begin_suppress_tokens),
        ("forced_eos_token_ids", forced_eos_token_ids),
    ] {
        if !tokens.is_empty() {
            to.integers(name, tokens);
        }
    }
    if let Some(token) = forced_bos_token_id {
        to.integer("forced_bos_token_id", (*token).into());
    }
}

fn encode_strategy(strategy: &Strategy, to: &mut Canonical) {
    match strategy {
        Strategy::Greedy => to.text("strategy", "greedy"),
        Strategy::Beam(BeamSettings { num_beams, length_penalty, early_stopping }) => to.group("beam", |to| {
            to.integer("num_beams", *num_beams as i128);
            to.float("length_penalty", *length_penalty);
            let early_stopping = match early_stopping {
                EarlyStopping::False => "false",
                EarlyStopping::True => "true",
                EarlyStopping::Never => "never",
            };
            to.text("early_stopping", early_stopping);
        }),
        Strategy::Sample(sampling) => to.group("sample", |to| {
            let SampleSettings { temperature, top_k, top_p, min_p, typical_p, epsilon_cutoff, eta_cutoff, seed } =
                sampling;
            to.float("temperature", *temperature);
            to.integer("top_k", *top_k as i128);
            to.float("top_p", *top_p);
            if let Some(min_p) = min_p {
                to.float("min_p", *min_p);
            }
            for (name, value, neutral) in [
                ("typical_p", typical_p, 1f64),
                ("epsilon_cutoff", epsilon_cutoff, 0.0),
                ("eta_cutoff", eta_cutoff, 0.0),
            ] {
                if value.to_bits() != neutral.to_bits() {
                    to.float(name, *value);
                }
            }
            to.integer("seed", (*seed).into());
        }),
    }
}

fn encode_job_prompt(prompt: &JobPrompt, to: &mut Canonical) {
    match prompt {
        JobPrompt::Fixed(prompt) => encode_prompt(prompt, to),
        JobPrompt::Dated { question, format } => {
            to.text("question", question);
            to.group("form", |to| encode_prompt_format(format, to));
        }
        JobPrompt::Template { template, format } => {
            to.text("template", template);
            to.group("form", |to| encode_prompt_format(format, to));
        }
    }
}

fn encode_prompt(prompt: &Prompt, to: &mut Canonical) {
    match prompt {
        Prompt::Tokens(tokens) => to.integers("tokens", tokens),
        Prompt::Image(ImagePrompt { text, adds_special_tokens, image, start }) => {
            to.text("text", text);
            to.flag("adds_special_tokens", *adds_special_tokens);
            match image {
                ImageSlot::First => to.text("image", "first"),
                ImageSlot::Token { id, name, tile_tokens } => to.group("image_token", |to| {
                    to.integer("id", (*id).into());
                    to.text("name", name);
                    if let Some(TileTokens { around_image, global_image }) = tile_tokens {
                        to.text("border", around_image);
                        to.text("whole", global_image);
                    }
                }),
            }
            encode_start(*start, to);
        }
    }
}

fn encode_prompt_format(format: &PromptFormat, to: &mut Canonical) {
    match format {
        PromptFormat::Plain { start, rule } => {
            match rule {
                StartRule::Always => {}
                StartRule::UnlessThere => to.flag("start_unless_there", true),
                StartRule::Never => to.flag("start_with_prompt", false),
            }
            encode_start(*start, to);
        }
        PromptFormat::Prefix { image: (id, name), bos } => {
            to.integer("image_token_id", (*id).into());
            to.text("image_token", name);
            to.text("bos_token", bos);
        }
        PromptFormat::Task { before, after, start } => {
            to.text("before", before);
            to.text("after", after);
            encode_start(*start, to);
        }
        PromptFormat::Chat { template, image: (id, name), tile_tokens, bos, start } => {
            if let Some(ChatTemplate { text, variables, .. }) = template {
                to.text("chat_template", text);
                for (name, value) in variables {
                    match value {
                        Ok(token) => to.text(name, token),
                        Err(tokens) => to.texts(name, tokens),
                    }
                }
            }
            to.integer("image_token_id", (*id).into());
            to.text("image_token", name);
            to.flag("tile_tokens", *tile_tokens);
            if let Some(bos) = bos {
                to.text("begins", bos);
            }
            encode_start(*start, to);
        }
    }
}

fn encode_start(start: Option<i64>, to: &mut Canonical) {
    if let Some(token) = start {
        to.integer("start", token.into());
    }
}
