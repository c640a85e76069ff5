//! The JSON files of a model directory and the order in which they override each other. In: a folder, and the folders inside it that
//! its towers have of their own. Out: parsed files and a lookup that tells which file a setting came from. What a setting means is not
//! known here.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::chat_templates;
use super::error::Problem;
use super::generation_config::{CONFIG, GENERATION, GenerationConfig, GenerationSetting, SECTIONS};
use super::json_file::{count, read_file, read_object};
use super::role::Role;
use super::sentence_modules::SentenceModules;
use super::special_tokens::SpecialTokens;
use super::tokenizer_class::TokenizerClass;

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
    pub(super) layers: Vec<(String, Map<String, Value>)>,
    /// `config.json` of a tower that has a folder of its own.
    pub(super) towers: BTreeMap<Role, Map<String, Value>>,
    generation: GenerationConfig,
    preprocessor: Option<Sourced<Value>>,
    tokenizer: Option<String>,
    pub(super) tokenizer_config: Map<String, Value>,
    special_tokens: SpecialTokens,
    chat_template: Option<Sourced<String>>,
    pub(super) sentence_modules: Option<SentenceModules>,
    /// Every file that was found, by what it is, relative to the directory.
    files: BTreeMap<&'static str, String>,
}

impl ConfigFiles {
    pub(super) const CONFIG: &'static str = CONFIG;
    pub(super) const GENERATION: &'static str = GENERATION;
    /// The names of image preprocessing files: those of transformers, of Immich, of `open_clip`, and of timm.
    pub(super) const PREPROCESSOR: [&'static str; 5] = [
        "preprocessor_config.json",
        "processor_config.json",
        "preprocess_cfg.json",
        "open_clip_config.json",
        Self::CONFIG,
    ];
    pub(super) const TOKENIZER: &'static str = "tokenizer.json";
    pub(super) const TOKENIZER_CONFIG: &'static str = "tokenizer_config.json";
    /// What older versions of transformers save beside `tokenizer_config.json`.
    pub(super) const SPECIAL_TOKENS: [&'static str; 2] = ["special_tokens_map.json", "added_tokens.json"];
    /// The files in which transformers saves chat templates.
    pub(super) const CHAT_TEMPLATE: [&'static str; 2] = chat_templates::FILES;

    /// Reads what is in `folder`; a file that is no JSON object becomes a problem. A tower that has a folder of its own in there, as
    /// `towers` says, has its files in that, or else in `folder`.
    pub(super) fn read(folder: &Path, towers: &BTreeMap<Role, String>, problems: &mut Vec<Problem>) -> Self {
        let mut read = |name: &str| match read_object(folder, name) {
            Ok(object) => object,
            Err(problem) => {
                problems.push(problem);
                None
            }
        };
        let mut layers = Vec::new();
        let (config, generation) = (read(Self::CONFIG), read(Self::GENERATION));
        let settings = GenerationConfig::of(config.as_ref(), generation.as_ref());
        if let Some(config) = config {
            let sections: Vec<_> = SECTIONS
                .iter()
                .filter_map(|section| {
                    Some((format!("{} ({section})", Self::CONFIG), config.get(*section)?.as_object()?.clone()))
                })
                .collect();
            layers.push((Self::CONFIG.to_owned(), config));
            layers.extend(sections);
        }
        layers.extend(generation.map(|object| (Self::GENERATION.to_owned(), object)));
        let inside = |role: Role, name: &str| {
            let own = towers.get(&role).map(|tower| format!("{tower}/{name}"));
            own.into_iter().chain([name.to_owned()]).find(|name| folder.join(name).exists())
        };
        let mut files: BTreeMap<&'static str, String> = BTreeMap::new();
        let mut of_towers = BTreeMap::new();
        for (role, kind) in [(Role::Vision, "vision config"), (Role::Text, "text config")] {
            let Some(name) = towers.get(&role).map(|tower| format!("{tower}/{}", Self::CONFIG)) else { continue };
            if let Some(object) = read(&name) {
                of_towers.insert(role, object);
                files.insert(kind, name);
            }
        }
        // what version 5 of transformers has saved counts before an older file that still lies there
        let is_nested = |source: &String| {
            let object = read_object(folder, source).ok().flatten();
            object.is_some_and(|object| object.get("image_processor").is_some_and(Value::is_object))
        };
        let nested = [Self::PREPROCESSOR[1]]
            .into_iter()
            .filter(|name| inside(Role::Vision, name).is_some_and(|source| is_nested(&source)));
        let preprocessor = nested.chain(Self::PREPROCESSOR).find_map(|name| {
            let source = inside(Role::Vision, name)?;
            let object = read(&source)?;
            // only timm keeps these settings in config.json
            let says = name != Self::CONFIG || object.contains_key("pretrained_cfg");
            says.then_some(Sourced { value: Value::Object(object), source })
        });
        let tokenizer = inside(Role::Text, Self::TOKENIZER).filter(|name| folder.join(name).is_file());
        let tokenizer_file = inside(Role::Text, Self::TOKENIZER_CONFIG);
        let tokenizer_config = tokenizer_file.as_deref().and_then(&mut read).unwrap_or_default();
        let beside = Self::SPECIAL_TOKENS.map(|name| inside(Role::Text, name));
        let mut beside_of = |at: usize| beside[at].as_deref().and_then(&mut read).unwrap_or_default();
        let of_text = of_towers.get(&Role::Text).or_else(|| layers.first().map(|(_, config)| config));
        let class = TokenizerClass::of(&tokenizer_config, of_text);
        let special_tokens = SpecialTokens::of(class, &tokenizer_config, &beside_of(0), &beside_of(1));
        let of_tokenizer = (Self::TOKENIZER_CONFIG, &tokenizer_config);
        let chat_template = chat_templates::find(folder, of_tokenizer, read, read_file).unwrap_or_else(|problem| {
            problems.push(problem);
            None
        });
        let chat_template = chat_template.map(|(value, source)| Sourced { value, source });
        let sentence_modules = SentenceModules::read(folder, towers.get(&Role::Text).map(String::as_str), problems);
        let modules = sentence_modules.iter().flat_map(|modules| modules.files.clone());
        let at_root = |name: &'static str| folder.join(name).is_file().then(|| (name, name.to_owned()));
        files.extend([Self::CONFIG, Self::CHAT_TEMPLATE[0], Self::CHAT_TEMPLATE[1]].into_iter().filter_map(at_root));
        files.extend(tokenizer.iter().map(|file| (Self::TOKENIZER, file.clone())));
        files.extend(tokenizer_file.iter().map(|file| (Self::TOKENIZER_CONFIG, file.clone())));
        let named = Self::SPECIAL_TOKENS.into_iter().zip(&beside);
        files.extend(named.filter_map(|(name, file)| Some((name, file.clone()?))));
        files.extend(preprocessor.iter().map(|file| ("preprocessor", file.source.clone())));
        files.extend(modules);
        let towers = of_towers;
        Self {
            layers,
            generation: settings,
            towers,
            preprocessor,
            tokenizer,
            tokenizer_config,
            special_tokens,
            chat_template,
            sentence_modules,
            files,
        }
    }

    /// The files on which results depend, relative to the directory, by what they are; without `generation_config.json`, which counts
    /// only through the settings resolved from it.
    pub(super) fn files(&self) -> &BTreeMap<&'static str, String> {
        &self.files
    }

    /// `tokenizer.json`, relative to the directory.
    pub(super) fn tokenizer(&self) -> Option<&str> {
        self.tokenizer.as_deref()
    }

    /// What sentence-transformers does after the text encoder, if the directory says it.
    pub(super) fn sentence_modules(&self) -> Option<&SentenceModules> {
        self.sentence_modules.as_ref()
    }

    /// The object of `config.json` that describes the tower of `role`: its own one, or that of the directory.
    fn of_tower(&self, role: Role) -> Option<&Map<String, Value>> {
        self.towers.get(&role).or_else(|| self.config())
    }

    /// `model_type` of the tower of `role`.
    pub(super) fn tower_type(&self, role: Role) -> Option<&str> {
        self.of_tower(role)?.get("model_type")?.as_str()
    }

    /// Whether images and texts are embedded into one space, as far as the files say: the towers are of one family.
    pub(super) fn towers_belong_together(&self) -> bool {
        let family = |role| {
            self.tower_type(role).map(|kind| kind.trim_end_matches("_vision_model").trim_end_matches("_text_model"))
        };
        self.towers.is_empty() || family(Role::Vision) == family(Role::Text)
    }

    /// The width of the states of the tower of `role`.
    pub(super) fn hidden_size(&self, role: Role) -> Option<usize> {
        let config = self.of_tower(role)?;
        let last = config.get("hidden_sizes").and_then(Value::as_array).and_then(|sizes| sizes.last());
        ["hidden_size", "n_embd", "d_model", "embed_dim"]
            .iter()
            .find_map(|name| count(config.get(*name)?))
            .or(last.and_then(count))
    }

    /// The names of the classes that the checkpoint was saved from, such as `DetrForObjectDetection`.
    pub(super) fn architectures(&self) -> Vec<&str> {
        let known = self.config().into_iter().chain(self.towers.values());
        let lists = known.filter_map(|config| config.get("architectures")?.as_array());
        lists.flatten().filter_map(Value::as_str).collect()
    }

    /// How many classes a classifier tells apart.
    pub(super) fn classes(&self) -> Option<usize> {
        let config = self.config()?;
        let named = config.get("id2label").and_then(Value::as_object).map(Map::len);
        named.or_else(|| count(config.get("num_labels").or_else(|| config.get("num_classes"))?))
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

    /// The generation setting `name`; null counts as not given.
    pub fn setting(&self, name: &str) -> Option<Sourced<&Value>> {
        self.given(name).filter(|found| !found.value.is_null())
    }

    /// The generation setting `name`, or its null: for transformers, a null in a file is another thing than no setting.
    pub fn given(&self, name: &str) -> Option<Sourced<&Value>> {
        let GenerationSetting { value, source } = self.generation.get(name)?;
        Some(Sourced { value, source: source.clone() })
    }

    /// The names in `generation_config.json`, if settings come from it.
    pub fn generation_names(&self) -> impl Iterator<Item = &str> {
        self.generation.names()
    }

    /// The id of a special token that is called `name`, such as `bos_token_id`: from `generation_config.json`, else from `config.json`, else
    /// from its sections.
    pub fn special_token_id(&self, name: &str) -> Option<i64> {
        let (generation, others): (Vec<_>, Vec<_>) =
            self.layers.iter().partition(|(source, _)| source == Self::GENERATION);
        let found = generation.into_iter().chain(others).filter_map(|(_, object)| object.get(name));
        found.filter(|value| !value.is_null()).map(Value::as_i64).next().flatten()
    }

    /// The parsed image preprocessing file, if there is one.
    pub fn preprocessor(&self) -> Option<&Sourced<Value>> {
        self.preprocessor.as_ref()
    }

    /// The side of the image encoder's patches in pixels: `patch_size` of `config.json`'s `vision_config` or `encoder`, else of its top
    /// level.
    pub fn patch_size(&self) -> Option<usize> {
        let (_, object) = self.layers.iter().find(|(source, _)| source == Self::CONFIG)?;
        let encoder = ["vision_config", "encoder", "vision_cfg"]
            .into_iter()
            .find_map(|section| object.get(section)?.get("patch_size"));
        let own = self.towers.get(&Role::Vision).and_then(|tower| tower.get("patch_size"));
        own.or(encoder).or_else(|| object.get("patch_size")).and_then(count)
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

    /// The setting `name` of `tokenizer_config.json`, true or false; `default` if it is not there, `None` for other values.
    pub fn tokenizer_flag(&self, name: &str, default: bool) -> Option<bool> {
        self.tokenizer_config.get(name).map_or(Some(default), Value::as_bool)
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
        ["image_text_hidden_size", "projection_dim", "embed_dim"].iter().find_map(|name| count(config.get(*name)?))
    }

    /// The parsed `config.json`, if there is one.
    pub fn config(&self) -> Option<&Map<String, Value>> {
        self.layers.iter().find(|(source, _)| source == Self::CONFIG).map(|(_, config)| config)
    }
}

/// The largest size in a configuration, such as the number of positions.
const MOST_SIZE: usize = 1 << 24;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test fails by panicking and writes files")]

    use super::ConfigFiles;

    #[test]
    fn an_image_processor_inside_processor_config_counts_before_one_of_its_own_file() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &str| std::fs::write(folder.path().join(name), content).unwrap();
        let source = || {
            let files = ConfigFiles::read(folder.path(), &std::collections::BTreeMap::new(), &mut Vec::new());
            files.preprocessor().map(|found| found.source.clone())
        };
        write("preprocessor_config.json", "{}");
        write("processor_config.json", r#"{"image_seq_len": 4}"#);
        assert_eq!(source().as_deref(), Some("preprocessor_config.json"));
        write("processor_config.json", r#"{"image_processor": {"size": 4}}"#);
        assert_eq!(source().as_deref(), Some("processor_config.json"));
    }
}
