//! How many tokens a model can process in one sequence. In: the model directory, a tokenized prompt. Out: nothing, or why the prompt
//! is too long. Only what the model cannot run is refused: positions without an embedding, at which transformers warns and then
//! fails. Computed (rotary) positions have no limit.

use super::expand::TokenizedPrompt;
use crate::model::{ModelDirectory, Role, Sourced};

/// The numbers of positions of a model, where they are limited.
#[derive(Debug)]
pub(crate) struct PositionLimits {
    /// Of the encoder of prompts that hold the image, if there is one.
    encoder: Option<Sourced<usize>>,
    decoder: Option<Sourced<usize>>,
    /// Of a decoder without a cache that was exported for one length.
    exported: Option<Sourced<usize>>,
    /// Of the decoder's steps on a device, whose computed positions are in tables.
    device: Option<usize>,
}

/// A prompt that is too long.
#[derive(Debug)]
pub(crate) struct PromptTooLong {
    /// How long it is, and how long it may be.
    pub(crate) what: String,
    /// What to do about it.
    pub(crate) hint: String,
}

impl PositionLimits {
    pub(crate) fn of(directory: &ModelDirectory) -> Self {
        let encoder = directory.position_limit(&[Role::Encoder]);
        let decoder = directory.position_limit(&[Role::Prefill, Role::Decoder]);
        let exported = directory.uncached_tokens().map(|(file, value)| Sourced { value, source: file.to_owned() });
        Self { encoder, decoder, exported, device: None }
    }

    /// With `positions` of the decoder's steps on a device, if these are limited.
    pub(crate) fn on_device(self, positions: Option<usize>) -> Self {
        Self { device: positions, ..self }
    }

    /// Whether the model can process `prompt` and generate `max_new_tokens` after it.
    pub(crate) fn check(&self, prompt: &TokenizedPrompt, max_new_tokens: usize) -> Result<(), PromptTooLong> {
        let tokens = |count: usize| if count == 1 { "1 token".to_owned() } else { format!("{count} tokens") };
        let of_prompt = match prompt.image_tokens.len() {
            0 => tokens(prompt.ids.len()),
            features => format!("{}, {features} for the image among them", tokens(prompt.ids.len())),
        };
        if prompt.decoder_start.is_some()
            && let Some(Sourced { value, source }) = &self.encoder
            && prompt.ids.len() > *value
        {
            let what = format!("the prompt has {of_prompt}, but {source} gives the encoder {value} positions");
            return Err(PromptTooLong { what, hint: format!("shorten it by {}", tokens(prompt.ids.len() - value)) });
        }
        // the last generated token is not fed to the decoder
        let length = prompt.decoder_start.map_or(prompt.ids.len(), |_| 1);
        let fed = (length + max_new_tokens).saturating_sub(1);
        let of_device = self.device.map(|value| Sourced { value, source: "a step on a GPU".to_owned() });
        let limits = [&self.decoder, &self.exported, &of_device].into_iter().flatten();
        let Some(Sourced { value, source }) = limits.into_iter().find(|limit| fed > limit.value) else {
            return Ok(());
        };
        let prompt = prompt.decoder_start.map_or_else(|| format!("the prompt has {of_prompt} and "), |_| String::new());
        let what =
            format!("{prompt}max_new_tokens is {max_new_tokens}, but {source} gives the decoder {value} positions");
        let shorten = format!("shorten the prompt by {}", tokens(fed - value));
        let hint = match (value + 1).saturating_sub(length) {
            0 => shorten,
            most if length > fed - value => format!("{shorten}, or set max_new_tokens to at most {most}"),
            most => format!("set max_new_tokens to at most {most}"),
        };
        Err(PromptTooLong { what, hint })
    }
}
