//! Which chat template is the model's. In: the model's folder. Out: the template and its file, as transformers' processors find it, or a
//! problem. What a template says is not known here.
//!
//! In order: `chat_template.json`, `chat_template.jinja` (or the template of that place in `additional_chat_templates`),
//! `processor_config.json`, `tokenizer_config.json`. Where templates have names, it is the one that is called `default`.

use std::path::Path;

use serde_json::{Map, Value};

use super::error::Problem;

/// The name of the template that is taken out of several.
const DEFAULT: &str = "default";
/// The files in which transformers saves chat templates.
pub(super) const FILES: [&str; 2] = ["chat_template.jinja", "chat_template.json"];
const JINJA: &str = FILES[0];
const FOLDER: &str = "additional_chat_templates";

/// The content of a file, if there is one.
pub(super) type ReadFile = fn(&Path, &str) -> Result<Option<Vec<u8>>, Problem>;

/// The template of the model in `folder`, and its file. `read` gives the object in a JSON file, `read_file` the content of any, and
/// `tokenizer_config` is the object of the file `tokenizer_file`.
pub(super) fn find(
    folder: &Path,
    (tokenizer_file, tokenizer_config): (&str, &Map<String, Value>),
    mut read: impl FnMut(&str) -> Option<Map<String, Value>>,
    read_file: ReadFile,
) -> Result<Option<(String, String)>, Problem> {
    let legacy = FILES[1];
    if let Some(found) = read(legacy).and_then(|object| in_json(&object, legacy)) {
        return found.map(Some);
    }
    if let Some(found) = in_jinja(folder, read_file)? {
        return Ok(Some(found));
    }
    let processor = "processor_config.json";
    let found = read(processor).and_then(|object| in_json(&object, processor));
    found.or_else(|| in_json(tokenizer_config, tokenizer_file)).transpose()
}

/// The template in the JSON file `source`: a text, a list of named ones, or an object of them.
fn in_json(object: &Map<String, Value>, source: &str) -> Option<Result<(String, String), Problem>> {
    let value = object.get("chat_template").filter(|value| !value.is_null())?;
    let text = match value {
        Value::Array(named) => {
            let default = named.iter().find(|entry| entry["name"] == DEFAULT);
            default.and_then(|entry| entry["template"].as_str())
        }
        Value::Object(named) => named.get(DEFAULT).and_then(Value::as_str),
        value => value.as_str(),
    };
    let several = || Problem::new(source, format!("chat_template: expected a text, or one that is called {DEFAULT:?}"));
    Some(text.map(|text| (text.to_owned(), source.to_owned())).ok_or_else(several))
}

/// `chat_template.jinja`, else the default template in the folder of additional ones.
fn in_jinja(folder: &Path, read_file: ReadFile) -> Result<Option<(String, String)>, Problem> {
    let inner = format!("{FOLDER}/{DEFAULT}.jinja");
    for name in [JINJA, &inner] {
        if let Some(bytes) = read_file(folder, name)? {
            let value = String::from_utf8(bytes).map_err(|_| Problem::new(name, "expected text in UTF-8"))?;
            return Ok(Some((value, name.to_owned())));
        }
    }
    let is_template = |entry: &std::fs::DirEntry| entry.path().extension().is_some_and(|ending| ending == "jinja");
    let mut others = std::fs::read_dir(folder.join(FOLDER)).into_iter().flatten().filter_map(Result::ok);
    if others.any(|entry| is_template(&entry)) {
        let what = format!("expected {JINJA} or a template that is called {DEFAULT}, found others only");
        return Err(Problem::new(FOLDER, what).with_hint(format!("copy the one that captions need to {JINJA}")));
    }
    Ok(None)
}
