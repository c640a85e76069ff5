//! What transformers' configuration classes say where config.json says nothing: files are saved without the defaults of their class.
//! `defaults.json` has them by `model_type`; `tests/goldens/make_generation_files.py` writes it.

use std::sync::LazyLock;

use serde_json::{Map, Value};

static DEFAULTS: LazyLock<Map<String, Value>> =
    LazyLock::new(|| serde_json::from_str(include_str!("defaults.json")).unwrap_or_default());

/// The defaults of `model_type` that differ from those of all classes; empty for a type that has none or is not known.
pub(super) fn class_defaults(model_type: Option<&str>) -> &'static Map<String, Value> {
    static NONE: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);
    model_type.and_then(|model_type| DEFAULTS.get(model_type)?.as_object()).unwrap_or(&NONE)
}

/// The `model_type` of `object`, a config.json or one of its sections; `None` if it has none.
pub(super) fn model_type(object: &Map<String, Value>) -> Option<&str> {
    object.get("model_type")?.as_str()
}
