//! Files of a model directory, read with a limit. In: a folder and a name. Out: bytes, a JSON object, or a problem that names the file.

use std::path::Path;

use serde_json::{Map, Value};

use super::error::Problem;
use crate::support::regular_file;

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

/// The object in the file `name` in `folder`; `None` if there is none.
pub(super) fn read_object(folder: &Path, name: &str) -> Result<Option<Map<String, Value>>, Problem> {
    let Some(bytes) = read_file(folder, name)? else { return Ok(None) };
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(object)) => Ok(Some(object)),
        Ok(_) => Err(Problem::new(name, "expected a JSON object")),
        Err(error) => Err(Problem::new(name, format!("not valid JSON: {error}"))),
    }
}

/// A number of things.
pub(super) fn count(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|value| usize::try_from(value).ok())
}
