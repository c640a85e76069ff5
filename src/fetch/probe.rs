//! Whether the places that a run's images come from still answer: what tells an outage from images that are gone.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use object_store::ObjectStoreExt;

use super::Fetcher;
use crate::row_error::ErrorKind;
use crate::storage::{Failure, Location};

/// The deepest folder that all images of a job share, for each disk and bucket. Found while a run is planned, and kept in its plan.
///
/// Of a web server the root is the server: a job may have images of a million of them.
#[derive(Debug, Clone, Default)]
pub struct Roots(BTreeMap<String, Location>);

impl Roots {
    /// Takes one more image into account.
    pub fn add(&mut self, image: &Location) {
        if let Location::Http(_) = image {
            return;
        }
        let store = image.authority();
        match self.0.get_mut(&store) {
            None => drop(self.0.insert(store, image.folder())),
            // Quick, because it is so for almost every image.
            Some(root) if image.lies_in(root) && *image != *root => {}
            Some(root) => {
                if let Some(common) = root.common(&image.folder()) {
                    *root = common;
                }
            }
        }
    }

    /// As they stand in a plan: paths and URIs. What cannot be written as text is left out.
    #[must_use]
    pub fn to_records(&self) -> Vec<String> {
        let read = |record: &str| Location::Local("/".into()).resolve(record).ok();
        let records = self.0.values().map(|root| (root.to_string(), root));
        records.filter(|(record, root)| read(record).as_ref() == Some(*root)).map(|(record, _)| record).collect()
    }

    /// Those that stand in a plan.
    #[must_use]
    pub fn from_records(records: &[String]) -> Self {
        let roots = records.iter().filter_map(|record| Location::Local("/".into()).resolve(record).ok());
        Self(roots.map(|root| (root.authority(), root)).collect())
    }

    /// The root to ask for `image`, at or below that one of `allowed` (if there are any) that holds the image; None for an image
    /// that no request may be made for.
    fn of(&self, image: &Location, allowed: &[Location]) -> Option<Location> {
        let root = match image {
            Location::Http(url) => {
                let mut url = url.clone();
                url.set_path("/");
                url.set_query(None);
                Location::Http(url)
            }
            // Unknown where planning did not read the column: a disk is there, and a folder of a bucket needs not exist.
            Location::Local(_) => self.0.get(&image.authority()).cloned().unwrap_or(Location::Local("/".into())),
            Location::Object { .. } => self.0.get(&image.authority()).cloned().unwrap_or_else(|| image.folder()),
        };
        let holding = allowed.iter().find(|place| image.lies_in(place));
        match holding {
            Some(place) if !root.lies_in(place) => Some(place.clone()),
            // On disk, the image may lie there by a link.
            None if !allowed.is_empty() && image.local().is_none() => None,
            _ => Some(root),
        }
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
        // What is no location failed without any storage.
        let images = images.into_iter().filter_map(|(uri, base)| base.resolve(uri).ok());
        let mut asked: Vec<Location> = images.filter_map(|image| roots.of(&image, &self.roots)).collect();
        asked.sort_unstable();
        asked.dedup();
        let (web, stores): (Vec<_>, Vec<_>) = asked.into_iter().partition(|root| matches!(root, Location::Http(_)));
        for root in stores {
            if let Some(Silence { why, is_nowhere }) = self.silence(&root).await
                && !(is_nowhere && self.another_answers(roots, &root).await)
            {
                return Some(why);
            }
        }
        let mut silent = None;
        for root in web {
            silent = Some(self.silence(&root).await?.why);
        }
        silent
    }

    /// Whether a bucket other than that of `root` answers.
    async fn another_answers(&self, roots: &Roots, root: &Location) -> bool {
        let allowed = |other: &Location| self.roots.is_empty() || self.roots.iter().any(|place| other.lies_in(place));
        let another = |other: &Location| {
            matches!(other, Location::Object { .. }) && other.authority() != root.authority() && allowed(other)
        };
        for other in roots.0.values().filter(|other| another(other)) {
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

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn location(text: &str) -> Location {
        Location::Local("/".into()).resolve(text).unwrap()
    }

    #[test]
    fn roots_pass_through_a_plan() {
        let mut roots = Roots::default();
        for image in
            ["/data/a/1.png", "/data/b/2.png", "s3://x/p/q/1.png", "s3://x/p/r#1 %20/2.png", "https://host/3.png"]
        {
            roots.add(&location(image));
        }
        assert_eq!(roots.to_records(), ["/data", "s3://x/p"], "none of web servers");
        let read = Roots::from_records(&roots.to_records());
        assert_eq!(read.of(&location("/data/c/4.png"), &[]), Some(location("/data")));
        assert_eq!(read.of(&location("s3://y/p/4.png"), &[]), Some(location("s3://y/p")), "planning did not read it");
        assert_eq!(
            read.of(&location("https://me:secret@host:1/a/b.png?c"), &[]),
            Some(location("https://me:secret@host:1/"))
        );
        let mut unwritable = Roots::default();
        unwritable
            .add(&Location::Local(std::path::PathBuf::from(std::ffi::OsString::from_vec(b"/a\xff/1.png".to_vec()))));
        assert!(unwritable.to_records().is_empty());
    }

    #[test]
    fn nothing_is_asked_outside_of_the_allowed_places() {
        let roots = Roots::from_records(&["s3://x/".to_owned(), "/".to_owned()]);
        let allowed = ["s3://x/photos", "https://host/images", "/data"].map(location);
        for (image, asked) in [
            ("s3://x/photos/1/2.png", Some("s3://x/photos")),
            ("s3://x/secret/2.png", None),
            ("s3://other/photos/2.png", None),
            ("https://host/images/1.png", Some("https://host/images")),
            ("http://169.254.169.254/latest", None),
            ("/data/1.png", Some("/data")),
            ("/link/1.png", Some("/")),
        ] {
            assert_eq!(roots.of(&location(image), &allowed), asked.map(location), "{image}");
        }
    }
}
