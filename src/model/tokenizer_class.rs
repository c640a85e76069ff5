//! The class with which transformers reads a tokenizer (`AutoTokenizer.from_pretrained`). In: `tokenizer_config.json`, `config.json`. Out: a
//! name. What a class does is not known here.

use serde_json::{Map, Value};

use super::class_defaults::{class_defaults, model_type};

/// The class of a tokenizer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenizerClass {
    /// Its name without `Tokenizer` and `TokenizerFast`; empty if no file names one, and the type of the model has none.
    pub name: String,
    /// Whether version 5 of transformers has saved the tokenizer.
    pub is_of_five: bool,
}

impl TokenizerClass {
    const KEY: &'static str = "tokenizer_class";

    /// Of the objects in `tokenizer_config.json` and `config.json`.
    pub(super) fn of(tokenizer: &Map<String, Value>, config: Option<&Map<String, Value>>) -> Self {
        let named = |object: &Map<String, Value>| object.get(Self::KEY).and_then(Value::as_str).map(str::to_owned);
        let of_model = || named(class_defaults(config.and_then(model_type)));
        let name = named(tokenizer).or_else(|| named(config?)).or_else(of_model).unwrap_or_default();
        Self {
            is_of_five: name == "TokenizersBackend" || tokenizer.contains_key("backend"),
            name: name.trim_end_matches("Fast").trim_end_matches("Tokenizer").to_owned(),
        }
    }
}
