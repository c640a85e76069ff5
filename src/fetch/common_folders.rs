//! The folders that a run's images share. They are requested when images cannot be read, to find out whether the storage answers.

use std::collections::BTreeMap;

use crate::storage::{Location, keys};

/// The deepest folder that all images of a job share, for each disk and bucket. Found while a run is planned, and kept in its plan.
///
/// For a web server it is the server itself: a job may have images on a million of them.
#[derive(Debug, Clone, Default)]
pub struct CommonFolders(BTreeMap<String, Location>);

impl CommonFolders {
    /// Adds an image.
    pub fn add(&mut self, image: &Location) {
        match image {
            Location::Http(_) => return,
            // No request can name it.
            Location::Object { key, .. } if !keys::is_spellable(key) => return,
            _ => {}
        }
        let store = image.authority();
        match self.0.get_mut(&store) {
            None => drop(self.0.insert(store, image.folder())),
            // Almost every image is in the folder already.
            Some(root) if image.starts_with(root) && *image != *root => {}
            Some(root) => {
                if let Some(common) = root.common(&image.folder()) {
                    *root = common;
                }
            }
        }
    }

    /// As text, for the plan: paths and URIs. A path that is not UTF-8 is left out.
    #[must_use]
    pub fn to_records(&self) -> Vec<String> {
        self.0.values().filter_map(Location::to_record).collect()
    }

    /// From the text in a plan.
    #[must_use]
    pub fn from_records(records: &[String]) -> Self {
        let roots = records.iter().filter_map(|record| Location::Local("/".into()).resolve(record).ok());
        Self(roots.map(|root| (root.authority(), root)).collect())
    }

    /// The folder to ask for `image`, at or below that one of `allowed` (if there are any) that holds the image; None for an image
    /// that no request may be made for.
    pub(super) fn of(&self, image: &Location, allowed: &[Location]) -> Option<Location> {
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
        let holding = allowed.iter().find(|place| image.is_within(std::slice::from_ref(place)));
        match holding {
            Some(place) if !root.starts_with(place) => Some(place.clone()),
            // On disk, a link may lead to the image from there.
            None if !image.is_within(allowed) && image.local().is_none() => None,
            _ => Some(root),
        }
    }

    /// The folders of all buckets.
    pub(super) fn of_buckets(&self) -> impl Iterator<Item = &Location> {
        self.0.values().filter(|folder| matches!(folder, Location::Object { .. }))
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
    fn folders_survive_a_plan() {
        let mut roots = CommonFolders::default();
        for image in
            ["/data/a/1.png", "/data/b/2.png", "s3://x/p/q/1.png", "s3://x/p/r#1 %20/2.png", "https://host/3.png"]
        {
            roots.add(&location(image));
        }
        assert_eq!(roots.to_records(), ["/data", "s3://x/p"], "none of web servers");
        let read = CommonFolders::from_records(&roots.to_records());
        assert_eq!(read.of(&location("/data/c/4.png"), &[]), Some(location("/data")));
        assert_eq!(read.of(&location("s3://y/p/4.png"), &[]), Some(location("s3://y/p")), "planning did not read it");
        assert_eq!(
            read.of(&location("https://me:secret@host:1/a/b.png?c"), &[]),
            Some(location("https://me:secret@host:1/"))
        );
        let mut unwritable = CommonFolders::default();
        unwritable
            .add(&Location::Local(std::path::PathBuf::from(std::ffi::OsString::from_vec(b"/a\xff/1.png".to_vec()))));
        assert!(unwritable.to_records().is_empty());
    }

    #[test]
    fn nothing_is_requested_outside_of_the_allowed_locations() {
        let roots = CommonFolders::from_records(&["s3://x/".to_owned(), "/".to_owned()]);
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
