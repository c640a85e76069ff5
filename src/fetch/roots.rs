//! The folders that a run's images share.

use std::collections::BTreeMap;

use crate::storage::Location;

/// The deepest folder that all images of a run share, for each disk, bucket and web server.
#[derive(Debug, Clone, Default)]
pub struct Roots(BTreeMap<String, Location>);

impl Roots {
    /// Takes one more image into account.
    pub fn add(&mut self, uri: &str, base: &Location) {
        // A row whose text is no location fails without any storage.
        let Ok(image) = base.resolve(uri) else { return };
        let folder = image.folder();
        let root = self.0.entry(image.authority()).or_insert_with(|| folder.clone());
        if let Some(common) = root.common(&folder) {
            *root = common;
        }
    }

    /// The folder that the images of the store of `image` share.
    pub(super) fn of(&self, image: &Location) -> Option<&Location> {
        self.0.get(&image.authority())
    }

    /// The folders of all buckets.
    pub(super) fn of_buckets(&self) -> impl Iterator<Item = &Location> {
        self.0.values().filter(|folder| matches!(folder, Location::Object { .. }))
    }
}
