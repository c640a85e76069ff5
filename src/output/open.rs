//! Opens an OUTPUT for a command: connects to it, and refuses a folder of another format.

use std::path::Path;
use std::sync::Arc;

use super::OutputError;
use super::format::check_format;
use super::store::OutputStore;
use crate::storage::{Location, Storage};

impl OutputStore {
    /// Opens OUTPUT for writing, creating a local folder.
    ///
    /// # Errors
    /// [`OutputError::Folder`] when it cannot be created, read or written, [`OutputError::Unreachable`] when it cannot be
    /// listed, [`OutputError::Format`] when another version of nightcap made it.
    pub fn create(location: &Location, storage: &Arc<Storage>) -> Result<Self, OutputError> {
        if let Some(path) = location.local() {
            let folder = |source| OutputError::Folder { path: path.to_owned(), source };
            std::fs::create_dir_all(path).map_err(folder)?;
            // Fails now if the folder is not writable, and not after the first part was computed.
            tempfile::tempfile_in(path).map_err(folder)?;
        }
        Self::open(location, storage)
    }

    /// Opens an OUTPUT that exists.
    ///
    /// # Errors
    /// As [`OutputStore::create`].
    pub fn open(location: &Location, storage: &Arc<Storage>) -> Result<Self, OutputError> {
        let store = Self::connect(location, storage)?;
        check_format(&store)?;
        Ok(store)
    }

    /// Opens an OUTPUT given as an argument, a path or URI; the environment says how it is reached.
    ///
    /// # Errors
    /// As [`OutputStore::create`], [`OutputError::NoFolder`], and [`OutputError::Argument`].
    pub fn from_argument(output: &Path) -> Result<Self, OutputError> {
        let folder = |source| OutputError::Folder { path: output.to_owned(), source };
        let location = match output.to_str() {
            Some(text) => Location::Local(std::env::current_dir().map_err(folder)?)
                .resolve(text)
                .map_err(|error| OutputError::Argument { message: error.to_string() })?,
            None => Location::Local(std::path::absolute(output).map_err(folder)?),
        };
        if location.local().is_some_and(|path| path.try_exists().is_ok_and(|exists| !exists)) {
            return Err(OutputError::NoFolder { path: output.to_owned() });
        }
        Self::open(&location, &Arc::new(Storage::from_environment()))
    }
}
