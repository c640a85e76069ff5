//! Generation settings that are tokens or texts, resolved. In: the model directory's files. Out: token ids and texts, or a problem for
//! each that is impossible.

use serde_json::Value;

use super::resolve::Resolver;
use crate::model::{Problem, Role};

impl Resolver<'_> {
    /// The tokens that end a caption; none is logged.
    pub(super) fn eos(&mut self) -> Vec<i64> {
        if self.setting("eos_token_id").is_none() {
            tracing::warn!(model = %self.directory.path().display(), "no eos_token_id: every caption runs to max_new_tokens");
        }
        self.tokens("eos_token_id")
    }

    /// A setting of the files that is a token or a list of tokens; empty if it is missing.
    pub(super) fn tokens(&mut self, name: &str) -> Vec<i64> {
        let Some(found) = self.setting(name) else { return Vec::new() };
        token_list(found.value).unwrap_or_else(|| {
            let what = format!("{name} = {} is neither a token id nor a list of them", found.value);
            self.problems.push(Problem::new(found.source, what));
            Vec::new()
        })
    }

    /// As [`tokens`](Self::tokens), for tokens that the decoder is made to generate: it must have them.
    pub(super) fn forced(&mut self, name: &str) -> Vec<i64> {
        let tokens = self.tokens(name);
        for token in &tokens {
            self.check_token(name, *token);
        }
        tokens
    }

    /// Refuses a token that the decoder is given and cannot have: one beyond its logits and all its tables.
    fn check_token(&mut self, name: &str, token: i64) {
        let graphs = [Role::Embed, Role::Text, Role::Prefill, Role::Decoder];
        let headers = graphs.iter().filter_map(|role| self.directory.graph(*role)).map(|graph| &graph.header);
        let sizes = headers.filter_map(|header| {
            let logits = header.output("logits").and_then(|port| port.fixed(2));
            logits.max(header.table_sizes.last().copied())
        });
        let most = sizes.max().unwrap_or(i32::MAX as usize);
        if usize::try_from(token).is_ok_and(|token| token < most) {
            return;
        }
        let what =
            format!("{name}: expected a token of the decoder, from 0 to {}, found {token}", most.saturating_sub(1));
        self.problems.push(Problem::new("generation_config.json", what));
    }

    /// The texts that end a caption: the job's, else those of the files.
    pub(super) fn stop(&mut self, given: Option<&Vec<String>>) -> Vec<String> {
        let Some(found) = self.setting("stop_strings").filter(|_| given.is_none()) else {
            return given.cloned().unwrap_or_default();
        };
        let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let texts = match found.value {
            Value::Array(texts) => texts.iter().map(text).collect(),
            value => text(value).map(|text| vec![text]),
        };
        texts.unwrap_or_else(|| {
            let what = format!("stop_strings = {} is neither a text nor a list of them", found.value);
            self.problems.push(Problem::new(found.source, what));
            Vec::new()
        })
    }

    /// Sequences that are never generated. An end token of `ends` alone is none.
    pub(super) fn bad_words(&mut self, ends: &[i64]) -> Vec<Vec<i64>> {
        let Some(found) = self.setting("bad_words_ids") else { return Vec::new() };
        let words = found.value.as_array().and_then(|words| words.iter().map(token_list).collect::<Option<Vec<_>>>());
        let Some(words) = words.filter(|words| !words.is_empty() && !words.iter().any(Vec::is_empty)) else {
            let what =
                format!("bad_words_ids = {}: expected a list of lists of token ids, none of them empty", found.value);
            self.problems.push(Problem::new(found.source, what));
            return Vec::new();
        };
        // an end token alone is never one
        let counted = words.iter().filter(|word| word.len() > 1 || !word.iter().all(|token| ends.contains(token)));
        counted.flatten().for_each(|token| self.check_token("bad_words_ids", *token));
        words
    }

    /// What is added to the score of a sequence's last token.
    pub(super) fn sequence_bias(&mut self) -> Vec<(Vec<i64>, f64)> {
        let Some(found) = self.setting("sequence_bias") else { return Vec::new() };
        let pair = |pair: &Value| match pair.as_array()?.as_slice() {
            [Value::Array(tokens), bias] if !tokens.is_empty() => {
                Some((tokens.iter().map(Value::as_i64).collect::<Option<Vec<_>>>()?, bias.as_f64()?))
            }
            _ => None,
        };
        let pairs = found.value.as_array().filter(|pairs| !pairs.is_empty());
        let Some(pairs) = pairs.and_then(|pairs| pairs.iter().map(pair).collect::<Option<Vec<_>>>()) else {
            let what = format!("sequence_bias = {}: expected a list of pairs [[token ids], bias]", found.value);
            self.problems.push(Problem::new(found.source, what));
            return Vec::new();
        };
        pairs.iter().flat_map(|(tokens, _)| tokens).for_each(|token| self.check_token("sequence_bias", *token));
        // of equal sequences, the last one counts
        let mut biases: Vec<(Vec<i64>, f64)> = Vec::with_capacity(pairs.len());
        for (tokens, bias) in pairs {
            match biases.iter_mut().find(|(known, _)| *known == tokens) {
                Some(known) => known.1 = bias,
                None => biases.push((tokens, bias)),
            }
        }
        biases
    }

    /// After how many tokens the score of the end grows, and by which factor: `ExponentialDecayLengthPenalty` of transformers.
    pub(super) fn exponential_decay(&mut self, ends: &[i64]) -> Option<(i64, f64)> {
        let found = self.setting("exponential_decay_length_penalty")?;
        let pair = match found.value.as_array().map(Vec::as_slice) {
            Some([start, factor]) => start.as_i64().zip(factor.as_f64().filter(|factor| *factor > 0.0)),
            _ => None,
        };
        let problem = match pair {
            Some(pair) if !ends.is_empty() => return Some(pair),
            Some(_) => "it raises the score of the end token, and there is no eos_token_id".to_owned(),
            None => format!("expected [number of tokens, factor], found {}", found.value),
        };
        let what = format!("exponential_decay_length_penalty: {problem}");
        self.problems.push(Problem::new(found.source, what));
        None
    }

    /// The decoder's start token; `None` for a decoder whose prompt has no start token of the decoder.
    pub(super) fn start(&mut self) -> Option<i64> {
        let alone = self.directory.bindings().prompt_holds_image() && self.directory.graph(Role::Encoder).is_none();
        if alone {
            return None;
        }
        // models without an encoder start from bos_token_id, whatever else is set
        let names = match self.directory.config().model_type() {
            Some("git") => ["bos_token_id", "decoder_start_token_id"],
            _ => ["decoder_start_token_id", "bos_token_id"],
        };
        let found = names.into_iter().find_map(|name| self.setting(name));
        let id = found.as_ref().and_then(|found| found.value.as_i64());
        if id.is_none() {
            let problem = if let Some(found) = found {
                Problem::new(found.source, format!("the start token {} is no token id", found.value))
            } else {
                let what = "decoder_start_token_id is missing, and so is bos_token_id";
                let problem = Problem::new("generation_config.json", what);
                problem.with_hint("the token the decoder was trained to start from")
            };
            self.problems.push(problem);
        }
        if let Some(id) = id {
            self.check_token("the start token", id);
        }
        id
    }
}

fn token_list(value: &Value) -> Option<Vec<i64>> {
    match value {
        Value::Array(ids) => ids.iter().map(Value::as_i64).collect(),
        id => id.as_i64().map(|id| vec![id]),
    }
}
