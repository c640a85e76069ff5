//! Requests the folders that a run's images share, to distinguish an outage from missing images.

use futures::StreamExt;
use object_store::ObjectStoreExt;

use super::{CommonFolders, Fetcher};
use crate::row::error::ErrorKind;
use crate::storage::{Failure, Location};

/// Why a folder does not answer.
struct ProbeFailure {
    why: String,
    /// The server answers that there is no such bucket.
    is_nowhere: bool,
}

impl Fetcher {
    /// Requests the shared folders of some images that could not be read. None: they answer, so the images are at fault; otherwise
    /// what is wrong. Nothing outside `limits.roots` is requested.
    ///
    /// Folders and buckets must all answer, except a bucket that does not exist while another one of the job answers: its name is
    /// wrong. Of several web servers one is enough, since a job may have images on thousands of them.
    pub async fn outage<'a>(
        &self,
        folders: &CommonFolders,
        images: impl IntoIterator<Item = (&'a str, &'a Location)>,
    ) -> Option<String> {
        let images = images.into_iter().filter_map(|(uri, base)| base.resolve(uri).ok());
        let mut asked: Vec<Location> = images.filter_map(|image| folders.of(&image, &self.roots)).collect();
        asked.sort_unstable();
        asked.dedup();
        let (web, stores): (Vec<_>, Vec<_>) = asked.into_iter().partition(|root| matches!(root, Location::Http(_)));
        for root in stores {
            if let Some(ProbeFailure { why, is_nowhere }) = self.probe(&root).await
                && !(is_nowhere && self.another_answers(folders, &root).await)
            {
                return Some(why);
            }
        }
        let mut silent = None;
        for root in web {
            silent = Some(self.probe(&root).await?.why);
        }
        silent
    }

    /// Whether a bucket other than that of `root` answers.
    async fn another_answers(&self, folders: &CommonFolders, root: &Location) -> bool {
        let others = folders.of_buckets().filter(|other| other.authority() != root.authority());
        for other in others.filter(|other| other.is_within(&self.roots)) {
            if self.probe(other).await.is_none() {
                return true;
            }
        }
        false
    }

    /// Why `root` does not answer; None: it does.
    async fn probe(&self, root: &Location) -> Option<ProbeFailure> {
        let plain = |why: String| ProbeFailure { why, is_nowhere: false };
        let ask = async {
            match root {
                Location::Local(folder) => {
                    let folder = folder.clone();
                    let listed = tokio::task::spawn_blocking(move || std::fs::read_dir(folder)?.next().transpose());
                    match listed.await.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
                        Ok(Some(_)) => Ok(()),
                        // An unmounted disk leaves an empty folder.
                        Ok(None) => Err(plain("the folder is empty".to_owned())),
                        Err(error) => Err(plain(error.to_string())),
                    }
                }
                _ => self.ask(root).await.map_err(|failure| ProbeFailure {
                    is_nowhere: failure.kind == ErrorKind::NotFound,
                    why: failure.what,
                }),
            }
        };
        match tokio::time::timeout(self.timeout, ask).await {
            Ok(Ok(())) => None,
            Ok(Err(failure)) => Some(ProbeFailure { why: format!("{root}: {}", failure.why), ..failure }),
            Err(_) => Some(plain(format!("{root}: no answer within {} ms", self.timeout.as_millis()))),
        }
    }

    async fn ask(&self, root: &Location) -> Result<(), Failure> {
        let (store, path) = self.stores.open(root).map_err(|error| Failure::of(&error))?;
        if let Location::Http(_) = root {
            // A web server cannot be listed; if it answers "not found", it is up.
            let Err(error) = store.head(&path).await else { return Ok(()) };
            let failure = Failure::of(&error);
            return if failure.kind.is_outage() { Err(failure) } else { Ok(()) };
        }
        match store.list(Some(&path)).next().await {
            None | Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(Failure::of(&error)),
        }
    }
}
