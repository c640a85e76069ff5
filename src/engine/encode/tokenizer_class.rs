//! What the class of a tokenizer changes in what its `tokenizer.json` says. In: the tokenizer of that file, the class, the settings in
//! `tokenizer_config.json`. Out: the tokenizer that transformers makes of them.
//!
//! In transformers 4, most classes take some of their settings from `tokenizer_config.json`, or from their own defaults, whatever
//! `tokenizer.json` says (`__init__` of `PreTrainedTokenizerFast` and of its classes). Of a tokenizer that version 5 has saved, those
//! classes do so that make their normalizer and pre-tokenizer themselves; what they put around a text is in the file.

use serde_json::{Value, json};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{Error, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper};

use super::bounded_tokenizer::{Bounded, BoundedTokenizer};
use crate::model::ConfigFiles;

/// Classes with `do_lower_case`, `strip_accents` and `tokenize_chinese_chars`.
const LOWER_CASE: [&str; 13] = [
    "Bert",
    "ConvBert",
    "DPRContextEncoder",
    "DPRQuestionEncoder",
    "DPRReader",
    "DistilBert",
    "Electra",
    "Funnel",
    "LayoutLM",
    "Lxmert",
    "MobileBert",
    "RetriBert",
    "SqueezeBert",
];
/// Those of them that do not look at `tokenize_chinese_chars`.
const LOWER_CASE_ONLY: [&str; 4] = ["LayoutLMv2", "MPNet", "RoFormer", "Splinter"];
/// Classes that put the first and the last token around a text themselves, and whether they add the first one by default.
const AROUND: [(&str, bool); 5] =
    [("CodeLlama", true), ("Cohere", true), ("GPTNeoX", false), ("Gemma", true), ("Llama", true)];
/// Classes that leave `add_prefix_space` open where no file says it.
const OPEN_PREFIX: [&str; 4] = ["", "CodeLlama", "Llama", "T5"];
/// Classes of version 5 that take the steps of `tokenizer.json` as they are.
const BACKEND: [&str; 3] = ["", "PreTrained", "TokenizersBackend"];

/// Changes `tokenizer`, which has all its tokens, as its class does.
///
/// # Errors
/// When the class adds a token that the tokenizer does not have.
pub(super) fn apply(tokenizer: &mut BoundedTokenizer, config: &ConfigFiles) -> Result<(), Error> {
    let class = config.special_tokens().class();
    let name = class.name.as_str();
    tokenizer.set_encode_special_tokens(config.tokenizer_flag("split_special_tokens", false) == Some(true));
    let prefix = match config.tokenizer_flag("add_prefix_space", false) {
        _ if class.is_of_five && BACKEND.contains(&name) => None,
        Some(_) if OPEN_PREFIX.contains(&name) && config.tokenizer_setting("add_prefix_space").is_none() => None,
        flag => flag,
    };
    if let Some(prefix) = prefix {
        set_prefix_space(tokenizer, prefix)?;
    }
    let lower_case_only = LOWER_CASE_ONLY.contains(&name);
    if (lower_case_only || LOWER_CASE.contains(&name)) && !(class.is_of_five && name == "ConvBert") {
        set_lower_case(tokenizer, config, lower_case_only && !class.is_of_five)?;
    }
    match AROUND.iter().find(|(known, _)| *known == name && !class.is_of_five) {
        Some((_, bos)) => set_around(tokenizer, config, *bos),
        None => Ok(()),
    }
}

/// What has to be replaced by a space in decoded text: `CLIPTokenizerFast` does so.
pub(super) fn word_end(tokenizer: &BoundedTokenizer, config: &ConfigFiles) -> Option<String> {
    match tokenizer.get_model() {
        ModelWrapper::BPE(model) if config.special_tokens().class().name == "CLIP" => {
            model.end_of_word_suffix.clone().filter(|suffix| !suffix.is_empty())
        }
        _ => None,
    }
}

/// Whether spaces before punctuation are removed from decoded text; version 5 does so for no BPE, unless it is forced to.
pub(super) fn cleans_up(tokenizer: &BoundedTokenizer, config: &ConfigFiles) -> bool {
    let forced = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output";
    let is_bpe = matches!(tokenizer.get_model(), ModelWrapper::BPE(_));
    let spared = config.special_tokens().class().is_of_five && is_bpe;
    config.cleans_up_spaces() && (!spared || config.tokenizer_flag(forced, false) == Some(true))
}

/// Whether a text begins as if a space was before it.
fn set_prefix_space(tokenizer: &mut BoundedTokenizer, prefix: bool) -> Result<(), Error> {
    if let Some(PreTokenizerWrapper::ByteLevel(bytes)) = tokenizer.get_pre_tokenizer().and_then(Bounded::only)
        && bytes.add_prefix_space != prefix
    {
        let bytes = ByteLevel::new(prefix, bytes.trim_offsets, bytes.use_regex);
        tokenizer.with_pre_tokenizer(Some(Bounded::of_one(PreTokenizerWrapper::ByteLevel(bytes))?));
    }
    Ok(())
}

fn set_lower_case(tokenizer: &mut BoundedTokenizer, config: &ConfigFiles, lower_case_only: bool) -> Result<(), Error> {
    let Some(NormalizerWrapper::BertNormalizer(known)) = tokenizer.get_normalizer().and_then(Bounded::only) else {
        return Ok(());
    };
    let mut made = *known;
    made.lowercase = config.tokenizer_flag("do_lower_case", true).unwrap_or(true);
    made.strip_accents = config.tokenizer_setting("strip_accents").and_then(Value::as_bool);
    if !lower_case_only {
        made.handle_chinese_chars = config.tokenizer_flag("tokenize_chinese_chars", true).unwrap_or(true);
    }
    tokenizer.with_normalizer(Some(Bounded::of_one(NormalizerWrapper::BertNormalizer(made))?))?;
    Ok(())
}

/// The first token before a text and the last behind it, as `add_bos_token` and `add_eos_token` say.
fn set_around(tokenizer: &mut BoundedTokenizer, config: &ConfigFiles, bos: bool) -> Result<(), Error> {
    let token = |flag: &str, default: bool, name: &str| {
        if config.tokenizer_flag(flag, default) != Some(true) {
            return Ok(None);
        }
        match config.special_token(name).and_then(|text| Some((text, tokenizer.token_to_id(text)?))) {
            Some(found) => Ok(Some(found)),
            None => Err(format!("{flag} is true in tokenizer_config.json, and there is no {name}")),
        }
    };
    let (first, last) = (token("add_bos_token", bos, "bos_token")?, token("add_eos_token", false, "eos_token")?);
    let special = |kind: usize| move |(text, _): (&str, u32)| json!({"SpecialToken": {"id": text, "type_id": kind}});
    let one = |sequence: &str, kind: usize| -> Vec<Value> {
        let text = json!({"Sequence": {"id": sequence, "type_id": kind}});
        first.map(special(kind)).into_iter().chain([text]).chain(last.map(special(kind))).collect()
    };
    let tokens = first
        .into_iter()
        .chain(last)
        .map(|(text, id)| (text.to_owned(), json!({"id": text, "ids": [id], "tokens": [text]})));
    let pair = [one("A", 0), one("B", 1)].concat();
    let template = json!({
        "type": "TemplateProcessing",
        "single": one("A", 0),
        "pair": pair,
        "special_tokens": tokens.collect::<serde_json::Map<_, _>>(),
    });
    let made: PostProcessorWrapper = serde_json::from_value(template)?;
    tokenizer.with_post_processor(Some(made));
    Ok(())
}
