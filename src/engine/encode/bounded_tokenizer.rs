//! A tokenizer from a file that is not trusted. In: the bytes of `tokenizer.json`, then texts. Out: the tokens of the `tokenizers`
//! library, or an error; never much more memory than a text is worth, and no panic.
//!
//! Normalizers and pre-tokenizers replace parts of a text by longer ones, each step what the one before it made: thirty that double
//! make gigabytes of a word. Here, each step runs only if the longest text that it could make fits what is left of a budget. Steps of
//! decoders and post-processors are few and simple, and are bounded when the file is read. A text is tokenized as by the library itself,
//! or not at all.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use tokenizers::{
    AddedToken, DecoderWrapper, Error, ModelWrapper, NormalizedString, Normalizer, NormalizerWrapper,
    OffsetReferential, OffsetType, PostProcessorWrapper, PreTokenizedString, PreTokenizer, PreTokenizerWrapper,
    TokenizerImpl,
};

/// The library's tokenizer with bounded steps.
pub(super) type BoundedTokenizer = TokenizerImpl<
    ModelWrapper,
    Bounded<NormalizerWrapper>,
    Bounded<PreTokenizerWrapper>,
    PostProcessorWrapper,
    DecoderWrapper,
>;

/// The most bytes of a text to tokenize; the longest context of a model is a fraction of that.
pub(super) const MOST_TEXT_BYTES: usize = 1 << 20;
/// The bytes that the steps for one text may make. The library takes about 20 bytes of memory for each.
const STEP_BYTES: usize = 16 << 20;
/// The same for all added tokens when the file is read.
const LOAD_BYTES: usize = 256 << 20;
/// The most steps of a normalizer or pre-tokenizer. Files in use have up to ten.
const MOST_STEPS: usize = 64;
/// How many times longer decoding may make the texts of tokens.
const MOST_DECODER_GROWTH: usize = 1024;
/// How many times a post-processor may repeat a text.
const MOST_REPEATS: usize = 4;
/// The most tokens that a post-processor adds to a text.
const MOST_ADDED_TOKENS: usize = 1024;
/// The longest word that `WordPiece` looks up, in characters (100 by default): it takes the square of that in time.
const MOST_WORD_CHARACTERS: usize = 1000;

thread_local! {
    /// What is left of the budget of the text that this thread tokenizes.
    static LEFT: Cell<usize> = const { Cell::new(0) };
    /// The bytes that a step could have made and that were too many. The library drops the errors of normalizers.
    static REFUSED: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Steps that run one after the other, each with how many times longer it makes a text at most.
#[derive(Debug, Clone)]
pub(super) struct Bounded<S> {
    steps: Vec<(S, usize)>,
    /// Whether the file has a step alone, and no sequence of one.
    alone: bool,
}

/// Reads the content of a `tokenizer.json`.
///
/// # Errors
/// When it is no tokenizer, or one that could make much more of a text than any tokenizer does.
pub(super) fn read(content: &[u8]) -> Result<BoundedTokenizer, Error> {
    let tokenizer = guarded(LOAD_BYTES, || Ok(serde_json::from_slice::<BoundedTokenizer>(content)?))?;
    if let ModelWrapper::WordPiece(model) = tokenizer.get_model()
        && model.max_input_chars_per_word > MOST_WORD_CHARACTERS
    {
        let found = model.max_input_chars_per_word;
        return Err(format!("max_input_chars_per_word: expected at most {MOST_WORD_CHARACTERS}, found {found}").into());
    }
    if let Some(processor) = tokenizer.get_post_processor() {
        let (repeats, added) = processing(&serde_json::to_value(processor)?);
        if repeats > MOST_REPEATS || added > MOST_ADDED_TOKENS {
            let what = format!(
                "post_processor: expected at most {MOST_REPEATS} repetitions of a text and {MOST_ADDED_TOKENS} added \
                 tokens, found {repeats} and {added}"
            );
            return Err(what.into());
        }
    }
    decoder_growth(&tokenizer)?;
    Ok(tokenizer)
}

/// Adds `tokens`, which were not in the file or are described otherwise there.
///
/// # Errors
/// Those of the library; when a normalizer makes much more of them than any does.
pub(super) fn add_tokens(tokenizer: &mut BoundedTokenizer, tokens: Vec<AddedToken>) -> Result<(), Error> {
    if tokens.is_empty() {
        return Ok(());
    }
    guarded(LOAD_BYTES, || tokenizer.add_tokens(tokens).map(|_| ()))
}

/// Calls the library for `text`, which has at most [`MOST_TEXT_BYTES`].
///
/// # Errors
/// Those of `work`; when the text is or becomes too long, or the library panicked.
pub(super) fn of_text<T>(text: &str, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    if text.len() > MOST_TEXT_BYTES {
        return Err(format!("expected a text of at most {MOST_TEXT_BYTES} bytes, found one of {}", text.len()).into());
    }
    guarded(STEP_BYTES, work)
}

/// The text of `ids`, with special tokens unless `skips_special`.
///
/// # Errors
/// Those of the library; when the text would be too long, or the library panicked.
pub(super) fn decode(tokenizer: &BoundedTokenizer, ids: &[u32], skips_special: bool) -> Result<String, Error> {
    let length = |id: &u32| tokenizer.id_to_token(*id).map_or(0, |token| token.len());
    let bytes = ids.iter().map(length).sum::<usize>().saturating_mul(decoder_growth(tokenizer)?);
    if bytes > STEP_BYTES {
        return Err(format!("expected a text of at most {STEP_BYTES} bytes, found tokens that may make {bytes}").into());
    }
    guarded(STEP_BYTES, || tokenizer.decode(ids, skips_special))
}

/// Runs `work`, whose steps may make `budget` bytes. A panic of the library, for example about a regular expression that takes too
/// long, becomes an error.
fn guarded<T>(budget: usize, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    LEFT.set(budget);
    REFUSED.set(None);
    // unwind safe: a tokenizer is not changed by its use
    let done = catch_unwind(AssertUnwindSafe(work));
    if let Some(bytes) = REFUSED.take() {
        return Err(too_long(bytes));
    }
    done.unwrap_or_else(|panic| {
        let what = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        let what: String = what.unwrap_or("a fault in the tokenizers library").chars().take(200).collect();
        Err(format!("the tokenizers library, with this tokenizer.json: {what}").into())
    })
}

/// Whether a step that makes `bytes` at most `growth` times longer may run. After the first that may not, none may.
fn check_budget(bytes: usize, growth: usize) -> Result<(), Error> {
    let most = bytes.saturating_mul(growth);
    if most <= LEFT.get() && REFUSED.get().is_none() {
        return Ok(());
    }
    REFUSED.set(Some(REFUSED.get().unwrap_or(most)));
    Err(too_long(most))
}

fn too_long(bytes: usize) -> Error {
    format!(
        "the steps of tokenizer.json could make {bytes} bytes of a text, and all of them together may make {STEP_BYTES}"
    )
    .into()
}

/// Takes `bytes` that a step has made from the budget.
fn spend(bytes: usize) {
    LEFT.set(LEFT.get().saturating_sub(bytes));
}

impl Normalizer for Bounded<NormalizerWrapper> {
    fn normalize(&self, text: &mut NormalizedString) -> Result<(), Error> {
        for (step, growth) in &self.steps {
            check_budget(text.get().len(), *growth)?;
            step.normalize(text)?;
            spend(text.get().len());
        }
        Ok(())
    }
}

impl PreTokenizer for Bounded<PreTokenizerWrapper> {
    fn pre_tokenize(&self, text: &mut PreTokenizedString) -> Result<(), Error> {
        let bytes = |text: &PreTokenizedString| -> usize {
            text.get_splits(OffsetReferential::Normalized, OffsetType::None).iter().map(|(text, ..)| text.len()).sum()
        };
        for (step, growth) in &self.steps {
            if *growth > 1 {
                check_budget(bytes(text), *growth)?;
                step.pre_tokenize(text)?;
                spend(bytes(text));
            } else {
                step.pre_tokenize(text)?;
            }
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Bounded<NormalizerWrapper> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        fn flatten(step: NormalizerWrapper, steps: &mut Vec<NormalizerWrapper>) {
            match step {
                NormalizerWrapper::Sequence(inner) => inner.into_iter().for_each(|step| flatten(step, steps)),
                step => steps.push(step),
            }
        }
        let read = NormalizerWrapper::deserialize(deserializer)?;
        let alone = !matches!(read, NormalizerWrapper::Sequence(_));
        let mut steps = Vec::new();
        flatten(read, &mut steps);
        Self::of(steps, alone).map_err(serde::de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Bounded<PreTokenizerWrapper> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        fn flatten(step: PreTokenizerWrapper, steps: &mut Vec<PreTokenizerWrapper>) {
            match step {
                PreTokenizerWrapper::Sequence(inner) => {
                    inner.as_ref().iter().for_each(|step| flatten(step.clone(), steps));
                }
                step => steps.push(step),
            }
        }
        let read = PreTokenizerWrapper::deserialize(deserializer)?;
        let alone = !matches!(read, PreTokenizerWrapper::Sequence(_));
        let mut steps = Vec::new();
        flatten(read, &mut steps);
        Self::of(steps, alone).map_err(serde::de::Error::custom)
    }
}

impl<S: Serialize> Bounded<S> {
    /// One step.
    pub(super) fn of_one(step: S) -> Result<Self, Error> {
        Self::of(vec![step], true)
    }

    /// The step, if there is only one, and not in a sequence.
    pub(super) fn only(&self) -> Option<&S> {
        match self.steps.as_slice() {
            [(step, _)] if self.alone => Some(step),
            _ => None,
        }
    }

    fn of(steps: Vec<S>, alone: bool) -> Result<Self, Error> {
        if steps.len() > MOST_STEPS {
            return Err(format!("expected at most {MOST_STEPS} steps, found {}", steps.len()).into());
        }
        let with_growth = |step: S| serde_json::to_value(&step).map(|value| (step, growth(&value)));
        Ok(Self { steps: steps.into_iter().map(with_growth).collect::<Result<_, _>>()?, alone })
    }
}

/// How many times longer a step makes a text at most, in bytes.
fn growth(step: &Value) -> usize {
    let length = |key: &str| step[key].as_str().map_or(0, str::len);
    match step["type"].as_str().unwrap_or_default() {
        "Replace" => match step["pattern"]["String"].as_str() {
            Some(pattern) if !pattern.is_empty() => length("content").div_ceil(pattern.len()).max(1),
            // an empty match may be at every character
            _ => 1 + length("content"),
        },
        "Prepend" => 1 + length("prepend"),
        "Precompiled" => longest_replacement(step["precompiled_charsmap"].as_str().unwrap_or_default()).max(1),
        // U+FDFA becomes 18 characters
        "NFKC" | "NFKD" | "Nmt" => 12,
        "Metaspace" => 8,
        "Split" | "Whitespace" | "WhitespaceSplit" | "Digits" | "Punctuation" | "BertPreTokenizer"
        | "UnicodeScripts" | "CharDelimiterSplit" | "FixedLength" | "Strip" => 1,
        _ => 4,
    }
}

/// The longest text in a character map of `SentencePiece`, base64: the size of a trie in four bytes, the trie, and texts that end with 0.
fn longest_replacement(map: &str) -> usize {
    let (mut bytes, mut bits, mut count) = (Vec::with_capacity(map.len() / 4 * 3), 0_u32, 0);
    for byte in map.bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => continue,
        };
        (bits, count) = ((bits << 6) | u32::from(value), count + 6);
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    let Some((size, rest)) = bytes.split_first_chunk::<4>() else { return 0 };
    let texts = rest.get(u32::from_le_bytes(*size) as usize..).unwrap_or_default();
    texts.split(|byte| *byte == 0).map(<[u8]>::len).max().unwrap_or(0)
}

/// How often a post-processor repeats a text, and how many tokens it adds.
fn processing(processor: &Value) -> (usize, usize) {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    match processor["type"].as_str() {
        Some("Sequence") => {
            let inner = list(&processor["processors"]);
            inner.iter().map(processing).fold((1, 0), |(repeats, added), (more, tokens)| {
                (repeats.saturating_mul(more), added.saturating_mul(more).saturating_add(tokens))
            })
        }
        Some("TemplateProcessing") => {
            let pieces = list(&processor["single"]);
            let repeats = pieces.iter().filter(|piece| piece.get("Sequence").is_some()).count();
            let tokens = |piece: &Value| {
                let name = piece["SpecialToken"]["id"].as_str()?;
                processor["special_tokens"][name]["ids"].as_array().map(Vec::len)
            };
            (repeats.max(1), pieces.iter().filter_map(tokens).fold(0, usize::saturating_add))
        }
        _ => (1, 2),
    }
}

/// How many times longer decoding makes the texts of tokens at most, in bytes.
fn decoder_growth(tokenizer: &BoundedTokenizer) -> Result<usize, Error> {
    fn of(decoder: &Value) -> usize {
        match decoder["type"].as_str().unwrap_or_default() {
            "Sequence" => decoder["decoders"].as_array().into_iter().flatten().map(of).fold(1, usize::saturating_mul),
            "Replace" => growth(decoder),
            "Strip" | "Fuse" | "ByteFallback" | "Metaspace" => 1,
            _ => 4,
        }
    }
    let Some(decoder) = tokenizer.get_decoder() else { return Ok(2) };
    match of(&serde_json::to_value(decoder)?) {
        growth if growth > MOST_DECODER_GROWTH => Err(format!(
            "decoder: expected steps that make a text at most {MOST_DECODER_GROWTH} times longer, found up to {growth} times"
        )
        .into()),
        growth => Ok(growth.saturating_mul(2)),
    }
}
