//! Every generation setting that transformers knows, and what becomes of it here: it is obeyed, refused, or has no effect. In: its name, its
//! value, how captions are searched for. A setting that is not in this table is told to the user by name. How the obeyed ones are obeyed is
//! decided where captions are generated.

use serde_json::Value;

/// How captions are searched for, as far as it decides which settings matter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Search {
    /// Whether the best of several sequences is searched for.
    pub beams: bool,
    /// Whether tokens are drawn at random.
    pub samples: bool,
    /// `top_k`, if it is set.
    pub top_k: f64,
    /// Whether the only input of the model is the image: there is no prompt with tokens that an encoder's penalties could look at.
    pub only_image: bool,
}

/// What becomes of a setting.
#[derive(Debug, Clone, Copy)]
pub enum Treatment {
    /// Captions are what transformers makes of it.
    Obeyed,
    /// With these values, captions would be other ones, or transformers raises an error; with all others it has no effect.
    Refused(fn(&Value, Search) -> bool),
    /// Captions do not depend on it, because of this.
    NoEffect(&'static str),
}

use Treatment::{NoEffect, Obeyed, Refused};

const SPEED: Treatment = NoEffect("changes only how fast transformers is, or how much memory it takes");
const OUTPUTS: Treatment = NoEffect("asks transformers for outputs beside the tokens");
const ASSISTANT: Treatment =
    NoEffect("changes only how fast transformers is: an assistant proposes tokens, the model decides");
/// The reason why settings have no effect that are not shown either.
pub(super) const METADATA: &str = "is about the file";
const ARGUMENT: Treatment = Refused(|_, _| true);
const IF_SET: Treatment = Refused(|value, _| !value.is_null());
const IF_TRUE: Treatment = Refused(|value, _| is_true(value));

/// The settings by name, with those that only transformers 5 has.
pub const GENERATION_SETTINGS: [(&str, Treatment); 86] = [
    ("decoder_start_token_id", Obeyed),
    ("bos_token_id", Obeyed),
    ("eos_token_id", Obeyed),
    ("pad_token_id", NoEffect("finished captions leave the batch and are not padded")),
    ("max_new_tokens", Obeyed),
    ("max_length", Obeyed),
    ("min_new_tokens", Obeyed),
    ("min_length", Obeyed),
    ("num_beams", Obeyed),
    ("do_sample", Obeyed),
    ("length_penalty", Obeyed),
    ("early_stopping", Obeyed),
    ("temperature", Obeyed),
    ("top_k", Obeyed),
    ("top_p", Obeyed),
    ("min_p", Obeyed),
    ("typical_p", Obeyed),
    ("epsilon_cutoff", Obeyed),
    ("eta_cutoff", Obeyed),
    ("top_h", Refused(|value, search| search.samples && !value.is_null())),
    ("repetition_penalty", Obeyed),
    ("no_repeat_ngram_size", Obeyed),
    ("encoder_repetition_penalty", Refused(|value, search| !search.only_image && !is(value, 1.0))),
    ("encoder_no_repeat_ngram_size", Refused(|value, search| !search.only_image && above(value, 0.0))),
    ("sequence_bias", Obeyed),
    ("bad_words_ids", Obeyed),
    ("suppress_tokens", Obeyed),
    ("begin_suppress_tokens", Obeyed),
    ("forced_bos_token_id", Obeyed),
    ("forced_eos_token_id", Obeyed),
    ("exponential_decay_length_penalty", Obeyed),
    ("renormalize_logits", Obeyed),
    ("stop_strings", Obeyed),
    ("guidance_scale", Refused(|value, _| !is(value, 1.0))),
    ("watermarking_config", IF_SET),
    ("max_time", IF_SET),
    ("num_return_sequences", Refused(|value, _| value.is_null() || !is(value, 1.0))),
    ("num_beam_groups", Refused(|value, search| search.beams && (value.is_null() || above(value, 1.0)))),
    ("diversity_penalty", NoEffect("only groups of beams have it")),
    ("constraints", IF_SET),
    ("force_words_ids", IF_SET),
    (
        "penalty_alpha",
        Refused(|value, search| !search.beams && !search.samples && search.top_k > 1.0 && above(value, 0.0)),
    ),
    ("dola_layers", Refused(|value, search| !search.beams && !value.is_null())),
    ("low_memory", Refused(|value, search| search.beams && is_true(value))),
    ("token_healing", IF_TRUE),
    ("is_assistant", IF_TRUE),
    ("cache_implementation", Refused(|value, _| !is_exact_cache(value))),
    ("remove_invalid_values", NoEffect("a row whose logits are not finite fails, and the others are not affected")),
    ("use_cache", SPEED),
    ("cache_config", SPEED),
    ("max_cache_len", SPEED),
    ("return_legacy_cache", SPEED),
    ("prefill_chunk_size", SPEED),
    ("compile_config", SPEED),
    ("disable_compile", SPEED),
    ("continuous_batching_config", SPEED),
    ("use_mtp", SPEED),
    ("prompt_lookup_num_tokens", ASSISTANT),
    ("max_matching_ngram_size", ASSISTANT),
    ("assistant_early_exit", ASSISTANT),
    ("num_assistant_tokens", ASSISTANT),
    ("num_assistant_tokens_schedule", ASSISTANT),
    ("assistant_confidence_threshold", ASSISTANT),
    ("assistant_lookbehind", ASSISTANT),
    ("target_lookbehind", ASSISTANT),
    ("assistant_ensemble_weight", ASSISTANT),
    ("speculation_type", ASSISTANT),
    ("output_attentions", OUTPUTS),
    ("output_hidden_states", OUTPUTS),
    ("output_scores", OUTPUTS),
    ("output_logits", OUTPUTS),
    ("return_dict_in_generate", OUTPUTS),
    ("transformers_version", NoEffect(METADATA)),
    ("_from_model_config", NoEffect(METADATA)),
    ("_commit_hash", NoEffect(METADATA)),
    ("_original_object_hash", NoEffect(METADATA)),
    ("logits_processor", ARGUMENT),
    ("stopping_criteria", ARGUMENT),
    ("prefix_allowed_tokens_fn", ARGUMENT),
    ("synced_gpus", ARGUMENT),
    ("assistant_model", ARGUMENT),
    ("streamer", ARGUMENT),
    ("negative_prompt_ids", ARGUMENT),
    ("negative_prompt_attention_mask", ARGUMENT),
    ("use_model_defaults", ARGUMENT),
    ("custom_generate", ARGUMENT),
];

/// What becomes of the setting `name`; `None` if transformers has none of this name, and it has no effect there either.
pub fn treatment(name: &str) -> Option<Treatment> {
    GENERATION_SETTINGS.iter().find(|(known, _)| *known == name).map(|(_, treatment)| *treatment)
}

/// Whether `value` is null or exactly `neutral`.
fn is(value: &Value, neutral: f64) -> bool {
    value.is_null() || value.as_f64().is_some_and(|value| value.total_cmp(&neutral).is_eq())
}

/// Whether `value` is above `neutral`, or no number at all.
fn above(value: &Value, neutral: f64) -> bool {
    !value.is_null() && value.as_f64().is_none_or(|value| value > neutral)
}

fn is_true(value: &Value) -> bool {
    !value.is_null() && value.as_bool() != Some(false) && value.as_f64() != Some(0.0)
}

/// Whether transformers has a cache of this name, and keeps what is put into it as it is (`ALL_CACHE_IMPLEMENTATIONS`).
fn is_exact_cache(value: &Value) -> bool {
    const EXACT: [&str; 10] = [
        "static",
        "offloaded_static",
        "sliding_window",
        "hybrid",
        "hybrid_chunked",
        "offloaded_hybrid",
        "offloaded_hybrid_chunked",
        "dynamic",
        "dynamic_full",
        "offloaded",
    ];
    value.is_null() || value.as_str().is_some_and(|name| EXACT.contains(&name))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::{GENERATION_SETTINGS, treatment};

    #[test]
    fn every_setting_of_transformers_is_in_the_table_once() {
        let goldens = include_str!("../../tests/goldens/generation_files.json");
        let goldens: Value = serde_json::from_str(goldens).unwrap();
        for version in ["fields", "fields_of_5"] {
            let names: Vec<_> = goldens[version].as_array().unwrap().iter().filter_map(Value::as_str).collect();
            assert!(!names.is_empty(), "{version}");
            let missing: Vec<_> = names.iter().filter(|name| treatment(name).is_none()).collect();
            assert!(missing.is_empty(), "{version}: {missing:?}");
        }
        let mut names: Vec<_> = GENERATION_SETTINGS.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), GENERATION_SETTINGS.len());
    }
}
