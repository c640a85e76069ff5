//! Generation settings, resolved. In: the model directory's files and what the job overrides. Out: numbers that the
//! decoding loop needs, or a problem for each setting that would change captions and is not supported. Names and
//! meanings are those of transformers' `GenerationConfig`
//! (<https://huggingface.co/docs/transformers/main_classes/text_generation>).

use serde::Serialize;
use serde_json::Value;

use crate::model::{ModelDirectory, ModelError, Problem, Sourced};

/// What a job says about generation; `None` leaves it to the model directory.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationOverrides {
    /// `greedy`; overrides the files' `num_beams` and `do_sample`.
    pub strategy: Option<String>,
    /// The most tokens a caption may have, end token included.
    pub max_new_tokens: Option<usize>,
    /// The fewest tokens before the end token.
    pub min_new_tokens: Option<usize>,
}

/// How captions are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GenerationSettings {
    /// Always `greedy`: the likeliest token at every step, the lowest id among equals.
    pub strategy: &'static str,
    /// The most tokens a caption has, end token included.
    pub max_new_tokens: usize,
    /// The fewest tokens before the end token is allowed.
    pub min_new_tokens: usize,
    /// The tokens that end a caption; empty if captions end by length only.
    pub eos_token_ids: Vec<i64>,
    /// The token the decoder starts from.
    pub decoder_start_token_id: i64,
}

/// Settings of the files that would change greedy captions, and the value at which they do nothing.
const NEUTRAL: [(&str, f64); 3] =
    [("repetition_penalty", 1.0), ("no_repeat_ngram_size", 0.0), ("encoder_repetition_penalty", 1.0)];
/// Settings of the files that would change captions whenever they are given.
const REFUSED: [&str; 8] = [
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "sequence_bias",
    "exponential_decay_length_penalty",
    "forced_decoder_ids",
];

impl GenerationSettings {
    /// Resolves the settings of `directory`, overlaid with `overrides`.
    ///
    /// # Errors
    /// Names every setting that is missing, has an impossible value, or asks for what is not supported.
    pub fn resolve(directory: &ModelDirectory, overrides: &GenerationOverrides) -> Result<Self, ModelError> {
        let mut resolver = Resolver { directory, problems: Vec::new() };
        resolver.refuse_strategies(overrides);
        resolver.refuse_processors();
        let (max_new_tokens, min_new_tokens) = resolver.lengths(overrides);
        let eos_token_ids = resolver.eos();
        let decoder_start_token_id = resolver.start();
        if resolver.problems.is_empty() {
            Ok(Self { strategy: "greedy", max_new_tokens, min_new_tokens, eos_token_ids, decoder_start_token_id })
        } else {
            Err(ModelError::Directory { path: directory.path().to_path_buf(), problems: resolver.problems })
        }
    }

    /// One line that is equal for equal settings; for fingerprints.
    pub fn canonical(&self) -> String {
        let Self { strategy, max_new_tokens, min_new_tokens, eos_token_ids, decoder_start_token_id } = self;
        format!(
            "strategy={strategy} max_new_tokens={max_new_tokens} min_new_tokens={min_new_tokens} \
             eos_token_ids={eos_token_ids:?} decoder_start_token_id={decoder_start_token_id}"
        )
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

    fn refuse_strategies(&mut self, overrides: &GenerationOverrides) {
        match overrides.strategy.as_deref() {
            Some("greedy") => {}
            Some(other) => {
                let problem = Problem::new(Self::JOB, format!("strategy = {other:?} is not supported yet"));
                self.problems.push(problem.with_hint("strategy = \"greedy\" is"));
            }
            None => {
                let beams = self.setting("num_beams").filter(|found| found.value.as_f64() != Some(1.0));
                let beams = beams.map(|found| ("num_beams", found));
                let samples = self.setting("do_sample").filter(|found| found.value.as_bool() != Some(false));
                for (name, found) in beams.into_iter().chain(samples.map(|found| ("do_sample", found))) {
                    let problem = Problem::new(found.source, format!("{name} = {} is not supported yet", found.value));
                    self.problems.push(
                        problem
                            .with_hint("set generation.strategy = \"greedy\" in the job to write captions without it"),
                    );
                }
            }
        }
    }

    fn refuse_processors(&mut self) {
        for (name, neutral) in NEUTRAL {
            let Some(found) = self.setting(name) else { continue };
            // exact: only the neutral value itself leaves captions as they are
            if found.value.as_f64().is_none_or(|value| value.total_cmp(&neutral).is_ne()) {
                let hint = format!("take it out of {} to write captions without it", found.source);
                let problem = Problem::new(found.source, format!("{name} = {} is not supported yet", found.value));
                self.problems.push(problem.with_hint(hint));
            }
        }
        for name in REFUSED {
            let given = |found: &Sourced<&Value>| found.value.as_array().is_none_or(|list| !list.is_empty());
            if let Some(found) = self.setting(name).filter(given) {
                let hint = format!("take it out of {} to write captions without it", found.source);
                self.problems.push(Problem::new(found.source, format!("{name} is not supported yet")).with_hint(hint));
            }
        }
    }

    /// transformers counts the start token into `max_length` and `min_length`, but takes a `max_length` of 20, its
    /// default, as 20 new tokens (`GenerationMixin._prepare_generated_length`).
    fn lengths(&mut self, overrides: &GenerationOverrides) -> (usize, usize) {
        let in_files = |name: &str, problems: &mut Vec<Problem>| {
            let found = self.directory.config().setting(name)?;
            let value = found.value.as_u64().and_then(|value| usize::try_from(value).ok());
            if value.is_none() {
                problems.push(Problem::new(found.source, format!("{name} = {} is no number of tokens", found.value)));
            }
            value
        };
        let problems = &mut self.problems;
        let max_new = in_files("max_new_tokens", problems);
        let max_length = in_files("max_length", problems).filter(|&length| length != 20);
        let max_length = max_length.map_or(20, |length| length.saturating_sub(1));
        let max = overrides.max_new_tokens.or(max_new).unwrap_or(max_length);
        let min_new = in_files("min_new_tokens", problems);
        let min_length = in_files("min_length", problems).map_or(0, |length| length.saturating_sub(1));
        let min = overrides.min_new_tokens.or(min_new).unwrap_or(min_length);
        if max == 0 || min > max {
            let what = format!("captions of at least {min} and at most {max} tokens cannot be written");
            let hint = "max_new_tokens must be at least 1 and at least min_new_tokens";
            problems.push(Problem::new(Self::JOB, what).with_hint(hint));
        }
        if let Some(positions) = self.directory.config().decoder_positions().filter(|positions| max > positions.value) {
            let what = format!(
                "max_new_tokens is {max}, but {} gives the decoder {} positions",
                positions.source, positions.value
            );
            problems
                .push(Problem::new(Self::JOB, what).with_hint(format!("at most {} can be written", positions.value)));
        }
        (max, min)
    }

    fn eos(&mut self) -> Vec<i64> {
        let Some(found) = self.setting("eos_token_id") else {
            tracing::warn!(model = %self.directory.path().display(), "no eos_token_id: every caption runs to max_new_tokens");
            return Vec::new();
        };
        let ids: Option<Vec<i64>> = match found.value {
            Value::Array(ids) => ids.iter().map(Value::as_i64).collect(),
            id => id.as_i64().map(|id| vec![id]),
        };
        ids.unwrap_or_else(|| {
            let what = format!("eos_token_id = {} is neither a token id nor a list of them", found.value);
            self.problems.push(Problem::new(found.source, what));
            Vec::new()
        })
    }

    fn start(&mut self) -> i64 {
        let found = self.setting("decoder_start_token_id").or_else(|| self.setting("bos_token_id"));
        match found.map(|found| (found.value.as_i64(), found)) {
            Some((Some(id), _)) => id,
            Some((None, found)) => {
                let what = format!("the start token {} is no token id", found.value);
                self.problems.push(Problem::new(found.source, what));
                0
            }
            None => {
                let what = "decoder_start_token_id is missing, and so is bos_token_id";
                let problem = Problem::new("generation_config.json", what);
                self.problems.push(problem.with_hint("the token the decoder was trained to start from"));
                0
            }
        }
    }
}
