//! `[generation]`. In: the section as written. Out: the settings of the engine, with the range of every value checked.

use super::file::GenerationFile;
use super::{Generation, JobFileError};
use crate::engine::{EarlyStopping, GenerationOverrides, StrategyName, out_of_range};

impl GenerationFile {
    pub(super) fn validate(self, text_only: bool) -> Result<Generation, JobFileError> {
        self.check_ranges()?;
        if self.enabled == Some(true) && text_only {
            return Err(JobFileError::value("generation.enabled", "false in a job without `input.image`", "true"));
        }
        let stop = self.stop.map(Vec::from);
        if stop.iter().flatten().any(String::is_empty) {
            return Err(JobFileError::value("generation.stop", "texts that are not empty", "\"\""));
        }
        let overrides = GenerationOverrides {
            strategy: self.strategy.as_deref().map(strategy).transpose()?,
            max_new_tokens: self.max_new_tokens,
            min_new_tokens: self.min_new_tokens,
            num_beams: self.num_beams,
            length_penalty: self.length_penalty,
            early_stopping: self.early_stopping.as_ref().map(early_stopping).transpose()?,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            no_repeat_ngram_size: self.no_repeat_ngram_size,
            stop,
            seed: self.seed,
            prompt: self.prompt.filter(|prompt| !prompt.is_empty()),
        };
        Ok(Generation { enabled: self.enabled, overrides })
    }

    fn check_ranges(&self) -> Result<(), JobFileError> {
        if self.max_new_tokens == Some(0) {
            return Err(JobFileError::value("generation.max_new_tokens", "at least 1", 0));
        }
        if let (Some(min), Some(max)) = (self.min_new_tokens, self.max_new_tokens)
            && min > max
        {
            return Err(JobFileError::value(
                "generation.min_new_tokens",
                format!("at most max_new_tokens ({max})"),
                min,
            ));
        }
        let numbers = [
            ("num_beams", self.num_beams.map(|count| count as f64)),
            ("length_penalty", self.length_penalty),
            ("temperature", self.temperature),
            ("top_p", self.top_p),
            ("min_p", self.min_p),
            ("repetition_penalty", self.repetition_penalty),
        ];
        for (name, found) in numbers {
            let Some(found) = found else { continue };
            if let Some(expected) = out_of_range(name, found) {
                return Err(JobFileError::value(&format!("generation.{name}"), expected, found));
            }
        }
        Ok(())
    }
}

fn strategy(text: &str) -> Result<StrategyName, JobFileError> {
    let known = StrategyName::NAMES.iter().find(|(name, _)| *name == text);
    let names = StrategyName::NAMES.map(|(name, _)| format!("{name:?}")).join(", ");
    known
        .map(|(_, strategy)| *strategy)
        .ok_or_else(|| JobFileError::value("generation.strategy", format!("one of {names}"), format!("{text:?}")))
}

fn early_stopping(written: &toml::Value) -> Result<EarlyStopping, JobFileError> {
    match written {
        toml::Value::Boolean(true) => Ok(EarlyStopping::True),
        toml::Value::Boolean(false) => Ok(EarlyStopping::False),
        toml::Value::String(text) if text == "never" => Ok(EarlyStopping::Never),
        other => Err(JobFileError::value("generation.early_stopping", "true, false or \"never\"", other)),
    }
}
