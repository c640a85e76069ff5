//! The special tokens of a tokenizer, as transformers finds them. In: the files beside `tokenizer.json`. Out: tokens with names such as
//! `bos_token`, tokens without, and tokens to add to those of `tokenizer.json`. What a token does is not known here.
//!
//! `tokenizer_config.json` counts first. Without `added_tokens_decoder` in it, `special_tokens_map.json` and `added_tokens.json` count, too
//! (`PreTrainedTokenizerBase._from_pretrained`). A class of tokenizers has names of its own where the files give none.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::tokenizer_class::TokenizerClass;

/// A token as transformers' `AddedToken` describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a choice of its own")]
pub struct TokenDescription {
    /// The token.
    pub content: String,
    /// Whether it is no part of a word.
    pub single_word: bool,
    /// Whether it takes the spaces before it.
    pub lstrip: bool,
    /// Whether it takes the spaces after it.
    pub rstrip: bool,
    /// Whether it is looked for in the normalized text; not said: if it is not special.
    pub normalized: Option<bool>,
    /// Whether it is left out of decoded text.
    pub special: bool,
}

/// The special tokens of a tokenizer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    named: Vec<(String, TokenDescription)>,
    additional: Vec<TokenDescription>,
    /// Whether templates see the additional ones: in version 5 of transformers they do not.
    additional_is_named: bool,
    added: BTreeMap<u32, TokenDescription>,
    /// Whether the tokens of `tokenizer.json` count as tokens to add, too: `tokenizer_config.json` has none.
    adds_known: bool,
    class: TokenizerClass,
}

/// The names of special tokens that every tokenizer of transformers has.
const NAMES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
const ADDITIONAL: &str = "additional_special_tokens";
const EXTRA: &str = "extra_special_tokens";

impl SpecialTokens {
    /// Of the objects in `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`; an empty one is a file that is not there.
    /// `class` is the tokenizer's.
    pub(super) fn of(
        class: TokenizerClass,
        config: &Map<String, Value>,
        map: &Map<String, Value>,
        added_tokens: &Map<String, Value>,
    ) -> Self {
        let mut settings = config.clone();
        let mut added = BTreeMap::new();
        let fifth = class.is_of_five;
        let decoder = config.get("added_tokens_decoder").and_then(Value::as_object);
        let adds_known = decoder.is_none();
        if let Some(decoder) = decoder {
            let read = |(id, token): (&String, &Value)| Some((id.parse().ok()?, description(token, false)?));
            added.extend(decoder.iter().filter_map(read));
        } else {
            for (name, value) in map {
                let value = match (settings.get(name), value) {
                    (Some(Value::Array(known)), Value::Array(more)) if name == ADDITIONAL || name == EXTRA => {
                        let new = more.iter().filter(|token| !known.contains(token)).cloned();
                        Value::Array(known.iter().cloned().chain(new).collect())
                    }
                    _ => value.clone(),
                };
                settings.insert(name.clone(), value);
            }
        }
        let mut named: Vec<(String, TokenDescription)> = Vec::new();
        let defaults = class_defaults(&class.name);
        for (name, default) in NAMES.into_iter().zip(defaults) {
            let token = match settings.get(name) {
                Some(value) => description(value, true),
                None if default.is_empty() => None,
                None => description(&default.into(), true),
            };
            named.extend(token.map(|token| (name.to_owned(), token)));
        }
        let list = |name: &str| {
            let tokens = settings.get(name).and_then(Value::as_array).into_iter().flatten();
            tokens.filter_map(|token| description(token, true)).collect::<Vec<_>>()
        };
        let additional = match list(ADDITIONAL) {
            tokens if tokens.is_empty() || fifth => [list(EXTRA), tokens].concat(),
            tokens => tokens,
        };
        for object in
            [EXTRA, "model_specific_special_tokens"].iter().filter_map(|name| settings.get(*name)?.as_object())
        {
            for (name, token) in object {
                named.extend(description(token, true).map(|token| (name.clone(), token)));
            }
        }
        if fifth {
            let others =
                settings.iter().filter(|(name, _)| name.ends_with("_token") && !NAMES.contains(&name.as_str()));
            for (name, token) in others {
                if !named.iter().any(|(known, _)| known == name) {
                    named.extend(description(token, true).map(|token| (name.clone(), token)));
                }
            }
        }
        let special = |content: &str| {
            let all = named.iter().map(|(_, token)| token).chain(&additional);
            all.into_iter().any(|token| token.content == content)
        };
        if adds_known {
            for (content, id) in added_tokens {
                let (special, content) = (special(content), content.clone());
                let token = TokenDescription { content, special, ..TokenDescription::default() };
                added.extend(id.as_u64().and_then(|id| u32::try_from(id).ok()).map(|id| (id, token)));
            }
        }
        let additional_is_named = !fifth && !additional.is_empty();
        Self { named, additional, additional_is_named, added, adds_known, class }
    }

    /// The special token that is called `name`, such as `bos_token`.
    pub fn named(&self, name: &str) -> Option<&str> {
        self.named.iter().find(|(known, _)| known == name).map(|(_, token)| token.content.as_str())
    }

    /// The class of the tokenizer.
    pub fn class(&self) -> &TokenizerClass {
        &self.class
    }

    /// Whether the class of the tokenizer pads before a text where no file says the side.
    pub fn class_pads_left(&self) -> bool {
        matches!(self.class.name.as_str(), "Gemma" | "Llama" | "CodeLlama" | "Cohere" | "XLNet")
    }

    /// What a chat template sees, by name: one token, or a list of them.
    pub fn variables(&self) -> Vec<(String, Result<String, Vec<String>>)> {
        let named = self.named.iter().filter(|(_, token)| !token.content.is_empty());
        let one = named.map(|(name, token)| (name.clone(), Ok(token.content.clone())));
        let list = self.additional.iter().map(|token| token.content.clone()).collect();
        one.chain(self.additional_is_named.then(|| (ADDITIONAL.to_owned(), Err(list)))).collect()
    }

    /// The tokens that transformers adds to `known`, those of `tokenizer.json` by id, in order (`PreTrainedTokenizerFast.__init__`): those of
    /// the files, also where `tokenizer.json` describes them in another way, and special tokens that are in none of them.
    pub fn missing(&self, known: &BTreeMap<u32, TokenDescription>) -> Vec<TokenDescription> {
        let special = || self.named.iter().map(|(_, token)| token).chain(&self.additional);
        let resolved = |token: &TokenDescription| {
            let special = token.special || special().any(|special| special.content == token.content);
            TokenDescription { normalized: Some(token.normalized.unwrap_or(!special)), special, ..token.clone() }
        };
        let mut added: BTreeMap<u32, &TokenDescription> = self.added.iter().map(|(id, token)| (*id, token)).collect();
        if self.adds_known {
            added.extend(known.iter().map(|(id, token)| (*id, token)));
        }
        let mut all: Vec<TokenDescription> = added.values().map(|token| resolved(token)).collect();
        for token in special() {
            if !known.values().chain(&all).any(|other| other.content == token.content) {
                all.push(resolved(token));
            }
        }
        all.retain(|token| !token.content.is_empty() && !known.values().any(|other| other == token));
        all
    }
}

/// A token in JSON: its text, or an object with its properties. What is called special is so, whatever its object says.
fn description(value: &Value, special: bool) -> Option<TokenDescription> {
    if let Some(content) = value.as_str() {
        return Some(TokenDescription { content: content.to_owned(), special, ..TokenDescription::default() });
    }
    let flag = |name: &str| value.get(name).and_then(Value::as_bool);
    Some(TokenDescription {
        content: value.get("content")?.as_str()?.to_owned(),
        single_word: flag("single_word").unwrap_or(false),
        lstrip: flag("lstrip").unwrap_or(false),
        rstrip: flag("rstrip").unwrap_or(false),
        normalized: flag("normalized"),
        special: special || flag("special").unwrap_or(false),
    })
}

/// The special tokens that transformers' class gives where files give none, in the order of [`NAMES`]; `class` without
/// `TokenizerFast`.
fn class_defaults(class: &str) -> [&'static str; 7] {
    match class {
        "Bert" | "ConvBert" | "DistilBert" | "Electra" | "LayoutLM" | "LayoutLMv2" | "Lxmert" | "MobileBert"
        | "RetriBert" | "RoFormer" | "Splinter" | "SqueezeBert" => {
            ["", "", "[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"]
        }
        "Bart" | "Barthez" | "Blenderbot" | "Camembert" | "LED" | "LayoutLMv3" | "LayoutXLM" | "Longformer"
        | "MBart" | "Mvp" | "Nllb" | "Roberta" | "XLMRoberta" => {
            ["<s>", "</s>", "<unk>", "</s>", "<pad>", "<s>", "<mask>"]
        }
        "MBart50" => ["", "</s>", "<unk>", "</s>", "<pad>", "<s>", "<mask>"],
        "MPNet" => ["<s>", "</s>", "[UNK]", "</s>", "<pad>", "<s>", "<mask>"],
        "Albert" | "RemBert" => ["[CLS]", "[SEP]", "<unk>", "[SEP]", "<pad>", "[CLS]", "[MASK]"],
        "BigBird" => ["<s>", "</s>", "<unk>", "[SEP]", "<pad>", "[CLS]", "[MASK]"],
        "Deberta" | "DebertaV2" => ["[CLS]", "[SEP]", "[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"],
        "Bloom" => ["<s>", "</s>", "<unk>", "", "<pad>", "", ""],
        "CLIP" => ["<|startoftext|>", "<|endoftext|>", "<|endoftext|>", "", "<|endoftext|>", "", ""],
        "CodeGen" | "GPT2" | "GPTNeoX" | "Whisper" => {
            ["<|endoftext|>", "<|endoftext|>", "<|endoftext|>", "", "", "", ""]
        }
        "CodeLlama" | "Llama" => ["<s>", "</s>", "<unk>", "", "", "", ""],
        "Cohere" => ["<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", "<UNK>", "", "", "", ""],
        "Gemma" => ["<bos>", "<eos>", "<unk>", "", "<pad>", "", ""],
        "MT5" | "T5" => ["", "</s>", "<unk>", "", "<pad>", "", ""],
        "Pegasus" => ["", "</s>", "<unk>", "", "<pad>", "", "<mask_2>"],
        "Qwen2" => ["", "<|endoftext|>", "<|endoftext|>", "", "<|endoftext|>", "", ""],
        "SeamlessM4T" | "XGLM" => ["<s>", "</s>", "<unk>", "</s>", "<pad>", "<s>", ""],
        "Udop" => ["", "</s>", "<unk>", "</s>", "<pad>", "", ""],
        "XLNet" | "Cpm" | "Funnel" => ["<s>", "</s>", "<unk>", "<sep>", "<pad>", "<cls>", "<mask>"],
        _ => [""; 7],
    }
}
