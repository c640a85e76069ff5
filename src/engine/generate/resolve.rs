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
use crate::model::{
    GENERATION_SETTINGS, ModelDirectory, ModelError, Problem, Role, Search, Sourced, Treatment, treatment,
};

impl GenerationSettings {
    /// Resolves the settings of `directory`, overlaid with `overrides`.
    ///
    /// # Errors
    /// Names every setting that is missing, has an impossible value, asks for what is not supported, or that the job gives
    /// though its strategy does not use it.
    pub fn resolve(directory: &ModelDirectory, overrides: &GenerationOverrides) -> Result<Self, ModelError> {
        let mut resolver = Resolver { directory, problems: Vec::new() };
        let start = resolver.start();
        let (prompt, shortest) = job_prompt(directory, overrides, start)?;
        let strategy = resolver.strategy(overrides);
        resolver.refuse(&strategy);
        resolver.check_sizes(prompt.length());
        let lengths = resolver.lengths(overrides, prompt.length());
        let most_new = lengths.max_length.map_or(lengths.max_new, |length| {
            lengths.max_new.min(length.saturating_sub(shortest.decoder_tokens().len()))
        });
        resolver.check_positions(&shortest, most_new);
        let eos_token_ids = resolver.eos();
        let settings = Self {
            strategy,
            max_new_tokens: lengths.max_new,
            min_new_tokens: lengths.min_new,
            max_length: lengths.max_length,
            min_length: lengths.min_length,
            exponential_decay_length_penalty: resolver.exponential_decay(&eos_token_ids),
            bad_words_ids: resolver.bad_words(&eos_token_ids),
            eos_token_ids,
            prompt,
            stop: resolver.stop(overrides.stop.as_ref()),
            repetition_penalty: resolver.number("repetition_penalty", overrides.repetition_penalty).unwrap_or(1.0),
            no_repeat_ngram_size: resolver.ngrams(overrides),
            sequence_bias: resolver.sequence_bias(),
            renormalize_logits: matches!(strategy, Strategy::Beam(_)) && resolver.flag("renormalize_logits"),
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

/// How long captions may and must be; fields as in [`GenerationSettings`].
struct Lengths {
    max_new: usize,
    min_new: usize,
    max_length: Option<usize>,
    min_length: usize,
}

/// What resolves, and the problems that it found.
pub(super) struct Resolver<'a> {
    pub(super) directory: &'a ModelDirectory,
    pub(super) problems: Vec<Problem>,
}

impl<'a> Resolver<'a> {
    const JOB: &'static str = "the job's [generation]";

    /// The setting `name` of the files.
    pub(super) fn setting(&self, name: &str) -> Option<Sourced<&'a Value>> {
        self.directory.config().setting(name)
    }

    /// Whether the files have `name` with null, and the job does not give it. For transformers, null is no default.
    fn is_null(&self, name: &str, given: bool) -> bool {
        !given && self.directory.config().given(name).is_some_and(|found| found.value.is_null())
    }

    fn flag(&self, name: &str) -> bool {
        self.setting(name).is_some_and(|found| found.value.as_bool() == Some(true))
    }

    /// Refuses what would change captions and cannot be obeyed; the log names what is not known.
    fn refuse(&mut self, strategy: &Strategy) {
        let config = self.directory.config();
        let top_k = config.given("top_k").map_or(50.0, |found| found.value.as_f64().unwrap_or(0.0));
        let only_image = !self.directory.bindings().prompt_holds_image()
            && config.model_type().is_some_and(|model_type| model_type == "vision-encoder-decoder");
        let (beams, samples) = (matches!(strategy, Strategy::Beam(_)), matches!(strategy, Strategy::Sample(_)));
        let search = Search { beams, samples, top_k, only_image };
        for (name, treatment) in GENERATION_SETTINGS {
            let Treatment::Refused(is_refused) = treatment else { continue };
            let Some(found) = config.given(name).filter(|found| is_refused(found.value, search)) else { continue };
            let hint = format!("take it out of {} to generate captions without it", found.source);
            let problem = Problem::new(found.source, format!("{name} = {} is not supported", found.value));
            self.problems.push(problem.with_hint(hint));
        }
        let unknown: Vec<_> = config.generation_names().filter(|name| treatment(name).is_none()).take(20).collect();
        if !unknown.is_empty() {
            let model = self.directory.path().display();
            tracing::warn!(%model, "generation_config.json has settings that are not known and have no effect: {}", unknown.join(", "));
        }
        if !beams {
            // transformers looks at it in any case
            self.early_stopping(None);
        }
        if self.is_null("early_stopping", false) {
            self.problems.push(Self::null("early_stopping", "true, false or \"never\""));
        }
    }

    /// A null where transformers has no meaning for it.
    fn null(name: &str, expected: &str) -> Problem {
        let what = format!("{name}: expected {expected}, found null");
        Problem::new("generation_config.json", what).with_hint("take it out of the file; its default applies then")
    }

    /// Refuses a prefill of one length that prompts do not have: what it would compute of padding would stay in the cache.
    fn check_sizes(&mut self, prompt: Option<usize>) {
        let Some(graph) = self.directory.graph(Role::Prefill) else { return };
        if let Some(tokens) = self.directory.prefill_tokens().filter(|tokens| prompt != Some(*tokens)) {
            let what = format!("it was exported for exactly {tokens} tokens");
            let hint = "export the decoder with a dynamic axis for its tokens";
            self.problems.push(Problem::new(&graph.file, what).with_hint(hint));
        }
    }

    fn strategy(&mut self, overrides: &GenerationOverrides) -> Strategy {
        let beams = self.count("num_beams", overrides.num_beams).unwrap_or(1);
        if self.is_null("num_beams", overrides.num_beams.is_some()) {
            self.problems.push(Self::null("num_beams", "1 to 64"));
        }
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
                if self.is_null("length_penalty", overrides.length_penalty.is_some()) {
                    self.problems.push(Self::null("length_penalty", "a finite number"));
                }
                Strategy::Beam(BeamSettings {
                    num_beams: beams,
                    length_penalty: self.number("length_penalty", overrides.length_penalty).unwrap_or(1.0),
                    early_stopping: self.early_stopping(overrides.early_stopping),
                })
            }
            StrategyName::Sample => Strategy::Sample(SampleSettings {
                temperature: self.number("temperature", overrides.temperature).unwrap_or(1.0),
                top_k: match self.count("top_k", overrides.top_k) {
                    None if self.is_null("top_k", false) => 0,
                    found => found.unwrap_or(50),
                },
                top_p: self.top_p(overrides.top_p),
                min_p: self.number("min_p", overrides.min_p),
                typical_p: self.number("typical_p", None).unwrap_or(1.0).min(1.0),
                epsilon_cutoff: self.cutoff("epsilon_cutoff"),
                eta_cutoff: self.cutoff("eta_cutoff"),
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

    /// As in transformers, 1 and more filter nothing, and 0 leaves the most likely token.
    fn top_p(&mut self, given: Option<f64>) -> f64 {
        let neutral = |found: &Sourced<&Value>| found.value.as_f64().is_some_and(|value| value > 1.0);
        let zero = |found: &Sourced<&Value>| found.value.as_f64().is_some_and(|value| value.abs() < f64::MIN_POSITIVE);
        match self.setting("top_p").filter(|_| given.is_none()) {
            Some(found) if neutral(&found) => 1.0,
            Some(found) if zero(&found) => f64::MIN_POSITIVE,
            _ => self.number("top_p", given).unwrap_or(1.0),
        }
    }

    /// A cutoff; outside of 0 to 1 it filters nothing.
    fn cutoff(&mut self, name: &str) -> f64 {
        self.number(name, None).filter(|value| *value > 0.0 && *value < 1.0).unwrap_or(0.0)
    }

    /// `no_repeat_ngram_size`; a negative number of the files bans nothing.
    fn ngrams(&mut self, overrides: &GenerationOverrides) -> usize {
        let given = overrides.no_repeat_ngram_size;
        let found = self.setting("no_repeat_ngram_size").and_then(|found| found.value.as_f64());
        if given.is_none() && found.is_some_and(|size| size < 0.0) {
            return 0;
        }
        self.count("no_repeat_ngram_size", given).unwrap_or(0)
    }

    /// How long captions may and must be. As in transformers, `max_length` and `min_length` include the prompt and its start token, but a
    /// `max_length` of 20, the default, means 20 new tokens, or what the positions that config.json names leave of them
    /// (`GenerationMixin._prepare_generated_length`).
    fn lengths(&mut self, overrides: &GenerationOverrides, prompt: Option<usize>) -> Lengths {
        let max_new = overrides.max_new_tokens.or_else(|| self.length("max_new_tokens"));
        let min_new = overrides.min_new_tokens.or_else(|| self.length("min_new_tokens"));
        if max_new.is_none() && self.is_null("max_length", false) {
            self.problems.push(Self::null("max_length", "a number of tokens"));
        }
        let max_length = self.length("max_length").filter(|&length| length != 20);
        let max_length =
            max_length.or_else(|| self.directory.config().positions_of_default_length().filter(|_| max_new.is_none()));
        let default = if self.length("max_length").is_none_or(|length| length == 20) { 20 } else { usize::MAX };
        let min_length = self.length("min_length").unwrap_or(0);
        let mut lengths = Lengths {
            max_new: max_new.unwrap_or(default),
            min_new: min_new.unwrap_or(0),
            max_length: max_length.filter(|_| max_new.is_none()),
            min_length: if min_new.is_none() { min_length } else { 0 },
        };
        // with one length of all prompts, only the tokens of captions have to be counted
        if let Some(prompt) = prompt {
            if let Some(length) = lengths.max_length.take() {
                if length <= prompt {
                    let what = format!("max_length is {length}, and the prompt has {prompt} tokens of these");
                    self.problems.push(Problem::new(Self::JOB, what).with_hint("set max_new_tokens in the job"));
                }
                lengths.max_new = lengths.max_new.min(length.saturating_sub(prompt).max(1));
            }
            lengths.min_new = lengths.min_new.max(std::mem::take(&mut lengths.min_length).saturating_sub(prompt));
        }
        lengths.max_new = lengths.max_length.map_or(lengths.max_new, |length| lengths.max_new.min(length));
        let (max, min) = (lengths.max_new, lengths.min_new);
        let impossible = overrides.min_new_tokens.is_some() && min > max;
        if max == 0 || max > MOST_NEW_TOKENS || impossible {
            let what = format!("max_new_tokens: captions of at least {min} and at most {max} tokens are not possible");
            let hint =
                format!("max_new_tokens must be at least 1, at least min_new_tokens, and at most {MOST_NEW_TOKENS}");
            self.problems.push(Problem::new(Self::JOB, what).with_hint(hint));
        }
        Lengths { max_new: max.min(MOST_NEW_TOKENS), min_new: min.min(max).min(MOST_NEW_TOKENS), ..lengths }
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
