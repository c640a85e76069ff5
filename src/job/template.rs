//! A new job file: the keys that a job needs, and every other key in a comment with its default or an example.

/// The text of every job file; `{name}` at the start of a line stands for what [`JobTemplate`] fills in.
const TEMPLATE: &str = include_str!("template.toml");
/// Where comments begin, if the line before is not longer.
const COMMENT_COLUMN: usize = 36;

/// What differs between new job files.
#[derive(Debug, Clone, Default)]
pub struct JobTemplate {
    /// How the manifest was made, a sentence for a comment.
    pub origin: Option<String>,
    /// `input.manifest`
    pub manifest: String,
    /// `input.key`
    pub key: String,
    /// `input.image`; None: the job embeds texts only.
    pub image: Option<String>,
    /// `input.text`
    pub text: Option<String>,
    /// `model.path`; None: the user fills it in.
    pub model: Option<String>,
}

impl JobTemplate {
    /// The job file's text.
    #[must_use]
    pub fn render(&self) -> String {
        let string = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let set = |key: &str, value: &str| format!("{key} = {}", string(value));
        let or_example = |key: &str, value: Option<&String>, example: &str| match value {
            Some(value) => set(key, value),
            None => format!("# {}", set(key, example)),
        };
        let model = match &self.model {
            Some(path) => {
                format!("{}  # a model directory; `nightcap model inspect DIR` says what it can do", set("path", path))
            }
            None => "# path = \"DIR\"  # FILL IN: a model directory; `nightcap model inspect DIR` says what it can do"
                .to_owned(),
        };
        let origin = self.origin.as_ref().map_or_else(String::new, |origin| format!("# {origin}\n"));
        let filled = [
            ("{origin}", origin),
            ("{manifest}", set("manifest", &self.manifest)),
            ("{key}", set("key", &self.key)),
            ("{image}", or_example("image", self.image.as_ref(), "image")),
            ("{text}", or_example("text", self.text.as_ref(), "title")),
            ("{model}", model),
        ];
        let line = |line: &str| {
            let filled = filled.iter().find_map(|(name, text)| Some((text.as_str(), line.strip_prefix(name)?)));
            // Only the template's own words are replaced, not those of a name.
            let (text, rest) = filled.unwrap_or(("", line));
            let example = if text.starts_with('#') { "(example) " } else { "" };
            align(&format!("{text}{}", rest.replacen("{example}", example, 1))) + "\n"
        };
        TEMPLATE.lines().map(line).collect()
    }
}

/// Puts the comment behind a value where the others are.
fn align(line: &str) -> String {
    match line.rsplit_once("  # ") {
        Some((value, comment)) => format!("{value:<COMMENT_COLUMN$}  # {comment}"),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::job::Job;
    use crate::job::keys::SECTIONS;

    fn template() -> JobTemplate {
        let text = |text: &str| text.to_owned();
        let (manifest, key, model) = (text("m.parquet"), text("id"), Some(text("model")));
        JobTemplate { origin: None, manifest, key, image: Some(text("image")), text: Some(text("title")), model }
    }

    fn parse(text: &str) -> Job {
        Job::parse(text, "job.toml", Path::new("/"), &[]).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    /// Every commented key: its section, its name, its comment, and the file with it taken out of the comment.
    fn uncommented(text: &str) -> Vec<(String, String, String, String)> {
        let lines: Vec<&str> = text.lines().collect();
        let mut section = String::new();
        let mut keys = Vec::new();
        for (index, line) in lines.iter().enumerate() {
            section = line.strip_prefix('[').map_or(section, |line| line.trim_end_matches(']').to_owned());
            let Some((key, rest)) = line.strip_prefix("# ").and_then(|line| line.split_once(" = ")) else { continue };
            if !key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') {
                continue;
            }
            let mut lines = lines.clone();
            lines[index] = &line[2..];
            let comment = rest.rsplit_once("  # ").map_or("", |(_, comment)| comment);
            keys.push((section.clone(), key.to_owned(), comment.to_owned(), lines.join("\n")));
        }
        keys
    }

    #[test]
    fn every_key_once() {
        let text = template().render();
        let mut keys: Vec<String> =
            uncommented(&text).into_iter().map(|(section, key, _, _)| format!("{section}.{key}")).collect();
        for (section, table) in text.parse::<toml::Table>().unwrap() {
            keys.extend(table.as_table().unwrap().keys().map(|key| format!("{section}.{key}")));
        }
        keys.sort();
        let mut known: Vec<String> =
            SECTIONS.iter().flat_map(|(name, keys)| keys.iter().map(move |key| format!("{name}.{key}"))).collect();
        known.sort();
        assert_eq!(keys, known);
    }

    /// Whether a default is that of the code: the job is the same with the line and without. What a job leaves to the model is
    /// tested with models.
    #[test]
    fn defaults_are_defaults_and_examples_are_not() {
        let text = template().render();
        let job = format!("{:?}", parse(&text));
        let (mut defaults, mut examples) = (0, 0);
        for (section, key, comment, text) in uncommented(&text) {
            let with = format!("{:?}", parse(&text));
            if comment.starts_with("(example)") {
                assert!(with != job, "{section}.{key} is the default");
                examples += 1;
            } else if section != "generation" && !comment.contains("if the model can") {
                assert_eq!(with, job, "{section}.{key}");
                defaults += 1;
            }
        }
        assert!(defaults > 10 && examples > 10, "{defaults} {examples}");
    }

    #[test]
    fn what_is_left_out_and_what_needs_quotes() {
        let (manifest, key) = ("a \"b\"  # c\\d\n.parquet".to_owned(), "ключ  # {example}{key}".to_owned());
        let template = JobTemplate { manifest: manifest.clone(), key: key.clone(), ..JobTemplate::default() };
        let text = template.render();
        let table: toml::Table = text.parse().unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(table["input"]["manifest"].as_str(), Some(manifest.as_str()));
        assert_eq!(table["input"]["key"].as_str(), Some(key.as_str()));
        assert_eq!(table["input"].as_table().unwrap().len(), 2);
        let missing = |text: &str| Job::parse(text, "job.toml", Path::new("/"), &[]).unwrap_err().to_string();
        assert!(missing(&text).contains("input.image"), "{}", missing(&text));
        insta::assert_snapshot!(missing(&text.replace("# image", "image")), @r#"
        job.toml: `model.path` is missing: the model directory
        hint: write path = "DIR" below [model]; `nightcap model inspect DIR` says what a directory can do
        "#);
    }
}
