//! Hints for misspelt names: the known name that is most similar.

/// The least similarity, 0 to 1, with which a known name is suggested.
const ALIKE: f64 = 0.75;

/// Text for a `hint:` about `word`, which is not in `known`: "did you mean X?" if a known name is similar, otherwise all known
/// names. `show` adds the quotes or brackets around a name.
pub(crate) fn did_you_mean<S: AsRef<str>>(word: &str, known: &[S], show: impl Fn(&str) -> String) -> String {
    let names = || known.iter().map(AsRef::as_ref);
    match names().map(|name| (likeness(word, name), name)).max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((likeness, name)) if likeness > ALIKE => format!("did you mean {}?", show(name)),
        _ => format!("known are {}", names().map(show).collect::<Vec<_>>().join(", ")),
    }
}

/// Jaro-Winkler similarity. It is low for short names, so names that are one edit or transposition apart count as equal.
fn likeness(a: &str, b: &str) -> f64 {
    if strsim::osa_distance(a, b) <= 1 { 1.0 } else { strsim::jaro_winkler(a, b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_names() {
        let hint = |word: &str, known: &[&str]| did_you_mean(word, known, |name| format!("`{name}`"));
        let keys = ["manifest", "key", "image", "text", "where", "signature"];
        assert_eq!(hint("kye", &keys), "did you mean `key`?");
        assert_eq!(hint("image_column", &keys), "did you mean `image`?");
        assert_eq!(hint("manifset", &keys), "did you mean `manifest`?");
        assert_eq!(hint("batch", &keys[..2]), "known are `manifest`, `key`");
        assert_eq!(hint("key", &[]), "known are ");
    }
}
