//! The tokenizer. In: `tokenizer.json`, what the files beside it say about special tokens, and texts. Out: token ids, padded to a common
//! length. Also decodes token ids.

use tokenizers::{AddedToken, PaddingDirection, PaddingStrategy, PostProcessor, TruncationDirection, TruncationParams};

use super::bounded_tokenizer::{self, BoundedTokenizer};
use super::tokenizer_class;
use crate::model::{GraphFile, ModelDirectory, ModelError, Problem, Role, TokenDescription};
use crate::support::regular_file;

/// The most bytes of `tokenizer.json`. That of Gemma 3, with 262,144 tokens, has 33 MB.
const MOST_FILE_BYTES: u64 = 64 << 20;
/// The most tokens to which every text is padded.
const MOST_PADDING: usize = 1 << 16;

/// The model's tokenizer.
#[derive(Debug)]
pub(crate) struct TextTokenizer {
    /// Truncates texts to the longest that the model takes.
    tokenizer: BoundedTokenizer,
    /// Truncates nothing.
    whole: BoundedTokenizer,
    pad: i64,
    /// Whether texts of one length for all are padded before their tokens.
    pads_left: bool,
    /// Whether spaces before punctuation are removed from decoded text.
    cleans_up: bool,
    /// What is replaced by a space in decoded text.
    word_end: Option<String>,
    /// The length to which every text is padded, if the tokenizer's file fixes one or the text graph has no attention mask.
    fixed_length: Option<usize>,
}

/// The tokens of one text, special tokens included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tokens {
    ids: Vec<u32>,
    types: Vec<u32>,
}

/// Tokens of several texts, each field `[rows, length]` row-major.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenBatch {
    pub(crate) rows: usize,
    pub(crate) length: usize,
    pub(crate) input_ids: Vec<i64>,
    /// 1 for a token, 0 for padding.
    pub(crate) attention_mask: Vec<i64>,
    pub(crate) token_type_ids: Vec<i64>,
}

impl TokenBatch {
    /// The field that a graph calls `name`.
    pub(crate) fn field(&self, name: &str) -> &[i64] {
        match name {
            "attention_mask" => &self.attention_mask,
            "token_type_ids" => &self.token_type_ids,
            _ => &self.input_ids,
        }
    }
}

impl TextTokenizer {
    pub(crate) fn load(directory: &ModelDirectory) -> Result<Option<Self>, ModelError> {
        let Some(path) = directory.tokenizer() else { return Ok(None) };
        let fail = |error: tokenizers::Error| {
            ModelError::one(directory.path(), Problem::new("tokenizer.json", format!("not usable: {error}")))
        };
        let content = regular_file::read(path, MOST_FILE_BYTES).map_err(|error| fail(error.into()))?;
        let mut tokenizer = bounded_tokenizer::read(&content).map_err(fail)?;
        let config = directory.config();
        let known = tokenizer.get_added_tokens_decoder();
        let known = known.iter().map(|(id, token)| (*id, described(token))).collect();
        let missing = config.special_tokens().missing(&known);
        bounded_tokenizer::add_tokens(&mut tokenizer, missing.into_iter().map(added).collect()).map_err(fail)?;
        tokenizer_class::apply(&mut tokenizer, config).map_err(fail)?;
        let padding = tokenizer.get_padding().cloned();
        let named = config.special_token("pad_token").and_then(|token| tokenizer.token_to_id(token));
        let named = named.or(padding.as_ref().map(|padding| padding.pad_id)).map(i64::from);
        let configured = config.special_token_id("pad_token_id");
        let pad = named.or(configured).unwrap_or(0);
        let given_side = |name: &str| config.tokenizer_setting(name).and_then(serde_json::Value::as_str);
        let pads_left = match (given_side("padding_side"), &padding) {
            (Some(side), _) => side == "left",
            (None, Some(padding)) => matches!(padding.direction, PaddingDirection::Left),
            (None, None) => config.special_tokens().class_pads_left(),
        };
        // the processor of SigLIP says how long its texts are, whatever the file of the tokenizer does
        let siglip = config.model_type().is_some_and(|kind| kind.starts_with("siglip"));
        let of_processor = config.max_text_tokens().filter(|_| siglip);
        let fixed_length = padding.and_then(|padding| match padding.strategy {
            PaddingStrategy::Fixed(length) => Some(length),
            PaddingStrategy::BatchLongest => None,
        });
        let own = tokenizer.get_truncation().cloned();
        let of_graph = directory.fixed_text_length();
        // as in transformers, what tokenizer.json truncates to counts only where nothing else says how long a text may be
        let of_files = config.max_text_tokens().or(own.as_ref().map(|truncation| truncation.max_length));
        let longest = of_processor.or(of_files).into_iter().chain(of_graph).min();
        // without a mask, padding to the longest of a batch would make a text's embedding depend on the texts beside it
        let tells_padding = |graph: &GraphFile| graph.header.input("attention_mask").is_some();
        let without_mask = longest.filter(|_| !directory.graph(Role::Text).is_none_or(tells_padding));
        let fixed_length = of_graph.or(of_processor.and(without_mask)).or(fixed_length).or(without_mask);
        let least = longest.into_iter().chain(own.as_ref().map(|truncation| truncation.max_length)).min();
        check_lengths(directory, &tokenizer, least, fixed_length)?;
        let mut truncation = longest.map(|max_length| TruncationParams { max_length, ..own.unwrap_or_default() });
        if let (Some(truncation), Some(side)) = (&mut truncation, given_side("truncation_side")) {
            truncation.direction = if side == "left" { TruncationDirection::Left } else { TruncationDirection::Right };
        }
        tokenizer.with_padding(None).with_truncation(None).map_err(fail)?;
        let whole = tokenizer.clone();
        tokenizer.with_truncation(truncation).map_err(fail)?;
        let cleans_up = tokenizer_class::cleans_up(&tokenizer, config);
        let word_end = tokenizer_class::word_end(&tokenizer, config);
        Ok(Some(Self { tokenizer, whole, pad, pads_left, cleans_up, word_end, fixed_length }))
    }

    /// The tokens of `text`, truncated to the longest that the model takes; `None` if it has none but special ones.
    pub(crate) fn encode(&self, text: &str) -> Result<Option<Tokens>, tokenizers::Error> {
        let encoding = bounded_tokenizer::of_text(text, || self.tokenizer.encode_fast(text, true))?;
        if encoding.get_special_tokens_mask().iter().all(|&special| special == 1) {
            return Ok(None);
        }
        Ok(Some(Tokens { ids: encoding.get_ids().to_vec(), types: encoding.get_type_ids().to_vec() }))
    }

    /// Pads `texts` on the right to the longest of them, or to the tokenizer's fixed length, on its side.
    pub(crate) fn pad(&self, texts: &[Tokens]) -> TokenBatch {
        let longest = texts.iter().map(|tokens| tokens.ids.len()).max().unwrap_or(0);
        let length = self.fixed_length.map_or(longest, |fixed| fixed.max(longest));
        let size = texts.len() * length;
        let mut batch = TokenBatch {
            rows: texts.len(),
            length,
            input_ids: vec![self.pad; size],
            attention_mask: vec![0; size],
            token_type_ids: vec![0; size],
        };
        for (row, tokens) in texts.iter().enumerate() {
            let free = length - tokens.ids.len();
            let first = row * length + if self.pads_left && self.fixed_length.is_some() { free } else { 0 };
            let range = first..first + tokens.ids.len();
            let wide = |ids: &[u32]| ids.iter().map(|&id| i64::from(id)).collect::<Vec<_>>();
            batch.input_ids[range.clone()].copy_from_slice(&wide(&tokens.ids));
            batch.token_type_ids[range.clone()].copy_from_slice(&wide(&tokens.types));
            batch.attention_mask[range].fill(1);
        }
        batch
    }

    /// All tokens of `text`, not truncated; with the tokenizer's special tokens if `special`.
    pub(crate) fn encode_whole(&self, text: &str, special: bool) -> Result<Vec<i64>, tokenizers::Error> {
        let encoding = bounded_tokenizer::of_text(text, || self.whole.encode_fast(text, special))?;
        Ok(encoding.get_ids().iter().map(|&id| i64::from(id)).collect())
    }

    /// The token called `name`.
    pub(crate) fn token_id(&self, name: &str) -> Option<i64> {
        self.whole.token_to_id(name).map(i64::from)
    }

    /// The name of token `id`.
    pub(crate) fn token(&self, id: i64) -> Option<String> {
        self.whole.id_to_token(u32::try_from(id).ok()?)
    }

    /// The text of `ids` without special tokens, trimmed.
    pub(crate) fn decode(&self, ids: &[i64]) -> Result<String, tokenizers::Error> {
        let text = bounded_tokenizer::decode(&self.tokenizer, &unsigned(ids), true)?;
        let text = self.word_end.as_ref().map_or_else(|| text.clone(), |end| text.replace(end, " "));
        let text = if self.cleans_up { clean_up(&text) } else { text };
        Ok(text.trim().to_owned())
    }

    /// The text of `ids`, special tokens included and not trimmed.
    pub(crate) fn decode_all(&self, ids: &[i64]) -> Result<String, tokenizers::Error> {
        bounded_tokenizer::decode(&self.tokenizer, &unsigned(ids), false)
    }
}

/// Refuses texts without room for a token besides those that are always added, and padding to a length that no model takes.
fn check_lengths(
    directory: &ModelDirectory,
    tokenizer: &BoundedTokenizer,
    longest: Option<usize>,
    fixed_length: Option<usize>,
) -> Result<(), ModelError> {
    let fail = |what| Err(ModelError::one(directory.path(), Problem::new("tokenizer.json", what)));
    let added = tokenizer.get_post_processor().map_or(0, |processor| processor.added_tokens(false));
    if let Some(longest) = longest.filter(|longest| *longest <= added) {
        return fail(format!(
            "expected texts of more than the {added} tokens that are added to each, found at most {longest}: the \
             least of max_position_embeddings in config.json and model_max_length in tokenizer_config.json, or else \
             truncation.max_length"
        ));
    }
    match fixed_length {
        Some(length) if length > MOST_PADDING => {
            fail(format!("expected texts that are padded to at most {MOST_PADDING} tokens, found {length}"))
        }
        _ => Ok(()),
    }
}

/// `text` without the spaces that tokenization adds before punctuation and contractions (`clean_up_tokenization` in
/// transformers).
fn clean_up(text: &str) -> String {
    const JOINED: [(&str, &str); 10] = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    JOINED.iter().fold(text.to_owned(), |text, (apart, joined)| text.replace(apart, joined))
}

fn described(token: &AddedToken) -> TokenDescription {
    let AddedToken { content, single_word, lstrip, rstrip, normalized, special } = token.clone();
    TokenDescription { content, single_word, lstrip, rstrip, normalized: Some(normalized), special }
}

fn added(token: TokenDescription) -> AddedToken {
    let TokenDescription { content, single_word, lstrip, rstrip, normalized, special } = token;
    AddedToken { content, single_word, lstrip, rstrip, normalized: normalized.unwrap_or(!special), special }
}

fn unsigned(ids: &[i64]) -> Vec<u32> {
    ids.iter().filter_map(|&id| u32::try_from(id).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::clean_up;

    #[test]
    fn spaces_are_cleaned_up_as_transformers_does_it() {
        let text = "it 's a dog , is n't it ? i 'm sure . they 've said \" no ' way \" !";
        assert_eq!(clean_up(text), "it's a dog, isn't it? i'm sure. they've said \" no'way \"!");
    }
}
