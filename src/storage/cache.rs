//! A local cache of model directories in remote storage: graphs are mapped from files, and many jobs share one model.

use std::path::{Path, PathBuf};

use futures::{StreamExt, TryStreamExt};
use object_store::{Error, ObjectMeta, Result};
use tempfile::{Builder, NamedTempFile, TempDir};

use super::environment::variable;
use super::error::{generic, other};
use super::{Location, Storage};

impl Storage {
    /// A local folder with the objects below `location`, fetched unless an earlier job has: its name depends on their names,
    /// sizes and `ETags`. A local `location` is returned as it is.
    ///
    /// # Errors
    /// When there is no object below it, when one cannot be fetched, or when the cache cannot be written.
    pub fn local_copy(&self, location: &Location) -> Result<PathBuf> {
        if let Some(path) = location.local() {
            return Ok(path.to_owned());
        }
        if let Location::Http(_) = location {
            return Err(other(
                "a web server cannot be listed; copy the model directory, or put it on s3://, gs:// or az://",
            ));
        }
        let (store, prefix) = self.open(location)?;
        let (listed, below) = (store.clone(), prefix.clone());
        let mut objects: Vec<ObjectMeta> =
            self.wait(async move { listed.list(Some(&below)).try_collect::<Vec<_>>().await })?;
        objects.sort_by(|a, b| a.location.cmp(&b.location));
        if objects.is_empty() {
            return Err(other("expected a model directory, found no object"));
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(location.to_string().as_bytes());
        for object in &objects {
            let tag = object.e_tag.clone().unwrap_or_else(|| object.last_modified.to_rfc3339());
            hasher.update(format!("\n{} {} {tag}", object.location, object.size).as_bytes());
        }
        let io = |error: std::io::Error| generic(error.into());
        let models = models_folder()
            .ok_or_else(|| other("neither XDG_CACHE_HOME nor HOME is an absolute path, so there is no cache"))?;
        let folder = models.join(&hasher.finalize().to_hex()[..32]);
        if folder.is_dir() {
            return Ok(folder);
        }
        std::fs::create_dir_all(&models).map_err(io)?;
        let staging = Builder::new().prefix("fetching-").tempdir_in(&models).map_err(io)?;
        tracing::info!(from = %location, to = %folder.display(), objects = objects.len(), "fetching the model");
        for object in objects {
            let name = object.location.prefix_match(&prefix);
            let name = name.map(|parts| parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/"));
            // Consoles mark a folder by an empty object, `folder/`: it is listed without the slash, and no object has that name.
            let Some(name) = name.filter(|name| !name.is_empty()) else { continue };
            match self.fetch_file(location, &object, &staging.path().join(name)) {
                Err(Error::NotFound { .. }) if object.size == 0 => {}
                fetched => fetched?,
            }
        }
        publish(staging, &folder).map_err(io)?;
        Ok(folder)
    }

    fn fetch_file(&self, location: &Location, object: &ObjectMeta, to: &Path) -> Result<()> {
        let io = |error: std::io::Error| generic(error.into());
        let parent = to.parent().unwrap_or(Path::new("/")).to_owned();
        std::fs::create_dir_all(&parent).map_err(io)?;
        let mut file = NamedTempFile::new_in(&parent).map_err(io)?;
        let (store, _) = self.open(location)?;
        let (path, size) = (object.location.clone(), object.size);
        let file = self.wait(async move {
            let options = object_store::GetOptions::default();
            let mut chunks = store.get_opts(&path, options).await?.into_stream();
            let mut written = 0;
            while let Some(chunk) = chunks.next().await {
                let chunk = chunk?;
                written += chunk.len() as u64;
                std::io::Write::write_all(&mut file, &chunk).map_err(|error| generic(error.into()))?;
            }
            if written != size {
                return Err(other(&format!("{path}: expected {size} bytes, found {written}")));
            }
            Ok(file)
        })?;
        file.persist(to).map_err(|error| io(error.error))?;
        Ok(())
    }
}

/// `${XDG_CACHE_HOME:-~/.cache}/nightcap/models`. A relative path does not count, as the XDG specification says: whoever can write
/// to the current folder could put models there.
fn models_folder() -> Option<PathBuf> {
    let absolute = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(caches.join("nightcap/models"))
}

/// Renames the fetched folder into place, unless another job already has.
fn publish(staging: TempDir, folder: &Path) -> std::io::Result<()> {
    match std::fs::rename(staging.path(), folder) {
        Err(_) if folder.is_dir() => Ok(()),
        Ok(()) => {
            // It has been renamed: there is nothing left to remove.
            let _ = staging.keep();
            Ok(())
        }
        Err(error) => Err(error),
    }
}
