//! Generation settings, resolved. In: the model directory's files and what the job overrides. Out: [`GenerationSettings`], or
//! a problem for each setting that is missing, impossible, or would change captions and is not supported.

use serde_json::Value;

use super::settings::{
    BeamSettings, EarlyStopping, GenerationOverrides, GenerationSettings, MOST_NEW_TOKENS, SampleSettings, Strategy,
    StrategyName, out_of_range,
};
use crate::engine::encode::tokenizer::TextTokenizer;
use crate::engine::prompt::expand::{Prompt, TokenizedPrompt};
use crate::engine::prompt::format::{JobPrompt, PromptFormat};
use crate::engine::prompt::position_limits::PositionLimits;
use crate::model::{ModelDirectory, ModelError, Problem, Role, Sourced};

/// Settings of the files that would change captions and are not supported, with the value at which they do nothing.
const REFUSED: [(&str, f64); 12] = [
    ("guidance_scale", 1.0),
    ("num_return_sequences", 1.0),
    ("encoder_repetition_penalty", 1.0),
    ("encoder_no_repeat_ngram_size", 0.0),
    ("num_beam_groups", 1.0),
    ("penalty_alpha", 0.0),
    ("typical_p", 1.0),
    ("epsilon_cutoff", 0.0),
    ("eta_cutoff", 0.0),
    ("sequence_bias", f64::NAN),
    ("exponential_decay_length_penalty", f64::NAN),
    ("forced_decoder_ids", f64::NAN),
];

impl GenerationSettings {
    /// Resolves the settings of `directory`, overlaid with `overrides`.
    ///
    /// # Errors
    /// Names every setting that is missing, has an impossible value, asks for what is not supported, or that the job gives
    /// though its strategy does not use it.
    pub fn resolve(directory: &ModelDirectory, overrides: &GenerationOverrides) -> Result<Self, ModelError> {
        let mut resolver = Resolver { directory, problems: Vec::new() };
        resolver.refuse();
        let start = resolver.start();
        let (prompt, shortest) = job_prompt(directory, overrides, start)?;
        let strategy = resolver.strategy(overrides);
        let (max_new_tokens, min_new_tokens) = resolver.lengths(overrides, prompt.length());
        resolver.check_positions(&shortest, max_new_tokens);
        let settings = Self {
            strategy,
            max_new_tokens,
            min_new_tokens,
            eos_token_ids: resolver.eos(),
            prompt,
            stop: resolver.stop(overrides.stop.as_ref()),
            repetition_penalty: resolver.number("repetition_penalty", overrides.repetition_penalty).unwrap_or(1.0),
            no_repeat_ngram_size: resolver.count("no_repeat_ngram_size", overrides.no_repeat_ngram_size).unwrap_or(0),
            bad_words_ids: resolver.bad_words(),
            suppress_tokens: resolver.tokens("suppress_tokens"),
            begin_suppress_tokens: resolver.tokens("begin_suppress_tokens"),
            forced_bos_token_id: resolver.forced("forced_bos_token_id").first().copied(),
            forced_eos_token_ids: resolver.forced("forced_eos_token_id"),
        };
        if resolver.problems.is_empty() {
            Ok(settings)
        } else {
            Err(ModelError::Directory { path: directory.path().to_path_buf(), problems: resolver.problems })
        }
    }
}

struct Resolver<'a> {
    directory: &'a ModelDirectory,
    problems: Vec<Problem>,
}

impl<'a> Resolver<'a> {
    const JOB: &'static str = "the job's [generation]";

    fn setting(&self, name: &str) -> Option<Sourced<&'a Value>> {
        self.directory.config().setting(name)
    }

    fn refuse(&mut self) {
        for (name, neutral) in REFUSED {
            let Some(found) = self.setting(name) else { continue };
            let empty = found.value.as_array().is_some_and(Vec::is_empty);
            // exact: only the neutral value itself leaves captions as they are
            if !empty && found.value.as_f64().is_none_or(|value| value.total_cmp(&neutral).is_ne()) {
                let hint = format!("take it out of {} to generate captions without it", found.source);
                let problem = Problem::new(found.source, format!("{name} = {} is not supported yet", found.value));
                self.problems.push(problem.with_hint(hint));
            }
        }
    }

    fn strategy(&mut self, overrides: &GenerationOverrides) -> Strategy {
        let beams = self.count("num_beams", overrides.num_beams).unwrap_or(1);
        let samples = self.setting("do_sample").is_some_and(|found| found.value.as_bool() == Some(true));
        let name = match overrides.strategy {
            Some(name) => name,
            None if beams > 1 && samples => {
                let what = "num_beams above 1 together with do_sample = true is not supported";
                let hint = "set generation.strategy to \"beam\" or \"sample\" in the job";
                self.problems.push(Problem::new("generation_config.json", what).with_hint(hint));
                StrategyName::Sample
            }
            None if beams > 1 => StrategyName::Beam,
            None if samples => StrategyName::Sample,
            None => StrategyName::Greedy,
        };
        self.refuse_unused(overrides, name);
        match name {
            StrategyName::Greedy => Strategy::Greedy,
            StrategyName::Beam => {
                if beams < 2 {
                    let what = format!("strategy = \"beam\" needs num_beams of 2 or more, found {beams}");
                    self.problems.push(Problem::new(Self::JOB, what).with_hint("num_beams = 4, for instance"));
                }
                Strategy::Beam(BeamSettings {
                    num_beams: beams,
                    length_penalty: self.number("length_penalty", overrides.length_penalty).unwrap_or(1.0),
                    early_stopping: self.early_stopping(overrides.early_stopping),
                })
            }
            StrategyName::Sample => Strategy::Sample(SampleSettings {
                temperature: self.number("temperature", overrides.temperature).unwrap_or(1.0),
                top_k: self.count("top_k", overrides.top_k).unwrap_or(50),
                top_p: self.number("top_p", overrides.top_p).unwrap_or(1.0),
                min_p: self.number("min_p", overrides.min_p),
                seed: overrides.seed.unwrap_or(0),
            }),
        }
    }

    /// Refuses settings of another strategy than the job's, which would silently have no effect.
    fn refuse_unused(&mut self, overrides: &GenerationOverrides, strategy: StrategyName) {
        let (beam, sample) = (StrategyName::Beam, StrategyName::Sample);
        let given = [
            ("num_beams", overrides.num_beams.is_some_and(|beams| beams > 1), beam),
            ("length_penalty", overrides.length_penalty.is_some(), beam),
            ("early_stopping", overrides.early_stopping.is_some(), beam),
            ("temperature", overrides.temperature.is_some(), sample),
            ("top_k", overrides.top_k.is_some(), sample),
            ("top_p", overrides.top_p.is_some(), sample),
            ("min_p", overrides.min_p.is_some(), sample),
            ("seed", overrides.seed.is_some(), sample),
        ];
        for (name, _, needs) in given.into_iter().filter(|(_, given, needs)| *given && *needs != strategy) {
            let what = format!("{name} has no effect on strategy = {:?}", strategy.as_str());
            let hint = format!("set strategy = {:?}, or take {name} out", needs.as_str());
            self.problems.push(Problem::new(Self::JOB, what).with_hint(hint));
        }
    }

    /// A number from the job, else from the files.
    fn number(&mut self, name: &str, given: Option<f64>) -> Option<f64> {
        let (value, source) = match (given, self.setting(name)) {
            (Some(given), _) => (given, Self::JOB.to_owned()),
            (None, Some(found)) => (found.value.as_f64().unwrap_or(f64::NAN), found.source),
            (None, None) => return None,
        };
        if let Some(expected) = out_of_range(name, value) {
            self.problems.push(Problem::new(source, format!("{name}: expected {expected}, found {value}")));
            return None;
        }
        Some(value)
    }

    fn count(&mut self, name: &str, given: Option<usize>) -> Option<usize> {
        self.number(name, given.map(|given| given as f64)).map(|value| value as usize)
    }

    fn early_stopping(&mut self, given: Option<EarlyStopping>) -> EarlyStopping {
        let Some(found) = self.setting("early_stopping").filter(|_| given.is_none()) else {
            return given.unwrap_or(EarlyStopping::False);
        };
        match found.value {
            Value::Bool(true) => EarlyStopping::True,
            Value::Bool(false) => EarlyStopping::False,
            value if value == "never" => EarlyStopping::Never,
            value => {
                let what = format!("early_stopping: expected true, false or \"never\", found {value}");
                self.problems.push(Problem::new(found.source, what));
                EarlyStopping::False
            }
        }
    }

    /// `max_new_tokens` and `min_new_tokens`. As in transformers, `max_length` and `min_length` include the prompt and its start token,
    /// but a `max_length` of 20, the default, means 20 new tokens (`GenerationMixin._prepare_generated_length`).
    fn lengths(&mut self, overrides: &GenerationOverrides, prompt: Option<usize>) -> (usize, usize) {
        let max_new = self.length("max_new_tokens");
        let max_length = self.length("max_length").filter(|&length| length != 20);
        let (min_new, min_length) = (self.length("min_new_tokens"), self.length("min_length"));
        let given = [
            ("max_length", max_length, overrides.max_new_tokens.or(max_new), "max_new_tokens"),
            (
                "min_length",
                min_length.filter(|&length| length > 0),
                overrides.min_new_tokens.or(min_new),
                "min_new_tokens",
            ),
        ];
        for (name, _, _, instead) in given.iter().filter(|(_, length, new, _)| length.is_some() && new.is_none()) {
            if prompt.is_none() {
                let what =
                    format!("{name} counts the prompt, whose length depends on the image; that is not supported");
                self.problems.push(Problem::new(Self::JOB, what).with_hint(format!("set {instead} in the job")));
            }
        }
        let prompt = prompt.unwrap_or(1);
        let max_length = max_length.map_or(20, |length| length.saturating_sub(prompt));
        let max = overrides.max_new_tokens.or(max_new).unwrap_or(max_length);
        let min_length = min_length.map_or(0, |length| length.saturating_sub(prompt));
        let min = overrides.min_new_tokens.or(min_new).unwrap_or(min_length);
        let problems = &mut self.problems;
        if max == 0 || max > MOST_NEW_TOKENS || min > max {
            let what = format!("captions of at least {min} and at most {max} tokens are not possible");
            let hint =
                format!("max_new_tokens must be at least 1, at least min_new_tokens, and at most {MOST_NEW_TOKENS}");
            problems.push(Problem::new(Self::JOB, what).with_hint(hint));
        }
        (max.min(MOST_NEW_TOKENS), min.min(MOST_NEW_TOKENS))
    }

    /// Refuses a job whose `shortest` prompt is too long for the model.
    fn check_positions(&mut self, shortest: &TokenizedPrompt, max_new_tokens: usize) {
        if let Err(too_long) = PositionLimits::of(self.directory).check(shortest, max_new_tokens) {
            let more =
                if shortest.image_tokens.is_empty() { "" } else { "; images have more than the 1 token counted here" };
            let what = too_long.what + more;
            self.problems.push(Problem::new(Self::JOB, what).with_hint(too_long.hint));
        }
    }

    /// A number of tokens from the files.
    fn length(&mut self, name: &str) -> Option<usize> {
        let found = self.setting(name)?;
        let value = found.value.as_u64().and_then(|value| usize::try_from(value).ok());
        if value.is_none() {
            let what = format!("{name} = {} is no number of tokens", found.value);
            self.problems.push(Problem::new(found.source, what));
        }
        value
    }

    fn eos(&mut self) -> Vec<i64> {
        if self.setting("eos_token_id").is_none() {
            tracing::warn!(model = %self.directory.path().display(), "no eos_token_id: every caption runs to max_new_tokens");
        }
        self.tokens("eos_token_id")
    }

    /// A setting of the files that is a token or a list of tokens; empty if it is missing.
    fn tokens(&mut self, name: &str) -> Vec<i64> {
        let Some(found) = self.setting(name) else { return Vec::new() };
        token_list(found.value).unwrap_or_else(|| {
            let what = format!("{name} = {} is neither a token id nor a list of them", found.value);
            self.problems.push(Problem::new(found.source, what));
            Vec::new()
        })
    }

    /// As [`tokens`](Self::tokens), for tokens that the decoder is made to generate: it must have them.
    fn forced(&mut self, name: &str) -> Vec<i64> {
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

    fn stop(&mut self, given: Option<&Vec<String>>) -> Vec<String> {
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

    fn bad_words(&mut self) -> Vec<Vec<i64>> {
        let Some(found) = self.setting("bad_words_ids") else { return Vec::new() };
        let words = found.value.as_array().and_then(|words| words.iter().map(token_list).collect());
        words.unwrap_or_else(|| {
            let what = format!("bad_words_ids = {} is no list of lists of token ids", found.value);
            self.problems.push(Problem::new(found.source, what));
            Vec::new()
        })
    }

    /// The decoder's start token; `None` for a decoder whose prompt has no start token of the decoder.
    fn start(&mut self) -> Option<i64> {
        let alone = self.directory.bindings().prompt_holds_image() && self.directory.graph(Role::Encoder).is_none();
        if alone {
            return None;
        }
        let found = self.setting("decoder_start_token_id").or_else(|| self.setting("bos_token_id"));
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

/// The job's prompt for a decoder that starts from `start`, and the shortest that the prompt of any row can be: with one image
/// feature, and an empty text for a template.
fn job_prompt(
    directory: &ModelDirectory,
    overrides: &GenerationOverrides,
    start: Option<i64>,
) -> Result<(JobPrompt, TokenizedPrompt), ModelError> {
    let fail = |what: String| ModelError::one(directory.path(), Problem::new("generation.prompt", what));
    let Some(tokenizer) = TextTokenizer::load(directory)? else {
        return Err(fail("the decoder needs a tokenizer.json".into()));
    };
    let format = PromptFormat::of(directory, &tokenizer, start)?;
    if let Some(template) = overrides.prompt_template() {
        let empty = format.fill(&tokenizer, "").ok().and_then(|prompt| prompt.tokenize(&tokenizer, 1, None).ok());
        return Ok((JobPrompt::Template { template: template.to_owned(), format }, empty.unwrap_or_default()));
    }
    let prompt = match (&overrides.prompt, &format) {
        (Some(prompt), format) => format.fill(&tokenizer, prompt).map_err(fail)?,
        (None, PromptFormat::Plain { start, .. }) => Prompt::Tokens(start.iter().copied().collect()),
        (None, format) => {
            let example = match format {
                PromptFormat::Task { .. } => "\"<CAPTION>\", for instance, or \"<DETAILED_CAPTION>\"",
                PromptFormat::Prefix { .. } => "\"caption en\", for instance",
                _ => "\"Describe this image in one sentence.\", for instance",
            };
            let what = "this model answers a prompt, and the job gives none";
            let problem = Problem::new("generation.prompt", what).with_hint(format!("prompt = {example}"));
            return Err(ModelError::one(directory.path(), problem));
        }
    };
    let shortest =
        prompt.tokenize(&tokenizer, 1, None).map_err(|error| fail(format!("cannot be tokenized: {error}")))?;
    match &overrides.prompt {
        Some(question) if format.is_dated() => Ok((JobPrompt::Dated { question: question.clone(), format }, shortest)),
        _ => Ok((JobPrompt::Fixed(prompt), shortest)),
    }
}

fn token_list(value: &Value) -> Option<Vec<i64>> {
    match value {
        Value::Array(ids) => ids.iter().map(Value::as_i64).collect(),
        id => id.as_i64().map(|id| vec![id]),
    }
}
