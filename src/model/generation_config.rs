//! Which file a generation setting comes from. In: `config.json`, `generation_config.json`. Out: the settings of transformers'
//! `GenerationConfig` for this directory, each with its source. What a setting means is not known here.
//!
//! As in transformers, `config.json` counts only if there is no `generation_config.json`, or if that file says that it was derived from
//! `config.json` and the settings there are no longer those of its class (`GenerationMixin._prepare_generation_config`).

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::class_defaults::{class_defaults, model_type};

pub(super) const CONFIG: &str = "config.json";
pub(super) const GENERATION: &str = "generation_config.json";
/// Sections of `config.json` with settings of the text decoder; the first that is there counts (`PretrainedConfig.get_text_config`).
pub(super) const SECTIONS: [&str; 3] = ["decoder", "generator", "text_config"];
/// The entry of `generation_config.json` that says that it was derived from `config.json`.
const DERIVED: &str = "_from_model_config";
/// BLIP generates with its text decoder, whose settings are those of `text_config`.
const BLIP: &str = "blip";

/// A setting and the file that it came from, or the class whose default it is.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct GenerationSetting {
    pub(super) value: Value,
    pub(super) source: String,
}

/// Settings by name. A null of a file is kept: it is not the same as no setting.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct GenerationConfig {
    settings: BTreeMap<String, GenerationSetting>,
    /// Whether they are all those of `generation_config.json`.
    own_file: bool,
}

impl GenerationConfig {
    /// The settings of a directory with these two files.
    pub(super) fn of(config: Option<&Map<String, Value>>, generation: Option<&Map<String, Value>>) -> Self {
        let derived = generation.is_some_and(|file| file.get(DERIVED) == Some(&Value::Bool(true)));
        let changed = config.filter(|config| derived && is_changed(config));
        match (generation, changed) {
            (Some(file), None) => {
                let source = |value: &Value| GenerationSetting { value: value.clone(), source: GENERATION.into() };
                let settings = file.iter().map(|(name, value)| (name.clone(), source(value))).collect();
                Self { settings, own_file: true }
            }
            _ => Self { settings: config.map(of_model).unwrap_or_default(), own_file: false },
        }
    }

    /// The setting `name`, a null included.
    pub(super) fn get(&self, name: &str) -> Option<&GenerationSetting> {
        self.settings.get(name)
    }

    /// The names of the settings; only those of a `generation_config.json` have to be settings of generation.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.settings.keys().filter(|_| self.own_file).map(String::as_str)
    }
}

/// The settings of a model without `generation_config.json`.
fn of_model(config: &Map<String, Value>) -> BTreeMap<String, GenerationSetting> {
    let text = Some("text_config").filter(|_| model_type(config) == Some(BLIP));
    let Some(section) = text.and_then(|_| config.get("text_config")?.as_object()) else {
        return from_model_config(config);
    };
    let mut settings = layer(section, model_type(section).or(Some("blip_text_model")), "config.json (text_config)");
    settings.retain(|_, found| !found.value.is_null());
    // BlipForConditionalGeneration.generate
    for (name, instead) in [("eos_token_id", "sep_token_id"), ("decoder_start_token_id", "bos_token_id")] {
        if let Some(found) = settings.get(instead).cloned() {
            settings.insert(name.into(), found);
        }
    }
    settings
}

/// `GenerationConfig.from_model_config`: the top level, where it is neither null nor the default of all models; else the decoder's section.
fn from_model_config(config: &Map<String, Value>) -> BTreeMap<String, GenerationSetting> {
    let mut settings = layer(config, model_type(config), CONFIG);
    settings.retain(|_, found| !found.value.is_null());
    let Some((name, section, kind)) = decoder_section(config) else { return settings };
    for (setting, found) in layer(section, kind, &format!("{CONFIG} ({name})")) {
        if settings.get(&setting).is_none_or(|top| is_default(&setting, &top.value)) {
            settings.insert(setting, found);
        }
    }
    settings
}

/// `object` over the defaults of its class.
fn layer(object: &Map<String, Value>, kind: Option<&str>, source: &str) -> BTreeMap<String, GenerationSetting> {
    let of_class = kind.map_or(String::new(), |kind| format!("transformers' default for {kind}"));
    let defaults = class_defaults(kind).iter().map(|(name, value)| (name, value, of_class.as_str()));
    let own = object.iter().map(|(name, value)| (name, value, source));
    let sourced = |value: &Value, source: &str| GenerationSetting { value: value.clone(), source: source.to_owned() };
    defaults.chain(own).map(|(name, value, source)| (name.clone(), sourced(value, source))).collect()
}

/// The section of the text decoder with its name and `model_type`; one that is left out has the class that its model's has by default.
fn decoder_section(config: &Map<String, Value>) -> Option<(&'static str, &Map<String, Value>, Option<&str>)> {
    let defaults = class_defaults(model_type(config));
    SECTIONS.into_iter().find_map(|name| {
        let default = defaults.get(name).and_then(Value::as_object);
        let section = config.get(name).and_then(Value::as_object).or(default)?;
        Some((name, section, model_type(section).or_else(|| default.and_then(model_type))))
    })
}

/// Whether the top level of `config` has settings that differ from its class (`_get_non_default_generation_parameters`); a model that is
/// made of two is compared with the class of its decoder.
fn is_changed(config: &Map<String, Value>) -> bool {
    let section = decoder_section(config).filter(|_| model_type(config) == Some("vision-encoder-decoder"));
    let class = class_defaults(section.map_or_else(|| model_type(config), |(.., kind)| kind));
    GLOBAL_DEFAULTS.iter().any(|name| match config.get(*name) {
        None | Some(Value::Null) => false,
        Some(value) => class.get(*name).map_or_else(|| !is_default(name, value), |default| default != value),
    })
}

/// `PretrainedConfig._get_global_generation_defaults`
const GLOBAL_DEFAULTS: [&str; 25] = [
    "max_length",
    "min_length",
    "do_sample",
    "early_stopping",
    "num_beams",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
    "repetition_penalty",
    "length_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "bad_words_ids",
    "num_return_sequences",
    "output_scores",
    "return_dict_in_generate",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "remove_invalid_values",
    "exponential_decay_length_penalty",
    "suppress_tokens",
    "begin_suppress_tokens",
    "num_beam_groups",
    "diversity_penalty",
];

/// Whether `value` is the default of `name` in transformers' `GenerationConfig`.
fn is_default(name: &str, value: &Value) -> bool {
    let number = |default: f64| value.as_f64().is_some_and(|value| value.total_cmp(&default).is_eq());
    match name {
        "max_length" | "num_assistant_tokens" => number(20.0),
        "top_k" => number(50.0),
        "assistant_lookbehind" | "target_lookbehind" => number(10.0),
        "num_beams"
        | "repetition_penalty"
        | "length_penalty"
        | "temperature"
        | "top_p"
        | "typical_p"
        | "encoder_repetition_penalty"
        | "num_return_sequences"
        | "num_beam_groups" => number(1.0),
        "min_length"
        | "no_repeat_ngram_size"
        | "encoder_no_repeat_ngram_size"
        | "epsilon_cutoff"
        | "eta_cutoff"
        | "diversity_penalty" => number(0.0),
        "do_sample"
        | "early_stopping"
        | "renormalize_logits"
        | "remove_invalid_values"
        | "token_healing"
        | "output_scores"
        | "output_attentions"
        | "output_hidden_states"
        | "return_dict_in_generate" => *value == Value::Bool(false),
        "use_cache" => *value == Value::Bool(true),
        _ => value.is_null(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value};

    use super::{from_model_config, is_default};

    #[test]
    fn a_saved_configuration_has_the_settings_that_its_class_gives_it() {
        let goldens = include_str!("../../tests/goldens/generation_files.json");
        let goldens: Value = serde_json::from_str(goldens).unwrap();
        let configs = goldens["configs"].as_array().unwrap();
        assert_eq!(configs.len(), 22);
        for golden in configs {
            let config: Map<String, Value> = serde_json::from_value(golden["config"].clone()).unwrap();
            let settings = from_model_config(&config);
            for name in goldens["fields"].as_array().unwrap().iter().filter_map(Value::as_str) {
                let found = settings.get(name).map_or(&Value::Null, |found| &found.value);
                let expected = &golden["settings"][name];
                let equal = found == expected || (expected.is_null() && is_default(name, found));
                assert!(equal || name == "use_cache", "{config:?}: {name}: expected {expected}, found {found}");
            }
        }
    }
}
