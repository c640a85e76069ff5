//! What sentence-transformers does with the states of a text encoder. In: `modules.json`, the settings of its pooling module, and
//! `sentence_bert_config.json`. Out: [`SentenceModules`], or the steps that are not known here.

use std::path::{Component, Path};

use serde_json::{Map, Value};

use super::error::Problem;
use super::json_file::{count, read_file, read_object};
use super::pooling::Pooling;

/// The steps after the text encoder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SentenceModules {
    /// How states become one vector, and the file that says it.
    pub(super) pooling: Option<(Pooling, String)>,
    /// Why the vector cannot be made from the states here, if so.
    pub(super) unsupported: Option<String>,
    /// What is done to texts before they are tokenized, if so; that is not done here.
    pub(super) changes_texts: Option<String>,
    /// The longest text in tokens.
    pub(super) max_seq_length: Option<usize>,
    /// The files that were read, by what they are, relative to the directory.
    pub(super) files: Vec<(&'static str, String)>,
}

/// The modes of a pooling module: the key that is true for one, and its name under the key [`MODE`], which version 6 writes instead.
const MODES: [(&str, &str, Option<Pooling>); 6] = [
    ("pooling_mode_cls_token", "cls", Some(Pooling::Cls)),
    ("pooling_mode_mean_tokens", "mean", Some(Pooling::Mean)),
    ("pooling_mode_lasttoken", "lasttoken", Some(Pooling::Eos)),
    ("pooling_mode_max_tokens", "max", None),
    ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens", None),
    ("pooling_mode_weightedmean_tokens", "weightedmean", None),
];
const MODE: &str = "pooling_mode";

/// The modes that the settings of a pooling module ask for, each with what it is here.
fn modes(settings: &Map<String, Value>) -> Vec<(String, Option<Pooling>)> {
    let named = |value: &Value| {
        let known = MODES.iter().find(|(_, name, _)| value == name);
        let name = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        (format!("{MODE} {name:?}"), known.and_then(|(.., pooling)| *pooling))
    };
    match settings.get(MODE) {
        Some(Value::Array(several)) => several.iter().map(named).collect(),
        Some(one) => vec![named(one)],
        None => {
            let on = |key: &str| settings.get(key).and_then(Value::as_bool) == Some(true);
            let chosen = MODES.iter().filter(|(key, ..)| on(key));
            chosen.map(|(key, _, pooling)| ((*key).to_owned(), *pooling)).collect()
        }
    }
}

impl SentenceModules {
    const MODULES: &'static str = "modules.json";
    const SETTINGS: &'static str = "sentence_bert_config.json";
    const PROMPTS: &'static str = "config_sentence_transformers.json";
    /// Where the pooling module is saved if `modules.json` is missing, as in copies for other libraries.
    const POOLING: &'static str = "1_Pooling";

    /// Reads the files in `tower`, a folder inside `folder`, or else in `folder`; `None` if there are none.
    pub(super) fn read(folder: &Path, tower: Option<&str>, problems: &mut Vec<Problem>) -> Option<Self> {
        let base = |base: &str| {
            [Self::MODULES.to_owned(), format!("{}/config.json", Self::POOLING)]
                .iter()
                .any(|name| folder.join(base).join(name).is_file())
        };
        let base = tower.into_iter().chain([""]).find(|inner| base(inner))?;
        let at = |name: &str| if base.is_empty() { name.to_owned() } else { format!("{base}/{name}") };
        let mut modules = Self::default();
        let object = |name: &str, problems: &mut Vec<Problem>| {
            read_object(folder, name).unwrap_or_else(|problem| {
                problems.push(problem);
                None
            })
        };
        let settings = at(Self::SETTINGS);
        if let Some(found) = object(&settings, problems) {
            modules.max_seq_length = found.get("max_seq_length").and_then(count).filter(|length| *length > 0);
            if found.get("do_lower_case").and_then(Value::as_bool) == Some(true) {
                modules.changes_texts = Some(format!("{settings} asks for texts in lower case (do_lower_case)"));
            }
            modules.files.push(("sentence settings", settings));
        }
        let prompts = at(Self::PROMPTS);
        if let Some(name) =
            object(&prompts, problems).and_then(|found| found.get("default_prompt_name")?.as_str().map(str::to_owned))
        {
            modules.changes_texts = Some(format!("{prompts} puts the prompt {name:?} before every text"));
        }
        let mut pooling = vec![at(Self::POOLING)];
        let listed = at(Self::MODULES);
        if folder.join(&listed).is_file() {
            match read_modules(folder, &listed) {
                Ok(found) => {
                    let unknown = found.iter().find(|(kind, _)| {
                        !["Transformer", "Pooling", "Normalize", "CLIPModel"].contains(&kind.as_str())
                    });
                    if let Some((kind, _)) = unknown {
                        modules.unsupported = Some(format!("{listed} has the step {kind}, which is not in the graph"));
                    }
                    pooling =
                        found.into_iter().filter(|(kind, _)| kind == "Pooling").map(|(_, path)| at(&path)).collect();
                }
                Err(problem) => problems.push(problem),
            }
            modules.files.push(("sentence modules", listed));
        }
        for inner in pooling.into_iter().filter(|inner| is_plain(inner)) {
            let file = format!("{inner}/config.json");
            let Some(found) = object(&file, problems) else { continue };
            match modes(&found).as_slice() {
                [(_, Some(pooling))] => modules.pooling = Some((*pooling, file.clone())),
                others => {
                    let names: Vec<_> = others.iter().map(|(name, _)| name.as_str()).collect();
                    let names = if names.is_empty() { "no mode".to_owned() } else { names.join(" and ") };
                    modules.unsupported =
                        Some(format!("{file} asks for {names}; known are cls, mean and last token, one of them"));
                }
            }
            modules.files.push(("sentence pooling", file));
        }
        Some(modules)
    }
}

/// The kinds of the modules in `file`, each with its folder.
fn read_modules(folder: &Path, file: &str) -> Result<Vec<(String, String)>, Problem> {
    let invalid = |what: String| Problem::new(file, what);
    let bytes = read_file(folder, file)?.unwrap_or_default();
    let list: Value = serde_json::from_slice(&bytes).map_err(|error| invalid(format!("not valid JSON: {error}")))?;
    let list = list.as_array().ok_or_else(|| invalid("expected a list of modules".to_owned()))?;
    let text = |module: &Value, key: &str| module.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let kind = |module: &Value| text(module, "type").rsplit('.').next().unwrap_or_default().to_owned();
    Ok(list.iter().map(|module| (kind(module), text(module, "path"))).collect())
}

/// Whether `path` stays inside the directory.
fn is_plain(path: &str) -> bool {
    Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}
