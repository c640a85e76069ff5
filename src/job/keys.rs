//! Every key a job file may have. Unknown keys are errors that name the nearest known one. Nothing is ever ignored.

use super::JobFileError;

/// The sections of a job file with their keys.
const SECTIONS: &[(&str, &[&str])] = &[
    ("input", &["manifest", "key", "image", "text", "where", "signature", "on_duplicate_key", "jpeg_scaling"]),
    ("model", &["path", "precision"]),
    (
        "generation",
        &[
            "enabled",
            "strategy",
            "max_new_tokens",
            "min_new_tokens",
            "num_beams",
            "length_penalty",
            "early_stopping",
            "temperature",
            "top_k",
            "top_p",
            "min_p",
            "repetition_penalty",
            "no_repeat_ngram_size",
            "stop",
            "seed",
            "prompt",
        ],
    ),
    ("embedding", &["image", "text", "fused", "caption_similarity", "dtype", "model"]),
    ("output", &["path", "columns", "part_rows", "reuse_by_content"]),
    ("runtime", &["devices", "batch_size", "prefetch_bytes", "threads"]),
    (
        "limits",
        &[
            "max_failed_fraction",
            "min_failed_rows",
            "max_image_bytes",
            "max_image_pixels",
            "fetch_timeout_ms",
            "retries",
            "outage_after",
            "roots",
        ],
    ),
    (
        "storage",
        &[
            "endpoint",
            "region",
            "path_style",
            "anonymous",
            "profile",
            "access_key_id_env",
            "secret_access_key_env",
            "session_token_env",
            "token_env",
        ],
    ),
];

/// Checks that section `section` and, if given, its key `key` exist.
pub(super) fn check(section: &str, key: Option<&str>) -> Result<(), JobFileError> {
    let Some((_, keys)) = SECTIONS.iter().find(|(name, _)| *name == section) else {
        let nearest = nearest(section, SECTIONS.iter().map(|(name, _)| *name));
        return Err(JobFileError::UnknownSection { section: section.to_owned(), nearest });
    };
    let Some(key) = key else { return Ok(()) };
    if keys.contains(&key) {
        return Ok(());
    }
    Err(JobFileError::UnknownKey { key: format!("{section}.{key}"), hint: hint(key, keys) })
}

/// What an unknown key was probably meant to be: a key of another section whose line is missing, or one spelt alike.
fn hint(key: &str, keys: &[&str]) -> String {
    let elsewhere = SECTIONS.iter().filter(|(_, keys)| keys.contains(&key));
    let elsewhere: Vec<_> = elsewhere.map(|(section, _)| format!("[{section}]")).collect();
    if elsewhere.is_empty() {
        return format!("did you mean `{}`?", nearest(key, keys.iter().copied()));
    }
    format!("`{key}` is a key of {}; is that line missing above it?", elsewhere.join(" and "))
}

/// The known name most like `name`, by Jaro-Winkler similarity.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    known
        .max_by(|a, b| strsim::jaro_winkler(name, a).total_cmp(&strsim::jaro_winkler(name, b)))
        .unwrap_or_default()
        .to_owned()
}
