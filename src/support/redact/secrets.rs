//! Values that are known to be secrets: those of the environment, and those that a job refers to.

use std::sync::{PoisonError, RwLock};

use super::names::{HIDDEN, is_secret_name};

/// Shorter ones are no secrets, and would hide words.
const SHORTEST: usize = 4;
/// Shorter ones are hidden as whole words only.
const SHORTEST_WITHIN_WORDS: usize = 8;

static SECRETS: RwLock<Vec<String>> = RwLock::new(Vec::new());

/// Hides `secret` from now on, also as it is written in URLs, in JSON and in quotes.
pub fn remember(secret: &str) {
    let encoded: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let json = serde_json::to_string(secret).unwrap_or_default();
    let quoted = format!("{secret:?}");
    let inner = |text: &str| text.get(1..text.len().saturating_sub(1)).unwrap_or_default().to_owned();
    let forms = [secret.to_owned(), encoded.clone(), encoded.replace('+', "%20"), inner(&json), inner(&quoted)];
    // Of one with several lines, such as a key file, a message may show one.
    let lines = secret.lines().filter(|_| secret.contains('\n')).map(|line| line.trim().to_owned());
    let mut secrets = SECRETS.write().unwrap_or_else(PoisonError::into_inner);
    secrets.extend(forms.into_iter().chain(lines).filter(|form| form.len() >= SHORTEST));
    // Longer ones first: one may be a part of another.
    secrets.sort_unstable_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
    secrets.dedup();
}

/// Hides the values of variables that are named like secrets. Paths of files that are there are none.
pub fn remember_environment(variables: impl IntoIterator<Item = (String, String)>) {
    let is_key =
        |name: &str| name.to_ascii_uppercase().ends_with("_KEY") || name.to_ascii_uppercase().ends_with("_TOKEN");
    for (name, value) in variables {
        if (is_secret_name(&name) || is_key(&name))
            && !(value.starts_with(['/', '.']) && std::path::Path::new(&value).exists())
        {
            remember(&value);
        }
    }
}

/// `text` without the secrets that are known.
pub(super) fn hidden(text: &str) -> String {
    let secrets = SECRETS.read().unwrap_or_else(PoisonError::into_inner);
    let mut shown = text.to_owned();
    for secret in secrets.iter().filter(|secret| text.contains(secret.as_str())) {
        shown = if secret.len() >= SHORTEST_WITHIN_WORDS {
            shown.replace(secret, HIDDEN)
        } else {
            without_word(&shown, secret)
        };
    }
    shown
}

fn without_word(text: &str, word: &str) -> String {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let (mut shown, mut at) = (String::new(), 0);
    while let Some(found) = text[at..].find(word).map(|found| at + found) {
        let end = found + word.len();
        let is_word =
            !text[..found].chars().next_back().is_some_and(is_part) && !text[end..].chars().next().is_some_and(is_part);
        shown.push_str(&text[at..found]);
        shown.push_str(if is_word { HIDDEN } else { word });
        at = end;
    }
    shown.push_str(&text[at..]);
    shown
}
