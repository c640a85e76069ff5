//! The JSON files of a model directory and the order in which they override each other. In: a folder. Out: parsed
//! files and a lookup that tells which file a setting came from. What a setting means is not known here.

use std::path::Path;

use serde_json::{Map, Value};

use super::chat_templates;
use super::class_positions::class_positions;
use super::error::Problem;
use super::special_tokens::SpecialTokens;
use crate::support::regular_file;

/// A setting and the file it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sourced<T> {
    /// The setting.
    pub value: T,
    /// The file, with the section where it is not the top level, e.g. `config.json (decoder)`.
    pub source: String,
}

/// The parsed configuration files of a model directory; a missing one is empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ConfigFiles {
    layers: Vec<(String, Map<String, Value>)>,
    preprocessor: Option<Sourced<Value>>,
    tokenizer_config: Map<String, Value>,
    special_tokens: SpecialTokens,
    chat_template: Option<Sourced<String>>,
}

impl ConfigFiles {
    pub(super) const CONFIG: &'static str = "config.json";
    pub(super) const GENERATION: &'static str = "generation_config.json";
    pub(super) const PREPROCESSOR: [&'static str; 2] = ["preprocessor_config.json", "processor_config.json"];
    pub(super) const TOKENIZER_CONFIG: &'static str = "tokenizer_config.json";
    /// What older versions of transformers save beside `tokenizer_config.json`.
    pub(super) const SPECIAL_TOKENS: [&'static str; 2] = ["special_tokens_map.json", "added_tokens.json"];
    /// The files in which transformers saves chat templates.
    pub(super) const CHAT_TEMPLATE: [&'static str; 2] = chat_templates::FILES;
    /// Sections of `config.json` with settings of the text decoder.
    const SECTIONS: [&'static str; 3] = ["decoder", "generator", "text_config"];

    /// Reads what is in `folder`; a file that is no JSON object becomes a problem.
    pub(super) fn read(folder: &Path, problems: &mut Vec<Problem>) -> Self {
        let mut read = |name: &str| match read_object(folder, name) {
            Ok(object) => object,
            Err(problem) => {
                problems.push(problem);
                None
            }
        };
        let mut layers = Vec::new();
        if let Some(config) = read(Self::CONFIG) {
            let sections: Vec<_> = Self::SECTIONS
                .iter()
                .filter_map(|section| {
                    Some((format!("{} ({section})", Self::CONFIG), config.get(*section)?.as_object()?.clone()))
                })
                .collect();
            layers.push((Self::CONFIG.to_owned(), config));
            layers.extend(sections);
        }
        layers.extend(read(Self::GENERATION).map(|object| (Self::GENERATION.to_owned(), object)));
        let preprocessor = Self::PREPROCESSOR
            .iter()
            .find_map(|name| Some(Sourced { value: Value::Object(read(name)?), source: (*name).to_owned() }));
        let tokenizer_config = read(Self::TOKENIZER_CONFIG).unwrap_or_default();
        let mut beside = |name: &str| read(name).unwrap_or_default();
        let special_tokens =
            SpecialTokens::of(&tokenizer_config, &beside(Self::SPECIAL_TOKENS[0]), &beside(Self::SPECIAL_TOKENS[1]));
        let of_tokenizer = (Self::TOKENIZER_CONFIG, &tokenizer_config);
        let chat_template = chat_templates::find(folder, of_tokenizer, read, read_file).unwrap_or_else(|problem| {
            problems.push(problem);
            None
        });
        let chat_template = chat_template.map(|(value, source)| Sourced { value, source });
        Self { layers, preprocessor, tokenizer_config, special_tokens, chat_template }
    }

    /// Refuses sizes of `config.json` that no model has; each becomes a problem.
    pub(super) fn check_sizes(&self, problems: &mut Vec<Problem>) {
        const SIZES: [&str; 5] =
            ["max_position_embeddings", "n_positions", "patch_size", "projection_dim", "image_text_hidden_size"];
        for (source, object) in self.layers.iter().filter(|(source, _)| source != Self::GENERATION) {
            let vision = object.get("vision_config").and_then(Value::as_object);
            let named = |name| [object.get(name), vision.and_then(|vision| vision.get(name))];
            for (name, value) in SIZES.iter().flat_map(|name| named(*name).map(|value| (name, value))) {
                let Some(value) = value.filter(|value| value.is_number()) else { continue };
                if !count(value).is_some_and(|size| (1..=MOST_SIZE).contains(&size)) {
                    let what = format!("{name}: expected a whole number from 1 to {MOST_SIZE}, found {value}");
                    problems.push(Problem::new(source, what));
                }
            }
        }
    }

    /// The setting `name`: from `generation_config.json`, else from `config.json`, else from its `decoder`, `generator` or
    /// `text_config`. Null counts as not given. At the top of `config.json` a default value counts as not given, too, because older
    /// versions of transformers wrote every default there (`GenerationConfig.from_model_config` reads it the same way).
    pub fn setting(&self, name: &str) -> Option<Sourced<&Value>> {
        let find = |wanted: &dyn Fn(&str) -> bool| {
            self.layers.iter().filter(|(source, _)| wanted(source)).find_map(|(source, object)| {
                let value = object.get(name).filter(|value| !value.is_null())?;
                Some(Sourced { value, source: source.clone() })
            })
        };
        let top = find(&|source| source == Self::CONFIG);
        let section = || find(&|source| source != Self::CONFIG && source != Self::GENERATION);
        find(&|source| source == Self::GENERATION)
            .or_else(|| top.clone().filter(|found| !is_default(name, found.value)))
            .or_else(section)
            .or(top)
    }

    /// The parsed image preprocessing file, if there is one.
    pub fn preprocessor(&self) -> Option<&Sourced<Value>> {
        self.preprocessor.as_ref()
    }

    /// The name of the image preprocessing file, if there is one.
    pub(super) fn preprocessor_file(&self) -> Option<&str> {
        self.preprocessor.as_ref().map(|file| file.source.as_str())
    }

    /// The side of the image encoder's patches in pixels: `patch_size` of `config.json`'s `vision_config` or `encoder`, else of its top
    /// level.
    pub fn patch_size(&self) -> Option<usize> {
        let (_, object) = self.layers.iter().find(|(source, _)| source == Self::CONFIG)?;
        let encoder =
            ["vision_config", "encoder"].into_iter().find_map(|section| object.get(section)?.get("patch_size"));
        encoder.or_else(|| object.get("patch_size")).and_then(count)
    }

    /// The longest text in tokens that the text encoder takes, special tokens included: the smaller of
    /// `max_position_embeddings` (`config.json`, its `text_config` first) and `model_max_length` (`tokenizer_config.json`).
    pub fn max_text_tokens(&self) -> Option<usize> {
        let find = |name: &str| {
            self.layers
                .iter()
                .find(|(source, _)| source == name)
                .and_then(|(_, o)| count(o.get("max_position_embeddings")?))
        };
        let positions =
            find("config.json (text_config)").or_else(|| find(Self::CONFIG)).or_else(|| self.text_positions());
        // transformers writes 1e30 for "no limit"
        let tokenizer = self.tokenizer_config.get("model_max_length").and_then(count).filter(|&limit| limit < 1 << 20);
        // `Siglip2Processor` pads and truncates to 64 whatever the model has
        let processor = (self.model_type() == Some("siglip2")).then_some(64);
        positions.into_iter().chain(tokenizer).chain(processor).min()
    }

    /// The positions that the class of the text encoder's configuration has where the files give none.
    fn text_positions(&self) -> Option<usize> {
        let section = self.layers.iter().find(|(source, _)| source == "config.json (text_config)");
        let own = section.and_then(|(_, object)| class_positions(object.get("model_type")?.as_str()?));
        own.or_else(|| class_positions(self.model_type()?))
    }

    /// How many tokens the decoder has positions for: `max_position_embeddings` or `n_positions` of `config.json`'s `decoder`,
    /// else of its top level.
    pub fn decoder_positions(&self) -> Option<Sourced<usize>> {
        let layer = |wanted: &str| {
            let (source, object) = self.layers.iter().find(|(source, _)| source == wanted)?;
            let value = ["max_position_embeddings", "n_positions"].iter().find_map(|name| count(object.get(*name)?))?;
            Some(Sourced { value, source: source.clone() })
        };
        layer("config.json (decoder)").or_else(|| layer("config.json (text_config)")).or_else(|| layer(Self::CONFIG))
    }

    /// `model_type` of `config.json`, transformers' name of the family.
    pub fn model_type(&self) -> Option<&str> {
        self.config()?.get("model_type")?.as_str()
    }

    /// The id of the token whose embedding is replaced by image features: `image_token_id` or `image_token_index` of `config.json`.
    pub fn image_token_id(&self) -> Option<i64> {
        let config = self.config()?;
        ["image_token_id", "image_token_index"].iter().find_map(|name| config.get(*name)?.as_i64())
    }

    /// The chat template (Jinja) and the file it came from.
    pub fn chat_template(&self) -> Option<&Sourced<String>> {
        self.chat_template.as_ref()
    }

    /// `clean_up_tokenization_spaces` of `tokenizer_config.json`: whether transformers removes spaces before punctuation from decoded
    /// text.
    pub fn cleans_up_spaces(&self) -> bool {
        self.tokenizer_config.get("clean_up_tokenization_spaces").and_then(Value::as_bool).unwrap_or(false)
    }

    /// The special tokens.
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.special_tokens
    }

    /// The text of a special token, such as `bos_token`.
    pub fn special_token(&self, name: &str) -> Option<&str> {
        self.special_tokens.named(name)
    }

    /// The setting `name` of `tokenizer_config.json`; null counts as not given.
    pub fn tokenizer_setting(&self, name: &str) -> Option<&Value> {
        self.tokenizer_config.get(name).filter(|value| !value.is_null())
    }

    /// Whether it is a vision-encoder-decoder whose encoder is Donut's.
    pub fn is_donut(&self) -> bool {
        let encoder = self.config().and_then(|config| config.get("encoder")?.get("model_type")?.as_str());
        self.model_type() == Some("vision-encoder-decoder")
            && encoder.is_some_and(|kind| kind.to_lowercase().contains("donut"))
    }

    /// `model_type` of the section `section` of `config.json`.
    pub fn section_type(&self, section: &str) -> Option<&str> {
        self.config()?.get(section)?.get("model_type")?.as_str()
    }

    /// The width of embeddings whose graph does not declare one: `image_text_hidden_size` of `config.json` (BLIP, which does not use
    /// its `projection_dim`), else `projection_dim`.
    pub(super) fn projection_dim(&self) -> Option<usize> {
        let config = self.config()?;
        ["image_text_hidden_size", "projection_dim"].iter().find_map(|name| count(config.get(*name)?))
    }

    fn config(&self) -> Option<&Map<String, Value>> {
        self.layers.iter().find(|(source, _)| source == Self::CONFIG).map(|(_, config)| config)
    }
}

/// Whether `value` is the default of `name` in transformers' `GenerationConfig`.
fn is_default(name: &str, value: &Value) -> bool {
    match name {
        "max_length" => value.as_f64() == Some(20.0),
        "num_beams" | "repetition_penalty" | "length_penalty" | "temperature" => value.as_f64() == Some(1.0),
        "min_length" | "no_repeat_ngram_size" => value.as_f64() == Some(0.0),
        "do_sample" | "early_stopping" => value.as_bool() == Some(false),
        _ => false,
    }
}

fn count(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|value| usize::try_from(value).ok())
}

/// The largest size in a configuration, such as the number of positions.
const MOST_SIZE: usize = 1 << 24;
/// The most bytes of a configuration file. `tokenizer_config.json` of models with many added tokens has about 3 MB.
const MOST_BYTES: u64 = 16 << 20;

/// The contents of the file `name` in `folder`; `None` if there is none.
pub(super) fn read_file(folder: &Path, name: &str) -> Result<Option<Vec<u8>>, Problem> {
    match regular_file::read(&folder.join(name), MOST_BYTES) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Problem::new(name, format!("not readable: {error}"))),
    }
}

fn read_object(folder: &Path, name: &str) -> Result<Option<Map<String, Value>>, Problem> {
    let Some(bytes) = read_file(folder, name)? else { return Ok(None) };
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(object)) => Ok(Some(object)),
        Ok(_) => Err(Problem::new(name, "expected a JSON object")),
        Err(error) => Err(Problem::new(name, format!("not valid JSON: {error}"))),
    }
}
