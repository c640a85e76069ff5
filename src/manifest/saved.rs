//! Folders that Hugging Face's `datasets.save_to_disk` writes: which files hold the rows.

use std::sync::Arc;

use object_store::ObjectStoreExt;
use serde::Deserialize;

use super::error::ManifestError;
use crate::storage::{Location, Storage};
use crate::support::regular_file;

/// Names the files of a data set.
pub(super) const STATE: &str = "state.json";
/// Names the splits of several.
pub(super) const SPLITS: &str = "dataset_dict.json";
/// The most bytes of either.
const MOST_BYTES: u64 = 64 << 20;

#[derive(Debug, Deserialize)]
struct State {
    #[serde(rename = "_data_files")]
    files: Vec<DataFile>,
}

#[derive(Debug, Deserialize)]
struct DataFile {
    filename: String,
}

#[derive(Debug, Deserialize)]
struct Splits {
    splits: Vec<String>,
}

/// The files of the data set in `folder`, which has the file `file`, [`STATE`] or [`SPLITS`]. None: it is of something else.
///
/// # Errors
/// [`ManifestError::Splits`], and when the file cannot be read.
pub(super) fn files(
    folder: &Location,
    file: &str,
    storage: &Arc<Storage>,
) -> Result<Option<Vec<Location>>, ManifestError> {
    let below = |name: &str| match folder {
        Location::Local(folder) => Location::Local(folder.join(name)),
        Location::Object { key, .. } => {
            folder.with_key(format!("{}/{name}", key.trim_end_matches('/')).trim_start_matches('/'))
        }
        Location::Http(_) => folder.clone(),
    };
    let text = read(&below(file), storage)?;
    if file == SPLITS {
        let Ok(Splits { splits }) = serde_json::from_slice(&text) else { return Ok(None) };
        return Err(ManifestError::Splits { path: folder.to_string(), splits });
    }
    let Ok(State { files }) = serde_json::from_slice(&text) else { return Ok(None) };
    let named = files.iter().map(|file| {
        let is_name = !file.filename.contains('/') && !matches!(file.filename.as_str(), "" | "." | "..");
        let why = || format!("expected the names of files in this folder, found {:?}", file.filename);
        is_name
            .then(|| below(&file.filename))
            .ok_or_else(|| ManifestError::Rows { path: below(STATE).to_string(), why: why() })
    });
    named.collect::<Result<Vec<_>, _>>().map(Some)
}

fn read(location: &Location, storage: &Arc<Storage>) -> Result<Vec<u8>, ManifestError> {
    if let Some(path) = location.local() {
        let read = regular_file::read(path, MOST_BYTES);
        return read.map_err(|source| ManifestError::Io { path: location.to_string(), source });
    }
    let failed = |source| ManifestError::Storage { path: location.to_string(), source };
    let (store, path) = storage.open(location).map_err(failed)?;
    let read = storage.wait(async move {
        let found = store.get_range(&path, 0..MOST_BYTES).await?;
        Ok(found.to_vec())
    });
    read.map_err(failed)
}
