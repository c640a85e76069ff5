//! AWS profiles: what `~/.aws/config` and `~/.aws/credentials` say for `AWS_PROFILE`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::settings::variable;

/// The settings of one profile by name, those of the credentials file over those of the config file.
pub(super) fn load(name: Option<&str>) -> BTreeMap<String, String> {
    let name = name.map(str::to_owned).or_else(|| variable("AWS_PROFILE")).unwrap_or_else(|| "default".to_owned());
    let file = |from: &str, default: &str| {
        let path = variable(from).map(PathBuf::from);
        path.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".aws").join(default)))
    };
    let mut settings = BTreeMap::new();
    for (path, prefix) in
        [(file("AWS_CONFIG_FILE", "config"), "profile "), (file("AWS_SHARED_CREDENTIALS_FILE", "credentials"), "")]
    {
        // Both files are optional.
        let text = path.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
        settings.extend(section(&text, &name, prefix));
    }
    settings
}

/// The `key = value` lines of section `[name]`, or `[profile name]` with that prefix.
fn section(text: &str, name: &str, prefix: &str) -> BTreeMap<String, String> {
    let mut inside = false;
    let mut settings = BTreeMap::new();
    for line in text.lines() {
        let line = line.trim_end();
        if let Some(header) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            let header = header.trim();
            inside = header == name || header.strip_prefix(prefix).is_some_and(|header| header.trim() == name);
        } else if inside
            // Indented lines belong to a nested setting, a `#` or `;` begins a comment.
            && !line.starts_with([' ', '\t', '#', ';'])
            && let Some((key, value)) = line.split_once('=')
        {
            settings.insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_of_both_files() {
        let text = "[default]\nregion = one\n# region = none\n[profile night]\nregion=two\ns3 =\n  max = 3\n[other]\nregion=three\n";
        let region = |name: &str, prefix: &str| section(text, name, prefix).get("region").cloned();
        assert_eq!(region("default", "profile ").as_deref(), Some("one"));
        assert_eq!(region("night", "profile ").as_deref(), Some("two"));
        assert_eq!(region("night", ""), None);
        assert_eq!(region("other", "").as_deref(), Some("three"));
        assert!(!section(text, "night", "profile ").contains_key("max"));
    }
}
