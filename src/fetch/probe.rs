//! Whether the places that a run's images come from still answer: what tells an outage from images that are gone.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use object_store::ObjectStoreExt;

use super::Fetcher;
use crate::row_error::ErrorKind;
use crate::storage::{Failure, Location};

/// The deepest folder that all images of a run share, for each disk, bucket and web server.
#[derive(Debug, Clone, Default)]
pub struct Roots(BTreeMap<String, Location>);

impl Roots {
    /// Takes one more image into account.
    pub fn add(&mut self, uri: &str, base: &Location) {
        // What is no location fails as a row, without any storage.
        let Ok(image) = base.resolve(uri) else { return };
        let folder = image.folder();
        let root = self.0.entry(image.authority()).or_insert_with(|| folder.clone());
        if let Some(common) = root.common(&folder) {
            *root = common;
        }
    }

    /// The root of the store that `uri` names an image in.
    fn of(&self, uri: &str, base: &Location) -> Option<&Location> {
        self.0.get(&base.resolve(uri).ok()?.authority())
    }
}

/// A root that gives nothing.
struct Silence {
    why: String,
    /// The server is there, and says that the bucket is not.
    is_nowhere: bool,
}

impl Fetcher {
    /// Asks the roots of some images that could not be had. None: they answer, so the images are at fault; else what is wrong.
    ///
    /// Folders and buckets must all answer, but for a bucket that does not exist while another one of the job answers: that one
    /// is misspelt. Of several web servers one is enough: images of the web come from thousands.
    pub async fn outage<'a>(
        &self,
        roots: &Roots,
        images: impl IntoIterator<Item = (&'a str, &'a Location)>,
    ) -> Option<String> {
        let mut asked: Vec<&Location> = images.into_iter().filter_map(|(uri, base)| roots.of(uri, base)).collect();
        asked.sort_unstable();
        asked.dedup();
        let (web, stores): (Vec<_>, Vec<_>) = asked.into_iter().partition(|root| matches!(root, Location::Http(_)));
        for root in stores {
            if let Some(Silence { why, is_nowhere }) = self.silence(root).await
                && !(is_nowhere && self.another_answers(roots, root).await)
            {
                return Some(why);
            }
        }
        let mut silent = None;
        for root in web {
            silent = Some(self.silence(root).await?.why);
        }
        silent
    }

    /// Whether a bucket other than that of `root` answers.
    async fn another_answers(&self, roots: &Roots, root: &Location) -> bool {
        for other in roots.0.values().filter(|other| matches!(other, Location::Object { .. }) && *other != root) {
            if self.silence(other).await.is_none() {
                return true;
            }
        }
        false
    }

    /// Why `root` does not answer, if it does not.
    async fn silence(&self, root: &Location) -> Option<Silence> {
        let plain = |why: String| Silence { why, is_nowhere: false };
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
                _ => self
                    .ask(root)
                    .await
                    .map_err(|failure| Silence { is_nowhere: failure.kind == ErrorKind::NotFound, why: failure.what }),
            }
        };
        let patience: Duration = self.timeout;
        match tokio::time::timeout(patience, ask).await {
            Ok(Ok(())) => None,
            Ok(Err(silence)) => Some(Silence { why: format!("{root}: {}", silence.why), ..silence }),
            Err(_) => Some(plain(format!("{root}: no answer within {} ms", patience.as_millis()))),
        }
    }

    async fn ask(&self, root: &Location) -> Result<(), Failure> {
        let (store, path) = self.stores.open(root).map_err(|error| Failure::of(&error))?;
        if let Location::Http(_) = root {
            // A web server cannot be listed; one that says "not found" is there.
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
